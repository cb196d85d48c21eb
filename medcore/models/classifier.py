"""Image classifiers: a trunk, global average pooling, dropout, one linear layer.

    model = build_classifier("small_cnn", classes=9)
    logits = model(images)            # (B, C, H, W) in [0, 1] -> (B, K)
    features = model.features(images) # (B, D), for linear probes
    model = build_classifier("timm:tf_efficientnet_lite0", 7, weights="imagenet", side=224, levels=True)

Training with pretrained weights: ``freeze_backbone`` for the first epochs, then ``unfreeze_backbone`` with
``parameter_groups(lr)``, which gives the trunk a smaller learning rate than the new head.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.models.backbone import CLASSIFIER_NAMES, Backbone, OnBackbone
from medcore.models.encoder import PREFIX, TimmBackbone, statistics_of
from medcore.models.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise, StainNormalise
from medcore.models.weights import load_weights


class Classifier(OnBackbone):
    """A trunk with a linear head.

    Args:
        name: the trunk, one of ``CLASSIFIER_NAMES`` or ``timm:NAME``.
        classes: number of classes K, at least 2.
        dropout: share of the pooled features dropped in training, 0 to below 1.
        image_size: side of the images in pixels where known; small images get a stem that keeps resolution.
        mean: per channel, in [0, 1] units; by default what pretrained weights of the trunk expect.
        stem_channels: channels that the first convolution takes; 3 with ``in_channels=1`` replicates grey images.
        frozen_batch_norm: keep every batch norm of the trunk at its stored statistics also in training.
        side: pixels that images are brought to inside of the network; None leaves them as they are.
        levels: the head sees mean and spread of every level's maps side by side, not the last level's mean alone.
        stain: staining that each image is repainted in (``data.stain.Staining.as_list``); None leaves it.
        several: an image may show several of the classes, or none: each logit speaks for itself.
        turns: features are means over the four quarter turns of an image: of what has no up or down.
        ordered: the classes are grades, lowest first: logit k asks whether an image is above grade k, given at least k.
        scale: mean and spread of a measured value, which the one output is in units of; there is one class.

    **Shape**: (B, in_channels, H, W) in [0, 1] -> logits (B, K), of ordered classes (B, K - 1).
    """

    def __init__(
        self,
        name: str,
        classes: int,
        in_channels: int = 3,
        dropout: float = 0.0,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stem_channels: int | None = None,
        frozen_batch_norm: bool = False,
        side: int | None = None,
        levels: bool = False,
        stain: Sequence[float] | None = None,
        several: bool = False,
        turns: bool = False,
        ordered: bool = False,
        scale: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(name, classes, in_channels, dropout, scale)
        stem_channels = in_channels if stem_channels is None else stem_channels
        foreign = name.startswith(PREFIX)
        usual = statistics_of(name) if foreign else (IMAGENET_MEAN, IMAGENET_STD)
        mean = _per_channel(usual[0], stem_channels) if mean is None else tuple(mean)
        std = _per_channel(usual[1], stem_channels) if std is None else tuple(std)
        self.spec: dict[str, Any] = {
            "family": "classifier",
            "args": {
                "name": name,
                "classes": classes,
                "in_channels": in_channels,
                "dropout": dropout,
                "image_size": image_size,
                "mean": list(mean),
                "std": list(std),
                "stem_channels": stem_channels,
                "frozen_batch_norm": frozen_batch_norm,
                "side": side,
                "levels": levels,
                "stain": None if stain is None else list(stain),
                "several": several,
                "turns": turns,
                "ordered": ordered,
                "scale": None if scale is None else list(scale),
            },
        }
        self.side, self.levels, self.several, self.ordered = side, levels, several, ordered
        self.scale = None if scale is None else (float(scale[0]), float(scale[1]))
        self.turns = turns
        self.repaint = nn.Identity() if stain is None else StainNormalise(stain)
        self.normalise = Normalise(mean, std, in_channels)
        self.backbone = (TimmBackbone if foreign else Backbone)(name, stem_channels, side or image_size)
        width = self.backbone.width
        # ConvNeXt normalises after pooling; the others have done so inside the trunk
        self.norm = nn.LayerNorm(width, eps=1e-6) if name == "convnext_tiny" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * sum(self.backbone.widths) if levels else width, classes - ordered)
        self.freeze_batch_norm(frozen_batch_norm)

    def arranged(self, images: Tensor) -> Tensor:
        """Images as the trunk takes them: repainted where there is a ``stain``, resized to a ``side``, normalised."""
        images = self.repaint(images)
        if self.side is not None and images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return self.normalise(images)

    def feature_maps(self, images: Tensor) -> Tensor:
        """The trunk's last maps. **Shape**: (B, C, H, W) in [0, 1] -> (B, D, h, w)."""
        return self.pyramid(images)[-1] if self.levels else self.backbone(self.arranged(images))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The trunk's maps at every scale, finest first. **Shape**: (B, C, H, W) -> list of (B, D_i, h_i, w_i)."""
        return self.backbone.pyramid(self.arranged(images))

    def level_statistics(self, images: Tensor) -> Tensor:
        """Mean and spread of every level's maps. **Shape**: (B, C, H, W) -> (B, 2 (D_1 + D_2 + …))."""
        return torch.cat([mean_and_spread(maps) for maps in self.pyramid(images)], dim=1)

    def pool(self, maps: Tensor) -> Tensor:
        """Feature maps to one vector an image. **Shape**: (B, D, h, w) -> (B, D)."""
        return self.norm(self.backbone.pool(maps))

    def features(self, images: Tensor) -> Tensor:
        """What the head sees, e.g. for a linear probe. **Shape**: (B, C, H, W) in [0, 1] -> (B, D)."""
        if self.turns:
            across = images.transpose(2, 3)
            quarters = (images, across.flip(2), images.flip((2, 3)), across.flip(3))
            return torch.stack([self._features(turned) for turned in quarters]).mean(0)
        return self._features(images)

    def _features(self, images: Tensor) -> Tensor:
        return self.level_statistics(images) if self.levels else self.pool(self.feature_maps(images))

    def classify_maps(self, maps: Tensor) -> Tensor:
        """What the trunk's last maps say; Grad-CAM differentiates it. **Shape**: (B, D, h, w) -> logits (B, K).

        A head on all levels adds the levels up: the logits are then the last one's share.
        """
        if self.levels:
            found = mean_and_spread(maps)
            return F.linear(found, self.head.weight[:, -found.shape[1] :], self.head.bias)
        return self.head(self.dropout(self.pool(maps)))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.dropout(self.features(images)))

    def squash(self, logits: Tensor) -> Tensor:
        """Logits to answers ``(B, K)``: probabilities of all classes, with ``several`` each by itself; or the value."""
        if self.scale is not None:
            return logits * self.scale[1] + self.scale[0]
        if self.ordered:
            return grade_probabilities(logits)
        return logits.sigmoid() if self.several else logits.softmax(1)

    def replace_head(self, classes: int) -> None:
        """A new, random linear layer for another list of classes."""
        self.spec["args"]["classes"] = classes
        self.head = nn.Linear(self.head.in_features, classes - self.ordered).to(self.head.weight)


def grade_probabilities(logits: Tensor) -> Tensor:
    """Conditional logits "above grade k, given at least k" to probabilities. **Shape** ``(B, K - 1)`` to ``(B, K)``."""
    given = logits.float().sigmoid().unbind(1)
    above = torch.stack([*itertools.accumulate(given, torch.mul)], dim=1)  # ONNX knows no cumulative product
    return torch.cat([1 - above[:, :1], above[:, :-1] - above[:, 1:], above[:, -1:]], dim=1)


def mean_and_spread(maps: Tensor) -> Tensor:
    """Mean and standard deviation over the places of each map. **Shape**: (B, D, h, w) -> (B, 2 D)."""
    flat = maps.float().flatten(2)
    return torch.cat([flat.mean(2), (flat.var(2, unbiased=False) + 1e-8).sqrt()], dim=1)


def build_classifier(
    name: str,
    classes: int,
    *,
    in_channels: int = 3,
    weights: str | PathLike[str] | None = None,
    dropout: float = 0.0,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    side: int | None = None,
    levels: bool = False,
    stain: Sequence[float] | None = None,
    several: bool = False,
    turns: bool = False,
    ordered: bool = False,
    scale: Sequence[float] | None = None,
) -> Classifier:
    """Makes a classifier, with random or pretrained weights.

    Args:
        name: the trunk, one of ``CLASSIFIER_NAMES``, or ``timm:NAME`` for any image model of timm.
        classes: number of classes K, at least 2.
        in_channels: channels of the images. Pretrained weights take grey images by replicating them; for 2, 4 or
            more channels their first convolution is averaged over RGB and scaled to keep its output's size.
        weights: None or ``"random"`` for random weights, ``"imagenet"`` (torchvision's, downloaded with their hash
            checked, or a package's), a file ``.pth``/``.safetensors``, or a checkpoint of ours; for timm also
            ``"hub"``. Never a silent fallback.
        dropout: share of the pooled features dropped in training, 0 to below 1.
        image_size: side of the images in pixels where known; small images get a stem that keeps resolution.
        mean: normalisation per channel in [0, 1] units; by default what the weights were trained with (ImageNet's).
        side: pixels that images are brought to inside of the network; None leaves them as they are.
        levels: the head sees mean and spread of every level's maps: colours and textures beside things.
        stain: staining that each image is repainted in; see ``data.stain.typical_staining``.
        several: an image may show several of the classes, or none.
        turns: features are means over the four quarter turns of an image, at four times the cost.
        ordered: the classes are grades, lowest first.
        scale: mean and spread of a measured value, the one class.

    Returns:
        The model; ``model.weights_report`` tells what was loaded (None for random weights).

    Raises:
        MedcoreError: an unknown name, a bad argument, or weights that cannot be had or do not fit.
    """
    weights = None if weights == "random" else weights
    grey_on_rgb = weights is not None and in_channels == 1
    stem_channels = 3 if grey_on_rgb else in_channels
    model = Classifier(
        name, classes, in_channels, dropout, image_size, mean, std, stem_channels, side=side, levels=levels,
        stain=stain, several=several, turns=turns, ordered=ordered, scale=scale,
    )  # fmt: skip
    if weights is not None:
        model.weights_report = load_weights(model, weights)
    return model


def _per_channel(rgb: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(rgb) if channels == 3 else (sum(rgb) / 3,) * channels


def _check_arguments(name: str, classes: int, in_channels: int, dropout: float, scale: Sequence[float] | None) -> None:
    if name not in CLASSIFIER_NAMES and not name.startswith(PREFIX):
        raise MedcoreError(f"model={name!r}: unknown; choose one of {', '.join(CLASSIFIER_NAMES)}, or {PREFIX}NAME")
    if scale is not None and not (classes == 1 and len(scale) == 2 and scale[1] > 0):
        raise MedcoreError(f"scale={scale}: mean and spread (above 0) of one measured value, not of {classes} classes")
    if classes < 2 and scale is None:
        raise MedcoreError(f"classes={classes}: a classifier needs at least 2; check the label column")
    if in_channels < 1:
        raise MedcoreError(f"in_channels={in_channels}: must be at least 1")
    if not 0.0 <= dropout < 1.0:
        raise MedcoreError(f"dropout={dropout}: must be from 0 to below 1")


__all__ = ["CLASSIFIER_NAMES", "Classifier", "build_classifier"]
