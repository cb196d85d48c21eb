"""Open a DICOM file in bounded memory and decode the stored values of one frame.

With or without preamble, of every transfer syntax that pydicom and pylibjpeg read; sizes are compared before unpacking.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.formats.intensity import linear
from medcore.errors import MedcoreError

_DEFLATED = "1.2.840.10008.1.2.1.99"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_HEADER_BYTES = 16 << 20  # of a deflated file; a header is a few thousand
_MOST_ELEMENTS = 20_000
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)


@cache
def _pydicom() -> Any:
    import logging

    import pydicom

    # an odd value of an attribute is no reason to print it, and it may be somebody's name
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return pydicom


def open_dataset(path: Path, max_pixels: int, *, header_only: bool) -> Any:
    """The dataset of an image file, as pydicom has it.

    Raises:
        MedcoreError: The extra is missing, the file is broken or holds no image.
    """
    try:
        pydicom = _pydicom()
    except ImportError as error:
        raise MedcoreError(f"image '{path}' is DICOM, which needs the extra: pip install 'medcore[dicom]'") from error
    try:
        source = _inflated(path, _HEADER_BYTES if header_only else 16 * max_pixels + _HEADER_BYTES) or path
        dataset = _read(pydicom, source, header_only)
    except MedcoreError:
        raise
    except Exception as error:
        raise MedcoreError(f"image '{path}' is not a readable DICOM file ({error}); copy it again") from error
    if not dataset.preamble and "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise MedcoreError(f"image '{path}' is not a readable DICOM file; copy it again")
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise MedcoreError(f"image '{path}' is a DICOM file without an image; leave it out")
    return dataset


def _read(pydicom: Any, source: Path | io.BytesIO, header_only: bool) -> Any:
    """All elements up to the pixels, or with them; what follows the pixels is padding, or an attack."""
    seen = 0

    def enough(tag: int, _: str | None, __: int) -> bool:
        nonlocal seen
        pixels = tag in _PIXEL_TAGS
        stop = seen > _MOST_ELEMENTS or (pixels and header_only)
        seen = _MOST_ELEMENTS + 1 if pixels else seen + 1
        return stop

    with open(source, "rb") if isinstance(source, Path) else source as file:
        return pydicom.filereader.read_partial(file, enough, force=True)


def _inflated(path: Path, most_bytes: int) -> io.BytesIO | None:
    """A deflated file as a plain one, unpacked to at most ``most_bytes``; None for any other."""
    with open(path, "rb") as file:
        head = file.read(4096)
        start = head.find(b"\x02\x00\x00\x00UL\x04\x00")
        if head[128:132] != b"DICM" or start < 0 or _DEFLATED.encode() not in head:
            return None
        end = start + 12 + int.from_bytes(head[start + 8 : start + 12], "little")
        meta = head[start:end] if end <= len(head) else b""
        syntax = meta.find(b"\x02\x00\x10\x00UI")
        name = meta[syntax + 8 : syntax + 8 + int.from_bytes(meta[syntax + 6 : syntax + 8], "little")]
        if syntax < 0 or name.rstrip(b"\0 ").decode("ascii", "replace") != _DEFLATED:
            return None
        file.seek(end)
        unpacker, parts, size = zlib.decompressobj(-15), [], 0
        while size < most_bytes and not unpacker.eof and (data := unpacker.unconsumed_tail or file.read(1 << 16)):
            parts.append(unpacker.decompress(data, min(1 << 24, most_bytes - size)))
            size += len(parts[-1])
    plain = name.replace(_DEFLATED.encode(), b"1.2.840.10008.1.2.1").rstrip(b"\0 ") + b"\0"
    fixed = meta[: syntax + 6] + len(plain).to_bytes(2, "little") + plain + meta[syntax + 8 + len(name) :]
    fixed = fixed[:8] + (len(fixed) - 12).to_bytes(4, "little") + fixed[12:]
    return io.BytesIO(b"\0" * 128 + b"DICM" + fixed + b"".join(parts))


def stored_frame(dataset: Any, frame: int, path: Path, max_pixels: int) -> np.ndarray:
    """Stored values of one frame: signed as they are, colour as RGB. **Shape** ``(H, W)`` or ``(H, W, 3)``."""
    from pydicom.pixels import apply_color_lut, pixel_array

    height, width, count = int(dataset.Rows), int(dataset.Columns), frame_count(dataset)
    if height * width > max_pixels:
        raise MedcoreError(
            f"image '{path}' has {width}×{height} pixels, more than max_pixels = {max_pixels}; raise --max-pixels if "
            "you trust the file"
        )
    if not 0 <= frame < count:
        raise MedcoreError(f"image '{path}' has {count} frames, counted from 0; there is no {frame}")
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if photometric not in (*_COLOURS, "MONOCHROME1", "MONOCHROME2"):
        raise MedcoreError(f"image '{path}' has the photometric interpretation {photometric!r}, which is not read")
    _complete(dataset, path)
    data = dataset.get("PixelData")
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed and not (
        dataset.file_meta.TransferSyntaxUID.is_deflated
    )
    if compressed and data is not None:
        _check_streams(data, height, width, path)
    shift = int(dataset.get("HighBit") or 0) + 1 - stored_bits(dataset)
    left_aligned = not compressed and samples == 1 and 0 < shift and data is not None
    values = np.asarray(pixel_array(dataset, index=frame, correct_unused_bits=not left_aligned))
    if left_aligned:  # ACR-NEMA: the value stands in the upper bits
        values = values >> shift
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(values, dataset)
        depth = max(8, 8 * colours.dtype.itemsize)
        return colours if depth == 8 else linear(colours, 0, 2**depth - 1)
    return values


def _complete(dataset: Any, path: Path) -> None:
    """Set the transfer syntax of a file that lacks it."""
    pydicom = _pydicom()
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" in dataset.file_meta:
        return
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise MedcoreError(f"image '{path}' is compressed, and does not say how (no transfer syntax); export it again")
    implicit, little = dataset.original_encoding
    uid = pydicom.uid
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit


def _check_streams(data: bytes, height: int, width: int, path: Path) -> None:
    """Refuse a compressed stream that unpacks to another size than the attributes say."""
    size: tuple[int, int] | None
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at >= 0:
        right, lower, left, upper = (int.from_bytes(data[at + k : at + k + 4], "big") for k in (8, 12, 16, 20))
        size = (lower - upper, right - left)
    else:
        size = _jpeg_size(data[: 1 << 20])
    if size is not None and size != (height, width):
        raise MedcoreError(
            f"image '{path}' says {width}×{height}, its compressed pixels say {size[1]}×{size[0]}; export it again"
        )


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width in the first JPEG or JPEG-LS frame header."""
    at = data.find(b"\xff\xd8\xff", 0, 4096) + 2
    while 2 <= at < len(data) - 9 and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + length
    return None


def stored_bits(dataset: Any) -> int:
    """Bits that a stored value uses."""
    return int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 32)


def frame_count(dataset: Any) -> int:
    """Frames of a file, 1 where it does not say."""
    return max(1, int(number_of(dataset, "NumberOfFrames") or 1))


def numbers_of(dataset: Any, name: str) -> Iterator[float]:
    """The numbers of an attribute; none where it is missing, empty or no number."""
    try:
        value = dataset.get(name)
        if value is None or value == "":
            return
        for part in value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]:
            yield float(part)
    except (TypeError, ValueError):
        return


def number_of(dataset: Any, name: str) -> float | None:
    """The first number of an attribute."""
    return next(numbers_of(dataset, name), None)
