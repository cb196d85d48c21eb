"""Keypoints: small patches of an image that its crops, overlaps, montages and recoloured copies share with it.

* Constant borders are cut off, the brightness is brought to at most 96 pixels a side and to equal local contrast.
* Keypoints are the blobs (extrema of the difference of two Gaussians, edges left out) at seven fixed sizes. Only their
  strength is compared, so an inverted image has the same ones.
* A patch is its cosine coefficients about the keypoint, bright blob or dark made alike. A flip changes signs and a
  transposition swaps indexes, so one description serves all eight positions of an image. The coefficients are
  whitened by what is ordinary in the set: what every blob has (a bright centre) tells none apart.

**Reference**: blobs: Lowe 2004, doi:10.1023/B:VISI.0000029664.99615.94; normalised patches: Brown et al. 2005,
doi:10.1109/CVPR.2005.235.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medcore.data.audit.hashing import content_extent, grey_levels
from medcore.data.patchset import PatchSet

SIDE, SMALL = 96, 48  # pixels: larger images are brought to SIDE, smaller ones than SMALL are doubled
FIRST, STEP = 1.2, 2 ** (1 / 3)  # size of the smallest blobs (σ in pixels), and from one size to the next
KEPT = (22, 16, 12, 8, 6, 5, 4)  # keypoints of each size, the strongest
REACH, GRID, WAVES = 4.5, 12, 6  # half the patch in σ; samples and cosine waves along its side
LOCAL = 7.0  # σ in pixels of the neighbourhood whose contrast is made equal
FAINT, EDGE = 0.25, 12.1  # weakest blob (equal-contrast units · 20), largest ratio of curvatures (as Lowe: r = 10)
FLAT_BORDER = 10  # grey levels within which a border row or column counts as constant
SEAM = 1.6  # how much stronger than its neighbours the middle line of a montage is
TAUGHT = 256  # images from which the whitening is learnt
SCALE = 150.0  # unit vectors are stored as int8
PARTS = ("whole", "left", "right", "top", "bottom")
VERTICAL, HORIZONTAL = (index[1:] for index in np.divmod(np.arange(WAVES**2), WAVES))  # wave numbers, mean left out
SWAPPED = HORIZONTAL * WAVES + VERTICAL - 1  # where a coefficient comes from when rows and columns are swapped
PARITY = VERTICAL % 2 * 2 + HORIZONTAL % 2  # coefficients of one parity change sign together


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of all images and of the halves of suspected montages, called views. **Shape** ``(V, P)`` each.

    Attributes:
        row: of the set, for each view. **Shape** ``(V,)``.
        part: index into `PARTS`. **Shape** ``(V,)``.
        y: in pixels of the working image.
        x: likewise.
        level: size, FIRST · STEP^level pixels.
        bright: whether the blob is brighter than its surroundings.
        valid: whether there is one.
        patch: whitened coefficients, unit length times SCALE. **Shape** ``(V, P, D)`` int8.
    """

    row: np.ndarray
    part: np.ndarray
    y: np.ndarray
    x: np.ndarray
    level: np.ndarray
    bright: np.ndarray
    valid: np.ndarray
    patch: np.ndarray


Whitening = tuple[np.ndarray, np.ndarray]  # mean (D,) and matrix (D, D) of patches


def learn_whitening(ps: PatchSet) -> Whitening:
    """What is ordinary in the patches of a set, from some of its images; alike under flips and turns."""
    rows = sample_rows(ps)
    blobs = _in_chunks(ps, rows, np.zeros(len(rows), int), _blobs)
    return _whitening(np.concatenate([part[5][part[4]] for part in blobs]))


def find_keypoints(ps: PatchSet, whitening: Whitening) -> Keypoints:
    """Keypoints of every image, read a few at a time."""

    def described(light: np.ndarray) -> tuple[np.ndarray, ...]:
        *place, coefficients = _blobs(light)
        vectors = (coefficients - whitening[0]) @ whitening[1]
        vectors *= SCALE / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
        return *place, np.clip(np.rint(vectors), -127, 127).astype(np.int8)

    halves = _suspected_halves(ps)
    rows = np.concatenate([np.arange(len(ps)), halves[:, 0]])
    part = np.concatenate([np.zeros(len(ps), int), halves[:, 1]])
    return Keypoints(rows, part, *(np.concatenate(v) for v in zip(*_in_chunks(ps, rows, part, described), strict=True)))


def sample_rows(ps: PatchSet) -> np.ndarray:
    """At most TAUGHT rows, evenly spread."""
    return np.unique(np.linspace(0, len(ps) - 1, min(TAUGHT, len(ps))).astype(int))


def working_images(ps: PatchSet, rows: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Brightness at equal local contrast, without constant borders. **Shape** ``(n, H, W)`` float32."""
    extent = content_extent(ps)
    size = working_size(ps.shape)
    views = np.empty((len(rows), *size), np.float32)
    for place, (row, half) in enumerate(zip(rows, part, strict=True)):
        image = ps.take([row])[0]
        views[place] = _view(image if extent is None else image[: extent[row][0], : extent[row][1]], half, size)
    mean = blurred(views, LOCAL)
    spread = np.maximum(blurred(np.square(views), LOCAL) - mean**2, 0)
    return 20 * (views - mean) / np.sqrt(spread + 9)  # 3 grey levels of spread are hardly detail


def working_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width at which images of this (H, W, …) are compared."""
    longest = max(shape[:2])
    factor = SIDE / longest if longest > SIDE else 1.0 if longest >= SMALL else 2.0
    return max(8, round(shape[0] * factor)), max(8, round(shape[1] * factor))


def turned_patch(patch: np.ndarray, number: int) -> np.ndarray:
    """The coefficients after `hashing.apply_symmetry` of the patch. **Shape** ``(…, D)``."""
    return (patch[..., SWAPPED] if number & 4 else patch) * parity_signs(number)


def parity_signs(number: int) -> np.ndarray:
    """What the flips of a symmetry do to each coefficient. **Shape** ``(D,)`` of ±1."""
    return ((-1.0) ** (HORIZONTAL * (number & 1) + VERTICAL * (number >> 1 & 1))).astype(np.float32)


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, mirrored at the borders. **Shape** ``(N, H, W)``."""
    return _gaussian(images.shape[1], sigma) @ images @ _gaussian(images.shape[2], sigma).T


def _in_chunks(ps: PatchSet, rows: np.ndarray, part: np.ndarray, of: Callable) -> list:
    """`of` the working images, 32 at a time, side by side."""
    starts = range(0, len(rows), 32)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda s: of(working_images(ps, rows[s : s + 32], part[s : s + 32])), starts))


def _suspected_halves(ps: PatchSet) -> np.ndarray:
    """Rows and parts of images whose middle line stands out, as that of two pictures side by side. **Shape** (n, 2)."""
    found = []
    for start in range(0, len(ps), 256):
        light = grey_levels(ps.take(slice(start, min(start + 256, len(ps)))))
        for axis, parts in ((2, (1, 2)), (1, (3, 4))):
            if light.shape[axis] >= 24:
                step = np.abs(np.diff(light, axis=axis)).mean(axis=3 - axis)
                middle = light.shape[axis] // 2 - 1
                usual = np.median(step[:, max(0, middle - 9) : middle + 10], axis=1)
                rows = np.flatnonzero(step[:, middle - 1 : middle + 2].max(axis=1) > SEAM * usual + 1) + start
                found += [(row, half) for row in rows for half in parts]
    return np.array(sorted(found), int).reshape(-1, 2)


def _view(image: np.ndarray, half: int, size: tuple[int, int]) -> np.ndarray:
    """Brightness of an image, or of one half, without constant borders, at the working size."""
    middle = image.shape[0] // 2, image.shape[1] // 2
    cut = (slice(None), slice(0, middle[1])), (slice(None), slice(middle[1], None)), (slice(0, middle[0]),), (
        slice(middle[0], None),)  # fmt: skip
    image = image[cut[half - 1]] if half else image
    light = grey_levels(_without_border(image)[None])[0]
    return _resampling(light.shape[0], size[0]) @ light @ _resampling(light.shape[1], size[1]).T


def _without_border(image: np.ndarray) -> np.ndarray:
    """The image without rows and columns at its border that are constant."""
    for _ in range(2):
        image = image.swapaxes(0, 1)
        if all(int(image[end].max()) - int(image[end].min()) > FLAT_BORDER for end in (0, -1)):
            continue
        flat = image.reshape(len(image), -1)
        kept = np.flatnonzero(flat.max(axis=1).astype(int) - flat.min(axis=1) > FLAT_BORDER)
        if len(kept) and kept[-1] + 1 - kept[0] > len(image) / 2:
            image = image[kept[0] : kept[-1] + 1]
    return image


def _blobs(light: np.ndarray) -> tuple[np.ndarray, ...]:
    """y, x, level, bright, valid and coefficients of the keypoints. **Shape** ``(N, P)`` each and ``(N, P, D)``."""
    lower = blurred(light, np.sqrt(FIRST**2 - 0.25))  # pixels have blurred by about half of one already
    found = []
    for level, count in enumerate(KEPT):
        sigma = FIRST * STEP**level
        upper = blurred(lower, sigma * np.sqrt(STEP**2 - 1))
        blob = upper - lower
        strength = np.where(_is_blob(blob, round(0.7 * REACH * sigma)), np.abs(blob), 0).reshape(len(light), -1)
        count = min(count, strength.shape[1])
        place = np.sort(np.argpartition(-strength, count - 1, axis=1)[:, :count], axis=1)
        y, x = np.divmod(place, light.shape[2])
        sign = -np.sign(np.take_along_axis(blob.reshape(len(light), -1), place, 1))
        coefficients = _patches(lower, y, x, REACH * sigma) * sign[..., None]
        valid = np.take_along_axis(strength, place, 1) > FAINT
        found.append((y.astype(np.float32), x.astype(np.float32), np.full(y.shape, level), sign > 0, valid,
                      coefficients))  # fmt: skip
        lower = upper
    return tuple(np.concatenate(values, axis=1) for values in zip(*found, strict=True))


def _is_blob(blob: np.ndarray, margin: int) -> np.ndarray:
    """Local extrema of |blob| that are no edges and not at the border. **Shape** ``(N, H, W)`` bool."""
    height, width = blob.shape[1:]
    strength = np.pad(np.abs(blob), ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    middle = strength[:, 1:-1, 1:-1]
    around = [(dy, dx) for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)]
    peak = np.ones(blob.shape, bool)
    for dy, dx in around:  # of equals, the first
        other = strength[:, dy : dy + height, dx : dx + width]
        peak &= middle > other if (dy, dx) < (1, 1) else middle >= other
    wide = np.pad(blob, ((0, 0), (1, 1), (1, 1)), mode="edge")
    vertical = wide[:, 2:, 1:-1] + wide[:, :-2, 1:-1] - 2 * blob
    horizontal = wide[:, 1:-1, 2:] + wide[:, 1:-1, :-2] - 2 * blob
    mixed = (wide[:, 2:, 2:] + wide[:, :-2, :-2] - wide[:, 2:, :-2] - wide[:, :-2, 2:]) / 4
    determinant = vertical * horizontal - mixed**2
    peak &= (determinant > 0) & (np.square(vertical + horizontal) < EDGE * determinant)
    margin = min(margin, min(height, width) // 2 - 1)
    inside = np.zeros(blob.shape[1:], bool)
    inside[margin : height - margin, margin : width - margin] = True
    return peak & inside


def _patches(image: np.ndarray, y: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
    """Cosine coefficients of the square of half side `reach` about each place. **Shape** ``(N, P, D)``."""
    offset = reach * ((np.arange(GRID) + 0.5) / GRID * 2 - 1)
    whole = np.floor(offset).astype(int)
    rest = (offset - whole).astype(np.float32)
    pad = int(reach) + 2
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect" if pad < min(image.shape[1:]) else "edge")
    width, flat = padded.shape[2], padded.reshape(len(image), -1)
    corner = ((y + pad) * width + x + pad)[:, :, None] + (whole[:, None] * width + whole).ravel()
    corner = corner.reshape(len(image), -1)
    values = np.zeros((*y.shape, GRID * GRID), np.float32)
    for dy, down in ((0, 1 - rest), (1, rest)):
        for dx, right in ((0, 1 - rest), (1, rest)):
            picked = np.take_along_axis(flat, corner + (dy * width + dx), axis=1)
            values += picked.reshape(values.shape) * np.outer(down, right).ravel()
    return values @ _waves().T


def _whitening(vectors: np.ndarray) -> Whitening:
    """(mean, whitening matrix) of coefficients, both alike under flips and turns. **Shape** ``(D,)``, ``(D, D)``."""
    size = len(PARITY)
    if len(vectors) < 2 * size:
        return np.zeros(size, np.float32), np.eye(size, dtype=np.float32)
    mean = vectors.mean(axis=0)
    mean = np.where(PARITY == 0, (mean + mean[SWAPPED]) / 2, 0)
    spread = (vectors - mean).T @ (vectors - mean) / len(vectors)
    spread = (spread + spread[np.ix_(SWAPPED, SWAPPED)]) / 2
    whiten = np.zeros((size, size))
    for parity in range(4):
        block = np.ix_(PARITY == parity, PARITY == parity)
        values, axes = np.linalg.eigh(spread[block])
        whiten[block] = (axes / np.sqrt(values + 0.1 * np.trace(spread) / size + 1e-9)) @ axes.T
    return mean.astype(np.float32), whiten.astype(np.float32)


@lru_cache(maxsize=1)
def _waves() -> np.ndarray:
    """Cosine waves under a Gaussian window, blind to the mean. **Shape** ``(D, GRID²)``."""
    place = (np.arange(GRID) + 0.5) / GRID
    window = np.exp(-np.square(2 * place - 1) / (2 * 0.6**2))
    weight = np.outer(window, window).ravel() / window.sum() ** 2
    cosine = np.cos(np.pi * np.arange(WAVES)[:, None] * place)
    waves = np.einsum("ui,vj->uvij", cosine, cosine).reshape(WAVES**2, -1)[1:] * weight
    waves -= waves.sum(axis=1, keepdims=True) * weight
    return (waves / np.linalg.norm(waves, axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=64)
def _gaussian(side: int, sigma: float) -> np.ndarray:
    """Blurring matrix. **Shape** ``(side, side)``."""
    reach = int(np.ceil(3.5 * sigma))
    offset = np.arange(-reach, reach + 1)
    weight = np.exp(-(offset**2) / (2 * sigma**2))
    matrix = np.zeros((side, side))
    for row in range(side):
        source = np.abs(row + offset)
        source = np.clip(np.where(source >= side, 2 * side - 2 - source, source), 0, side - 1)
        np.add.at(matrix[row], source, weight / weight.sum())
    return matrix.astype(np.float32)


@lru_cache(maxsize=1024)
def _resampling(source: int, target: int) -> np.ndarray:
    """Linear resampling, over the area where it shrinks. **Shape** ``(target, source)``."""
    factor = source / target
    centre = (np.arange(target) + 0.5) * factor - 0.5
    weight = np.maximum(0, 1 - np.abs(np.arange(source) - centre[:, None]) / max(1.0, factor))
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
