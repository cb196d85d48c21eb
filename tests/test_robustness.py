"""Corruptions do what they say, severity 0 is untouched, and the table speaks of the same images throughout."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.intervals import interval
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Scores
from medcore.models.classifier import build_classifier
from medcore.studies.classification import robustness


def pink(count: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(np.array([200, 120, 180]) + rng.normal(0, 12, (count, 32, 32, 3)), 0, 255).astype(np.uint8)


def test_each_corruption_grows_with_severity() -> None:
    images = pink()
    for name, (change, settings, _) in robustness.CORRUPTIONS.items():
        distance = [np.abs(change(images, s).astype(float) - images).mean() for s in settings]
        assert all(a < b for a, b in zip(distance, distance[1:], strict=False)), (name, distance)


def test_hand_cases() -> None:
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    assert (robustness.dim(grey, 0.6) == 60).all()
    assert (robustness.blur(grey, 2.0) == 100).all()
    red = np.zeros((1, 2, 2, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    assert robustness.hue(red, 120)[0, 0, 0].argmax() == 1  # a third of the circle turns red into green
    buffer = io.BytesIO()
    Image.fromarray(pink(1)[0]).save(buffer, "JPEG", quality=25)
    assert np.array_equal(robustness.jpeg(pink(1), 25)[0], np.asarray(Image.open(buffer)))
    assert np.abs(robustness.stain_shift(pink(1), 1.0).astype(int) - pink(1)).max() <= 2


def test_the_table_starts_at_the_plain_result() -> None:
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2, image_size=32)
    table = {"label": np.arange(20) % 2, "patient": np.arange(20) % 7, "split": ["test"] * 20}
    ps = PatchSet.from_arrays(pink(20), table, Card("toy", classes=["a", "b"]))
    found = robustness.robustness_table(model, ps, names=["blur", "hue"])
    plain = interval(Scores.from_set(ps, predict(model, ps)), "balanced_accuracy")
    assert (found.loc[found.severity == 0, "value"] == plain.value).all()
    assert len(found) == 10 and (found.n == 20).all()
    with pytest.raises(MedcoreError, match="'fog'"):
        robustness.robustness_table(model, ps, names=["fog"])
