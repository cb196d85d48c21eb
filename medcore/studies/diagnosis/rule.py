"""Everything that is chosen for a diagnosis, on training patients, and then applied unchanged.

1. ``WindowRule``: which score judges a window, its threshold and its probability, from annotated windows.
2. ``PatientRule``: what the score of a patient means: decision, probability, density level.
3. ``DiagnosisRule``: both, and the way from windows to a patient's score.

Patients are few, so Youden's threshold comes from a logistic curve (``thresholds.logistic_youden``), not off the bare
ROC; ``benchmarks/thresholds.py`` measures what either gives away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.calibration import Logistic, fit_logistic
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.evaluation.thresholds import (
    OperatingPoint,
    choose_threshold,
    logistic_youden,
    parse_rule,
    point_at,
    smooth_youden,
)
from medcore.metrics.ranking import delong
from medcore.studies.diagnosis.aggregation import (
    Evidence,
    aggregate,
    choose_cuts,
    fit_evidence,
    level_counts,
    levels_from,
    strong_cut,
    window_levels,
)
from medcore.studies.diagnosis.choices import DEFAULT, EVIDENCE, DiagnosisChoices
from medcore.studies.diagnosis.cohort import Cohort, check_both


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


def choose_window_rule(cohort: Cohort, choices: DiagnosisChoices = DEFAULT) -> WindowRule:
    """Choose the window score, its threshold and its probability on annotated windows.

    Args:
        cohort: Patients to choose on; its windows' scores, simplest first, must come from models that have not seen
            them. The first score within ``choices.tolerance`` of the best is taken.
        choices: Fewer folds are used where fewer patients have positive windows.

    Raises:
        TestDataRefused: A patient is marked ``test``.
        MedcoreError: No window is annotated positive, or none negative.
    """
    from sklearn.metrics import roc_auc_score

    candidates = {name: cohort.window_scores(name) for name in cohort.scores}
    first = next(iter(candidates.values()))
    refuse_test_data(first, "a window threshold")
    auroc = {name: float(roc_auc_score(scores.truth, scores.score)) for name, scores in candidates.items()}
    plain = {name: scores.score for name, scores in candidates.items()}
    best = simplest(auroc, plain, first.truth, tolerance=choices.tolerance)
    thresholds, hits = _fold_thresholds(candidates[best], choices)
    return WindowRule(
        score=best,
        threshold=float(np.median(thresholds)),
        probability=fit_logistic(candidates[best]),
        fold_thresholds=tuple(thresholds),
        auroc=auroc,
        balanced_accuracy=hits,
    )


def simplest(
    auroc: dict[str, float],
    scores: dict[str, np.ndarray],
    truth: np.ndarray,
    *,
    few: bool = False,
    tolerance: float = DEFAULT.tolerance,
) -> str:
    """The first candidate whose AUROC is within a standard error of the best: simpler ones are named first.

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
    return next(name for name, value in auroc.items() if value >= auroc[best] - tolerance * error)


def _fold_thresholds(scores: Scores, choices: DiagnosisChoices) -> tuple[list[float], float]:
    """Thresholds of the folds, and the balanced accuracy of their decisions on the windows left out."""
    side = window_folds(scores, choices.folds, choices.seed)
    thresholds, decision = [], np.zeros(len(scores), dtype=bool)
    steady = parse_rule(choices.rule)[0] == "youden"
    for fold in np.unique(side):
        train = scores.select(side != fold) if len(np.unique(side)) > 1 else scores
        thresholds.append(smooth_youden(train) if steady else choose_threshold(train, choices.rule).threshold)
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


@dataclass(frozen=True)
class PatientRule:
    """What a patient score means.

    Attributes:
        point: The threshold, by which rule and on whom; a patient at or above it is called infected.
        probability: Score to the probability of infection, at the prevalence of the training patients.
        cuts: Ascending cuts into density levels.
    """

    point: OperatingPoint
    probability: Logistic
    cuts: tuple[float, ...]

    def decide(self, score: np.ndarray) -> pd.DataFrame:
        """Columns ``score``, ``probability``, ``decision`` (0 or 1), ``margin`` and ``level``, a row per patient.

        ``margin`` is the score minus the threshold.
        """
        return pd.DataFrame(
            {
                "score": score,
                "probability": self.probability.apply(score),
                "decision": self.point.apply(score),
                "margin": score - self.point.threshold,
                "level": levels_from(score, self.cuts),
            }
        )


def choose_patient_rule(cohort: Cohort, score: np.ndarray, *, rule: str = "youden") -> PatientRule:
    """Choose threshold, probability and density cuts.

    Args:
        score: Their scores, each from a model and window rule that have not seen the patient. **Shape** ``(P,)``.

    Raises:
        TestDataRefused: A patient is marked ``test``.
        MedcoreError: One class only, or a score that is not finite.
    """
    if np.shape(score) != (len(cohort),):
        raise MedcoreError(f"patient rule: {np.shape(score)} scores for {len(cohort)} patients")
    scores = cohort.patient_scores(score)
    refuse_test_data(scores, "a patient threshold")
    return PatientRule(
        point=_choose_point(scores, rule),
        probability=fit_logistic(scores),
        cuts=choose_cuts(scores, cohort.level, len(cohort.levels)),
    )


def _choose_point(scores: Scores, rule: str) -> OperatingPoint:
    steady = parse_rule(rule)[0] == "youden"
    return point_at(scores, logistic_youden(scores), rule) if steady else choose_threshold(scores, rule)


@dataclass(frozen=True)
class DiagnosisRule:
    """Everything that was chosen; it never changes when it is applied.

    Attributes:
        window: How a window is judged.
        aggregation: How the windows of a patient become one score: one of ``choices.aggregations``.
        evidence: What the windows of infected and healthy training patients look like.
        patient: How the score of a patient is judged.
        auroc: AUROC of each aggregation on unseen patients of the inner folds.
    """

    window: WindowRule
    aggregation: str
    evidence: Evidence
    patient: PatientRule
    auroc: dict[str, float]

    def score(self, cohort: Cohort) -> np.ndarray:
        """The score of each patient. **Shape** ``(P,)``, 0 to 1."""
        return patient_scores(cohort, self.window, self.aggregation, self.evidence)

    def diagnose(self, cohort: Cohort) -> pd.DataFrame:
        """One row per patient: name, truth, ``windows``, ``positive_windows`` and what ``PatientRule.decide`` says.

        ``diagnosis``, ``true_level`` and ``truth`` are copied for the reader; no other column depends on them.
        """
        _, positive = self.window.judge(cohort)
        return patient_table(cohort, positive).join(self.patient.decide(self.score(cohort)))


def patient_scores(cohort: Cohort, window: WindowRule, aggregation: str, evidence: Evidence) -> np.ndarray:
    """The score of each patient by one of ``choices.aggregations``. **Shape** ``(P,)``, 0 to 1."""
    if aggregation == EVIDENCE:
        return evidence.score(_levels(cohort, window, evidence.cut))
    probability, positive = window.judge(cohort)
    kept = cohort.counted
    return aggregate(aggregation, probability[kept], positive[kept], cohort.owner[kept], len(cohort))


def learn_evidence(cohort: Cohort, window: WindowRule) -> Evidence:
    """What the windows of infected and healthy training patients look like to a window rule."""
    cut = strong_cut(cohort.score(window.score), cohort.label, window.threshold)
    return fit_evidence(_levels(cohort, window, cut), cohort.patient_scores(np.zeros(len(cohort))), cut)


def _levels(cohort: Cohort, window: WindowRule, cut: float) -> np.ndarray:
    """Windows of each level of each patient. **Shape** ``(P, L)``."""
    level = window_levels(cohort.score(window.score), window.threshold, cut)
    return level_counts(level[cohort.counted], cohort.owner[cohort.counted], len(cohort))


def patient_table(cohort: Cohort, positive: np.ndarray | None = None) -> pd.DataFrame:
    """Names, truth and window counts of the patients, in order. **Shape** ``positive`` ``(N,)`` bool."""
    table = pd.DataFrame(
        {
            "patient": cohort.names,
            "diagnosis": np.array(cohort.levels)[cohort.level],
            "true_level": cohort.level,
            "truth": cohort.truth,
            "windows": cohort.windows_per_patient,
        }
    )
    if positive is not None:
        table["positive_windows"] = np.bincount(
            cohort.owner, weights=positive & cohort.counted, minlength=len(cohort)
        ).astype(np.int64)
    return table


def choose_diagnosis(cohort: Cohort, choices: DiagnosisChoices = DEFAULT) -> DiagnosisRule:
    """Choose window rule, aggregation and patient rule on training patients.

    Args:
        cohort: Training patients; their windows' scores must come from models that have not seen them.
        choices: Folds, threshold rule, and the candidate aggregations, preferred ones first.

    Raises:
        TestDataRefused: A patient is marked ``test``.
        MedcoreError: One class only, too few patients for the folds, or no annotated windows.
    """
    from sklearn.metrics import roc_auc_score

    if not choices.aggregations:
        raise MedcoreError(
            f"choose_diagnosis: no aggregation to choose from; known are {', '.join(DEFAULT.aggregations)}"
        )
    refuse_test_data(cohort.patient_scores(np.zeros(len(cohort))), "a diagnosis rule")
    check_both(cohort)
    unseen = out_of_fold_scores(cohort, choices)
    auroc = {name: float(roc_auc_score(cohort.truth, score)) for name, score in unseen.items()}
    best = simplest(auroc, unseen, cohort.truth, few=True, tolerance=choices.tolerance)
    window = choose_window_rule(cohort, choices)
    return DiagnosisRule(
        window=window,
        aggregation=best,
        evidence=learn_evidence(cohort, window),
        patient=choose_patient_rule(cohort, unseen[best], rule=choices.rule),
        auroc=auroc,
    )


def out_of_fold_scores(cohort: Cohort, choices: DiagnosisChoices) -> dict[str, np.ndarray]:
    """Patient scores under each aggregation by rules that were chosen without the patient. Each ``(P,)``."""
    scores = {name: np.zeros(len(cohort)) for name in choices.aggregations}
    side = cohort.folds(choices.folds, seed=choices.seed)
    for fold in range(choices.folds):
        others, held_out = cohort.select(side != fold), cohort.select(side == fold)
        window = choose_window_rule(others, choices)
        evidence = learn_evidence(others, window)
        for name in choices.aggregations:
            scores[name][side == fold] = patient_scores(held_out, window, name, evidence)
    return scores
