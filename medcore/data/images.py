"""Decode one image file of any format to uint8, and count every conversion that this takes.

- Never silent: EXIF rotation, alpha over white, 16-bit scaling, palettes, CMYK, several pages, ... come back as
  ``conversions``, so that a report can list them.
- Never trusting: the format is told by content and from a closed list (``formats.py``); the header is checked against a
  pixel budget before a pixel is read; truncated files, NaN pixels and unknown formats are errors that name the file.
- 16-bit rule: ``value_range`` (low, high) maps to 0..255 linearly. It defaults to the full range of the type
  (0..65535), the same for every image, because a range taken from each image would erase differences between them.
- A flipped byte inside a JPEG scan decodes to plausible pixels without any error: no decoder can tell.

    python -c "from medcore.data.images import decode; print(decode('a.png'))"
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medcore.data.formats import SUFFIXES, dicom, kind_of, open_picture, tiff
from medcore.data.formats.intensity import Range, scale
from medcore.data.options import DecodeOptions, chosen_slices
from medcore.errors import MedcoreError

_EXIF_ORIENTATION = 0x0112
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_DIRECT_MODES = {
    "1": "1 bit to 0 and 255",
    "CMYK": "CMYK to RGB",
    "YCbCr": "YCbCr to RGB",
    "HSV": "HSV to RGB",
    "RGBX": "a further channel of unknown meaning left out",
}


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are read: size in pixels (upright) and channels (1 or 3).

    Attributes:
        frames: Numbers of its frames or pages in the order of the geometry.
        dicom: More, of a DICOM file.
    """

    height: int
    width: int
    channels: int
    patient: str = ""
    pixel_size_um: float | None = None
    frames: tuple[int, ...] = (0,)
    dicom: dicom.DicomHeader | None = None


@dataclass(frozen=True)
class Decoded:
    """An image and the conversions it took.

    Attributes:
        pixels: uint8, upright. **Shape** ``(H, W, C)``, C 1 or 3.
        conversions: What was changed, each named once.
        size: Height and width of the file in pixels, upright; larger than ``pixels`` after a reduced JPEG decode.
        highest: Highest value in a file with more than 8 bits a channel that was scaled by the default range, so that
            an unused range can be noticed; else None.
        palette: Colours of a palette mask, by index. **Shape** ``(K, 3)``.
    """

    pixels: np.ndarray
    conversions: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    highest: float | None = field(default=None, compare=False)
    palette: np.ndarray | None = field(default=None, compare=False)


def probe(path: str | os.PathLike[str], options: DecodeOptions | None = None) -> Header:
    """Read the header of an image file: upright size and channels, no pixels.

    Raises:
        MedcoreError: The file is missing, empty, no image, or above the pixel budget.
    """
    path, options = Path(path), options or DecodeOptions()
    check_file(path)
    try:
        kind = kind_of(path)
        if kind == "DICOM":
            of_file = dicom.read_header(path, options.max_pixels)
            check_pixels(path, of_file.height, of_file.width, options)
            return Header(
                of_file.height, of_file.width, of_file.channels, of_file.patient, of_file.pixel_size_um,
                of_file.frames, of_file,
            )  # fmt: skip
        header = _probe_picture(path, kind, options)
    except Exception as error:
        raise as_medcore_error(path, error) from error
    check_pixels(path, header.height, header.width, options)
    return header


def _probe_picture(path: Path, kind: str, options: DecodeOptions) -> Header:
    try:
        with open_picture(path, kind) as image:
            if kind != "TIFF" or (tiff.is_plain(image) and options.bands is None):
                width, height = image.size
                # PNG: getexif() would decode the pixels to look for a late chunk
                exif = image.getexif() if kind not in ("PNG", "TIFF") or "exif" in image.info else {}
                if kind != "TIFF" and exif.get(_EXIF_ORIENTATION, 1) >= 5:  # these turn by 90 degrees; TIFF is turned
                    width, height = height, width
                grey = image.mode in _GREY_MODES or (kind == "PNG" and image.mode == "RGBA" and not _png_colour(path))
                channels = len(options.bands) if options.bands else 1 if grey else 3
                return Header(height, width, channels, frames=tuple(range(getattr(image, "n_frames", 1))))
    except Exception:
        if kind != "TIFF":  # 16-bit colour and odd sample counts: Pillow gives up
            raise
    layout = tiff.tiff_layout(path)
    chosen, _ = tiff.chosen_channels(layout, options.bands, path)
    return Header(*layout.upright, 1 if len(chosen) == 1 else 3, frames=tuple(range(layout.frames)))


def decode(
    path: str | os.PathLike[str],
    options: DecodeOptions | None = None,
    *,
    at_least: tuple[int, int] | None = None,
    frame: int | None = None,
    shared: tuple[str, Range] | None = None,
) -> Decoded:
    """Decode one image file to uint8.

    Args:
        path: PNG, JPEG, JPEG 2000, TIFF (8 to 32 bit, float), BMP, GIF, WebP, PPM or DICOM.
        options: Rules for deep pixels, windows, channels and the pixel budget.
        at_least: Height and width that are needed; allows a faster reduced decode of large JPEG files.
        frame: Which frame or page, counted from 0; None for the middle frame of DICOM, the first page of others.
        shared: The grey rule of a DICOM series (``readers.series.shared_greys``).

    Returns:
        Pixels of **Shape** ``(H, W, 1)`` for grey files and ``(H, W, 3)`` for colour, with the conversions.

    Raises:
        MedcoreError: The file is missing, empty, broken, truncated, holds NaN or is above the pixel budget.
    """
    path = path if isinstance(path, Path) else Path(path)  # parsing costs a tenth of decoding a small file
    options = options or DecodeOptions()
    check_file(path)
    try:
        kind = kind_of(path)
        if kind == "DICOM":
            given = options.window, options.value_range, options.max_pixels
            return _finish(*dicom.read_dicom(path, *given, frame, shared))
        return _decode_picture(path, kind, options, at_least, frame)
    except Exception as error:  # decoders raise a dozen different types on broken files
        raise as_medcore_error(path, error) from error


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


def _decode_picture(
    path: Path, kind: str, options: DecodeOptions, at_least: tuple[int, int] | None, frame: int | None
) -> Decoded:
    try:
        with open_picture(path, kind) as image:
            check_pixels(path, image.size[1], image.size[0], options)
            if kind != "TIFF" or (tiff.is_plain(image) and options.bands is None):
                return _decode_pillow(path, kind, image, options, at_least, frame)
    except UnidentifiedImageError:
        if kind != "TIFF":
            raise
    if frame is None:
        frame = 0 if options.slices is None else chosen_slices(tiff.tiff_layout(path).frames, options.slices)[0]
    return _finish(*tiff.read_tiff(path, options.max_pixels, options.bands, options.value_range, frame))


def _decode_pillow(
    path: Path, kind: str, image: Image.Image, options: DecodeOptions, at_least: tuple[int, int] | None,
    frame: int | None,
) -> Decoded:  # fmt: skip
    conversions: list[str] = []
    width, height = image.size
    count = getattr(image, "n_frames", 1)
    if count > 1:
        frame = frame if frame is not None else 0 if options.slices is None else chosen_slices(count, options.slices)[0]
        image.seek(frame)
        conversions.append(f"{'one' if frame else 'first'} of several pages or frames")
    if kind == "PNG" and not image.mode.startswith("I") and png_bits(path) == 16:
        return _decode_deep_png(path, image, options)
    if at_least is not None and options.fast_jpeg and kind == "JPEG" and image.mode in ("L", "RGB"):
        side = 2 * max(at_least)  # twice: the antialiasing filter that follows still does the last halving
        image.draft(image.mode, (side, side))
        if image.size != (width, height):
            conversions.append("JPEG decoded at reduced size")
    turn = image.getexif().get(_EXIF_ORIENTATION, 1)
    upright: Image.Image = image
    if turn in range(2, 9):
        conversions.append("EXIF rotation applied")
        if kind != "TIFF":  # Pillow turns a TIFF, and its size, by itself
            upright = ImageOps.exif_transpose(image)
            height, width = (width, height) if turn >= 5 else (height, width)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright.load()
        pixels, more, highest = scale(np.asarray(upright)[..., None], options.value_range, path)
        return Decoded(pixels, (*conversions, *more), (height, width), highest)
    pixels = _picked(_to_uint8(upright, conversions), options.bands, path, conversions)
    return Decoded(pixels, tuple(conversions), (height, width))


def _picked(pixels: np.ndarray, bands: tuple[int, ...] | None, path: Path, conversions: list[str]) -> np.ndarray:
    if bands is None:
        return pixels
    if max(bands) >= pixels.shape[2]:
        raise MedcoreError(
            f"image '{path}' has {pixels.shape[2]} channels, counted from 0; bands={list(bands)} does not fit"
        )
    conversions.append(f"channels {', '.join(map(str, bands))} of {pixels.shape[2]} taken")
    return pixels[..., list(bands)]


def _decode_deep_png(path: Path, image: Image.Image, options: DecodeOptions) -> Decoded:
    """PNG of 16 bits in several channels, of which Pillow keeps the high byte only."""
    try:
        import torch
        from torchvision.io import ImageReadMode, decode_png
    except ImportError as error:
        raise MedcoreError(
            f"image '{path}' is a PNG of 16-bit colours, which needs torchvision; save it as TIFF"
        ) from error
    turn = image.getexif().get(_EXIF_ORIENTATION, 1)
    content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    values = decode_png(content, ImageReadMode.UNCHANGED).numpy().transpose(1, 2, 0)
    colours = values.shape[2] - (values.shape[2] in (2, 4))
    pixels, notes, highest = scale(values[..., :colours], options.value_range, path)
    if values.shape[2] != colours:
        share = values[..., colours:] / 65535.0
        pixels = np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)
        notes = (*notes, "alpha over white")
    conversions = [*notes, *(["EXIF rotation applied"] if turn in range(2, 9) else [])]
    pixels = _picked(tiff.upright(pixels, turn if turn in range(2, 9) else 1), options.bands, path, conversions)
    return Decoded(np.ascontiguousarray(pixels), tuple(conversions), pixels.shape[:2], highest)


def png_bits(path: Path) -> int:
    """Bits a channel of a PNG file (byte 24 of its header)."""
    with open(path, "rb") as file:
        return file.read(25)[24]


def _png_colour(path: Path) -> bool:
    """Whether the header of a PNG says colour (byte 25)."""
    with open(path, "rb") as file:
        return bool(file.read(26)[25] & 2)


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


def check_file(path: Path) -> None:
    """Refuse what is no regular file (a pipe would wait for ever), missing or empty."""
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        raise MedcoreError(f"image '{path}' {what}")
    if path.stat().st_size == 0:
        raise MedcoreError(f"image '{path}' is empty (0 bytes); copy it again")


def check_pixels(path: Path, height: int, width: int, options: DecodeOptions) -> None:
    """Refuse more pixels than the budget."""
    if height * width > options.max_pixels:
        raise MedcoreError(
            f"image '{path}' has {width}×{height} = {height * width / 1e6:.0f} million pixels, more than max_pixels = "
            f"{options.max_pixels / 1e6:.0f} million; cut it into tiles, or raise --max-pixels if you trust the file"
        )


def as_medcore_error(path: Path, error: Exception) -> MedcoreError:
    """What a decoder raised, as a line that names the file."""
    if isinstance(error, MedcoreError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return MedcoreError(f"image '{path}' is too large to be decoded safely ({error}); cut it into tiles")
    if isinstance(error, UnidentifiedImageError):
        return MedcoreError(
            f"image '{path}' is not an image that can be read; supported are {', '.join(sorted(SUFFIXES))}"
        )
    reason = (str(error).splitlines() or [""])[0]
    return MedcoreError(
        f"image '{path}' cannot be decoded ({type(error).__name__}: {reason}); it is broken or truncated: copy it again"
    )
