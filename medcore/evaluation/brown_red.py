"""How brown is a window? Scores of immunohistochemistry windows without any training.

- ``red_share``: the trivial rule, the share of reddish, saturated pixels. Every model has to be read beside it.
- ``brown_peak``: how far the brownest spot of the size of a bacterium stands out from haematoxylin.

DAB absorbs blue light more than red light; haematoxylin does the opposite, and soot or ink absorbs all alike. So the
difference of the optical densities, blue minus red, is above zero for DAB alone. It is measured against the window's
own empty glass, because slides differ in it (white, grey, lilac), and no number is learnt.

    scores = score_windows(patches, brown_peak)     # (N,), higher = more suspicious
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from medcore.data.patchset import PatchSet
from medcore.data.stain import optical_density
from medcore.errors import MedcoreError

WindowScore = Callable[[np.ndarray], np.ndarray]
"""From uint8 windows **Shape** ``(N, H, W, 3)`` to scores **Shape** ``(N,)``, higher = more suspicious."""

RULE_SIDE = 128  # the trivial rule was defined on windows of this side
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
    picture = Image.fromarray(image)
    if picture.size != (RULE_SIDE, RULE_SIDE):
        picture = picture.resize((RULE_SIDE, RULE_SIDE))
    hue, saturation = np.moveaxis(np.asarray(picture.convert("HSV"))[..., :2], -1, 0)  # 0 to 255, red at both ends
    return ((hue < 28) | (hue > 242)) & (saturation > 40)


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


def score_windows(patches: PatchSet, score: WindowScore, *, chunk: int = 64) -> np.ndarray:
    """Score every window of a set in constant memory. **Shape** ``(N,)`` float64."""
    if not len(patches):
        raise MedcoreError(f"set {patches.card.name!r}: there are no windows to score; check the selection")
    return np.concatenate([np.asarray(score(images), dtype=np.float64) for images in patches.chunks(chunk)])


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise MedcoreError(
            f"windows: {images.dtype} of shape {images.shape}, but brown can only be measured on uint8 colour windows "
            "(N, H, W, 3), at least one"
        )
