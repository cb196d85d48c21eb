"""A forest of plain arrays answers as scikit-learn does, and arrays that are none are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load, save

from medcore.errors import MedcoreError
from medcore.studies.diagnosis.forest import Forest
from medcore.studies.diagnosis.specks import FEATURES, fit_forest


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(150, len(FEATURES)))
    features[:, 4] = rng.integers(0, 4, 150)  # ties at thresholds
    label = (features[:, 0] + features[:, 4] + rng.normal(size=150) > 1.5).astype(int)
    return fit_forest(features, label, seed=3)


def test_it_equals_scikit_learn_bit_for_bit_also_out_of_a_file(fitted):
    rng = np.random.default_rng(1)
    new = rng.normal(scale=3, size=(500, len(FEATURES)))
    new[:, 4] = rng.integers(-1, 6, 500)
    expected = fitted.predict_proba(new)[:, 1]
    forest = Forest.of(fitted)
    again = Forest.from_tensors(load(save(forest.tensors())))
    assert np.array_equal(forest.probability(new), expected)
    assert np.array_equal(again.probability(new), expected)
    assert forest.probability(new[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("name", "value"), [("left", 0), ("right", 10**9), ("feature", -3), ("threshold", np.nan), ("share", 2.0)]
)
def test_arrays_that_are_no_forest_are_refused(fitted, name, value):
    forest = Forest.of(fitted)
    changed = getattr(forest, name).copy()
    changed[int(forest.root[1])] = value
    with pytest.raises(MedcoreError, match="no forest"):
        replace(forest, **{name: changed})


def test_a_missing_array_and_too_few_features_are_refused(fitted):
    forest = Forest.of(fitted)
    tensors = forest.tensors()
    tensors.pop("forest.left")
    with pytest.raises(MedcoreError, match="not those of a forest"):
        Forest.from_tensors(tensors)
    with pytest.raises(MedcoreError, match="looks at"):
        forest.probability(np.zeros((2, 3)))
