"""Selective prediction: risk and its area against brute force, rules chosen on validation only."""

from __future__ import annotations

import numpy as np
import pytest

from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.scores import Scores
from medcore.evaluation.selective import (
    area_under_risk,
    choose_rejection,
    confidence_of,
    risk_at,
    risk_coverage,
    selective_table,
)


def made(split: str, count: int = 400, seed: int = 0) -> Scores:
    """Answers that are right as often as they say."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1, count)
    right = rng.random(count) < sure
    truth = rng.integers(0, 2, count)
    said = np.where(right, truth, 1 - truth)
    score = np.where(said[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])
    return Scores(truth, score, rng.integers(0, 50, count).astype(str), [split] * count, ("a", "b"))


def test_risk_and_its_area_equal_sorting_by_hand():
    rng = np.random.default_rng(1)
    wrong, confidence = rng.random(30) < 0.4, rng.permutation(30) / 30
    order = np.argsort(-confidence)
    by_hand = [wrong[order[: k + 1]].mean() for k in range(30)]
    assert np.allclose(risk_at(wrong, confidence, np.arange(1, 31) / 30, np.ones(30)), by_hand)
    assert area_under_risk(wrong, confidence, np.ones(30)) == pytest.approx(np.mean(by_hand))


def test_ties_are_answered_in_proportion():
    wrong, confidence = np.array([1, 0, 0, 1], bool), np.full(4, 0.7)
    assert np.allclose(risk_at(wrong, confidence, np.array([0.25, 0.5, 1]), np.ones(4)), 0.5)
    assert area_under_risk(wrong, confidence, np.ones(4)) == 0.5


def test_certain_answers_are_righter_and_the_band_holds_the_curve():
    curve = risk_coverage(made("test"), resamples=100)
    assert curve.risk[5] < curve.risk[-1] and curve.aurc.low < curve.aurc.value < curve.aurc.high
    assert ((curve.low <= curve.risk + 1e-9) & (curve.risk <= curve.high + 1e-9)).mean() > 0.95


def test_a_rule_reaches_its_aim_where_it_was_chosen_and_nearly_so_elsewhere():
    validation, test = made("val", 4000), made("test", 4000, seed=9)
    by_share, by_error = choose_rejection(validation, coverage=0.8), choose_rejection(validation, error=0.1)
    assert by_share.coverage == pytest.approx(0.8, abs=1e-3) and by_error.error <= 0.1
    kept = by_error.answers(test.score)
    assert (test.predicted != test.truth)[kept].mean() == pytest.approx(0.1, abs=0.02)
    table = selective_table({"80 %": by_share, "error": by_error}, test)
    assert table.loc["80 %", "answered"] == pytest.approx(0.8, abs=0.02)
    assert table.loc["everything", "accuracy"].value < table.loc["80 %", "accuracy"].value
    assert table.loc["everything", "accuracy"].value == pytest.approx((test.predicted == test.truth).mean())


def test_an_aim_that_nothing_reaches_answers_nothing():
    wrong = Scores([0, 0, 1], [[0.4, 0.6], [0.2, 0.8], [0.9, 0.1]], ["p", "q", "r"], ["val"] * 3, ("a", "b"))
    rule = choose_rejection(wrong, error=0.05)
    assert rule.coverage == 0 and rule.error is None and not rule.answers(wrong.score).any()
    assert "accuracy" not in selective_table({"none": rule}, wrong).loc["none"].dropna()


def test_choosers_refuse_test_data_and_unclear_aims():
    with pytest.raises(TestDataRefused):
        choose_rejection(made("test"), coverage=0.8)
    for aims in ({}, {"coverage": 0.8, "error": 0.1}, {"coverage": 80}):
        with pytest.raises(MedcoreError, match="coverage or error"):
            choose_rejection(made("val"), **aims)
    with pytest.raises(MedcoreError, match="each class"):
        confidence_of(Scores([0, 1], [0.1, 0.9], ["p", "q"], ["val"] * 2, ("a", "b")))
