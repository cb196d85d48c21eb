"""Curves equal scikit-learn's, bands bracket them, and the decision curve keeps its definition."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk

from medcore.errors import MedcoreError
from medcore.evaluation import curves as cv
from medcore.evaluation.scores import Scores


def make(decimals=8, n=400, patients=25, seed=0):
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.35).astype(int)
    score = np.round(1 / (1 + np.exp(-rng.normal(truth * 1.5 - 0.7, 1))), decimals)
    return Scores(truth, score, rng.integers(0, patients, n), ["test"] * n, ("n", "p"))


@pytest.mark.parametrize("decimals", [8, 1])
def test_roc_equals_scikit_learn(decimals):
    scores = make(decimals)
    curve = cv.roc_curve(scores.positive, scores.score)
    fpr, tpr, thresholds = sk.roc_curve(scores.truth, scores.score, drop_intermediate=False)
    for found, expected in zip(curve, (fpr, tpr, thresholds), strict=True):
        assert found == pytest.approx(expected)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(sk.roc_auc_score(scores.truth, scores.score), abs=1e-12)


def test_the_band_brackets_the_curve_and_repeats():
    scores = make()
    band = cv.roc_band(scores, resamples=200)
    assert ((band.low <= band.value + 0.05) & (band.value <= band.high + 0.05)).all()
    assert (band.high - band.low).mean() > 0.03
    again = cv.roc_band(scores, resamples=200)
    assert np.array_equal(band.low, again.low)
    wide = cv.roc_band(make(n=60, patients=8), resamples=200)
    assert (wide.high - wide.low).mean() > (band.high - band.low).mean()


def test_the_band_resamples_whole_patients():
    scores = make(n=300, patients=6)
    shift = np.array([0, 1, 2, 0, 1, 2])[scores.patient.astype(int)]
    clustered = replace(scores, score=scores.score + shift)
    by_patient, by_patch = cv.roc_band(clustered), cv.roc_band(replace(clustered, patient=np.arange(300)))
    assert (by_patient.high - by_patient.low).mean() > 1.1 * (by_patch.high - by_patch.low).mean()


def test_values_on_the_grid_are_the_curve():
    scores = make()
    curve = cv.roc_curve(scores.positive, scores.score)
    band = cv.roc_band(scores, resamples=2)
    for x, y in zip(band.x, band.value, strict=True):
        below, above = curve.y[curve.x <= x + 1e-12].max(), curve.y[curve.x >= x - 1e-12].min()
        assert min(below, above) - 1e-9 <= y <= max(below, above) + 1e-9


def test_one_patient_has_a_curve_but_no_band():
    scores = make(patients=1)
    assert cv.roc_band(scores).low is None and cv.decision_curve(scores).high is None


def test_folds_are_averaged_at_each_false_positive_rate():
    folds = [make(seed=seed, n=120) for seed in range(4)]
    band = cv.mean_roc(folds)
    each = [np.interp(0.25, *cv.roc_curve(f.positive, f.score)[:2]) for f in folds]
    assert band.value[25] == pytest.approx(np.mean(each), abs=0.02)
    assert (band.low <= band.value).all() and (band.value <= band.high).all() and band.high.max() <= 1
    assert cv.mean_roc(folds[:1]).low is None
    with pytest.raises(MedcoreError, match="no fold"):
        cv.mean_roc([])


def test_net_benefit_by_its_definition():
    scores = make()
    curve = cv.decision_curve(scores)
    for t, model, everybody in zip(curve.threshold, curve.model, curve.treat_all, strict=True):
        called = scores.score >= t
        hits, alarms = (called & scores.positive).sum(), (called & ~scores.positive).sum()
        assert model == pytest.approx((hits - alarms * t / (1 - t)) / len(scores))
        share = scores.positive.mean()
        assert everybody == pytest.approx(share - (1 - share) * t / (1 - t))
    assert ((curve.low <= curve.model) & (curve.model <= curve.high)).all()


def test_missing_classes_and_logits_are_named():
    with pytest.raises(MedcoreError, match="no negative case among 2"):
        cv.roc_curve(np.array([True, True]), np.array([0.1, 0.2]))
    with pytest.raises(MedcoreError, match="no positive case"):
        cv.roc_band(make().select(make().truth == 0))
    scores = make()
    logits = Scores(scores.truth, scores.score * 5, scores.patient, scores.split, scores.classes)
    with pytest.raises(MedcoreError, match="decision_curve: scores must be probabilities"):
        cv.decision_curve(logits)
    with pytest.raises(MedcoreError, match="no cases"):
        cv.decision_curve(logits.where("val"))
