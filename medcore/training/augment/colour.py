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
    from medcore.training.augment.recipe import Augment, Draws


GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
DARKEST = 1 / 255  # optical density of black would be infinite
NOISE_BANK = 1 << 20


def choose_colour(recipe: Augment, draws: Draws, channels: int) -> dict[str, Tensor]:
    """What happens to each sample, as matrices and amounts.

    Raises:
        MedcoreError: A change of colour was asked for that these channels do not have.
    """
    if channels != 3 and (recipe.stain or recipe.saturation or recipe.hue):
        raise MedcoreError(f"Augment: stain, saturation and hue need 3 channels; these images have {channels}")
    chosen: dict[str, Tensor] = {}
    if recipe.stain:
        chosen["stain_matrix"], chosen["stain_offset"] = stain_change(*stain_factors(recipe, draws), recipe.stains)
    if recipe.brightness or recipe.contrast or recipe.saturation or recipe.hue:
        brightness, contrast = draws.around("brightness", recipe.brightness), draws.around("contrast", recipe.contrast)
        saturation = draws.around("saturation", recipe.saturation)
        angle = draws.around("hue", recipe.hue, 0.0) * (2 * math.pi) if recipe.hue else None
        chosen["matrix"], chosen["lift"] = colour_change(brightness, contrast, saturation, angle, channels)
    if recipe.blur:
        chosen["blurred"] = draws.on_host("blur_share") < recipe.blur_share
        chosen["sigma"] = draws["blur"] * recipe.blur
    if recipe.noise:
        chosen["noisy"] = draws.on_host("noise_share") < recipe.noise_share
        chosen["deviation"] = draws["noise"] * recipe.noise
        chosen["place"] = draws.on_host("noise_place")
    return chosen


def change(recipe: Augment, images: Tensor, chosen: dict[str, Tensor], seed: int) -> Tensor:
    """Stain, then brightness, contrast, saturation and hue, blur, noise.

    **Shape** ``(B, C, H, W)`` in [0, 1], contiguous -> the same.
    """
    if "stain_matrix" in chosen:
        images = mix_density(images, chosen["stain_matrix"], chosen["stain_offset"])
    if "matrix" in chosen:
        images = mix_colours(images, chosen["matrix"], chosen["lift"])
    if "blurred" in chosen:
        images = blur_some(images, chosen["blurred"], chosen["sigma"], recipe.blur)
    if "noisy" in chosen:
        images = add_noise(images, chosen["noisy"], chosen["deviation"], chosen["place"], seed)
    changed = {"stain_matrix", "matrix", "noisy"} & chosen.keys()
    return images.clamp_(0, 1) if changed else images


def stain_factors(recipe: Augment, draws: Draws) -> tuple[Tensor, Tensor]:
    """What each stain is multiplied with and shifted by (natural-log density). **Shape** ``(B, 3)`` twice."""
    factors = torch.stack([draws.around(f"stain_{n}", recipe.stain) for n in (1, 2, 3)], 1)
    shifts = torch.stack([draws.around(f"stain_{n}", 0.1 * recipe.stain, 0.0) for n in (4, 5, 6)], 1)
    return factors, shifts


def stain_change(factors: Tensor, shifts: Tensor, stains: str) -> tuple[Tensor, Tensor]:
    """A change of the amount of each stain (and of what neither explains), as it acts on log intensities.

    Args:
        factors: Of haematoxylin, the other stain and the residual. **Shape** ``(B, 3)``.
        shifts: As ``factors``, natural-log optical density.

    Returns:
        A matrix, **Shape** ``(B, 3, 3)``, and an offset, **Shape** ``(B, 3, 1)``.

    **Reference** Tellez et al. 2018, doi:10.1109/TMI.2018.2820199.
    """
    rows = stain.HAEMATOXYLIN_EOSIN if stains == "he" else stain.HAEMATOXYLIN_DAB
    matrix = constant(tuple(map(tuple, rows.tolist())), factors.device)
    inverse = constant(tuple(map(tuple, np.linalg.inv(rows).tolist())), factors.device)
    # amounts = density @ inverse; density' = (amounts · factors + shifts) @ matrix, here with pixels as columns
    return torch.einsum("js,bs,sk->bkj", inverse, factors, matrix), -(shifts @ matrix)[:, :, None]


def mix_density(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Mix channels in log intensity. **Shape** ``(B, 3, H, W), (B, 3, 3), (B, 3, 1)``; the caller clamps."""
    log = images.flatten(2).clamp(min=DARKEST).log_()  # minus the density
    return torch.baddbmm(offset, matrix, log).exp_().view_as(images)


def colour_change(
    brightness: Tensor, contrast: Tensor, saturation: Tensor, angle: Tensor | None, channels: int
) -> tuple[Tensor, Tensor]:
    """Brightness, then contrast, saturation and hue as one matrix and a share of the mean grey to add.

    Args:
        brightness: Factor of all values. **Shape** ``(B,)``.
        contrast: Factor of the distance from the image's mean grey. **Shape** ``(B,)``.
        saturation: Factor of the distance from the pixel's grey. **Shape** ``(B,)``.
        angle: Turn of the hue about the grey axis, radians; None turns nothing. **Shape** ``(B,)``.

    Returns:
        A matrix, **Shape** ``(B, C, C)``, and what the mean grey is multiplied with and added, **Shape** ``(B,)``.
    """
    scale, lift = (brightness * contrast)[:, None, None], (1 - contrast) * brightness
    identity = torch.eye(channels, device=brightness.device)
    if channels != 3:
        return identity * scale, lift
    grey = constant(GREY, brightness.device)
    saturate = saturation[:, None, None] * identity + (1 - saturation)[:, None, None] * grey.expand(3, 3)
    turned = saturate if angle is None else hue_rotation(angle) @ saturate
    return turned * scale, lift  # grey stays grey under both, so the lift passes them by


def mix_colours(images: Tensor, matrix: Tensor, lift: Tensor) -> Tensor:
    """Mix channels and add a share of the mean grey. **Shape** ``(B, C, H, W), (B, C, C), (B,)``; the caller clamps."""
    flat = images.flatten(2)  # (B, C, HW)
    channels = flat.shape[1]
    grey = constant(GREY if channels == 3 else (1.0 / channels,) * channels, images.device)
    offset = (lift * (flat.mean(2) @ grey))[:, None, None].expand(-1, channels, 1)
    return torch.baddbmm(offset, matrix, flat).view_as(images)


def hue_rotation(angle: Tensor) -> Tensor:
    """Rotation of RGB about the grey axis; a third of a turn makes red green. **Shape** ``(B,)`` -> ``(B, 3, 3)``."""
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = constant(((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)), angle.device) / math.sqrt(3)
    return cosine * torch.eye(3, device=angle.device) + sine * cross + (1 - cosine) / 3


def blur_some(images: Tensor, chosen: Tensor, sigmas: Tensor, largest: float) -> Tensor:
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
