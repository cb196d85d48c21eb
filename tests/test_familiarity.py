"""Pixel statistics against torch's own functions."""

import pytest
import torch
from torch.nn import functional as F

from medcore.evaluation.features import pixel_features


@pytest.mark.parametrize(("channels", "size"), [(3, (9, 14)), (1, (2, 5))])
def test_pixel_statistics_are_torchs(channels: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, channels, *size, generator=generator).contiguous(memory_format=torch.channels_last)
    images[0] = 0.5  # a blank image: no spread, no edges
    grey = images.mean(1, keepdim=True)
    edges = grey - F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    sharpness = edges.square().mean((1, 2, 3)).add(1e-6).log()
    expected = torch.cat([images.mean((2, 3)), images.std((2, 3)), sharpness[:, None]], 1)
    assert torch.allclose(pixel_features(images), expected, atol=1e-5)
