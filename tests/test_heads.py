"""Heads on features: scikit-learn's answers under an even prior, settings from training patients, a last layer."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from training_toys import toy_set

from medcore.errors import MedcoreError, TestDataRefused
from medcore.models.classifier import build_classifier
from medcore.studies.heads import LINEAR, NEIGHBOURS, PERCEPTRON, SETTINGS, fit_head


@pytest.fixture(scope="module")
def material() -> tuple:
    """Training images of three uneven classes, features that tell them apart in part, and further features."""
    rng = np.random.default_rng(0)
    train = toy_set(600, classes=3).where(split="train")
    train = train.select(np.flatnonzero((train.labels != 2) | (rng.random(len(train)) < 0.3)))
    means = rng.normal(size=(3, 12)) * 0.6
    values = (means[train.labels] + rng.normal(size=(len(train), 12))) * 5 + 30
    others = (means[rng.integers(0, 3, 80)] + rng.normal(size=(80, 12))) * 5 + 30
    return train, values.astype(np.float32), others.astype(np.float32)


def scaled(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return (values - by.mean(0)) / by.std(0)


def evened(found: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = found / np.bincount(labels)
    return found / found.sum(1, keepdims=True)


def test_a_linear_probe_is_scikit_learns(material) -> None:
    train, values, others = material
    peer = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000).fit(scaled(values, values), train.labels)
    head = fit_head(LINEAR, values, train, settings=(0.01,))
    np.testing.assert_allclose(head.probabilities(others), peer.predict_proba(scaled(others, values)), atol=2e-3)


def test_neighbours_are_scikit_learns_by_cosine_distance(material) -> None:
    train, values, others = material
    peer = KNeighborsClassifier(15, metric="cosine").fit(scaled(values, values), train.labels)
    order = peer.kneighbors(scaled(others, values))
    chord = np.sqrt(2 * order[0])  # distance of unit vectors
    votes = np.stack([((train.labels[order[1]] == k) / chord).sum(1) for k in range(3)], 1)
    expected = evened(votes / votes.sum(1, keepdims=True), train.labels)
    np.testing.assert_allclose(
        fit_head(NEIGHBOURS, values, train, settings=(15,)).probabilities(others), expected, atol=1e-4
    )


def test_a_perceptron_is_scikit_learns(material) -> None:
    train, values, others = material
    peer = MLPClassifier((64,), alpha=1.0, max_iter=20, random_state=3)
    with pytest.warns(Warning):
        peer.fit(scaled(values, values).astype(np.float32), train.labels)
    found = fit_head(PERCEPTRON, values, train, settings=(1.0,), seed=3).probabilities(others)
    expected = evened(peer.predict_proba(scaled(others, values).astype(np.float32)), train.labels)
    np.testing.assert_allclose(found, expected, atol=1e-2)


@pytest.mark.parametrize("kind", SETTINGS)
def test_class_shares_decide_only_where_asked_to(material, kind: str) -> None:
    train, values, _ = material
    noise = np.random.default_rng(1).normal(size=(300, 12)).astype(np.float32) * 5 + 30
    shares = np.bincount(train.labels) / len(train)
    setting = SETTINGS[kind][-1] if kind == NEIGHBOURS else SETTINGS[kind][0]
    evenly, as_is = (
        fit_head(kind, values, train, settings=(setting,), balanced=b).probabilities(noise).mean(0)
        for b in (True, False)
    )
    assert evenly[2] > 1.3 * as_is[2] and shares[2] < 0.2


def test_the_setting_with_the_lowest_loss_on_unseen_training_patients_is_taken(material) -> None:
    train, values, _ = material
    head = fit_head(LINEAR, values, train)
    assert set(head.losses) == set(SETTINGS[LINEAR])
    assert head.losses[head.setting] == min(head.losses.values())
    wide = np.concatenate([values, np.random.default_rng(2).normal(size=(len(values), 400))], 1)
    assert fit_head(LINEAR, wide, train).setting <= head.setting  # noise asks for a stronger penalty


@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_probe_becomes_a_networks_last_layer(classes: int) -> None:
    torch.manual_seed(0)
    train = toy_set(120, classes=classes).where(split="train")
    network = build_classifier("small_cnn", classes, image_size=8, levels=True).eval()
    images = torch.from_numpy(train.take()).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        values = network.features(images).numpy()
        head = fit_head(LINEAR, values, train, settings=(1.0,))
        head.put_into(network)
        answers = network(images).softmax(1).numpy()
    np.testing.assert_allclose(answers, head.probabilities(values), atol=1e-4)


def test_what_cannot_be_is_refused(material) -> None:
    train, values, _ = material
    with pytest.raises(MedcoreError, match="must be one of"):
        fit_head("forest", values, train)
    with pytest.raises(MedcoreError, match="one row an image"):
        fit_head(LINEAR, values[:-1], train)
    with pytest.raises(TestDataRefused):
        fit_head(LINEAR, values, train.with_split(["test"] * len(train)))
    with pytest.raises(MedcoreError, match="no last layer"):
        fit_head(NEIGHBOURS, values, train, settings=(5,)).put_into(build_classifier("small_cnn", 3))
