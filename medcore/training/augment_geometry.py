"""Geometric changes of a batch: exact moves of whole pixels, and one interpolation for everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medcore.errors import MedcoreError

if TYPE_CHECKING:
    from medcore.training.augment import Augment, Draws


def move_pixels(recipe: Augment, pixels: Tensor, masks: Tensor | None, draws: Draws) -> tuple[Tensor, Tensor | None]:
    """Crop, flip and turn by quarters: every output pixel is an input pixel.

    **Shape** pixels ``(B, H, W, C)``, masks ``(B, H, W)`` or None -> the same with the crop's height and width.
    """
    height, width = pixels.shape[1:3]
    if recipe.crop is not None:
        corners = crop_corners(recipe.crop, height, width, draws)
        pixels = crop(pixels, corners, recipe.crop)
        masks = None if masks is None else crop(masks, corners, recipe.crop)
    elements = dihedral_elements(recipe, pixels.shape[1] == pixels.shape[2], draws)
    if elements is None:
        return pixels, masks
    return dihedral(pixels, elements), None if masks is None else dihedral(masks, elements)


def crop_corners(side: int, height: int, width: int, draws: Draws) -> Tensor:
    """Top-left corners of random windows, on the host. **Shape** ``(B, 2)`` int64."""
    if side > min(height, width):
        raise MedcoreError(f"Augment(crop={side}): larger than the images of {height}×{width} pixels")
    room = torch.tensor([height - side + 1, width - side + 1])
    return (torch.stack([draws.on_host("crop_y"), draws.on_host("crop_x")], 1) * room).long()


def crop(stack: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cut one window out of each image. **Shape** ``(B, H, W, ...)`` -> ``(B, side, side, ...)``."""
    windows = [image[y : y + side, x : x + side] for image, (y, x) in zip(stack, corners.tolist(), strict=True)]
    return torch.stack(windows)


def dihedral_elements(recipe: Augment, square: bool, draws: Draws) -> Tensor | None:
    """Which of the eight symmetries of the square each sample gets, on the host. **Shape** ``(B,)`` int64.

    Bit 0 flips columns, bit 1 flips rows, bit 2 transposes before that; None when all images stay.
    """
    if not (recipe.flip_horizontal or recipe.flip_vertical or recipe.turns):
        return None
    columns = draws.on_host("flip_horizontal") < recipe.flip_horizontal
    rows = draws.on_host("flip_vertical") < recipe.flip_vertical
    transposed = torch.zeros_like(rows)
    if recipe.turns:
        quarter = (draws.on_host("turns") * 4).long() if square else (draws.on_host("turns") * 2).long() * 2
        # a turn by 90 degrees anticlockwise is: transpose, then flip the rows
        transposed = quarter % 2 == 1
        turned_rows, turned_columns = (quarter == 1) | (quarter == 2), (quarter == 2) | (quarter == 3)
        rows, columns = rows ^ turned_rows, columns ^ turned_columns
    return columns.long() + 2 * rows.long() + 4 * transposed.long()


def dihedral(stack: Tensor, elements: Tensor) -> Tensor:
    """Apply one symmetry of the square to each image. **Shape** ``(B, H, W, ...)`` -> the same."""
    result = torch.empty_like(stack)
    for element in range(8):
        members = torch.nonzero(elements == element).flatten()
        if len(members) == 0:
            continue
        members = members.to(stack.device, non_blocking=True)
        result[members] = _symmetry(stack[members], element)
    return result


def _symmetry(stack: Tensor, element: int) -> Tensor:
    stack = stack.transpose(1, 2) if element & 4 else stack
    flipped = [axis for axis, bit in ((2, 1), (1, 2)) if element & bit]
    return stack.flip(flipped) if flipped else stack


def warp(recipe: Augment, images: Tensor, masks: Tensor | None, draws: Draws) -> tuple[Tensor, Tensor | None]:
    """Rotate, magnify, shift and bend in one interpolation; what lies outside is mirrored in.

    **Shape** images ``(B, C, H, W)``, masks ``(B, H, W)`` or None -> the same.
    """
    raise NotImplementedError
