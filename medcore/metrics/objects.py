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
SMOOTHING = 2.0  # pixels; standard deviation of the Gaussian over the distance to the border


def label_objects(mask: np.ndarray, *, smallest: int = 0) -> np.ndarray:
    """Numbers the connected regions (8-neighbours) of a mask; smaller ones are dropped.

    Args:
        mask: **Shape** ``(H, W)`` bool.
        smallest: Fewest pixels of an object.

    Returns:
        0 = none, objects from 1 without gaps. **Shape** ``(H, W)`` int32.
    """
    from skimage.measure import label

    return drop_small(label(mask, connectivity=2), smallest)


def drop_small(labels: np.ndarray, smallest: int) -> np.ndarray:
    """Objects of at least ``smallest`` pixels, renumbered from 1. **Shape** ``(H, W)`` int32."""
    from skimage.segmentation import relabel_sequential

    small = np.bincount(labels.ravel()) < smallest
    return relabel_sequential(np.where(small[labels], 0, labels))[0].astype(np.int32)


def split_touching(mask: np.ndarray, *, smallest: int = 50, depth: float = 0.3) -> np.ndarray:
    """Watershed on the distance to the border: regions with a waist become two objects.

    Seeds are the tops of the smoothed distance that stand at least the share ``depth`` above the pass to a higher one
    (h-maxima of its logarithm).

    Args:
        mask: **Shape** ``(H, W)`` bool.
        smallest: Fewest pixels of an object.
        depth: How much thinner than its objects a waist must be to be cut, as a share, 0 to below 1.

    Returns:
        0 = none, objects from 1 without gaps. **Shape** ``(H, W)`` int32.

    **Reference** Beucher & Lantuéjoul 1979 (watershed on distance); Soille 2004 (h-maxima),
    doi:10.1007/978-3-662-05088-0.
    """
    from skimage.measure import label

    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), SMOOTHING)
    regions, labels = label(mask, connectivity=2), np.zeros(mask.shape, np.int32)
    for number, place in enumerate(ndimage.find_objects(regions), start=1):  # one by one: a slide is large
        inside = regions[place] == number
        parts = _split(np.where(inside, distance[place], 0.0), inside, depth)
        labels[place] += np.where(parts > 0, parts + labels.max(), 0).astype(np.int32)
    return drop_small(labels, smallest)


def _split(distance: np.ndarray, inside: np.ndarray, depth: float) -> np.ndarray:
    from skimage.measure import label
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    height = np.log(np.maximum(distance, 1e-3))
    tops = h_maxima(height, -np.log1p(-depth), footprint=EIGHT) > 0
    seeds = label(tops & inside, connectivity=2)
    return watershed(-distance, seeds, connectivity=EIGHT, mask=inside)


def object_metrics(true: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """Object F1 and object Dice of two masks or two label images.

    Args:
        true: A mask (bool: connected regions are numbered), or object numbers. **Shape** ``(H, W)``.

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
