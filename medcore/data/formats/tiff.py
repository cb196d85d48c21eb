"""TIFF beyond plain 8-bit grey and colour: deep, signed and float values, channels as pages, stacks, odd photometrics.

Pillow keeps only the high byte of 16-bit colour, reads signed bytes as unsigned and knows no channels beside colour
and alpha, so such files go to tifffile; plain 8-bit files stay with Pillow, whose decoders are more.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.formats import open_picture
from medcore.data.formats.intensity import Range, check_finite, scale
from medcore.errors import MedcoreError

BITS, ORIENTATION, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 274, 338, 339
_WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _JPEG = 0, 2, 3, 5, 6, 7
_READ = (_WHITE_IS_ZERO, 1, _RGB, _PALETTE, _CMYK)
_DEFLATE = (8, 32946)


@dataclass(frozen=True)
class Layout:
    """What a TIFF holds: size as stored, values a pixel, planes, and the tags that say what they mean.

    Attributes:
        channels: Samples of a page, or pages of one plane (ImageJ and OME channels).
        frames: Planes along depth, time or plain pages.
        bits: Bits a sample.
        alpha: Extra sample tag of the last sample: 1 premultiplied, 2 straight, 0 unknown, -1 none.
        palette: Colours by index. **Shape** ``(K, 3)`` uint8.
        further: There are pages of another size, which are left out.
    """

    height: int
    width: int
    channels: int
    frames: int
    bits: int
    photometric: int
    orientation: int
    alpha: int
    palette: np.ndarray | None = None
    further: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width after the orientation tag."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def is_plain(image: Any) -> bool:
    """Whether Pillow reads this opened TIFF rightly: 1 to 8 unsigned bits, upright, one page, straight alpha or none.

    A turned uncompressed grey file comes out garbled, and a second channel of unknown meaning as alpha.
    """
    known = image.mode in ("1", "L", "P", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
    formats, bits = (np.atleast_1d(image.tag_v2.get(tag, 1)) for tag in (SAMPLE_FORMAT, BITS))
    extra = tuple(np.atleast_1d(image.tag_v2.get(EXTRA_SAMPLES, ())).tolist())
    upright = image.tag_v2.get(ORIENTATION, 1) not in range(2, 9)
    simple = known and upright and extra in ((), (2,)) and getattr(image, "n_frames", 1) == 1
    return bool(simple and (formats == 1).all() and bits.max() <= 8)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels turned and mirrored as EXIF and TIFF number it, 1 to 8. **Shape** ``(H, W, ...)``."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    rows, columns = (-1 if orientation in group else 1 for group in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return pixels[::rows, ::columns]


def tiff_layout(path: Path) -> Layout:
    """The layout of a TIFF, from its tags alone."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        return _layout(tiff, path)


def _layout(tiff: Any, path: Path) -> Layout:
    page = tiff.pages[0]
    axes, shape = page.axes, page.shape
    if len(tiff.pages) > 1 and tiff.series:
        series = tiff.series[0]
        page, axes, shape = series.keyframe, series.axes, series.shape
    decoded_as_rgb = page.photometric == _YCBCR and page.compression == _JPEG
    if page.photometric not in _READ and not decoded_as_rgb:
        raise MedcoreError(
            f"image '{path}' is a TIFF of {page.photometric.name} values, which is not read; save as RGB"
        )
    sizes = dict(zip(axes, shape, strict=True))
    if page.imagedepth > 1 or not {"Y", "X"} <= set(sizes):
        raise MedcoreError(f"image '{path}' is a TIFF with axes {axes} of {shape}; save each plane as a file")
    samples, channels = sizes.pop("S", 1), sizes.pop("C", 1)
    height, width = sizes.pop("Y"), sizes.pop("X")
    if samples > 1 and channels > 1:
        raise MedcoreError(f"image '{path}' has {channels} channels of {samples} samples each; save them as files")
    extra = page.extrasamples[-1] if page.extrasamples else -1
    return Layout(
        height, width, samples * channels, int(np.prod(list(sizes.values()), dtype=np.int64)),
        int(page.bitspersample), int(page.photometric), _orientation(page), int(extra) if samples > 1 else -1,
        (page.colormap >> 8).astype(np.uint8).T if page.photometric == _PALETTE and page.colormap is not None else None,
        further=len(tiff.pages) > 1 and len(tiff.series) > 1,
    )  # fmt: skip


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    value = int(tag.value) if tag is not None else 1
    return value if 1 <= value <= 8 else 1


def chosen_channels(layout: Layout, bands: tuple[int, ...] | None, path: Path) -> tuple[tuple[int, ...], int | None]:
    """Which channels become grey (1) or colour (3; 4 for CMYK), and which is alpha.

    Raises:
        MedcoreError: The file does not say, and the user does not either (``bands``).
    """
    have, colour = layout.channels, layout.channels - (layout.alpha >= 0)
    if bands is not None:
        if not all(0 <= band < have for band in bands):
            raise MedcoreError(f"image '{path}' has {have} channels, counted from 0; bands={list(bands)} does not fit")
        return bands, None
    alpha = have - 1 if layout.alpha in (1, 2) else None
    if layout.palette is not None and have == 1:
        return (0, 0, 0), None
    if layout.photometric == _CMYK and colour == 4:
        return (0, 1, 2, 3), alpha
    if layout.photometric == _RGB and colour >= 3 and have <= 4:
        return (0, 1, 2), alpha
    if colour == 1 and (have == 1 or alpha is not None):
        return (0,), alpha
    if have == 3 and layout.alpha <= 0:
        return (0, 1, 2), None
    raise MedcoreError(
        f"image '{path}' has {have} channels, and the file does not say which are colours; choose with --bands 0 (one, "
        "for grey) or --bands 0,1,2 (for red, green and blue; in Python bands=[0, 1, 2])"
    )


def read_tiff(
    path: Path, max_pixels: int, bands: tuple[int, ...] | None, value_range: Range | None, frame: int
) -> tuple[np.ndarray, tuple[str, ...], float | None]:
    """uint8 pixels of one plane, upright. **Shape** ``(H, W, 1 or 3)``; conversions; the highest unscaled value."""
    values, layout = tiff_values(path, max_pixels, frame)
    chosen, alpha = chosen_channels(layout, bands, path)
    check_finite(values, path)
    notes = []
    if layout.frames > 1 or layout.further:
        notes.append("first of several pages or frames" if frame == 0 else "one of several pages or frames")
    bits = min(16, layout.bits)
    picked = values[..., list(chosen)]
    if layout.palette is not None:
        picked, bits = layout.palette[values[..., 0]], 8
        notes.append("palette to RGB")
    pixels, scaled, highest = scale(picked, value_range, path, bits)
    if layout.photometric == _WHITE_IS_ZERO:
        pixels, notes = 255 - pixels, [*notes, "white-is-zero inverted"]
    if len(chosen) == 4:
        black = 255 - pixels[..., 3:].astype(np.float64)
        pixels = np.rint((255 - pixels[..., :3]) * black / 255).astype(np.uint8)
        notes.append("CMYK to RGB")
    if alpha is not None:
        share = values[..., alpha : alpha + 1] / (1.0 if values.dtype.kind == "f" else 2.0**bits - 1)
        light = pixels.astype(np.float64) * (1 if layout.alpha == 1 else share)
        pixels = np.clip(np.rint(light + 255 * (1 - share)), 0, 255).astype(np.uint8)
        notes.append("alpha over white")
    notes += _channel_notes(layout, bands)
    if layout.orientation > 1:
        notes.append("TIFF orientation applied")
    return np.ascontiguousarray(upright(pixels, layout.orientation)), (*scaled, *notes), highest


def _channel_notes(layout: Layout, bands: tuple[int, ...] | None) -> list[str]:
    if bands is not None:
        return [f"channels {', '.join(map(str, bands))} of {layout.channels} taken"]
    if layout.alpha == 0 and layout.channels > 3:
        return ["a further channel of unknown meaning left out"]
    three = layout.palette is None and layout.channels == 3 and layout.photometric != _RGB
    return ["three channels taken as red, green, blue"] if three else []


def tiff_values(path: Path, max_pixels: int, frame: int = 0) -> tuple[np.ndarray, Layout]:
    """The values of one plane as stored, not turned. **Shape** ``(H, W, C)``.

    Raises:
        MedcoreError: Above the pixel budget, no such plane, or a compression that cannot be read.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        layout = _layout(tiff, path)
        page = tiff.pages[0] if len(tiff.pages) == 1 else tiff.series[0].keyframe
        count, item_bytes = layout.height * layout.width, np.dtype(page.dtype).itemsize
        if count > max_pixels or count * layout.channels * item_bytes > 16 * max_pixels:
            raise MedcoreError(
                f"image '{path}' has {layout.width}×{layout.height} pixels of {layout.channels} {page.dtype}, above "
                f"max_pixels = {max_pixels}; cut it into tiles, or raise --max-pixels if you trust the file"
            )
        if not 0 <= frame < layout.frames:
            raise MedcoreError(f"image '{path}' has {layout.frames} planes, counted from 0; there is no {frame}")
        if len(tiff.pages) == 1:
            values = _page_values(tiff, page, path, 0)
        else:
            values = _plane(tiff, layout, frame, path)
    values = values.astype(np.uint8) if values.dtype == bool else values
    return (values[..., None] if values.ndim == 2 else values), layout


def _plane(tiff: Any, layout: Layout, frame: int, path: Path) -> np.ndarray:
    """One plane of a series, whose pages run along its leading axes."""
    series = tiff.series[0]
    leading = {axis: size for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXS"}
    others = [axis for axis in leading if axis != "C"]
    place = dict(zip(others, np.unravel_index(frame, [leading[a] for a in others] or [1]), strict=False))
    numbers = [
        int(np.ravel_multi_index([channel if a == "C" else int(place[a]) for a in leading], list(leading.values())))
        if leading
        else 0
        for channel in range(leading.get("C", 1))
    ]
    if len(series.pages) == int(np.prod(list(leading.values()), dtype=np.int64)):
        pages = [series.pages[number] for number in numbers]
        if all(page is not None for page in pages):
            parts = [_page_values(tiff, page, path, page.index) for page in pages]
            return parts[0] if len(parts) == 1 else np.stack(parts, axis=-1)
    if series.size * series.dtype.itemsize > 1 << 30:
        raise MedcoreError(f"image '{path}' keeps {layout.frames} planes in one block; save each plane as a file")
    whole = series.asarray().reshape(-1, layout.height, layout.width)  # ImageJ keeps large stacks in one block
    return np.moveaxis(whole[numbers], 0, -1)


def _page_values(tiff: Any, page: Any, path: Path, number: int) -> np.ndarray:
    if page.keyframe.bitspersample % 8 and page.keyframe.bitspersample > 8:
        return _packed(tiff, page, path)
    try:
        values = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return _pillow_values(path, page, number, error)
    separate = page.keyframe.planarconfig == 2 and values.ndim == 3
    return np.moveaxis(values, 0, 2) if separate else values


def _packed(tiff: Any, page: Any, path: Path) -> np.ndarray:
    """Values of 9 to 15 bits that lie bit by bit, in strips, uncompressed or deflated."""
    frame = page.keyframe
    if frame.compression not in (1, *_DEFLATE) or frame.predictor != 1 or frame.is_tiled or frame.planarconfig == 2:
        raise MedcoreError(f"image '{path}' packs {frame.bitspersample} bits in a way that is not read; save 16 bits")
    bits, across = frame.bitspersample, frame.imagewidth * frame.samplesperpixel
    row_bytes = (across * bits + 7) // 8
    rows: list[np.ndarray] = []
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        data = tiff.filehandle.read(min(count, frame.imagelength * row_bytes + 1024))
        if frame.compression in _DEFLATE:
            data = zlib.decompressobj().decompress(data, frame.imagelength * row_bytes)
        strip = np.frombuffer(data, np.uint8)[: len(data) // row_bytes * row_bytes].reshape(-1, row_bytes)
        order = "little" if frame.fillorder == 2 else "big"
        ones = np.unpackbits(strip, axis=1, bitorder=order)[:, : across * bits].reshape(-1, across, bits)  # type: ignore[call-overload]
        rows.append(ones @ (1 << np.arange(bits)[::-1]).astype(np.uint16))
    values = np.concatenate(rows)[: frame.imagelength]
    if len(values) != frame.imagelength:
        raise MedcoreError(f"image '{path}' ends after {len(values)} of {frame.imagelength} rows; copy it again")
    return values.reshape(frame.imagelength, frame.imagewidth, -1)


def _pillow_values(path: Path, page: Any, number: int, error: Exception) -> np.ndarray:
    """Values by Pillow, which knows LZW and others; deep colour would lose its low byte, so it is refused."""
    with open_picture(path, "TIFF") as image:
        image.seek(number)
        deep_grey = image.mode.startswith("I") or image.mode == "F"
        if not deep_grey and page.keyframe.bitspersample > 8:
            raise MedcoreError(
                f"image '{path}' is a deep colour TIFF whose compression cannot be read ({error}); save it "
                "uncompressed or with Deflate, or install the extra: pip install 'medcore[slides]'"
            )
        image.load()
        values = np.asarray(image)
    if page.keyframe.photometric == _WHITE_IS_ZERO and not deep_grey:
        values = 255 - values  # Pillow has inverted it already
    if page.keyframe.bitspersample < 8 and values.dtype == np.uint8 and page.keyframe.photometric != _PALETTE:
        values = values // (255 // (2**page.keyframe.bitspersample - 1))  # and spread over 0..255
    turn = _orientation(page.keyframe)  # and turned it: back to the stored order
    return upright(values, {6: 8, 8: 6}.get(turn, turn))
