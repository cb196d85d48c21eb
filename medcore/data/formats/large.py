"""TIFF files too large for the memory: their pixels as an array that stays on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.npzfile import atomic_path
from medcore.errors import MedcoreError

TIFF_SUFFIXES = (".tif", ".tiff")


def tiff_pixels(path: str | PathLike[str]) -> int:
    """Height times width of the first page of a TIFF; 0 for what is none."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            return int(page.imagelength * page.imagewidth)
    except Exception:  # broken: the decoder names the file with a reason
        return 0


@contextmanager
def mapped_tiff(path: str | PathLike[str], scratch: str | PathLike[str] | None = None) -> Iterator[np.ndarray]:
    """The pixels of an 8-bit grey or colour TIFF of any size, on the disk.

    Args:
        path: Stripped or tiled, uncompressed or compressed (JPEG and JPEG 2000 need the package imagecodecs).
        scratch: Folder with room for the unpacked pixels; None takes the system's.

    Yields:
        Read-only. **Shape** ``(H, W, C)`` uint8, C = 1 or 3; alpha is left out.

    Raises:
        MedcoreError: More than 8 bits a channel, another number of channels, or tiles that cannot be read.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff, tempfile.TemporaryDirectory(dir=scratch, prefix=".pixels-") as folder:
        page: Any = tiff.pages[0]
        _check(page, path)
        if page.is_memmappable:
            values: np.ndarray = tifffile.memmap(path, page=0, mode="r")
        else:
            values = _unpacked(page, Path(folder) / "pixels.npy", path)
        values = values[..., None] if values.ndim == 2 else values
        yield values[..., :3] if values.shape[2] == 4 else values


def write_tiled(path: str | PathLike[str], labels: np.ndarray, pixel_size_um: float | None = None) -> None:
    """Write class indexes as a tiled, deflated BigTIFF, whole or not at all; memory holds one tile.

    Args:
        labels: For instance memory-mapped. **Shape** ``(H, W)`` uint8.
        pixel_size_um: Side of a pixel in micrometres, put into the file as its resolution.
    """
    import tifffile

    scale: dict[str, Any] = {}
    if pixel_size_um is not None:
        scale = {"resolution": (1e4 / pixel_size_um, 1e4 / pixel_size_um), "resolutionunit": 3}  # pixels per cm
    with atomic_path(Path(path)) as temporary:
        tifffile.imwrite(
            temporary, labels, bigtiff=True, tile=(512, 512), compression="zlib", maxworkers=1, metadata=None, **scale
        )


def _check(page: Any, path: str | PathLike[str]) -> None:
    if page.dtype != np.uint8 or page.samplesperpixel not in (1, 3, 4) or page.photometric == 3 or page.imagedepth > 1:
        raise MedcoreError(
            f"image '{path}' is a large TIFF with {page.samplesperpixel} channel(s) of {page.dtype}; so large, only "
            "grey or colour with 8 bits a channel can be read: convert it first"
        )
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        raise MedcoreError(f"image '{path}' keeps its channels apart; save it with interleaved channels")
    if int(page.photometric) == 0:
        raise MedcoreError(f"image '{path}' counts white as zero; save it with black as zero")


def _unpacked(page: Any, target: Path, path: str | PathLike[str]) -> np.ndarray:
    shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
    values = np.lib.format.open_memmap(target, "w+", np.uint8, shape)
    try:
        for tile, (_, _, top, left, _), (_, tall, wide, _) in page.segments(maxworkers=1):
            place = values[top : top + tall, left : left + wide]  # the last tiles reach over the border
            place[:] = 255 if tile is None else tile[0, : place.shape[0], : place.shape[1]]  # left out: empty glass
    except Exception as error:  # a decoder raises whatever it likes
        raise MedcoreError(
            f"image '{path}' cannot be unpacked ({str(error).splitlines()[0] if str(error) else error!r}); for JPEG "
            "tiles install the extra: pip install 'medcore[slides]'"
        ) from error
    values.flush()
    return values
