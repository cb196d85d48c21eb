"""Which windows speak for a patient?

QuironHelico keeps three kinds: ``HoldOut`` (all windows of patients set aside), ``Cropped`` (all windows along the
border of a sample) and ``Annotated`` (a few, looked at by a pathologist). HoldOut patients are judged by all their
windows, so the others should be, too: by ``Cropped`` where healthy *and* infected patients have it, else by
``Annotated``. Annotated windows lend their annotation in any case.

Which windows are called positive: the score, its threshold and its probability, from annotated windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from medcore.data.datasets import HELICO_DENSITIES
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.calibration import Logistic, fit_logistic
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.evaluation.thresholds import choose_threshold, parse_rule, smooth_youden
from medcore.metrics.ranking import delong
from medcore.studies.diagnosis.cohort import Cohort

FEWEST_PATIENTS = 10  # of each kind that must have Cropped windows before these speak for patients


def diagnosis_windows(patches: PatchSet) -> PatchSet:
    """The windows that a diagnosis needs, with a column ``counted`` for those that make the patient's score.

    Args:
        patches: Windows with columns ``diagnosis`` and, where the set has several kinds, ``set``.

    Returns:
        A view without windows that are neither counted nor annotated. A set without a ``set`` column is taken whole.

    Raises:
        MedcoreError: No window is left.
    """
    counted = _counted(patches)
    view = patches.with_columns(counted=counted).select(counted | (patches.labels >= 0))
    speaking = np.unique(view.patients[view.column("counted")])
    view = view.select(np.isin(view.patients, speaking))
    if not len(view):
        raise MedcoreError(
            f"set {patches.card.name!r}: no window of 'Annotated' or 'HoldOut' is there, so no patient can be diagnosed"
        )
    return view


def bystanders(patches: PatchSet, diagnosed: PatchSet) -> PatchSet:
    """Windows of healthy patients who are not diagnosed: an autoencoder may learn from them in every fold.

    Args:
        patches: The whole set.
        diagnosed: What ``diagnosis_windows`` took of it.

    Returns:
        A view, perhaps empty, without HoldOut, without positive windows, and without patients who share a window
        (``copy_of``) with a diagnosed one.
    """
    strange = ~np.isin(patches.patients, np.unique(diagnosed.patients))
    if "copy_of" in patches.columns:
        copies, sources = patches.column("copy_of"), patches.column("source")
        shared = np.isin(copies, diagnosed.column("source")) | np.isin(sources, diagnosed.column("copy_of"))
        strange &= ~np.isin(patches.patients, np.unique(patches.patients[strange & shared]))
    well = patches.column("diagnosis") == HELICO_DENSITIES[0]
    return patches.select(strange & well & (patches.splits != "test") & (patches.labels != 1))


def window_inventory(patches: PatchSet) -> pd.DataFrame:
    """Windows, patients and annotations of every kind of window and diagnosis."""
    keys = [name for name in ("set", "diagnosis") if name in patches.columns]
    frame = patches.table.assign(annotated=patches.labels >= 0, positive=patches.labels == 1)
    columns = {"patients": ("patient", "nunique"), "windows": ("label", "size")}
    columns |= {"annotated": ("annotated", "sum"), "positive": ("positive", "sum")}
    if not keys:
        frame, keys = frame.assign(set="all"), ["set"]
    return frame.groupby(keys).agg(**columns)  # type: ignore[call-overload]


def speaking_set(patches: PatchSet) -> str:
    """The kind of window that speaks for patients who are not HoldOut: ``Cropped``, ``Annotated`` or ``all``."""
    if "set" not in patches.columns:
        return "all"
    cropped = patches.where(set="Cropped")
    well = cropped.column("diagnosis") == HELICO_DENSITIES[0]
    kinds = [len(np.unique(cropped.patients[kind])) for kind in (well, ~well)]
    return "Cropped" if min(kinds) >= FEWEST_PATIENTS else "Annotated"


def _counted(patches: PatchSet) -> np.ndarray:
    chosen = speaking_set(patches)
    if chosen == "all":
        return np.ones(len(patches), dtype=bool)
    kind = patches.column("set")
    counted = (kind == chosen) | (kind == "HoldOut")
    if chosen == "Cropped":  # a patient without Cropped windows speaks by the annotated ones
        counted |= (kind == "Annotated") & ~np.isin(patches.patients, patches.patients[counted])
    return counted


def limit_patients(patches: PatchSet, most: int | None, *, seed: int = 0) -> PatchSet:
    """At most ``most`` patients of every diagnosis, apart for HoldOut and the others; None takes all.

    Every group has its own draw, so that nothing about HoldOut patients decides which others are taken.

    **Shape**: a view of the set with all windows of the drawn patients.
    """
    if most is None:
        return patches
    frame = patches.table[["patient", "diagnosis", "split"]].drop_duplicates("patient")
    drawn: list[str] = []
    for _, part in frame.groupby(["diagnosis", frame["split"] == "test"], sort=True):
        group = f"{part['diagnosis'].iloc[0]}, HoldOut: {part['split'].iloc[0] == 'test'}"
        generator = np.random.default_rng([seed, *group.encode()])
        drawn += generator.permutation(np.sort(part["patient"].to_numpy(dtype=str)))[:most].tolist()
    return patches.select(np.isin(patches.patients, drawn))


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
