"""Sliding window: whole slides, or parts of them, through a network that sees one tile at a time.

    result = predict_image(model, pixels, tile=256, overlap=0.5)           # in memory: probabilities and labels
    predict_large(model, pixels, out="labels.npy", tile=512)               # strips on disk, constant memory

- Tiles overlap, and each pixel's probabilities are the mean over its tiles, weighted by a Gaussian about the tile's
  centre: what a network says at a tile's edge, where it cannot see the neighbourhood, counts little.
- The order of the tiles does not matter: sums run in float64 and in the order of the tiles' places.

**Reference** Isensee et al. 2021, doi:10.1038/s41592-020-01008-z (Gaussian importance weighting).
"""

from __future__ import annotations

import numpy as np

from medcore.errors import MedcoreError


def tile_starts(length: int, tile: int, step: int) -> list[int]:
    """Where tiles begin along one side: every ``step`` pixels, the last one flush with the end.

    Args:
        length: Length of the side, pixels.
        tile: Length of a tile, pixels.
        step: Distance between tiles, pixels, at most ``tile``.
    """
    if not 0 < step <= tile:
        raise MedcoreError(f"sliding window: step={step} must be from 1 to the tile's {tile} pixels")
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, step))
    return [*starts, length - tile]


def gaussian_window(height: int, width: int, *, sigma: float = 0.125, floor: float = 1e-3) -> np.ndarray:
    """Weights of a tile's pixels: 1 at its centre, falling off as a Gaussian, never below ``floor``.

    Args:
        height: Pixels.
        width: Pixels.
        sigma: Standard deviation as a share of each side.
        floor: Smallest weight, so that a pixel seen by one tile only still has one.

    **Shape** ``(height, width)`` float32.
    """
    rows, columns = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (sigma * n)) ** 2) for n in (height, width))
    return np.maximum(np.outer(rows, columns), floor).astype(np.float32)
