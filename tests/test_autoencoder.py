"""Autoencoders: every size there and back, learning, rebuilding, and refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcore.errors import MedcoreError
from medcore.models import build
from medcore.models.autoencoder import ConvAutoencoder, DenseAutoencoder, choose_widths, halvings


@pytest.mark.parametrize("size", [28, 50, 64, 112, 128, 256, (40, 56)])
@pytest.mark.parametrize("channels", [1, 3])
def test_reconstruction_has_the_pictures_shape_and_range(size, channels):
    model = ConvAutoencoder(size, in_channels=channels, bottleneck=7)
    height, width = size if isinstance(size, tuple) else (size, size)
    images = torch.rand(2, channels, height, width)
    output = model(images)
    assert output.shape == images.shape and 0 <= output.min() and output.max() <= 1
    assert model.encode(images).shape == (2, 7)
    torch.testing.assert_close(model.eval()(images), model.decode(model.encode(images)))


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 130), st.integers(8, 130), st.integers(1, 4))
def test_any_size_returns_to_itself(height, width, stages):
    model = ConvAutoencoder((height, width), 1, bottleneck=2, widths=(4,) * stages).eval()
    assert model(torch.rand(1, 1, height, width)).shape == (1, 1, height, width)


def test_default_stages_leave_small_maps():
    for size in (28, 50, 64, 112, 128, 256):
        last = halvings((size, size), len(choose_widths(size, None)))[-1]
        assert 3 <= last[0] <= 4


@pytest.mark.parametrize("model_class", [ConvAutoencoder, DenseAutoencoder])
def test_rebuilds_from_its_spec(model_class):
    model = model_class(28, in_channels=1, bottleneck=5).eval()
    copy = build(model.spec).eval()
    copy.load_state_dict(model.state_dict())
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(images), copy(images))


@pytest.mark.parametrize("model_class", [ConvAutoencoder, DenseAutoencoder])
def test_learns_pictures_better_than_their_mean(model_class):
    """Discs of two positions: a code of two numbers describes them, the mean picture does not."""
    torch.manual_seed(0)
    grid = torch.arange(16.0)
    centres = torch.rand(64, 2) * 8 + 4
    squares = (grid - centres[:, :1]).square().unsqueeze(1) + (grid - centres[:, 1:]).square().unsqueeze(2)
    images = (squares < 9).float().unsqueeze(1)
    model = model_class(16, in_channels=1, bottleneck=8)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        loss = (model(images) - images).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    error = (model.eval()(images) - images).square().mean()
    assert error < 0.3 * images.var(dim=0, correction=0).mean()


def test_the_bottleneck_is_the_only_way():
    """Two pictures with the same code are painted alike: nothing passes beside it."""
    model = ConvAutoencoder(28, bottleneck=3).eval()
    torch.nn.init.zeros_(model.to_codes.weight)
    a, b = model(torch.rand(2, 3, 28, 28))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"image_size": 4}, "image_size=4"),
        ({"image_size": (64, 64, 3)}, "image_size"),
        ({"image_size": 64, "bottleneck": 0}, "bottleneck=0"),
        ({"image_size": 64, "widths": ()}, "widths"),
    ],
)
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises(MedcoreError, match=word):
        ConvAutoencoder(**arguments)


@pytest.mark.parametrize("model_class", [ConvAutoencoder, DenseAutoencoder])
def test_images_of_another_size_or_channel_count_are_named(model_class):
    model = model_class(28)
    with pytest.raises(MedcoreError, match="32x30 pixels.*28x28"):
        model(torch.rand(1, 3, 32, 30))
    with pytest.raises(MedcoreError, match=r"\(1, 1, 28, 28\)"):
        model(torch.rand(1, 1, 28, 28))
