"""Nested cross-validation over patients: each patient is diagnosed by rules, and models, that never saw it.

Window scores may come from something that learns (an autoencoder, a classifier). Then ``learn(excluded)`` trains it
without the excluded patients and returns the scores of all windows, and

- the patients of fold f are scored by the model without f;
- a training patient of fold g is scored by the model without f *and* g: its own images are unseen, too, and nothing
  that is chosen for f has met a patient of f.

This takes k (k + 1) / 2 trainings for k folds, at least three, and none for a score that learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores
from medcore.studies.diagnosis.cohort import PATIENT_CLASSES, WINDOW_CLASSES, Cohort, check_both
from medcore.studies.diagnosis.rule import DiagnosisRule, choose_diagnosis, choose_patient_rule, patient_table

Learn = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From excluded patients, **Shape** ``(P,)`` bool, to scores of all windows, **Shape** each ``(N,)``."""
LearnPatients = Callable[[np.ndarray], np.ndarray]
"""From excluded patients, **Shape** ``(P,)`` bool, to scores of all patients, **Shape** ``(P,)``."""


@dataclass(frozen=True)
class Diagnoses:
    """Patients with their decisions.

    Attributes:
        table: One row per patient, as ``DiagnosisRule.diagnose`` gives it, with ``fold`` where there are folds.
        rules: The rule of each fold, or the one that was applied to HoldOut; empty for direct patient scores.
        split: How the patients were held out: ``folds`` or ``test``.
        parts: The patients whom each rule diagnosed, with the window scores it saw.
        others: The same patients diagnosed with other cuts into folds; AUROCs are means over all cuts.
    """

    table: pd.DataFrame
    rules: tuple[DiagnosisRule, ...]
    split: str
    parts: tuple[Cohort, ...] = ()
    others: tuple[Diagnoses, ...] = ()

    @property
    def cuts(self) -> tuple[Diagnoses, ...]:
        """Every cut into folds by itself, the first being the one whose decisions count."""
        return (replace(self, others=()), *self.others)

    def window_scores(self, name: str) -> Scores:
        """One window score of the annotated windows, each by a model that has not seen the patient."""
        parts = [(part, part.label >= 0) for part in self.parts]
        owner = [part.names[part.owner[known]] for part, known in parts]
        return Scores(
            truth=np.concatenate([part.label[known] for part, known in parts]),
            score=np.concatenate([part.score(name)[known] for part, known in parts]),
            patient=np.concatenate(owner),
            split=np.full(sum(map(len, owner)), "test" if self.split == "test" else "val"),
            classes=WINDOW_CLASSES,
            ids=np.concatenate([part.rows[known] for part, known in parts]),
        )

    def fold_scores(self, column: str = "score") -> list[Scores]:
        """A column per fold that has patients of both kinds, for ROC curves of folds."""
        scores, fold = self.scores(column), self.table["fold"].to_numpy()
        parts = [scores.select(fold == number) for number in np.unique(fold)]
        return [part for part in parts if len(np.unique(part.truth)) == 2]

    def excluded(self, cohort: Cohort, patient: str) -> np.ndarray:
        """Whom the model that scored this patient has not seen: its fold, or HoldOut. **Shape** ``(P,)`` bool."""
        part = next(part for part in self.parts if patient in part.names)
        return np.isin(cohort.names, part.names)

    def scores(self, column: str = "probability") -> Scores:
        """A column as ``Scores``, one case per patient.

        The probability is comparable between folds, the bare score is not: each fold has its own aggregation.
        """
        table = self.table
        side = np.full(len(table), "test" if self.split == "test" else "val")
        truth, patient = table["truth"].to_numpy(), table["patient"].to_numpy(dtype=str)
        return Scores(truth, table[column].to_numpy(dtype=float), patient, side, PATIENT_CLASSES, unit="patient")


def nested_diagnosis(
    cohort: Cohort, *, learn: Learn | None = None, folds: int = 5, seed: int = 0, **options: Any
) -> Diagnoses:
    """Diagnose every patient by rules chosen on the patients of the other folds.

    Args:
        cohort: Patients that are not marked ``test``; their ``scores`` serve where nothing is learnt.
        learn: Trains what gives the window scores (see above); None takes the cohort's own scores.
        folds: Outer folds k.
        seed: Of the folds.
        options: Of ``choose_diagnosis`` (``rule``, ``aggregations``, and ``folds`` as ``inner_folds``).

    Raises:
        TestDataRefused: A patient is marked ``test``.
        MedcoreError: One class only, or too few patients for the folds.
    """
    side = _outer_folds(cohort, folds, seed, learns=learn is not None)
    options["folds"] = options.pop("inner_folds", folds)
    score = _Trained(learn, cohort, side)
    rules, parts = [], []
    for fold in range(folds):
        rules.append(choose_diagnosis(score.for_choosing(fold).select(side != fold), seed=seed, **options))
        parts.append(score.without(fold).select(side == fold))
    tables = [rule.diagnose(part).assign(fold=fold) for fold, (rule, part) in enumerate(zip(rules, parts, strict=True))]
    return Diagnoses(_in_order(tables, cohort), tuple(rules), "folds", tuple(parts))


def hold_out_diagnosis(
    cohort: Cohort, *, learn: Learn | None = None, folds: int = 5, seed: int = 0, **options: Any
) -> Diagnoses:
    """Choose everything on the patients that are not HoldOut, then apply it once to HoldOut.

    Args:
        cohort: All patients; those marked ``test`` are HoldOut.
        learn: As in ``nested_diagnosis``; HoldOut patients are always among the excluded.
        folds: Folds for choosing.
        seed: Of the folds.
        options: Of ``choose_diagnosis``.

    Raises:
        MedcoreError: No patient is marked ``test``.
    """
    held_out = cohort.split == "test"
    if not held_out.any():
        raise MedcoreError("hold_out_diagnosis: no patient is marked 'test'; use nested_diagnosis (folds only)")
    side = np.full(len(cohort), -1)
    side[~held_out] = cohort.select(~held_out).folds(folds, seed=seed)
    score = _Trained(learn, cohort, side)
    rule = choose_diagnosis(score.for_choosing(-1).select(~held_out), folds=folds, seed=seed, **options)
    part = score.without(-1).select(held_out)
    return Diagnoses(rule.diagnose(part), (rule,), "test", (part,))


def nested_patients(
    cohort: Cohort, learn: LearnPatients, *, folds: int = 5, rule: str = "youden", seed: int = 0
) -> Diagnoses:
    """Like ``nested_diagnosis`` for something that scores patients directly (ABMIL, the trivial rule).

    Args:
        cohort: Patients that are not marked ``test``.
        learn: Trains without the excluded patients and scores all.
        folds: Outer folds k.
        rule: How the threshold is chosen.
        seed: Of the folds.
    """
    side = _outer_folds(cohort, folds, seed, learns=True)
    pairs: dict[frozenset[int], np.ndarray] = {}
    tables = []
    for fold in range(folds):
        for other in range(folds):
            out = frozenset((fold, other))
            if out not in pairs:
                pairs[out] = np.asarray(learn(np.isin(side, list(out))), dtype=np.float64)
        unseen = np.choose(side, [pairs[frozenset((fold, other))] for other in range(folds)])  # (P,)
        tables.append(_decided(cohort, unseen, side != fold, side == fold, rule).assign(fold=fold))
    return Diagnoses(_in_order(tables, cohort), (), "folds")


def hold_out_patients(
    cohort: Cohort, learn: LearnPatients, *, folds: int = 5, rule: str = "youden", seed: int = 0
) -> Diagnoses:
    """Like ``hold_out_diagnosis`` for something that scores patients directly."""
    held_out = cohort.split == "test"
    side = np.full(len(cohort), folds)
    side[~held_out] = cohort.select(~held_out).folds(folds, seed=seed)
    score = np.zeros(len(cohort))
    for fold in range(folds + 1):
        score[side == fold] = np.asarray(learn((side == fold) | held_out))[side == fold]
    return Diagnoses(_decided(cohort, score, ~held_out, held_out, rule), (), "test")


def _outer_folds(cohort: Cohort, folds: int, seed: int, *, learns: bool) -> np.ndarray:
    if learns and folds < 3:
        raise MedcoreError(
            f"folds={folds}: a training patient is scored by a model without its own and the tested fold, so scores "
            "that learn need at least 3 folds"
        )
    return cohort.folds(folds, seed=seed)


def _decided(cohort: Cohort, score: np.ndarray, train: np.ndarray, test: np.ndarray, rule: str) -> pd.DataFrame:
    """Choose a patient rule on some patients and apply it to others."""
    chosen = choose_patient_rule(cohort.select(train), score[train], rule=rule)
    return patient_table(cohort.select(test)).join(chosen.decide(score[test]))


def _in_order(tables: list[pd.DataFrame], cohort: Cohort) -> pd.DataFrame:
    return pd.concat(tables).set_index("patient").loc[cohort.names].reset_index()


class _Trained:
    """Window scores of models that have not seen one or two folds; each is trained once."""

    def __init__(self, learn: Learn | None, cohort: Cohort, side: np.ndarray) -> None:
        check_both(cohort)
        self.learn, self.cohort, self.side = learn, cohort, side
        self.known: dict[frozenset[int], Mapping[str, np.ndarray]] = {}

    def without(self, *folds: int) -> Cohort:
        """The cohort with scores of a model that has not seen these folds (-1 is HoldOut, never seen)."""
        if self.learn is None:
            return self.cohort
        out = frozenset(folds) | ({-1} if (self.side == -1).any() else set())
        if out not in self.known:
            self.known[out] = dict(self.learn(np.isin(self.side, list(out))))
        return self.cohort.with_scores(self.known[out])

    def for_choosing(self, fold: int) -> Cohort:
        """The cohort in which each patient is scored by a model that has seen neither ``fold`` nor its own fold."""
        if self.learn is None:
            return self.cohort
        own = self.side[self.cohort.owner]  # fold of each window
        parts = {other: self.without(fold, int(other)).scores for other in np.unique(own)}
        names = next(iter(parts.values()))
        merged = {name: np.zeros(len(own)) for name in names}
        for other, scores in parts.items():
            for name in names:
                merged[name][own == other] = scores[name][own == other]
        return self.cohort.with_scores(merged)
