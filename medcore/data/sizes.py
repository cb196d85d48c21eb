"""How images of any size become images of one size: five named policies.

    resize  the whole image, scaled; its aspect ratio changes with it
    fit     the whole image, scaled with its aspect ratio kept, padded at the bottom or right
    crop    the centre, unscaled (the pixel size stays true); smaller images are refused
    pad     the whole image, unscaled, padded at the bottom and right; larger images are refused
    tile    every part, unscaled, cut into tiles; the last row and column shift inwards, so nothing is lost

Padding is white in images and 255 (ignore) in masks. Masks are scaled by nearest neighbour, images with antialiasing.

A set at another size: all images and masks scaled by one factor, in constant memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from medcore.data.patchset import PatchSet, PatchSetWriter
from medcore.errors import MedcoreError

if TYPE_CHECKING:
    from torch import Tensor

Policy = Literal["resize", "fit", "crop", "pad", "tile"]
Filter = Literal["nearest", "bilinear", "bicubic"]
POLICIES: tuple[str, ...] = get_args(Policy)
IGNORE = 255  # mask value that no loss and no metric looks at
WHITE = 255
DEFAULT_SIZE = 224  # pixels; what "resize", "fit" and "tile" take when sizes differ and none is given
Piece = tuple[np.ndarray, np.ndarray | None, dict[str, Any]]  # pixels, mask, further columns


def target_size(sizes: np.ndarray, policy: str, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that all images get.

    Args:
        sizes: Heights and widths of the sources in pixels. **Shape** ``(N, 2)``.
        size: What the user asked for: a side, (height, width), or None to keep one common size, else the largest
            (pad), the smallest (crop) or 224 (resize, fit, tile).

    Raises:
        MedcoreError: Unknown policy or impossible size.
    """
    if policy not in POLICIES:
        raise MedcoreError(f"policy {policy!r} is not known; choose one of {', '.join(POLICIES)}")
    if size is not None:
        return parse_size(size)
    height, width = (int(side) for side in sizes[0])
    if (sizes == sizes[0]).all():
        return height, width
    if policy == "pad":
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())
    if policy == "crop":
        return int(sizes[:, 0].min()), int(sizes[:, 1].min())
    return DEFAULT_SIZE, DEFAULT_SIZE


def parse_size(size: Any) -> tuple[int, int]:
    """A side or a (height, width) as two whole numbers of at least 1."""
    pair = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    whole = all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in pair)
    if len(pair) != 2 or not whole or not all(1 <= side <= 65535 for side in pair):
        raise MedcoreError(f"size must be a number of pixels or (height, width), 1 to 65535, not {size!r}")
    return int(pair[0]), int(pair[1])


def pieces(
    pixels: np.ndarray, mask: np.ndarray | None, policy: str, size: tuple[int, int], overlap: int = 0
) -> Iterator[Piece]:
    """Apply a policy to one image (and its mask).

    Args:
        pixels: uint8. **Shape** ``(H, W, C)``.
        mask: Class indexes. **Shape** ``(H, W)``.
        size: Height and width of the result.
        overlap: Pixels that neighbouring tiles share.

    Yields:
        ``(pixels, mask, columns)``; several for ``tile``. ``height`` and ``width`` columns tell the part that is no
        padding; ``x`` and ``y`` tell where a tile lies in its image.

    Raises:
        MedcoreError: The image is too small to crop or too large to pad.
    """
    if policy == "tile":
        yield from _tiles(pixels, mask, size, overlap)
    elif pixels.shape[:2] == size:
        yield pixels, mask, {"height": size[0], "width": size[1]} if policy in ("pad", "fit") else {}
    elif policy == "resize":
        yield resize(pixels, size), None if mask is None else resize_mask(mask, size), {}
    elif policy == "fit":
        scale = min(size[0] / pixels.shape[0], size[1] / pixels.shape[1])
        inner = tuple(max(1, min(size[k], round(pixels.shape[k] * scale))) for k in (0, 1))
        yield pad(resize(pixels, inner), None if mask is None else resize_mask(mask, inner), size)
    elif policy == "crop":
        yield _crop(pixels, mask, size)
    else:
        yield pad(pixels, mask, size)


def resize(pixels: np.ndarray, size: tuple[int, ...], filter: Filter = "bilinear") -> np.ndarray:
    """Scale an image, antialiased where it becomes smaller; ``nearest`` invents no new value.

    **Shape** ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` to the same with ``size`` as height and width.
    """
    if pixels.ndim == 4:
        return np.stack([resize(image, size, filter) for image in pixels])
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    scaled = np.asarray(image.resize((size[1], size[0]), Image.Resampling[filter.upper()]))
    return scaled[..., None] if scaled.ndim < pixels.ndim else scaled


def resize_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Scale by nearest neighbour, so that no new class appears. **Shape** ``(H, W)`` to ``size``."""
    return resize(mask, size, "nearest")


def resize_maps(maps: Tensor, size: tuple[int, ...], *, antialias: bool = False, mode: str = "bilinear") -> Tensor:
    """Scale a batch of maps or float images where they are, as on a GPU. **Shape** ``(B, C, H, W)``."""
    from torch.nn import functional as F

    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if mode == "area":
        return F.interpolate(maps, size=tuple(size), mode=mode)
    return F.interpolate(maps, size=tuple(size), mode=mode, align_corners=False, antialias=antialias)


def pad(pixels: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> Piece:
    """Put the image into the top left corner of a white one of ``size``; the mask's padding is 255 (ignore)."""
    height, width = pixels.shape[:2]
    if height > size[0] or width > size[1]:
        raise MedcoreError(
            f"is {width}×{height}, larger than the padded size {size[1]}×{size[0]}; take policy 'tile' or 'resize'"
        )
    canvas = np.full((*size, pixels.shape[2]), WHITE, dtype=np.uint8)
    canvas[:height, :width] = pixels
    padded = None
    if mask is not None:
        padded = np.full(size, IGNORE, dtype=np.uint8)
        padded[:height, :width] = mask
    return canvas, padded, {"height": height, "width": width}


def _crop(pixels: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> Piece:
    height, width = pixels.shape[:2]
    if height < size[0] or width < size[1]:
        raise MedcoreError(
            f"is {width}×{height}, smaller than the crop {size[1]}×{size[0]}; take a smaller size, or policy 'pad'"
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    window = np.s_[top : top + size[0], left : left + size[1]]
    return pixels[window], None if mask is None else mask[window], {}


def _tiles(pixels: np.ndarray, mask: np.ndarray | None, size: tuple[int, int], overlap: int) -> Iterator[Piece]:
    if not 0 <= overlap < min(size):
        raise MedcoreError(
            f"overlap must be 0 to {min(size) - 1} pixels for tiles of {size[1]}×{size[0]}, not {overlap}"
        )
    for top in _starts(pixels.shape[0], size[0], overlap):
        for left in _starts(pixels.shape[1], size[1], overlap):
            window = np.s_[top : top + size[0], left : left + size[1]]
            tile, tile_mask, columns = pad(pixels[window], None if mask is None else mask[window], size)
            yield tile, tile_mask, {"x": left, "y": top, **columns}


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles begin: evenly, and the last one ends at the border."""
    last = max(0, length - side)
    return sorted({*range(0, last, side - overlap), last})


def rescaled(ps: PatchSet, factor: float, path: str | Path | None = None) -> PatchSet:
    """The same images and masks, larger or smaller.

    Args:
        ps: The set; columns ``height`` and ``width`` (the part without padding) are scaled along.
        factor: New side over old side, above 0; 1 gives the set back as it is.
        path: The ``.npz`` to write; None uses a temporary file that goes with the process.

    Raises:
        MedcoreError: The factor is not above 0.
    """
    if not factor > 0:
        raise MedcoreError(f"rescaled: factor={factor} must be above 0")
    if factor == 1:
        return ps
    height, width, channels = ps.shape
    shape = (max(1, round(height * factor)), max(1, round(width * factor)), channels)
    size_um = None if ps.card.pixel_size_um is None else ps.card.pixel_size_um / factor
    card = replace(ps.card, pixel_size_um=size_um, recipe={**ps.card.recipe, "rescaled": factor})
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="medcore-")) / f"{ps.card.name}.npz"
    table = ps.table.copy()
    for name, side in (("height", shape[0]), ("width", shape[1])):
        if name in table:
            table[name] = np.clip(np.rint(table[name].astype(float) * factor), 1, side).astype(int)
    with PatchSetWriter(Path(path), shape=shape, card=card, masks=ps.has_masks) as writer:
        for row, columns in enumerate(table.to_dict("records")):
            image = resize(ps.take([row])[0], shape[:2])[None]
            mask = resize_mask(ps.take_masks([row])[0], shape[:2])[None] if ps.has_masks else None
            writer.add(image, [{str(name): value for name, value in columns.items()}], mask)
    return PatchSet.open(path)


def factor_for(ps: PatchSet, longest: int | None) -> float:
    """The factor that brings the longer side to at most ``longest`` pixels; 1 where it is already, or for None."""
    return 1.0 if longest is None else min(1.0, longest / max(ps.shape[:2]))
