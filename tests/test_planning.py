"""Sample sizes: against published numbers, simulation and the intervals they promise."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import expit
from scipy.stats import binom

from medcore.cli import cli
from medcore.errors import MedcoreError
from medcore.evaluation.proportions import wilson_limits
from medcore.studies.validation.planning import (
    auroc_variance,
    binormal_predictor,
    patients_for_calibration,
    patients_for_proportion,
    patients_for_width,
    patients_to_prove,
    slope_variance,
)


def test_the_example_of_riley_2021_is_reproduced():
    """Prevalence 0.018, AUROC 0.8: O/E to a width of 1 needs 905 patients, the AUROC to a width of 0.1 4,252."""
    ratio, _, ranked = patients_for_calibration(prevalence=0.018, auroc=0.8, ratio_width=1, auroc_width=0.1)
    assert ratio.patients == pytest.approx(905, rel=0.01)
    assert ranked.patients == pytest.approx(4252, rel=0.01)


def test_the_slope_of_a_simulated_validation_scatters_as_planned():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    predictor, weight = binormal_predictor(0.3, 0.8)
    count = 400
    slopes = []
    for _ in range(300):
        drawn = rng.choice(predictor, count, p=weight)
        outcome = rng.random(count) < expit(drawn)
        slopes.append(LogisticRegression(C=1e9).fit(drawn[:, None], outcome).coef_[0, 0])
    assert np.var(slopes) == pytest.approx(slope_variance(predictor, weight) / count, rel=0.25)


def test_the_predictor_has_the_prevalence_and_auroc_it_was_asked_for():
    predictor, weight = binormal_predictor(0.2, 0.85)
    ill = weight * expit(predictor)
    well = weight - ill
    assert ill.sum() == pytest.approx(0.2, abs=1e-3)
    below = np.cumsum(well) - well / 2
    assert (ill * below).sum() / (ill.sum() * well.sum()) == pytest.approx(0.85, abs=2e-3)


def test_newcombes_variance_is_that_of_simulated_aurocs():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1], [140, 60])
    found = [roc_auc_score(truth, rng.normal(size=200) + 1.19 * truth) for _ in range(500)]
    assert np.var(found) == pytest.approx(auroc_variance(0.8, 200, 0.3), rel=0.3)


def test_a_proportion_is_as_narrow_as_planned_and_one_patient_less_is_not():
    plan = patients_for_proportion(0.9, half_width=0.05, prevalence=0.25)
    low, high = wilson_limits(0.9 * plan.cases, plan.cases)
    assert high - low <= 0.1 and plan.patients == -(-plan.cases // 0.25)
    low, high = wilson_limits(0.9 * (plan.cases - 1), plan.cases - 1)
    assert high - low > 0.1


def test_a_plan_to_show_something_has_its_power():
    plan = patients_to_prove(0.9, expected=0.96, power=0.8)
    hits = np.arange(plan.patients + 1)
    shown = np.array([wilson_limits(k, plan.patients)[0] > 0.9 for k in hits])
    assert binom.pmf(hits, plan.patients, 0.96)[shown].sum() >= 0.8
    with pytest.raises(MedcoreError, match="above"):
        patients_to_prove(0.9, expected=0.85)


def test_a_run_four_times_as_large_has_half_the_width():
    plan = patients_for_width(0.8, 0.7, 0.8727, patients=40, half_width=(0.8727 - 0.7) / 2)
    assert plan.patients == pytest.approx(40, abs=2)
    halved = patients_for_width(0.8, 0.7, 0.8727, patients=40, half_width=(0.8727 - 0.7) / 4)
    assert halved.patients == pytest.approx(160, rel=0.1)
    with pytest.raises(MedcoreError, match="do not fit"):
        patients_for_width(0.8, 0.85, 0.9, patients=40, half_width=0.05)


def test_the_command_answers_from_expectations_and_says_what_is_missing():
    ran = CliRunner().invoke(
        cli, ["plan", "--prevalence", "0.3", "--auroc", "0.85", "--expected", "0.95", "--show", "0.9"]
    )
    assert ran.exit_code == 0 and "calibration slope" in ran.output and "above 0.9" in ran.output
    assert CliRunner().invoke(cli, ["plan"]).exit_code == 2
    assert CliRunner().invoke(cli, ["plan", "--auroc", "0.8"]).exit_code == 2
    assert CliRunner().invoke(cli, ["plan", "--expected", "1.5"]).exit_code == 2


def test_the_command_reads_a_finished_run(tmp_path, monkeypatch):
    from medcore.reporting import results

    row = {"name": "auroc", "value": 0.8, "low": 0.7, "high": 0.87, "n": 40, "unit": "patient", "split": "test"}
    unknown = {**row, "name": "npv", "low": None, "note": "too few"}
    data = {"splits": [{"split": "test", "patients": 40}]}
    results.write_results(tmp_path, results.Results(notebook="x", data=data, metrics=[row, unknown]))
    ran = CliRunner().invoke(cli, ["plan", str(tmp_path)])
    assert ran.exit_code == 0 and "auroc 0.80" in ran.output and "npv" not in ran.output
