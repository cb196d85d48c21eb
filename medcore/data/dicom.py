"""DICOM by pydicom (extra ``dicom``): rescaled, windowed, MONOCHROME1 inverted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.tiff import Scaled, scale
from medcore.errors import MedcoreError


def _read_dataset(path: Path, *, header_only: bool) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise MedcoreError(f"image '{path}' is DICOM, which needs the extra: pip install 'medcore[dicom]'") from error
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=header_only)
    except Exception as error:
        raise MedcoreError(f"image '{path}' is not a readable DICOM file ({error}); copy it again") from error
    if "Rows" not in dataset or "Columns" not in dataset:
        raise MedcoreError(f"image '{path}' is a DICOM file without an image; leave it out")
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise MedcoreError(
            f"image '{path}' is a DICOM file of {dataset.NumberOfFrames} frames; export each frame as a file"
        )
    return dataset


def dicom_header(path: Path) -> tuple[int, int, int, str, float | None]:
    """Height, width, channels, patient identifier and pixel size (µm) of a DICOM file."""
    dataset = _read_dataset(path, header_only=True)
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or [0, 0]
    isotropic = spacing[0] and float(spacing[0]) == float(spacing[1])
    channels = 1 if int(dataset.get("SamplesPerPixel", 1)) == 1 else 3
    pixel_size = 1000 * float(spacing[0]) if isotropic else None
    return int(dataset.Rows), int(dataset.Columns), channels, str(dataset.get("PatientID", "")), pixel_size


def read_dicom(
    path: Path, window: tuple[float, float] | None, value_range: tuple[float, float] | None, max_pixels: int
) -> Scaled:
    """Pixels of a DICOM file: rescaled, windowed, MONOCHROME1 inverted.

    The grey rule, in this order: ``window`` (centre, width) after rescale slope and intercept; ``value_range``; the
    window in the file; else the full range of the stored bits. Windows follow the linear function of the standard.

    **Reference** DICOM PS3.3 C.11.2.1.2 (window centre and width).
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    dataset = _read_dataset(path, header_only=False)
    if int(dataset.Rows) * int(dataset.Columns) > max_pixels:
        raise MedcoreError(f"image '{path}' has {dataset.Columns}×{dataset.Rows} pixels, more than {max_pixels}")
    values = pixel_array(dataset)
    if values.ndim == 3:
        return (values, ("DICOM colour",), None) if values.dtype == np.uint8 else scale(values, value_range, path)
    pixels, conversion, highest = _grey_dicom(
        dataset, values, window, value_range, path, apply_modality_lut, apply_voi_lut
    )
    conversions = [conversion]
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 255 - pixels
        conversions.append("DICOM MONOCHROME1 inverted")
    return pixels[..., None], tuple(conversions), highest


def _grey_dicom(
    dataset: Any,
    values: np.ndarray,
    window: tuple[float, float] | None,
    value_range: tuple[float, float] | None,
    path: Path,
    apply_modality_lut: Any,
    apply_voi_lut: Any,
) -> tuple[np.ndarray, str, float | None]:
    rescaled = np.asarray(apply_modality_lut(values, dataset), dtype=np.float64)
    if window is not None:
        return _linear_window(rescaled, *window), f"DICOM window {window[0]:g}/{window[1]:g} (given)", None
    if value_range is not None:
        pixels, what, highest = scale(rescaled, value_range, path)
        return pixels, f"DICOM {what[0]}", highest
    if "WindowCenter" in dataset and "WindowWidth" in dataset and "VOILUTSequence" not in dataset:
        centre, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        return _linear_window(rescaled, centre, width), "DICOM window of the file applied", None
    if "VOILUTSequence" in dataset:
        table = np.asarray(apply_voi_lut(values, dataset), dtype=np.float64)
        return _linear(table, table.min(), table.max()), "DICOM VOI table applied", None
    bits = int(dataset.BitsStored)
    stored = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if int(dataset.PixelRepresentation) else (0, 2**bits - 1)
    pixels = _linear(values.astype(np.float64), *stored)
    pixels = 255 - pixels if float(dataset.get("RescaleSlope", 1) or 1) < 0 else pixels
    return pixels, f"DICOM without window: {bits} stored bits scaled to 0..255", None


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _linear_window(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    if not width >= 1:
        raise MedcoreError(f"a DICOM window needs a width of at least 1, not {width:g}")
    return np.clip(np.rint(((values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5) * 255), 0, 255).astype(np.uint8)


def _linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.rint((values - low) * (255.0 / max(high - low, 1e-9))), 0, 255).astype(np.uint8)
