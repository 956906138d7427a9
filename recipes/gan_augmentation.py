"""A small conditional GAN learns the training pictures and draws more of them, for `data.extra`.

    python recipes/gan_augmentation.py photos gan --side 64 --classes hot_dog --steps 4000 --pictures 500
    hftl train recipes/resnet_hotdog.py data.source=photos data.extra=gan/pictures data.extra.name=generated data.extra.weight=0.5

The first argument is whatever `data.source` can be, with data.key=value behind it where it is read in another way. The pictures are
those of the train split alone, divided as a training with the same seed and keys divides them. gan/pictures has what was drawn, by
class, and in provenance.json by what and from which rows; gan/contact.png of each class a row of drawn pictures, and below each the
training picture that is the nearest. Killed, the same command goes on, to the same weights bit for bit on a CPU.

A DCGAN (Radford et al. 2016, arXiv:1511.06434) with spectral norm in the discriminator (Miyato et al. 2018, arXiv:1802.05957), the
class by projection (Miyato & Koyama 2018, arXiv:1802.05637), the hinge loss, differentiable augmentation of what the discriminator
sees (Zhao et al. 2020, arXiv:2006.10738), and a mean of the generator over its steps. docs/generated.md has what it is good for.

B pictures in a step, C channels, K classes, S pixels a side.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import hftl
from hftl.data.decoding import decode
from hftl.data.source import Splits, load_splits
from hftl.data.targets import targets_of
from hftl.errors import DataError, HftlError, RecipeError
from hftl.recipe import override

NOISE, DECAY, SAVE_EVERY = 64, 0.999, 100


def doublings(side: int) -> int:
    """How often 4 or 7 pixels are doubled to `side`: 3 for 32, 2 for 28, 4 for 64."""
    return next(power for power in range(8) if side >> power in (4, 7) and (side >> power) << power == side)


class Generator(nn.Module):
    """(B, 64) noise and (B,) classes -> (B, C, S, S) from -1 to 1."""

    def __init__(self, classes: int, channels: int, side: int, width: int) -> None:
        super().__init__()
        number = doublings(side)
        widths = [width << power for power in range(number, -1, -1)]  # of 28 pixels and a width of 32: 128, 64, 32
        self.start, self.first = side >> number, widths[0]
        self.named = nn.Embedding(classes, NOISE)
        self.enter = nn.Linear(2 * NOISE, widths[0] * self.start**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for wide, narrower in pairwise(widths):
            layers += [nn.ConvTranspose2d(wide, narrower, 4, 2, 1, bias=False), nn.BatchNorm2d(narrower), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], channels, 3, padding=1), nn.Tanh())

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        entered = self.enter(torch.cat([noise, self.named(classes)], dim=1))
        return self.layers(entered.view(-1, self.first, self.start, self.start))  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """(B, C, S, S) pictures and (B,) classes -> (B,) how real they look."""

    def __init__(self, classes: int, channels: int, side: int, width: int) -> None:
        super().__init__()
        number = doublings(side)
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(channels, width, 3, padding=1)), nn.LeakyReLU(0.1)]
        for power in range(number):
            layers += [spectral_norm(nn.Conv2d(width << power, width << power + 1, 4, 2, 1)), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers)
        self.real = spectral_norm(nn.Linear(width << number, 1))
        self.named = spectral_norm(nn.Embedding(classes, width << number))

    def forward(self, pictures: Tensor, classes: Tensor) -> Tensor:
        features = F.relu(self.layers(pictures)).sum(dim=(2, 3))
        return self.real(features)[:, 0] + (features * self.named(classes)).sum(dim=1)  # type: ignore[no-any-return]


def augmented(pictures: Tensor) -> Tensor:
    """Colours, a shift of up to an eighth of the side, a square of half the side cut out, of drawn and real pictures alike and with
    a gradient, so that the discriminator cannot learn the few real ones by heart and the generator does not draw the cuts."""
    number, side = len(pictures), pictures.shape[-1]
    draws = torch.rand(7, number, 1, 1, 1, device=pictures.device)
    pictures = pictures + draws[0] - 0.5
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + (pictures - grey) * 2 * draws[1]
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    pictures = mean + (pictures - mean) * (0.5 + draws[2])
    place = torch.arange(side, device=pictures.device)
    reach = side // 8
    down, across = ((draws[k].flatten() * (2 * reach + 1)).long() for k in (3, 4))
    padded = F.pad(pictures, [reach] * 4)
    rows, columns = down[:, None] + place, across[:, None] + place  # (B, S)
    pictures = padded[torch.arange(number)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    centres = [(draws[k].flatten() * side).long()[:, None] for k in (5, 6)]
    inside = [(place - centre).abs() <= side // 4 for centre in centres]
    return pictures * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


def train(pictures: Tensor, classes: Tensor, names: list[str], given: argparse.Namespace) -> tuple[Generator, int]:
    """The averaged generator and its steps; goes on from the checkpoint in `given.out`. What is random comes of (seed, step)."""
    accelerator = Accelerator()
    if accelerator.num_processes > 1:
        raise RecipeError.single("accelerate", "a GAN this small is trained by one process")
    torch.manual_seed(given.seed)
    shape = (len(names), *pictures.shape[1:3], given.width)
    drawing, judging = Generator(*shape), Discriminator(*shape)
    average = copy.deepcopy(drawing).eval().to(accelerator.device)
    of_drawing, of_judging = (torch.optim.Adam(each.parameters(), lr=given.rate, betas=(0.5, 0.999)) for each in (drawing, judging))
    drawing, judging, of_drawing, of_judging = accelerator.prepare(drawing, judging, of_drawing, of_judging)
    parts = {"drawing": drawing, "judging": judging, "average": average, "of_drawing": of_drawing, "of_judging": of_judging}
    said = {"names": names, "n": len(pictures), **{key: vars(given)[key] for key in ("side", "width", "batch", "rate", "seed")}}
    done, seconds, file = 0, 0.0, given.out / "checkpoint.pt"
    if file.is_file():
        saved = torch.load(file, weights_only=True, map_location=accelerator.device)
        if saved["said"] != said:
            raise RecipeError.single("OUT", f"is of {saved['said']}, not of {said}", "name another folder", source=str(file))
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        done, seconds = saved["done"], saved["seconds"]

    def save() -> None:
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**states, "done": done, "seconds": seconds, "said": said}, beside := file.with_suffix(".partial"))
        beside.replace(file)

    batch, device = given.batch, accelerator.device
    while done < given.steps and seconds < 60 * given.minutes:
        began = time.perf_counter()
        torch.manual_seed(int(np.random.SeedSequence([given.seed, done]).generate_state(1, np.uint64)[0] >> 1))
        rows = torch.randint(len(pictures), (batch,))
        real, named = pictures[rows].to(device), classes[rows].to(device)
        with torch.no_grad():
            drawn = drawing(torch.randn(batch, NOISE, device=device), named)
        judged = judging(augmented(torch.cat([real, drawn])), named.repeat(2))
        loss = F.relu(1 - judged[:batch]).mean() + F.relu(1 + judged[batch:]).mean()
        of_judging.zero_grad()
        accelerator.backward(loss)
        of_judging.step()
        believed = -judging(augmented(drawing(torch.randn(batch, NOISE, device=device), named)), named).mean()
        of_drawing.zero_grad()
        accelerator.backward(believed)
        of_drawing.step()
        with torch.no_grad():
            decay = min(DECAY, (1 + done) / (10 + done))  # of the first steps little stays
            for mean, now in zip(average.state_dict().values(), drawing.state_dict().values(), strict=True):
                mean.lerp_(now, 1 - decay) if mean.is_floating_point() else mean.copy_(now)
        done, seconds = done + 1, seconds + time.perf_counter() - began
        if done % SAVE_EVERY == 0 or done == given.steps:
            print(f"step {done:,}: losses {loss.item():.3f} and {believed.item():.3f}, {seconds / 60:.1f} min", flush=True)
            save()
    save()
    return average, done


def read(splits: Splits, split: str, side: int, classes: list[str]) -> tuple[Tensor, Tensor]:
    """(N, 3, S, S) from -1 to 1, the middle square of each picture of these classes, and their (N,) places in `classes`."""
    dataset = {"train": splits.train, "validation": splits.validation}[split]
    numbers = targets_of(dataset)
    places = [classes.index(name) if name in classes else -1 for name in splits.label_names]
    found, labels = [], []
    for row in [row for row, number in enumerate(numbers.tolist()) if places[number] >= 0]:
        stored = dataset[row]["image"]
        picture = decode(stored["bytes"] if stored["bytes"] is not None else stored["path"])
        found.append(np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)))
        labels.append(places[numbers[row]])
    pixels = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 127.5 - 1 if found else torch.empty(0, 3, side, side)
    return pixels, torch.tensor(labels, dtype=torch.int64)


def bytes_of(pictures: Tensor) -> np.ndarray:
    """(N, C, S, S) from -1 to 1 -> (N, S, S, 3) uint8"""
    shown = (pictures.expand(-1, 3, -1, -1) + 1) * 127.5
    return shown.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def distances(pictures: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Of each picture, (N,), the root mean square difference to the nearest training picture, and which that is."""
    between = torch.cdist(pictures.flatten(1), train.flatten(1)) / pictures[0].numel() ** 0.5
    nearest = between.min(dim=1)
    return nearest.values, nearest.indices


@torch.no_grad()
def draw(generator: Generator, number: int, place: int, *, seed: int) -> Iterator[Tensor]:
    """`number` pictures of a class."""
    device = next(generator.parameters()).device
    noise = torch.randn(number, NOISE, generator=torch.Generator().manual_seed(seed + place)).to(device)
    for start in range(0, number, 256):
        some = noise[start : start + 256]
        yield generator(some, torch.full((len(some),), place, device=device)).cpu()


def main() -> None:
    """Train, draw, measure, and say the next command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="what data.source can be")
    parser.add_argument("out", type=Path, help="a folder for the checkpoint and the pictures")
    parser.add_argument("changes", nargs="*", help="data.key=value: how the source is read and divided")
    parser.add_argument("--classes", nargs="+", help="the classes to learn; without it all")
    parser.add_argument("--side", type=int, default=32, choices=[28, 32, 56, 64, 112, 128], help="pixels")
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most so many, over all sittings")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=32, help="feature maps at the full size; doubled where the side is halved")
    parser.add_argument("--pictures", type=int, default=100, help="to draw of each class")
    parser.add_argument("--seed", type=int, default=0, help="of split and network: run.seed of the training that follows")
    given = parser.parse_args()
    stages = {"all": hftl.Stage(unfreeze="all", lr=1e-3)}  # of a recipe of which the data alone are used
    recipe = hftl.Recipe(name="gan", data=hftl.ImageData(source=given.source), model=hftl.CNN(), stages=stages)
    splits = load_splits(override(recipe, given.changes).data, seed=given.seed)
    names = list(given.classes or splits.label_names)
    if unknown := [name for name in names if name not in splits.label_names]:
        raise RecipeError.single("--classes", f"no class {', '.join(unknown)}", f"classes: {', '.join(splits.label_names)}")
    (pictures, classes), (others, _) = (read(splits, split, given.side, names) for split in ("train", "validation"))
    if not len(pictures):
        raise DataError.single("--classes", "no training picture of them", source=given.source)
    if bool((pictures[:, :1] == pictures).all()):  # grey
        pictures, others = pictures[:, :1], others[:, :1]
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(pictures):,} training pictures of {len(names)} classes, {given.side} x {given.side}", flush=True)
    generator, steps = train(pictures, classes, names, given)
    drawn, sheet = [], []
    for place, name in enumerate(names):
        own = torch.cat(list(draw(generator, given.pictures, place, seed=given.seed)))
        folder = given.out / "pictures" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(bytes_of(own)):
            Image.fromarray(pixels).save(folder / f"{number:05d}.png")
        real = pictures[classes == place]
        some = own[:12]
        sheet += [np.concatenate(list(bytes_of(each)), axis=1) for each in (some, real[distances(some, real)[1]])]
        drawn.append(own)
    Image.fromarray(np.concatenate(sheet)).save(given.out / "contact.png")
    near, held = distances(torch.cat(drawn), pictures)[0], distances(others, pictures)[0] if len(others) else torch.empty(0)
    measure = {"nearest_drawn": round(float(near.median()), 4)}
    if len(held):
        limit = held.quantile(0.01)
        measure |= {"nearest_validation": round(float(held.median()), 4), "copies": round(float((near < limit).float().mean()), 4)}
    said: dict[str, object] = {"model": "conditional DCGAN, spectral norm, differentiable augmentation", "steps": steps}
    said |= {"by": "recipes/gan_augmentation.py", "trained_on": f"{len(pictures)} of train", **measure}
    said |= {"data_fingerprint": splits.facts["fingerprint"]["train"]}
    said |= {key: vars(given)[key] for key in ("seed", "side", "width", "batch")}
    (given.out / "pictures" / "provenance.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(measure))
    print(f"hftl train RECIPE data.extra={given.out / 'pictures'} data.extra.name=generated data.extra.weight=0.5")


if __name__ == "__main__":
    try:
        main()
    except HftlError as error:
        sys.exit(f"{type(error).__name__}: {error}")
