"""Geometric changes of a batch: exact moves of whole pixels, and one interpolation for everything else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.training.randomness import constant, uniform

if TYPE_CHECKING:
    from medcore.training.augment.recipe import Augment, Draws


ELASTIC_NODES = 5  # displacements are drawn on a grid of 5×5 nodes and smoothed in between


def choose_geometry(
    recipe: Augment, draws: Draws, shape: tuple[int, int] | torch.Size, sizes: Tensor | None, node_keys: Tensor | None
) -> dict[str, Tensor]:
    """What happens to each sample: ``corners`` and ``elements`` (on the host), ``affine`` and ``elastic``.

    Args:
        shape: Height and width after cropping.
        sizes: Height and width of each image without its padding, for crops. **Shape** ``(B, 2)`` int64.
        node_keys: Keys of the elastic field, where there is one. **Shape** ``(B,)`` int64.
    """
    chosen: dict[str, Tensor] = {}
    height, width = shape
    if recipe.crop is not None and sizes is not None:
        chosen["corners"] = crop_corners(recipe.crop, sizes, draws)
    elements = dihedral_elements(recipe, height == width, draws)
    if elements is not None:
        chosen["elements"] = elements
    if recipe.interpolates:
        chosen["affine"] = affine_of(recipe, draws, height, width)
    if node_keys is not None:
        node_draws = uniform(node_keys, 2 * ELASTIC_NODES**2).to(chosen["affine"].device, non_blocking=True)
        chosen["elastic"] = elastic_nodes(node_draws, recipe.elastic, height, width)
    return chosen


def crop_corners(side: int, sizes: Tensor, draws: Draws) -> Tensor:
    """Top-left corners of random windows within each image's own size, on the host. **Shape** ``(B, 2)`` int64.

    Args:
        side: Side of the window, pixels.
        sizes: Height and width of each image without its padding. **Shape** ``(B, 2)`` int64.
    """
    room = (sizes - side + 1).clamp_min(1)  # an image smaller than the window keeps some of its padding
    return (torch.stack([draws.on_host("crop_y"), draws.on_host("crop_x")], 1) * room).long()


def crop(stack: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cut one window out of each image. **Shape** ``(B, H, W, ...)`` -> ``(B, side, side, ...)``."""
    height, width = stack.shape[1:3]
    if side > min(height, width):
        raise MedcoreError(f"Augment(crop={side}): larger than the images of {height}×{width} pixels")
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
        # a turn by 90 degrees anticlockwise is: transpose, then flip the rows; the flips asked for come first
        transposed = quarter % 2 == 1
        rows, columns = torch.where(transposed, columns, rows), torch.where(transposed, rows, columns)
        rows, columns = rows ^ ((quarter == 1) | (quarter == 2)), columns ^ ((quarter == 2) | (quarter == 3))
    return columns.long() + 2 * rows.long() + 4 * transposed.long()


def dihedral(stack: Tensor, elements: Tensor) -> Tensor:
    """Apply one symmetry of the square to each image. **Shape** ``(B, ..., H, W)`` -> the same.

    Images of one symmetry are moved together, once sorted and once back: a call per image costs more than the flip.
    """
    order = torch.argsort(elements, stable=True)
    groups = _rows(stack, order).split(torch.bincount(elements, minlength=8).tolist())
    moved = torch.cat([_symmetry(group, element) for element, group in enumerate(groups) if len(group)])
    return _rows(moved, torch.argsort(order))


def _rows(stack: Tensor, places: Tensor) -> Tensor:
    return stack.index_select(0, places.to(stack.device, non_blocking=True))


def _symmetry(stack: Tensor, element: int) -> Tensor:
    stack = stack.transpose(-1, -2) if element & 4 else stack
    flipped = [axis for axis, bit in ((-1, 1), (-2, 2)) if element & bit]
    return stack.flip(flipped) if flipped else stack


def warp(images: Tensor, masks: Tensor | None, affine: Tensor, elastic: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Rotate, magnify, shift and bend in one interpolation; what lies outside is mirrored in.

    Args:
        images: **Shape** ``(B, C, H, W)`` float.
        masks: **Shape** ``(B, H, W)`` uint8; or None.
        affine: From output to input coordinates in [-1, 1]. **Shape** ``(B, 2, 3)``.
        elastic: Displacements of the nodes in the same coordinates. **Shape** ``(B, 2, nodes, nodes)``; or None.

    Returns:
        Images (bilinear) and masks (nearest) of the same shapes.
    """
    height, width = images.shape[-2:]
    grid = sampling_grid(affine, height, width)
    if elastic is not None:
        field = F.interpolate(elastic, (height, width), mode="bicubic", align_corners=True)
        grid += field.permute(0, 2, 3, 1)
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if masks is not None:
        # mirroring and rounding work on the same coordinates as for the image; class numbers are exact in float32
        floating = masks[:, None].to(torch.float32)
        nearest = F.grid_sample(floating, grid, mode="nearest", padding_mode="reflection", align_corners=False)
        masks = nearest[:, 0].to(torch.uint8)
    return warped, masks


def sampling_grid(affine: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel looks, as torch's ``affine_grid`` but in two sums. **Shape** -> ``(B, H, W, 2)``."""
    right = (torch.arange(width, device=affine.device) * 2 + 1) / width - 1
    down = (torch.arange(height, device=affine.device) * 2 + 1) / height - 1
    grid = torch.empty(len(affine), height, width, 2, device=affine.device)
    for axis in (0, 1):
        along, across, offset = (affine[:, axis, place, None] for place in (0, 1, 2))
        torch.add((along * right)[:, None, :], (across * down + offset)[:, :, None], out=grid[..., axis])
    return grid


def affine_of(recipe: Augment, draws: Draws, height: int, width: int) -> Tensor:
    """From output to input coordinates in [-1, 1], rotation anticlockwise about the centre. **Shape** ``(B, 2, 3)``."""
    angle = draws.around("rotation", recipe.rotation, 0.0) * (math.pi / 180)
    low, high = recipe.scale
    inverse = 1 / (low + (high - low) * draws["scale"])
    cosine, sine = angle.cos() * inverse, angle.sin() * inverse
    right, down = draws.around("shift_x", 2 * recipe.shift, 0.0), draws.around("shift_y", 2 * recipe.shift, 0.0)
    # rotation acts on pixels, so the off-diagonal terms carry the ratio of the sides
    rows = [cosine, -sine * (height / width), -right, sine * (width / height), cosine, -down]
    return torch.stack(rows, 1).reshape(-1, 2, 3)


def elastic_nodes(node_draws: Tensor, pixels: float, height: int, width: int) -> Tensor:
    """Displacements of up to ``pixels`` pixels. **Shape** ``(B, 2·nodes²)`` -> ``(B, 2, nodes, nodes)``."""
    nodes = (2 * node_draws - 1).reshape(-1, 2, ELASTIC_NODES, ELASTIC_NODES)
    return nodes * constant((2 * pixels / width, 2 * pixels / height), nodes.device)[:, None, None]
