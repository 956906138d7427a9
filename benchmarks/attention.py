"""Training steps of a BERT with hftl's attention for CPUs and with torch's: examples a second, the two taking turns.

    python benchmarks/attention.py --checkpoint FOLDER

bf16 under autocast, dropout as the checkpoint says, texts of one length without padding; the median of the turns.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from transformers import AutoModelForSequenceClassification

from hftl.models.attention import use_fast_dropout_attention

SHAPES = ((32, 512), (32, 256), (8, 512), (32, 128), (32, 32))


def examples_per_second(model: torch.nn.Module, size: int, length: int) -> float:
    """One forward and backward pass of `size` texts of `length` tokens."""
    tokens = torch.randint(1000, 20_000, (size, length))
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), tokens[:, 0] % 2)
    loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return size / (time.perf_counter() - started)


def main() -> None:
    """Measure each shape and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a folder with a BERT")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torchs = AutoModelForSequenceClassification.from_pretrained(options.checkpoint, dtype=torch.float32).train()
    ours = copy.deepcopy(torchs)
    if not use_fast_dropout_attention(ours):
        raise SystemExit(f"{options.checkpoint}: its attention is not one that can be replaced")
    print("| texts x tokens | torch, examples/s | hftl, examples/s | ratio |\n|---|--:|--:|--:|")
    for size, length in SHAPES:
        rates: dict[str, list[float]] = {"torch": [], "hftl": []}
        for turn in range(options.turns + 1):
            for name, model in (("torch", torchs), ("hftl", ours)):
                rate = examples_per_second(model, size, length)
                if turn:  # the first one prepares kernels
                    rates[name].append(rate)
        theirs, own = statistics.median(rates["torch"]), statistics.median(rates["hftl"])
        print(f"| {size} x {length} | {theirs:.1f} | {own:.1f} | {own / theirs:.1f} |", flush=True)


if __name__ == "__main__":
    main()
