"""The section `run`: how an experiment is run, whatever it trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hftl.names import HEADLINES, ONE_LABEL, Chooser, Tta
from hftl.recipe.section import Positive, Section


class RunSettings(Section):
    """How the experiment is run, whatever it trains."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """"auto": bf16 where the machine computes it natively, fp16 on a CUDA GPU that has units for it instead (T4, V100, P100), fp32
    elsewhere. Weights are always float32. fp16 is for CUDA GPUs; its gradients are scaled, and where they overflow all the same a
    step is skipped."""
    batch_size: Positive = 32
    """Examples an optimizer step sees over all processes, so a recipe means the same on one machine or eight."""
    gradient_accumulation: Positive = 1
    """Micro-batches a step is cut into, to save memory; does not change what the step computes."""
    evaluation_batch_size: Positive | None = None
    """Pictures of an evaluation batch, a process; None: 64. Texts go by `tokens_per_batch`."""
    metric: Chooser | Literal["auto"] = "auto"
    """Validation metric that picks the best weights. "auto": accuracy, and where an example has several labels macro F1; the run's
    recipe.yaml has the one that it was."""
    keep: Literal["best", "last"] = "best"
    """Which weights are delivered: "best" over all stages, so that a stage that improves nothing is undone; "last": the best of the
    last stage. The weights with which the first stage begins are no candidate: their head is random."""
    test: Literal["open", "sealed"] = "open"
    """"open": the test split is evaluated once, at the end. "sealed": it stays shut, as it should while recipes are compared; later
    `hftl test RUN` opens it."""
    baseline: Literal["linear", "none"] = "linear"
    """"linear": a cheap baseline beside every run, on the same rows (of texts TF-IDF, of pictures a histogram of colours, into
    logistic regression), so that card and terminal say what the model gains over it. Seconds. "none": without."""
    tta: Tta = "none"
    """Test-time augmentation, for pictures: at the end validation and test are also predicted by the mean of the probabilities of
    several views of each picture, and stand beside the plain numbers. "flip": the picture and its mirror image; "five_crop": four
    corners and the middle; "ten_crop": these and their mirror images; "scales": the middle at three sizes. "none": without."""
    tokens_per_batch: Positive | None = None
    """Most tokens, padding included, that a process computes at once: a step with more is cut into micro-batches of similar length,
    and evaluation batches are filled up to it. Does not change what a step computes. For texts alone. None: 4,096 for a transformer
    on a CPU, where small pieces pad less and stay in its caches, 16,384 elsewhere."""
    cache_gb: Annotated[float, Field(ge=0.0)] = 20.0
    """Disk, in gigabytes, for what is computed once and used again, by this run and later ones: the activations that leave frozen
    layers, decoded pictures. What does not fit is computed each time; 0 keeps nothing."""
    compile: bool = False
    """`torch.compile` on a GPU, with lengths padded to few sizes. On a CPU it gains nothing and is refused."""
    gradient_checkpointing: bool = False
    """Layers that train keep what enters them alone, and compute the rest again for the backward pass: less memory, for about one
    more forward pass. The losses are the same, to the bit on a CPU. Not for networks over word vectors."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Loader processes beside each training process; None: as many as this machine has use for."""
    log_every: Positive = 10
    """Steps between two lines of history.jsonl."""
    checkpoint_minutes: Annotated[float, Field(ge=0.0)] = 10.0
    """Minutes between two checkpoints inside an epoch; there is one after each epoch as well. 0: after every step."""
    timeout_minutes: Annotated[float, Field(gt=0.0)] = 30.0
    """Minutes without an answer after which another process of the run counts as dead."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers by name: "tensorboard", "trackio", "mlflow", "wandb" or another one. They get the keys of the recipe,
    the curves, the final metrics and the figures."""

    @property
    def chooser(self) -> Chooser:
        """The metric that picks the best weights: accuracy until the data have said that an example has several labels."""
        return HEADLINES[ONE_LABEL] if self.metric == "auto" else self.metric
