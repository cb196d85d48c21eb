"""Variational autoencoder: a bottleneck of distributions, from which new pictures can be drawn.

    model = VAE(image_size=64)                      # 120 latent dimensions
    output = model(images)                          # reconstruction, mean, log_variance
    kl = kl_divergence(output.mean, output.log_variance).sum(1)      # (B,) nats
    new = model.sample(16, torch.Generator().manual_seed(0))

In training the code is drawn by the reparameterisation trick; in evaluation it is the mean, so that a reconstruction
is the same every time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.models.autoencoder import ConvDecoder, ConvEncoder, check_codes, checked_size, choose_widths

LOG_VARIANCE_LIMIT = 10.0  # e^10: far outside of what training reaches, so exp() can never overflow


class VAEOutput(NamedTuple):
    """What a VAE says about a batch.

    Attributes:
        reconstruction: (B, C, H, W) in [0, 1].
        mean: (B, Z) of the posterior.
        log_variance: (B, Z) of the posterior.
    """

    reconstruction: Tensor
    mean: Tensor
    log_variance: Tensor


class VAE(nn.Module):
    """Convolutional VAE with a standard normal prior and a diagonal normal posterior.

    Args:
        image_size: side in pixels, or (height, width); 16 to 512.
        widths: maps per halving; None chooses so that about 4x4 maps remain.

    **Shape**: (B, C, H, W) in [0, 1] -> VAEOutput.

    **Reference**: Kingma and Welling 2013, arXiv:1312.6114.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int = 3,
        latent: int = 120,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        size, widths = checked_size(image_size), choose_widths(image_size, widths)
        check_codes("latent", latent)
        self.spec: dict[str, Any] = {
            "family": "vae",
            "args": {"image_size": list(size), "in_channels": in_channels, "latent": latent, "widths": list(widths)},
        }
        self.latent = latent
        self.encoder = ConvEncoder(size, in_channels, widths)
        self.to_mean = nn.Linear(self.encoder.features, latent)
        self.to_log_variance = nn.Linear(self.encoder.features, latent)
        self.decoder = ConvDecoder(self.encoder.sizes, latent, in_channels, widths)
        # the posterior starts narrow (standard deviation 0.37) whatever the picture: an early draw then still carries
        # the picture, which keeps the decoder from learning to ignore it
        nn.init.zeros_(self.to_log_variance.weight)
        nn.init.constant_(self.to_log_variance.bias, -2.0)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance. **Shape**: (B, C, H, W) in [0, 1] -> 2 x (B, Z)."""
        features = self.encoder(images)
        limit = LOG_VARIANCE_LIMIT
        # in float32 also under autocast: the KL of 120 dimensions needs the digits
        return self.to_mean(features).float(), self.to_log_variance(features).float().clamp(-limit, limit)

    def decode(self, codes: Tensor) -> Tensor:
        """**Shape**: (B, Z) -> (B, C, H, W) in [0, 1]."""
        return self.decoder(codes)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """See the class.

        Args:
            images: (B, C, H, W) in [0, 1].
            noise: (B, Z) standard normal numbers to draw the code with; by default drawn anew in training and zero in
                evaluation.
        """
        mean, log_variance = self.encode(images)
        if noise is None and self.training:
            noise = torch.randn_like(mean)
        codes = mean if noise is None else reparameterise(mean, log_variance, noise)
        return VAEOutput(self.decode(codes), mean, log_variance)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """New pictures from the prior. **Shape**: -> (n, C, H, W) in [0, 1]."""
        device = self.to_mean.weight.device
        codes = torch.randn(n, self.latent, generator=generator, device=generator.device if generator else "cpu")
        return self.decode(codes.to(device))


def reparameterise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A draw from the posterior that gradients pass through. **Shape**: 3 x (B, Z) -> (B, Z)."""
    return mean + (0.5 * log_variance).exp() * noise


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, exp(log_variance)) from N(0, 1) per dimension, in nats.

    **Shape**: 2 x (B, Z) -> (B, Z), each at least 0.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def interpolate(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Codes on the great circle from one code to another, whose length changes evenly.

    A straight line through a high-dimensional normal passes nearer to the origin than any draw ever is; the arc does
    not.

    **Shape**: 2 x (Z,) -> (steps, Z), both ends included.

    **Reference**: White 2016, arXiv:1609.04468.
    """
    if steps < 2:
        raise MedcoreError(f"steps={steps}: at least 2 are needed, the two ends")
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device).unsqueeze(1)
    lengths = start.norm().clamp_min(1e-12), end.norm().clamp_min(1e-12)
    cosine = (start @ end / (lengths[0] * lengths[1])).clamp(-1, 1)
    angle = math.acos(float(cosine))
    if angle < 1e-4 or math.pi - angle < 1e-4:  # parallel: the arc is undefined, the line is right
        return start + t * (end - start)
    arc = (torch.sin((1 - t) * angle) * start / lengths[0] + torch.sin(t * angle) * end / lengths[1]) / math.sin(angle)
    return arc * (lengths[0] + t * (lengths[1] - lengths[0]))


def traverse(codes: Tensor, dimension: int, values: Sequence[float]) -> Tensor:
    """One code with one of its dimensions set to each value in turn.

    **Shape**: (Z,) -> (len(values), Z).
    """
    if not 0 <= dimension < len(codes):
        raise MedcoreError(f"dimension={dimension}: this code has dimensions 0 to {len(codes) - 1}")
    walk = codes.repeat(len(values), 1)
    walk[:, dimension] = torch.as_tensor(values, dtype=codes.dtype, device=codes.device)
    return walk


def active_units(means: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent dimensions are used: their posterior mean varies over pictures by more than ``threshold``.

    Args:
        means: (N, Z) posterior means of at least two pictures.
        threshold: variance above which a dimension counts.

    **Shape**: (N, Z) -> (Z,) bool.

    **Reference**: Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519.
    """
    if means.ndim != 2 or len(means) < 2:
        raise MedcoreError(f"means: shape {tuple(means.shape)}, but (N, Z) with at least two pictures is needed")
    return means.var(dim=0) > threshold
