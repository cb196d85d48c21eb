"""Cohorts of numbers instead of images, for the tests of the diagnosis."""

from dataclasses import replace

import numpy as np

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.studies.diagnosis.cohort import Cohort

LEVELS = ("NEGATIVA", "BAIXA", "ALTA")
SHARE_ILL = np.array([0.0, 0.25, 0.7])  # of positive windows, per level


def toy_cohort(patients: int = 60, *, seed: int = 0, hold_out: float = 0.0, gap: float = 4.0) -> Cohort:
    """Patients in turns healthy, low, healthy, high; windows score N(0, 1), positive ones N(gap, 1)."""
    generator = np.random.default_rng(seed)
    level = np.array([0, 1, 0, 2])[np.arange(patients) % 4]
    owner = np.repeat(np.arange(patients), generator.integers(2, 25, patients))
    label = (generator.random(len(owner)) < SHARE_ILL[level[owner]]).astype(np.int64)
    score = generator.normal(size=len(owner)) + gap * label
    label[generator.random(len(owner)) < 0.2] = -1  # a fifth is not annotated
    split = np.where(np.arange(patients) >= (1 - hold_out) * patients, "test", "val")
    return Cohort(
        scores={"brown": score},
        label=label,
        owner=owner,
        names=np.array([f"P{number:03d}" for number in range(patients)]),
        level=level,
        group=np.arange(patients),
        split=split,
        levels=LEVELS,
        rows=np.arange(len(owner)),
    )


def with_hold_out_labels(cohort: Cohort, seed: int) -> Cohort:
    """The same cohort with other diagnoses and annotations of the HoldOut patients."""
    generator = np.random.default_rng(seed)
    hidden = cohort.split == "test"
    level, label = cohort.level.copy(), cohort.label.copy()
    level[hidden] = generator.integers(0, 3, hidden.sum())
    windows = hidden[cohort.owner]
    label[windows] = generator.integers(-1, 2, windows.sum())
    return replace(cohort, level=level, label=label)


def window_set(rows: list[dict], **columns: list) -> PatchSet:
    """A set of tiny windows from table rows with ``patient``, ``diagnosis`` and perhaps more."""
    table = {"label": [-1] * len(rows), "source": [f"w{row}.png" for row in range(len(rows))]}
    for name in rows[0]:
        table[name] = [row[name] for row in rows]
    card = Card("toy", "toy windows", ["negative", "positive"])
    return PatchSet.from_arrays(np.zeros((len(rows), 4, 4, 3), np.uint8), table | columns, card)
