"""When not to answer: risk over coverage, and a rule that rejects the least certain cases.

    curve = risk_coverage(scores.where("test"))                       # error among the answered, as more is answered
    rule = choose_rejection(scores.where("val"), coverage=0.8)        # or error=0.05
    selective_table({"80 %": rule}, scores.where("test"))             # what it does to test cases

**Reference**: El-Yaniv & Wiener 2010 (risk-coverage curve); Geifman, Uziel & El-Yaniv 2019, arXiv:1805.08206 (AURC).

Split and cross-conformal prediction over patients: sets of answers that hold the truth as often as promised.

    rule = fit_conformal(scores.where("val"), coverage=0.95)    # which answers stay plausible, chosen on validation
    sets = rule.sets(scores.where("test").score)                # (N, K) bool
    sets = cross_conformal(crossed.scores["network"], crossed.fold, said)    # without a validation part, from folds
    coverage_table(sets, scores.where("test"))                  # coverage, size, empty and single sets

- The promise is marginal: over new patients of the same kind, drawn like those of the validation part, the truth of one
  image of a new patient is in its set with at least the stated probability. It says nothing about one class (choose
  ``by_class`` for that), one subgroup or another hospital.
- Images of one patient are not exchangeable with each other's patients, so each calibration *patient* weighs the same,
  however many images there are. Pooled images promise too much where patients with many images are easy ones.
- An empty set means that nothing looks plausible: the image is unlike those the rule was chosen on. A full set means
  that nothing can be excluded.

**Reference**: Lee, Barber & Willett 2023, arXiv:2306.06342 (hierarchical data); Sadinle, Lei & Wasserman 2019,
doi:10.1080/01621459.2017.1395341; Vovk 2015, doi:10.1007/s10472-013-9368-4, and Romano, Sesia & Candès 2020,
arXiv:2006.02544 (cross-conformal sets, CV+).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate, plural
from medcore.evaluation.intervals import interval, mean_interval, statistic_interval
from medcore.evaluation.resampling import group_index, resample_counts
from medcore.evaluation.scores import Scores, refuse_test_data

GRID = np.linspace(0.05, 1, 96)


class RiskCoverage(NamedTuple):
    """Share of wrong answers among the answered ``(G,)`` over the share that is answered, with a band over patients."""

    coverage: np.ndarray
    risk: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    aurc: Estimate


@dataclass(frozen=True)
class RejectionRule:
    """Answer where the largest probability is at least ``threshold``.

    Attributes:
        threshold: Of the largest probability, 0 to 1; above 1 rejects everything.
        chosen_for: As in ``coverage 0.80`` or ``error 0.05``.
        chosen_on: The split.
        coverage: Share that it answers where it was chosen.
        error: Share of wrong answers among these, where it was chosen; None when none was answered.
    """

    threshold: float
    chosen_for: str
    chosen_on: str
    coverage: float
    error: float | None

    def answers(self, probability: np.ndarray) -> np.ndarray:
        """Whether each image is answered. **Shapes** ``(N, K)`` -> ``(N,)`` bool."""
        return np.asarray(np.asarray(probability, dtype=float).max(axis=1) >= self.threshold)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)


def confidence_of(scores: Scores) -> np.ndarray:
    """The largest probability of each case. **Shape** ``(N,)``.

    Raises:
        MedcoreError: There is one score a case only.
    """
    if scores.score.ndim != 2:
        raise MedcoreError("selective prediction needs a probability for each class (N, K)")
    return np.asarray(scores.score.max(axis=1))


def risk_at(wrong: np.ndarray, confidence: np.ndarray, coverage: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Share of wrong among the surest part of the cases; ties are answered in proportion.

    Args:
        wrong: **Shape** ``(N,)`` bool.
        confidence: **Shape** ``(N,)``.
        coverage: Shares above 0, at most 1. **Shape** ``(G,)``.
        weight: Of each case, not negative. **Shape** ``(N,)``.

    Returns:
        **Shape** ``(G,)``.
    """
    _, place = np.unique(-confidence, return_inverse=True)
    answered = np.concatenate([[0.0], np.cumsum(np.bincount(place, weight))])
    errors = np.concatenate([[0.0], np.cumsum(np.bincount(place, weight * wrong))])
    wanted = np.asarray(coverage) * answered[-1]
    return np.asarray(np.interp(wanted, answered, errors) / np.maximum(wanted, 1e-12))


def area_under_risk(wrong: np.ndarray, confidence: np.ndarray, weight: np.ndarray) -> float:
    """AURC: the mean of the risk over all coverages, each case answered after the surer ones; ties in the mean."""
    order = np.argsort(-confidence, kind="stable")
    weight, wrong, ranks = weight[order], wrong[order], np.unique(-confidence[order], return_inverse=True)[1]
    total = np.bincount(ranks, weight)
    answered, errors = np.cumsum(total), np.cumsum(np.bincount(ranks, weight * wrong))
    return float((total * errors / np.maximum(answered, 1e-12)).sum() / max(answered[-1], 1e-12))


def risk_coverage(scores: Scores, *, resamples: int = 300, seed: int = 0) -> RiskCoverage:
    """The risk-coverage curve with a pointwise 95 % band and its area, all over patients.

    Args:
        scores: Probabilities ``(N, K)`` of known cases.
        resamples: Of patients, for the band; none with a single patient.
    """
    wrong, confidence = scores.predicted != scores.truth, confidence_of(scores)
    group, patients = group_index(scores.patient)
    risk = risk_at(wrong, confidence, GRID, np.ones(len(scores)))
    area = statistic_interval(
        lambda weight: area_under_risk(wrong, confidence, weight), scores.patient, name="aurc", unit=scores.unit,
        split=scores.side,
    )  # fmt: skip
    if patients < 2:
        return RiskCoverage(GRID, risk, None, None, area)
    drawn = resample_counts(patients, resamples, seed=seed)
    curves = [risk_at(wrong, confidence, GRID, counts[group].astype(float)) for counts in drawn]
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return RiskCoverage(GRID, risk, low, high, area)


def choose_rejection(scores: Scores, *, coverage: float | None = None, error: float | None = None) -> RejectionRule:
    """Choose below which probability no answer is given, on validation cases.

    Args:
        scores: Probabilities ``(N, K)`` of validation cases.
        coverage: Answer this share of them.
        error: Or answer as many as leave at most this share of wrong answers among the answered.

    Raises:
        TestDataRefused: A case is marked test, or not marked.
        MedcoreError: Not exactly one of both aims is given, or it is out of range.
    """
    refuse_test_data(scores, "a rejection rule")
    aims = {name: value for name, value in (("coverage", coverage), ("error", error)) if value is not None}
    if len(aims) != 1 or not all(0 < value <= 1 for value in aims.values()):
        raise MedcoreError(f"choose_rejection: give coverage or error, above 0 and at most 1; got {aims}")
    confidence, wrong = confidence_of(scores), scores.predicted != scores.truth
    levels = np.unique(confidence)[::-1]
    answered = np.array([(confidence >= level).mean() for level in levels])
    errors = np.array([wrong[confidence >= level].mean() for level in levels])
    fits = np.flatnonzero(answered >= coverage - 1e-12 if coverage is not None else errors <= (error or 0) + 1e-12)
    ((name, value),) = aims.items()
    if not len(fits):
        return RejectionRule(1.1, f"{name} {value:g}", scores.side, 0.0, None)
    place = fits[0] if coverage is not None else fits[-1]
    facts = float(answered[place]), float(errors[place])
    return RejectionRule(float(levels[place]), f"{name} {value:g}", scores.side, *facts)


def selective_table(rules: dict[str, RejectionRule], scores: Scores) -> pd.DataFrame:
    """What each rule does to cases that had no part in its choice, beside answering everything.

    Returns:
        A row a rule: ``answered`` (share), ``accuracy`` (an Estimate), sensitivity of each class among the answered.
    """
    found = {"everything": np.ones(len(scores), bool)} | {n: rule.answers(scores.score) for n, rule in rules.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, kept in found.items():
        part = scores.select(kept)
        rows[name] = {"answered": float(kept.mean())}
        if len(part):
            rows[name] |= {"accuracy": interval(part, "accuracy")}
            rows[name] |= {
                f"sensitivity {kind}": float((part.predicted == number)[part.truth == number].mean())
                for number, kind in enumerate(part.classes)
                if (part.truth == number).any()
            }
    return pd.DataFrame.from_dict(rows, orient="index")


@dataclass(frozen=True)
class ConformalRule:
    """Which answers stay in the set: those whose probability is at least one minus the class's limit.

    Attributes:
        coverage: What is promised, 0 to 1.
        limits: The largest 1 - p that is still plausible, one a class; 1 where too few patients were there to exclude
            anything. **Length** K.
        classes: K names.
        patients: How many patients it was chosen on, one number a class.
        by_class: Whether the promise holds for each class, and not only over all.
        chosen_on: The split.
    """

    coverage: float
    limits: tuple[float, ...]
    classes: tuple[str, ...]
    patients: tuple[int, ...]
    by_class: bool
    chosen_on: str

    def sets(self, probability: np.ndarray) -> np.ndarray:
        """The plausible classes of each image.

        Args:
            probability: **Shape** ``(N, K)``, 0 to 1, as calibrated as those that the rule was chosen on.

        Returns:
            **Shape** ``(N, K)`` bool.

        Raises:
            MedcoreError: There are not K columns.
        """
        probability = np.asarray(probability, dtype=float)
        if probability.ndim != 2 or probability.shape[1] != len(self.classes):
            raise MedcoreError(f"conformal sets: {probability.shape} probabilities for {len(self.classes)} classes")
        return np.asarray(1 - probability <= np.asarray(self.limits) + 1e-12)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> ConformalRule:
        """The rule that :meth:`as_dict` wrote."""
        tuples = {name: tuple(facts[name]) for name in ("limits", "classes", "patients")}
        return cls(**{**facts, **tuples})


def fit_conformal(scores: Scores, *, coverage: float = 0.95, by_class: bool = False) -> ConformalRule:
    """Choose the limits on validation cases, each patient weighing the same.

    Args:
        scores: Probabilities ``(N, K)`` of validation cases.
        coverage: What is promised, above 0 and below 1.
        by_class: A limit for each class, from its own cases: the promise then holds for each class.

    Raises:
        TestDataRefused: A case is marked test, or not marked.
        MedcoreError: The scores are no probabilities of K classes, or the coverage is out of range.
    """
    miss = _calibrating(scores, coverage)
    kinds = range(len(scores.classes))
    rows = [scores.truth == kind if by_class else np.ones(len(scores), bool) for kind in kinds]
    found = [weighted_limit(miss[chosen], scores.patient[chosen], coverage) for chosen in rows]
    counts = tuple(len(np.unique(scores.patient[chosen])) for chosen in rows)
    return ConformalRule(coverage, tuple(found), scores.classes, counts, by_class, scores.side)


def cross_conformal(
    scores: Scores, fold: np.ndarray, said: Sequence[np.ndarray], *, coverage: float = 0.95, by_class: bool = False
) -> np.ndarray:
    """Sets of new images from the folds of a cross-validation: every patient calibrates, none is set aside for it.

    A class leaves the set where enough patients, each scored by the network of the fold that held it out, miss less
    than the image would if this class were true, judged by the same network. Every patient weighs the same.

    **Promise** At worst the truth of one image of a new patient is in its set with a probability of about one minus
    *twice* the share of misses (0.90 for ``coverage=0.95``), less where a fold has few patients; in practice it is
    about ``coverage``, unless the networks of the folds differ much. It needs folds that are cut by chance over
    patients, and networks for which nothing was chosen on the images that they held out.

    Args:
        scores: Probabilities ``(N, K)`` of known cases, each by the network that never saw its patient.
        fold: Number of the fold that held a case out. **Shape** ``(N,)``.
        said: What the network of each fold says of the M new images, by rising number of the fold.
            **Shapes** ``(M, K)``.
        coverage: What is asked for, above 0 and below 1.
        by_class: Each class is judged by its own cases.

    Returns:
        **Shape** ``(M, K)`` bool.

    Raises:
        TestDataRefused: A case is marked test, or not marked.
        MedcoreError: The scores are no probabilities, a patient is in two folds, or folds and answers do not fit.
    """
    miss, fold, numbers = _calibrating(scores, coverage), np.asarray(fold), np.unique(fold)
    owners, shapes = group_index(scores.patient)[1], {np.shape(one) for one in said}
    if fold.shape != miss.shape or len(set(zip(scores.patient.tolist(), fold.tolist(), strict=True))) != owners:
        raise MedcoreError(f"cross_conformal: fold must hold a number for each of {len(miss)} cases, one a patient")
    if len(said) != len(numbers) or len(shapes) != 1 or next(iter(shapes))[1:] != (len(scores.classes),):
        raise MedcoreError(
            f"cross_conformal: answers of {len(said)} networks of shapes {sorted(shapes)} for {len(numbers)} folds and "
            f"{len(scores.classes)} classes; each network says (M, K) of the same new images"
        )
    stated = 1 - np.asarray(said, dtype=float)
    below = np.zeros(stated.shape[1:])  # weight of patients that miss less
    for kind in range(len(scores.classes)):
        rows = scores.truth == kind if by_class else np.ones(len(scores), bool)
        weight = _patient_weights(scores.patient[rows])
        for number, missing in zip(numbers, stated[:, :, kind], strict=True):
            own = np.flatnonzero(fold[rows] == number)
            own = own[np.argsort(miss[rows][own], kind="stable")]
            reached = np.append(0.0, np.cumsum(weight[own]))
            below[:, kind] += reached[np.searchsorted(miss[rows][own], missing - 1e-12)]
    return np.asarray(below < coverage - 1e-12)


def _calibrating(scores: Scores, coverage: float) -> np.ndarray:
    """One minus the probability of the truth of cases that may choose sets, for a coverage that can be asked for."""
    refuse_test_data(scores, "conformal sets")
    if not 0 < coverage < 1:
        raise MedcoreError(f"coverage={coverage}: it must lie between 0 and 1")
    return nonconformity(scores)


def nonconformity(scores: Scores) -> np.ndarray:
    """One minus the probability of the truth. **Shape** ``(N,)``.

    Raises:
        MedcoreError: The scores are no probabilities of K classes.
    """
    if scores.score.ndim != 2 or scores.score.min(initial=0) < -1e-6 or scores.score.max(initial=0) > 1 + 1e-6:
        raise MedcoreError("conformal sets need probabilities (N, K) between 0 and 1; apply softmax to logits first")
    return np.asarray(1 - scores.score[np.arange(len(scores)), scores.truth])


def weighted_limit(miss: np.ndarray, patient: np.ndarray, coverage: float) -> float:
    """The smallest limit below which patients hold, on average, ``coverage`` of their images; 1 when there are too few.

    One more patient, whose images all miss, stands for the new one.

    Args:
        miss: 1 - p of the truth. **Shape** ``(N,)``.
        patient: **Shape** ``(N,)``.
    """
    if len(miss) == 0:
        return 1.0
    order = np.argsort(miss, kind="stable")
    reached = np.flatnonzero(np.cumsum(_patient_weights(patient)[order]) >= coverage - 1e-12)
    return float(miss[order[reached[0]]]) if len(reached) else 1.0


def _patient_weights(patient: np.ndarray) -> np.ndarray:
    """What each image weighs where each of P patients and one more weigh ``1 / (P + 1)``. **Shape** ``(N,)``."""
    group, patients = group_index(patient)
    return np.asarray(1 / (np.bincount(group, minlength=patients)[group] * (patients + 1)))


def coverage_table(sets: np.ndarray, scores: Scores) -> pd.DataFrame:
    """What the sets are worth on cases that had no part in the choice: over all, and for each class.

    Args:
        sets: **Shape** ``(N, K)`` bool.

    Returns:
        Rows ``all`` and each class with cases; columns ``coverage`` (an Estimate; every patient weighs the same),
        ``mean size``, ``single``, ``empty``, ``full`` (shares of images) and ``images``.
    """
    held = sets[np.arange(len(scores)), scores.truth].astype(float)
    size = sets.sum(axis=1)
    rows = {"all": np.ones(len(scores), bool)}
    rows |= {name: scores.truth == kind for kind, name in enumerate(scores.classes) if (scores.truth == kind).any()}
    found = {}
    for name, chosen in rows.items():
        covered = mean_interval(
            held[chosen], scores.patient[chosen], name="coverage", unit=scores.unit, split=scores.side, by="patient"
        )
        shares = {"single": size == 1, "empty": size == 0, "full": size == sets.shape[1]}
        found[name] = {"coverage": covered, "mean size": float(size[chosen].mean())}
        found[name] |= {kind: float(which[chosen].mean()) for kind, which in shares.items()}
        found[name] |= {plural(scores.unit): int(chosen.sum())}
    return pd.DataFrame.from_dict(found, orient="index")
