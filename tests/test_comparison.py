"""A method beside others: values equal interval's, differences equal paired_difference's and mirror each other."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from medcore.errors import MedcoreError
from medcore.evaluation.comparison import Comparison, compare_methods
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.scores import Scores


def answers(right: float, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    truth = np.arange(120) % 2
    called = np.where(rng.random(120) < right, truth, 1 - truth)
    score = np.stack([1.0 - called, called], 1) * 0.6 + 0.2 + rng.normal(0, 0.01, (120, 2))
    return Scores(truth, score, (np.arange(120) // 6).astype(str), ["test"] * 120, ("a", "b"))


def test_every_metric_of_every_method_and_its_paired_difference() -> None:
    network, colour, majority = answers(0.9, 0), answers(0.6, 1), answers(0.5, 2)
    found = compare_methods(network, {"majority": majority, "colour": colour}, rivals={"older": answers(0.8, 3)})
    assert [e.name for e in found.metrics] == ["balanced_accuracy", "accuracy", "auroc"]
    assert found.metrics[0].value == pytest.approx(balanced_accuracy_score(network.truth, network.predicted))
    assert set(found.differences) == {"majority", "colour", "older"}
    for name, estimates in {**found.baselines, **found.rivals}.items():
        for own, other, difference in zip(found.metrics, estimates, found.differences[name], strict=True):
            assert difference.value == pytest.approx(own.value - other.value)
    assert found.reference == "colour" and found.verdict()["balanced_accuracy"] == "gain"


def test_a_loss_is_a_loss_in_whatever_metric() -> None:
    lost = compare_methods(answers(0.5, 1), {"colour": answers(0.95, 2)})
    assert set(lost.verdict().values()) == {"loss"}
    open_ = compare_methods(answers(0.7, 1), {"colour": answers(0.7, 2)}, metrics=("accuracy",))
    assert open_.verdict() == {"accuracy": "open"}


def test_a_reference_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MedcoreError, match="'colour'"):
        compare_methods(answers(0.9, 0), {"majority": answers(0.5, 1)}, reference="colour")
    value = Estimate("accuracy", 0.5, 0.4, 0.6, 10, "patch", "test")
    with pytest.raises(MedcoreError, match="'same'"):
        Comparison([value], {"same": [value]}, {"same": [value]})
