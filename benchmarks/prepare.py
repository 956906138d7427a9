"""The data of a job, once for all sides: a part of train, a fifth as many rows for validation, and test rows.

No text and no picture is in twice. Nothing of this is timed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 5


def prepare_texts(source: Path, folder: Path, *, train: int, test: int) -> Path:
    """`train`, `validation` and `test` as Parquet files in `folder`, both classes equally often; made once."""
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.read_parquet(source / "train.parquet").drop_duplicates("text")
    # The same test rows whatever the size, and none of them in train.
    tested = _balanced(pd.read_parquet(source / "test.parquet").drop_duplicates("text"), max(test, 2))
    drawn = _balanced(rows[~rows["text"].isin(tested["text"])], train + validation_size(train))
    kept = drawn.groupby("label").cumcount() < train // 2
    for split, table in (("train", drawn[kept]), ("validation", drawn[~kept]), ("test", tested)):
        table.reset_index(drop=True).to_parquet(folder / f"{split}.parquet")
    (folder / "done").touch()
    return folder


def prepare_questions(source: Path, folder: Path, *, train: int, test: int) -> Path:
    """`train`, `validation` and `test` as Parquet files in `folder`, classes as numbers and as often as they come; made once."""
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows, tested = (pd.read_csv(source / f"{split}.csv").drop_duplicates("text") for split in ("train", "test"))
    tested = tested.sample(frac=1, random_state=SEED)[:test]
    drawn = rows[~rows["text"].isin(tested["text"])].sample(frac=1, random_state=SEED)[: train + validation_size(train)]
    names = sorted(rows["label"].unique())
    for split, table in (("train", drawn[:train]), ("validation", drawn[train:]), ("test", tested)):
        numbered = table.assign(label=table["label"].map(names.index))
        numbered.reset_index(drop=True).to_parquet(folder / f"{split}.parquet")
    (folder / "done").touch()
    return folder


def prepare_pictures(source: Path, folder: Path, *, train: int, test: int) -> Path:
    """`train`, `validation` and `test` as folders of folders in `folder`, both classes equally often; made once."""
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    tables = {split: _pictures(source / split) for split in ("train", "test")}
    tested = _balanced(tables["test"].drop_duplicates("sha256"), test)
    rows = tables["train"].drop_duplicates("sha256")
    drawn = _balanced(rows[~rows["sha256"].isin(tables["test"]["sha256"])], train + validation_size(train))
    kept = drawn.groupby("label").cumcount() < train // 2
    for split, table in (("train", drawn[kept]), ("validation", drawn[~kept]), ("test", tested)):
        for path, label in zip(table["path"], table["label"], strict=True):
            place = folder / split / label / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    (folder / "done").touch()
    return folder


def prepare_bert_base(tokenizer: Path, folder: Path) -> Path:
    """A checkpoint folder without weights: the sizes of BERT-base and its vocabulary."""
    if (folder / "done").is_file():
        return folder
    from transformers import BertConfig, BertTokenizer

    config = BertConfig(architectures=["BertForMaskedLM"])  # the defaults are BERT-base's: 12 layers of 768, 12 heads
    config.save_pretrained(folder)
    BertTokenizer(vocab=str(tokenizer / "vocab.txt"), do_lower_case=True, model_max_length=512).save_pretrained(folder)
    (folder / "done").touch()
    return folder


def validation_size(train: int) -> int:
    """A fifth, and even: two classes."""
    return max(2, 2 * round(train / 10))


def data_key(**settings: object) -> str:
    """A short name for data made with these settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _balanced(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` rows, each of the two classes equally often, shuffled."""
    generator = np.random.default_rng(SEED)
    parts = [part.iloc[generator.permutation(len(part))[: count // 2]] for _, part in table.groupby("label")]
    return pd.concat(parts).sample(frac=1, random_state=SEED)


def _pictures(folder: Path) -> pd.DataFrame:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return pd.DataFrame(
        {
            "path": paths,
            "label": [path.parent.name for path in paths],
            "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
        }
    )
