"""From measured values to uint8 by one stated rule: a linear range, the windows of DICOM, robust percentiles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medcore.errors import MedcoreError

Range = tuple[float, float]
Scaled = tuple[np.ndarray, tuple[str, ...], float | None]  # pixels, conversions, highest value
SOFT_TISSUE = (40.0, 400.0)  # centre and width in Hounsfield units
PERCENTILES = (0.5, 99.5)  # of a series without window: a few metal or padding pixels must not decide
_AT_ONCE = 4_000_000  # values that are scaled at once
_SAMPLE = 200_000  # values an image that enter the percentiles


def scale(values: np.ndarray, value_range: Range | None, path: Path, bits: int = 16) -> Scaled:
    """Map deep values to uint8 by one linear rule for all images.

    Args:
        values: Whole numbers or floats. **Shape** ``(H, W, C)``.
        value_range: The values that become 0 and 255; None: the full range of ``bits`` for whole numbers, 0..1 for
            floats.
        bits: Bits that a whole number uses in this file.

    Raises:
        MedcoreError: NaN or infinite values, or a type whose range is not known.
    """
    if values.dtype == np.uint8 and value_range is None and bits >= 8:
        return values, (), None
    check_finite(values, path)
    low, high = value_range or _default_range(values, path, bits)
    if not high > low:
        raise MedcoreError(f"value_range {value_range} must be two rising values (low, high)")
    pixels = linear(values, low, high)
    conversions = [f"{values.dtype.name} values {low:g}..{high:g} scaled to 0..255"]
    if values.min() < low or values.max() > high:
        conversions.append(f"values outside {low:g}..{high:g} clipped")
    return pixels, tuple(conversions), None if value_range or bits < 16 else float(values.max())


def check_finite(values: np.ndarray, path: Path) -> None:
    """Refuse NaN and infinite pixels by their number."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise MedcoreError(f"image '{path}' holds {bad} NaN or infinite pixels; replace them before reading")


def _default_range(values: np.ndarray, path: Path, bits: int) -> Range:
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and 0 <= low and high <= 2**bits - 1:
        return 0.0, float(2**bits - 1)
    if values.dtype.kind == "f" and 0 <= low and high <= 1:
        return 0.0, 1.0
    raise MedcoreError(
        f"image '{path}' holds {values.dtype.name} values from {low:g} to {high:g}, whose meaning is not known; "
        "say which values are black and white with --value-range LOW HIGH (value_range=(low, high))"
    )


def linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """``low`` to 0, ``high`` to 255, clipped and rounded. uint8 of the same shape."""
    pixels, factor = np.empty(values.shape, np.uint8), 255.0 / max(high - low, 1e-12)
    step = max(1, _AT_ONCE * len(values) // max(1, values.size))
    for top in range(0, len(values), step):  # a large image would fill the memory with float64
        deep = (values[top : top + step].astype(np.float64) - low) * factor
        pixels[top : top + step] = np.clip(np.rint(deep), 0, 255)
    return pixels


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """A DICOM window: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``; uint8 of the same shape.

    **Reference** DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Raises:
        MedcoreError: A function that the standard does not have, or a width that is not above 0.
    """
    values = values.astype(np.float64)
    if not width > 0:
        raise MedcoreError(f"a grey-level window needs a width above 0, not {width:g}")
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    elif function == "LINEAR_EXACT" or (function == "LINEAR" and width < 1):  # the standard has no such LINEAR
        share = (values - centre) / width + 0.5
    elif function == "LINEAR":
        inside = (values - centre + 0.5) / max(width - 1, 1e-9) + 0.5
        share = np.where(values <= centre - 0.5 - (width - 1) / 2, 0.0, inside)  # at width 1 a step
    else:
        raise MedcoreError(f"the VOI LUT function {function!r} is not one of LINEAR, LINEAR_EXACT, SIGMOID")
    return np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)


def robust_range(samples: Iterable[np.ndarray]) -> Range:
    """The percentiles ``PERCENTILES`` of some images together; all values where these agree."""
    parts = [values.ravel()[:: max(1, values.size // _SAMPLE)] for values in samples]
    together = np.concatenate([part[np.isfinite(part)] for part in parts]) if parts else np.zeros(0)
    if not together.size:
        return 0.0, 1.0
    low, high = np.percentile(together, PERCENTILES)
    if not high > low:
        low, high = together.min(), together.max()
    return float(low), float(high if high > low else low + 1)


def shows_soft_tissue(samples: Iterable[np.ndarray]) -> bool:
    """Whether values are Hounsfield units of a body: there is air, and 2 % of some image are soft tissue."""
    samples = list(samples)
    centre, width = SOFT_TISSUE
    air = any(values.min(initial=0) < -200 for values in samples)
    return air and any(np.mean(np.abs(values - centre) < width / 2) >= 0.02 for values in samples)
