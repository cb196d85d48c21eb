"""Folded batch norm: the same answers from every network, and a predictor that really uses it."""

import pytest
import torch
from torch import nn

from medcore.errors import MedcoreError
from medcore.models.backbone import batch_norms, fold_batch_norm
from medcore.models.classifier import CLASSIFIER_NAMES, build_classifier


def with_history(name: str) -> nn.Module:
    """A network whose batch norms have statistics, scales and shifts of their own, as after training."""
    torch.manual_seed(0)
    model = build_classifier(name, 3, image_size=64).eval()
    for layer in batch_norms(model):
        nn.init.normal_(layer.running_mean, 0, 0.2)
        nn.init.uniform_(layer.running_var, 0.5, 2)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias, 0, 0.2)
    return model


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
@torch.no_grad()
def test_every_network_says_the_same(name: str) -> None:
    model = with_history(name)
    images = torch.rand(2, 3, 64, 64)
    expected, layers = model(images), len(batch_norms(model))
    folded = fold_batch_norm(model)
    assert len(batch_norms(model)) == layers - folded
    assert (folded == 0) == (name == "convnext_tiny")  # which normalises layers
    assert torch.allclose(model(images), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert fold_batch_norm(model) == 0


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(MedcoreError, match="eval"):
        fold_batch_norm(build_classifier("small_cnn", 2).train())
