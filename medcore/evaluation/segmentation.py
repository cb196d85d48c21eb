"""Segmentation metrics, case by case: how much overlaps, how far the borders are apart, and what patients tell.

    table = score_cases(truths, predictions, patients, classes, pixel_size_um=0.62)      # one row per case and class
    segmentation_estimates(table, unit="patient", split="test")                          # with intervals

- A case is one image at its original size. Pixels whose true class is 255 count nowhere: not as truth, not as
  prediction, not as border.
- **Absent classes.** A class that is neither in truth nor prediction has no value in that case: it is left out, and
  the estimate says how many cases were. Present in only one of the two, overlap metrics and NSD are 0 and HD95 is the
  image's diagonal (the largest distance there could be), as Metrics Reloaded recommends.
- Cases are averaged within a patient, then patients are averaged: a patient with many images counts once.

**Reference** Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z (Metrics Reloaded).
"""

from __future__ import annotations

import numpy as np

from medcore.errors import MedcoreError

IGNORE = 255


def pixel_confusion(truth: np.ndarray, predicted: np.ndarray, classes: int, *, ignore: int = IGNORE) -> np.ndarray:
    """Counts of pixels by true and predicted class.

    Args:
        truth: Class indexes, ``ignore`` where a pixel does not count. **Shape** ``(H, W)``.
        predicted: Class indexes. **Shape** ``(H, W)``.
        classes: Number of classes K.
        ignore: Mask value of pixels that do not count.

    Returns:
        Truth down. **Shape** ``(K, K)`` int64.

    Raises:
        MedcoreError: The sizes differ, or a value is no class.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise MedcoreError(f"truth {truth.shape} and prediction {predicted.shape} differ in size; crop or resize one")
    counted = truth != ignore
    true, said = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, values in (("truth", true), ("prediction", said)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            strange = values.min() if values.min() < 0 else values.max()
            raise MedcoreError(f"the {name} holds the value {strange}, but there are only {classes} classes")
    return np.bincount(true * classes + said, minlength=classes**2).reshape(classes, classes)


def overlap_metrics(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Dice, IoU, precision and recall of each class; NaN where the class is in neither, 0 where in one only.

    Args:
        confusion: Pixels, truth down. **Shape** ``(K, K)``.

    Returns:
        ``dice``, ``iou``, ``precision``, ``recall``, each **Shape** ``(K,)``, 0 to 1.
    """
    hit = confusion.diagonal().astype(float)
    true, said = confusion.sum(1).astype(float), confusion.sum(0).astype(float)
    union = true + said - hit
    parts = {
        "dice": (2 * hit, true + said),
        "iou": (hit, union),
        "precision": (hit, said),
        "recall": (hit, true),
    }
    found = {}
    for name, (above, below) in parts.items():
        values = np.divide(above, below, out=np.zeros_like(hit), where=below > 0)
        found[name] = np.where(union > 0, values, np.nan)
    return found
