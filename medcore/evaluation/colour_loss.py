"""Which reddish or brown pixels a reconstruction has lost, softly, so that a little of the colour counts a little.

An autoencoder that has never seen brown bacteria paints them in the colours that it knows. The pictures where brown
disappears are the suspicious ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medcore.data.stain import HAEMATOXYLIN_DAB
from medcore.errors import MedcoreError

RED_HUE = 20.0  # degrees on either side of pure red that count fully; brown is a dark orange-red
HUE_EDGE = 20.0  # degrees over which the count fades out
SATURATION_START, SATURATION_FULL = 0.10, 0.35
DENSITY_FLOOR = 1 / 255  # intensities below count as this, as in medcore.data.stain


def redness(images: Tensor) -> Tensor:
    """How red and saturated each pixel is, 0 to 1. **Shape**: (B, 3, H, W) in [0, 1] -> (B, H, W)."""
    hue, saturation, _ = hsv(images)
    away = torch.minimum(hue, 360.0 - hue)  # degrees from pure red
    by_hue = (1.0 - (away - RED_HUE) / HUE_EDGE).clamp(0, 1)
    by_saturation = ((saturation - SATURATION_START) / (SATURATION_FULL - SATURATION_START)).clamp(0, 1)
    return by_hue * by_saturation


def dab(images: Tensor) -> Tensor:
    """Concentration of brown stain (natural-log density, at least 0). **Shape**: (B, 3, H, W) -> (B, H, W).

    **Reference**: Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291.
    """
    check_rgb(images)
    unmix = torch.as_tensor(np.linalg.pinv(HAEMATOXYLIN_DAB)[:, 1], dtype=images.dtype, device=images.device)
    density = -images.clamp_min(DENSITY_FLOOR).log()
    return torch.einsum("bchw,c->bhw", density, unmix).clamp_min(0)


def lost(before: Tensor, after: Tensor) -> Tensor:
    """What was there and is gone; what was added does not count."""
    return (before - after).clamp_min(0)


def hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue (degrees, 0 to 360), saturation and value (0 to 1). **Shape**: (B, 3, H, W) -> 3 x (B, H, W)."""
    check_rgb(images)
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = chroma.clamp_min(1e-12)
    hue = torch.where(
        value == red,
        ((green - blue) / safe) % 6.0,
        torch.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    return 60.0 * hue * (chroma > 0), chroma / value.clamp_min(1e-12), value


def check_rgb(images: Tensor) -> None:
    """Refuses images that have no colour."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise MedcoreError(
            f"images: shape {tuple(images.shape)}, but a colour score needs (B, 3, H, W); use 'ssim' or 'mse' for grey"
        )
