"""A finished run directory made of small real arrays, for tests of what reads one.

Nothing is trained: the logits are drawn so that some classes are harder than others, and every file is written by the same
functions, or in the same form, as a training run writes it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from hftl.evaluation.metrics import compute_metrics, quick_metrics
from hftl.evaluation.predictions import Predictions, SizeUnit
from hftl.files import append_json_line, read_json, write_json, write_text
from hftl.recipe import (
    BiLSTM,
    Card,
    ImageData,
    LinearSchedule,
    Recipe,
    RunSettings,
    Stage,
    TextCNN,
    TextData,
    Timm,
    Transformer,
)
from hftl.run import RunDirectory, split_facts

REVIEWS = ("neg", "pos")
CLOTHES = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")
RUN_ID = "0d0e5c7c-7a39-4b52-9d0c-0f5b7c0d3a11"
COMMIT = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
TEXT_GROUPS = {
    "embeddings": 1_114_368,
    "layer.0": 198_272,
    "layer.1": 198_272,
    "layer.2": 198_272,
    "layer.3": 198_272,
    "head": 16_770,
}
IMAGE_GROUPS = {"stem": 9_536, "layer1": 147_968, "layer2": 525_568, "layer3": 2_099_712, "layer4": 8_393_728, "head": 5_130}
WORD_GROUPS = {"embedding": 600_000, "convolutions": 120_300, "head": 602}


def make_predictions(
    label_names: tuple[str, ...], n: int, *, seed: int, split: str = "test", skill: float = 2.5, size_unit: SizeUnit | None = None
) -> Predictions:
    """Predictions of a model that knows more about the last classes than about the first; each class has at least one example."""
    rng, classes = np.random.default_rng(seed), len(label_names)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)]).astype(np.int64)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += skill * (0.5 + labels / classes)
    ids = [f"{split}/{i}" for i in range(n)]
    if size_unit == "pixels":
        ids = [f"{split}/{label_names[label]}/photo {i:03}.jpg" for i, label in enumerate(labels)]
    sizes = None
    if size_unit is not None:
        sizes = np.round(np.exp(rng.normal(5.2 if size_unit == "tokens" else 12.0, 0.8, n))).astype(np.int64)
    return Predictions(ids, labels, logits.astype(np.float32), sizes, size_unit)


def make_recipe(family: str = "transformer", **card: Any) -> Recipe:
    """A recipe in three stages; local sources and checkpoints are absolute paths, as users write them."""
    stages = {
        "head": Stage(lr=1e-3, unfreeze="head", epochs=2, schedule="constant"),
        "top": Stage(
            lr=3e-4,
            unfreeze="last 3" if family in {"transformer", "timm"} else "last 2",
            epochs=2,
            layer_decay=0.8,
            schedule=LinearSchedule(warmup=0.1),
        ),
        "all": Stage(
            lr=3e-4,
            unfreeze="all",
            epochs=3,
            layer_decay=0.8,
            head_lr_multiplier=10,
            schedule="slanted_triangular",
            early_stopping=2,
        ),
    }
    model: Any
    match family:
        case "transformer":
            model = Transformer(checkpoint="/home/secret/models/bert-nano")
        case "timm":
            model = Timm(checkpoint="timm/resnet18.a1_in1k")
        case "textcnn":
            model = TextCNN(vectors="/home/secret/vectors/glove.6B.50d.txt")
        case _:
            model = BiLSTM(vectors="/home/secret/vectors/glove.6B.zip:glove.6B.50d.txt")
    data: Any = (
        ImageData(source="/home/secret/data/clothing/", augmentation="standard")
        if family == "timm"
        else TextData(source="stanfordnlp/imdb")
    )
    return Recipe(name=f"{family}-trial", data=data, model=model, stages=stages, run=RunSettings(batch_size=16), card=Card(**card))


def make_run(
    path: Path,
    *,
    family: str = "transformer",
    label_names: tuple[str, ...] | None = None,
    test: bool = True,
    n: int = 160,
    openings: int = 1,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> RunDirectory:
    """Write a whole finished run (without model/) into `path`."""
    run = RunDirectory(path)
    names = label_names or (CLOTHES if family == "timm" else REVIEWS)
    recipe = recipe or make_recipe(family)
    write_text(run.recipe, recipe.to_yaml())
    per_class = [40 + 7 * (i % 4) for i in range(len(names))]
    trained_on = [label for label, n in enumerate(per_class) for _ in range(n)]
    splits = {"train": split_facts([f"train/{i}" for i in range(len(trained_on))], trained_on, names)}
    metrics = {}
    size_unit: SizeUnit = "pixels" if recipe.data.kind == "image" else "tokens"
    for offset, split in enumerate(["validation", "test"] if test else ["validation"]):
        predictions = make_predictions(names, n, seed=seed + offset, split=split, size_unit=size_unit)
        predictions.save(run.predictions(split), names)
        metrics[split] = compute_metrics(predictions, names, skipped=0)
        splits[split] = split_facts(predictions.ids, predictions.labels.tolist(), names)
    write_json(run.plan, _plan(recipe, family, train_examples=len(trained_on)))
    write_json(run.data, data := _data(recipe, family, splits))
    write_json(run.audit, _audit(data))
    write_json(run.environment, ENVIRONMENT)
    write_json(run.freeze_proof, _freeze_proof(read_json(run.plan)))
    _write_history(run, names, n)
    if test:
        for number in range(openings):
            purpose, by = ("train", "hftl train") if number == 0 else ("again", "hftl evaluate")
            append_json_line(run.test_openings, opening(time=f"2026-11-2{number}T10:11:12+00:00", purpose=purpose, by=by))
    write_json(run.metrics, metrics)
    return run


def opening(**values: str) -> dict[str, str]:
    """A line of test_openings.jsonl."""
    return {"time": "2026-11-20T10:11:12+00:00", "purpose": "train", "by": "hftl train", "run": RUN_ID} | values


def whole_data(**changes: Any) -> dict[str, Any]:
    """A data.json of texts with a test split, and what is changed in it."""
    splits = {
        split: split_facts([f"{split}/{i}" for i in range(4)], [0, 1, 0, 1], REVIEWS) for split in ("train", "validation", "test")
    }
    return _data(make_recipe(), "transformer", splits) | changes


def _groups(family: str) -> dict[str, int]:
    return {"transformer": TEXT_GROUPS, "timm": IMAGE_GROUPS}.get(family, WORD_GROUPS)


def _plan(recipe: Recipe, family: str, *, train_examples: int) -> dict[str, Any]:
    groups = _groups(family)
    names, total = list(groups), sum(groups.values())
    stages = []
    for name, stage in recipe.stages.items():
        count = {"head": 1, "all": len(names)}.get(str(stage.unfreeze)) or int(str(stage.unfreeze).split()[1])
        trains, size = names[-count:], stage.batch_size or recipe.run.batch_size
        rates = {g: stage.lr * stage.layer_decay ** (len(names) - 1 - i) for i, g in enumerate(names)}
        rates["head"] *= stage.head_lr_multiplier
        trainable = sum(groups[g] for g in trains)
        stages.append(
            {
                "name": name,
                "unfreeze": trains,
                "epochs": stage.epochs,
                "batch_size": size,
                "steps": stage.epochs * -(-train_examples // size),
                **{key: None if (chosen := getattr(stage, key)) is None else chosen.kind for key in Stage.choices},
                "average_bytes": 0,
                "l1": stage.l1,
                "image_size": stage.image_size,
                "trainable_parameters": trainable,
                "trainable_share": trainable / total,
                "optimizer_bytes": 8 * trainable,
                "cached_up_to": None,
                "cache_bytes": 0.0,
                "flops": 1e9 * stage.epochs,
                "cost_share": 0.5,
                "groups": [
                    {
                        "name": g,
                        "trains": g in trains,
                        "lr": rates[g] if g in trains else None,
                        "weight_decay": 0.01 if g in trains else 0.0,
                    }
                    for g in names
                ],
            }
        )
    return {
        "model": "BertForSequenceClassification",
        "parameters": total,
        "train_examples": train_examples,
        "groups": [{"name": g, "parameters": count} for g, count in groups.items()],
        "stages": stages,
        "padding_share": None if family == "timm" else 0.1,
        "remarks": [],
        "understood": [],
        "flops": 7e9,
        "at_least_minutes": 0.2,
    }


def _freeze_proof(plan: dict[str, Any]) -> dict[str, Any]:
    """Of stages that did as planned: a hash is that of the group's name and the number of stages that have trained it."""
    trained: Counter[str] = Counter()
    stages = []
    for stage in plan["stages"]:
        groups = []
        for group in stage["groups"]:
            before = _hashes(group["name"], trained[group["name"]])
            trained[group["name"]] += group["trains"]
            after = _hashes(group["name"], trained[group["name"]])
            groups.append({"name": group["name"], "trains": group["trains"], "before": before, "after": after, "ok": True})
        stages.append({"stage": stage["name"], "kept": True, "groups": groups, "ok": True})
    return {"stages": stages}


def _hashes(group: str, trained: int) -> dict[str, str]:
    return {what: digest(f"{group} {what} {trained}") for what in ("parameters", "buffers")}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _data(recipe: Recipe, family: str, splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    image = family == "timm"
    lost = "train/shirt/broken.jpg"
    facts: dict[str, Any] = {
        "source": recipe.data.source,
        "revision": None if image else COMMIT,
        "config": None,
        "kind": recipe.data.kind,
        "format": "image folder" if image else "hub",
        "fingerprint": {split: digest(f"source of {split}") for split in splits if split != "validation"},
        "label_names": list(splits["train"]["per_class"]),
        "splits": splits,
        "contents": {split: digest(f"contents of {split}") for split in splits},
        **({"test_rows": digest("test rows")} if "test" in splits else {}),
        "validation": "made from train: 10 %, stratified, seed 0",
        "test": "given" if "test" in splits else "none",
        "skipped": [{"id": lost, "split": "train", "kind": "empty", "why": f"{recipe.data.source}{lost} is empty"}]
        if image
        else [],
        "notes": [],
        "understood": ["2 splits from file names: train (train.csv), test (test.csv)", "labels from 2 class folders"],
        "ignored_files": {},
        "unused": [],
        "remarks": [],
        "split_column": None,
        "duplicates": {"on_duplicate": "error", "within": {}, "across": [], "conflicting": {}, "examples": []},
        "base": {"config.json": {}, "preprocessing" if image else "tokenizer": {}, "weights": {}},
    }
    if image:
        facts["image"] = {
            "examples": splits["train"]["n"],
            "width_median": 400.0,
            "height_median": 533.0,
            "pixels_p5": 90_000.0,
            "pixels_p95": 480_000.0,
            "transparent": 3,
            "high_bit_depth": 0,
        }
        facts["model"] = {
            "architecture": "resnet18",
            "parameters": 11_181_642,
            "input_size": [3, 224, 224],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "base_model": "timm/resnet18.a1_in1k",
            "revision": COMMIT,
            "pretrained": True,
            "new_parameters": ["fc.weight", "fc.bias"],
        }
        return facts
    facts["text"] = {
        "length_mean": 231.4,
        "length_median": 174.0,
        "length_p95": 598.0,
        "max_length": 256,
        "share_truncated": 0.271,
        "share_lost": 0.118,
        "truncate": "head",
        "share_unknown": 0.0012,
        "empty": 0,
    }
    facts["model"] = {
        "architecture": "BertForSequenceClassification",
        "base_model": "/home/secret/models/bert-nano",
        "revision": None,
        "parameters": 1_924_226,
    }
    if family != "transformer":
        facts["model"] = {
            "architecture": "TextCNNForSequenceClassification" if family == "textcnn" else "BiLSTMForSequenceClassification",
            "base_model": "glove.6B.50d.txt",
            "revision": None,
            "parameters": 720_902,
            "vector_dim": 50,
            "vocabulary": {
                "words": 12_000,
                "in_vectors": 11_159,
                "share_in_vectors": 0.862,
                "share_unknown": 0.0312,
                "frequent_without_vector": ["terrible", "1/10"],
            },
        }
    return facts


def _audit(data: dict[str, Any]) -> dict[str, Any]:
    """Of data in which nothing was found."""
    splits: dict[str, Any] = {}
    for name, facts in data["splits"].items():
        there = [n for n in facts["per_class"].values() if n]
        splits[name] = {
            "n": facts["n"],
            "per_class": facts["per_class"],
            "imbalance": round(max(there) / min(there), 2),
            "absent": [],
        }
        if data["kind"] == "text":
            splits[name] |= {"lengths": data["text"], "without_words": []}
        else:
            splits[name]["sizes"] = {"width_median": 400.0, "height_median": 533.0, "transparent": 3, "high_bit_depth": 0}
    return {
        "kind": data["kind"],
        "splits": splits,
        "duplicates": data["duplicates"],
        "near_duplicates": {
            "threshold": 0.8 if data["kind"] == "text" else 0.95,
            "within": {},
            "across": [],
            "conflicting": 0,
            "examples": [],
        },
        "skipped": [{"why": entry["why"], "n": 1} for entry in data["skipped"]],
        "notes": [],
        "vocabulary": data["model"].get("vocabulary"),
        "classes": {"alike": [], "scale": None},
        "texts": {"looked_at": 80, "bare": 0.0, "are_class": 0.0, "name_class": 0.0} if data["kind"] == "text" else None,
        "tokens": {"scripts": {}, "english": 0.25} if data["kind"] == "text" else None,
        "understood": ["2 splits from file names: train (train.csv), test (test.csv)", "labels from 2 class folders"],
        "ignored_files": {},
        "unused": [],
        "remarks": [],
    }


def _write_history(run: RunDirectory, names: tuple[str, ...], n: int) -> None:
    groups = [group["name"] for group in read_json(run.plan)["groups"]]
    rng, step = np.random.default_rng(3), 0
    epochs = {"head": 2, "top": 2, "all": 3}
    per_epoch, done, whole = 25, 0, sum(epochs.values())
    for stage, trains in zip(epochs, (groups[-1:], groups[-3:], groups), strict=True):
        run.append_history(
            {"event": "stage_start", "time": "2026-11-20T10:00:00+00:00", "stage": stage, "step": step, "trains": trains}
        )
        length = epochs[stage] * per_epoch
        for epoch in range(1, epochs[stage] + 1):
            losses = []
            for place in range((epoch - 1) * per_epoch, epoch * per_epoch):
                step += 1
                losses.append(0.15 + 0.55 * float(np.exp(-step / 70)) + 0.05 * float(rng.normal()))
                if step % 5 == 0:
                    base = 1e-3 if stage == "head" else 3e-4 * max(0.0, 1 - place / length)
                    rates = {g: base * 0.8 ** (len(groups) - 1 - groups.index(g)) for g in trains}
                    record = {
                        "event": "step",
                        "stage": stage,
                        "epoch": epoch,
                        "step": step,
                        "loss": losses[-1],
                        "grad_norm": 1.0,
                        "lr": rates,
                    }
                    run.append_history(record)
            done += 1
            validation = quick_metrics(make_predictions(names, n, seed=20 + done, split="validation", skill=2.7 * done / whole))
            run.append_history(
                {
                    "event": "evaluation",
                    "stage": stage,
                    "epoch": epoch,
                    "step": step,
                    "train_loss": float(np.mean(losses)),
                    "validation": validation,
                    "kept": epoch == epochs[stage],
                    "seconds": 12.25,
                }
            )
        record = {
            "event": "stage_end",
            "stage": stage,
            "best_epoch": epochs[stage],
            "best_metric": validation["accuracy"],
            "kept": True,
            "stopped_early": False,
        }
        run.append_history(record)
    run.append_history({"event": "finished", "seconds": 97.5, "training_seconds": 85.75})


ENVIRONMENT: dict[str, Any] = {
    "time": "2026-11-20T10:00:00+00:00",
    "python": "3.11.9",
    "packages": {
        "hftl": "0.1.0",
        "torch": "2.14.1",
        "transformers": "5.23.0",
        "timm": "1.0.31",
        "datasets": "5.2.0",
        "accelerate": "1.15.0",
    },
    "platform": "Linux x86_64",
    "cpu": "AMD EPYC 9655 96-Core Processor",
    "cores": 2,
    "memory_bytes": 25_769_803_776,
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "processes": 1,
    "distributed": "NO",
    "device": "cpu",
    "precision": "bf16",
    "threads": 2,
    "sessions": 1,
    "seconds": 85.8,
    "cpu_energy_joules": 5_400.0,
}
