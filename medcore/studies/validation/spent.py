"""What labels of the new cohort could mend: recalibration and another threshold, each nested, with the patients spent.

    spent = spend(scores, decision, rule="youden", folds=5)
    spent.table()                      # as delivered, recalibrated, re-thresholded

In every fold the curve (or temperature) and the threshold are chosen on the other folds' patients of this cohort and
applied to the fold; nobody is judged by what was chosen on them. These figures are no external validation any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import logit

from medcore.errors import MedcoreError
from medcore.evaluation.calibration import brier_change, calibration_estimates, fit_logistic, fit_temperature
from medcore.evaluation.estimate import Estimate, metric_name
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import choose_threshold

EDGE = 1e-6  # probabilities nearer to 0 and 1 have no finite logit


@dataclass(frozen=True)
class Spent:
    """Two cohorts' worth of answers on the same cases.

    Attributes:
        delivered: Probabilities as the folder states them.
        recalibrated: Probabilities by a curve chosen on other patients of this cohort.
        decisions: Name to decisions of two classes: as delivered, and by the thresholds of the other folds; empty for
            more classes.
        patients: Patients that each choice used, mean over the folds.
        folds: How many.
    """

    delivered: Scores
    recalibrated: Scores
    decisions: dict[str, np.ndarray]
    patients: int
    folds: int

    @property
    def change(self) -> Estimate:
        """Brier score after minus before: below zero, recalibration helps."""
        return brier_change(self.delivered, self.recalibrated)

    def table(self) -> pd.DataFrame:
        """Calibration as delivered and recalibrated, a row each."""
        rows = {}
        for name, scores, used in (
            ("as delivered", self.delivered, 0), ("recalibrated (nested)", self.recalibrated, self.patients),
        ):  # fmt: skip
            rows[name] = {"patients spent": used} | {
                metric_name(one.name): one for one in calibration_estimates(scores)
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def operating(self) -> pd.DataFrame | None:
        """Sensitivity and specificity as delivered and with thresholds chosen here; None for more than two classes."""
        rows: dict[str, dict[str, object]] = {}
        for name, decision in self.decisions.items():
            used = 0 if name == "as delivered" else self.patients
            rows[name] = {"patients spent": used} | {
                metric: interval(self.delivered, metric, decision=decision) for metric in ("sensitivity", "specificity")
            }
        return pd.DataFrame.from_dict(rows, orient="index") if rows else None


def spend(stated: Scores, decision: np.ndarray, *, rule: str = "youden", folds: int = 5, seed: int = 0) -> Spent:
    """Recalibrate and re-threshold in folds over patients.

    Args:
        stated: Probabilities of the cohort, ``(N,)`` of two classes or ``(N, K)``.
        decision: Class of each case as delivered. **Shape** ``(N,)``.
        rule: Of the new threshold.
        folds: At least two; fewer where a class has fewer patients.

    Raises:
        MedcoreError: A class has patients for fewer than two folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    two = len(stated.classes) == 2
    if two and stated.score.ndim == 2:
        stated = replace(stated, score=stated.score[:, 1])
    counts = [len(np.unique(stated.patient[stated.truth == k])) for k in np.unique(stated.truth)]
    folds = min([folds, *counts])
    if folds < 2 or len(counts) < 2:
        raise MedcoreError(f"recalibration: the rarest class has {min(counts)} patients; two are needed")
    score, called, used = np.array(stated.score), np.array(decision), []
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for others, own in splitter.split(stated.truth, stated.truth, stated.patient):
        chooses = replace(stated.select(others), split=np.full(len(others), "val"))
        used.append(chooses.patients)
        if two:
            steps = replace(chooses, score=_logit(chooses.score))
            score[own] = fit_logistic(steps).apply(_logit(stated.score[own]))
            called[own] = choose_threshold(chooses, rule).apply(stated.score[own])
        else:
            logs = replace(chooses, score=np.log(np.maximum(chooses.score, EDGE)))
            score[own] = fit_temperature(logs).apply(np.log(np.maximum(stated.score[own], EDGE)))
    decisions = {"as delivered": np.asarray(decision), f"{rule}, chosen here (nested)": called} if two else {}
    return Spent(stated, replace(stated, score=score), decisions, round(float(np.mean(used))), folds)


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(probability, EDGE, 1 - EDGE)))
