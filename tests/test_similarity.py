"""Structural similarity and PSNR against scikit-image; precision under autocast."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medcore.metrics.similarity import psnr, ssim, ssim_map
from medcore.training.losses import reconstruction_error


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(4, 3, 40, 36, generator=generator)
    return first, (first + 0.2 * torch.randn(4, 3, 40, 36, generator=generator)).clamp(0, 1)


def test_the_map_is_scikit_images_away_from_the_border(pair) -> None:
    found = ssim_map(*pair).numpy()
    for row, (a, b) in enumerate(zip(*(side.double().numpy() for side in pair), strict=True)):
        _, expected = structural_similarity(
            a, b, channel_axis=0, data_range=1.0, full=True, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        assert np.abs(found[row] - expected.mean(0))[5:-5, 5:-5].max() < 1e-5


def test_score_map_and_loss_are_one_similarity(pair) -> None:
    torch.testing.assert_close(ssim(*pair), ssim_map(*pair).mean((1, 2)))
    torch.testing.assert_close(reconstruction_error("ssim", *pair), 1 - ssim(*pair))
    assert torch.allclose(ssim(pair[0], pair[0]), torch.ones(4))


def test_psnr_is_scikit_images(pair) -> None:
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0) for a, b in zip(*pair, strict=True)]
    assert psnr(*pair).numpy() == pytest.approx(expected, rel=1e-5)
    assert psnr(pair[0], pair[0]).tolist() == [100.0] * 4


def test_ssim_is_the_same_under_autocast_and_finite_on_flat_images() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = 0.8 + 0.004 * torch.rand(8, 3, 32, 32, generator=generator)  # nearly no variance: cancellation at its worst
    other = (flat + 0.002 * torch.rand(8, 3, 32, 32, generator=generator)).requires_grad_(True)
    plain = ssim(flat, other)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = ssim(flat, other)
    assert torch.equal(plain, lowered)
    lowered.sum().backward()
    assert other.grad is not None and other.grad.isfinite().all()
    assert (plain <= 1).all() and (plain > 0).all()
