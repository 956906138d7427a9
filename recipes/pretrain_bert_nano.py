"""Makes hftl/samples/bert-nano: three layers cut out of MiniLM, the words of film reviews, taught by MiniLM on such reviews.

    python recipes/pretrain_bert_nano.py --minilm ../minilm --reviews ../shared/data/imdb --output build/bert-nano

Two phases, each of which leaves a folder of transformers' format; one that is there is not made again.

1. OUTPUT/cut: the first layers of MiniLM (all-MiniLM-L6-v2), narrower inside, and of its 30,522 word pieces the most frequent in
   reviews. Rarer words fall into smaller pieces. Nothing is trained.
2. OUTPUT/taught: the cut network learns to give, of every word of a review, what MiniLM's fourth layer makes of it, with all of
   MiniLM's pieces (Hinton et al. 2015, arXiv:1503.02531; Jiao et al. 2020, arXiv:1909.10351). So it learns what its vocabulary
   has lost, too. No label of any data set is read, and no test review.

Shapes: B rows of W words in L pieces, H numbers a piece.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import nn
from transformers import AutoModel, PreTrainedModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIGNS = tuple(chr(code) for code in range(33, 127) if not chr(code).isupper())
"""What every text can be spelt in, kept however rare: lower-case letters, digits and punctuation of ASCII."""
TEACHER_LAYERS = 4
"""Of MiniLM's six: a linear classifier on the mean of the fourth layer's tokens tells good reviews from bad ones best (0.722 in
cross-validation on the 600 training reviews of the sample; the sixth, which was trained to tell topics apart, 0.665;
`python benchmarks/probe.py`)."""
SPLIT = BertPreTokenizer()
"""Words and signs, as BERT's tokenizers cut them."""
LOOKED_AT = 60
"""Reviews by which the inner numbers of a layer are chosen: about 18,000 tokens."""
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


def narrow(model: PreTrainedModel, ids: torch.Tensor, width: int) -> None:
    """Leave of each layer's 1,536 inner numbers the `width` that say most of the rows `ids`, (R, L).

    One says as much as the mean of its square times the square of the weights that read it; what it is on average goes into the
    bias of the next layer.
    """
    for layer in cast(Any, model).encoder.layer:
        inner, reads = entered(layer.output.dense, model, ids), layer.output.dense.weight.detach()  # (tokens, 1536), (H, 1536)
        says = inner.square().mean(dim=0) * reads.square().sum(dim=0)
        kept = says.argsort(descending=True)[:width].sort().values
        left = torch.ones(len(says), dtype=torch.bool).index_fill(0, kept, value=False)
        with torch.no_grad():
            layer.output.dense.bias += reads[:, left] @ inner.mean(dim=0)[left]
        for dense, name, weight in (
            (layer.intermediate.dense, "out_features", layer.intermediate.dense.weight[kept]),
            (layer.output.dense, "in_features", reads[:, kept]),
        ):
            dense.weight = nn.Parameter(weight.detach().clone())
            setattr(dense, name, width)
        layer.intermediate.dense.bias = nn.Parameter(layer.intermediate.dense.bias[kept].detach().clone())
    model.config.intermediate_size = width


def entered(module: nn.Module, model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """(tokens, numbers) what enters a module when the model reads the rows `ids`, (R, L)."""
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(0, 1)))
    with torch.no_grad():
        for rows in torch.split(ids, 64):
            model(input_ids=rows)
    hook.remove()
    return torch.cat(seen)


def cut(minilm: Path, reviews: list[str], folder: Path, *, layers: int, width: int, size: int) -> None:
    """Writes the first `layers` of MiniLM, `width` wide inside, with a vocabulary of `size` pieces, in half precision."""
    tokenizer = read(minilm)
    pieces = kept_pieces(tokenizer, reviews, size)
    kept = torch.tensor([tokenizer.token_to_id(piece) for piece in pieces])

    model = AutoModel.from_pretrained(minilm, dtype=torch.float32, add_pooling_layer=False)
    words = model.embeddings.word_embeddings.weight[kept].detach().clone()
    model.embeddings.word_embeddings = nn.Embedding.from_pretrained(words, freeze=False, padding_idx=0)  # type: ignore[no-untyped-call]
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.vocab_size, model.config.num_hidden_layers = len(pieces), layers

    settings = json.loads(tokenizer.to_str())
    ids = {piece: row for row, piece in enumerate(pieces)}
    settings["model"]["vocab"] = ids
    for token in settings["added_tokens"]:
        token["id"] = ids[token["content"]]
    for token in settings["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[token["id"]]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    (rows,) = rows_of(reviews[:LOOKED_AT], read(folder))
    narrow(model.eval(), torch.from_numpy(rows.ids), width)
    write(model, folder)
    about = {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True}
    about |= {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def write(model: PreTrainedModel, folder: Path) -> None:
    """As `save_pretrained` does, but in float16 and with the float32 in config.json that it is trained in."""
    model.save_pretrained(folder)
    weights = {name: tensor.half().contiguous() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True)
class Rows:
    """Reviews cut into rows, as one tokenizer reads them; -1 are pieces of no word: [CLS], [SEP] and padding."""

    ids: NDArray[np.int64]
    """(R, ROW)"""
    words: NDArray[np.int64]
    """(R, ROW): of each piece the place of its word in the row."""


def rows_of(reviews: list[str], *tokenizers: Tokenizer) -> list[Rows]:
    """The same rows for each tokenizer: as many whole words as leave no reader more than ROW pieces."""
    of_words: dict[str, tuple[list[int], ...]] = {}
    found: list[list[list[list[int]]]] = [[] for _ in tokenizers]  # of each tokenizer, row and word its pieces
    row: list[tuple[list[int], ...]] = []
    room = [ROW - 2] * len(tokenizers)
    for review in reviews:
        for word, _ in SPLIT.pre_tokenize_str(review.lower()):
            if word not in of_words:
                of_words[word] = tuple(each.encode(word, add_special_tokens=False).ids for each in tokenizers)
            pieces = of_words[word]
            if any(len(own) > left for own, left in zip(pieces, room, strict=True)):
                for place, rows in enumerate(found):
                    rows.append([each[place] for each in row])
                row, room = [], [ROW - 2] * len(tokenizers)
            row.append(pieces)
            room = [left - len(own) for own, left in zip(pieces, room, strict=True)]
    return [_as_rows(rows, tokenizer) for rows, tokenizer in zip(found, tokenizers, strict=True)]


def _as_rows(rows: list[list[list[int]]], tokenizer: Tokenizer) -> Rows:
    first, last = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    ids, words = np.zeros((len(rows), ROW), dtype=np.int64), np.full((len(rows), ROW), -1)  # [PAD] is 0
    for place, row in enumerate(rows):
        pieces = [piece for word in row for piece in word]
        ids[place, : len(pieces) + 2] = np.array([first, *pieces, last])
        words[place, 1 : len(pieces) + 1] = [number for number, word in enumerate(row) for _ in word]
    return Rows(ids, words)


def of_words(states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """(B, ROW, H): the mean over the pieces of each word, of states (B, L, H); where there is no word, 0."""
    belongs = (words[:, None, :] == torch.arange(ROW)[None, :, None]).to(states.dtype)  # (B, W, L)
    return torch.bmm(belongs, states) / belongs.sum(dim=2, keepdim=True).clamp(min=1)


def teach(minilm: Path, start: Path, reviews: list[str], folder: Path, arguments: argparse.Namespace) -> None:
    """Trains the network of `start` on the states of MiniLM for `--tokens` pieces: of each word, and on the mean over a row."""
    torch.manual_seed(arguments.seed)
    generator = np.random.default_rng(arguments.seed)
    student = AutoModel.from_pretrained(start, dtype=torch.float32, add_pooling_layer=False)
    teacher = AutoModel.from_pretrained(minilm, dtype=torch.float32, add_pooling_layer=False).eval()
    teacher.encoder.layer = teacher.encoder.layer[:TEACHER_LAYERS]
    own, others = rows_of(reviews, read(start), read(minilm))
    steps = min(arguments.tokens // (arguments.batch_size * ROW), len(own.ids) // arguments.batch_size)

    weights = list(student.parameters())
    decayed: list[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": 0.01},
        {"params": [w for w in weights if w.ndim < 2]},
    ]
    optimizer = torch.optim.AdamW(decayed, lr=arguments.lr, weight_decay=0.0, fused=True)
    warmup = max(1, round(0.06 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warmup, (steps - step) / steps))
    print(f"{len(own.ids):,} rows of {ROW} pieces; {steps:,} steps of {arguments.batch_size}", flush=True)

    student.train()
    losses: list[float] = []
    begun = time.process_time()
    for step, places in enumerate(islice(batches(len(own.ids), arguments.batch_size, generator), steps)):
        with torch.no_grad():
            target = read_words(teacher, others, places)  # (B, W, H)
        given = read_words(student, own, places)
        there = torch.from_numpy(own.words[places].max(axis=1) + 1)[:, None] > torch.arange(ROW)  # (B, W)
        spread = target[there].var()
        of_each = nn.functional.mse_loss(given[there], target[there]) / spread
        mean, wanted = ((each * there[..., None]).sum(dim=1) / there.sum(dim=1, keepdim=True) for each in (given, target))  # (B, H)
        loss = of_each + nn.functional.mse_loss(mean, wanted) / wanted.var(dim=0).mean()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(of_each.item())
        if (step + 1) % 25 == 0 or step + 1 == steps:
            minutes = (time.process_time() - begun) / 60
            print(f"step {step + 1:,} · loss {np.mean(losses[-25:]):.4f} · {minutes:.1f} CPU minutes", flush=True)
    write(student, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((start / name).read_bytes())


def read_words(model: PreTrainedModel, rows: Rows, places: NDArray[np.int64]) -> torch.Tensor:
    """(B, W, H), float32: what a model makes of the words of some rows."""
    ids = torch.from_numpy(rows.ids[places])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    return of_words(states.float(), torch.from_numpy(rows.words[places]))


def batches(rows: int, size: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The places of every row once, in another order."""
    order = generator.permutation(rows)
    for start in range(0, rows - size + 1, size):
        yield order[start : start + size]


def read(folder: Path) -> Tokenizer:
    """A folder's tokenizer, which neither cuts nor pads."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def main(words: Sequence[str] | None = None) -> None:
    """Both phases, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=Path, required=True, help="all-MiniLM-L6-v2: what ../shared/models/get_minilm.sh makes")
    parser.add_argument("--reviews", type=Path, required=True, help="IMDb: train.parquet and unsupervised.parquet")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=640, help="of a layer inside; MiniLM has 1,536")
    parser.add_argument("--pieces", type=int, default=11_500, help="size of the vocabulary")
    parser.add_argument("--tokens", type=int, default=1_600_000, help="that are read in phase 2")
    parser.add_argument("--batch-size", type=int, default=32, help="rows a step")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)

    reviews = reviews_of(arguments.reviews)
    start, taught = arguments.output / "cut", arguments.output / "taught"
    if not (start / "tokenizer_config.json").is_file():  # what a phase writes last
        cut(arguments.minilm, reviews[:6000], start, layers=arguments.layers, width=arguments.width, size=arguments.pieces)
    if not (taught / "tokenizer_config.json").is_file():
        teach(arguments.minilm, start, reviews[: arguments.tokens // 200], taught, arguments)


if __name__ == "__main__":
    main()
