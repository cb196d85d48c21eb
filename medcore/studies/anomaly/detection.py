"""How good is an anomaly detector? From one score per image to a table that says what it finds and what it misses.

scores = abnormal_scores(ps, score_set(model, ps))                    # normal / abnormal, from the set's card
point = choose_threshold(scores.where("val"), "youden")
estimates = detector_estimates(scores.where("test"), point)           # AUROC first
table = detection_table(scores.where("test"), names, point)           # class by class
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import OperatingPoint

KINDS = ("normal", "abnormal")
RANKED = ("auroc", "average_precision")
DECIDED = ("balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1")


def abnormal_scores(
    ps: PatchSet, score: np.ndarray, *, abnormal: Sequence[str] | None = None, unit: str | None = None
) -> Scores:
    """Scores of a detector as a question with two answers.

    Args:
        ps: Labelled images.
        score: Higher = more unusual. **Shape** ``(N,)``.
        abnormal: Which classes count as abnormal; by default those of the set's card.
        unit: What one image is; by default what the set's card says.

    Raises:
        MedcoreError: No class is abnormal, a class does not exist, or an image has no label.
    """
    names = list(ps.card.abnormal if abnormal is None else abnormal)
    unknown = [name for name in names if name not in ps.classes]
    if unknown or not names:
        raise MedcoreError(f"abnormal classes {names} of set {ps.card.name!r}: name some of {', '.join(ps.classes)}")
    if (ps.labels < 0).any():
        raise MedcoreError(f"{(ps.labels < 0).sum()} images of {ps.card.name!r} have no label; leave them out before")
    given = Scores.from_set(ps, np.eye(len(ps.classes))[ps.labels], unit=unit)
    truth = np.isin(ps.label_names, names).astype(np.int64)
    return Scores(truth, score, given.patient, given.split, KINDS, ids=given.ids, unit=given.unit)


def detector_estimates(scores: Scores, point: OperatingPoint, *, level: float = 0.95) -> list[Estimate]:
    """AUROC, average precision, and the decisions at a threshold chosen before, with patient-level intervals.

    The note of the average precision says what chance would reach: the share of abnormal cases.

    Args:
        scores: Cases of one side, normal or abnormal.
        point: Chosen on other cases.
        level: Confidence level.
    """
    ranked = [interval(scores, metric, level=level) for metric in RANKED]
    if ranked[1].value is not None:
        chance = f"chance: {scores.positive.mean():.3f}"
        ranked[1] = Estimate(**{**ranked[1].as_dict(), "note": "; ".join(filter(None, (ranked[1].note, chance)))})
    decision = point.apply(scores)
    return [*ranked, *(interval(scores, metric, decision=decision, level=level) for metric in DECIDED)]


def detection_table(scores: Scores, names: np.ndarray, point: OperatingPoint, *, level: float = 0.95) -> pd.DataFrame:
    """Class by class: how many are called abnormal, and how well the score tells them from all normal cases.

    Args:
        scores: Cases of one side, normal or abnormal.
        names: The class of each case, such as ``mel``. **Shape** ``(N,)``.
        point: Chosen on other cases.
        level: Confidence level.

    Returns:
        One row per class, abnormal ones first; columns ``kind``, ``n``, ``patients``, ``called abnormal`` (Estimate:
        the sensitivity for abnormal classes, the false alarms for normal ones) and ``auroc`` (Estimate: against all
        normal cases; None for normal classes).

    Raises:
        MedcoreError: The lengths differ, or one class is both normal and abnormal.
    """
    names = np.asarray(names, dtype=str)
    if len(names) != len(scores):
        raise MedcoreError(f"detection_table: {len(names)} class names for {len(scores)} cases")
    decision, rows = point.apply(scores), {}
    for kind in (1, 0):
        for name in np.unique(names[scores.truth == kind]):
            if name in rows:
                raise MedcoreError(f"detection_table: class {name!r} stands among both normal and abnormal cases")
            rows[name] = _row(scores, names == name, decision, kind, level)
    columns = ["kind", "n", "patients", "called abnormal", "auroc"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def auroc_within(scores: Scores, groups: np.ndarray, *, level: float = 0.95) -> pd.DataFrame:
    """AUROC inside each group of cases: does the score still work where the groups' own differences cannot help?

    Args:
        scores: Cases of one side, normal or abnormal.
        groups: The group of each case, such as how its diagnosis was confirmed. **Shape** ``(N,)``.
        level: Confidence level.

    Returns:
        One row per group; columns ``normal``, ``abnormal`` (cases) and ``auroc`` (Estimate; it says so where a group
        holds one kind only).

    Raises:
        MedcoreError: The lengths differ.
    """
    groups = np.asarray(groups, dtype=str)
    if len(groups) != len(scores):
        raise MedcoreError(f"auroc_within: {len(groups)} groups for {len(scores)} cases")
    rows = {}
    for name in np.unique(groups):
        inside = scores.select(groups == name)
        abnormal = int(inside.positive.sum())
        rows[name or "(unknown)"] = [len(inside) - abnormal, abnormal, interval(inside, "auroc", level=level)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["normal", "abnormal", "auroc"])


def _row(scores: Scores, members: np.ndarray, decision: np.ndarray, kind: int, level: float) -> list[object]:
    own = scores.select(members)
    called = Scores(np.ones(len(own)), own.score, own.patient, own.split, KINDS, unit=own.unit)
    share = interval(called, "sensitivity", decision=decision[members], level=level)
    share = Estimate(**{**share.as_dict(), "name": "called_abnormal"})
    auroc = interval(scores.select(members | ~scores.positive), "auroc", level=level) if kind else None
    return [KINDS[kind], len(own), own.patients, share, auroc]
