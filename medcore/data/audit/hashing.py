"""What the audit remembers of each image: a hash of its pixels, its lowest frequencies, and simple statistics.

One pass over the set in constant memory. The frequencies are cosine coefficients of the brightness: a flip only
changes signs and a transposition only swaps indexes, so all eight flips and turns of an image are known from one.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.data.audit.shortcuts import STATISTICS, image_statistics
from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in JPEG
FINE_SIDE = 48  # pixels; smaller images lose their higher coefficients to resampling
CELLS = 8  # a CELLS × CELLS raster tells how much of an image holds any detail
CHUNK = 2**20  # bytes of pixels in work at a time and thread: small enough for the processor's cache
DETAIL = 4.0  # grey levels of spread inside a cell that count as detail
SYMMETRIES = (
    "same way round",
    "mirrored left-right",
    "mirrored top-bottom",
    "turned 180°",
    "mirrored on the diagonal",
    "turned 90° right",
    "turned 90° left",
    "mirrored on the other diagonal",
)


@dataclass(frozen=True)
class Description:
    """What one pass over a set gives.

    Attributes:
        digests: 16-byte BLAKE2b of shape and pixels, equal for equal pixels. **Shape** ``(N,)`` bytes.
        frequencies: cosine coefficients of brightness in grey levels, [0, 0] is the mean. **Shape** ``(N, K, K)``.
        detail: share of the image's cells that hold detail, 0…1. **Shape** ``(N,)``.
        statistics: one row per image, the columns of ``shortcuts.STATISTICS``.
    """

    digests: np.ndarray
    frequencies: np.ndarray
    detail: np.ndarray
    statistics: pd.DataFrame


def describe_images(ps: PatchSet) -> Description:
    """Read every image of the set once, a few at a time."""
    if not len(ps):
        empty = np.zeros((0, kept_frequencies(ps.shape), kept_frequencies(ps.shape)), np.float32)
        return Description(np.zeros(0, "S16"), empty, np.zeros(0), pd.DataFrame(columns=STATISTICS))
    extent = content_extent(ps)
    chunk = max(1, CHUNK // int(np.prod(ps.shape)))
    starts = range(0, len(ps), chunk)

    def one(start: int) -> tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]:
        rows = slice(start, min(start + chunk, len(ps)))
        return _describe_chunk(ps.take(rows), None if extent is None else extent[rows])

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(one, starts))
    digests, frequencies, detail, statistics = zip(*parts, strict=True)
    return Description(
        np.array([digest for part in digests for digest in part], dtype=object),
        np.concatenate(frequencies),
        np.concatenate(detail),
        pd.DataFrame(np.concatenate(statistics), columns=STATISTICS),
    )


def content_extent(ps: PatchSet) -> np.ndarray | None:
    """Height and width of each image without its padding, None when nothing is padded. **Shape** ``(N, 2)``."""
    if not {"height", "width"} <= set(ps.columns):
        return None
    extent = np.stack([ps.column("height"), ps.column("width")], axis=1).astype(int)
    extent = np.clip(extent, 1, ps.shape[:2])
    return None if (extent == ps.shape[:2]).all() else extent


def content_images(ps: PatchSet, rows: np.ndarray) -> np.ndarray:
    """Some images without padding, each stretched to the common size. **Shape** ``(n, H, W, C)`` uint8."""
    extent = content_extent(ps)
    images = ps.take(rows)
    return images if extent is None else _stretched(images, extent[rows])


def kept_frequencies(shape: tuple[int, ...]) -> int:
    """How many frequencies per axis survive recompression and halving for images of this (H, W, …)."""
    side = min(shape[:2])
    return min(12 if side >= FINE_SIDE else 8, side)


def low_frequencies(images: np.ndarray, keep: int) -> np.ndarray:
    """The lowest cosine coefficients (DCT-II, scaled by the image side) of the brightness.

    Args:
        images: uint8. **Shape** ``(N, H, W, 1 or 3)``.

    Returns:
        float32 in grey levels. **Shape** ``(N, keep, keep)``, first index vertical.
    """
    return cosine_coefficients(grey_levels(images), keep)


def cosine_coefficients(light: np.ndarray, keep: int) -> np.ndarray:
    """The same for brightness itself. **Shape** ``(N, H, W)`` to ``(N, keep, keep)``."""
    return _cosines(light.shape[1], keep) @ light @ _cosines(light.shape[2], keep).T


def grey_levels(images: np.ndarray) -> np.ndarray:
    """Luminance, 0…255, float32. **Shape** ``(N, H, W, C)`` to ``(N, H, W)``."""
    if images.shape[-1] == 1:
        return images[..., 0].astype(np.float32)
    return images.astype(np.float32) @ LUMINANCE


def apply_symmetry(image: np.ndarray, number: int) -> np.ndarray:
    """Flip or turn an image as ``SYMMETRIES[number]`` says. **Shape** ``(H, W, …)``."""
    if number & 4:
        image = image.swapaxes(0, 1)
    if number & 2:
        image = image[::-1]
    return image[:, ::-1] if number & 1 else image


def transform_frequencies(frequencies: np.ndarray, number: int) -> np.ndarray:
    """The coefficients of the images after `apply_symmetry`. **Shape** ``(N, K, K)``."""
    if number & 4:
        frequencies = frequencies.swapaxes(1, 2)
    sign = (-1.0) ** np.arange(frequencies.shape[1], dtype=np.float32)
    if number & 2:
        frequencies = frequencies * sign[:, None]
    return frequencies * sign if number & 1 else frequencies


def detail_share(light: np.ndarray) -> np.ndarray:
    """Share of the cells of a raster in which brightness varies by more than a few grey levels. **Shape** ``(N,)``."""
    cells = min(CELLS, *light.shape[1:])
    high, wide = light.shape[1] // cells, light.shape[2] // cells
    light = light[:, : cells * high, : cells * wide]
    light = light - light.mean(axis=(1, 2), keepdims=True)  # squares of small numbers lose nothing in float32
    mean, square = (_cell_sums(values, cells) / (high * wide) for values in (light, np.square(light)))
    return (square - mean**2 > DETAIL**2).mean(axis=(1, 2))


def _cell_sums(values: np.ndarray, cells: int) -> np.ndarray:
    """Sums over a cells × cells raster. **Shape** ``(N, H, W)`` to ``(N, cells, cells)``."""
    count, height, width = values.shape
    ones = np.ones(width // cells, np.float32)
    across = values.reshape(count, height, cells, width // cells) @ ones
    return across.reshape(count, cells, height // cells, cells).sum(axis=2)


def _describe_chunk(
    images: np.ndarray, extent: np.ndarray | None
) -> tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]:
    """Digests, frequencies, detail and statistics of some images; padded ones are cut to their content first."""
    keep = kept_frequencies(images.shape[1:])
    if extent is None:
        digests = [_digest(image) for image in images]
    else:
        digests = [_digest(image[:high, :wide]) for image, (high, wide) in zip(images, extent, strict=True)]
        images = _stretched(images, extent)
    light = grey_levels(images)
    frequencies = cosine_coefficients(light, keep)
    return digests, frequencies, detail_share(light), image_statistics(images)


def _stretched(images: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Each image's content, stretched over its padding. **Shape** ``(N, H, W, C)``."""
    cut = [image[:high, :wide] for image, (high, wide) in zip(images, extent, strict=True)]
    return np.stack([one if one.shape == images.shape[1:] else resize(one, images.shape[1:3]) for one in cut])


def _digest(image: np.ndarray) -> bytes:
    """BLAKE2b over shape and pixels."""
    pixels = np.ascontiguousarray(image)
    return hashlib.blake2b(pixels.data, digest_size=16, person=repr(image.shape[:2]).encode()[:16]).digest()


def _cosines(side: int, keep: int) -> np.ndarray:
    """The first `keep` cosine waves on `side` samples, divided by √side. **Shape** ``(keep, side)``."""
    place = (np.arange(side) + 0.5) / side
    waves = np.cos(np.pi * np.arange(keep)[:, None] * place) * np.sqrt(2)
    waves[0] = 1.0
    return (waves / side).astype(np.float32)
