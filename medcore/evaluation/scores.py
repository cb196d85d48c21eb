"""What a model said about known cases, with patient and split attached: the input of every chooser and metric.

- A chooser (of a threshold, temperature, aggregation, checkpoint, ...) calls :func:`refuse_test_data` first.
- An evaluator takes any side.

    scores = Scores.from_set(ps, probabilities)
    point = choose_threshold(scores.where("val"), "youden")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused

CHOOSABLE = ("train", "val")


class Folds(NamedTuple):
    """What each of R repeats of the folds said, and the fold of each case in it. Both **Shape** ``(R, N)``."""

    score: np.ndarray
    fold: np.ndarray


@dataclass(frozen=True)
class KnownCases:
    """What a model said of N cases whose truth is known; the common part of ``Scores`` and ``Values``."""

    truth: np.ndarray
    score: np.ndarray
    patient: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]
    ids: np.ndarray | None = None
    unit: str = "image"

    def _arrange(self, truth: type) -> int:
        """Bring everything to one dtype, ``truth`` that of the truth; returns how many cases there are."""
        count = len(np.atleast_1d(np.asarray(self.truth)))
        for name, dtype in (("truth", truth), ("score", np.float64), ("patient", str), ("split", str)):
            object.__setattr__(self, name, _column(name, getattr(self, name), dtype, count))
        if self.ids is not None:
            object.__setattr__(self, "ids", _column("ids", self.ids, np.int64, count))
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        return count

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def side(self) -> str:
        """The split of all cases, or ``train+val`` and the like; ``unmarked`` where there is none."""
        return "+".join(side or "unmarked" for side in np.unique(self.split)) or "none"

    @property
    def patients(self) -> int:
        """How many different patients there are."""
        return len(np.unique(self.patient))

    def select(self, rows: np.ndarray | Sequence[int] | Sequence[bool]) -> Self:
        """Some cases, by a boolean mask of length N or by position."""
        rows = np.asarray(rows)
        return replace(self, **self._part(rows.astype(np.int64) if rows.size == 0 and rows.dtype != bool else rows))

    def _part(self, rows: np.ndarray) -> dict[str, Any]:
        """The fields that hold something of each case, for some cases."""
        parts = {name: getattr(self, name)[rows] for name in ("truth", "score", "patient", "split")}
        return parts | {"ids": None if self.ids is None else self.ids[rows]}

    def where(self, *splits: str) -> Self:
        """The cases of some splits."""
        return self.select(np.isin(self.split, splits))


@dataclass(frozen=True)
class Scores(KnownCases):
    """Scores of N known cases.

    Attributes:
        truth: Class indexes. **Shape** ``(N,)`` int64.
        score: A score of the last of two classes, higher = more likely, **Shape** ``(N,)``; or one score
            (probability or logit) per class, **Shape** ``(N, K)``. float64, finite.
        patient: The unit that is resampled as a whole. **Shape** ``(N,)`` str.
        split: ``train``, ``val``, ``test`` or ``""``. **Shape** ``(N,)`` str.
        classes: K names; for a one-column score the second is the positive one.
        ids: Rows of the set's store, None when unknown. **Shape** ``(N,)`` int64.
        unit: What one case is: ``image``, ``patch``, ``window``, ``patient``, ``lesion``.

    Raises:
        MedcoreError: Lengths, classes or values do not fit together.
    """

    unit: str = "patch"
    folds: Folds | None = None

    def __post_init__(self) -> None:
        """Bring everything to one dtype and refuse what does not fit."""
        count = self._arrange(np.int64)
        if self.folds is not None:
            if any(np.ndim(part) != 2 or np.shape(part) != (len(self.folds.score), count) for part in self.folds):
                raise MedcoreError(f"scores: folds must hold (repeats, {count}) scores and folds")
            folds = Folds(np.asarray(self.folds.score, dtype=float), np.asarray(self.folds.fold, dtype=np.int64))
            object.__setattr__(self, "folds", folds)
        self._check()

    def _check(self) -> None:
        width = 2 if self.score.ndim == 1 else self.score.shape[1]
        if self.score.ndim > 2 or width != len(self.classes):
            raise MedcoreError(
                f"scores: score has shape {self.score.shape}, but there are {len(self.classes)} classes "
                f"{self.classes}; give (N,) for two classes or (N, {len(self.classes)})"
            )
        finite = np.isfinite(self.score) if self.score.ndim == 1 else np.isfinite(self.score).all(axis=1)
        broken = np.flatnonzero(~finite)
        if len(broken):
            raise MedcoreError(
                f"scores: the score of case {broken[0]} is {self.score[broken[0]]} ({len(broken)} of {len(self)} are "
                "not finite); look at that image and at the model's training before evaluating"
            )
        outside = np.flatnonzero((self.truth < 0) | (self.truth >= len(self.classes)))
        if len(outside):
            raise MedcoreError(
                f"scores: truth of case {outside[0]} is {self.truth[outside[0]]}, but classes are numbered "
                f"0…{len(self.classes) - 1}; leave unlabelled cases out"
            )

    @classmethod
    def from_set(cls, ps: PatchSet, score: np.ndarray, *, unit: str | None = None) -> Scores:
        """Join a model's scores with truth, patients and splits of the set they were computed on.

        Patients that share an image are one (the ``linked`` groups of ``fix_splits``), and an image without a patient
        stands for itself, as the splits take them. ``unit`` is what the set's card says of its images where it is not
        given.
        """
        unit = unit or ps.card.case
        return cls(ps.labels, score, resampled_units(ps), ps.splits, tuple(ps.classes), ids=ps.index, unit=unit)

    def _part(self, rows: np.ndarray) -> dict[str, Any]:
        folds = None if self.folds is None else Folds(self.folds.score[:, rows], self.folds.fold[:, rows])
        return super()._part(rows) | {"folds": folds}

    @property
    def positive(self) -> np.ndarray:
        """Whether a case is of the second of two classes. **Shape** ``(N,)`` bool.

        Raises:
            MedcoreError: There are not exactly two classes.
        """
        self._two_classes()
        return self.truth == 1

    @property
    def positive_score(self) -> np.ndarray:
        """The score of the second of two classes. **Shape** ``(N,)`` float64.

        Raises:
            MedcoreError: There are not exactly two classes.
        """
        self._two_classes()
        return self.score if self.score.ndim == 1 else self.score[:, 1]

    def _two_classes(self) -> None:
        if len(self.classes) != 2:
            raise MedcoreError(
                f"scores: this question has two answers, but there are {len(self.classes)} classes {self.classes}; "
                "choose one against the rest with .one_vs_rest(name)"
            )

    @property
    def predicted(self) -> np.ndarray:
        """The class with the highest score. **Shape** ``(N,)`` int64.

        Raises:
            MedcoreError: There is one column only: a decision then needs a threshold.
        """
        if self.score.ndim == 1:
            raise MedcoreError("scores: one score per case gives no class; choose a threshold and apply it")
        return self.score.argmax(axis=1)

    def one_vs_rest(self, *positive: str) -> Scores:
        """Two classes, ``rest`` and the given one(s); the scores of several are added.

        Raises:
            MedcoreError: A class does not exist, or all are positive.
        """
        unknown = [name for name in positive if name not in self.classes]
        if unknown or not 0 < len(set(positive)) < len(self.classes):
            raise MedcoreError(f"scores: {positive} must be some, not all, of the classes {self.classes}")
        columns = [self.classes.index(name) for name in positive]
        score = np.stack([-self.score, self.score], 1) if self.score.ndim == 1 else self.score
        truth = np.isin(self.truth, columns).astype(np.int64)
        names = ("rest", "+".join(positive))
        return replace(self, truth=truth, score=score[:, columns].sum(1), classes=names, folds=None)


def resampled_units(ps: PatchSet) -> np.ndarray:
    """The unit of each image that intervals resample as a whole: its patient, see ``Scores.from_set``."""
    if "linked" in ps.columns or not ps.card.patients_known or (ps.patients == "").any():
        from medcore.data.splits import group_names  # brings scikit-learn, which this file does not need else

        return group_names(ps)
    return ps.patients


@dataclass(frozen=True)
class Values(KnownCases):
    """What a model said of a measured value of N known cases; it goes where ``Scores`` go.

    Attributes:
        truth: What was measured. **Shape** ``(N,)`` float64, finite.
        score: What the model says, in the same unit. **Shape** ``(N,)`` float64, finite.
        patient, split, classes, ids, unit: As in ``Scores``; the one class is the name of what is measured.

    Raises:
        MedcoreError: Lengths or values do not fit together.
    """

    def __post_init__(self) -> None:
        """Bring everything to one dtype and refuse what does not fit."""
        self._arrange(np.float64)
        broken = np.flatnonzero(~(np.isfinite(self.truth) & np.isfinite(self.score)))
        if len(broken):
            raise MedcoreError(f"values: case {broken[0]} has the truth {self.truth[broken[0]]} and the answer "
                               f"{self.score[broken[0]]}; leave cases without a value out")  # fmt: skip

    @classmethod
    def from_set(cls, ps: PatchSet, score: np.ndarray) -> Values:
        """Join a model's answers, ``(N,)`` or ``(N, 1)``, with the values and patients of a set."""
        stated, classes = np.asarray(score, dtype=float).reshape(len(ps)), tuple(ps.classes)
        return cls(ps.values, stated, resampled_units(ps), ps.splits, classes, ids=ps.index, unit=ps.card.case)

    @property
    def error(self) -> np.ndarray:
        """Answer minus truth. **Shape** ``(N,)``."""
        return self.score - self.truth


def finding_scores(ps: PatchSet, score: np.ndarray) -> dict[str, Scores]:
    """One :class:`Scores` of two classes, ``absent`` and ``present``, for each finding of a set.

    Images whose finding is uncertain or not stated are left out of that finding: nobody knows the truth.

    Args:
        score: Probability that a finding is present. **Shape** ``(N, K)``.

    Raises:
        MedcoreError: The set has one label an image, or the shape is another.
    """
    findings = ps.findings
    if np.shape(score) != findings.shape:
        raise MedcoreError(f"finding_scores: score has shape {np.shape(score)}, but the set {findings.shape}")
    card = replace(ps.card, task="classification", classes=["absent", "present"], abnormal=[])
    found = {}
    for k, name in enumerate(ps.classes):
        known = findings[:, k] >= 0
        part = ps.select(known).with_columns(label=findings[known, k]).with_card(card)
        stated = np.asarray(score, dtype=float)[known, k]
        found[name] = Scores.from_set(part, np.stack([1 - stated, stated], axis=1))
    return found


def decided(scores: Scores, decision: np.ndarray) -> Scores:
    """Scores that say the decision and nothing else, for metrics of decisions. **Shape** decision ``(N,)`` int64."""
    return replace(scores, score=np.eye(len(scores.classes))[decision], folds=None)


def _column(name: str, values: np.ndarray, dtype: type, count: int) -> np.ndarray:
    try:
        column: np.ndarray = np.atleast_1d(np.asarray(values)).astype(dtype)
    except (TypeError, ValueError) as error:
        raise MedcoreError(f"scores: {name} cannot be read as {dtype.__name__} ({error})") from None
    if len(column) != count:
        raise MedcoreError(f"scores: {name} has {len(column)} entries, but truth has {count}")
    return column


def refuse_test_data(cases: Scores | PatchSet, what: str) -> None:
    """Let no test data pass; every chooser and whatever learns from images calls this first.

    Scores must say where they come from; images may be unmarked (a set without a split trains as a whole).

    Args:
        cases: What the choice would be made on, or learnt from.
        what: What would be chosen or learnt, such as ``"a threshold"``.

    Raises:
        TestDataRefused: A case is marked ``test``, or a score is not marked ``train`` or ``val``.
    """
    marks = cases.split if isinstance(cases, Scores) else cases.splits
    refused = ~np.isin(marks, CHOOSABLE if isinstance(cases, Scores) else (*CHOOSABLE, ""))
    if refused.any():
        counts = ", ".join(f"{(marks == mark).sum()} {str(mark)!r}" for mark in np.unique(marks[refused]))
        raise TestDataRefused(
            f"{what} can only be chosen on cases marked 'train' or 'val'; of {len(cases)} cases these are not: {counts}"
            ". Choose on where('val') (or learn from where(split='train')) and apply the result to the test cases"
        )
