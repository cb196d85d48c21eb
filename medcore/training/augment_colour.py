"""Changes of colour, sharpness and noise of a batch; every pixel stays in its place.

Brightness, contrast, saturation and hue are linear in RGB once the image's mean grey is known, so all four are one
3×3 matrix and one offset per sample. Stain jitter is linear in optical density.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medcore.data import stain
from medcore.errors import MedcoreError
from medcore.training.randomness import constant

if TYPE_CHECKING:
    from medcore.training.augment import Augment, Draws

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
DARKEST = 1 / 255  # optical density of black would be infinite
NOISE_BANK = 1 << 20


def change(recipe: Augment, images: Tensor, draws: Draws, seed: int) -> Tensor:
    """Stain, brightness, contrast, saturation, hue, blur and noise, in this order.

    **Shape** ``(B, C, H, W)`` in [0, 1], contiguous -> the same.
    """
    colours = recipe.brightness or recipe.contrast or recipe.saturation or recipe.hue
    if images.shape[1] != 3 and (recipe.stain or recipe.saturation or recipe.hue):
        raise MedcoreError(f"Augment: stain, saturation and hue need 3 channels; these images have {images.shape[1]}")
    if recipe.stain:
        images = jitter_stains(images, *stain_factors(recipe, draws), recipe.stains)
    if colours:
        images = jitter_colours(recipe, images, draws)
    if recipe.blur:
        images = blur(images, draws.on_host("blur_share") < recipe.blur_share, draws["blur"] * recipe.blur, recipe.blur)
    if recipe.noise:
        chosen = draws.on_host("noise_share") < recipe.noise_share
        images = add_noise(images, chosen, draws["noise"] * recipe.noise, draws.on_host("noise_place"), seed)
    return images.clamp_(0, 1) if colours or recipe.stain or recipe.noise else images


def stain_factors(recipe: Augment, draws: Draws) -> tuple[Tensor, Tensor]:
    """What each stain is multiplied with and shifted by (natural-log density). **Shape** ``(B, 3)`` twice."""
    factors = torch.stack([draws.around(f"stain_{n}", recipe.stain) for n in (1, 2, 3)], 1)
    shifts = torch.stack([draws.around(f"stain_{n}", 0.1 * recipe.stain, 0.0) for n in (4, 5, 6)], 1)
    return factors, shifts


def jitter_stains(images: Tensor, factors: Tensor, shifts: Tensor, stains: str) -> Tensor:
    """Change the amount of each stain (and of what neither explains).

    Args:
        images: **Shape** ``(B, 3, H, W)`` in [0, 1].
        factors: Of haematoxylin, the other stain and the residual. **Shape** ``(B, 3)``.
        shifts: As ``factors``, natural-log optical density.
        stains: ``he`` or ``hdab``.

    Returns:
        **Shape** ``(B, 3, H, W)``; the caller clamps.

    **Reference** Tellez et al. 2018, doi:10.1109/TMI.2018.2820199.
    """
    rows = stain.HAEMATOXYLIN_EOSIN if stains == "he" else stain.HAEMATOXYLIN_DAB
    matrix = constant(tuple(map(tuple, rows.tolist())), images.device)
    inverse = constant(tuple(map(tuple, np.linalg.inv(rows).tolist())), images.device)
    # amounts = density @ inverse; density' = (amounts · factors + shifts) @ matrix, here with pixels as columns
    turned = torch.einsum("js,bs,sk->bkj", inverse, factors, matrix)  # (B, 3, 3)
    offset = -(shifts @ matrix)[:, :, None]  # (B, 3, 1)
    log = images.flatten(2).clamp(min=DARKEST).log_()  # minus the density
    return torch.baddbmm(offset, turned, log).exp_().view_as(images)


def jitter_colours(recipe: Augment, images: Tensor, draws: Draws) -> Tensor:
    """Brightness, then contrast, saturation and hue as one matrix. **Shape** ``(B, C, H, W)``; the caller clamps."""
    brightness, contrast = draws.around("brightness", recipe.brightness), draws.around("contrast", recipe.contrast)
    saturation = draws.around("saturation", recipe.saturation)
    angle = draws.around("hue", recipe.hue, 0.0) * (2 * math.pi)
    return apply_colours(images, brightness, contrast, saturation, angle)


def apply_colours(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, angle: Tensor) -> Tensor:
    """Colours changed by given amounts.

    Args:
        images: **Shape** ``(B, C, H, W)``, C 1 or 3.
        brightness: Factor of all values. **Shape** ``(B,)``.
        contrast: Factor of the distance from the image's mean grey. **Shape** ``(B,)``.
        saturation: Factor of the distance from the pixel's grey. **Shape** ``(B,)``.
        angle: Turn of the hue about the grey axis, radians. **Shape** ``(B,)``.
    """
    flat = images.flatten(2)  # (B, C, HW)
    channels = flat.shape[1]
    grey = constant(GREY if channels == 3 else (1.0 / channels,) * channels, images.device)
    mean = flat.mean(2) @ grey  # (B,)
    offset = ((1 - contrast) * brightness * mean)[:, None, None].expand(-1, channels, 1)
    scale = (brightness * contrast)[:, None, None]
    if channels != 3:
        return (flat * scale + offset).view_as(images)
    identity = torch.eye(3, device=images.device)
    saturate = saturation[:, None, None] * identity + (1 - saturation)[:, None, None] * grey.expand(3, 3)
    # grey stays grey under both, so the offset need not go through them
    return torch.baddbmm(offset, hue_rotation(angle) @ saturate * scale, flat).view_as(images)


def hue_rotation(angle: Tensor) -> Tensor:
    """Rotation of RGB about the grey axis; a third of a turn makes red green. **Shape** ``(B,)`` -> ``(B, 3, 3)``."""
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = constant(((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)), angle.device) / math.sqrt(3)
    return cosine * torch.eye(3, device=angle.device) + sine * cross + (1 - cosine) / 3


def blur(images: Tensor, chosen: Tensor, sigmas: Tensor, largest: float) -> Tensor:
    """Gaussian blur of the chosen samples, each with its own width; edges are mirrored.

    Args:
        images: **Shape** ``(B, C, H, W)``.
        chosen: Which samples, on the host. **Shape** ``(B,)`` bool.
        sigmas: Standard deviations, pixels. **Shape** ``(B,)``.
        largest: The largest one possible: fixes the window.
    """
    rows = torch.nonzero(chosen).flatten().to(images.device, non_blocking=True)
    radius = min(math.ceil(3 * largest), min(images.shape[-2:]) - 1)
    if len(rows) == 0 or radius == 0:
        return images
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernels = torch.exp(-(taps**2) / (2 * sigmas[rows, None].clamp_min(1e-3) ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)  # (n·C, taps)
    picked = images[rows].flatten(0, 1)[None]  # (1, n·C, H, W): one group per channel of each sample
    groups = picked.shape[1]
    picked = F.conv2d(F.pad(picked, (radius, radius, 0, 0), "reflect"), kernels[:, None, None, :], groups=groups)
    picked = F.conv2d(F.pad(picked, (0, 0, radius, radius), "reflect"), kernels[:, None, :, None], groups=groups)
    return images.index_copy(0, rows, picked[0].view(len(rows), *images.shape[1:]))


def add_noise(images: Tensor, chosen: Tensor, deviations: Tensor, places: Tensor, seed: int) -> Tensor:
    """Gaussian noise on the chosen samples; the caller clamps.

    Each sample reads its noise from a bank of normal numbers at a place of its own, which costs a copy instead of a
    draw per pixel.

    Args:
        images: **Shape** ``(B, C, H, W)``.
        chosen: Which samples, on the host. **Shape** ``(B,)`` bool.
        deviations: Standard deviations, in units of [0, 1]. **Shape** ``(B,)``.
        places: Where in the bank, as numbers in [0, 1), on the host. **Shape** ``(B,)``.
        seed: Fixes the bank.
    """
    size = images[0].numel()
    bank = noise_bank(seed, NOISE_BANK + size, images.device)
    starts = (places.double() * NOISE_BANK).long()
    images = images.clone()
    for row in torch.nonzero(chosen).flatten().tolist():
        noise = bank[int(starts[row]) : int(starts[row]) + size].view_as(images[row])
        images[row].addcmul_(noise, deviations[row])
    return images


@lru_cache(maxsize=2)
def noise_bank(seed: int, size: int, device: torch.device) -> Tensor:
    """Standard normal numbers, the same on every device. **Shape** ``(size,)``."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(device)
