"""transformers.Trainer, one a stage: layers are frozen by `requires_grad`.

As users run it: the arguments' defaults (float32, random batches, padded to the longest text of a batch). At its best: bf16,
batches grouped by length, fused AdamW. Fused AdamW and SDPA are defaults already in the version that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars, load_dataset
from side import Clock, read_spec, test_rows_of_table, write_result
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)


def load(spec: Mapping[str, Any], texts: list[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer: a checkpoint, random weights, or hftl's own GloVe networks."""
    if spec["kind"] == "transformer":
        tokenizer = AutoTokenizer.from_pretrained(spec["checkpoint"])
        if spec["random_bert_base"]:
            return AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(spec["checkpoint"])), tokenizer
        classes = spec["classes"]
        return AutoModelForSequenceClassification.from_pretrained(
            spec["checkpoint"], dtype=torch.float32, num_labels=classes
        ), tokenizer
    from ours import glove

    from hftl.models.glove import build

    classifier = build(glove(spec["kind"], spec["vectors"]), ("neg", "pos"), texts=texts)
    return classifier.model, classifier.preprocessor


def trains(kind: str, name: str, *, top: int | None, layers: int) -> bool:
    """Whether the parameter trains in a stage with `top` layers below the head, None for all; word vectors never do."""
    if kind != "transformer":
        return not name.startswith("embedding.")
    if top is None or not name.startswith(("bert.embeddings.", "bert.encoder.")):  # pooler and classifier are the head
        return True
    return name.startswith("bert.encoder.") and int(name.split(".")[3]) >= layers - top


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """For the validation after each epoch."""
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


@torch.inference_mode()
def predict(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]) -> list[int]:
    """Classes of tokenised rows, in their order; longest first and in bf16, to be quick: nobody's clock is running."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]["input_ids"]))
    found = [0] * len(rows)
    for start in range(0, len(order), 32):
        places = order[start : start + 32]
        inputs = tokenizer.pad([{"input_ids": rows[place]["input_ids"]} for place in places], return_tensors="pt").to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            classes = model(**inputs).logits.argmax(dim=1).tolist()
        for place, label in zip(places, classes, strict=True):
            found[place] = label
    return found


def main() -> None:
    """Train, and write how long it took and how good it is."""
    spec = read_spec()
    best = spec["style"] == "best"
    disable_progress_bars()
    clock = Clock()
    set_seed(spec["seed"])
    files = {split: str(Path(spec["data"]) / f"{split}.parquet") for split in ("train", "validation")}
    data = load_dataset("parquet", data_files=files)
    model, tokenizer = load(spec, data["train"]["text"][:])
    data = data.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=spec["max_length"]), batched=True, remove_columns=["text"]
    )
    if best:
        data = data.map(lambda rows: {"length": [len(ids) for ids in rows["input_ids"]]}, batched=True)
    clock.lap("prepare")
    chosen: dict[str, Any] = {}
    if best:
        chosen = {"bf16": True, "train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"}
    for stage in spec["stages"]:
        for name, parameter in model.named_parameters():
            layers = getattr(model.config, "num_hidden_layers", 0)
            parameter.requires_grad_(trains(spec["kind"], name, top=stage["top"], layers=layers))
        arguments = TrainingArguments(
            output_dir=str(Path(spec["work"]) / stage["name"]),
            num_train_epochs=stage["epochs"],
            learning_rate=stage["lr"],
            lr_scheduler_type=spec["schedule"],
            weight_decay=spec["weight_decay"],
            per_device_train_batch_size=spec["batch_size"],
            per_device_eval_batch_size=spec["evaluation_batch_size"],
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=spec["seed"],
            use_cpu=spec["device"] == "cpu",
            **chosen,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=data["train"],
            eval_dataset=data["validation"],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=accuracy,
        )
        trainer.train()
        clock.lap(stage["name"])
    cpu = clock.cpu_seconds
    correct: dict[str, bool] = {}
    if spec["test"]:
        test = load_dataset("parquet", data_files=str(Path(spec["data"]) / "test.parquet"), split="train")
        rows = [dict(tokenizer(text, truncation=True, max_length=spec["max_length"])) for text in test["text"]]
        correct = test_rows_of_table(test["label"][:], predict(model, tokenizer, rows))
    write_result(clock, correct, cpu_seconds=cpu, precision="bf16" if best else "float32", optimizer=str(arguments.optim))


if __name__ == "__main__":
    main()
