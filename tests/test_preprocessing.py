"""A method that only recognises patients must look good under random folds and useless under patient folds."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.studies.preprocessing import SplitChoices, compare_splits, cross_both, random_folds, small_network


def fingerprints_of_patients() -> PatchSet:
    """Each patient has one label and one colour; colour and label are independent across patients."""
    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(24), 10)
    label = rng.permutation(np.arange(24) % 2)[patient]
    colour = rng.integers(0, 256, (24, 3))[patient]
    images = np.clip(colour[:, None, None, :] + rng.integers(-2, 3, (240, 4, 4, 3)), 0, 255).astype(np.uint8)
    return PatchSet.from_arrays(images, {"label": label, "patient": patient}, Card("toy", classes=["a", "b"]))


def nearest_colour(train: PatchSet, held_out: PatchSet) -> np.ndarray:
    model = KNeighborsClassifier(1).fit(train.take().mean((1, 2)), train.labels)
    return model.predict_proba(held_out.take().mean((1, 2)))


def test_random_folds_flatter_what_only_knows_the_patient() -> None:
    by_patient, mixed = cross_both(fingerprints_of_patients(), {"colour": nearest_colour}, k=4)
    accuracy = [(c.scores["colour"].predicted == c.scores["colour"].truth).mean() for c in (by_patient, mixed)]
    assert accuracy[0] < 0.7 and accuracy[1] > 0.95


def test_the_experiment_names_the_method_its_baselines_and_what_mixing_adds() -> None:
    found = compare_splits(fingerprints_of_patients(), SplitChoices(folds=3, epochs=0))
    compared = found.comparison
    assert found.method == "colour histogram" and list(compared.baselines) == ["majority"]
    assert {e.split for e in (*compared.metrics, *compared.baselines["majority"])} == {"folds"}
    assert found.flattered.value - compared.metrics[0].value == pytest.approx(found.gap.value)
    assert found.gap.value > 0.3 and len(found.rows()) == 4


def test_of_grey_images_there_is_no_colour() -> None:
    ps = fingerprints_of_patients()
    grey = PatchSet.from_arrays(ps.take().mean(3).astype(np.uint8), ps.table, ps.card)
    stored_as_colour = PatchSet.from_arrays(np.repeat(grey.take(), 3, axis=3), ps.table, ps.card)
    for images in (grey, stored_as_colour):
        assert compare_splits(images, SplitChoices(folds=2, epochs=0)).method == "grey-level histogram"


def test_a_class_rarer_than_the_folds_is_named() -> None:
    ps = fingerprints_of_patients()
    few = ps.select(np.r_[np.flatnonzero(ps.labels == 0), np.flatnonzero(ps.labels == 1)[:2]])
    with pytest.raises(MedcoreError, match="rarest class has 2"):
        random_folds(few, 3)


def test_the_network_of_the_demonstration_sees_small_images() -> None:
    """Images of 96 px are learnt at 16 px: bright and dark ones are told apart on patients never seen."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    images = (rng.integers(0, 100, (60, 96, 96, 3)) + 120 * label[:, None, None, None]).astype(np.uint8)
    ps = PatchSet.from_arrays(images, {"label": label, "patient": np.arange(60) // 2}, Card("toy", classes=["a", "b"]))
    method = small_network(ps, SplitChoices(epochs=25, side=16, device="cpu"))
    train, held_out = ps.select(np.arange(40)).with_split(["train"] * 40), ps.select(np.arange(40, 60))
    probabilities = method(train, held_out.with_split(["val"] * 20))
    assert probabilities.shape == (20, 2)
    assert (probabilities.argmax(1) == held_out.labels).mean() > 0.9
