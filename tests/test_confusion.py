"""Metrics of confusion matrices against scikit-learn, one by one and stacked, in numpy and torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medcore.errors import MedcoreError
from medcore.metrics import confusion as cm

rng = np.random.default_rng(3)
TRUTH = rng.integers(0, 4, 500)
DECISION = np.where(rng.random(500) < 0.6, TRUTH, rng.integers(0, 4, 500))
MATRIX = cm.confusion_matrix(TRUTH, DECISION, 4).astype(float)

ORACLES = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "macro_f1": lambda t, d: sk.f1_score(t, d, average="macro"),
    "macro_ppv": lambda t, d: sk.precision_score(t, d, average="macro", zero_division=0),
    "macro_npv": lambda t, d: np.mean([sk.precision_score(t != k, d != k, zero_division=0) for k in np.unique(t)]),
    "macro_specificity": lambda t, d: np.mean([sk.recall_score(t != k, d != k) for k in np.unique(t)]),
    "mcc": sk.matthews_corrcoef,
    "kappa": sk.cohen_kappa_score,
    "quadratic_kappa": lambda t, d: sk.cohen_kappa_score(t, d, weights="quadratic"),
    "within_one": lambda t, d: np.mean(np.abs(t - d) <= 1),
}
ONE_CLASS = {
    "sensitivity": sk.recall_score,
    "specificity": lambda t, d: sk.recall_score(~t, ~d),
    "ppv": sk.precision_score,
    "npv": lambda t, d: sk.precision_score(~t, ~d),
    "f1": sk.f1_score,
}


def test_counts_equal_scikit_learn():
    assert np.array_equal(MATRIX, sk.confusion_matrix(TRUTH, DECISION))


def test_every_metric_has_an_oracle():
    assert set(ORACLES) == set(cm.OVERALL) and set(ONE_CLASS) == set(cm.OF_ONE_CLASS)


@pytest.mark.parametrize("name", ORACLES)
def test_overall_metrics_equal_scikit_learn(name):
    assert cm.OVERALL[name](MATRIX) == pytest.approx(ORACLES[name](TRUTH, DECISION), abs=1e-12)


@pytest.mark.parametrize("positive", [0, 3])
@pytest.mark.parametrize("name", ONE_CLASS)
def test_one_class_metrics_equal_scikit_learn(name, positive):
    expected = ONE_CLASS[name](TRUTH == positive, DECISION == positive)
    assert cm.metric_function(name, positive)(MATRIX) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", [*ORACLES, *ONE_CLASS, "ppv@0.05", "npv@0.3"])
def test_stacked_matrices_and_tensors_give_the_same(name):
    stack = rng.integers(1, 50, (7, 3, 3)).astype(float)
    function = cm.metric_function(name)
    single = [function(matrix) for matrix in stack]
    assert function(stack) == pytest.approx(single, abs=1e-12)
    assert function(torch.tensor(stack)).numpy() == pytest.approx(single, abs=1e-12)


def test_a_class_without_cases_leaves_the_mean():
    truth, decision = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0])
    matrix = cm.confusion_matrix(truth, decision, 4).astype(float)
    assert cm.balanced_accuracy(matrix) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert cm.macro_ppv(matrix) == pytest.approx((1 / 2 + 0 + 1) / 3)  # class 1 was called, and never rightly
    assert cm.macro_f1(matrix) == pytest.approx(sk.f1_score(truth, decision, average="macro"))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_means_over_classes_are_scikit_learns_whichever_classes_occur(pairs):
    truth, decision = np.array(pairs).T
    matrix = cm.confusion_matrix(truth, decision, 4).astype(float)
    assert cm.macro_f1(matrix) == pytest.approx(sk.f1_score(truth, decision, average="macro"))
    expected = sk.precision_score(truth, decision, average="macro", zero_division=0)
    assert cm.macro_ppv(matrix) == pytest.approx(expected)
    assert cm.balanced_accuracy(matrix) == pytest.approx(
        np.mean([(decision[truth == k] == k).mean() for k in np.unique(truth)])
    )


def test_macro_f1_by_hand():
    """F1 of 16/20, 14/18 and 0 (called, never there): their mean is 0.526, as scikit-learn says."""
    assert cm.macro_f1(np.array([[8, 1, 1], [2, 7, 1], [0, 0, 0]])) == pytest.approx((16 / 20 + 14 / 18) / 3)


def test_counts_of_tensors_are_those_of_arrays_also_in_batches():
    truth, decision = torch.tensor(TRUTH.reshape(5, 100)), torch.tensor(DECISION.reshape(5, 100))
    found = cm.confusion_counts(truth, decision, 4)
    for row in range(5):
        assert np.array_equal(found[row], cm.confusion_matrix(truth[row].numpy(), decision[row].numpy(), 4))
    assert np.array_equal(cm.confusion_counts(truth.flatten(), decision.flatten(), 4), MATRIX)
    ignored = torch.where(truth == 2, 255, truth)
    assert cm.confusion_counts(ignored, decision, 4)[:, 2].sum() == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_bounds_hold_or_there_is_no_value(pairs):
    matrix = cm.confusion_matrix(*np.array(pairs).T, 3).astype(float)
    with np.errstate(all="ignore"):
        for name in [*cm.OVERALL, *cm.OF_ONE_CLASS, "ppv@0.1"]:
            value = cm.metric_function(name)(matrix)
            low = -1 if name in cm.FROM_MINUS_ONE else 0
            assert np.isnan(value) or low - 1e-9 <= value <= 1 + 1e-9, name


@pytest.mark.parametrize("name", ["acuracy", "ppv@2", "ppv@x", "accuracy@0.5", "auroc"])
def test_a_wrong_name_or_prevalence_is_named(name):
    with pytest.raises(MedcoreError, match="metric|prevalence"):
        cm.metric_function(name)


@pytest.mark.parametrize("decision", [[0, 4], [0, -1], [0, 0.5]])
def test_an_index_outside_the_classes_is_named(decision):
    with pytest.raises(MedcoreError, match=r"decision\[1\]"):
        cm.confusion_matrix(np.array([0, 1]), np.array(decision), 4)
    with pytest.raises(MedcoreError, match="2 truths but 3"):
        cm.confusion_matrix([0, 1], [0, 1, 1], 4)
