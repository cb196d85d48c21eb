"""Decode a mask file: its values as they are, upright; what they mean is decided in ``masks.py`` for a whole set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medcore.data.formats import kind_of, open_picture, tiff
from medcore.data.formats.dicom import read_header, stored_values
from medcore.data.images import Decoded, as_medcore_error, check_file, check_pixels, png_bits
from medcore.data.options import DecodeOptions
from medcore.errors import MedcoreError


def decode_mask(
    path: str | os.PathLike[str], options: DecodeOptions | None = None, *, by_colour: bool = False
) -> Decoded:
    """Decode a mask without touching its values: indexes, 0/255, palette indexes, or colours; upright.

    - A palette of black and white gives 0 and 255, in whatever order it stands; any other palette gives its indexes,
      with the ``palette`` beside them, or with ``by_colour`` its colours.
    - A JPEG is read where it can only be two values with ringing: nearly every pixel near 0 or near the highest.

    Returns:
        uint8 or uint16 values of **Shape** ``(H, W)``, or colours of **Shape** ``(H, W, 3)``.

    Raises:
        MedcoreError: The file is missing, broken, truncated, or a JPEG whose values cannot be told.
    """
    path, options = Path(path), options or DecodeOptions()
    check_file(path)
    try:
        kind = kind_of(path)
        if kind == "DICOM":
            _refuse_pages(path, len(read_header(path, options.max_pixels).frames))
            return _mask(_index_mask(path, stored_values(path, options.max_pixels)))
        try:
            with open_picture(path, kind) as image:
                if kind in ("TIFF", "GIF"):
                    _refuse_pages(path, getattr(image, "n_frames", 1))
                if kind != "TIFF" or tiff.is_plain(image):
                    check_pixels(path, image.size[1], image.size[0], options)
                    return _picture_mask(path, kind, image, by_colour)
        except UnidentifiedImageError:
            if kind != "TIFF":
                raise
        values, layout = tiff.tiff_values(path, options.max_pixels)
        _refuse_pages(path, layout.frames)
        return _mask(_index_mask(path, tiff.upright(values, layout.orientation)))
    except Exception as error:
        raise as_medcore_error(path, error) from error


def _refuse_pages(path: Path, count: int) -> None:
    if count > 1:
        raise MedcoreError(
            f"mask '{path}' has {count} pages or frames; which is meant, nobody says: save each as a file (masks of "
            "several classes: a folder a class)"
        )


def _mask(values: np.ndarray, *conversions: str, palette: np.ndarray | None = None) -> Decoded:
    return Decoded(np.ascontiguousarray(values), conversions, (values.shape[0], values.shape[1]), None, palette)


def _picture_mask(path: Path, kind: str, image: Image.Image, by_colour: bool) -> Decoded:
    if kind != "TIFF":  # Pillow turns a TIFF by itself
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "P":
        return _palette_mask(image, by_colour)
    if image.mode == "1":
        return _mask(np.asarray(image).astype(np.uint8) * 255)
    if image.mode.startswith("I"):
        return _mask(_index_mask(path, np.asarray(image)[..., None]))
    grey = image.mode in ("L", "LA")
    if image.mode in ("RGBA", "LA", "PA"):
        return _seen_through(path, image)
    values = np.asarray(image.convert("L" if grey else "RGB"))
    if kind == "JPEG":
        return _mask(_without_ringing(path, values), "JPEG ringing of a mask removed")
    if grey and (bits := png_bits(path) if kind == "PNG" else 8) < 8:
        return _mask(values // (255 // (2**bits - 1)))  # Pillow has spread the 2 or 4 bits over 0..255
    return _mask(values)


def _seen_through(path: Path, image: Image.Image) -> Decoded:
    """A mask with transparency: transparent pixels are background; a mask of one colour is its transparency."""
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    values = np.array(image.convert("L" if image.mode == "LA" else "RGB"))
    levels = np.unique(alpha)
    if levels[0] == 255:
        return _mask(values)
    if len(levels[levels > 0]) > 1:
        raise MedcoreError(f"mask '{path}' is transparent by degrees; export it without transparency")
    if (values == values[:1, :1]).all():
        return _mask(np.where(alpha > 0, 255, 0).astype(np.uint8), "transparency of a mask read as the mask")
    values[alpha == 0] = 0
    return _mask(values, "transparent pixels of a mask are background")


def _palette_mask(image: Image.Image, by_colour: bool) -> Decoded:
    indexes = np.asarray(image)
    palette = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    palette = np.vstack([palette, np.zeros((256 - len(palette), 3), np.uint8)])
    used = palette[np.unique(indexes)]
    black_and_white = {tuple(colour) for colour in used.tolist()} <= {(0, 0, 0), (255, 255, 255)}
    if black_and_white and image.mode == "P" and len(used) > 0 and _has_white(palette, indexes):
        return _mask(palette[indexes][..., 0], "palette of a mask read by colour", palette=palette)
    if by_colour:
        colours = palette[indexes]
        grey = (used == used[:, :1]).all()
        return _mask(colours[..., 0] if grey else colours, "palette of a mask read by colour", palette=palette)
    return _mask(indexes.copy(), palette=palette)


def _has_white(palette: np.ndarray, indexes: np.ndarray) -> bool:
    """Whether black and white are the whole palette of a mask, not the end of a longer one."""
    first_two = {tuple(colour) for colour in palette[:2].tolist()}
    return bool(first_two == {(0, 0, 0), (255, 255, 255)} and indexes.max(initial=0) <= 1)


def _without_ringing(path: Path, values: np.ndarray) -> np.ndarray:
    """0 and 255 from a grey JPEG mask of two values, also where it was saved in three channels."""
    grey = values if values.ndim == 2 else values.max(axis=2)
    high = int(grey.max(initial=0))
    share = grey.astype(np.float64) / max(high, 1)
    between = np.mean((share > 0.25) & (share < 0.75))
    colours = values.ndim == 3 and np.ptp(values.astype(int), axis=2).max(initial=0) > 32
    if high < 192 or colours or between > 0.03:
        raise MedcoreError(
            f"mask '{path}' is a JPEG, whose compression changed its values ({between:.0%} lie between black and "
            "white); export it as PNG"
        )
    return np.where(share >= 0.5, 255, 0).astype(np.uint8)


def _index_mask(path: Path, values: np.ndarray) -> np.ndarray:
    if values.ndim == 3 and values.shape[2] == 3:
        raise MedcoreError(f"mask '{path}' has deep colours; save it with 8 bits a channel")
    values = values.reshape(values.shape[:2])
    if values.dtype.kind == "f" and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iub" or values.min() < 0 or values.max() > 65535:
        raise MedcoreError(f"mask '{path}' holds {values.dtype} values; masks must hold whole numbers 0..65535")
    return values.astype(np.uint16)
