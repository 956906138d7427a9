"""A plain PyTorch loop over GloVe vectors as textbooks have it: every text cut or padded to the same 500 words, float32, Adam.

Two embeddings side by side, one of them frozen; convolutions with max over time (Kim 2014), or a bidirectional LSTM. The words, the
vectors and the sizes are hftl's, so that both sides train the same network on the same numbers.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from ours import glove
from side import Clock, read_spec, test_rows_of_table, write_result
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import set_seed

from hftl.models.glove import build


class TextCNN(nn.Module):
    """Convolutions over both embeddings, the strongest response of each, dropout, a linear layer."""

    def __init__(self, vectors: Tensor, width: int, kernels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.constant = nn.Embedding.from_pretrained(vectors, freeze=True)
        self.embedding = nn.Embedding(len(vectors), width)
        self.convolutions = nn.ModuleList(nn.Conv1d(vectors.shape[1] + width, channels, kernel) for kernel in kernels)
        self.dropout = nn.Dropout(0.5)
        self.decoder = nn.Linear(channels * len(kernels), 2)

    def forward(self, words: Tensor) -> Tensor:
        embedded = torch.cat([self.constant(words), self.embedding(words)], dim=2).permute(0, 2, 1)
        pooled = [torch.relu(convolution(embedded).amax(dim=2)) for convolution in self.convolutions]
        return self.decoder(self.dropout(torch.cat(pooled, dim=1)))


class BiLSTM(nn.Module):
    """torch's bidirectional LSTM over both embeddings, the strongest state of each unit, dropout, a linear layer."""

    def __init__(self, vectors: Tensor, width: int, hidden: int) -> None:
        super().__init__()
        self.constant = nn.Embedding.from_pretrained(vectors, freeze=True)
        self.embedding = nn.Embedding(len(vectors), width)
        self.encoder = nn.LSTM(vectors.shape[1] + width, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.decoder = nn.Linear(2 * hidden, 2)

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.encoder(torch.cat([self.constant(words), self.embedding(words)], dim=2))
        return self.decoder(self.dropout(states.amax(dim=1)))


@torch.no_grad()
def predict(model: nn.Module, words: Tensor, size: int, device: torch.device) -> list[int]:
    """The class of each text."""
    model.eval()
    return torch.cat([model(part.to(device)).argmax(dim=1).cpu() for part in words.split(size)]).tolist()


def main() -> None:
    """Train, and write how long it took and how good it is."""
    spec = read_spec()
    device = torch.device(spec["device"])
    clock = Clock()
    set_seed(spec["seed"])
    tables = {split: pd.read_parquet(Path(spec["data"]) / f"{split}.parquet") for split in ("train", "validation")}
    network = glove(spec["kind"], spec["vectors"])
    classifier = build(network, ("neg", "pos"), texts=tables["train"]["text"])
    tokenizer, vectors = classifier.preprocessor, classifier.model.embedding.weight.detach().clone()

    def encode(table: pd.DataFrame) -> Tensor:
        made = tokenizer(
            table["text"].tolist(), truncation=True, max_length=spec["max_length"], padding="max_length", return_tensors="pt"
        )
        return made["input_ids"]

    train = TensorDataset(encode(tables["train"]), torch.tensor(tables["train"]["label"].to_numpy()))
    validation, expected = encode(tables["validation"]), tables["validation"]["label"].tolist()
    batches = DataLoader(train, batch_size=spec["batch_size"], shuffle=True)
    if spec["kind"] == "textcnn":
        model: nn.Module = TextCNN(vectors, network.trainable_dim, network.kernel_widths, network.channels)
    else:
        model = BiLSTM(vectors, network.trainable_dim, network.hidden_size)
    model.to(device)
    clock.lap("prepare")
    for stage in spec["stages"]:
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=stage["lr"])
        loss_of = nn.CrossEntropyLoss()
        for _ in range(stage["epochs"]):
            model.train()
            for words, labels in batches:
                loss = loss_of(model(words.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            found = predict(model, validation, spec["evaluation_batch_size"], device)
            print("validation accuracy", sum(a == b for a, b in zip(found, expected, strict=True)) / len(found))
        clock.lap(stage["name"])
    cpu = clock.cpu_seconds
    test = pd.read_parquet(Path(spec["data"]) / "test.parquet")
    found = predict(model, encode(test), spec["evaluation_batch_size"], device)
    write_result(clock, test_rows_of_table(test["label"].tolist(), found), cpu_seconds=cpu, precision="float32", optimizer="adam")


if __name__ == "__main__":
    main()
