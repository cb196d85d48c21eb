"""Nested cross-validation over patients: each patient is diagnosed by rules, and models, that never saw it.

    diagnose_windows(cohort, choices, learn=learner)       # window scores, then everything of ``rule.DiagnosisRule``
    diagnose_patients(cohort, learn, choices)              # something that scores patients directly (ABMIL)

For each tested fold f: the other patients choose, those of f are diagnosed. Where patients are marked ``test``
(HoldOut), they are the one tested fold. Scores may come from something that learns: ``learn(excluded)`` trains it
without the excluded patients and returns scores of all. Then

- the patients of fold f are scored by the model without f;
- a training patient of fold g is scored by the model without f *and* g: its own images are unseen, too, and nothing
  that is chosen for f has met a patient of f.

This takes k (k + 1) / 2 trainings for k folds, at least three, and none for a score that learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.curves import DecisionCurve, decision_curve
from medcore.evaluation.scores import Folds, Scores
from medcore.studies.diagnosis.choices import DEFAULT, DiagnosisChoices
from medcore.studies.diagnosis.cohort import PATIENT_CLASSES, WINDOW_CLASSES, Cohort, check_both
from medcore.studies.diagnosis.rule import DiagnosisRule, choose_diagnosis, choose_patient_rule, patient_table

Learn = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From excluded patients, **Shape** ``(P,)`` bool, to scores of all windows by name, **Shape** each ``(N,)``."""
LearnPatients = Callable[[np.ndarray], np.ndarray]
"""From excluded patients, **Shape** ``(P,)`` bool, to scores of all patients, **Shape** ``(P,)``."""
HOLD_OUT = -1  # number of the fold of patients marked ``test``; no model ever sees it


@dataclass(frozen=True)
class Diagnoses:
    """Patients with their decisions.

    Attributes:
        table: One row per patient, as ``DiagnosisRule.diagnose`` gives it, with ``fold``.
        rules: The rule of each tested fold; empty for direct patient scores.
        split: How the patients were held out: ``folds`` or ``test``.
        parts: The patients whom each rule diagnosed, with the window scores it saw.
        others: The same patients divided into other folds; AUROCs are means over all repeats.
    """

    table: pd.DataFrame
    rules: tuple[DiagnosisRule, ...]
    split: str
    parts: tuple[Cohort, ...] = ()
    others: tuple[Diagnoses, ...] = ()

    @property
    def repeats(self) -> tuple[Diagnoses, ...]:
        """Every repeat by itself, the first being the one whose decisions count."""
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
            unit="window",
        )

    def fold_scores(self, column: str = "score") -> list[Scores]:
        """A column per fold that has patients of both kinds, for ROC curves of folds."""
        scores, fold = self.scores(column), self.table["fold"].to_numpy()
        parts = [scores.select(fold == number) for number in np.unique(fold)]
        return [part for part in parts if len(np.unique(part.truth)) == 2]

    def net_benefit(self) -> dict[str, DecisionCurve]:
        """The decision curve of the stated probabilities, under the name that a figure shows."""
        return {"this method": decision_curve(self.scores())}

    def scores(self, column: str = "probability") -> Scores:
        """A column as ``Scores``, one case per patient.

        The probability is comparable between folds, the bare score is not: each fold has its own aggregation.
        """
        table = self.table
        side = np.full(len(table), "test" if self.split == "test" else "val")
        truth, patient = table["truth"].to_numpy(), table["patient"].to_numpy(dtype=str)
        folds = None
        if self.split == "folds":
            tables = [one.table for one in self.repeats]
            folds = Folds(*(np.stack([one[name].to_numpy() for one in tables]) for name in ("score", "fold")))
        score = table[column].to_numpy(dtype=float)
        return Scores(truth, score, patient, side, PATIENT_CLASSES, unit="patient", folds=folds)


def diagnose_windows(cohort: Cohort, choices: DiagnosisChoices = DEFAULT, *, learn: Learn | None = None) -> Diagnoses:
    """Diagnose patients by rules chosen on other patients: HoldOut where there is one, else everybody in folds.

    Args:
        cohort: Windows with their patients; its ``scores`` serve where nothing is learnt.
        choices: Folds, candidates and threshold rule.
        learn: Trains what gives the window scores (see above).

    Raises:
        MedcoreError: One class only, or too few patients for the folds.
    """
    outer = _Outer(cohort, choices, learns=learn is not None)
    rules, parts = [], []
    for fold in outer.tested:
        scored = cohort if learn is None else cohort.with_scores(outer.unseen(learn, outer.side[cohort.owner], fold))
        rules.append(choose_diagnosis(scored.select(outer.side != fold), choices))
        parts.append(scored.select(outer.side == fold))
    tables = [rule.diagnose(part) for rule, part in zip(rules, parts, strict=True)]
    return Diagnoses(outer.joined(tables), tuple(rules), outer.split, tuple(parts))


def diagnose_patients(cohort: Cohort, learn: LearnPatients, choices: DiagnosisChoices = DEFAULT) -> Diagnoses:
    """Like ``diagnose_windows`` for something that scores patients directly (ABMIL, the trivial rule)."""
    outer = _Outer(cohort, choices, learns=True)
    tables = []
    for fold in outer.tested:
        score = outer.unseen(lambda excluded: {"patients": learn(excluded)}, outer.side, fold)["patients"]
        others, own = outer.side != fold, outer.side == fold
        rule = choose_patient_rule(cohort.select(others), score[others], rule=choices.rule)
        tables.append(patient_table(cohort.select(own)).join(rule.decide(score[own])))
    return Diagnoses(outer.joined(tables), (), outer.split)


class _Outer:
    """Which patients are tested in which fold, and scores by models that have not seen them."""

    def __init__(self, cohort: Cohort, choices: DiagnosisChoices, *, learns: bool) -> None:
        check_both(cohort)
        held_out = cohort.split == "test"
        if learns and choices.folds < 3:
            raise MedcoreError(
                f"folds={choices.folds}: a training patient is scored by a model without its own and the tested fold, "
                "so scores that learn need at least 3 folds"
            )
        self.cohort, self.known = cohort, dict[frozenset[int], dict[str, np.ndarray]]()
        self.side = np.full(len(cohort), HOLD_OUT)  # fold of each patient
        self.side[~held_out] = cohort.select(~held_out).folds(choices.folds, seed=choices.seed)
        self.tested = [HOLD_OUT] if held_out.any() else list(range(choices.folds))
        self.split = "test" if held_out.any() else "folds"

    def unseen(self, learn: Learn, place: np.ndarray, tested: int) -> dict[str, np.ndarray]:
        """Scores, each by a model that saw neither the tested fold nor the fold of what it scores.

        **Shape** ``place`` (the fold of each window or patient) ``(N,)`` to each ``(N,)``.
        """
        merged: dict[str, np.ndarray] = {}
        for own in np.unique(place):
            for name, values in self._without(learn, frozenset({tested, int(own)})).items():
                merged.setdefault(name, np.zeros(len(place)))[place == own] = np.asarray(values)[place == own]
        return merged

    def _without(self, learn: Learn, folds: frozenset[int]) -> dict[str, np.ndarray]:
        if folds not in self.known:
            self.known[folds] = dict(learn(np.isin(self.side, list(folds))))
        return self.known[folds]

    def joined(self, tables: list[pd.DataFrame]) -> pd.DataFrame:
        """One table of all tested patients in the cohort's order, with their fold."""
        table = pd.concat([part.assign(fold=fold) for part, fold in zip(tables, self.tested, strict=True)])
        tested = self.cohort.names[np.isin(self.side, self.tested)]
        return table.set_index("patient").loc[tested].reset_index()
