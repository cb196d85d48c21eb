"""Segmentation metrics, case by case: how much overlaps, how far the borders are apart, and what patients tell.

    table = score_cases(truths, predictions, ids, patients, classes=classes, pixel_size_um=0.62)  # row: case × class
    estimates = case_estimates(table, split="test")                                             # with intervals

- A case is one image at its original size. Pixels whose true class is 255 count nowhere: not as truth, not as
  prediction, not as border.
- **Absent classes.** A class that is neither in truth nor prediction has no value in that case: it is left out, and
  the estimate says of how many cases. When it is in only one of the two, overlap metrics and NSD are 0 and HD95 is the
  image's diagonal (the largest distance there could be), as Metrics Reloaded recommends.
- **The foreground** is everything but the background as one class: with several classes it has rows of its own and
  leads (``foreground_dice``, ``foreground_nsd``, ``foreground_hd95``), for it asks for the outline, whatever class is
  written into it; a few stray pixels of a class that is not there cannot halve it.
- **Which mean.** ``dice``, ``iou``, … are means over the classes but the background, within a case; ``miou`` is the
  mean of the case's IoU over all classes, background included; ``miou_pooled`` is that of all pixels of all cases in
  one confusion matrix, which is what many papers print. Cases are averaged within a patient, then patients are
  averaged: a patient with many images counts once.

**Reference** Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z (Metrics Reloaded).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.comparison import Comparison, strongest
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import mean_interval, statistic_interval
from medcore.metrics.objects import object_metrics
from medcore.metrics.overlap import IGNORE, OVERLAP, border_metrics, overlap_metrics, pixel_confusion

TOLERANCE_PIXELS = 5.0  # about the spread of two people's outlines of a gland at 20×
FOREGROUND = "(foreground)"  # everything but the background, as one class
LEADING = ("dice", "nsd", "hd95")
METRICS = (*OVERLAP, "nsd", "hd95", "object_f1", "object_dice")


def score_case(
    truth: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[str],
    *,
    tolerance: float = TOLERANCE_PIXELS,
    borders: bool = True,
    objects: bool = True,
) -> list[dict[str, float | str]]:
    """All metrics of one case, one row per class.

    Args:
        truth: Class indexes, 255 = ignored. **Shape** ``(H, W)``.
        predicted: Class indexes. **Shape** ``(H, W)``.
        classes: K class names, background first.
        tolerance: Of NSD, pixels.
        borders: Also NSD and HD95 (distances in pixels).
        objects: Also object F1 and object Dice.

    Returns:
        A dict per class: ``class``, the metrics (NaN where there is none), ``true_pixels``, and one ``pixels_<k>`` per
        class: how many of this class's pixels were called k. With several classes a last one for the foreground.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    confusion = pixel_confusion(truth, predicted, len(classes))
    overlap = overlap_metrics(confusion)
    counted = truth != IGNORE
    rows: list[dict[str, float | str]] = []
    for k, name in enumerate(classes):
        row: dict[str, float | str] = {"class": name, "true_pixels": int(confusion[k].sum())}
        row |= {metric: float(values[k]) for metric, values in overlap.items()}
        true, said = (truth == k) & counted, (predicted == k) & counted
        if borders and k > 0:
            row |= border_metrics(true, said, tolerance=tolerance, counted=counted)
        if objects and k > 0:
            row |= object_metrics(true, said)
        rows.append(row | {f"pixels_{j}": int(confusion[k, j]) for j in range(len(classes))})
    if len(classes) > 2:
        both = [np.where(mask == IGNORE, IGNORE, mask > 0) for mask in (truth, predicted)]
        two = [classes[0], FOREGROUND]
        one = score_case(both[0], both[1], two, tolerance=tolerance, borders=borders, objects=objects)[1]
        rows.append({name: value for name, value in one.items() if not name.startswith("pixels_")})
    return rows


def score_cases(
    truths: Iterable[np.ndarray],
    predictions: Iterable[np.ndarray],
    cases: Sequence[str],
    patients: Sequence[str],
    *,
    classes: Sequence[str],
    pixel_size_um: float | None = None,
    tolerance: float | None = None,
    borders: bool = True,
    objects: bool = True,
    group: str = "patient",
) -> pd.DataFrame:
    """Metrics of many cases; ``truths`` and ``predictions`` may be generators, one case is in memory at a time.

    Args:
        truths: Class indexes, 255 = ignored, each **Shape** ``(H, W)``; sizes may differ.
        classes: K class names, background first.
        pixel_size_um: Micrometres a pixel; HD95 is then in micrometres, else in pixels.
        tolerance: Of NSD, in the same unit; default ``TOLERANCE_PIXELS`` pixels.
        objects: Also object F1 and object Dice.
        group: What the patients are: ``patient``, ``lesion`` or, where none are known, ``image``.

    Returns:
        One row per case and class (and foreground); ``attrs`` hold ``classes``, ``unit`` (``µm`` or ``pixel``),
        ``tolerance``, ``group`` and ``diagonal`` (of the largest case).

    Raises:
        MedcoreError: Not one prediction and patient per case, or a mask does not fit.
    """
    size = pixel_size_um or 1.0
    tolerance = TOLERANCE_PIXELS * size if tolerance is None else tolerance
    rows, diagonal = [], 0.0
    try:
        for truth, predicted, case, patient in zip(truths, predictions, cases, patients, strict=True):
            found = score_case(truth, predicted, classes, tolerance=tolerance / size, borders=borders, objects=objects)
            diagonal = max(diagonal, float(np.hypot(*np.shape(truth))) * size)
            rows += [{"case": case, "patient": patient, **row} for row in found]
    except ValueError as error:
        raise MedcoreError(f"score_cases: not one truth, prediction and patient for each case ({error})") from error
    table = pd.DataFrame(rows)
    if "hd95" in table:
        table["hd95"] *= size
    table.attrs = {"classes": list(classes), "unit": "µm" if pixel_size_um else "pixel", "tolerance": tolerance}
    table.attrs |= {"diagonal": diagonal, "group": group}
    return table


def per_case(table: pd.DataFrame, metric: str, *, background: bool = False) -> pd.Series:
    """One value per case: the mean over its classes (without the background by default), NaN where there is none.

    Returns:
        Indexed by case, in the order of the table.
    """
    used = table[table["class"].isin(table.attrs["classes"][0 if background else 1 :])]
    return used.groupby("case", sort=False)[metric].mean()


def foreground_rows(table: pd.DataFrame) -> pd.DataFrame:
    """One row per case: of the foreground as one class."""
    classes = table.attrs["classes"]
    return table[table["class"] == (FOREGROUND if len(classes) > 2 else classes[1])]


def leading_metrics(table: pd.DataFrame) -> list[tuple[str, str, float]]:
    """The metrics of the foreground that lead: name of the estimate, column, largest possible value."""
    prefix = "foreground_" if len(table.attrs["classes"]) > 2 else ""
    found = [name for name in LEADING if name in table]
    return [(prefix + _with_unit(name, table), name, _largest(name, table)) for name in found]


def _with_unit(metric: str, table: pd.DataFrame) -> str:
    return f"hd95_{'um' if table.attrs['unit'] == 'µm' else 'pixels'}" if metric == "hd95" else metric


def _largest(metric: str, table: pd.DataFrame) -> float:
    return float(table.attrs["diagonal"]) if metric == "hd95" else 1.0


def case_estimates(
    table: pd.DataFrame, *, split: str, metrics: Sequence[str] = METRICS, level: float = 0.95
) -> list[Estimate]:
    """Means over patients with intervals: the foreground first, the mean over classes, ``miou``, its pooled form.

    Args:
        split: Which side the cases are from.
        metrics: Columns to report; those that the table has not are left out. HD95 carries its unit in its name.
    """
    rows = foreground_rows(table)
    patients = rows["patient"].to_numpy()
    found = [
        _mean(rows[column].to_numpy(), patients, name, split, level, (0.0, largest))
        for name, column, largest in leading_metrics(table)
    ]
    for metric in (name for name in metrics if name in table):
        name = _with_unit(metric, table)
        if name not in [one.name for one in found]:
            values = per_case(table, metric).to_numpy()
            found.append(_mean(values, patients, name, split, level, (0.0, _largest(metric, table))))
    miou = per_case(table, "iou", background=True).to_numpy()
    found += [_mean(miou, patients, "miou", split, level), *_pooled(table, patients, split, level)]
    return _in_groups(found, table)


def compare_cases(
    table: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], *, split: str, reference: str | None = None
) -> Comparison:
    """A method beside baselines on the same cases, with the paired differences of the leading metrics.

    Args:
        baselines: Name to the same table of another method.
        split: Which side the cases are from.
        reference: The baseline that the headline is set against; by default the strongest on these cases.

    Raises:
        MedcoreError: The tables do not speak of the same cases.
    """
    own = case_estimates(table, split=split)
    trivial = {name: case_estimates(other, split=split) for name, other in baselines.items()}
    differences = {name: _differences(table, other, split) for name, other in baselines.items()}
    return Comparison(own, trivial, {}, differences, strongest(trivial) if reference is None else reference)


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of different cases of one set, one below the other."""
    whole = pd.concat([table.reset_index(drop=True) for table in tables], ignore_index=True)
    whole.attrs = dict(tables[0].attrs) | {"diagonal": max(table.attrs["diagonal"] for table in tables)}
    return whole


def _differences(table: pd.DataFrame, other: pd.DataFrame, split: str) -> list[Estimate]:
    rows, others = foreground_rows(table), foreground_rows(other)
    if rows["case"].tolist() != others["case"].tolist():
        raise MedcoreError("compare_cases: the two tables do not list the same cases in the same order")
    found = []
    for name, column, _ in leading_metrics(table):
        gap, most = rows[column].to_numpy() - others[column].to_numpy(), _largest(column, table)
        found.append(_mean(gap, rows["patient"].to_numpy(), f"{name}_difference", split, 0.95, (-most, most)))
    return _in_groups(found, table)


def _in_groups(estimates: list[Estimate], table: pd.DataFrame) -> list[Estimate]:
    """What is averaged over patients counts the set's own unit."""
    return [replace(one, unit=table.attrs["group"]) if one.unit == "patient" else one for one in estimates]


def absent_but_drawn(table: pd.DataFrame) -> pd.Series:
    """Where a class that the truth has not was drawn: the share of the case's pixels, for those cases only.

    Returns:
        Indexed by case. A few such pixels set the Dice of that class, and so half of a two-class case, to zero.
    """
    confusions = case_confusions(table).astype(float)
    absent = confusions.sum(2) == 0
    absent[:, 0] = False
    drawn = np.where(absent, confusions.sum(1), 0).sum(1)
    shares = pd.Series(drawn / np.maximum(confusions.sum((1, 2)), 1), index=per_case(table, "dice").index)
    return shares[shares > 0]


def class_estimates(
    table: pd.DataFrame, metric: str = "dice", *, split: str, level: float = 0.95
) -> dict[str, Estimate]:
    """One metric of each class but the background, with intervals over patients."""
    estimates = {}
    for name in table.attrs["classes"][1:]:
        part = table[table["class"] == name]
        bounds = (0.0, _largest(metric, table))
        found = _mean(part[metric].to_numpy(), part["patient"].to_numpy(), metric, split, level, bounds)
        estimates[name] = _in_groups([found], table)[0]
    return estimates


def case_confusions(table: pd.DataFrame) -> np.ndarray:
    """Pixel confusion of each case, truth down. **Shape** ``(N, K, K)``."""
    count = len(table.attrs["classes"])
    rows = table[table["class"].isin(table.attrs["classes"])]
    return rows[[f"pixels_{k}" for k in range(count)]].to_numpy().reshape(-1, count, count)


def _mean(
    values: np.ndarray,
    patients: np.ndarray,
    name: str,
    split: str,
    level: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    far = bounds[1] > 1  # no half patient a diagonal away
    found = mean_interval(
        values, patients, name=name, unit="image", split=split, by="patient", level=level,
        bounds=None if far and bounds[0] else bounds, method="jackknife" if far else "auto",
    )  # fmt: skip
    unseen = "a failure that none of these had would count the diagonal; no interval holds it" if far else ""
    return replace(found, note="; ".join(text for text in (found.note, unseen) if text))


def _pooled(table: pd.DataFrame, patients: np.ndarray, split: str, level: float) -> list[Estimate]:
    confusions = case_confusions(table).astype(float)

    def miou(weights: np.ndarray) -> float:
        return float(np.nanmean(overlap_metrics(np.einsum("n,nij->ij", weights, confusions))["iou"]))

    accuracy = np.trace(confusions, axis1=1, axis2=2) / np.maximum(confusions.sum((1, 2)), 1)
    pooled = statistic_interval(miou, patients, name="miou_pooled", unit="image", split=split, level=level)
    return [pooled, _mean(accuracy, patients, "pixel_accuracy", split, level)]
