"""Losses keep their precision where the network computes in bfloat16."""

import torch

from medcore.training.losses import ssim


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
