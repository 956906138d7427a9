"""The jobs: what is trained on what, by whom, and the ratio that issue 5 asks for. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["transformer", "textcnn", "bilstm", "resnet"]


@dataclass(frozen=True)
class Stage:
    """One stage, the same on every side."""

    name: str
    epochs: int
    lr: float
    top: int | None = None
    """Layers that train below the head, from the top: 0, the head alone; None, all of them."""


@dataclass(frozen=True)
class Rival:
    """Another way to do the same job."""

    name: str
    script: str
    """Under rivals/."""
    style: Literal["users", "best"]
    """As users run it, or at its best."""
    title: str
    target: float | None = None
    """How many times as fast hftl is to be."""
    own_environment: bool = False
    """Runs from the environment of requirements.txt rather than from hftl's."""


@dataclass(frozen=True)
class Job:
    """One row of the table."""

    name: str
    title: str
    kind: Kind
    stages: tuple[Stage, ...]
    rivals: tuple[Rival, ...]
    sizes: dict[str, int]
    """Training examples: "small" and "large"."""
    test: int
    """Test examples; 0: time only."""
    batch_size: int = 32
    max_length: int | None = None
    """In tokens."""
    schedule: Literal["linear", "constant"] = "linear"
    weight_decay: float = 0.01
    augmented: bool = False
    questions: bool = False
    """Sentences of TREC, of six classes, in place of IMDb's reviews."""
    random_bert_base: bool = False
    """BERT-base sizes with random weights in place of the checkpoint."""


def trainer(users: float | None, best: float | None) -> tuple[Rival, ...]:
    """transformers.Trainer twice."""
    return (
        Rival("trainer", "trainer.py", "users", "Trainer: float32, random batches", users),
        Rival("trainer-best", "trainer.py", "best", "Trainer: bf16, length grouping, fused AdamW", best),
    )


def textbook(users: float, best: float) -> tuple[Rival, ...]:
    """A PyTorch loop as in the textbooks, and transformers.Trainer at its best with hftl's own modelling class."""
    return (
        Rival("loop", "torch_text.py", "users", "PyTorch loop: float32, padded to 500", users),
        Rival("trainer-best", "trainer.py", "best", "Trainer: bf16, length grouping", best),
    )


def pictures(users: float, best: float) -> tuple[Rival, ...]:
    """fastai, and a timm loop twice."""
    return (
        Rival("fastai", "fastai_vision.py", "users", "fastai: fine_tune or frozen fit", users, own_environment=True),
        Rival("timm", "timm_loop.py", "users", "timm loop: float32", users),
        Rival("timm-best", "timm_loop.py", "best", "timm loop: bf16, channels_last, fused AdamW", best),
    )


STAGED = (Stage("head", 3, 1e-3, 0), Stage("half", 2, 2e-4, 3), Stage("all", 1, 1e-4))
BERT_STAGED = (Stage("head", 3, 1e-3, 0), Stage("half", 2, 5e-5, 6), Stage("all", 1, 3e-5))

JOBS = (
    Job(
        "text-staged",
        "text, staged: head 3, top half 2, all 1 (MiniLM)",
        "transformer",
        STAGED,
        trainer(5, 1.6),
        sizes={"small": 64, "large": 128},
        test=300,
        max_length=512,
    ),
    Job(
        "text-full",
        "text, one full stage of 1 epoch at 512 (MiniLM)",
        "transformer",
        (Stage("all", 1, 1e-4),),
        trainer(4, 1.15),
        sizes={"small": 64, "large": 128},
        test=300,
        max_length=512,
    ),
    Job(
        "text-short",
        "short texts (TREC, 13 tokens), all layers, 3 epochs (MiniLM)",
        "transformer",
        (Stage("all", 3, 1e-4),),
        trainer(None, 1.5),
        sizes={"small": 2000, "large": 4000},
        test=400,
        max_length=512,
        questions=True,
    ),
    Job(
        "text-probe",
        "text, linear probe of 10 epochs (MiniLM)",
        "transformer",
        (Stage("head", 10, 1e-3, 0),),
        trainer(30, 8),
        sizes={"small": 64, "large": 128},
        test=300,
        max_length=512,
    ),
    Job(
        "bert-base-time",
        "text, staged, BERT-base sizes, random weights: time only",
        "transformer",
        BERT_STAGED,
        trainer(None, None),
        sizes={"small": 8, "large": 16},
        test=0,
        batch_size=8,
        max_length=512,
        random_bert_base=True,
    ),
    Job(
        "textcnn",
        "TextCNN, GloVe, 5 epochs",
        "textcnn",
        (Stage("new", 5, 1e-3),),
        textbook(3, 1.3),
        sizes={"small": 1500, "large": 3000},
        test=2000,
        max_length=500,
        schedule="constant",
        weight_decay=0.0,
    ),
    Job(
        "bilstm",
        "BiLSTM, GloVe, 5 epochs",
        "bilstm",
        (Stage("new", 5, 3e-3),),
        textbook(2, 1.3),
        sizes={"small": 1000, "large": 2000},
        test=2000,
        max_length=500,
        schedule="constant",
        weight_decay=0.0,
    ),
    Job(
        "resnet-staged",
        "ResNet-18, staged: head 2, all 3, augmented",
        "resnet",
        (Stage("head", 2, 3e-3, 0), Stage("all", 3, 5e-4)),
        pictures(2.5, 1.3),
        sizes={"small": 128, "large": 256},
        test=300,
        augmented=True,
    ),
    Job(
        "resnet-head",
        "ResNet-18, head only, 10 epochs, no augmentation",
        "resnet",
        (Stage("head", 10, 3e-3, 0),),
        pictures(20, 8),
        sizes={"small": 128, "large": 384},
        test=300,
    ),
)
