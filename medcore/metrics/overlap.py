"""How well two masks agree: Dice, IoU, normalised surface distance (NSD), 95th percentile Hausdorff distance (HD95).

- The border of a region are its pixels that touch the outside by an edge (4-neighbours). The image's rim is no
  border: a region that the picture cuts off has no outline there.
- Distances run from each border pixel's centre to the nearest border pixel's centre of the other region.

**Reference** Nikolov et al. 2021, doi:10.2196/26151 (NSD); Huttenlocher et al. 1993, doi:10.1109/34.232073.
"""

from __future__ import annotations

import numpy as np

from medcore.errors import MedcoreError
from medcore.metrics.confusion import Array, confusion_matrix, diagonal, ratio


def border(region: np.ndarray) -> np.ndarray:
    """The pixels of a region that have a 4-neighbour outside of it. **Shape** ``(H, W)`` bool, both."""
    from scipy import ndimage

    return region & ~ndimage.binary_erosion(region, border_value=1)


def border_distances(
    true: np.ndarray, said: np.ndarray, counted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each true border pixel to the predicted border, and the other way round.

    Args:
        true: **Shape** ``(H, W)`` bool.
        said: **Shape** ``(H, W)`` bool.
        counted: Pixels that count; a border against a pixel that does not count is none. **Shape** ``(H, W)`` bool.

    Returns:
        Two vectors, pixels; infinite where the other has no border.
    """
    borders = []
    for region in (true, said):
        outside = region if counted is None else region | ~counted
        borders.append(border(outside) & region)
    return _nearest(*borders), _nearest(*borders[::-1])


def _nearest(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    if not those.any():
        return np.full(int(these.sum()), np.inf)
    return ndimage.distance_transform_edt(~those)[these]


def border_metrics(
    true: np.ndarray, said: np.ndarray, *, tolerance: float, counted: np.ndarray | None = None
) -> dict[str, float]:
    """NSD and HD95 of one class in one case.

    Args:
        true: **Shape** ``(H, W)`` bool.
        said: **Shape** ``(H, W)`` bool.
        tolerance: Border pixels up to so far apart agree, pixels.
        counted: Pixels that count. **Shape** ``(H, W)`` bool.

    Returns:
        ``nsd``: share of both borders that lies within the tolerance of the other, 0 to 1. ``hd95``: the larger of the
        two 95th percentiles, pixels, at most the image's diagonal. In neither: NaN; in one only: 0 and the diagonal.
    """
    if not true.any() and not said.any():
        return {"nsd": float("nan"), "hd95": float("nan")}
    diagonal = float(np.hypot(*true.shape))
    if not true.any() or not said.any():
        return {"nsd": 0.0, "hd95": diagonal}
    forth, back = border_distances(true, said, counted)
    both = np.concatenate([forth, back])
    if not both.size:  # both fill all that counts: there is no border to disagree on
        return {"nsd": 1.0, "hd95": 0.0}
    nsd = float((both <= tolerance).mean())
    farthest = max(float(np.percentile(side, 95)) if side.size and np.isfinite(side).all() else
                   (diagonal if side.size else 0.0) for side in (forth, back))  # fmt: skip
    return {"nsd": nsd, "hd95": min(farthest, diagonal)}


IGNORE = 255  # mask value of pixels that do not count
OVERLAP = ("dice", "iou", "precision", "recall")


def pixel_confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts of pixels by true and predicted class.

    Args:
        truth: Class indexes, ``IGNORE`` where a pixel does not count. **Shape** ``(H, W)``.
        predicted: Class indexes. **Shape** ``(H, W)``.

    Returns:
        Truth down. **Shape** ``(K, K)`` int64.

    Raises:
        MedcoreError: The sizes differ, or a value is no class.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise MedcoreError(f"truth {truth.shape} and prediction {predicted.shape} differ in size; crop or resize one")
    counted = truth != IGNORE
    true, said = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, values in (("truth", true), ("prediction", said)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            strange = values.min() if values.min() < 0 else values.max()
            raise MedcoreError(f"the {name} holds the value {strange}, but there are only {classes} classes")
    return confusion_matrix(true, said, classes)


def dice(confusion: Array) -> Array:
    """Dice of each class; NaN where it is in neither. Numpy or torch. **Shape** ``(..., K, K)`` -> ``(..., K)``."""
    return ratio(2 * diagonal(confusion), confusion.sum(-1) + confusion.sum(-2))


def iou(confusion: Array) -> Array:
    """Intersection over union of each class; NaN where it is in neither. **Shape** as for ``dice``."""
    hits = diagonal(confusion)
    return ratio(hits, confusion.sum(-1) + confusion.sum(-2) - hits)


def overlap_metrics(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Dice, IoU, precision and recall of each class; NaN where the class is in neither, 0 where in one only.

    Args:
        confusion: Pixels, truth down. **Shape** ``(K, K)``.

    Returns:
        ``dice``, ``iou``, ``precision``, ``recall``, each **Shape** ``(K,)``, 0 to 1.
    """
    hits, rows, columns = diagonal(confusion), confusion.sum(1), confusion.sum(0)
    share = {"precision": hits / np.maximum(columns, 1), "recall": hits / np.maximum(rows, 1)}
    occurs = rows + columns > 0
    return {"dice": dice(confusion), "iou": iou(confusion)} | {
        name: np.where(occurs, values, np.nan) for name, values in share.items()
    }
