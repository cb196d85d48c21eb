"""Not answering: rules chosen on validation travel with the checkpoint and do on test cases what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from medcore.errors import TestDataRefused
from medcore.evaluation.scores import Scores
from medcore.evaluation.selective import ConformalRule
from medcore.studies.classification.abstention import judge_abstention


def made(split: str, seed: int, count: int = 600) -> Scores:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, count)
    logits = rng.normal(0, 1, (count, 3))
    logits[np.arange(count), truth] += rng.exponential(2.0, count)
    patient = np.char.add(split, (np.arange(count) // 6).astype(str))
    return Scores(truth, softmax(logits, axis=1), patient, [split] * count, ("a", "b", "c"))


def test_rejection_raises_accuracy_and_sets_hold_the_truth():
    test = made("test", 1)
    found = judge_abstention(made("val", 0), {"network": test, "other": test}, shares=(0.9, 0.5), promises=(0.9,))
    table = found.answered()
    accuracy = [table.loc[name, "accuracy"].value for name in ("everything", "the surest 90%", "the surest 50%")]
    assert accuracy[0] < accuracy[1] < accuracy[2]
    assert accuracy[0] == pytest.approx((test.predicted == test.truth).mean())
    kept = found.rejection["the surest 50%"].answers(test.score)
    assert accuracy[2] == pytest.approx((test.predicted == test.truth)[kept].mean())
    area, covered = found.estimates()
    assert area.name == "aurc" and covered.value == pytest.approx(0.9, abs=0.05)
    assert ConformalRule.from_dict(found.conformal.as_dict()) == found.conformal


def test_rules_are_not_chosen_on_test_data():
    with pytest.raises(TestDataRefused):
        judge_abstention(made("test", 0), {"network": made("test", 1)}, shares=(0.8,), promises=(0.9,))


@pytest.mark.parametrize(("patients", "promised"), [(100, 0.95), (19, 0.9), (20, 0.95), (9, 0.8), (8, 0.8), (2, 0.8)])
def test_few_patients_promise_what_they_can_keep(patients: int, promised: float) -> None:
    found = judge_abstention(
        made("val", 0, 6 * patients), {"network": made("test", 1)}, shares=(0.8,), promises=(0.95, 0.9, 0.8)
    )
    assert found.conformal.coverage == promised
    if patients > 4:  # so that the sets need not hold every class
        assert max(found.conformal.limits) < 1
