"""Objects instead of pixels: single glands out of a mask, and how well each was found.

    labels = split_touching(probability > 0.5, smallest=100)       # watershed: touching glands get two numbers
    object_metrics(true_mask, predicted_mask)                      # {"object_f1": …, "object_dice": …}

- An object of a mask without instance numbers is a connected region (8-neighbours).
- Object F1 (GlaS): a predicted object counts as found when it covers at least half of the true object that it overlaps
  most; every true object can be found once.
- Object Dice (GlaS): each object's Dice with the object that it overlaps most, weighted by area, in both directions.

**Reference** Sirinukunwattana et al. 2017, doi:10.1016/j.media.2016.08.008 (GlaS).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3), dtype=bool)
LEVELS = 24  # steps in which the distance map is flooded


def label_objects(mask: np.ndarray, *, smallest: int = 0) -> np.ndarray:
    """Numbers the connected regions (8-neighbours) of a mask; smaller ones are dropped.

    Args:
        mask: **Shape** ``(H, W)`` bool.
        smallest: Fewest pixels of an object.

    Returns:
        0 = none, objects from 1 without gaps. **Shape** ``(H, W)`` int32.
    """
    labels, _ = ndimage.label(mask, structure=EIGHT)
    return drop_small(labels, smallest)


def drop_small(labels: np.ndarray, smallest: int) -> np.ndarray:
    """Objects of at least ``smallest`` pixels, renumbered from 1. **Shape** ``(H, W)`` int32."""
    sizes = np.bincount(labels.ravel())
    keep = sizes >= max(smallest, 1)
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0)
    return number[labels].astype(np.int32)


def split_touching(mask: np.ndarray, *, smallest: int = 50, smoothing: float = 2.0, depth: float = 0.3) -> np.ndarray:
    """Watershed on the distance to the border: regions with a waist become two objects.

    Seeds are the parts of a region that are thicker than all of their neighbourhood: connected regions of the smoothed
    distance above ``1 - depth`` times the largest distance within reach.

    Args:
        mask: **Shape** ``(H, W)`` bool.
        smallest: Fewest pixels of an object.
        smoothing: Standard deviation of the Gaussian over the distance map, pixels.
        depth: How much thinner than its objects a waist must be to be cut, as a share, 0 to 1.

    Returns:
        0 = none, objects from 1 without gaps. **Shape** ``(H, W)`` int32.

    **Reference** Beucher & Lantuéjoul 1979 (watershed on distance).
    """
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), smoothing) * mask
    regions, _ = ndimage.label(mask, structure=EIGHT)
    labels = np.zeros(mask.shape, np.int32)
    for region, place in enumerate(ndimage.find_objects(regions), start=1):
        inside = regions[place] == region
        parts = _flood(np.where(inside, distance[place], 0.0), _standing_tops(distance[place] * inside, depth), inside)
        labels[place] += np.where(parts > 0, parts + labels.max(), 0).astype(np.int32)
    return drop_small(labels, smallest)


def _flood(height: np.ndarray, seeds: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Spreads the seeds' numbers over a region, the high ground first, level by level."""
    labels = seeds.copy()
    for level in [*np.linspace(height.max(), 0, LEVELS + 1)[1:-1], -1.0]:
        free = inside & (height > level) & (labels == 0)
        while free.any():
            spread = np.where(free, ndimage.maximum_filter(labels, footprint=EIGHT), 0)
            if not spread.any():
                break
            labels = np.maximum(labels, spread)
            free &= labels == 0
    return labels


def _standing_tops(height: np.ndarray, depth: float) -> np.ndarray:
    """Numbers the tops of one region that are cut off from each other before they have sunk by ``depth``.

    Going down level by level, a new component is a candidate; two that meet stay apart when both stood at least
    ``depth`` of their own top above the meeting level.
    """
    tops: list[tuple[tuple[int, int], float]] = []  # place and height of each standing top
    for level in np.linspace(height.max(), 0, LEVELS + 1)[1:-1]:
        parts, count = ndimage.label(height > level, structure=EIGHT)
        peaks = ndimage.maximum_position(height, parts, range(1, count + 1)) if count else []
        members: dict[int, list[int]] = {}
        for number, (place, _) in enumerate(tops):
            members.setdefault(int(parts[place]), []).append(number)
        gone: set[int] = set()
        for part in range(1, count + 1):
            inside = sorted(members.get(part, []), key=lambda n: -tops[n][1])
            if not inside:
                y, x = (int(v) for v in peaks[part - 1])
                tops.append(((y, x), float(height[y, x])))
            gone |= {n for n in inside[1:] if tops[n][1] - level < depth * tops[n][1]}
        tops = [top for n, top in enumerate(tops) if n not in gone]
    seeds = np.zeros(height.shape, np.int32)
    for number, (place, _) in enumerate(tops, start=1):
        seeds[place] = number
    return seeds


def object_metrics(true: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """Object F1 and object Dice of two masks or two label images.

    Args:
        true: A mask (bool: connected regions are numbered), or object numbers. **Shape** ``(H, W)``.
        said: As ``true``.

    Returns:
        ``object_f1`` and ``object_dice``, 0 to 1; NaN where neither has an object, 0 where one only has.
    """
    first, second = (label_objects(side) if side.dtype == bool else side for side in (true, said))
    shared = shared_pixels(first, second)
    return {"object_f1": object_f1(shared), "object_dice": object_dice(shared)}


def shared_pixels(true: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Pixels of each pair of objects, row and column 0 for none. **Shape** ``(H, W)`` twice -> ``(T + 1, S + 1)``."""
    rows, columns = int(true.max()) + 1, int(said.max()) + 1
    pairs = true.astype(np.int64).ravel() * columns + said.ravel()
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def object_f1(shared: np.ndarray) -> float:
    """F1 of detection from the pixels that objects share. **Shape** ``(T + 1, S + 1)``."""
    objects = shared[1:, 1:]
    if not sum(objects.shape):
        return float("nan")
    if not objects.size:
        return 0.0
    best = objects.argmax(0)  # the true object that each predicted one overlaps most
    share = objects[best, np.arange(objects.shape[1])] / shared[1:].sum(1)[best]
    found = len(np.unique(best[share >= 0.5]))
    return 2 * found / sum(objects.shape)


def object_dice(shared: np.ndarray) -> float:
    """Mean of both directions of the area-weighted Dice with the best partner. **Shape** ``(T + 1, S + 1)``."""
    if sum(shared.shape) == 2:
        return float("nan")
    return 0.5 * (_one_way(shared) + _one_way(shared.T))


def _one_way(shared: np.ndarray) -> float:
    """Each object of the rows with the column object it overlaps most; 0 where it overlaps none."""
    objects = shared[1:, 1:]
    if not objects.size:
        return 0.0
    area, other = shared[1:].sum(1), shared.sum(0)[1:]
    best = objects.argmax(1)
    common = objects[np.arange(len(objects)), best]
    return float(((area / area.sum()) * (2 * common / (area + other[best]))).sum())
