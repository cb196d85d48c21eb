"""Detectors on pretrained features: textbook distances, normal images only, the best on validation cases compared."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.evaluation.intervals import interval
from medcore.studies.anomaly.pretrained import DETECTORS, from_neighbours, from_the_mean
from medcore.studies.anomaly.study import AnomalyChoices, AnomalyStudy


@pytest.fixture
def normal() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(50, 4)) * [1, 5, 0.1, 2] + [3, 0, 7, -1]


def test_neighbours_are_the_five_nearest_by_brute_force(normal: np.ndarray) -> None:
    others = normal[:7] + 0.3
    scale = normal.std(0) + 1e-6
    apart = np.sqrt((((others[:, None] - normal[None]) / scale) ** 2).sum(2))
    expected = np.sort(apart, 1)[:, :5].mean(1)
    np.testing.assert_allclose(from_neighbours(normal)(others), expected)


def test_the_mahalanobis_distance_is_that_of_the_shrunk_covariance(normal: np.ndarray) -> None:
    others = normal[:7] + 0.3
    scale = normal.std(0) + 1e-6
    covariance, _ = ledoit_wolf((normal - normal.mean(0)) / scale, assume_centered=True)
    gap = (others - normal.mean(0)) / scale
    expected = np.sqrt(np.einsum("nd,de,ne->n", gap, np.linalg.inv(covariance), gap))
    np.testing.assert_allclose(from_the_mean(normal)(others), expected)


def test_a_study_compares_the_detector_that_ranks_validation_cases_best(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    label = np.arange(120) % 3 == 0
    images = rng.integers(90, 130, (120, 16, 16, 3))
    images[label, 4:12, 4:12, 0] += 90
    table = {"label": label.astype(int), "patient": np.arange(120)}
    ps = PatchSet.from_arrays(images.astype(np.uint8), table, Card("toy", classes=["well", "ill"], abnormal=["ill"]))
    study = AnomalyStudy(ps, AnomalyChoices(peer="small_cnn", peer_weights="random", peer_sides=(16, 16)))
    found = study.pretrained_table()
    assert [name.removesuffix(" on small_cnn") for name in found.index] == [*DETECTORS, "PatchCore"]
    assert {one.split for one in found["validation"]} == {"val"} and {one.split for one in found["test"]} == {"test"}
    ((name, scores),) = study.peer.items()
    values = found["validation"].map(lambda one: one.value)
    assert values[name] == values.max() and interval(scores, "auroc").value == found["test"][name].value > 0.8
    assert AnomalyStudy(ps, AnomalyChoices()).peer == {}
