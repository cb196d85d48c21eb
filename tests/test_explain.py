"""Grad-CAM against a hand case, and the randomisation check on a model that has learnt and on one that has not."""

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.evaluation.explain import grad_cam, heatmap_overlay, randomisation_check, randomised
from medcore.models.classifier import build_classifier


def bright_corner(count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Class 1 has a bright square in the upper left corner; everything else is noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(90, 130, (count, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(count) % 2
    images[labels == 1, 2:10, 2:10] = 250
    return images, labels


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2, image_size=32)
    images, labels = bright_corner(24)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), torch.from_numpy(labels)).backward()
        optimiser.step()
    return model.eval()


def test_with_a_linear_head_on_pooled_maps_the_weights_are_known(trained) -> None:
    """For pooling and a linear head the gradient is the head's weight over the area: CAM by hand (Zhou et al. 2016)."""
    images, labels = bright_corner(6)
    heat = grad_cam(trained, images, labels)
    with torch.no_grad():
        maps = trained.feature_maps(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        by_hand = torch.relu(torch.einsum("bdhw,bd->bhw", maps, trained.head.weight[torch.from_numpy(labels)]))
        by_hand = torch.nn.functional.interpolate(by_hand[:, None], size=(32, 32), mode="bilinear")[:, 0]
        top = by_hand.flatten(1).amax(1)[:, None, None]
    expected = torch.where(top > 0, by_hand / top.clamp_min(1e-12), 0).numpy()
    assert np.allclose(heat, expected, atol=1e-4)


def test_the_map_points_at_the_square(trained) -> None:
    images, labels = bright_corner()
    heat = grad_cam(trained, images[labels == 1], labels[labels == 1])
    corner, elsewhere = heat[:, :14, :14].mean(), heat[:, 18:, 18:].mean()
    assert corner > 2 * elsewhere
    assert heat.min() >= 0 and heat.max() <= 1


def test_random_weights_change_the_maps(trained) -> None:
    images, labels = bright_corner()
    correlation, after = randomisation_check(trained, images[labels == 1], labels[labels == 1])
    assert correlation < 0.7
    assert after.shape == (8, 32, 32)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    randomised(trained)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in state.items())


def test_overlay_is_a_picture_and_wrong_lengths_are_named(trained) -> None:
    images, labels = bright_corner(4)
    assert heatmap_overlay(trained, images, labels).shape == (4, 32, 32, 3)
    with pytest.raises(MedcoreError, match="3 classes for 4 images"):
        grad_cam(trained, images, labels[:3])
