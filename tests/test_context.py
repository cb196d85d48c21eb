"""Patches judged beside the others of their patient: features against a plain loop, and what they may learn from."""

import numpy as np
import pytest

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.splits import patient_folds
from medcore.evaluation.intervals import interval
from medcore.studies.classification import ClassificationChoices, ClassificationStudy, PretrainedStart
from medcore.studies.classification.context import CONTEXT, has_neighbours, in_context, relative
from medcore.studies.experiments import cross_predict

CHOICES = ClassificationChoices(encoder_sides=(8, 8), context_folds=2, few_patients=())


def stained(patients: int = 12, side: int = 5, **columns: np.ndarray) -> PatchSet:
    """A grid of patches a patient, its left part of one class; staining differs more between patients than classes."""
    rng = np.random.default_rng(0)
    x, y = (np.tile(g.ravel(), patients) * 8 + 1 for g in np.meshgrid(range(side), range(side)))
    patient = np.repeat(np.arange(patients), side * side)
    label = (x < np.repeat(rng.integers(2, side - 1, patients), side * side) * 8).astype(int)
    grey = 120 + rng.normal(0, 30, patients)[patient] + 12 * label + rng.normal(0, 6, len(x))
    images = np.clip(grey[:, None, None, None] + rng.normal(0, 3, (len(x), 8, 8, 3)), 0, 255).astype(np.uint8)
    split = np.array(["train", "train", "val", "test"])[patient % 4]
    table = {"label": label, "patient": patient, "split": split, "x": x, "y": y} | columns
    return PatchSet.from_arrays(
        images, {k: v for k, v in table.items() if v is not None}, Card("toy", classes=["a", "b"])
    )


def brightness(part: PatchSet) -> np.ndarray:
    return part.take().reshape(len(part), -1).mean(1, keepdims=True).astype(np.float32)


def test_features_relative_to_patient_and_neighbours_equal_a_plain_loop() -> None:
    x = np.tile(np.arange(25) % 5 * 8.0 + 1, 3)
    x[7] = np.nan  # a patch whose position is not known
    patches = stained(3, x=x).select(np.random.default_rng(1).permutation(75))  # rows of a patient lie apart
    values = np.random.default_rng(2).normal(size=(75, 4)).astype(np.float32)
    table, reach = patches.table, 10.0
    own, around = np.zeros_like(values), np.zeros_like(values)
    for i in range(75):
        mates = [j for j in range(75) if table["patient"][j] == table["patient"][i]]
        mean = values[mates].mean(0)
        own[i] = values[i] - mean
        squared = {
            j: (table["x"][j] - table["x"][i]) ** 2 + (table["y"][j] - table["y"][i]) ** 2 for j in mates if j != i
        }
        weights = {j: np.exp(-d / (2 * reach**2)) for j, d in squared.items() if d <= (4 * reach) ** 2}
        if weights:
            around[i] = sum(w * (values[j] - mean) for j, w in weights.items()) / sum(weights.values())
    np.testing.assert_allclose(relative(values, patches, reach), np.hstack([values, own, around]), atol=1e-5)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({}, True),
        ({"x": None}, False),
        ({"image": np.arange(300)}, True),  # a file each: positions belong to the patient's slide
        ({"slide": np.arange(300) // 2}, True),
        ({"slide": np.repeat(np.arange(151), 2)[1:301]}, True),
        ({"patient": np.arange(300)}, False),
        ({"x": np.full(300, np.nan)}, False),
        ({"x": np.zeros(300), "y": np.zeros(300)}, False),  # a column that holds no position
        ({"x": np.array(["left", "right"] * 150)}, False),
        ({"image": np.tile(np.arange(25), 12)}, True),  # the same file names in each patient's folder
        ({"slide": np.tile(np.arange(25), 12), "image": np.arange(300)}, True),
    ],
)
def test_positions_and_neighbours_are_needed(columns: dict, found: bool) -> None:
    assert has_neighbours(stained(**columns)) is found


def test_copies_of_a_patch_at_one_place_are_answered() -> None:
    patches = stained()
    twice = patches.select(np.repeat(np.arange(300), 2))
    answers = in_context(brightness, CHOICES)(twice.select(np.arange(400)), twice.select(np.arange(400, 600)))
    assert np.isfinite(answers).all() and np.allclose(answers.sum(1), 1)


def test_a_patient_of_one_patch_and_one_without_position_are_answered() -> None:
    patches = stained()
    method = in_context(brightness, CHOICES)
    alone = patches.select(np.array([0]))
    answers = method(patches.select(np.arange(50, 300)), alone)
    assert answers.shape == (1, 2) and answers.sum() == pytest.approx(1)


def test_staining_of_the_patient_is_taken_out_and_held_out_labels_are_not_looked_at() -> None:
    patches = stained()
    folds = patient_folds(patches, 3, seed=0)
    alone = interval(cross_predict(patches, {"alone": by_threshold}, folds).scores["alone"], "auroc").value
    both = interval(
        cross_predict(patches, {CONTEXT: in_context(brightness, CHOICES)}, folds).scores[CONTEXT], "auroc"
    ).value
    assert both > 0.9 > alone + 0.1
    train, held_out = patches.select(folds[0].train), patches.select(folds[0].validation)
    flipped = PatchSet.from_arrays(
        held_out.take(), {**held_out.table.to_dict("list"), "label": 1 - held_out.labels}, held_out.card
    )
    answers = [in_context(brightness, CHOICES)(train, part) for part in (held_out, flipped)]
    np.testing.assert_array_equal(*answers)


def by_threshold(train: PatchSet, held_out: PatchSet) -> np.ndarray:
    """Brightness alone, which needs no training."""
    score = brightness(held_out)[:, 0] / 255
    return np.stack([1 - score, score], axis=1)


def test_the_study_shows_it_beside_probe_and_histogram(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path))
    start = PretrainedStart(ClassificationStudy(stained(), CHOICES), "small_cnn", "random")
    (found,) = start.beside_neighbours()
    assert {one.split for one in found.metrics} == {"folds, beside neighbours"} and found.metrics[0].n == 300
    assert list(found.differences) == [start.study.histogram, start.name]
    assert (
        PretrainedStart(ClassificationStudy(stained(x=None), CHOICES), "small_cnn", "random").beside_neighbours() == []
    )
