"""fastai as its book has it: `vision_learner`, `aug_transforms`, `fine_tune` with its own rates; `fit_one_cycle` for the head.

Its training loader drops a last batch that is not full. BatchNorm trains also where the rest is frozen: fastai's default.
"""

from __future__ import annotations

from pathlib import Path

import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    imagenet_stats,
    set_seed,
    vision_learner,
)
from safetensors.torch import load_file
from side import Clock, read_spec, write_result
from torch import nn
from torchvision.models import resnet18


def body_of(checkpoint: str) -> dict[str, torch.Tensor]:
    """The checkpoint's weights by the names of fastai's body: everything but the pooling and the last layer, as a sequence."""
    whole = resnet18(weights=None)
    whole.load_state_dict(load_file(Path(checkpoint) / "model.safetensors"))
    return nn.Sequential(*list(whole.children())[:-2]).state_dict()


def main() -> None:
    """Train, and write how long it took and how good it is."""
    spec = read_spec()
    clock = Clock()
    set_seed(spec["seed"])
    root = Path(spec["data"])
    normalize = Normalize.from_stats(*imagenet_stats)
    loaders = ImageDataLoaders.from_folder(
        root,
        train="train",
        valid="validation",
        bs=spec["batch_size"],
        device=torch.device(spec["device"]),
        item_tfms=Resize(256 if spec["augmented"] else 224),
        batch_tfms=[*aug_transforms(size=224), normalize] if spec["augmented"] else [normalize],
    )
    learner = vision_learner(loaders, resnet18, pretrained=False, normalize=False, metrics=accuracy)
    learner.model[0].load_state_dict(body_of(spec["checkpoint"]))
    clock.lap("prepare")
    with learner.no_bar(), learner.no_logging():
        epochs = [stage["epochs"] for stage in spec["stages"]]
        if len(epochs) == 2:
            learner.fine_tune(epochs[1], freeze_epochs=epochs[0])
        else:
            learner.freeze()
            learner.fit_one_cycle(epochs[0])
    clock.lap("stages")
    cpu = clock.cpu_seconds
    files = sorted(path for path in (root / "test").rglob("*") if path.is_file())
    with learner.no_bar():
        probabilities, _ = learner.get_preds(dl=loaders.test_dl(files))
    correct = {
        path.relative_to(root).as_posix(): loaders.vocab[guess] == path.parent.name
        for path, guess in zip(files, probabilities.argmax(dim=1).tolist(), strict=True)
    }
    write_result(clock, correct, cpu_seconds=cpu, precision="float32", optimizer="adam")


if __name__ == "__main__":
    main()
