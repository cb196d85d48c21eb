"""Autoencoders: an image is squeezed through a few numbers and reconstructed from them.

    model = ConvAutoencoder(image_size=64, bottleneck=64)
    reconstruction = model(images)      # (B, C, H, W) in [0, 1] -> the same shape
    codes = model.encode(images)        # (B, Z)

- No skip connections: they would carry the image past the bottleneck, and the network would then reconstruct tumours
  that it has never seen as well as anything else. What it *cannot* reconstruct is the signal here.
- Sizes 28 to 256: each stage halves (rounding up), and the decoder returns through the very same sizes.
- The last stage doubles by sub-pixel shuffling: full resolution is where a decoder spends most of its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.models.normalise import Normalise

Size = tuple[int, int]
AE_WIDTHS = (32, 64, 128, 128, 128)


class ConvEncoder(nn.Module):
    """Stride-2 convolutions down to maps of about 4x4, then flat.

    **Shape**: (B, C, H, W) in [0, 1] -> (B, ``self.features``).
    """

    def __init__(self, size: Size, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.normalise = Normalise((0.5,) * in_channels, (0.25,) * in_channels)
        self.sizes = halvings(size, len(widths))
        pairs = pairwise((in_channels, *widths))
        self.stages = nn.Sequential(*(down_stage(a, b) for a, b in pairs))
        self.features = widths[-1] * self.sizes[-1][0] * self.sizes[-1][1]

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if images.ndim == 4 and tuple(images.shape[2:]) != self.sizes[0]:
            raise MedcoreError(
                f"images: {images.shape[2]}x{images.shape[3]} pixels, but this model was built for "
                f"{self.sizes[0][0]}x{self.sizes[0][1]}; resize the images or build another model"
            )
        return self.stages(self.normalise(images)).flatten(1)


class ConvDecoder(nn.Module):
    """The way back: a linear layer to small maps, then doubling stages through the encoder's sizes.

    **Shape**: (B, Z) -> (B, C, H, W) in [0, 1].
    """

    def __init__(self, sizes: Sequence[Size], codes: int, out_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(reversed(sizes))  # smallest first
        widths = list(reversed(widths))
        self.start = nn.Linear(codes, widths[0] * self.sizes[0][0] * self.sizes[0][1])
        self.width = widths[0]
        self.stages = nn.ModuleList(up_stage(a, b) for a, b in pairwise(widths))
        self.paint = nn.Conv2d(widths[-1], 4 * out_channels, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """See the class."""
        x = F.relu(self.start(codes)).unflatten(1, (self.width, *self.sizes[0]))
        for stage, size in zip(self.stages, self.sizes[1:], strict=False):
            x = stage(F.interpolate(x, size=size, mode="nearest"))
        height, width = self.sizes[-1]
        return F.pixel_shuffle(self.paint(x), 2)[..., :height, :width].sigmoid()


class ConvAutoencoder(nn.Module):
    """A convolutional autoencoder without skip connections.

    Args:
        image_size: side in pixels, or (height, width); 16 to 512.
        in_channels: 1 or 3 (any number works).
        bottleneck: numbers Z that describe an image; the smaller, the less of an unusual image is reconstructed.
        widths: maps per halving; None chooses from AE_WIDTHS so that about 4x4 maps remain.

    **Shape**: (B, C, H, W) in [0, 1] -> (B, C, H, W) in [0, 1].
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int = 3,
        bottleneck: int = 64,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        size, widths = checked_size(image_size), choose_widths(image_size, widths)
        check_codes("bottleneck", bottleneck)
        self.spec: dict[str, Any] = {
            "family": "conv_autoencoder",
            "args": {
                "image_size": list(size),
                "in_channels": in_channels,
                "bottleneck": bottleneck,
                "widths": list(widths),
            },
        }
        self.encoder = ConvEncoder(size, in_channels, widths)
        self.to_codes = nn.Linear(self.encoder.features, bottleneck)
        self.decoder = ConvDecoder(self.encoder.sizes, bottleneck, in_channels, widths)

    def encode(self, images: Tensor) -> Tensor:
        """**Shape**: (B, C, H, W) in [0, 1] -> (B, Z)."""
        return self.to_codes(self.encoder(images))

    def decode(self, codes: Tensor) -> Tensor:
        """**Shape**: (B, Z) -> (B, C, H, W) in [0, 1]."""
        return self.decoder(codes)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.decode(self.encode(images))


class DenseAutoencoder(nn.Module):
    """The classical baseline: fully connected, ReLU; it knows nothing of neighbouring pixels.

    Args:
        image_size: side in pixels, or (height, width); 8 to 512.
        bottleneck: numbers Z that describe a picture.
        hidden: units of the layers between picture and bottleneck.

    **Shape**: (B, C, H, W) in [0, 1] -> (B, C, H, W) in [0, 1].

    **Reference**: Hinton and Salakhutdinov 2006, doi:10.1126/science.1127647.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int = 3,
        bottleneck: int = 64,
        hidden: Sequence[int] = (512, 256),
    ) -> None:
        super().__init__()
        size = checked_size(image_size)
        check_codes("bottleneck", bottleneck)
        self.spec: dict[str, Any] = {
            "family": "dense_autoencoder",
            "args": {
                "image_size": list(size),
                "in_channels": in_channels,
                "bottleneck": bottleneck,
                "hidden": list(hidden),
            },
        }
        self.shape = (in_channels, *size)
        self.normalise = Normalise((0.5,) * in_channels, (0.25,) * in_channels)
        pixels = in_channels * size[0] * size[1]
        self.encoder = _perceptron((pixels, *hidden, bottleneck))
        self.decoder = _perceptron((bottleneck, *reversed(hidden), pixels))

    def encode(self, images: Tensor) -> Tensor:
        """**Shape**: (B, C, H, W) in [0, 1] -> (B, Z)."""
        if images.ndim == 4 and tuple(images.shape[2:]) != self.shape[1:]:
            raise MedcoreError(
                f"images: {images.shape[2]}x{images.shape[3]} pixels, but this model was built for "
                f"{self.shape[1]}x{self.shape[2]}; resize the images or build another model"
            )
        return self.encoder(self.normalise(images).flatten(1))

    def decode(self, codes: Tensor) -> Tensor:
        """**Shape**: (B, Z) -> (B, C, H, W) in [0, 1]."""
        return self.decoder(codes).sigmoid().unflatten(1, self.shape)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.decode(self.encode(images))


def down_stage(in_width: int, width: int) -> nn.Sequential:
    """Halves the side (rounding up): convolution, batch norm, leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_width, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.1)
    )


def up_stage(in_width: int, width: int) -> nn.Sequential:
    """Follows an enlargement (nearest, so that no chequerboard appears): convolution, batch norm, leaky ReLU."""
    return nn.Sequential(nn.Conv2d(in_width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.1))


def halvings(size: Size, times: int) -> list[Size]:
    """The sizes on the way down, the full one first, each the half of the last (rounded up)."""
    sizes = [size]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def checked_size(image_size: int | Sequence[int]) -> Size:
    """(height, width) of an image size; MedcoreError outside of 8 to 512 pixels."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(8 <= side <= 512 for side in size):
        raise MedcoreError(f"image_size={image_size!r}: one side or (height, width), each 8 to 512 pixels")
    return int(size[0]), int(size[1])


def choose_widths(image_size: int | Sequence[int], widths: Sequence[int] | None) -> tuple[int, ...]:
    """The maps per halving: as given, or as many of AE_WIDTHS (the last repeated) as leave maps of 3 to 4 pixels."""
    if widths is not None:
        if not widths or min(widths) < 1:
            raise MedcoreError(f"widths={widths!r}: at least one positive number of maps is needed")
        return tuple(widths)
    short, stages = min(checked_size(image_size)), 1
    while short > 4 * 2**stages and stages < 6:
        stages += 1
    return tuple(AE_WIDTHS[min(stage, len(AE_WIDTHS) - 1)] for stage in range(stages))


def check_codes(name: str, number: int) -> None:
    """Refuses a bottleneck that is no positive number."""
    if number < 1:
        raise MedcoreError(f"{name}={number}: must be at least 1")


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])  # no ReLU after the last
