"""U-Nets: every pixel gets a class.

    model = UNet("resnet18", classes=3)             # pretrained encoders: weights="imagenet" or a file
    model = SmallUNet(classes=3)                    # about a million weights, for CPUs
    logits = model.eval()(images)                   # (B, C, H, W) in [0, 1] -> (B, K, H, W), any H and W

- The encoder is a classifier's trunk; the decoder climbs back and meets the encoder's map of each scale.
- Deep supervision: in training the coarser decoder levels are judged as well, ``[full, aux1, aux2]``; the
  weights of their losses belong to the objective. In evaluation only the full map is computed.
- Padding: sides are extended to a multiple of ``stride`` at the bottom and right, by repeating the last row and
  column, and the logits are cropped again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.models.backbone import ARCHITECTURES, Backbone, OnBackbone
from medcore.models.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise

ENCODERS = tuple(name for name in ARCHITECTURES if name not in ("convnext_tiny", "small_cnn"))
DECODER_WIDTHS = (256, 128, 64, 32)
SMALL_UNET_WIDTHS = (24, 48, 96, 160)


class SegmentationModel(nn.Module, ABC):
    """What the U-Nets share: normalise, pad, encode, decode, crop.

    Attributes:
        stride: sides are padded to a multiple of this many pixels.
        classes: number of classes K.
    """

    stride: int
    classes: int
    spec: dict[str, Any]
    normalise: Normalise
    heads: nn.ModuleList
    weights_report: Any = None

    @abstractmethod
    def decoder_maps(self, images: Tensor) -> list[Tensor]:
        """Decoder maps of a normalised and padded batch, finest first. Given by each network."""

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Logits, or in training with deep supervision a list of them, the full one first.

        **Shape**: (B, C, H, W) in [0, 1] -> (B, K, H, W), each.
        """
        height, width = images.shape[-2:]
        x = pad_to_multiple(self.normalise(images), self.stride)
        maps = self.decoder_maps(x)
        used = self.heads if self.training else self.heads[:1]
        outputs = []
        for head, level in zip(used, maps, strict=False):
            logits = head(level)
            if logits.shape[-2:] != x.shape[-2:]:
                logits = F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
            outputs.append(logits[..., :height, :width])
        return outputs if len(outputs) > 1 else outputs[0]


class UNet(SegmentationModel, OnBackbone):
    """U-Net on a torchvision encoder.

    Args:
        encoder: one of ENCODERS; the design's are resnet18, resnet34 and resnet50.
        classes: number of classes K, background included, at least 2.
        deep_supervision: judge two coarser decoder levels as well while training.
        mean: normalisation per channel, in [0, 1] units; ImageNet's by default.
        stem_channels: channels that the first convolution takes; 3 with ``in_channels=1`` replicates grey images.
        frozen_batch_norm: keep the encoder's batch norm at its stored statistics also in training.

    **Shape**: (B, in_channels, H, W) in [0, 1] -> (B, K, H, W).

    **Reference**: Ronneberger et al. 2015, arXiv:1505.04597; deep supervision: Lee et al. 2015, arXiv:1409.5185.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        classes: int = 2,
        in_channels: int = 3,
        deep_supervision: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stem_channels: int | None = None,
        frozen_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise MedcoreError(f"encoder={encoder!r}: unknown; choose one of {', '.join(ENCODERS)}")
        check_classes(classes)
        stem_channels = in_channels if stem_channels is None else stem_channels
        self.normalise = make_normalise(mean, std, in_channels, stem_channels)
        args = {"encoder": encoder, "classes": classes, "in_channels": in_channels}
        args |= {"deep_supervision": deep_supervision, "stem_channels": stem_channels}
        self.spec = {"family": "unet", "args": args | statistics(self.normalise)}
        self.classes, self.stride = classes, 32
        self.backbone = Backbone(encoder, stem_channels)
        self.freeze_batch_norm(frozen_batch_norm)
        widths = self.backbone.widths
        ups = zip((widths[-1], *DECODER_WIDTHS), reversed(widths[:-1]), DECODER_WIDTHS, strict=False)
        self.decoder = nn.ModuleList(UpBlock(below, skip, width) for below, skip, width in ups)
        self.finish = double_conv(DECODER_WIDTHS[-1], 16)  # at full resolution, where there is no skip
        self.heads = make_heads((16, DECODER_WIDTHS[-2], DECODER_WIDTHS[-3]), classes, deep_supervision)

    def decoder_maps(self, images: Tensor) -> list[Tensor]:
        """See SegmentationModel; maps at full, 1/4 and 1/8 resolution."""
        *skips, x = self.backbone.pyramid(images)
        levels = []
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
            levels.append(x)
        full = self.finish(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return [full, levels[-2], levels[-3]]


class SmallUNet(SegmentationModel):
    """A U-Net of about a million weights that works at half resolution and answers at full.

    Full resolution is where a CPU spends its time: the first convolution halves the picture, and the last one makes
    four sub-pixels of each (pixel shuffle).

    Args:
        classes: number of classes K, background included, at least 2.
        widths: maps at 1/2, 1/4, … of the resolution.
        deep_supervision: judge two coarser decoder levels as well while training.
        mean: normalisation per channel, in [0, 1] units.

    **Shape**: (B, in_channels, H, W) in [0, 1] -> (B, K, H, W).
    """

    def __init__(
        self,
        classes: int = 2,
        in_channels: int = 3,
        widths: Sequence[int] = SMALL_UNET_WIDTHS,
        deep_supervision: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_classes(classes)
        if len(widths) < 3:
            raise MedcoreError(f"widths={tuple(widths)}: at least three levels are needed")
        self.normalise = make_normalise(mean, std, in_channels, in_channels)
        args = {"classes": classes, "in_channels": in_channels, "widths": list(widths)}
        args |= {"deep_supervision": deep_supervision}
        self.spec = {"family": "small_unet", "args": args | statistics(self.normalise)}
        self.classes, self.stride = classes, 2 ** len(widths)
        self.encoder = nn.ModuleList(double_conv(a, b, stride=2) for a, b in pairwise((in_channels, *widths)))
        self.decoder = nn.ModuleList(UpBlock(b, a, a) for a, b in reversed(list(pairwise(widths))))
        self.heads = make_heads(widths[: min(3, len(widths) - 1)], classes, deep_supervision)
        self.heads[0] = nn.Sequential(nn.Conv2d(widths[0], 4 * classes, 3, padding=1), nn.PixelShuffle(2))

    def decoder_maps(self, images: Tensor) -> list[Tensor]:
        """See SegmentationModel; maps at 1/2, 1/4, 1/8 … resolution."""
        maps = []
        for block in self.encoder:
            images = block(images)
            maps.append(images)
        *skips, x = maps
        levels = []
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
            levels.append(x)
        return levels[::-1]


class UpBlock(nn.Module):
    """Enlarges a map to the skip's size, joins both and mixes them by two convolutions.

    **Shape**: (B, below, h, w), (B, skip, 2h, 2w) -> (B, width, 2h, 2w).
    """

    def __init__(self, below: int, skip: int, width: int) -> None:
        super().__init__()
        self.mix = double_conv(below + skip, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """See the class."""
        return self.mix(torch.cat([F.interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], dim=1))


def double_conv(in_width: int, width: int, stride: int = 1) -> nn.Sequential:
    """Two times 3x3 convolution, batch norm, ReLU; the first one may shrink the map."""
    layers: list[nn.Module] = []
    for a, step in ((in_width, stride), (width, 1)):
        layers += [nn.Conv2d(a, width, 3, step, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Extends the bottom and right to a multiple by repeating the last row and column."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


def make_heads(widths: Sequence[int], classes: int, deep_supervision: bool) -> nn.ModuleList:
    """One 1x1 convolution to logits per judged decoder level; only the finest without deep supervision."""
    used = widths if deep_supervision else widths[:1]
    return nn.ModuleList(nn.Conv2d(width, classes, 1) for width in used)


def make_normalise(
    mean: Sequence[float] | None, std: Sequence[float] | None, in_channels: int, stem_channels: int
) -> Normalise:
    """The first layer, with ImageNet's statistics (their mean for other channel counts) where none are given."""
    default = [
        tuple(rgb) if stem_channels == 3 else (sum(rgb) / 3,) * stem_channels for rgb in (IMAGENET_MEAN, IMAGENET_STD)
    ]
    return Normalise(default[0] if mean is None else mean, default[1] if std is None else std, in_channels)


def statistics(layer: Normalise) -> dict[str, list[float]]:
    """Mean and std of a Normalise layer as plain JSON."""
    return {name: np.array(values, np.float32).tolist() for name, values in layer.given.items()}


def check_classes(classes: int) -> None:
    """Refuses fewer than two classes."""
    if classes < 2:
        raise MedcoreError(f"classes={classes}: at least 2 are needed, background included")


def build_unet(
    encoder: str,
    classes: int,
    *,
    in_channels: int = 3,
    weights: str | PathLike[str] | None = None,
    deep_supervision: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SegmentationModel:
    """Makes a U-Net, with a random or pretrained encoder.

    Args:
        encoder: ``"small"`` for SmallUNet, or one of ENCODERS.
        classes: number of classes K, background included, at least 2.
        weights: None, ``"imagenet"``, or a file; as in ``build_classifier``, for the encoder.
        deep_supervision: judge two coarser decoder levels as well while training.
        mean: normalisation per channel, in [0, 1] units; ImageNet's by default.

    Raises:
        MedcoreError: a bad argument, or weights that cannot be had or do not fit.
    """
    if encoder == "small":
        if weights is not None:
            raise MedcoreError(f"weights={str(weights)!r}: the small U-Net has no pretrained ones; pass weights=None")
        return SmallUNet(classes, in_channels, deep_supervision=deep_supervision, mean=mean, std=std)
    stem_channels = 3 if weights is not None and in_channels == 1 else in_channels
    model = UNet(encoder, classes, in_channels, deep_supervision, mean, std, stem_channels)
    if weights is not None:
        from medcore.models.weights import load_encoder

        model.weights_report = load_encoder(model, weights)
    return model
