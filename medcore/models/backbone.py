"""The trunks that classifiers, U-Nets and patch features stand on: torchvision's networks without their heads.

The layers keep torchvision's names, so that its weights load key by key. ``taps`` are the layers after which the
picture has shrunk to 1/2, 1/4, 1/8, 1/16 and 1/32: skip connections and patch features are taken there.

Batch norm folded into the convolutions before it: the same answers from fewer layers, for prediction only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medcore.errors import MedcoreError
from medcore.models.small_cnn import SMALL_WIDTHS, small_trunk


@dataclass(frozen=True)
class Architecture:
    """Facts of one trunk.

    Attributes:
        taps: index of the trunk's layer after which each scale is complete, finest first.
        widths: channels at each tap.
        prefix: what torchvision writes before the trunk's keys in a state dict.
    """

    taps: tuple[int, ...]
    widths: tuple[int, ...]
    prefix: str = "features."


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture((2, 4, 5, 6, 7), (64, 64, 128, 256, 512), prefix=""),
    "resnet34": Architecture((2, 4, 5, 6, 7), (64, 64, 128, 256, 512), prefix=""),
    "resnet50": Architecture((2, 4, 5, 6, 7), (64, 256, 512, 1024, 2048), prefix=""),
    "densenet121": Architecture((2, 4, 6, 8, 12), (64, 256, 512, 1024, 1024)),
    "efficientnet_b0": Architecture((1, 2, 3, 5, 8), (16, 24, 40, 112, 1280)),
    "efficientnet_b3": Architecture((1, 2, 3, 5, 8), (24, 32, 48, 136, 1536)),
    "mobilenet_v2": Architecture((1, 3, 6, 13, 18), (16, 24, 32, 96, 1280)),
    "convnext_tiny": Architecture((1, 3, 5, 7), (96, 192, 384, 768)),
    "small_cnn": Architecture((1, 2, 3, 4), SMALL_WIDTHS, prefix=""),
}
CLASSIFIER_NAMES = tuple(name for name in ARCHITECTURES if name != "resnet34")


class Backbone(nn.Sequential):
    """A trunk whose intermediate maps can be had as well.

    Args:
        in_channels: channels of the (normalised) input.
        image_size: side of the images in pixels, where known. Below 96 the stem keeps twice the resolution, below
            48 four times (as far as the trunk has that much to give): 28 pixels would otherwise end as one.

    **Shape**: (B, in_channels, H, W) -> (B, widths[-1], H / 32, W / 32) for a full-size stem.
    """

    def __init__(self, name: str, in_channels: int = 3, image_size: int | None = None) -> None:
        if name not in ARCHITECTURES:
            raise MedcoreError(f"model {name!r}: unknown; choose one of {', '.join(ARCHITECTURES)}")
        trunk = small_trunk(in_channels) if name == "small_cnn" else _torchvision_trunk(name)
        super().__init__(OrderedDict(trunk.named_children()))
        self.name, self.architecture = name, ARCHITECTURES[name]
        if in_channels != self.stem.in_channels:
            _widen_stem(self, in_channels)
        if image_size is not None:
            _keep_resolution(self, image_size)
        self.frozen = False
        self.frozen_batch_norm = False

    def train(self, mode: bool = True) -> Self:
        """Like any module's ``train``, but what is frozen stays in evaluation mode."""
        super().train(mode and not self.frozen)
        if self.frozen_batch_norm:
            for layer in batch_norms(self):
                layer.eval()
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each map of ``pyramid``, finest first."""
        return self.architecture.widths

    @property
    def width(self) -> int:
        """Length of the pooled vector."""
        return self.widths[-1]

    @property
    def stem(self) -> nn.Conv2d:
        """The first convolution."""
        return next(layer for layer in self.modules() if isinstance(layer, nn.Conv2d))

    def pool(self, maps: Tensor) -> Tensor:
        """One vector an image. **Shape**: (B, D, h, w) -> (B, D)."""
        return maps.mean(dim=(2, 3))

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The maps at every tap, finest first.

        **Shape**: (B, C, H, W) -> list of (B, widths[i], H / 2^(i+1), W / 2^(i+1)), rounded up.
        """
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self.architecture.taps:
                maps.append(x)
        return maps


class OnBackbone(nn.Module):
    """What every model with a (possibly pretrained) trunk offers for fine-tuning.

    Attributes:
        spec: what ``medcore.models.build`` needs.
        weights_report: what pretrained weights were loaded, None for random ones.
    """

    backbone: Any
    spec: dict[str, Any]
    weights_report: Any = None

    def freeze_backbone(self) -> None:
        """Trains the rest alone from here on; batch norm and stochastic depth of the trunk stay in evaluation mode."""
        self._set_backbone(frozen=True)

    def unfreeze_backbone(self) -> None:
        """Trains everything from here on (batch norm as ``freeze_batch_norm`` says)."""
        self._set_backbone(frozen=False)

    def _set_backbone(self, frozen: bool) -> None:
        self.backbone.frozen = frozen
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(not frozen)
        self.backbone.train(self.training)

    def freeze_batch_norm(self, frozen: bool = True) -> None:
        """Keeps (or no longer keeps) the trunk's batch norm at its stored statistics in training; part of ``spec``."""
        self.spec["args"]["frozen_batch_norm"] = frozen
        self.backbone.frozen_batch_norm = frozen
        self.backbone.train(self.training)

    def parameter_groups(self, lr: float, backbone_factor: float = 0.1) -> list[dict[str, Any]]:
        """Optimiser groups with discriminative learning rates (Howard and Ruder 2018, arXiv:1801.06146).

        Args:
            lr: learning rate of everything but the trunk.
            backbone_factor: learning rate of the trunk as a share of ``lr``; 1 treats all alike.

        Returns:
            Two groups, ``backbone`` and ``head``, with the keys ``name``, ``params`` and ``lr``.
        """
        trunk = list(self.backbone.parameters())
        known = {id(parameter) for parameter in trunk}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [
            {"name": "backbone", "params": trunk, "lr": lr * backbone_factor},
            {"name": "head", "params": rest, "lr": lr},
        ]


def _torchvision_trunk(name: str) -> nn.Sequential:
    import torchvision  # takes seconds, which models of our own need not wait for

    network = getattr(torchvision.models, name)()
    if name.startswith("resnet"):
        layers = {key: layer for key, layer in network.named_children() if key not in ("avgpool", "fc")}
        trunk = nn.Sequential()
        for key, layer in layers.items():
            trunk.add_module(key, layer)
        return trunk
    if name.startswith("densenet"):
        network.features.add_module("relu5", nn.ReLU())  # torchvision applies it outside of `features`
    return network.features


def _widen_stem(trunk: Backbone, in_channels: int) -> None:
    old = trunk.stem
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    parent, key = next(
        (module, key) for module in trunk.modules() for key, child in module.named_children() if child is old
    )
    setattr(parent, key, new)


def _keep_resolution(trunk: Backbone, image_size: int) -> None:
    """Takes away up to two of the stem's halvings; the weights keep their shape, so pretrained ones still load."""
    halvings = 2 if image_size < 48 else 1 if image_size < 96 else 0
    if trunk.name == "small_cnn":
        halvings -= 1  # it is made for small images: 48 to 95 pixels are what its own stride suits
    for layer in list(trunk.modules()):
        while halvings > 0 and isinstance(layer, (nn.Conv2d, nn.MaxPool2d)) and _stride(layer) > 1:
            half = _stride(layer) // 2
            layer.stride = (half, half)
            halvings -= 1


def _stride(layer: nn.Conv2d | nn.MaxPool2d) -> int:
    return layer.stride if isinstance(layer.stride, int) else layer.stride[0]


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch-norm layers below ``module``."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


def fold_batch_norm(model: nn.Module) -> int:
    """Fold every batch norm that follows a convolution of the same parent: for prediction, not for training on.

    Args:
        model: changed in place; in evaluation mode. In all networks of ours, a batch norm that is listed behind a
            convolution also takes that convolution's output, and nothing else does.

    Returns:
        How many layers were folded.

    Raises:
        MedcoreError: The model is in training mode, in which batch norm is no fixed function.
    """
    if model.training:
        raise MedcoreError("fold_batch_norm: the model is in training mode; call model.eval() first")
    folded = 0
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (name, layer), (next_name, after) in zip(children, children[1:], strict=False):
            if isinstance(layer, nn.Conv2d) and type(after) is nn.BatchNorm2d:  # timm's kinds of it also activate
                setattr(parent, name, fuse_conv_bn_eval(layer, after))
                setattr(parent, next_name, nn.Identity())
                folded += 1
    return folded
