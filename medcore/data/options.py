"""How files become pixels: the options of decoding, as one small object that travels with a set and a checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from medcore.errors import MedcoreError

MAX_PIXELS = 64_000_000  # 8000 × 8000: above it a "small" file is more likely a decompression bomb than a patch


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
        bands: Which channels of a file, counted from 0, become grey (one) or red, green and blue (three).
        slices: Which frames of a file or slices of a series become images: ``all``, ``middle``, or n for every n-th;
            None: all of DICOM, the first page of TIFF and GIF.

    Raises:
        MedcoreError: A value of the wrong type or out of range.
    """

    value_range: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS
    fast_jpeg: bool = True
    bands: tuple[int, ...] | None = None
    slices: str | int | None = None

    def __post_init__(self) -> None:
        low_high = self._numbers("value_range")
        if low_high is not None and not low_high[1] > low_high[0]:
            raise MedcoreError(f"value_range={self.value_range!r} must be two rising values (low, high)")
        centre_width = self._numbers("window")
        if centre_width is not None and not centre_width[1] > 0:
            raise MedcoreError(f"window={self.window!r} must be a centre and a width above 0")
        if not isinstance(self.max_pixels, int) or isinstance(self.max_pixels, bool) or self.max_pixels < 1:
            raise MedcoreError(f"max_pixels={self.max_pixels!r} must be a whole number of at least 1")
        if not isinstance(self.fast_jpeg, bool):
            raise MedcoreError(f"fast_jpeg={self.fast_jpeg!r} must be true or false")
        if self.bands is not None:
            bands = tuple(self.bands) if isinstance(self.bands, (list, tuple)) else (self.bands,)
            if len(bands) not in (1, 3) or not all(type(band) is int and band >= 0 for band in bands):
                raise MedcoreError(f"bands={self.bands!r} must be one or three channel numbers, counted from 0")
            object.__setattr__(self, "bands", bands)
        every = isinstance(self.slices, int) and not isinstance(self.slices, bool) and self.slices >= 1
        if not (every or self.slices in (None, "all", "middle")):
            raise MedcoreError(f"slices={self.slices!r} must be 'all', 'middle', or n for every n-th")

    def _numbers(self, name: str) -> tuple[float, float] | None:
        given = getattr(self, name)
        if given is None:
            return None
        numbers = isinstance(given, (list, tuple)) and len(given) == 2 and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in given
        )  # fmt: skip
        if not numbers:
            raise MedcoreError(f"{name}={given!r} must be two finite numbers")
        object.__setattr__(self, name, (given[0], given[1]))
        return given[0], given[1]

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as plain JSON types."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {field.name: plain[field.name] for field in fields(self) if getattr(self, field.name) != field.default}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecodeOptions:
        """The options that :meth:`to_dict` wrote.

        Raises:
            MedcoreError: An option that is not known here, or a wrong value.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known) if isinstance(values, dict) else ["no mapping"]
        if unknown:
            raise MedcoreError(f"decode option {unknown[0]!r} is not known; it may be of a newer medcore: update it")
        return cls(**values)


def chosen_slices(count: int, slices: str | int | None) -> list[int]:
    """Which of ``count`` frames or slices, in their order, a policy takes."""
    if slices == "middle":
        return [count // 2]
    return list(range(0, count, slices if isinstance(slices, int) else 1))
