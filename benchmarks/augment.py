"""Augmentation alone: ours beside torchvision v2, kornia and (where installed) albumentations, on the same work.

Each image gets its own random numbers in every library. torchvision v2 draws once per call, so it is called per
image; kornia draws per sample of a batch; ours draws per (seed, epoch, sample).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
from collections.abc import Callable

import torch
from results import interleaved
from torch import Tensor
from torchvision.transforms import v2

from medcore.training.augment.apply import augment_images
from medcore.training.augment.recipe import Augment

JITTER = 0.1
WORKS = {
    "flips + colours, 64 px": (64, None, 0.0),
    "flips + colours + rotation, 64 px": (64, None, 15.0),
    "crop 256 → 224 + flips + colours": (256, 224, 0.0),
    "crop 256 → 224 + flips + colours + rotation": (256, 224, 15.0),
}
Run = Callable[[int], object]


def ours(pixels: Tensor, crop: int | None, degrees: float) -> Run:
    """One batched call."""
    recipe = Augment(flip_horizontal=0.5, flip_vertical=0.5, brightness=JITTER, contrast=JITTER, saturation=JITTER,
                     crop=crop, rotation=degrees)  # fmt: skip
    ids = torch.arange(len(pixels))
    return lambda number: augment_images(recipe, pixels, None, ids, seed=0, epoch=number)


def torchvision_v2(pixels: Tensor, crop: int | None, degrees: float) -> Run:
    """One call per image on uint8 tensors, then to float."""
    steps: list[object] = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    steps = ([v2.RandomCrop(crop)] if crop else []) + steps
    steps += [v2.RandomRotation(degrees, v2.InterpolationMode.BILINEAR)] if degrees else []
    steps += [v2.ColorJitter(JITTER, JITTER, JITTER), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose(steps)
    images = pixels.permute(0, 3, 1, 2).contiguous()
    return lambda number: torch.stack([transform(image) for image in images])


def kornia(pixels: Tensor, crop: int | None, degrees: float) -> Run:
    """One call per batch on float tensors."""
    augmentation = importlib.import_module("kornia.augmentation")
    steps = [augmentation.RandomHorizontalFlip(), augmentation.RandomVerticalFlip()]
    steps = ([augmentation.RandomCrop((crop, crop))] if crop else []) + steps
    steps += [augmentation.RandomRotation(degrees)] if degrees else []
    steps += [augmentation.ColorJitter(JITTER, JITTER, JITTER, p=1.0)]
    transform = augmentation.AugmentationSequential(*steps, data_keys=["input"])
    return lambda number: transform(pixels.permute(0, 3, 1, 2).float().div(255))


def albumentations(pixels: Tensor, crop: int | None, degrees: float) -> Run:
    """One call per image on arrays."""
    library = importlib.import_module("albumentations")
    steps = ([library.RandomCrop(crop, crop)] if crop else []) + [library.HorizontalFlip(), library.VerticalFlip()]
    steps += [library.Rotate(degrees, p=1.0)] if degrees else []
    steps += [library.ColorJitter(JITTER, JITTER, JITTER, 0.0, p=1.0), library.ToFloat(255)]
    transform, arrays = library.Compose(steps), pixels.numpy()
    return lambda number: [transform(image=image)["image"] for image in arrays]


PEERS = {"medcore": ours, "torchvision v2": torchvision_v2, "kornia": kornia, "albumentations": albumentations}


def augmentation_table(options: argparse.Namespace, device: torch.device) -> list[str]:
    """Images per second of every library on the same work."""
    lines = ["| work | " + " | ".join(PEERS) + " |", "|---" * (len(PEERS) + 1) + "|"]
    for work, (side, crop, degrees) in WORKS.items():
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (64, side, side, 3), dtype=torch.uint8, generator=generator)
        runs: dict[str, Run] = {}
        for name, make in PEERS.items():
            if importlib.util.find_spec(name.split()[0]) is not None:
                on_device = pixels.to(device) if name in ("medcore", "kornia") else pixels
                runs[name] = make(on_device, crop, degrees)
        rates = interleaved(runs, len(pixels), options.rounds, device, cpu_time=options.cpu_time)
        cells = [f"{statistics.median(rates[name]):,.0f}" if name in rates else "not installed" for name in PEERS]
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines
