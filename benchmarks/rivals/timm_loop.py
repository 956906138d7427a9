"""A plain loop over a timm model: ImageFolder, torchvision's transforms in two loader processes.

As users run it: float32, NCHW, `model.train()` for all of it. At its best: bf16, channels_last, fused AdamW, the loader's processes
kept from epoch to epoch, frozen layers in evaluation mode and without a graph.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import timm
import torch
from side import Clock, read_spec, write_result
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

WORKERS = 2


def main() -> None:
    """Train, and write how long it took and how good it is."""
    spec = read_spec()
    best, device = spec["style"] == "best", torch.device(spec["device"])
    precise = torch.autocast(device.type, torch.bfloat16) if best else nullcontext()
    layout = torch.channels_last if best else torch.contiguous_format
    clock = Clock()
    torch.manual_seed(spec["seed"])
    model = timm.create_model(f"local-dir:{spec['checkpoint']}", pretrained=True, num_classes=2)
    model.to(device, memory_format=layout)
    config = resolve_model_data_config(model)
    size = config["input_size"][1]
    plain = create_transform(**config, is_training=False)
    augmented = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=InterpolationMode.BILINEAR),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.RandomRotation(15)], p=0.5),
            transforms.RandomApply([transforms.ColorJitter(0.2, 0.2, 0.2, 0.03)], p=0.8),
            transforms.ToTensor(),
            transforms.Normalize(config["mean"], config["std"]),
        ]
    )
    root = Path(spec["data"])
    keep = {"num_workers": WORKERS, "persistent_workers": best}
    train = DataLoader(
        ImageFolder(root / "train", augmented if spec["augmented"] else plain), batch_size=spec["batch_size"], shuffle=True, **keep
    )
    validation = DataLoader(ImageFolder(root / "validation", plain), batch_size=spec["evaluation_batch_size"], **keep)

    @torch.inference_mode()
    def predict(loader: DataLoader) -> list[int]:
        model.eval()
        found: list[int] = []
        for pictures, _ in loader:
            with precise:
                found += model(pictures.to(device, memory_format=layout)).argmax(dim=1).tolist()
        return found

    clock.lap("prepare")
    loss_of = nn.CrossEntropyLoss()
    for stage in spec["stages"]:
        head_only = stage["top"] == 0
        for parameter in model.parameters():
            parameter.requires_grad_(not head_only)
        head = model.get_classifier()
        head.requires_grad_(True)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        fused = {"fused": True} if best else {}
        optimizer = torch.optim.AdamW(parameters, lr=stage["lr"], weight_decay=spec["weight_decay"], **fused)
        steps = stage["epochs"] * len(train)
        schedule = LambdaLR(optimizer, lambda step, steps=steps: 1 - step / steps)
        for _ in range(stage["epochs"]):
            model.train()
            if best and head_only:
                model.eval()
            for pictures, labels in train:
                pictures, labels = pictures.to(device, memory_format=layout), labels.to(device)
                with precise:
                    if best and head_only:
                        with torch.no_grad():
                            features = model.forward_features(pictures)
                        logits = model.forward_head(features)
                    else:
                        logits = model(pictures)
                loss = loss_of(logits.float(), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            found = predict(validation)
            expected = [label for _, label in validation.dataset.samples]
            print("validation accuracy", sum(a == b for a, b in zip(found, expected, strict=True)) / len(found))
        clock.lap(stage["name"])
    cpu = clock.cpu_seconds
    test = ImageFolder(root / "test", plain)
    found = predict(DataLoader(test, batch_size=spec["evaluation_batch_size"], num_workers=WORKERS))
    correct = {
        Path(path).relative_to(root).as_posix(): label == guess for (path, label), guess in zip(test.samples, found, strict=True)
    }
    write_result(
        clock, correct, cpu_seconds=cpu, precision="bf16" if best else "float32", optimizer="adamw, fused" if best else "adamw"
    )


if __name__ == "__main__":
    main()
