"""Objectives whose answer is an image: reconstruction, the bound of a VAE, and a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.metrics.confusion import accuracy, confusion_counts, mean_of_defined, ratio
from medcore.metrics.overlap import dice, iou
from medcore.models.vae import kl_divergence
from medcore.training import losses
from medcore.training.batches import Batch
from medcore.training.objectives.base import Objective, class_names, one_of


@dataclass
class Reconstruction(Objective):
    """The image itself is the target (autoencoders).

    Args:
        loss: ``mse``, ``l1``, ``ssim`` (1 − SSIM) or ``mixed`` (0.84 × (1 − SSIM) + 0.16 × l1).
    """

    loss: str = "mse"

    task: ClassVar[str] = "reconstruction"
    parts: ClassVar[tuple[str, ...]] = ("loss", "mse")

    def __post_init__(self) -> None:
        """Refuse an unknown distance."""
        one_of("Reconstruction", "loss", self.loss, losses.DISTANCES)

    def compute(self, output: Tensor, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Distance and squared error. **Shape** output ``(B, C, H, W)``."""
        mse = losses.reconstruction_error("mse", output, batch.images).mean()
        if self.loss == "mse":
            return {"loss": mse, "mse": mse}
        return {"loss": losses.reconstruction_error(self.loss, output, batch.images).mean(), "mse": mse.detach()}


class GaussianOutput(Protocol):
    """What a variational autoencoder returns."""

    reconstruction: Tensor  # (B, C, H, W) in [0, 1]
    mean: Tensor  # (B, Z)
    log_variance: Tensor  # (B, Z)


@dataclass
class ELBO(Objective):
    """Negative evidence lower bound of a variational autoencoder, per image and divided by its number of pixels.

    ``loss = (error + beta(epoch) × KL) / (C·H·W)``, where ``error`` is a sum over pixels and channels, so that
    ``beta=1`` with ``mse`` is the bound of a Gaussian decoder with variance 1/2. ``val_elbo`` always uses the full
    ``beta`` and picks the best epoch: while beta still rises, losses of two epochs cannot be compared.

    Args:
        beta: Weight of the KL term.
        warmup_epochs: Epochs over which beta rises linearly from 0.
        loss: ``mse``, ``l1``, ``ssim`` or ``mixed``, times the number of pixels and channels.
        free_bits: KL per latent dimension below which nothing is gained, nats.

    **Reference** Kingma and Welling 2014, arXiv:1312.6114; beta: Higgins et al. 2017 (ICLR); warm-up: Bowman et al.
    2016, arXiv:1511.06349; free bits: Kingma et al. 2016, arXiv:1606.04934.
    """

    beta: float = 1.0
    warmup_epochs: float = 0.0
    loss: str = "mse"
    free_bits: float = 0.0

    task: ClassVar[str] = "vae"
    monitor: ClassVar[str] = "val_elbo"
    parts: ClassVar[tuple[str, ...]] = ("loss", "elbo", "reconstruction", "kl")

    def __post_init__(self) -> None:
        """Refuse what cannot be a bound."""
        one_of("ELBO", "loss", self.loss, losses.DISTANCES)
        for name in ("beta", "warmup_epochs", "free_bits"):
            if not getattr(self, name) >= 0:
                raise MedcoreError(f"ELBO({name}={getattr(self, name)!r}): must be at least 0")

    def beta_at(self, epoch: float) -> float:
        """Weight of the KL term in an epoch, counted from 1."""
        return self.beta * min(1.0, epoch / (self.warmup_epochs + 1)) if self.warmup_epochs else self.beta

    def compute(self, output: GaussianOutput, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The bound and its two parts; ``reconstruction`` and ``kl`` are per image, ``kl`` in nats."""
        pixels = batch.images[0].numel()
        error = losses.reconstruction_error(self.loss, output.reconstruction, batch.images) * pixels
        kl = kl_divergence(output.mean, output.log_variance)  # (B, Z)
        paid = kl.mean(0).clamp_min(self.free_bits).sum() if self.free_bits else kl.sum(1).mean()
        error, kl = error.mean(), kl.sum(1).mean()
        return {
            "loss": (error + self.beta_at(epoch) * paid) / pixels,
            "elbo": ((error + self.beta * kl) / pixels).detach(),
            "reconstruction": error.detach(),
            "kl": kl.detach(),
        }


@dataclass
class Segmentation(Objective):
    """One class per pixel: a mixture of losses on one output or, with deep supervision, on several.

    Args:
        classes: Class names, background first, or how many there are.
        loss: ``ce``, ``dice``, ``focal``, or some of them joined by ``+``, which are added up.
        class_weights: None, ``"balanced"`` (by pixels), or one weight per class; for ``ce`` and ``focal``.
        aux_weights: Weight of each further output of a deeply supervised network; by default 1/2, 1/4, …
        ignore_index: Mask value of pixels that do not count.
        focal_gamma: Exponent of the focal loss.

    **Reference** deep supervision: Lee et al. 2015, arXiv:1409.5185.
    """

    classes: Sequence[str] | int
    loss: str = "ce+dice"
    class_weights: losses.Weights = None
    aux_weights: Sequence[float] | None = None
    ignore_index: int = 255
    focal_gamma: float = 2.0

    task: ClassVar[str] = "segmentation"
    monitor: ClassVar[str] = "val_dice"
    mode: ClassVar[str] = "max"

    def __post_init__(self) -> None:
        """Refuse what cannot be a segmentation."""
        self.classes = class_names(self.classes)
        if len(self.classes) < 2:
            raise MedcoreError(f"Segmentation(classes={self.classes}): needs at least 2 classes, background first")
        for word in self.loss.split("+"):
            one_of("Segmentation", "loss", word, ("ce", "dice", "focal"))
        self._weights: Tensor | None = None

    def begin(self, train: PatchSet, device: torch.device) -> None:
        """Refuse a set without masks or with other classes, and weigh the classes by their pixels."""
        names = list(self.classes)  # type: ignore[arg-type]
        counts = losses.mask_counts(train, self.ignore_index)
        strange = np.flatnonzero(counts[len(names) :]) + len(names)
        if len(strange):
            raise MedcoreError(
                f"train: masks hold the value {strange[0]}, but there are {len(names)} classes ({', '.join(names)}) "
                f"and {self.ignore_index} for ignored pixels"
            )
        weights = losses.class_weights(self.class_weights, counts[: len(names)], names)
        self._weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)

    def compute(self, output: Tensor | list[Tensor], batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The mixture. **Shape** output ``(B, K, H, W)`` logits, or a list of such."""
        outputs = [output] if isinstance(output, Tensor) else list(output)
        further = self.aux_weights if self.aux_weights is not None else [0.5**n for n in range(1, len(outputs))]
        if len(further) < len(outputs) - 1:
            raise MedcoreError(f"Segmentation(aux_weights={further}): the model has {len(outputs) - 1} further outputs")
        weights = [1.0, *further][: len(outputs)]
        target, valid = losses.one_hot_pixels(_masks_of(batch), len(self.classes), self.ignore_index)  # type: ignore
        terms = [weight * self._mixture(logits, target, valid) for weight, logits in zip(weights, outputs, strict=True)]
        return {"loss": torch.stack(terms).sum() / sum(weights)}

    def _mixture(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        words, per_image = self.loss.split("+"), []
        if "ce" in words:
            per_image.append(losses.pixel_cross_entropy(logits, target, valid, self._weights))
        if "focal" in words:
            per_image.append(losses.pixel_cross_entropy(logits, target, valid, self._weights, self.focal_gamma))
        if "dice" in words:
            per_image.append(losses.dice_loss(logits, target, valid))
        return torch.stack(per_image).sum(0).mean()

    def sums(self) -> dict[str, tuple[int, ...]]:
        """Pixel confusion, and per class: sum of the images' Dice, and the images where it is defined."""
        count = len(self.classes)  # type: ignore[arg-type]
        return {"confusion": (count, count), "dice": (2, count)}

    def count(self, sums: dict[str, Tensor], output: Tensor | list[Tensor], batch: Batch) -> None:
        """See the base class."""
        logits = output if isinstance(output, Tensor) else output[0]
        truth, predicted, classes = _masks_of(batch), logits.argmax(1), logits.shape[1]
        counts = confusion_counts(truth.flatten(1), predicted.flatten(1), classes)  # (B, K, K)
        sums["confusion"] += counts.sum(0)
        of_image = dice(counts.float())
        sums["dice"] += torch.stack([of_image.nan_to_num().sum(0), of_image.isfinite().sum(0)])

    def metrics(self, sums: dict[str, np.ndarray], samples: float) -> dict[str, float]:
        """Dice (mean over images, then over the classes but the background), IoU of all pixels, pixel accuracy."""
        confusion, (total, images) = sums["confusion"], sums["dice"]
        return {
            "dice": mean_of_defined(ratio(total, images)[1:]),
            "iou": mean_of_defined(iou(confusion)[1:]),
            "pixel_accuracy": float(accuracy(confusion)),
        }

    def tables(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The confusion matrix of pixels, truth down. **Shape** ``(K, K)``."""
        return {"confusion": sums["confusion"].astype(np.int64)}


def _masks_of(batch: Batch) -> Tensor:
    if batch.masks is None:
        raise MedcoreError("Segmentation needs masks; this set has none")
    return batch.masks
