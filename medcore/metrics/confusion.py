"""Metrics of a confusion matrix, for one matrix or for a thousand resampled ones at once.

- Rows are the truth, columns the decision; entries are counts or weights. **Shape** ``(..., K, K)`` in, ``(...)`` out.
- numpy arrays and torch tensors both work; what has no value (0 / 0) is NaN here and is explained by the callers
  that face a reader (``intervals``, ``tables``).
- Means over classes are scikit-learn's: recall, specificity and NPV over the classes that have cases, PPV and F1 over
  the classes that occur in truth or decision, where a class without a hit counts as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from medcore.errors import MedcoreError

if TYPE_CHECKING:
    from torch import Tensor

Array = Any  # numpy.ndarray or torch.Tensor
Metric = Callable[[Array], Array]


def confusion_matrix(truth: np.ndarray, decision: np.ndarray, classes: int) -> np.ndarray:
    """Count the decisions per true class.

    Args:
        truth: Class indexes. **Shape** ``(N,)``.
        decision: Class indexes. **Shape** ``(N,)``.

    Returns:
        Counts, rows = truth. **Shape** ``(K, K)`` int64.

    Raises:
        MedcoreError: Lengths differ or an index is outside 0…K-1.
    """
    truth, decision = class_indexes("truth", truth, classes), class_indexes("decision", decision, classes)
    if len(truth) != len(decision):
        raise MedcoreError(f"confusion_matrix: {len(truth)} truths but {len(decision)} decisions")
    return np.bincount(truth * classes + decision, minlength=classes**2).reshape(classes, classes)


def confusion_counts(truth: Tensor, decision: Tensor, classes: int) -> Tensor:
    """``confusion_matrix`` of tensors on their device; nothing waits for the GPU.

    Pairs whose truth is not a class (an ignored pixel) are left out.

    **Shape** ``(..., n)`` int64 twice -> ``(..., K, K)`` int64.
    """
    import torch  # the numpy path needs none

    rows, cells = truth.reshape(-1, truth.shape[-1]), classes * classes
    valid = (rows >= 0) & (rows < classes)
    cell = torch.where(valid, rows * classes + decision.reshape(rows.shape), cells)
    cell = cell + torch.arange(len(rows), device=truth.device)[:, None] * (cells + 1)
    counts = torch.zeros(len(rows) * (cells + 1), dtype=torch.int64, device=truth.device)
    counts.scatter_add_(0, cell.flatten(), torch.ones_like(cell).flatten())  # whole numbers: the order cannot matter
    return counts.reshape(-1, cells + 1)[:, :-1].reshape(*truth.shape[:-1], classes, classes)


def class_indexes(name: str, values: np.ndarray, classes: int) -> np.ndarray:
    """Class indexes as int64.

    Raises:
        MedcoreError: A value is no whole number between 0 and ``classes - 1``.
    """
    given = np.asarray(values)
    indexes = given.astype(np.int64)
    wrong = np.flatnonzero((indexes != given) | (indexes < 0) | (indexes >= classes))
    if len(wrong):
        raise MedcoreError(f"{name}[{wrong[0]}] is {given[wrong[0]]}; class indexes go from 0 to {classes - 1}")
    return indexes


def accuracy(confusion: Array) -> Array:
    """Share of right decisions."""
    return ratio(diagonal(confusion).sum(-1), confusion.sum(-1).sum(-1))


def balanced_accuracy(confusion: Array) -> Array:
    """Mean sensitivity over the classes that have cases."""
    rows = confusion.sum(-1)
    return _mean_over(rows > 0, diagonal(confusion), rows)


def macro_f1(confusion: Array) -> Array:
    """Mean F1 over the classes that occur."""
    occurs = confusion.sum(-1) + confusion.sum(-2)
    return _mean_over(occurs > 0, 2 * diagonal(confusion), occurs)


def macro_specificity(confusion: Array) -> Array:
    """Mean specificity over the classes that have cases."""
    false, negatives = _against_the_rest(confusion)
    return _mean_over(confusion.sum(-1) > 0, negatives - false, negatives)


def macro_ppv(confusion: Array) -> Array:
    """Mean PPV over the classes that occur."""
    columns = confusion.sum(-2)
    return _mean_over(confusion.sum(-1) + columns > 0, diagonal(confusion), columns)


def macro_npv(confusion: Array) -> Array:
    """Mean NPV over the classes that have cases."""
    false, negatives = _against_the_rest(confusion)
    rows, quiet = confusion.sum(-1), negatives - false
    return _mean_over(rows > 0, quiet, quiet + rows - diagonal(confusion))


def matthews(confusion: Array) -> Array:
    """Matthews correlation, its K-class form R_K; -1 to 1.

    **Reference** Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006.
    """
    rows, columns = confusion.sum(-1), confusion.sum(-2)
    total = rows.sum(-1)
    covariance = diagonal(confusion).sum(-1) * total - (rows * columns).sum(-1)
    spread = (total**2 - (rows**2).sum(-1)) * (total**2 - (columns**2).sum(-1))
    return covariance / spread**0.5


def kappa(confusion: Array) -> Array:
    """Cohen's kappa: agreement beyond chance; at most 1.

    **Reference** Cohen 1960, doi:10.1177/001316446002000104.
    """
    rows, columns = confusion.sum(-1), confusion.sum(-2)
    total = rows.sum(-1)
    chance = (rows * columns).sum(-1) / total**2
    return (diagonal(confusion).sum(-1) / total - chance) / (1 - chance)


def quadratic_kappa(confusion: Array) -> Array:
    """Kappa for ordered classes: a disagreement weighs the square of its distance in classes; at most 1.

    **Reference** Cohen 1968, doi:10.1037/h0026256.
    """
    rows, columns = confusion.sum(-1), confusion.sum(-2)
    places = np.arange(confusion.shape[-1])
    weights = _like((places[:, None] - places[None, :]) ** 2.0, confusion)
    expected = rows[..., :, None] * columns[..., None, :] / rows.sum(-1)[..., None, None]
    return 1 - (weights * confusion).sum(-1).sum(-1) / (weights * expected).sum(-1).sum(-1)


def within_one(confusion: Array) -> Array:
    """Share of the answers that are right or one class off, for ordered classes."""
    places = np.arange(confusion.shape[-1])
    near = _like((abs(places[:, None] - places[None, :]) <= 1) * 1.0, confusion)
    return (near * confusion).sum(-1).sum(-1) / confusion.sum(-1).sum(-1)


def median_grade(probabilities: Array) -> Array:
    """The first of some ordered classes at or below which more than half of the probability lies.

    It has the smallest expected distance in classes. **Shape** ``(N, K)`` to ``(N,)`` int64.
    """
    above = 1 - probabilities.cumsum(1)[:, :-1]
    return (above > 0.5).sum(1)


def sensitivity(confusion: Array, positive: int = 1) -> Array:
    """Share of the positive cases that were called positive (recall)."""
    return confusion[..., positive, positive] / confusion[..., positive, :].sum(-1)


def specificity(confusion: Array, positive: int = 1) -> Array:
    """Share of the negative cases that were called negative."""
    negatives = confusion.sum(-1).sum(-1) - confusion[..., positive, :].sum(-1)
    false = confusion[..., :, positive].sum(-1) - confusion[..., positive, positive]
    return (negatives - false) / negatives


def ppv(confusion: Array, positive: int = 1) -> Array:
    """Share of the positive calls that were right (precision), at the prevalence of these data."""
    return confusion[..., positive, positive] / confusion[..., :, positive].sum(-1)


def npv(confusion: Array, positive: int = 1) -> Array:
    """Share of the negative calls that were right, at the prevalence of these data."""
    calls = confusion.sum(-1).sum(-1) - confusion[..., :, positive].sum(-1)
    missed = confusion[..., positive, :].sum(-1) - confusion[..., positive, positive]
    return (calls - missed) / calls


def f1(confusion: Array, positive: int = 1) -> Array:
    """Harmonic mean of sensitivity and PPV of one class."""
    hits = confusion[..., positive, positive]
    return 2 * hits / (confusion[..., positive, :].sum(-1) + confusion[..., :, positive].sum(-1))


def ppv_at(prevalence: float, sensitivity: Array, specificity: Array) -> Array:
    """PPV where a share ``prevalence`` is positive (Bayes)."""
    return sensitivity * prevalence / (sensitivity * prevalence + (1 - specificity) * (1 - prevalence))


def npv_at(prevalence: float, sensitivity: Array, specificity: Array) -> Array:
    """NPV where a share ``prevalence`` is positive (Bayes)."""
    return specificity * (1 - prevalence) / (specificity * (1 - prevalence) + (1 - sensitivity) * prevalence)


OVERALL: dict[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "macro_specificity": macro_specificity,
    "macro_ppv": macro_ppv,
    "macro_npv": macro_npv,
    "mcc": matthews,
    "kappa": kappa,
    "quadratic_kappa": quadratic_kappa,
    "within_one": within_one,
}
OF_ONE_CLASS: dict[str, Callable[[Array, int], Array]] = {
    "sensitivity": sensitivity,
    "specificity": specificity,
    "ppv": ppv,
    "npv": npv,
    "f1": f1,
}
AT_PREVALENCE = {"ppv": ppv_at, "npv": npv_at}
FROM_MINUS_ONE = ("mcc", "kappa", "quadratic_kappa")


def metric_function(name: str, positive: int = 1) -> Metric:
    """The metric of that name as a function of the confusion matrix alone.

    Args:
        name: Such as ``accuracy``, ``ppv``, or ``ppv@0.05``: the PPV where 5 % are positive.
        positive: The class that one-class metrics speak of.

    Raises:
        MedcoreError: There is no such metric.
    """
    base, prevalence = parse_metric(name)
    if prevalence is not None:
        of_rates = AT_PREVALENCE[base]
        return lambda matrix: of_rates(prevalence, sensitivity(matrix, positive), specificity(matrix, positive))
    if base in OVERALL:
        return OVERALL[base]
    of_one = OF_ONE_CLASS[base]
    return lambda matrix: of_one(matrix, positive)


def parse_metric(name: str) -> tuple[str, float | None]:
    """Split ``ppv@0.05`` into the metric and the prevalence, None where none is stated.

    Raises:
        MedcoreError: There is no such metric, or the prevalence is not between 0 and 1.
    """
    base, stated, given = name.partition("@")
    known = [*OVERALL, *OF_ONE_CLASS, *(f"{one}@PREVALENCE" for one in AT_PREVALENCE)]
    if base not in (AT_PREVALENCE if stated else {**OVERALL, **OF_ONE_CLASS}):
        raise MedcoreError(f"metric {name!r} is none of {', '.join(known)}")
    return base, check_prevalence(given) if stated else None


def check_prevalence(given: float | str) -> float:
    """A prevalence as a number strictly between 0 and 1.

    Raises:
        MedcoreError: It is not.
    """
    try:
        prevalence = float(given)
    except ValueError:
        prevalence = float("nan")
    if not 0 < prevalence < 1:
        raise MedcoreError(f"prevalence={given!r} must lie between 0 and 1 (5 % is 0.05)")
    return prevalence


def diagonal(confusion: Array) -> Array:
    """The right decisions of each class. **Shape** ``(..., K, K)`` -> ``(..., K)``."""
    places = np.arange(confusion.shape[-1])
    return confusion[..., places, places]


def _against_the_rest(confusion: Array) -> tuple[Array, Array]:
    """Per class the wrong calls of it and the cases of all other classes. Each **Shape** ``(..., K)``."""
    rows = confusion.sum(-1)
    return confusion.sum(-2) - diagonal(confusion), rows.sum(-1)[..., None] - rows


def _mean_over(classes: Array, numerator: Array, denominator: Array) -> Array:
    """Mean of the ratio over some classes, 0 / 0 counted as 0. **Shape** ``(..., K)`` each."""
    shares = numerator / (denominator + (denominator == 0))
    return ratio((shares * classes).sum(-1), classes.sum(-1))


def mean_of_defined(values: np.ndarray) -> float:
    """The mean of the finite values, NaN without any."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient, NaN without a warning where it is 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return numerator / denominator


def _like(values: np.ndarray, other: Array) -> Array:
    return values if isinstance(other, np.ndarray) else other.new_tensor(values)
