"""Which windows are called positive: the score, its threshold and its probability, from annotated windows.

The threshold comes from patient-grouped folds: in each fold it is chosen on the windows of the other patients and
tried on those of the fold; the median of the folds' thresholds serves. How well it did on unseen patients is kept.
Youden's threshold is read off smoothed distributions (``youden.smooth_youden``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from medcore.evaluation.calibration import Logistic, fit_logistic
from medcore.evaluation.cohort import Cohort
from medcore.evaluation.delong import delong
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.evaluation.thresholds import choose_threshold, parse_rule
from medcore.evaluation.youden import smooth_youden


@dataclass(frozen=True)
class WindowRule:
    """How a window is judged.

    Attributes:
        score: Name of the window score.
        threshold: A window at or above it is positive.
        probability: Score to the probability that an annotator calls the window positive.
        fold_thresholds: The threshold of each fold.
        auroc: AUROC of every window score that stood to choose, on the annotated windows.
        balanced_accuracy: Of the fold thresholds on the windows of unseen patients.
    """

    score: str
    threshold: float
    probability: Logistic
    fold_thresholds: tuple[float, ...]
    auroc: dict[str, float]
    balanced_accuracy: float

    def judge(self, cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
        """Probability and decision of every window of a cohort. **Shape** ``(N,)`` float64, ``(N,)`` bool."""
        values = cohort.score(self.score)
        return self.probability.apply(values), values >= self.threshold


def choose_window_rule(cohort: Cohort, *, folds: int = 5, rule: str = "youden", seed: int = 0) -> WindowRule:
    """Choose the window score, its threshold and its probability on annotated windows.

    Args:
        cohort: Patients to choose on; its windows' scores, simplest first, must come from models that have not seen
            them. The first score within a standard error of the best is taken.
        folds: Patient-grouped folds of the threshold; fewer are used where fewer patients have positive windows.
        rule: How a threshold is chosen (``thresholds.choose_threshold``).
        seed: Of the folds.

    Raises:
        TestDataRefused: A patient is marked ``test``.
        MedcoreError: No window is annotated positive, or none negative.
    """
    candidates = {name: cohort.window_scores(name) for name in cohort.scores}
    first = next(iter(candidates.values()))
    auroc = {name: float(roc_auc_score(scores.truth, scores.score)) for name, scores in candidates.items()}
    best = simplest(auroc, {name: scores.score for name, scores in candidates.items()}, first.truth)
    scores = candidates[best]
    refuse_test_data(scores, "a window threshold")
    thresholds, hits = _fold_thresholds(scores, folds, rule, seed)
    return WindowRule(
        score=best,
        threshold=float(np.median(thresholds)),
        probability=fit_logistic(scores),
        fold_thresholds=tuple(thresholds),
        auroc=auroc,
        balanced_accuracy=hits,
    )


def simplest(auroc: dict[str, float], scores: dict[str, np.ndarray], truth: np.ndarray, *, few: bool = False) -> str:
    """The first candidate whose AUROC is within one standard error of the best: simpler ones are named first.

    Small differences between candidates are chance; the best of several is the luckiest, too.

    Args:
        auroc: AUROC of each candidate, simplest first.
        scores: Their scores. **Shape** each ``(N,)``.
        truth: 0 or 1. **Shape** ``(N,)``.
        few: With few cases an AUROC close to 1 has next to no DeLong error. Then the error is at least that of a
            proportion of as many cases as the rarer class has, half a miss added.

    **Reference** Hastie, Tibshirani & Friedman 2009, *The Elements of Statistical Learning*, section 7.10 (the rule).
    """
    best = max(auroc, key=lambda name: auroc[name])
    rarer = int(min(truth.sum(), (1 - truth).sum()))
    if rarer < 2:
        return best
    error = float(np.sqrt(delong(truth == 1, scores[best]).covariance[0, 0]))
    if few:
        share = (auroc[best] * rarer + 0.5) / (rarer + 1)
        error = max(error, float(np.sqrt(share * (1 - share) / rarer)))
    return next(name for name, value in auroc.items() if value >= auroc[best] - error)


def _fold_thresholds(scores: Scores, folds: int, rule: str, seed: int) -> tuple[list[float], float]:
    """Thresholds of the folds, and the balanced accuracy of their decisions on the windows left out."""
    side = window_folds(scores, folds, seed)
    thresholds, decision = [], np.zeros(len(scores), dtype=bool)
    steady = parse_rule(rule)[0] == "youden"
    for fold in np.unique(side):
        train = scores.select(side != fold) if len(np.unique(side)) > 1 else scores
        thresholds.append(smooth_youden(train) if steady else choose_threshold(train, rule).threshold)
        decision[side == fold] = scores.score[side == fold] >= thresholds[-1]
    return thresholds, float(np.mean([(decision == scores.truth)[scores.truth == kind].mean() for kind in (0, 1)]))


def window_folds(scores: Scores, folds: int, seed: int) -> np.ndarray:
    """Fold of every window: patients stay whole, and those with positive windows are spread evenly.

    With one patient only that has positive windows, all is one fold. **Shape** ``(N,)`` int64.
    """
    names, owner = np.unique(scores.patient, return_inverse=True)
    ill = np.bincount(owner, weights=scores.truth, minlength=len(names)) > 0
    count = min(folds, int(ill.sum()))
    if count < 2:
        return np.zeros(len(scores), dtype=np.int64)
    draw = np.random.default_rng(seed)
    side = np.zeros(len(names), dtype=np.int64)
    for kind in (True, False):  # dealt like cards, so that every fold gets its share of both
        members = draw.permutation(np.flatnonzero(ill == kind))
        side[members] = np.arange(len(members)) % count
    return side[owner]
