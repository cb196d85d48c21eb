"""A small residual network that learns on a CPU in minutes.

Design: plain 3x3 convolutions (fast on CPUs; depthwise ones are not), batch norm, ReLU, stride 2 between stages, about
half a million weights. Made for patches of 28 to 256 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

SMALL_WIDTHS = (32, 64, 96, 128)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (1x1 convolution where the shape changes).

    **Shape**: (B, in_width, H, W) -> (B, width, H / stride, W / stride).

    **Reference**: He et al. 2015, arXiv:1512.03385.
    """

    def __init__(self, in_width: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_width, width, stride)
        nn.init.zeros_(self.norm2.weight)  # each block starts as its shortcut: stable from the first step

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


def _shortcut(in_width: int, width: int, stride: int) -> nn.Module:
    if in_width == width and stride == 1:
        return nn.Identity()
    layers: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
    layers += [nn.Conv2d(in_width, width, 1, bias=False), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers)


def small_trunk(in_channels: int = 3, widths: Sequence[int] = SMALL_WIDTHS, stem_stride: int = 2) -> nn.Sequential:
    """The layers of ``small_cnn`` up to its last feature maps: stem, then one stage per width.

    **Shape**: (B, in_channels, H, W) -> (B, widths[-1], H / (8 * stem_stride), W / (8 * stem_stride)).
    """
    stem = nn.Sequential(
        nn.Conv2d(in_channels, widths[0], 3, stem_stride, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
    )
    stages: list[nn.Module] = [ResidualBlock(widths[0], widths[0])]
    stages += [ResidualBlock(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(stem, *stages)
