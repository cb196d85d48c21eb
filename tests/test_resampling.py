"""Count-weight resampling equals resampling for real, to the last digit."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from medcore.errors import MedcoreError
from medcore.evaluation import resampling as rs
from medcore.metrics import ranking
from medcore.metrics.confusion import balanced_accuracy


def cases(n=300, patients=None, decimals=8, seed=0):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    score = np.round(rng.normal(positive * 1.0, 1), decimals)
    group = np.arange(n) if patients is None else rng.integers(0, patients, n)
    return positive, score, group


@pytest.mark.parametrize("decimals", [8, 1, 0])
@pytest.mark.parametrize("oracle", [roc_auc_score, average_precision_score])
def test_equal_to_scikit_learn_on_the_same_indices(decimals, oracle):
    positive, score, group = cases(decimals=decimals)
    indices = np.random.default_rng(1).integers(0, 300, (50, 300))
    expected = [oracle(positive[drawn], score[drawn]) for drawn in indices]
    statistic = (
        ranking.auroc_statistic(positive, score, group, 300)
        if oracle is roc_auc_score
        else ranking.average_precision_statistic(positive, score, group)
    )
    found = rs.evaluate(statistic, rs.counts_of_indices(indices, 300), cases=300)
    assert np.abs(found - expected).max() < 1e-12


@pytest.mark.parametrize("patients", [5, 20, 60])  # few patients are compared pairwise, more by sorted scores
@pytest.mark.parametrize("decimals", [8, 1])
def test_whole_patients_are_drawn(patients, decimals):
    positive, score, group = cases(patients=patients, decimals=decimals)
    counts = rs.resample_counts(patients, 20, seed=3)
    auroc = rs.evaluate(ranking.auroc_statistic(positive, score, group, patients), counts, cases=300)
    precision = rs.evaluate(ranking.average_precision_statistic(positive, score, group), counts, cases=300)
    decision = (score > 0.5).astype(int)
    balanced = rs.evaluate(
        rs.confusion_statistic(positive.astype(int), decision, 2, group, patients, balanced_accuracy), counts, cases=300
    )
    for row, count in enumerate(counts):
        drawn = np.concatenate([np.tile(np.flatnonzero(group == p), int(count[p])) for p in range(patients)])
        assert auroc[row] == pytest.approx(roc_auc_score(positive[drawn], score[drawn]), abs=1e-12)
        assert precision[row] == pytest.approx(average_precision_score(positive[drawn], score[drawn]), abs=1e-12)
        assert balanced[row] == pytest.approx(balanced_accuracy_score(positive[drawn], decision[drawn]), abs=1e-12)


@pytest.mark.parametrize("patients", [6, 80])
def test_tensors_give_the_same(patients):
    positive, score, group = cases(patients=patients, decimals=1)
    counts = rs.resample_counts(patients, 10)
    for statistic in (
        ranking.auroc_statistic(positive, score, group, patients),
        ranking.average_precision_statistic(positive, score, group),
        rs.confusion_statistic(positive.astype(int), (score > 0).astype(int), 2, group, patients, balanced_accuracy),
        rs.mean_statistic(score, group, patients),
    ):
        plain = rs.evaluate(statistic, counts, cases=300)
        assert rs.evaluate(statistic, counts, cases=300, device="cpu") == pytest.approx(plain, abs=1e-12)


@pytest.mark.gpu
def test_the_gpu_gives_the_same():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    positive, score, group = cases(patients=80, decimals=1)
    for statistic in (
        ranking.auroc_statistic(positive, score, group, 80),
        ranking.average_precision_statistic(positive, score, group),
    ):
        plain = rs.bootstrap_values(statistic, 80, 50, cases=300)
        found = rs.bootstrap_values(statistic, 80, 50, cases=300, device="cuda")
        assert found == pytest.approx(plain, abs=1e-12)


def test_pieces_give_the_same_draw_as_the_whole(monkeypatch):
    positive, score, group = cases()
    statistic = ranking.auroc_statistic(positive, score, group, 300)
    whole = rs.evaluate(statistic, rs.resample_counts(300, 40, seed=5), cases=300)
    left_out = rs.leave_one_out_values(statistic, 300, cases=300)
    monkeypatch.setattr(rs, "CHUNK", 2000)
    assert np.array_equal(rs.bootstrap_values(statistic, 300, 40, cases=300, seed=5), whole)
    assert np.array_equal(rs.leave_one_out_values(statistic, 300, cases=300), left_out)


def test_leaving_one_out_leaves_one_out():
    positive, score, group = cases(patients=12)
    found = rs.leave_one_out_values(ranking.auroc_statistic(positive, score, group, 12), 12, cases=300)
    assert found == pytest.approx(
        [roc_auc_score(positive[group != p], score[group != p]) for p in range(12)], abs=1e-12
    )


def test_any_function_of_case_weights_can_be_resampled():
    positive, score, group = cases(patients=12)
    by_hand = rs.case_statistic(lambda weights: roc_auc_score(positive, score, sample_weight=weights), group)
    counts = rs.resample_counts(12, 5)
    fast = rs.evaluate(ranking.auroc_statistic(positive, score, group, 12), counts, cases=300)
    assert rs.evaluate(by_hand, counts, cases=300) == pytest.approx(fast, abs=1e-12)


def test_counts_are_counts():
    counts = rs.resample_counts(7, 100, seed=1)
    assert counts.shape == (100, 7) and (counts.sum(axis=1) == 7).all() and not (counts % 1).any()
    assert np.array_equal(counts, rs.resample_counts(7, 100, seed=1))
    assert not np.array_equal(counts, rs.resample_counts(7, 100, seed=2))
    with pytest.raises(MedcoreError, match="patients=0"):
        rs.resample_counts(0, 10)
