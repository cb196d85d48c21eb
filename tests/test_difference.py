"""External minus development: the interval covers the true difference of two groups of patients; words follow it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.proportions import wilson_limits
from medcore.evaluation.scores import Scores
from medcore.studies.validation.difference import in_words, independent_difference, stored_estimates


def estimate(value, low, high, name="auroc", **facts):
    return Estimate(name, value, low, high, facts.pop("n", 50), "patient", facts.pop("split", "test"), **facts)


def test_symmetric_intervals_give_the_root_of_the_sum_of_squares():
    gap = independent_difference(estimate(0.80, 0.74, 0.86), estimate(0.90, 0.82, 0.98))
    half = np.hypot(0.06, 0.08)
    assert (gap.value, gap.low, gap.high) == pytest.approx((-0.1, -0.1 - half, -0.1 + half))
    assert in_words(gap) == "no difference shown" and gap.name == "auroc_difference"


def test_wilson_limits_give_the_interval_of_newcombe():
    """Newcombe 1998, table II, method 10, case (a): 56/70 minus 48/80."""
    first = estimate(56 / 70, *wilson_limits(56, 70), "sensitivity")
    second = estimate(48 / 80, *wilson_limits(48, 80), "sensitivity")
    gap = independent_difference(first, second)
    assert (round(gap.value, 4), round(gap.low, 4), round(gap.high, 4)) == (0.2, 0.0524, 0.3339)
    assert in_words(gap) == "higher here" and in_words(independent_difference(second, first)) == "lower here"


def test_without_an_interval_there_is_no_difference():
    gap = independent_difference(estimate(0.8, None, None, note="one patient"), estimate(0.9, 0.8, 0.95))
    assert gap.value is None and "interval" in gap.note and in_words(gap) == "not known"


def test_the_first_estimate_of_a_name_is_what_a_run_led_with():
    rows = [estimate(0.8, 0.7, 0.9).as_dict(), estimate(0.6, 0.5, 0.7, split="folds").as_dict()]
    assert stored_estimates(rows)["auroc"].value == 0.8


def cohort(rng, patients: int, shift: float, images: int) -> Scores:
    """Patients with an effect of their own; the positive class scores ``shift`` higher."""
    truth = (np.arange(patients) % 3 == 0).astype(int)
    own = rng.normal(scale=0.6, size=patients)
    owner = np.repeat(np.arange(patients), images)
    score = truth[owner] * shift + own[owner] + rng.normal(scale=0.8, size=len(owner))
    names = [f"P{k}" for k in owner]
    return Scores(truth[owner], score, names, ["test"] * len(owner), ("no", "yes"))


@pytest.mark.parametrize("runs", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_the_interval_covers_the_true_difference_of_two_cohorts(runs):
    rng = np.random.default_rng(5)
    truth = [norm.cdf(shift / np.sqrt(2)) for shift in (1.0, 1.8)]  # score variance within a class is 1
    covered, decided = 0, 0
    for _ in range(runs):
        here = interval(cohort(rng, 40, 1.0, 3), "auroc")
        there = interval(cohort(rng, 60, 1.8, 3), "auroc")
        gap = independent_difference(here, there)
        covered += gap.low <= truth[0] - truth[1] <= gap.high
        here_sens, there_sens = (
            interval(one, "sensitivity", decision=(one.score > 0.9).astype(int))
            for one in (cohort(rng, 40, 1.0, 1), cohort(rng, 60, 1.8, 1))
        )
        gap = independent_difference(here_sens, there_sens)
        decided += gap.low <= norm.cdf(0.1) - norm.cdf(0.9) <= gap.high
    least = 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)
    assert covered / runs >= least and decided / runs >= least, (covered / runs, decided / runs)
