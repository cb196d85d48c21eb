"""When not to answer: risk over coverage, and a rule that rejects the least certain cases.

    curve = risk_coverage(scores.where("test"))                       # error among the answered, as more is answered
    rule = choose_rejection(scores.where("val"), coverage=0.8)        # or error=0.05
    selective_table({"80 %": rule}, scores.where("test"))             # what it does to test cases

**Reference**: El-Yaniv & Wiener 2010 (risk-coverage curve); Geifman, Uziel & El-Yaniv 2019, arXiv:1805.08206 (AURC).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval, statistic_interval
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
