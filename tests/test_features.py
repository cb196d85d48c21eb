"""Features are computed once: the numbers of a plain loop, then out of the store; an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training_toys import toy_set

from medcore.errors import MedcoreError
from medcore.evaluation import features as room
from medcore.evaluation.features import features
from medcore.models.classifier import Classifier, build_classifier


@pytest.fixture
def encoder() -> Classifier:
    torch.manual_seed(0)
    return build_classifier("small_cnn", 2, image_size=8)


def plain_loop(encoder: Classifier) -> np.ndarray:
    images = torch.from_numpy(toy_set().take()).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return encoder.eval().features(images).numpy()


def test_values_are_those_of_a_plain_loop_and_come_back_from_the_store(encoder: Classifier, tmp_path: Path) -> None:
    first = features(toy_set(), encoder, batch_size=7, home=tmp_path)
    np.testing.assert_allclose(first.values, plain_loop(encoder), atol=1e-5)
    assert isinstance(first.values, np.memmap) and first.reused == 0

    def never(images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1:  # one image tells the width
            raise AssertionError("computed again")
        return Classifier.features(encoder, images)

    encoder.features = never  # type: ignore[method-assign]
    second = features(toy_set(), encoder, home=tmp_path)
    assert second.reused == 60 and second.path == first.path and np.array_equal(second.values, first.values)


def test_another_set_weight_precision_or_level_has_a_store_of_its_own(encoder: Classifier, tmp_path: Path) -> None:
    stores = [features(toy_set(), encoder, home=tmp_path).path]
    stores.append(features(toy_set().select(np.arange(20)), encoder, home=tmp_path).path)
    torch.manual_seed(0)
    stores.append(features(toy_set(), build_classifier("small_cnn", 2, image_size=8, levels=True), home=tmp_path).path)
    stores.append(features(toy_set(), encoder, home=tmp_path, precision="bf16").path)
    encoder.head.weight.data += 1  # changes no feature
    assert features(toy_set(), encoder, home=tmp_path).path == stores[0]
    encoder.backbone.stem.weight.data += 1
    stores.append(features(toy_set(), encoder, home=tmp_path).path)
    assert len(set(stores)) == len(stores)


def test_an_interrupted_run_goes_on(encoder: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = features(toy_set(), encoder, batch_size=8, home=tmp_path / "whole").values
    monkeypatch.setattr(room, "AT_ONCE", 16)
    real, batches = encoder.features, []

    def breaks(images: torch.Tensor) -> torch.Tensor:
        batches.append(len(images))
        if len(batches) == 6:
            raise KeyboardInterrupt
        return real(images)

    encoder.features = breaks  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        features(toy_set(), encoder, batch_size=8, home=tmp_path)
    encoder.features = real  # type: ignore[method-assign]
    store = features(toy_set(), encoder, batch_size=8, home=tmp_path)
    assert store.reused == 32 and np.array_equal(store.values, expected)


def test_what_cannot_be_is_refused(encoder: Classifier, tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="no images"):
        features(toy_set().select(np.arange(0)), encoder, home=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcoreError, match="file"):
        features(toy_set(), encoder, home=tmp_path / "file" / "store")
