"""Features of a study are computed once, and what is said from them is what ``predict`` says."""

import numpy as np
import pytest
import torch
from training_toys import toy_set

from medcore.evaluation.features import Familiarity
from medcore.evaluation.predict import predict, stream
from medcore.models.classifier import Classifier
from medcore.studies.classification.study import ClassificationStudy


@pytest.fixture
def study() -> ClassificationStudy:
    return ClassificationStudy(toy_set())


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of every pass through a trunk, in order."""
    seen: list[int] = []
    real = Classifier.features

    def counted(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return real(self, images)

    monkeypatch.setattr(Classifier, "features", counted)
    return seen


def test_answers_at_every_temperature_are_those_of_predict(study: ClassificationStudy) -> None:
    network = study.build("small_cnn")
    for part in (study.validation, study.test):
        for temperature in (1.0, 0.7, 2.3):
            expected = predict(network, part, temperature=temperature)
            assert np.array_equal(study.score(network, part, temperature=temperature).score.astype("f4"), expected)
    known = Familiarity.learn(
        network, study.train, study.validation, lambda part: study.encoded.features(network, part)
    )
    assert known == Familiarity.learn(network, study.train, study.validation)


def test_images_pass_through_the_trunk_once_until_the_network_learns(
    study: ClassificationStudy, passes: list[int]
) -> None:
    network = study.build("small_cnn")
    for temperature in (1.0, 2.0, 1.0):
        study.score(network, study.test, temperature=temperature)
    assert passes == [len(study.test)]
    before = study.score(network, study.test).score
    with torch.no_grad():
        network.head.bias[0] += 1  # another head sees the same features
    assert not np.allclose(study.score(network, study.test).score, before)
    assert passes == [len(study.test)]
    with torch.no_grad():
        for weight in network.backbone.parameters():
            weight += 0.1
    assert np.array_equal(study.score(network, study.test).score.astype("f4"), predict(network, study.test))
    assert passes == [len(study.test)] * 3
    study.score(network, study.validation)
    assert passes[3:] == [len(study.validation)]


def test_features_that_are_known_are_taken_and_leave_the_network_ready(
    study: ClassificationStudy, passes: list[int]
) -> None:
    network = study.build("small_cnn").train()
    everything = stream(network.eval().features, study.patches, model=network)
    network.train()
    passes.clear()
    study.encoded.give(
        network, study.patches, lambda part: everything[np.searchsorted(study.patches.index, part.index)]
    )
    said = study.score(network, study.test).score
    assert not passes and not network.training
    assert np.allclose(said, predict(network, study.test), atol=1e-6)
    others = toy_set(seed=5).where(split="test")  # rows of equal numbers, but other images
    assert np.array_equal(study.score(network, others).score.astype("f4"), predict(network, others))
    assert passes
