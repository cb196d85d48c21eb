"""Images with more than 8 bits a channel: their way to uint8, and deep TIFF by tifffile.

TIFF files too large for the memory: their pixels as an array that stays on the disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medcore.data.npzfile import atomic_path
from medcore.errors import MedcoreError

Kind = Literal["dicom", "tiff", "other"]
Scaled = tuple[np.ndarray, tuple[str, ...], float | None]  # pixels, conversions, highest value
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DICOM_SUFFIXES = (".dcm", ".dicom")


def kind_of(path: Path) -> Kind:
    """What decodes this file, by its first bytes (or the ending, for DICOM without preamble)."""
    with open(path, "rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM" or path.suffix.lower() in _DICOM_SUFFIXES:
        return "dicom"
    return "tiff" if start[:4] in _TIFF_MAGIC else "other"


def scale(values: np.ndarray, value_range: tuple[float, float] | None, path: Path) -> Scaled:
    """Map deep values to uint8 by one linear rule for all images.

    Args:
        values: Whole numbers or floats. **Shape** ``(H, W, C)``.
        value_range: The values that become 0 and 255; None: 0..65535 for 16-bit integers, 0..1 for floats.
        path: For messages.

    Raises:
        MedcoreError: NaN or infinite values, or a type whose range is not known.
    """
    if values.dtype == np.uint8 and value_range is None:
        return values, (), None
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise MedcoreError(f"image '{path}' holds {bad} NaN or infinite pixels; replace them before reading")
    low, high = value_range or _default_range(values, path)
    if not high > low:
        raise MedcoreError(f"value_range {value_range} must be two rising values (low, high)")
    deep = values.astype(np.float64)
    pixels = np.clip(np.rint((deep - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)
    conversions = [f"{values.dtype.name} values {low:g}..{high:g} scaled to 0..255"]
    if values.min() < low or values.max() > high:
        conversions.append(f"values outside {low:g}..{high:g} clipped")
    return pixels, tuple(conversions), None if value_range else float(values.max())


def _default_range(values: np.ndarray, path: Path) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if values.dtype == np.uint16 or (values.dtype.kind in "iu" and 0 <= low and high <= 65535):
        return 0.0, 65535.0
    if values.dtype.kind == "f" and 0 <= low and high <= 1:
        return 0.0, 1.0
    raise MedcoreError(
        f"image '{path}' holds {values.dtype.name} values from {low:g} to {high:g}, whose meaning is not known; "
        "say which values are black and white with value_range=(low, high)"
    )


def png_bits(path: Path) -> int:
    """Bits a channel of a PNG file (byte 24 of its header)."""
    with open(path, "rb") as file:
        return file.read(25)[24]


def _is_deep(page: Any) -> bool:
    return page.bitspersample > 8 and page.samplesperpixel in (1, 3, 4)


def tiff_header(path: Path) -> tuple[int, int, int] | None:
    """Height, width and channels of a TIFF with more than 8 bits a channel; None for any other."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            channels = 1 if page.samplesperpixel == 1 else 3
            return (page.imagelength, page.imagewidth, channels) if _is_deep(page) else None
    except Exception:  # broken: the caller names the file with Pillow's reason
        return None


def read_tiff(path: Path, max_pixels: int) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Values of a TIFF with more than 8 bits a channel, and conversions; None for an 8-bit TIFF.

    Pillow keeps only the high byte of 16-bit colour and reads some 12-bit files wrongly, so these go to tifffile.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        if not _is_deep(page):
            return None
        if page.imagelength * page.imagewidth > max_pixels:
            raise MedcoreError(
                f"image '{path}' has {page.imagewidth}×{page.imagelength} pixels, more than max_pixels = {max_pixels}; "
                "cut it into tiles, or raise max_pixels if you trust the file"
            )
        conversions = ("first of several pages or frames",) if len(tiff.pages) > 1 else ()
        try:
            values = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _pillow_values(path, error), conversions
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, 2)
        if int(page.photometric) == 0:  # MINISWHITE
            values, conversions = np.iinfo(values.dtype).max - values, (*conversions, "white-is-zero inverted")
        return _drop_alpha(values), conversions + (("alpha dropped",) if values.shape[-1] == 4 else ())


def _drop_alpha(values: np.ndarray) -> np.ndarray:
    values = values[..., None] if values.ndim == 2 else values
    return values[..., :3] if values.shape[-1] == 4 else values


def _pillow_values(path: Path, error: Exception) -> np.ndarray:
    """Deep grey values by Pillow, which knows LZW and others; colour would lose its low byte, so it is refused."""
    from PIL import Image

    with Image.open(path) as image:
        if not (image.mode.startswith("I") or image.mode == "F"):
            raise MedcoreError(
                f"image '{path}' is a deep colour TIFF whose compression cannot be read ({error}); save it "
                "uncompressed or with Deflate"
            )
        return np.asarray(image)[..., None]


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
        path: ``.tif`` file.
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
