"""Who learns, who chooses, who is tested in anomaly detection, and how good a detector is.

sides = detection_sides(patches)                 # normal images to learn from; all labelled ones to judge
scores = abnormal_scores(sides.test, values)     # normal / abnormal
estimates = detector_estimates(scores, point)    # AUROC first; the point was chosen on validation cases
table = detection_table(scores, names, point)    # class by class
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medcore.data.datasets import HELICO_DENSITIES
from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import OperatingPoint

KINDS = ("normal", "abnormal")
RANKED = ("auroc", "average_precision")
DECIDED = ("balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1")


@dataclass(frozen=True)
class Sides:
    """Who learns, who chooses, who is tested.

    Attributes:
        train: Normal images of the training patients.
        monitor: Normal images of the validation patients: pick the epoch.
        validation: All labelled images of the validation patients: choose score and threshold.
        test: All labelled images of the test patients.
        abnormal: Names of the abnormal classes.
        healthy_only: Whether ``train`` and ``monitor`` hold windows of patients without the disease only.
    """

    train: PatchSet
    monitor: PatchSet
    validation: PatchSet
    test: PatchSet
    abnormal: tuple[str, ...]
    healthy_only: bool = False

    @property
    def fewest_test_units(self) -> int:
        """Test patients (lesions, …) with normal images or with abnormal ones, whichever are fewer."""
        units, strange = group_names(self.test), np.isin(self.test.label_names, self.abnormal)
        return min(len(np.unique(units[rows])) for rows in (strange, ~strange))

    def table(self, unit: str) -> pd.DataFrame:
        """Images, patients (``unit``) and abnormal images of each side."""
        rows = {}
        for name, part in (("learns", self.train), ("picks the epoch", self.monitor),
                           ("chooses score and threshold", self.validation), ("is tested", self.test)):  # fmt: skip
            strange = np.isin(part.label_names, self.abnormal)
            groups = len(np.unique(part.patients))
            rows[name] = {"images": len(part), f"{unit}s": groups, "abnormal images": int(strange.sum())}
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.assign(note=["patients without the disease only" if self.healthy_only else ""] * 2 + [""] * 2)


def detection_sides(patches: PatchSet, abnormal: Sequence[str] = (), *, learn: Sequence[str] = ()) -> Sides:
    """Cut a split set for anomaly detection.

    Where patients have a diagnosis, only windows of the healthy ones are learnt from: an infected patient's window
    without a sign may still differ from a healthy patient's.

    Args:
        patches: A set with a split column.
        abnormal: Abnormal classes; by default those of the card.
        learn: Normal classes to learn from; by default all that are not abnormal.

    Raises:
        MedcoreError: Nothing says what is abnormal, or a side lacks normal or abnormal images.
    """
    names = tuple(abnormal) or tuple(patches.card.abnormal)
    if not names:
        raise MedcoreError(
            f"set {patches.card.name!r} does not say which classes are abnormal; name them, as in "
            f"-p 'abnormal=[\"{patches.classes[-1]}\"]' out of {', '.join(patches.classes)}"
        )
    wrong = [name for name in (*names, *learn) if name not in patches.classes]
    if wrong or set(names) & set(learn):
        raise MedcoreError(
            f"abnormal={list(names)}, learn={list(learn)}: must be different classes of {patches.classes}"
        )
    known = patches.select(patches.labels >= 0)
    is_abnormal = np.isin(known.label_names, names)
    learnt = ~is_abnormal if not learn else np.isin(known.label_names, learn)
    parts = {side: known.splits == side for side in ("train", "val", "test")}
    healthy = learnt & healthy_patients(known)
    healthy_only = bool(0 < healthy.sum() < learnt.sum() and all((healthy & parts[s]).any() for s in ("train", "val")))
    learnt = healthy if healthy_only else learnt
    sides = Sides(
        train=known.select(parts["train"] & learnt), monitor=known.select(parts["val"] & learnt),
        validation=known.select(parts["val"]), test=known.select(parts["test"]), abnormal=names,
        healthy_only=healthy_only,
    )  # fmt: skip
    _check(sides, {side: is_abnormal[rows] for side, rows in parts.items()})
    return sides


def healthy_patients(ps: PatchSet) -> np.ndarray:
    """Whether the patient of each image is diagnosed healthy; True for all where nobody has a diagnosis.

    **Shape** ``(N,)`` bool.
    """
    if "diagnosis" not in ps.columns or not np.isin(ps.column("diagnosis"), HELICO_DENSITIES).any():
        return np.ones(len(ps), dtype=bool)
    return ps.column("diagnosis") == HELICO_DENSITIES[0]


def _check(sides: Sides, is_abnormal: Mapping[str, np.ndarray]) -> None:
    if not len(sides.train) or not len(sides.monitor):
        raise MedcoreError(
            f"anomaly detection: {len(sides.train)} normal images to learn from and {len(sides.monitor)} to watch the "
            "training with; both are needed"
        )
    for side in ("val", "test"):
        count, found = len(is_abnormal[side]), int(is_abnormal[side].sum())
        if not 0 < found < count:
            raise MedcoreError(
                f"anomaly detection: split {side!r} has {found} abnormal of {count} labelled images; no threshold can "
                "be chosen or judged without both kinds. Use another seed, or a set with more patients"
            )


def abnormal_scores(
    ps: PatchSet, score: np.ndarray, *, abnormal: Sequence[str] | None = None, unit: str | None = None
) -> Scores:
    """Scores of a detector as a question with two answers.

    Args:
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
    """
    ranked = [interval(scores, metric, level=level) for metric in RANKED]
    if ranked[1].value is not None:
        chance = f"chance: {scores.positive.mean():.3f}"
        ranked[1] = replace(ranked[1], note="; ".join(filter(None, (ranked[1].note, chance))))
    decision = point.apply(scores)
    return [*ranked, *(interval(scores, metric, decision=decision, level=level) for metric in DECIDED)]


def detection_table(
    scores: Scores, names: np.ndarray, point: OperatingPoint, *, group: str = "patient", level: float = 0.95
) -> pd.DataFrame:
    """Class by class: how many are called abnormal, and how well the score tells them from all normal cases.

    Args:
        scores: Cases of one side, normal or abnormal.
        names: The class of each case, such as ``mel``. **Shape** ``(N,)``.
        group: What the patients of the set are, such as ``lesion``.

    Returns:
        One row per class, abnormal ones first; columns ``kind``, ``n``, ``patients`` (or what ``group`` says),
        ``called abnormal`` (Estimate: the sensitivity for abnormal classes, the false alarms for normal ones) and
        ``auroc`` (Estimate: against all normal cases; None for normal classes).

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
    columns = ["kind", "n", f"{group}s", "called abnormal", "auroc"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def auroc_within(scores: Scores, groups: np.ndarray, *, level: float = 0.95) -> pd.DataFrame:
    """AUROC inside each group of cases: does the score still work where the groups' own differences cannot help?

    Args:
        scores: Cases of one side, normal or abnormal.
        groups: The group of each case, such as how its diagnosis was confirmed. **Shape** ``(N,)``.

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
    share = replace(share, name="called_abnormal")
    auroc = interval(scores.select(members | ~scores.positive), "auroc", level=level) if kind else None
    return [KINDS[kind], len(own), own.patients, share, auroc]


def mistakes(scores: Scores, decision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the abnormal cases that were missed, least suspicious first, and of false alarms, loudest first."""
    order = np.argsort(scores.score, kind="stable")
    missed = order[scores.positive[order] & (decision[order] == 0)]
    alarms = order[::-1][~scores.positive[order[::-1]] & (decision[order[::-1]] == 1)]
    return missed, alarms
