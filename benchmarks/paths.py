"""Four ways to train the same model on the same images, for benchmarks/training.py: ours and three peers.

- ``medcore``: uint8 in memory, batched augmentation, the precision that the rules choose, metrics on the device.
- ``files``: what people write by hand: fp32, a DataLoader over image files, PIL and torchvision transforms per image.
- ``arrays``: a DataLoader over an array in memory with torchvision v2 transforms on tensors.
- ``timm``: timm's loader over the same files with its usual augmentation for the same changes.

All use the same model, optimiser, loss, batch size and amounts of augmentation, and count the same images. Peers keep
their worker processes alive between epochs, so starting them costs nothing here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.models.autoencoder import ConvAutoencoder
from medcore.models.classifier import build_classifier
from medcore.models.unet import build_unet
from medcore.training import fit as loop
from medcore.training.augment.recipe import Augment
from medcore.training.batches import Batch
from medcore.training.config import TrainConfig
from medcore.training.objectives import Classification, Objective, Reconstruction, Segmentation
from medcore.training.progress import Display
from medcore.training.state import TrainState, prepare_run

CLASSES = 9
JITTER = 0.1
RECIPE = Augment(flip_horizontal=0.5, flip_vertical=0.5, brightness=JITTER, contrast=JITTER, saturation=JITTER)
MODELS = ("autoencoder", "resnet18", "resnet50", "densenet121", "efficientnet_b0", "efficientnet_b3", "unet")
FURTHER = ("small_cnn", "mobilenet_v2", "convnext_tiny")  # in the table of number formats
LARGE = ("unet_resnet50",)  # by name: for a GPU
Epoch = Callable[[int], None]


def make_model(name: str, side: int) -> tuple[nn.Module, Objective]:
    """A fresh model and its objective."""
    torch.manual_seed(0)
    if name == "autoencoder":
        return ConvAutoencoder(side, 3, 64), Reconstruction("mse")
    if name.startswith("unet"):
        return build_unet("resnet50" if name == "unet_resnet50" else "resnet18", 2), Segmentation(2, loss="ce")
    return build_classifier(name, CLASSES), Classification(CLASSES)


def make_set(count: int, side: int, seed: int = 0) -> PatchSet:
    """Smooth random images (noise would make JPEG files unfairly slow to read) with labels and masks."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, max(side // 8, 2), max(side // 8, 2), generator=generator)
    smooth = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    images = (smooth.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    labels = np.random.default_rng(seed).integers(0, CLASSES, count)
    card = Card("benchmark", classes=[f"c{number}" for number in range(CLASSES)], synthetic=True)
    return PatchSet.from_arrays(images, {"label": labels}, card, (images[..., 0] > 128).astype(np.uint8))


def write_files(patches: PatchSet, folder: Path) -> list[Path]:
    """The images as JPEG files of high quality, the masks as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    assert patches.mask_store is not None
    paths = []
    for number, (image, mask) in enumerate(zip(patches.store, patches.mask_store, strict=True)):
        paths.append(folder / f"{number:06d}.jpg")
        Image.fromarray(image).save(paths[-1], quality=95)
        Image.fromarray(mask).save(folder / f"{number:06d}.png")
    return paths


# ---- ours


def our_state(name: str, patches: PatchSet, device: torch.device, **options: Any) -> TrainState:
    """A run of ours between two steps."""
    model, objective = make_model(name, patches.shape[0])
    config = TrainConfig(**({"augment": RECIPE, "schedule": "constant", "device": str(device)} | options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one set stands on both sides: only time is measured
        return prepare_run(model, objective, (patches, patches, None), config, device, None, False)


def our_epoch(name: str, patches: PatchSet, device: torch.device, **options: Any) -> Epoch:
    """One epoch of ours, with losses and metrics as in a real run."""
    state = our_state(name, patches, device, **options)
    display = Display(state, None, show=False)
    return lambda number: loop.train_epoch(state, number, display) and None


class ConstantBatches:
    """As many batches as an epoch has, always the same one: training without any loader."""

    def __init__(self, state: TrainState) -> None:
        self.batches = list(state.batches.epoch(1, state.config.augment))
        self.steps = len(state.batches)

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int, augment: Augment | None = None) -> Iterator[Batch]:
        """The first batch again and again."""
        for batch in self.batches:
            yield Batch(
                self.batches[0].images[: len(batch)],
                self.batches[0].labels[: len(batch)],
                None if self.batches[0].masks is None else self.batches[0].masks[: len(batch)],
                batch.ids,
                batch.weight,
                batch.closes_step,
            )


# ---- peers


class Files(Dataset):
    """Image files read with PIL; masks are read where they are needed."""

    def __init__(self, paths: list[Path], labels: np.ndarray, transform: Any, masks: bool) -> None:
        self.paths, self.labels, self.transform, self.masks = paths, labels, transform, masks

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        image = self.transform(Image.open(self.paths[row]).convert("RGB"))
        if self.masks:  # image and mask are not flipped together here: only time is measured
            return image, torch.from_numpy(np.array(Image.open(self.paths[row].with_suffix(".png"))).astype(np.int64))
        return image, int(self.labels[row])


class Arrays(Dataset):
    """Rows of an array in memory."""

    def __init__(self, patches: PatchSet, transform: Any, masks: bool) -> None:
        self.patches, self.transform, self.masks = patches, transform, masks

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, row: int) -> tuple[Tensor, Any]:
        image = self.transform(torch.from_numpy(np.array(self.patches.store[row])).permute(2, 0, 1))
        if self.masks and self.patches.mask_store is not None:
            return image, torch.from_numpy(self.patches.mask_store[row].astype(np.int64))
        return image, int(self.patches.labels[row])


def peer_loader(kind: str, patches: PatchSet, paths: list[Path], batch_size: int, workers: int, masks: bool) -> Any:
    """The batches of a peer. Normalisation is part of the model in all paths."""
    jitter = (JITTER, JITTER, JITTER)
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": True, "num_workers": workers}
    options |= {"persistent_workers": workers > 0}
    if kind == "files":
        steps = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
        steps += [transforms.ColorJitter(*jitter), transforms.ToTensor()]
        return DataLoader(Files(paths, patches.labels, transforms.Compose(steps), masks), **options)
    if kind == "arrays":
        modern = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.ColorJitter(*jitter)]
        return DataLoader(
            Arrays(patches, v2.Compose([*modern, v2.ToDtype(torch.float32, scale=True)]), masks), **options
        )
    from timm.data import create_loader

    return create_loader(
        Files(paths, patches.labels, None, masks),
        input_size=(3, *patches.shape[:2]),
        batch_size=batch_size,
        is_training=True,
        use_prefetcher=False,
        no_aug=False,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        hflip=0.5,
        vflip=0.5,
        color_jitter=JITTER,
        auto_augment=None,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        num_workers=workers,
        persistent_workers=workers > 0,
        device=torch.device("cpu"),
    )


def peer_epoch(
    kind: str, name: str, patches: PatchSet, paths: list[Path], device: torch.device, batch_size: int, workers: int
) -> Epoch:
    """One epoch of a peer: the usual fp32 loop with the running loss and accuracy read at every step."""
    model = make_model(name, patches.shape[0])[0].to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    loader = peer_loader(kind, patches, paths, batch_size, workers, name.startswith("unet"))

    def epoch(number: int) -> None:
        total = correct = 0.0
        for images, target in loader:
            images, target = images.to(device), target.to(device)
            output = model(images)
            if name == "autoencoder":
                loss = F.mse_loss(output, images)
            elif name.startswith("unet"):
                loss = (
                    sum(
                        weight * F.cross_entropy(one, target)
                        for weight, one in zip((1, 0.5, 0.25), output, strict=False)
                    )
                    / 1.75
                )  # type: ignore[assignment]
            else:
                loss = F.cross_entropy(output, target)
                correct += (output.argmax(1) == target).sum().item()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(images)

    return epoch
