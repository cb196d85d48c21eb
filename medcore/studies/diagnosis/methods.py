"""The methods that diagnose patients side by side: ours, the trivial ones, and those that learn from whole patients.

    found = diagnose_all(cohort, learner, choices, window_features(patches, choices)[cohort.rows])

On features of a pretrained encoder stand ABMIL over windows and a linear probe on what is pooled over them.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from medcore.data.patchset import PatchSet
from medcore.evaluation.features import features
from medcore.models.classifier import build_classifier
from medcore.studies.diagnosis.aggregation import aggregate
from medcore.studies.diagnosis.choices import DEFAULT, DiagnosisChoices
from medcore.studies.diagnosis.cohort import Cohort
from medcore.studies.diagnosis.learner import ERRORS, WindowLearner
from medcore.studies.diagnosis.nested import Diagnoses, LearnPatients, diagnose_patients, diagnose_windows
from medcore.studies.heads import encoder_side, linear_probe

OURS = "this method"
RULE = "red pixels, three highest windows"
ATTENTION = "attention over windows (ABMIL)"
COUNT = "number of windows"
BAGS = "attention over pretrained features (ABMIL)"
PROBE = "probe on pooled pretrained features"
PENALTIES = (1e-4, 1e-3, 1e-2)  # inverse strength of the L2 penalty
INNER = 3  # folds over training patients in which it is chosen


def window_features(patches: PatchSet, choices: DiagnosisChoices) -> np.ndarray:
    """Mean and spread of every level's maps of the encoder, for each window. **Shape** ``(N, D)``."""
    side = encoder_side(patches, choices.encoder_sides)
    encoder = build_classifier(
        choices.encoder, 2, in_channels=patches.shape[2], weights=choices.encoder_weights, image_size=side, side=side,
        levels=True,
    )  # fmt: skip
    return features(patches, encoder, device=choices.device).values


def pooled(values: np.ndarray, owner: np.ndarray, patients: int) -> np.ndarray:
    """Mean and largest value over each patient's windows. **Shape** ``(N, D)`` and ``(N,)`` to ``(P, 2 D)``."""
    mean = np.stack([values[owner == number].mean(0) for number in range(patients)])
    largest = np.stack([values[owner == number].max(0) for number in range(patients)])
    return np.concatenate([mean, largest], axis=1)


def pooled_probe(cohort: Cohort, values: np.ndarray) -> LearnPatients:
    """A linear probe on pooled features of each patient's counted windows; its penalty is chosen on training patients.

    Args:
        values: Features of the cohort's windows. **Shape** ``(N, D)``.
    """
    from sklearn.model_selection import GridSearchCV

    bags = pooled(values[cohort.counted], cohort.owner[cohort.counted], len(cohort))

    def learn(excluded: np.ndarray) -> np.ndarray:
        truth = cohort.truth[~excluded]
        folds = int(min(INNER, np.bincount(truth, minlength=2).min()))
        penalties = {"logisticregression__C": PENALTIES if folds > 1 else PENALTIES[:1]}
        search = GridSearchCV(linear_probe(), penalties, cv=max(2, folds), scoring="neg_log_loss")
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged to the last digit: the inner folds judge what came out
            return search.fit(bags[~excluded], truth).predict_proba(bags)[:, 1]

    return learn


def trivial_rule(cohort: Cohort, choices: DiagnosisChoices = DEFAULT) -> LearnPatients:
    """A patient score from a window score that learns nothing: by default the mean of the three highest windows."""
    values, owner = cohort.score(choices.baseline_score)[cohort.counted], cohort.owner[cohort.counted]
    none = np.zeros(len(values), dtype=bool)
    found = aggregate(choices.baseline_aggregation, values, none, owner, len(cohort))
    return lambda excluded: found


def number_of_windows(cohort: Cohort) -> LearnPatients:
    """How many windows a patient has. It says nothing of tissue: where it tells patients apart, the set was made so."""
    found = cohort.windows_per_patient.astype(np.float64)
    return lambda excluded: found


def diagnose_all(
    cohort: Cohort, learner: WindowLearner, choices: DiagnosisChoices = DEFAULT, features: np.ndarray | None = None
) -> dict[str, Diagnoses]:
    """Diagnose every patient by the method, the trivial rule, ABMIL and the number of windows (where it varies).

    Features of the cohort's windows by a pretrained encoder, where there are any, add ABMIL and a probe on them.

    ``choices.repeats`` divides the patients into folds by further seeds, where there is no HoldOut; what learns
    from whole patients is trained for the first one only, and autoencoders as ``choices.repeat_autoencoder`` says.
    """
    more = 0 if (cohort.split == "test").any() else choices.repeats - 1
    every = [replace(choices, seed=choices.seed + number) for number in range(more + 1)]
    first = diagnose_windows(cohort, choices, learn=learner)
    again = learner if _repeats_autoencoder(learner, first, choices) else learner.without_autoencoder()
    others = tuple(diagnose_windows(cohort, one, learn=again) for one in every[1:])
    found = {OURS: replace(first, others=others)}
    simple = {RULE: trivial_rule(cohort, choices)}
    if len(cohort) - int(np.bincount(cohort.windows_per_patient).max()) >= 2 * choices.folds:
        simple[COUNT] = number_of_windows(cohort)  # patients differ in their number, also without a fold
    for name, learn in simple.items():
        one, *rest = (diagnose_patients(cohort, learn, chosen) for chosen in every)
        found[name] = replace(one, others=tuple(rest))
    learnt = {ATTENTION: learner.attention()}
    if features is not None:
        learnt |= {BAGS: learner.attention(features=features), PROBE: pooled_probe(cohort, features)}
    found |= {name: diagnose_patients(cohort, learn, choices) for name, learn in learnt.items()}
    return {name: found[name] for name in (OURS, RULE, *learnt, COUNT) if name in found}


def _repeats_autoencoder(learner: WindowLearner, first: Diagnoses, choices: DiagnosisChoices) -> bool:
    """One that serves every fold costs nothing more; else the choice decides."""
    if learner.bystanders is not None or choices.repeat_autoencoder == "always":
        return True
    chosen = any(rule.window.score in ERRORS.values() for rule in first.rules)
    return chosen and choices.repeat_autoencoder == "chosen"
