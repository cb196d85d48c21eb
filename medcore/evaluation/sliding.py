"""Sliding window: images of any size through a network that sees one tile at a time.

    probabilities = predict_image(model, pixels, tile=256)                # (K, H, W) float32, in memory
    labels = predict_large(model, pixels, "labels.npy", tile=512)         # classes on disk, constant memory

- Tiles overlap, and each pixel's logits are averaged over its tiles with the weights of a Gaussian about the tile's
  centre: what a network says at a tile's edge, where it cannot see the neighbourhood, counts little.
- Tiles begin at multiples of the network's stride. A network that halves its maps answers differently for a picture
  moved by one pixel; moved by a whole stride it does not, so tiles agree with each other and with the whole image.
- ``margin`` pixels at a tile's inner edges can be left out altogether. With the network's receptive field as margin the
  result *is* that of the whole image, everywhere.
- Test-time turns: the mean over the flips and quarter turns of a tile.

**Reference** Isensee et al. 2021, doi:10.1038/s41592-020-01008-z (Gaussian importance weighting).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor
from tqdm.auto import tqdm

from medcore.data.npzfile import atomic_path
from medcore.data.sizes import WHITE
from medcore.errors import MedcoreError
from medcore.evaluation.predict import PIXELS_PER_BATCH, place_model
from medcore.models.unet import SegmentationModel

DIHEDRAL = 8  # flips and quarter turns of a square
CERTAIN = 20.0  # logit of the background where a tile is white
FLOOR = 1e-3  # smallest weight of a pixel, per side
ROWS = 64  # finished rows that are handed on at a time


@dataclass(frozen=True)
class Window:
    """How an image is cut.

    Attributes:
        tile: Side of a tile, pixels.
        overlap: Share of a tile that its neighbour repeats, 0 to below 1.
        turns: Variants per tile: 1 (none), 2 (left-right flip), or 8 (all flips and quarter turns).
        sigma: Standard deviation of the weights, as a share of the tile.
        margin: Pixels at a tile's edges that do not count, except at the image's own edges.
        batch_size: Tiles at a time; None chooses by the tile's size.
        device: Where to compute; None stays where the model is.
    """

    tile: int = 256
    overlap: float = 0.5
    turns: int = 1
    sigma: float = 0.125
    margin: int = 0
    batch_size: int | None = None
    precision: str = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be cut."""
        if self.tile < 8:
            raise MedcoreError(f"tile={self.tile}: must be at least 8 pixels")
        if not 0 <= self.overlap < 1:
            raise MedcoreError(f"overlap={self.overlap}: must be from 0 to below 1, a share of the tile")
        if self.turns not in (1, 2, DIHEDRAL):
            raise MedcoreError(f"turns={self.turns}: must be 1, 2 or 8")
        if not self.sigma > 0:
            raise MedcoreError(f"sigma={self.sigma}: must be above 0")
        if not 0 <= 2 * self.margin <= self.tile * self.overlap:
            raise MedcoreError(
                f"margin={self.margin}: must be from 0 to {int(self.tile * self.overlap / 2)}, half of what tiles "
                "share (overlap × tile); else some pixel would count nowhere"
            )


def predict_image(
    model: SegmentationModel, pixels: np.ndarray, window: Window | None = None, *, whole: bool = False
) -> np.ndarray:
    """Class probabilities of one image.

    Args:
        pixels: uint8. **Shape** ``(H, W, C)``.
        whole: Do not cut: the image goes through the network in one piece (``turns`` still apply).

    Returns:
        float32 that sum to 1. **Shape** ``(K, H, W)``.
    """
    window = window or Window()
    check_image(pixels, model)
    function = logits_function(model, window)
    if whole:
        logits = function(np.array(pixels)[None])[0]
    else:
        strips = blended_strips(function, pixels, window, model.classes, stride=model.stride)
        logits = np.concatenate(list(strips), axis=1)
    return softmax(logits, axis=0)


def predict_large(
    model: SegmentationModel,
    pixels: np.ndarray,
    out: str | PathLike[str],
    window: Window | None = None,
    *,
    probabilities: str | PathLike[str] | None = None,
    skip_white: bool = False,
    progress: bool = False,
) -> np.ndarray:
    """Classes of an image of any size, written strip by strip; memory holds one row of tiles.

    Args:
        pixels: uint8, for instance memory-mapped. **Shape** ``(H, W, C)``.
        out: ``.npy`` file for the classes, uint8, written whole or not at all.
        skip_white: Tiles that are white all over are the background (class 0) without being computed.
        probabilities: ``.npy`` file for the probabilities as uint8, 255 = 1, **Shape** ``(H, W, K)``; None writes none.

    Returns:
        The written classes, memory-mapped. **Shape** ``(H, W)`` uint8.
    """
    window = window or Window()
    check_image(pixels, model)
    height, width = pixels.shape[:2]
    function = logits_function(model, window)
    function = _but_white(function, model.classes) if skip_white else function
    strips = blended_strips(function, pixels, window, model.classes, stride=model.stride)
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=height, disable=not progress, unit="row", leave=False))
        labels = stack.enter_context(growing_npy(out, (height, width)))
        if probabilities is not None:
            shares = stack.enter_context(growing_npy(probabilities, (height, width, model.classes)))
        for logits in strips:
            labels.write(logits.argmax(0).astype(np.uint8).tobytes())
            if probabilities is not None:
                shares.write(np.rint(255 * softmax(logits, axis=0)).astype(np.uint8).transpose(1, 2, 0).tobytes())
            bar.update(logits.shape[1])
    return np.load(Path(out), mmap_mode="r")


def blended_strips(
    function: Callable[[np.ndarray], np.ndarray],
    pixels: np.ndarray,
    window: Window,
    classes: int,
    *,
    stride: int = 1,
    order: Callable[[int], Sequence[int]] = range,
) -> Iterator[np.ndarray]:
    """Finished rows of the blended logits, from top to bottom.

    Args:
        function: Tiles ``(B, h, w, C)`` uint8 -> logits ``(B, K, h, w)`` float32.
        pixels: **Shape** ``(H, W, C)``.
        stride: Tiles begin at multiples of this; the bottom and right are extended to one by the last row and column.
        order: From the number of tiles in a row of tiles to the order they are computed in.

    Yields:
        **Shape** ``(K, rows, W)`` float32; together H rows.
    """
    height, width = pixels.shape[:2]
    tall, wide = (min(round_up(window.tile, stride), round_up(side, stride)) for side in (height, width))
    step = max(stride, int(window.tile * (1 - window.overlap)) // stride * stride)
    columns, tops = (
        tile_starts(round_up(side, stride), tile, min(step, tile)) for side, tile in ((width, wide), (height, tall))
    )
    size = window.batch_size or max(1, PIXELS_PER_BATCH["cpu"] // (tall * wide * window.turns))
    across, down = shared_weights(columns, wide, window), shared_weights(tops, tall, window)
    total = np.zeros((classes, tall, columns[-1] + wide), np.float32)
    for top, below, rows in zip(tops, [*tops[1:], None], down, strict=True):
        sequence = list(order(len(columns)))
        for numbers in (sequence[first : first + size] for first in range(0, len(sequence), size)):
            tiles = np.stack([cut(pixels, top, columns[n], tall, wide) for n in numbers])
            for n, answer in zip(numbers, function(tiles), strict=True):
                total[:, :, columns[n] : columns[n] + wide] += answer * np.outer(rows, across[n])
        done = (height if below is None else below) - top
        for first in range(0, done, ROWS):
            yield total[:, first : min(first + ROWS, done), :width].copy()
        total[:, : tall - done] = total[:, done:].copy()  # the rows that the next tiles share move up
        total[:, max(0, tall - done) :] = 0


def cut(pixels: np.ndarray, top: int, left: int, tall: int, wide: int) -> np.ndarray:
    """A tile; beyond the image, the last row and column are repeated. **Shape** ``(tall, wide, C)``."""
    tile = np.asarray(pixels[top : top + tall, left : left + wide])
    short = (tall - tile.shape[0], wide - tile.shape[1])
    return np.pad(tile, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge") if any(short) else tile


def round_up(length: int, multiple: int) -> int:
    """The next multiple, pixels."""
    return -(-length // multiple) * multiple


def logits_function(model: SegmentationModel, window: Window) -> Callable[[np.ndarray], np.ndarray]:
    """Tiles ``(B, h, w, C)`` uint8 -> logits ``(B, K, h, w)`` float32, averaged over the window's turns."""
    place = place_model(model, window.device, window.precision)

    def answer(images: Tensor) -> Tensor:
        if window.turns == 1:
            return model(images).float()  # type: ignore[union-attr]
        variants = range(window.turns) if window.turns != 2 else (0, 4)
        turned = (place.precision.arrange(turn(images, n)) for n in variants)
        found = [turn_back(model(part).float(), n) for part, n in zip(turned, variants, strict=True)]  # type: ignore[union-attr]
        return torch.stack(found).mean(0)

    return lambda tiles: place.run(answer, tiles)


def _but_white(function: Callable[[np.ndarray], np.ndarray], classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """The same function, which is not asked about tiles that are white all over."""

    def answer(tiles: np.ndarray) -> np.ndarray:
        busy = np.array([tile.min() < WHITE for tile in tiles])
        logits = np.zeros((len(tiles), classes, *tiles.shape[1:3]), np.float32)
        logits[~busy, 0] = CERTAIN
        if busy.any():
            logits[busy] = function(tiles[busy])
        return logits

    return answer


def turn(images: Tensor, number: int) -> Tensor:
    """One of the eight symmetries of a square: turned by ``number`` quarters, from 4 on flipped first."""
    images = images.flip(-1) if number >= 4 else images
    return torch.rot90(images, number % 4, (-2, -1))


def turn_back(images: Tensor, number: int) -> Tensor:
    """Inverse of :func:`turn`."""
    images = torch.rot90(images, -(number % 4), (-2, -1))
    return images.flip(-1) if number >= 4 else images


def at_scale(function: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, factor: float) -> np.ndarray:
    """Run a function of an image at another size and bring its answer back to the original one.

    Args:
        function: uint8 ``(h, w, C)`` -> ``(K, h, w)`` float32.
        pixels: uint8. **Shape** ``(H, W, C)``.
        factor: Size for the function as a share of the original, above 0.

    Returns:
        **Shape** ``(K, H, W)`` float32, interpolated bilinearly.
    """
    from medcore.data.sizes import resize, resize_maps

    height, width = pixels.shape[:2]
    if factor == 1:
        return function(pixels)
    inner = (max(1, round(height * factor)), max(1, round(width * factor)))
    answer = torch.from_numpy(function(resize(np.ascontiguousarray(pixels), inner)))[None]
    return resize_maps(answer, (height, width))[0].numpy()


def tile_starts(length: int, tile: int, step: int) -> list[int]:
    """Where tiles begin along one side: every ``step`` pixels, the last one flush with the end.

    Args:
        length: Length of the side, pixels.
        tile: Length of a tile, pixels.
        step: Distance between tiles, pixels, at most ``tile``.
    """
    if not 0 < step <= tile:
        raise MedcoreError(f"sliding window: step={step} must be from 1 to the tile's {tile} pixels")
    if length <= tile:
        return [0]
    return [*range(0, length - tile, step), length - tile]


def edge_weights(length: int, window: Window, *, first: bool = True, last: bool = True) -> np.ndarray:
    """Weights along one side of a tile: a Gaussian about the centre, 0 in the margins of inner edges.

    Args:
        first: The tile begins where the image does.
        last: The tile ends where the image does.

    Returns:
        From ``FLOOR`` to 1, so that a pixel which one tile alone sees still has a weight. **Shape** ``(length,)``.
    """
    place = (np.arange(length) - (length - 1) / 2) / (window.sigma * length)
    weights = np.maximum(np.exp(-0.5 * place**2), FLOOR)
    if window.margin and not first:
        weights[: window.margin] = 0
    if window.margin and not last:
        weights[-window.margin :] = 0
    return weights


def shared_weights(starts: list[int], length: int, window: Window) -> list[np.ndarray]:
    """Weights along one side of every tile, as shares: at each place those of all tiles there sum to 1.

    Args:
        starts: Where tiles begin.
        length: Length of a tile, pixels.

    Returns:
        One float32 array per tile. Each of **Shape** ``(length,)``.
    """
    own = [
        edge_weights(length, window, first=n == 0, last=n == len(starts) - 1).astype(np.float64)
        for n in range(len(starts))
    ]
    mass = np.zeros(starts[-1] + length)
    for start, weights in zip(starts, own, strict=True):
        mass[start : start + length] += weights
    return [
        (weights / mass[start : start + length]).astype(np.float32) for start, weights in zip(starts, own, strict=True)
    ]


def check_image(pixels: np.ndarray, model: SegmentationModel) -> None:
    """Refuses pixels that are no uint8 image with the model's channels."""
    channels = model.spec["args"]["in_channels"]
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[2] != channels:
        raise MedcoreError(f"image must be uint8 (H, W, {channels}), not {pixels.dtype} {pixels.shape}")
    if not all(pixels.shape):
        raise MedcoreError(f"image of {pixels.shape[0]}×{pixels.shape[1]} pixels: there is nothing to segment")


@contextmanager
def growing_npy(path: str | PathLike[str], shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """A uint8 ``.npy`` file to write rows into; it appears under its name only when the block ends well."""
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        yield file
        file.flush()
