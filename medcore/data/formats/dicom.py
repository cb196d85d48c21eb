"""One DICOM file: pixels that mean what its attributes say (pydicom, extra ``dicom``).

- The order of the standard: stored bits, modality LUT (slope of this frame, or table), VOI LUT (table, or the first
  window that is one), photometric interpretation. Overlays are left out.
- The grey rule: a given window; a given value range; the file's VOI LUT or window; at most 8 bits: their full range;
  CT: soft tissue; else robust percentiles, over the whole series where the caller knows it (``series.py``).
- A header is read without pixels and in bounded memory, also of deflated files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.formats.dicom_file import frame_count, number_of, numbers_of, open_dataset, stored_bits, stored_frame
from medcore.data.formats.intensity import (
    SOFT_TISSUE,
    Range,
    Scaled,
    check_finite,
    linear,
    robust_range,
    scale,
    shows_soft_tissue,
    window,
)
from medcore.errors import MedcoreError

_CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")  # CT, enhanced CT


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM file says without its pixels.

    Attributes:
        patient: Identifier as it stands in the file; it does not leave this machine unless asked for.
        frames: Numbers of the frames in the order of the geometry, or as stored.
        position: Millimetres along the normal of the slice; the instance number where there is no geometry.
        grey: What decides about grey levels: ``window 40/400``, ``table``, ``colour``, ``bits`` or ``none``.
        burned_in: The attribute says that there is text in the pixels.
    """

    height: int
    width: int
    channels: int
    patient: str
    pixel_size_um: float | None
    series: str
    position: float
    modality: str
    grey: str
    frames: tuple[int, ...]
    burned_in: bool


def read_header(path: Path, max_pixels: int) -> DicomHeader:
    """The header of a DICOM file, without pixels."""
    dataset = open_dataset(path, max_pixels, header_only=True)
    number = frame_count(dataset)
    first, second = _pair(dataset, "PixelSpacing") or _pair(dataset, "ImagerPixelSpacing") or (0.0, 0.0)
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    if not first and shared is not None and (measures := _item(shared, "PixelMeasuresSequence")) is not None:
        first, second = _pair(measures, "PixelSpacing") or (0.0, 0.0)
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
    colour = photometric == "PALETTE COLOR" or int(dataset.get("SamplesPerPixel") or 1) > 1
    positions = [_position(_frame_groups(dataset, frame), dataset) for frame in range(number)]
    ordered = sorted(range(number), key=lambda k: positions[k]) if None not in positions else range(number)  # type: ignore[arg-type, return-value]
    position = _position([dataset], dataset)
    instance = number_of(dataset, "InstanceNumber")
    return DicomHeader(
        height=int(dataset.Rows),
        width=int(dataset.Columns),
        channels=3 if colour else 1,
        patient=str(dataset.get("PatientID") or "").strip(),
        pixel_size_um=1000 * first if first > 0 and first == second else None,
        series=str(dataset.get("SeriesInstanceUID") or "").strip(),
        position=position if position is not None else (instance or 0.0),
        modality=_modality(dataset),
        grey=_grey_key(dataset, colour),
        frames=tuple(ordered),
        burned_in=str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES",
    )


def _grey_key(dataset: Any, colour: bool) -> str:
    if colour:
        return "colour"
    groups = _frame_groups(dataset, 0)
    if _table(groups, "VOILUTSequence") is not None:
        return "table"
    if (chosen := _file_window(groups)) is not None:
        return f"window {chosen[0]:g}/{chosen[1]:g}"
    return "bits" if stored_bits(dataset) <= 8 else "none"


def read_dicom(
    path: Path,
    window_: Range | None,
    value_range: Range | None,
    max_pixels: int,
    frame: int | None = None,
    shared: tuple[str, Range] | None = None,
) -> Scaled:
    """uint8 pixels of one frame of a DICOM file. **Shape** ``(H, W, 1 or 3)``.

    Args:
        window_: Centre and width, in units after the modality LUT (Hounsfield units in CT).
        value_range: Values after the modality LUT that become 0 and 255.
        max_pixels: Frames with more are refused.
        frame: Which frame, counted from 0; None for the middle one.
        shared: Name and range of the rule of the whole series (``series.shared_greys``), for files without a window.

    Raises:
        MedcoreError: The file is broken, not an image, or its attributes contradict each other.
    """
    dataset = open_dataset(path, max_pixels, header_only=False)
    count = frame_count(dataset)
    notes = [] if count == 1 or frame is not None else [f"middle one of {count} frames"]
    frame = count // 2 if frame is None else frame
    values = stored_frame(dataset, frame, path, max_pixels)
    if values.ndim == 3:
        bits = stored_bits(dataset)
        pixels, scaled, _ = scale(values, value_range, path, 8 if values.dtype == np.uint8 else bits)
        return pixels, ("DICOM colour", *scaled, *notes), None
    groups = _frame_groups(dataset, frame)
    pixels, conversion, highest = _grey(dataset, groups, values, window_, value_range, shared, path)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 255 - pixels
        notes.append("DICOM MONOCHROME1 inverted")
    return pixels[..., None], (conversion, *notes), highest


def _grey(
    dataset: Any, groups: list[Any], stored: np.ndarray, given: Range | None, value_range: Range | None,
    shared: tuple[str, Range] | None, path: Path,
) -> tuple[np.ndarray, str, float | None]:  # fmt: skip
    values = _modality_values(groups, stored, path)
    check_finite(values, path)
    if given is not None:
        return window(values, *given), f"DICOM window {given[0]:g}/{given[1]:g} (given)", None
    if value_range is not None:
        pixels, what, highest = scale(values, value_range, path)
        return pixels, f"DICOM {what[0]}", highest
    table = _table(groups, "VOILUTSequence")
    if table is not None:
        return linear(_looked_up(table, values), 0, 2 ** table[2] - 1), "DICOM VOI table applied", None
    if (chosen := _file_window(groups)) is not None:
        return window(values, *chosen), "DICOM window of the file applied", None
    bits = stored_bits(dataset)
    if bits <= 8 and stored.dtype.kind in "iu":
        signed = stored.dtype.kind == "i"
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
        low, high = sorted(_modality_values(groups, ends, path).tolist())
        return linear(values, low, high), f"DICOM without window: {bits} stored bits scaled to 0..255", None
    name, (low, high) = shared or default_grey([values[stored != _padding(dataset)]], _modality(dataset))
    pixels = window(values, *SOFT_TISSUE) if name == "soft tissue" else linear(values, low, high)
    return pixels, f"DICOM without window: {GREY_RULES[name]}", None


GREY_RULES = {
    "soft tissue": f"CT at soft tissue, {SOFT_TISSUE[0]:g}/{SOFT_TISSUE[1]:g}",
    "series": "0.5 and 99.5 % of the values of the series (of all files that name none) are black and white",
    "image": "0.5 and 99.5 % of the values of the image are black and white",
}


def default_grey(samples: Iterable[np.ndarray], modality: str, scope: str = "image") -> tuple[str, Range]:
    """The rule for images without a window, from their values together: its name and its black and white."""
    samples = [values.astype(np.float64) for values in samples]
    if modality == "CT" and shows_soft_tissue(samples):
        centre, width = SOFT_TISSUE
        return "soft tissue", (centre - width / 2, centre + width / 2)
    return scope, robust_range(samples)


def measured_values(path: Path, max_pixels: int, frame: int) -> np.ndarray:
    """Values after the modality LUT, padding left out, as one row; for the range of a series."""
    dataset = open_dataset(path, max_pixels, header_only=False)
    stored = stored_frame(dataset, frame, path, max_pixels)
    return np.asarray(_modality_values(_frame_groups(dataset, frame), stored, path)[stored != _padding(dataset)])


def stored_values(path: Path, max_pixels: int) -> np.ndarray:
    """Values of a single frame as stored, for masks. **Shape** ``(H, W)`` or ``(H, W, 3)``."""
    dataset = open_dataset(path, max_pixels, header_only=False)
    if frame_count(dataset) > 1:
        raise MedcoreError(f"mask '{path}' has {frame_count(dataset)} frames; save one mask a file, as PNG")
    return stored_frame(dataset, 0, path, max_pixels)


def _modality_values(groups: list[Any], stored: np.ndarray, path: Path) -> np.ndarray:
    """Values after the modality LUT: its table, or slope and intercept; an empty attribute is none."""
    table = _table(groups, "ModalityLUTSequence")
    if table is not None:
        return _looked_up(table, stored)
    slope, intercept = (_first_number(groups, name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None and intercept is None:
        return stored
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise MedcoreError(f"image '{path}' has RescaleSlope {slope:g} and RescaleIntercept {intercept:g}; correct it")
    return stored.astype(np.float64) * slope + intercept


Table = tuple[np.ndarray, int, int]  # entries, first value that is mapped, bits an entry


def _table(groups: list[Any], name: str) -> Table | None:
    """A lookup table of the dataset or frame; None where it is missing or empty."""
    for item in (item for group in groups if (item := _item(group, name)) is not None):
        descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
        if descriptor is None or data is None or len(descriptor) != 3:
            continue
        count, first, bits = int(descriptor[0]) or 65536, int(descriptor[1]), int(descriptor[2])
        if isinstance(data, bytes):
            order = ">" if item.original_encoding[1] is False else "<"
            entries = np.frombuffer(data, np.uint8 if len(data) < 2 * count else f"{order}u2")[:count]
        else:
            entries = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
        if len(entries):
            return entries.astype(np.float64), first, bits if 1 <= bits <= 16 else 16
    return None


def _looked_up(table: Table, values: np.ndarray) -> np.ndarray:
    entries, first, _ = table
    return np.asarray(entries[np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)])


def _file_window(groups: list[Any]) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window that is one."""
    for group in groups:
        centres, widths = (numbers_of(group, name) for name in ("WindowCenter", "WindowWidth"))
        for centre, width in zip(centres, widths, strict=False):
            if math.isfinite(centre) and math.isfinite(width) and width > 0:
                function = str(group.get("VOILUTFunction") or "LINEAR").strip().upper()
                return centre, width, function
    return None


def _frame_groups(dataset: Any, frame: int) -> list[Any]:
    """Where attributes of a frame may stand, the nearest first: its functional groups, the shared ones, the file."""
    found = []
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*per_frame[frame : frame + 1], *shared[:1]]:
        found += [part for element in group if element.VR == "SQ" for part in (element.value or [])[:1]]
    return [*found, dataset]


def _position(groups: list[Any], dataset: Any) -> float | None:
    """Millimetres along the normal of a slice; None without geometry."""
    place = _vector(groups, "ImagePositionPatient", 3)
    turn = _vector([*groups, dataset], "ImageOrientationPatient", 6)
    if place is None or turn is None or not np.isfinite([*place, *turn]).all():
        return None
    return float(np.dot(np.cross(turn[:3], turn[3:]), place))


def _vector(groups: list[Any], name: str, length: int) -> list[float] | None:
    vectors = (list(numbers_of(group, name)) for group in groups)
    return next((vector for vector in vectors if len(vector) == length), None)


def _modality(dataset: Any) -> str:
    named = str(dataset.get("Modality") or "").strip().upper()
    return named or ("CT" if str(dataset.get("SOPClassUID", "")) in _CT_CLASSES else "")


def _padding(dataset: Any) -> int | None:
    value = number_of(dataset, "PixelPaddingValue")
    return None if value is None else int(value)


def _item(dataset: Any, name: str) -> Any:
    items = dataset.get(name)
    return items[0] if items else None


def _first_number(groups: list[Any], name: str) -> float | None:
    return next((value for group in groups if (value := number_of(group, name)) is not None), None)


def _pair(dataset: Any, name: str) -> tuple[float, float] | None:
    values = list(numbers_of(dataset, name))
    return (values[0], values[1]) if len(values) == 2 and all(map(math.isfinite, values)) else None
