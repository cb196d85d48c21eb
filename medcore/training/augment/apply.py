"""Random changes of training images: one recipe, applied per sample in a few batched kernels on the device.

    recipe = Augment(flip_horizontal=0.5, turns=True, rotation=15, brightness=0.1, stain=0.1)
    images, masks = augment_images(recipe, images, masks, ids, seed=0, epoch=3)

- What happens to a sample is a function of (seed, epoch, sample id) only: see ``randomness.py``.
- Flips, quarter turns and crops move whole pixels and are exact; rotation, scale, shift and elastic share a single
  interpolation. Masks go through the same geometry with nearest neighbours.
- Draws are made on the host, so that nothing waits for the GPU.

What an augmentation does, as pictures for a notebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcore.training.augment import colour, geometry
from medcore.training.augment.colour import choose_colour
from medcore.training.augment.geometry import choose_geometry
from medcore.training.augment.recipe import Augment, Chosen, Draws, as_augment
from medcore.training.randomness import AUGMENT, NOISE, keys


def augment_images(
    recipe: Augment | None,
    pixels: Tensor,
    masks: Tensor | None,
    ids: Tensor,
    *,
    seed: int,
    epoch: int,
    sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Turn stored pixels into training images, changed at random per sample.

    Args:
        recipe: What may happen; None changes nothing.
        pixels: uint8 on the device. **Shape** ``(B, H, W, C)``.
        masks: Class indexes, 255 = ignore, on the device. **Shape** ``(B, H, W)`` uint8; or None.
        ids: Rows of the set's store, on the host. **Shape** ``(B,)`` int64.
        sizes: Height and width without padding, so that a crop stays inside. **Shape** ``(B, 2)`` int64 on the host.

    Returns:
        Images in [0, 1], **Shape** ``(B, C, H, W)`` float32, and the masks. A crop changes H and W.
    """
    if recipe is None:
        return to_float(pixels), masks
    chosen = choose(recipe, ids, pixels.shape[1:], pixels.device, seed=seed, epoch=epoch, sizes=sizes)
    return apply_chosen(recipe, pixels, masks, chosen, seed=seed)


def choose(
    recipe: Augment,
    ids: Tensor,
    shape: Sequence[int],
    device: torch.device,
    *,
    seed: int,
    epoch: int,
    sizes: Tensor | None = None,
) -> Chosen:
    """What happens to each sample: tensors by name, each with the samples along its first axis.

    Args:
        shape: Height, width and channels of the stored images.
    """
    draws = Draws(keys(ids, seed, epoch, AUGMENT), device)
    side, (height, width, channels) = recipe.crop, shape
    if sizes is None and side is not None:
        sizes = torch.tensor([height, width]).expand(len(ids), 2)
    seen = (height, width) if side is None else (side, side)
    node_keys = keys(ids, seed, epoch, NOISE) if recipe.elastic else None
    return choose_geometry(recipe, draws, seen, sizes, node_keys) | choose_colour(recipe, draws, channels)


def apply_chosen(
    recipe: Augment, pixels: Tensor, masks: Tensor | None, chosen: Chosen, *, seed: int
) -> tuple[Tensor, Tensor | None]:
    """:func:`augment_images` with what :func:`choose` chose; ``seed`` fixes the bank of noise."""
    shape = pixels.shape[1:3] if recipe.crop is None else (recipe.crop, recipe.crop)
    count = len(pixels)
    at_once = max(1, CACHED_PIXELS // (shape[0] * shape[1])) if pixels.device.type == "cpu" else count
    if count <= at_once:
        return _apply_to_chunk(recipe, pixels, masks, chosen, seed)
    # one block for all: what a chunk needs on its way is taken from the same warm memory again and again
    images = torch.empty((count, pixels.shape[3], *shape), device=pixels.device)
    changed = None if masks is None else torch.empty((count, *shape), dtype=masks.dtype, device=masks.device)
    for start in range(0, count, at_once):
        rows = slice(start, start + at_once)
        part, part_masks = _apply_to_chunk(
            recipe, pixels[rows], None if masks is None else masks[rows], part_of(chosen, rows), seed
        )
        images[rows] = part
        if changed is not None and part_masks is not None:
            changed[rows] = part_masks
    return images, changed


def part_of(chosen: Chosen, rows: slice) -> Chosen:
    """What was chosen for some of the samples."""
    return {name: values[rows] for name, values in chosen.items()}


# on a CPU, a chunk of images stays in the cache through all kernels: × 3 channels × 4 bytes = 3 MB
CACHED_PIXELS = 1 << 18


def _apply_to_chunk(
    recipe: Augment, pixels: Tensor, masks: Tensor | None, chosen: dict[str, Tensor], seed: int
) -> tuple[Tensor, Tensor | None]:
    if recipe.crop is not None:
        pixels = geometry.crop(pixels, chosen["corners"], recipe.crop)
        masks = None if masks is None else geometry.crop(masks, chosen["corners"], recipe.crop)
    planes = pixels.permute(0, 3, 1, 2).contiguous()  # the kernels below run over whole planes
    if "elements" in chosen:
        planes = geometry.dihedral(planes, chosen["elements"])
        masks = None if masks is None else geometry.dihedral(masks, chosen["elements"])
    images = planes.to(torch.float32)
    if "matrix" in chosen and "stain_matrix" not in chosen:  # what follows is linear: the mixing of colours divides
        chosen = chosen | {name: chosen[name] / 255.0 for name in ("matrix", "lift")}
    else:
        images.div_(255.0)
    if "affine" in chosen:
        images, masks = geometry.warp(images, masks, chosen["affine"], chosen.get("elastic"))
    return colour.change(recipe, images, chosen, seed), masks


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as images in [0, 1]. **Shape** ``(B, H, W, C)`` -> ``(B, C, H, W)``, channels-last in memory."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)


def augmented_examples(
    recipe: Augment | str | dict[str, Any] | None, images: np.ndarray, *, count: int = 7, seed: int = 0
) -> np.ndarray:
    """Each image followed by variants of it, as epochs 1, 2, … of a run with this seed would see them.

    Args:
        recipe: A preset's name or an ``Augment``.
        images: uint8. **Shape** ``(n, H, W, C)``.

    Returns:
        uint8 images, row by row. **Shape** ``(n * (count + 1), H, W, C)``.
    """
    pixels, ids = torch.from_numpy(np.ascontiguousarray(images)), torch.arange(len(images))
    epochs = [
        augment_images(as_augment(recipe), pixels, None, ids, seed=seed, epoch=epoch)[0]
        for epoch in range(1, count + 1)
    ]
    variants = torch.stack(epochs, dim=1).mul(255).round().clamp(0, 255).to(torch.uint8)
    rows = torch.cat([pixels.permute(0, 3, 1, 2)[:, None], variants], dim=1)
    return rows.flatten(0, 1).permute(0, 2, 3, 1).contiguous().numpy()
