"""How brown is a window? Scores of immunohistochemistry windows without any training.

- ``red_share``: the trivial rule, the share of reddish, saturated pixels. Every model has to be read beside it.
- ``redness``: the same rule with soft edges, of which a reconstruction can lose a little; 1/2 at the rule's bounds.
- ``brown_peak``: how far the brownest spot of the size of a bacterium stands out from haematoxylin.

DAB absorbs blue light more than red light; haematoxylin does the opposite, and soot or ink absorbs all alike. So the
difference of the optical densities, blue minus red, is above zero for DAB alone. It is measured against the window's
own empty glass, because slides differ in it (white, grey, lilac), and no number is learnt.

    scores = score_windows(patches, brown_peak)     # (N,), higher = more suspicious
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize
from medcore.data.stain import HAEMATOXYLIN_DAB, optical_density
from medcore.errors import MedcoreError

WindowScore = Callable[[np.ndarray], np.ndarray]
"""From uint8 windows **Shape** ``(N, H, W, 3)`` to scores **Shape** ``(N,)``, higher = more suspicious."""
CHUNK = 64  # windows that are in memory at a time
RULE_SIDE = 128  # the trivial rule was defined on windows of this side
RED_HUE, RED_SATURATION = (242, 28), 40  # its bounds, of 255: hues above the first or below the second, and saturation
RED_EDGES = 20.0, 0.2  # degrees of hue and share of saturation over which ``redness`` rises from 0 to 1
SPOT_SHARE = 1.5 / 256  # half the width of a rod as a share of a window's side (256 pixels as published)
GLASS_PERCENTILE = 97  # the brightest pixels of a window are glass; a higher percentile would follow the noise


def red_share(images: np.ndarray) -> np.ndarray:
    """The trivial rule: share of pixels with a reddish hue and some saturation, at 128×128.

    Args:
        images: uint8 windows. **Shape** ``(N, H, W, 3)``.

    Returns:
        Shares, 0 to 1. **Shape** ``(N,)``.
    """
    _check(images)
    return np.array([_reddish(image).mean() for image in images], dtype=np.float64)


def _reddish(image: np.ndarray) -> np.ndarray:
    side = (RULE_SIDE, RULE_SIDE)
    picture = Image.fromarray(image if image.shape[:2] == side else resize(image, side, "bicubic"))
    hue, saturation = np.moveaxis(np.asarray(picture.convert("HSV"))[..., :2], -1, 0)  # 0 to 255, red at both ends
    return ((hue < RED_HUE[1]) | (hue > RED_HUE[0])) & (saturation > RED_SATURATION)


def brown_excess(images: np.ndarray) -> np.ndarray:
    """Optical density of blue minus that of red, against the window's own glass: above zero where DAB is.

    Args:
        images: uint8 windows. **Shape** ``(N, H, W, 3)``.

    Returns:
        Natural-log density differences, about -1 (haematoxylin) to 1.5 (dense DAB), float32. **Shape** ``(N, H, W)``.

    **Reference** Beer-Lambert and the stains' spectra: Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291.
    """
    _check(images)
    density = optical_density(images)
    glass = np.percentile(density[:, ::4, ::4], 100 - GLASS_PERCENTILE, axis=(1, 2))  # (N, 3)
    return (density[..., 2] - density[..., 0]) - (glass[:, 2] - glass[:, 0])[:, None, None].astype(np.float32)


def brown_map(images: np.ndarray) -> np.ndarray:
    """``brown_excess`` averaged over spots as wide as a rod, so that single noisy pixels do not count.

    **Shape** ``(N, H, W, 3)`` uint8 to ``(N, H, W)`` float32.
    """
    sigma = SPOT_SHARE * images.shape[1]
    return np.stack([ndimage.gaussian_filter(excess, sigma) for excess in brown_excess(images)])


def brown_peak(images: np.ndarray) -> np.ndarray:
    """The brownest spot of each window: the maximum of ``brown_map``.

    Args:
        images: uint8 windows. **Shape** ``(N, H, W, 3)``.

    Returns:
        Natural-log density differences, about 0 (no brown at all) to 1. **Shape** ``(N,)``.
    """
    return brown_map(images).max(axis=(1, 2)).astype(np.float64)


def score_windows(patches: PatchSet, score: WindowScore) -> np.ndarray:
    """Score every window of a set in constant memory. **Shape** ``(N,)`` float64."""
    if not len(patches):
        raise MedcoreError(f"set {patches.card.name!r}: there are no windows to score; check the selection")
    return np.concatenate([np.asarray(score(images), dtype=np.float64) for images in patches.chunks(CHUNK)])


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise MedcoreError(
            f"windows: {images.dtype} of shape {images.shape}, but brown can only be measured on uint8 colour windows "
            "(N, H, W, 3), at least one"
        )


DENSITY_FLOOR = 1 / 255  # intensities below count as this, as in medcore.data.stain


def redness(images: Tensor) -> Tensor:
    """How red and saturated each pixel is, 0 to 1. **Shape**: (B, 3, H, W) in [0, 1] -> (B, H, W)."""
    hue, saturation, _ = hsv(images)
    first, last = 360 * RED_HUE[0] / 255 - 360, 360 * RED_HUE[1] / 255
    away = ((hue - (first + last) / 2 + 180) % 360 - 180).abs()  # degrees from the middle of the reddish hues
    by_hue = (0.5 + ((last - first) / 2 - away) / RED_EDGES[0]).clamp(0, 1)
    by_saturation = (0.5 + (saturation - RED_SATURATION / 255) / RED_EDGES[1]).clamp(0, 1)
    return torch.minimum(by_hue, by_saturation)


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
