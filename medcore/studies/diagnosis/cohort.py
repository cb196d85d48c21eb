"""Cohort: the windows of patients with their scores, and the patients with their diagnosis.

- The only door from windows to patients. Whatever does not fit is refused by name: a patient without windows, a
  window without a patient, two diagnoses for one patient, one class only, too few patients for the folds.
- Copies of a window (``copy_of``) count once; patients that share a window stay on one side of every fold.

    cohort = Cohort.from_set(patches, {"brown peak": peak, "red share": share})
    cohort.folds(5)                     # (P,) fold of every patient
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medcore.data.datasets import HELICO_DENSITIES
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores

WINDOW_CLASSES = ("negative", "positive")
PATIENT_CLASSES = ("healthy", "infected")
LEVEL_NAMES = dict(zip(HELICO_DENSITIES, ("healthy", "low density", "high density"), strict=True))


@dataclass(frozen=True)
class Cohort:
    """N scored windows of P patients.

    Attributes:
        scores: One or more scores per window by name, higher = more suspicious. **Shape** each ``(N,)`` float64.
        label: Annotation of each window: 1 positive, 0 negative, -1 none. **Shape** ``(N,)`` int64.
        owner: Which patient a window belongs to, an index into ``names``. **Shape** ``(N,)`` int64.
        names: Patients, sorted. **Shape** ``(P,)`` str.
        level: Diagnosis as an index into ``levels``; 0 is healthy. **Shape** ``(P,)`` int64.
        group: Patients with the same number must not be separated. **Shape** ``(P,)`` int64.
        split: ``test`` for HoldOut patients, else ``val`` (free to choose on). **Shape** ``(P,)`` str.
        levels: Names of the diagnoses in order of density.
        rows: Rows of the windows in the set that the cohort was made from. **Shape** ``(N,)`` int64.
        counted: Which windows make the patient's score; the others are there for their annotation. **Shape** ``(N,)``
            bool, by default all.

    Raises:
        MedcoreError: Windows and patients do not fit together; the message names them.
    """

    scores: dict[str, np.ndarray]
    label: np.ndarray
    owner: np.ndarray
    names: np.ndarray
    level: np.ndarray
    group: np.ndarray
    split: np.ndarray
    levels: tuple[str, ...]
    rows: np.ndarray
    counted: np.ndarray = field(default_factory=lambda: np.ones(0, dtype=bool))

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if not len(self.counted):
            object.__setattr__(self, "counted", np.ones(len(self.owner), dtype=bool))
        for name, values in self.scores.items():
            if np.shape(values) != np.shape(self.owner) or not np.isfinite(values).all():
                raise MedcoreError(
                    f"cohort: score {name!r} must be one finite number for each of {len(self.owner)} windows "
                    f"(shape {np.shape(values)}, {int((~np.isfinite(values)).sum())} not finite)"
                )
        without = self.names[self.windows_per_patient == 0]
        if len(without):
            raise MedcoreError(
                f"cohort: {_some(without)} without a window; add the windows, or leave the patient out of the table"
            )

    @classmethod
    def from_set(
        cls,
        patches: PatchSet,
        scores: Mapping[str, np.ndarray],
        *,
        diagnoses: Mapping[str, str] | None = None,
        levels: Sequence[str] = HELICO_DENSITIES,
    ) -> Cohort:
        """Join the windows of a set with their scores and with the diagnoses of their patients.

        Args:
            patches: Windows with a ``diagnosis`` column (or with ``diagnoses``). Copies (``copy_of``) count once, and
                windows whose ``counted`` is False (``windows.diagnosis_windows``) lend their annotation only.
            scores: One or more scores per window of ``patches`` by name. **Shape** each ``(N,)``.
            diagnoses: Patient to diagnosis; None takes the set's ``diagnosis`` column.
            levels: Diagnoses in order of density, the first one healthy.

        Raises:
            MedcoreError: A patient without windows, a window without a patient, two diagnoses for one patient, an
                unknown diagnosis, or a score that does not fit.
        """
        for name, values in scores.items():
            if len(values) != len(patches):
                raise MedcoreError(f"cohort: score {name!r} has {len(values)} entries for {len(patches)} windows")
        if not scores:
            raise MedcoreError("cohort: no score was given; pass {'name': (N,) array}")
        table = diagnoses_of(patches) if diagnoses is None else dict(diagnoses)
        kept = np.flatnonzero(~is_repeat(patches))
        names = np.array(sorted(table), dtype=str)
        patients = patches.patients[kept]
        _refuse_strangers(patients, names)
        owner = np.searchsorted(names, patients)
        held_out = np.isin(names, patches.patients[patches.splits == "test"])
        return cls(
            scores={name: np.asarray(values, dtype=np.float64)[kept] for name, values in scores.items()},
            label=patches.labels[kept],
            owner=owner,
            names=names,
            level=np.array([_level(table[name], name, levels) for name in names.tolist()], dtype=np.int64),
            group=_linked(patches, names),
            split=np.where(held_out, "test", "val"),
            levels=tuple(levels),
            rows=kept,
            counted=patches.column("counted")[kept] if "counted" in patches.columns else np.ones(len(kept), dtype=bool),
        )

    def __len__(self) -> int:
        """Number of patients P."""
        return len(self.names)

    @property
    def truth(self) -> np.ndarray:
        """Whether each patient is infected. **Shape** ``(P,)`` int64, 0 or 1."""
        return (self.level > 0).astype(np.int64)

    @property
    def windows_per_patient(self) -> np.ndarray:
        """How many windows make each patient's score. **Shape** ``(P,)`` int64."""
        return np.bincount(self.owner[self.counted], minlength=len(self.names))

    def select(self, patients: np.ndarray) -> Cohort:
        """Some patients with all their windows, by a boolean mask of length P."""
        kept = np.asarray(patients, dtype=bool)
        windows = kept[self.owner]
        renumbered = np.cumsum(kept) - 1
        return replace(
            self,
            scores={name: values[windows] for name, values in self.scores.items()},
            label=self.label[windows],
            owner=renumbered[self.owner[windows]],
            rows=self.rows[windows],
            counted=self.counted[windows],
            **{name: getattr(self, name)[kept] for name in ("names", "level", "group", "split")},
        )

    def with_scores(self, scores: Mapping[str, np.ndarray]) -> Cohort:
        """The same windows with other scores. **Shape** each ``(N,)``."""
        return replace(self, scores=dict(scores))

    def window_scores(self, name: str) -> Scores:
        """The annotated windows as ``Scores``, each with its patient and the patient's side.

        Raises:
            MedcoreError: No such score, or no window of one kind is annotated: a window threshold cannot be chosen.
        """
        known = self.label >= 0
        for number, kind in enumerate(WINDOW_CLASSES):
            if not (self.label[known] == number).any():
                raise MedcoreError(
                    f"cohort: none of {len(self.label)} windows of {len(self)} patients is annotated {kind}, so no "
                    "window threshold can be chosen; add annotated windows, or use fewer folds"
                )
        owner = self.owner[known]
        score = self.score(name)[known]
        return Scores(
            self.label[known], score, self.names[owner], self.split[owner], WINDOW_CLASSES, self.rows[known], "window"
        )

    def score(self, name: str) -> np.ndarray:
        """One score of all windows. **Shape** ``(N,)``."""
        if name not in self.scores:
            raise MedcoreError(f"cohort: no score {name!r}; there are {', '.join(self.scores)}")
        return self.scores[name]

    def patient_scores(self, score: np.ndarray) -> Scores:
        """One score per patient as ``Scores``. **Shape** ``score`` ``(P,)``."""
        return Scores(self.truth, score, self.names, self.split, PATIENT_CLASSES, unit="patient")

    def folds(self, k: int, *, seed: int = 0) -> np.ndarray:
        """Cut the patients into folds with like shares of every density; linked patients stay together.

        Args:
            k: Number of folds, at least 2.

        Returns:
            Fold of each patient, 0 to k-1. **Shape** ``(P,)`` int64.

        Raises:
            MedcoreError: One class only, or a fold would have no infected or no healthy patient.
        """
        check_both(self)
        groups = [len(np.unique(self.group[self.truth == kind])) for kind in (0, 1)]
        if not 2 <= k <= min(groups):
            raise MedcoreError(
                f"folds: k={k}, but there are {groups[0]} healthy and {groups[1]} infected patients; with fewer than "
                f"k of either, a fold has none. Choose k from 2 to {min(groups)}, or add patients"
            )
        common = np.bincount(self.level, minlength=len(self.levels))
        strata = self.level if common[common > 0].min() >= k else self.truth
        return _balanced_folds(strata, self.truth, self.group, k, seed)


def is_repeat(patches: PatchSet) -> np.ndarray:
    """Windows that repeat another window of the set: all but one of what ``copy_of`` ties together.

    **Shape** ``(N,)`` bool.
    """
    if "copy_of" not in patches.columns:
        return np.zeros(len(patches), dtype=bool)
    copy_of, source = patches.column("copy_of"), patches.column("source")
    seen = set(source[copy_of == ""].tolist())
    repeat = np.zeros(len(patches), dtype=bool)
    for row in np.flatnonzero(copy_of != "").tolist():  # the first copy of an original that is not here stands for it
        repeat[row] = str(copy_of[row]) in seen
        seen |= {str(copy_of[row]), str(source[row])}
    return repeat


def diagnoses_of(patches: PatchSet) -> dict[str, str]:
    """Patient to diagnosis, from the windows' ``diagnosis`` column.

    Raises:
        MedcoreError: There is no such column, or one patient has two diagnoses.
    """
    if "diagnosis" not in patches.columns:
        raise MedcoreError(
            f"set {patches.card.name!r} has no column 'diagnosis', so no patient can be called infected or healthy; "
            "add it to metadata.csv, one value per patient"
        )
    frame = pd.DataFrame({"patient": patches.patients, "diagnosis": patches.column("diagnosis").astype(str)})
    found = frame.drop_duplicates()
    twice = found[found["patient"].duplicated(keep=False)]
    if len(twice):
        patient = twice["patient"].iloc[0]
        values = sorted(twice.loc[twice["patient"] == patient, "diagnosis"])
        raise MedcoreError(
            f"cohort: patient {patient!r} has contradictory diagnoses {', '.join(values)} "
            f"({twice['patient'].nunique()} such patients); a patient has one truth, correct the table"
        )
    return dict(zip(found["patient"], found["diagnosis"], strict=True))


def check_both(cohort: Cohort) -> None:
    """Refuse a cohort of one kind of patient."""
    if len(np.unique(cohort.truth)) < 2:
        kind = PATIENT_CLASSES[int(cohort.truth[0])] if len(cohort) else "none"
        raise MedcoreError(
            f"cohort: one class only (all {len(cohort)} patients are {kind}): there is nothing to tell apart; "
            "add patients of the other kind"
        )


def contradictions(cohort: Cohort) -> list[str]:
    """Patients diagnosed healthy who have a window annotated positive."""
    return sorted(set(cohort.names[cohort.owner[(cohort.label == 1) & (cohort.level[cohort.owner] == 0)]]))


def _refuse_strangers(patients: np.ndarray, names: np.ndarray) -> None:
    strangers = np.setdiff1d(patients, names)
    if len(strangers):
        count = int(np.isin(patients, strangers).sum())
        raise MedcoreError(
            f"cohort: {count} windows belong to {_some(strangers)} without a row in the table of diagnoses; "
            "add the row, or leave these windows out"
        )


def _some(names: np.ndarray) -> str:
    shown = ", ".join(map(repr, names[:3].tolist())) + (", …" if len(names) > 3 else "")
    return f"patient {shown}" if len(names) == 1 else f"{len(names)} patients ({shown})"


def _level(diagnosis: str, patient: str, levels: Sequence[str]) -> int:
    if diagnosis not in levels:
        raise MedcoreError(
            f"cohort: patient {patient!r} has diagnosis {diagnosis!r}, which is none of {', '.join(levels)}; "
            "correct the table, or pass levels=(healthy, …, densest)"
        )
    return list(levels).index(diagnosis)


def _linked(patches: PatchSet, names: np.ndarray) -> np.ndarray:
    """Group number of each patient: those that share a window (``copy_of``), or that ``linked`` joins, are one."""
    owner, pairs = patches.patients.tolist(), set[tuple[str, str]]()
    if "linked" in patches.columns:
        first = dict(zip(patches.column("linked").tolist(), owner, strict=True))
        pairs |= {(name, first[group]) for name, group in zip(owner, patches.column("linked").tolist(), strict=True)}
    if "copy_of" in patches.columns:
        home = dict(zip(patches.column("source").tolist(), owner, strict=True))
        copies = zip(owner, patches.column("copy_of").tolist(), strict=True)
        pairs |= {(name, home[source]) for name, source in copies if source in home}
    apart = [np.searchsorted(names, pair) for pair in sorted(pairs) if pair[0] != pair[1]]
    links = np.array(apart, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(len(names), len(names)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _balanced_folds(strata: np.ndarray, truth: np.ndarray, group: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Folds from scikit-learn's greedy draw; some draws are tried, for linked patients can empty a fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    for attempt in range(20):
        folds = np.zeros(len(strata), dtype=np.int64)
        splitter = StratifiedGroupKFold(k, shuffle=True, random_state=(seed + 1000 * attempt) % 2**32)
        with warnings.catch_warnings():  # a rare density in fewer groups than folds: the binary question decides
            warnings.simplefilter("ignore", UserWarning)
            for fold, (_, held_out) in enumerate(splitter.split(strata, strata, group)):
                folds[held_out] = fold
        if all(len(np.unique(truth[folds == fold])) == 2 for fold in range(k)):
            return folds
    raise MedcoreError(
        f"folds: with k={k}, linked patients leave a fold without a healthy or an infected patient; choose fewer folds"
    )
