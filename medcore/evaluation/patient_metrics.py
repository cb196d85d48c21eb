"""How good are the diagnoses? Every figure per patient, with its interval; where there are folds, within folds.

The scores of different folds come from different rules, so only patients of one fold can be ranked against each other:
pooling them mixes scales, and flatters or harms. The AUROC of folds therefore counts pairs within folds. Which patients
share a fold is chance; where the same patients were cut into folds several times, it is the mean over the cuts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medcore.errors import MedcoreError
from medcore.evaluation.confusion import confusion_matrix
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import (
    McNemar,
    interval,
    mcnemar,
    multinomial_interval,
    paired_difference,
    statistic_interval,
)
from medcore.evaluation.nested import Diagnoses

DECISION_METRICS = ("accuracy", "sensitivity", "specificity", "ppv", "npv")


def patient_estimates(diagnoses: Diagnoses, *, levels: int = 3) -> list[Estimate]:
    """AUROC, average precision, the operating point and the density, each with its interval.

    Proportions have Wilson's interval, AUROC on HoldOut DeLong's, within folds a jackknife over patients.
    """
    scores, table = diagnoses.scores(), diagnoses.table
    decision = table["decision"].to_numpy()
    ranked = diagnoses.scores("score") if diagnoses.split == "test" else scores  # folds share no scale of scores
    estimates = [patient_auroc(diagnoses), interval(ranked, "average_precision")]
    estimates += [interval(scores, metric, decision=decision) for metric in DECISION_METRICS]
    return [_held_out(one, diagnoses) for one in [*estimates, density_kappa(diagnoses, levels)]]


def patient_auroc(diagnoses: Diagnoses) -> Estimate:
    """AUROC of patients: DeLong on HoldOut; pairs of patients of one fold, with a jackknife, where there are folds."""
    if diagnoses.split == "test":
        return interval(diagnoses.scores("score"), "auroc")
    return _within(_mean_auroc(diagnoses), diagnoses, "auroc", (0.0, 1.0))


def compare_aurocs(first: Diagnoses, second: Diagnoses) -> Estimate:
    """How much the first AUROC is above the second, on the same patients: DeLong on HoldOut, else as ``patient_auroc``.

    Raises:
        MedcoreError: The two do not speak of the same patients.
    """
    _same_patients(first, second)
    if first.split == "test":
        return paired_difference(first.scores("score"), second.scores("score"), "auroc")
    one, other = _mean_auroc(first), _mean_auroc(second)
    return _within(lambda weights: one(weights) - other(weights), first, "auroc_difference", (-1.0, 1.0))


def compare_decisions(first: Diagnoses, second: Diagnoses) -> McNemar:
    """Exact McNemar test: which is right where the other is wrong, on the same patients.

    Raises:
        MedcoreError: The two do not speak of the same patients.
    """
    _same_patients(first, second)
    right = [(one.table["decision"] == one.table["truth"]).to_numpy() for one in (first, second)]
    return mcnemar(*right)


def within_fold_auroc(
    truth: np.ndarray, score: np.ndarray, fold: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Share of (infected, healthy) pairs of one fold in which the infected patient scores higher; ties count half.

    Args:
        truth: 0 or 1. **Shape** ``(P,)``.
        score: Higher = more suspicious; comparable within a fold only. **Shape** ``(P,)``.
        fold: **Shape** ``(P,)``.
        weight: Of each patient, 1 by default. **Shape** ``(P,)``.

    Returns:
        0 to 1; NaN where no fold has both kinds.

    **Reference** Forman & Scholz 2010, doi:10.1145/1882471.1882479.
    """
    weight = np.ones(len(truth)) if weight is None else np.asarray(weight, dtype=float)
    won = pairs = 0.0
    for number in np.unique(fold):
        ill, well = (np.flatnonzero((fold == number) & (truth == kind) & (weight > 0)) for kind in (1, 0))
        counts = weight[ill][:, None] * weight[well]
        gap = score[ill][:, None] - score[well]
        won += float((counts * ((gap > 0) + 0.5 * (gap == 0))).sum())
        pairs += float(counts.sum())
    return won / pairs if pairs else float("nan")


def density_kappa(diagnoses: Diagnoses, levels: int = 3) -> Estimate:
    """Quadratic-weighted kappa of the density levels, with an interval over patients."""
    table = diagnoses.table
    confusion = confusion_matrix(table["true_level"].to_numpy(), table["level"].to_numpy(), levels)
    return multinomial_interval(confusion, "quadratic_kappa", unit="patient", split=diagnoses.split)


def _mean_auroc(diagnoses: Diagnoses) -> Callable[[np.ndarray], float]:
    """From weights of the patients to the AUROC within folds, averaged over the cuts."""
    cuts = [[one.table[name].to_numpy() for name in ("truth", "score", "fold")] for one in diagnoses.cuts]

    def mean(weights: np.ndarray) -> float:
        return float(np.mean([within_fold_auroc(truth, score, fold, weights) for truth, score, fold in cuts]))

    return mean


def _within(
    statistic: Callable[[np.ndarray], float], diagnoses: Diagnoses, name: str, bounds: tuple[float, float]
) -> Estimate:
    patient = diagnoses.table["patient"].to_numpy()
    return statistic_interval(statistic, patient, name=name, unit="patient", split="folds", bounds=bounds)


def _held_out(one: Estimate, diagnoses: Diagnoses) -> Estimate:
    """The estimate with how its patients were held out (``Scores`` knows val and test only)."""
    return Estimate(**{**one.as_dict(), "split": diagnoses.split})


def _same_patients(first: Diagnoses, second: Diagnoses) -> None:
    if not first.table["patient"].equals(second.table["patient"]) or first.split != second.split:
        raise MedcoreError("compare: the two must be about the same patients in the same order, held out alike")
