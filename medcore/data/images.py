"""Decode one image file of any format to uint8, and count every conversion that this takes.

- Never silent: EXIF rotation, alpha over white, 16-bit scaling, palettes, CMYK, several pages, ... come back as
  ``conversions``, so that a report can list them.
- Never trusting: the header is checked against a pixel budget before a pixel is read; truncated files, NaN pixels
  and unknown formats are errors that name the file.
- 16-bit rule: ``value_range`` (low, high) maps to 0..255 linearly. It defaults to the full range of the type
  (0..65535), the same for every image, because a range taken from each image would erase differences between them.
- A flipped byte inside a JPEG scan decodes to plausible pixels without any error: no decoder can tell.

    python -c "from medcore.data.images import decode; print(decode('a.png'))"
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medcore.data import dicom, tiff
from medcore.errors import MedcoreError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"})
MAX_PIXELS = 64_000_000  # 8000 × 8000: above it a "small" file is more likely a decompression bomb than a patch
_EXIF_ORIENTATION = 0x0112
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # max_pixels is stricter, and an error
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_DIRECT_MODES = {
    "1": "1 bit to 0 and 255",
    "CMYK": "CMYK to RGB",
    "YCbCr": "YCbCr to RGB",
    "LAB": "Lab to RGB",
    "HSV": "HSV to RGB",
}


@dataclass(frozen=True)
class DecodeOptions:
    """How pixels that are not plain 8-bit become uint8.

    Attributes:
        value_range: The values that become 0 and 255 in files with more than 8 bits a channel; None for the full
            range of the type (16 bit: 0..65535; float: 0..1). Values outside are clipped, and counted.
        window: DICOM window (centre, width) in the units after rescaling (Hounsfield units in CT); None for the
            window in the file.
        max_pixels: Images with more pixels are refused.
        fast_jpeg: Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size when it is going to be reduced twice that much.
    """

    value_range: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS
    fast_jpeg: bool = True


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are read: size in pixels (upright) and channels (1 or 3)."""

    height: int
    width: int
    channels: int
    patient: str = ""
    pixel_size_um: float | None = None


@dataclass(frozen=True)
class Decoded:
    """An image and the conversions it took.

    Attributes:
        pixels: uint8, upright. **Shape** ``(H, W, C)``, C 1 or 3.
        conversions: What was changed, each named once.
        size: Height and width of the file in pixels, upright; larger than ``pixels`` after a reduced JPEG decode.
        highest: Highest value in a file with more than 8 bits a channel that was scaled by the default range, so that
            an unused range can be noticed; else None.
    """

    pixels: np.ndarray
    conversions: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    highest: float | None = field(default=None, compare=False)


def probe(path: str | os.PathLike[str], options: DecodeOptions | None = None) -> Header:
    """Read the header of an image file: upright size and channels, no pixels.

    Raises:
        MedcoreError: The file is missing, empty, no image, or above the pixel budget.
    """
    path, options = Path(path), options or DecodeOptions()
    _check_file(path)
    kind = tiff.kind_of(path)
    if kind == "dicom":
        height, width, channels, patient, pixel_size = dicom.dicom_header(path)
        _check_pixels(path, height, width, options)
        return Header(height, width, channels, patient, pixel_size)
    try:
        with Image.open(path) as image:
            width, height = image.size
            _check_pixels(path, height, width, options)
            # PNG: getexif() would decode the pixels to look for a late chunk
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            if exif.get(_EXIF_ORIENTATION, 1) >= 5:  # these four turn by 90 degrees
                width, height = height, width
            return Header(height, width, 1 if image.mode in _GREY_MODES else 3)
    except Exception as error:
        if (
            kind == "tiff" and (size := tiff.tiff_header(path)) is not None
        ):  # 16-bit colour and odd sample counts: Pillow gives up
            _check_pixels(path, size[0], size[1], options)
            return Header(*size)
        raise _as_medcore_error(path, error) from error


def decode(
    path: str | os.PathLike[str],
    options: DecodeOptions | None = None,
    *,
    at_least: tuple[int, int] | None = None,
) -> Decoded:
    """Decode one image file to uint8.

    Args:
        path: PNG, JPEG, TIFF (8, 16 bit, float), BMP, WebP or DICOM.
        options: Rules for deep pixels, windows and the pixel budget.
        at_least: Height and width that are needed; allows a faster reduced decode of large JPEG files.

    Returns:
        Pixels of **Shape** ``(H, W, 1)`` for grey files and ``(H, W, 3)`` for colour, with the conversions.

    Raises:
        MedcoreError: The file is missing, empty, broken, truncated, holds NaN or is above the pixel budget.
    """
    path = path if isinstance(path, Path) else Path(path)  # parsing costs a tenth of decoding a small file
    options = options or DecodeOptions()
    _check_file(path)
    kind = tiff.kind_of(path)
    try:
        if kind == "dicom":
            return _finish(*dicom.read_dicom(path, options.window, options.value_range, options.max_pixels))
        raw = tiff.read_tiff(path, options.max_pixels) if kind == "tiff" else None
        if raw is not None:  # more than 8 bits a channel
            return _finish(*tiff.scale(raw[0], options.value_range, path), more=raw[1])
        return _decode_pillow(path, options, at_least)
    except Exception as error:  # decoders raise a dozen different types on broken files
        raise _as_medcore_error(path, error) from error


def decode_mask(path: str | os.PathLike[str], options: DecodeOptions | None = None) -> np.ndarray:
    """Decode a mask without touching its values: indexes, 0/255, palette indexes, or colours.

    Returns:
        uint8 or uint16 values of **Shape** ``(H, W)``, or colours of **Shape** ``(H, W, 3)``.

    Raises:
        MedcoreError: The file is missing, broken, truncated, or a lossy JPEG (its values cannot be trusted).
    """
    path, options = Path(path), options or DecodeOptions()
    _check_file(path)
    try:
        raw = tiff.read_tiff(path, options.max_pixels) if tiff.kind_of(path) == "tiff" else None
        if raw is not None:
            return _index_mask(path, raw[0])
        with Image.open(path) as image:
            _check_pixels(path, image.size[1], image.size[0], options)
            if image.format == "JPEG":
                raise MedcoreError(f"mask '{path}' is a JPEG, whose compression changes values; save masks as PNG")
            if image.mode in ("1", "L", "P"):
                return np.asarray(image).astype(np.uint8) * (255 if image.mode == "1" else 1)
            if image.mode.startswith("I"):
                return _index_mask(path, np.asarray(image)[..., None])
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise _as_medcore_error(path, error) from error


def as_channels(decoded: Decoded, channels: int) -> Decoded:
    """Bring an image to 1 or 3 channels: grey is repeated, colour becomes luma (ITU-R 601); both are counted."""
    have = decoded.pixels.shape[2]
    if have == channels:
        return decoded
    if channels == 3:
        pixels, what = np.repeat(decoded.pixels, 3, axis=2), "grey repeated to three channels"
    else:
        pixels, what = np.asarray(Image.fromarray(decoded.pixels).convert("L"))[..., None], "colour to grey"
    return Decoded(pixels, (*decoded.conversions, what), decoded.size, decoded.highest)


def compress_jpeg(pixels: np.ndarray, quality: int, *, subsampling: int = -1) -> np.ndarray:
    """Pixels after JPEG of quality 1 to 95, colours halved as usual (-1) or not (0). **Shape** ``(H, W, 1 or 3)``."""
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer, formats=("JPEG",))).reshape(pixels.shape)


def _decode_pillow(path: Path, options: DecodeOptions, at_least: tuple[int, int] | None) -> Decoded:
    conversions: list[str] = []
    with Image.open(path) as image:
        width, height = image.size
        _check_pixels(path, height, width, options)
        if getattr(image, "n_frames", 1) > 1:
            conversions.append("first of several pages or frames")
        if image.format == "PNG" and tiff.png_bits(path) == 16 and not image.mode.startswith("I"):
            conversions.append("16-bit colour cut to its high byte")
        if at_least is not None and options.fast_jpeg and image.format == "JPEG" and image.mode in ("L", "RGB"):
            side = 2 * max(at_least)  # twice: the antialiasing filter that follows still does the last halving
            image.draft(image.mode, (side, side))
            if image.size != (width, height):
                conversions.append("JPEG decoded at reduced size")
        turn = image.getexif().get(_EXIF_ORIENTATION, 1)
        upright: Image.Image = image
        if turn in range(2, 9):
            upright = ImageOps.exif_transpose(image)
            conversions.append("EXIF rotation applied")
            height, width = (width, height) if turn >= 5 else (height, width)
        if upright.mode.startswith("I") or upright.mode == "F":
            upright.load()
            pixels, more, highest = tiff.scale(np.asarray(upright)[..., None], options.value_range, path)
            return Decoded(pixels, (*conversions, *more), (height, width), highest)
        pixels = _to_uint8(upright, conversions)
    return Decoded(pixels, tuple(conversions), (height, width))


def _to_uint8(image: Image.Image, conversions: list[str]) -> np.ndarray:
    """Pillow image of an 8-bit mode to ``(H, W, 1 or 3)``, noting what it took."""
    if image.mode == "P":
        conversions.append("palette to RGB")
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif "transparency" in image.info and image.mode in ("L", "RGB"):
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        conversions.append("alpha over white")
        grey = image.mode in ("LA", "La")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    if image.mode in _DIRECT_MODES:
        conversions.append(_DIRECT_MODES[image.mode])
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB"):
        conversions.append(f"{image.mode} to RGB")
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _finish(
    pixels: np.ndarray, conversions: tuple[str, ...], highest: float | None, more: tuple[str, ...] = ()
) -> Decoded:
    return Decoded(pixels, (*conversions, *more), (pixels.shape[0], pixels.shape[1]), highest)


def _index_mask(path: Path, values: np.ndarray) -> np.ndarray:
    if values.ndim == 3 and values.shape[2] == 3:
        raise MedcoreError(f"mask '{path}' has deep colours; save it with 8 bits a channel")
    values = values.reshape(values.shape[:2])
    if values.dtype.kind not in "iub" or values.min() < 0 or values.max() > 65535:
        raise MedcoreError(f"mask '{path}' holds {values.dtype} values; masks must hold whole numbers 0..65535")
    return values.astype(np.uint16)


def _check_file(path: Path) -> None:
    if not path.is_file():
        what = "is a folder, not an image file" if path.is_dir() else "does not exist"
        raise MedcoreError(f"image '{path}' {what}")
    if path.stat().st_size == 0:
        raise MedcoreError(f"image '{path}' is empty (0 bytes); copy it again")


def _check_pixels(path: Path, height: int, width: int, options: DecodeOptions) -> None:
    if height * width > options.max_pixels:
        raise MedcoreError(
            f"image '{path}' has {width}×{height} = {height * width / 1e6:.0f} million pixels, more than max_pixels = "
            f"{options.max_pixels / 1e6:.0f} million; cut it into tiles, or raise max_pixels if you trust the file"
        )


def _as_medcore_error(path: Path, error: Exception) -> MedcoreError:
    if isinstance(error, MedcoreError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return MedcoreError(f"image '{path}' is too large to be decoded safely ({error}); cut it into tiles")
    if isinstance(error, UnidentifiedImageError):
        return MedcoreError(
            f"image '{path}' is not an image that can be read; supported are {', '.join(sorted(SUFFIXES))}"
        )
    return MedcoreError(
        f"image '{path}' cannot be decoded ({type(error).__name__}: {error}); it is broken or truncated: copy it again"
    )
