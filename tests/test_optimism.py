"""A method that only recognises patients must look good under random folds and useless under patient folds."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.splits import Fold
from medcore.errors import MedcoreError
from medcore.studies.preprocessing import compare_splits, network_predictor, out_of_fold, random_folds


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
    scores = compare_splits(fingerprints_of_patients(), {"colour": nearest_colour}, k=4)
    accuracy = {kind: (s.predicted == s.truth).mean() for (_, kind), s in scores.items()}
    assert accuracy["random"] > 0.95
    assert accuracy["patient"] < 0.7
    assert set(scores["colour", "patient"].split) == {"val"}


def test_every_image_is_predicted_exactly_once() -> None:
    ps = fingerprints_of_patients()
    folds = random_folds(ps, 3)
    with pytest.raises(MedcoreError, match="cover"):
        out_of_fold(ps, folds[:2], nearest_colour)
    with pytest.raises(MedcoreError, match="cover"):
        out_of_fold(ps, [*folds, Fold(folds[0].train, folds[0].validation)], nearest_colour)


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
    predictor = network_predictor(epochs=60, side=16, device="cpu")
    train, held_out = ps.select(np.arange(40)).with_split(["train"] * 40), ps.select(np.arange(40, 60))
    probabilities = predictor(train, held_out.with_split(["val"] * 20))
    assert probabilities.shape == (20, 2)
    assert (probabilities.argmax(1) == held_out.labels).mean() > 0.9
