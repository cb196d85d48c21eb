"""Grad-CAM against autograd by hand and CAM, where it must look, and the randomisation check."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.evaluation.explain import grad_cam, randomisation_check
from medcore.models.classifier import build_classifier


@pytest.fixture(scope="module")
def blob_model():
    """A small CNN that learnt to tell a striped blob from a plain one."""
    torch.manual_seed(0)
    images = 0.3 * torch.rand(32, 1, 32, 32)
    labels = torch.arange(32) % 2
    rows, columns = torch.randint(2, 22, (32,)), torch.randint(2, 22, (32,))
    for image, row, column in zip(images, rows, columns, strict=True):
        image[0, row : row + 8, column : column + 8] = 1.0
    images[labels == 1, :, ::2] *= 0.3
    model = build_classifier("small_cnn", 2, in_channels=1, image_size=32)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(10):
        loss = F.cross_entropy(model.train()(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval(), images, labels


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "convnext_tiny", "densenet121"])
def test_grad_cam_by_hand(name):
    model = build_classifier(name, 3).eval()
    images = torch.rand(2, 3, 64, 64)
    found = grad_cam(model, images, target=1)
    assert found.shape == (2, 64, 64) and found.min() >= 0 and found.max() <= 1 + 1e-6
    kept = {}

    def keep(module, inputs, output):
        output.retain_grad()
        kept["maps"] = output

    handle = model.backbone.register_forward_hook(keep)
    model(images)[:, 1].sum().backward()
    handle.remove()
    maps = kept["maps"]
    cam = F.relu((maps.grad.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True))
    cam = F.interpolate(cam, size=(64, 64), mode="bilinear")[:, 0].detach()
    expected = cam / cam.flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_with_average_pooling_and_one_layer_it_is_cam():
    """Zhou et al. 2016: with global average pooling Grad-CAM is the head's weights times the maps."""
    model = build_classifier("small_cnn", 3).eval()
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        cam = F.relu(torch.einsum("d,bdhw->bhw", model.head.weight[2], model.feature_maps(images)))[:, None]
    cam = F.interpolate(cam, size=(40, 40), mode="bilinear")[:, 0]
    expected = cam / cam.flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1)
    torch.testing.assert_close(grad_cam(model, images, 2), expected, atol=1e-5, rtol=1e-4)


def test_no_target_explains_the_predicted_class_and_leaves_the_model_alone():
    model = build_classifier("small_cnn", 4).train()
    images = torch.rand(3, 3, 32, 32)
    predicted = model.eval()(images).argmax(1)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = grad_cam(model, images)
    torch.testing.assert_close(found, grad_cam(model, images, predicted))
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_works_inside_no_grad_and_with_a_frozen_backbone():
    model = build_classifier("small_cnn", 2).eval()
    images = torch.rand(1, 3, 32, 32)
    expected = grad_cam(model, images, 0)
    model.freeze_backbone()
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(model, images, 0), expected)


def test_unknown_class_is_named():
    model = build_classifier("small_cnn", 2)
    for target in (2, -1, torch.tensor([0, 5])):
        with pytest.raises(MedcoreError, match="classes 0 to 1"):
            grad_cam(model, torch.rand(2, 3, 32, 32), target)


def test_randomised_weights_change_the_map(blob_model):
    model, images, labels = blob_model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    table = randomisation_check(model, images[:16], stages=3)
    assert table.layers.tolist()[0] == 0 and table.layers.tolist()[-1] == 1 and len(table) == 4
    assert table.similarity[0] == 1.0 and table.similarity.iloc[-1] < 0.7
    assert table.similarity.between(-1, 1).all() and np.isfinite(table.to_numpy()).all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    again = randomisation_check(model, images[:16], stages=3)
    assert again.equals(table)
    other = randomisation_check(model, images[:16], stages=3, seed=1)
    assert not other.equals(table)


def test_the_check_exposes_a_map_that_ignores_the_weights(blob_model, monkeypatch):
    model, images, _ = blob_model
    from medcore.evaluation import explain

    monkeypatch.setattr(explain, "grad_cam", lambda model, images, target=None: images[:, 0])
    assert (randomisation_check(model, images[:4], stages=2).similarity > 0.999).all()
