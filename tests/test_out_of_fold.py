"""Pooled cross-validation: no patient judges itself, nothing is chosen on the held-out images, order kept."""

import numpy as np
import pytest
import torch
from training_toys import toy_config, toy_set

from medcore.data.splits import patient_folds
from medcore.evaluation.predict import predict
from medcore.models.classifier import build_classifier
from medcore.studies import experiments as room
from medcore.training import checkpoint
from medcore.training.fit import fit
from medcore.training.objectives import Classification


def small():
    return build_classifier("small_cnn", 2)


@pytest.fixture(scope="module")
def crossed():
    patches = toy_set(side=16)
    return patches, room.out_of_fold(small, Classification(2), patches, toy_config(epochs=2), k=3)


def test_each_image_is_judged_once_by_the_last_epoch_without_its_patient(crossed, tmp_path):
    patches, result = crossed
    assert sorted(np.unique(result.fold)) == [1, 2, 3]
    for number, fold in enumerate(patient_folds(patches, 3, seed=toy_config().seed), 1):
        assert (result.fold[fold.validation] == number).all()
        assert not set(patches.patients[fold.train]) & set(patches.patients[fold.validation])
    train = patches.select(fold.train).with_split(["train"] * len(fold.train))  # the third fold, by hand
    held_out = patches.select(fold.validation).with_split(["val"] * len(fold.validation))
    torch.manual_seed(toy_config().seed)
    model = small()
    fit(model, Classification(2), train, held_out, toy_config(epochs=2), out=tmp_path, progress=False)
    last = predict(checkpoint.load_checkpoint(tmp_path, "last").model, held_out)
    np.testing.assert_allclose(result.scores.score[fold.validation], last, atol=1e-6)


def test_splits_stay_in_the_scores_and_rows_carry_n_and_interval(crossed):
    patches, result = crossed
    assert (result.scores.split == patches.splits).all() and (result.scores.truth == patches.labels).all()
    table = result.table("accuracy")
    assert table["n"].sum() == len(patches)
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()
    network, histogram = result.estimate("accuracy", "test")
    assert network.n == histogram.n == int((patches.splits == "test").sum()) and network.split == "folds, test part"
    right = (result.baseline.predicted == patches.labels).mean()
    assert result.estimate("accuracy")[0].split == "folds" and str(network) in result.sentence("test")
    assert result.estimate("accuracy")[1].value == pytest.approx(right) and right > 0.8  # the toy is told by its colour
