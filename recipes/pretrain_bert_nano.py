"""Makes hftl/samples/bert-nano: three layers cut out of MiniLM, the words of film reviews, taught by MiniLM on such reviews.

    python recipes/pretrain_bert_nano.py --minilm ../minilm --reviews ../shared/data/imdb --output build/bert-nano

Two phases, each of which leaves a folder of transformers' format; one that is there is not made again.

1. OUTPUT/cut: the first layers of MiniLM (all-MiniLM-L6-v2) and of its 30,522 word pieces the most frequent in reviews.
   Rarer words fall into smaller pieces. Nothing is trained.
2. OUTPUT/taught: the cut network reads reviews with some tokens masked and learns to give, at every token, what MiniLM's
   fourth layer makes of the whole text (Hinton et al. 2015, arXiv:1503.02531; masked students: Baevski et al. 2022,
   arXiv:2202.03555). No label of any data set is read, and no test review.

Shapes: B rows of L tokens, H numbers a token.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIGNS = tuple(chr(code) for code in range(33, 127) if not chr(code).isupper())
"""What every text can be spelt in, kept however rare: lower-case letters, digits and punctuation of ASCII."""
TEACHER_LAYERS = 4
"""Of MiniLM's six: a linear classifier on the mean of the fourth layer's tokens tells good reviews from bad ones best (0.721 in
cross-validation on the 600 training reviews of the sample; the sixth, which was trained to tell topics apart, 0.664)."""
ROW = 64
"""Tokens of a row; the sample's reviews have 52 on average."""


def reviews_of(folder: Path) -> list[str]:
    """The training and the unlabelled reviews of IMDb, in one order for all, without their labels."""
    texts = [text for split in ("train", "unsupervised") for text in pd.read_parquet(folder / f"{split}.parquet")["text"]]
    order = np.random.default_rng(0).permutation(len(texts))
    return [re.sub(r"<br\s*/?>", " ", texts[place]) for place in order]


def kept_pieces(tokenizer: Tokenizer, reviews: list[str], size: int) -> list[str]:
    """The pieces of the new vocabulary: special ones, single signs, then the most frequent of the reviews."""
    counts = Counter(piece for encoded in tokenizer.encode_batch(reviews, add_special_tokens=False) for piece in encoded.tokens)
    pieces = [*SPECIAL, *SIGNS, *(f"##{sign}" for sign in SIGNS)]
    there = tokenizer.get_vocab()
    first = [piece for piece in pieces if piece in there]
    frequent = sorted(counts.keys() - set(first), key=lambda piece: (-counts[piece], piece))
    return [*first, *frequent[: size - len(first)]]


def cut(minilm: Path, reviews: list[str], folder: Path, *, layers: int, size: int) -> None:
    """Writes the first `layers` of MiniLM with a vocabulary of `size` pieces, in half precision."""
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pieces = kept_pieces(tokenizer, reviews, size)
    rows = torch.tensor([tokenizer.token_to_id(piece) for piece in pieces])

    model = AutoModel.from_pretrained(minilm, dtype=torch.float32, add_pooling_layer=False)
    words = model.embeddings.word_embeddings.weight[rows].detach().clone()
    model.embeddings.word_embeddings = nn.Embedding.from_pretrained(words, freeze=False, padding_idx=0)  # type: ignore[no-untyped-call]
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.vocab_size, model.config.num_hidden_layers = len(pieces), layers
    write(model, folder)

    settings = json.loads(tokenizer.to_str())
    ids = {piece: row for row, piece in enumerate(pieces)}
    settings["model"]["vocab"] = ids
    for token in settings["added_tokens"]:
        token["id"] = ids[token["content"]]
    for token in settings["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[token["id"]]]
    (folder / "tokenizer.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    about = {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True}
    about |= {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def write(model: PreTrainedModel, folder: Path) -> None:
    """As `save_pretrained` does, but in float16 and with the float32 in config.json that it is trained in."""
    model.save_pretrained(folder)
    weights = {name: tensor.half().contiguous() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def rows_of(folder: Path, reviews: list[str]) -> NDArray[np.int64]:
    """(rows, ROW): all reviews one after the other, cut into rows that begin and end as a text does."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stream = np.concatenate([encoded.ids for encoded in tokenizer.encode_batch(reviews, add_special_tokens=False)])
    inner = stream[: len(stream) // (ROW - 2) * (ROW - 2)].reshape(-1, ROW - 2)
    edge = {name: np.full((len(inner), 1), tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")}
    return np.concatenate([edge["[CLS]"], inner, edge["[SEP]"]], axis=1)


def batches(rows: NDArray[np.int64], size: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Every row once, in another order."""
    order = generator.permutation(len(rows))
    for start in range(0, len(rows) - size + 1, size):
        yield rows[order[start : start + size]]


def teach(minilm: Path, start: Path, reviews: list[str], folder: Path, arguments: argparse.Namespace) -> None:
    """Trains the network of `start` on the states of MiniLM, which reads the same pieces, for `--tokens` tokens."""
    torch.manual_seed(arguments.seed)
    generator = np.random.default_rng(arguments.seed)
    student = AutoModel.from_pretrained(start, dtype=torch.float32, add_pooling_layer=False)
    teacher = AutoModel.from_pretrained(minilm, dtype=torch.float32, add_pooling_layer=False).eval()
    teacher.encoder.layer = teacher.encoder.layer[:TEACHER_LAYERS]
    teacher.embeddings.word_embeddings.weight = nn.Parameter(student.embeddings.word_embeddings.weight.detach().clone())
    mask = AutoTokenizer.from_pretrained(start).mask_token_id
    rows = rows_of(start, reviews)

    weights = list(student.parameters())
    decayed: list[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": 0.01},
        {"params": [w for w in weights if w.ndim < 2]},
    ]
    optimizer = torch.optim.AdamW(decayed, lr=arguments.lr, weight_decay=0.0, fused=True)
    steps = min(arguments.tokens // (arguments.batch_size * ROW), len(rows) // arguments.batch_size)
    warmup = max(1, round(0.06 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warmup, (steps - step) / steps))
    print(f"{len(rows):,} rows of {ROW} tokens; {steps:,} steps of {arguments.batch_size}", flush=True)

    student.train()
    losses: list[float] = []
    begun = time.process_time()
    for step, batch in enumerate(islice(batches(rows, arguments.batch_size, generator), steps)):
        inputs = torch.from_numpy(batch)  # (B, L)
        hidden = torch.from_numpy(generator.random(batch.shape) < arguments.mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                target = teacher(input_ids=inputs).last_hidden_state  # (B, L, H)
            given = student(input_ids=inputs.masked_fill(hidden, mask)).last_hidden_state
        loss = nn.functional.mse_loss(given.float(), target.float()) / target.float().var()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 25 == 0 or step + 1 == steps:
            minutes = (time.process_time() - begun) / 60
            print(f"step {step + 1:,} · loss {np.mean(losses[-25:]):.4f} · {minutes:.1f} CPU minutes", flush=True)
    write(student, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((start / name).read_bytes())


def main(words: Sequence[str] | None = None) -> None:
    """Both phases, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=Path, required=True, help="all-MiniLM-L6-v2: what ../shared/models/get_minilm.sh makes")
    parser.add_argument("--reviews", type=Path, required=True, help="IMDb: train.parquet and unsupervised.parquet")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--pieces", type=int, default=6000, help="size of the vocabulary")
    parser.add_argument("--tokens", type=int, default=900_000, help="that are read in phase 2")
    parser.add_argument("--mask", type=float, default=0.15, help="share of the tokens that the student does not see")
    parser.add_argument("--batch-size", type=int, default=32, help="rows a step")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)

    reviews = reviews_of(arguments.reviews)
    start, taught = arguments.output / "cut", arguments.output / "taught"
    if not (start / "tokenizer_config.json").is_file():  # what a phase writes last
        cut(arguments.minilm, reviews[:6000], start, layers=arguments.layers, size=arguments.pieces)
    if not (taught / "tokenizer_config.json").is_file():
        teach(arguments.minilm, start, reviews[: arguments.tokens // 200], taught, arguments)


if __name__ == "__main__":
    main()
