"""One whole slide: its levels, its pixel size, and any region of it at any microns per pixel.

    with Slide("CMU-1-Small-Region.svs") as slide:
        slide.read((0, 0, 2000, 2000), mpp=1.0)     # (998, 998, 3) uint8, white beyond the slide

- Regions are in **level-0 pixels** (x, y, width, height), as in QuPath and ASAP; sizes are in microns per pixel.
- OpenSlide reads svs, ndpi, mrxs, scn, tiff and DICOM; tifffile reads OME-TIFF and what OpenSlide does not know.
- Label and macro images are never opened: they carry names. Of the header only sizes and the pixel size are read.
- A slide that is cut short, without pixel size, or whose levels do not show the same, is refused in one line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from medcore.data.sizes import WHITE, resize
from medcore.data.slides.backends import open_backend
from medcore.errors import MedcoreError

ALWAYS = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif"})  # endings that only slides have
PLAUSIBLE_UM = (0.02, 50.0)  # sides of a level-0 pixel that a microscope can mean
BLOCK = 2048  # pixels a side that are read at once
AGREE = 24.0  # grey levels by which the same place may differ between two levels
Region = tuple[int, int, int, int]


class Slide:
    """A whole slide.

    Args:
        path: The file (one file of a DICOM or MRXS slide is enough).
        mpp: Microns per level-0 pixel where the file does not say.

    Attributes:
        name: Its file name without the ending.
        sizes: Width and height of each level, largest first.
        mpp: Microns per level-0 pixel along x and y.

    Raises:
        MedcoreError: It cannot be opened, holds no level, or has no plausible pixel size.
    """

    def __init__(self, path: str | PathLike[str], *, mpp: float | None = None) -> None:
        self.path = Path(path)
        self.name = self.path.stem.removesuffix(".ome")
        self._backend = open_backend(self.path)
        self.sizes = self._backend.sizes
        try:
            self.mpp = _checked_mpp(self.path, (mpp, mpp) if mpp is not None else self._backend.mpp)
        except MedcoreError:
            self.close()
            raise

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._backend.close()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of level 0, pixels."""
        width, height = self.sizes[0]
        return height, width

    @cached_property
    def downsamples(self) -> list[float]:
        """How many level-0 pixels one pixel of each level spans."""
        width, height = self.sizes[0]
        return [(width / w + height / h) / 2 for w, h in self.sizes]

    def read(self, region: Region, mpp: float | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """Pixels of a region at a wanted pixel size.

        Args:
            region: x, y, width and height in level-0 pixels; what lies beyond the slide is white.
            mpp: Microns per pixel of the result; None: as level 0.
            size: Height and width of the result where rounding may not decide; None follows from ``mpp``.

        Returns:
            **Shape** ``(h, w, 3)`` uint8, antialiased. It is read from the smallest level that is fine enough.

        Raises:
            MedcoreError: An empty region, or a part of the file that cannot be read.
        """
        x, y, width, height = region
        if width < 1 or height < 1:
            raise MedcoreError(f"slide '{self.path}': region {region} is empty; width and height must be at least 1")
        if size is None:
            factors = (1.0, 1.0) if mpp is None else (self.mpp[1] / mpp, self.mpp[0] / mpp)
            size = max(1, round(height * factors[0])), max(1, round(width * factors[1]))
        level = self.level_for(min(width / size[1], height / size[0]))
        across, down = (self.sizes[0][k] / self.sizes[level][k] for k in (0, 1))
        left, top = math.floor(x / across + 1e-6), math.floor(y / down + 1e-6)
        wide = max(1, round(width / across))
        tall = max(1, round(height / down))
        pixels = self._backend.pixels(level, left, top, wide, tall)
        return pixels if (tall, wide) == size else resize(pixels, size)

    def level_for(self, downsample: float) -> int:
        """The smallest level that is at least as fine as wanted (or within 2 % of it)."""
        fine = [level for level, factor in enumerate(self.downsamples) if factor <= downsample * 1.02]
        return fine[-1] if fine else 0

    def overview(self, mpp: float) -> np.ndarray:
        """The whole slide at a coarse pixel size, read block by block. **Shape** ``(h, w, 3)`` uint8."""
        height, width = self.shape
        tall, wide = (max(1, round(side * um / mpp)) for side, um in zip((height, width), self.mpp[::-1], strict=True))
        canvas = np.full((tall, wide, 3), WHITE, np.uint8)
        down, across = height / tall, width / wide
        level = self.level_for(min(down, across))
        step = max(1, int(BLOCK * self.downsamples[level] / max(down, across)))  # result pixels a block
        for top in range(0, tall, step):
            for left in range(0, wide, step):
                rows, columns = min(step, tall - top), min(step, wide - left)
                box = (round(left * across), round(top * down), round(columns * across), round(rows * down))
                canvas[top : top + rows, left : left + columns] = self.read(box, size=(rows, columns))
        return canvas

    def thumbnail(self, longest: int = 1024) -> np.ndarray:
        """The whole slide, its longer side ``longest`` pixels at most. **Shape** ``(h, w, 3)`` uint8."""
        return self.overview(max(max(self.shape) / longest, 1) * max(self.mpp))

    def check_levels(self, places: int = 4) -> None:
        """Compare each level with the next finer one at ``places`` × ``places`` points.

        Raises:
            MedcoreError: A level is missing or shows something else, so that tissue found on it would be wrong.
        """
        for level in range(1, len(self.sizes)):
            (wide, tall), finer = self.sizes[level], self.sizes[level - 1]
            across, down = finer[0] / wide, finer[1] / tall
            side = max(1, min(48, wide, tall, int(BLOCK / max(across, down))))
            for column in np.linspace(0, wide - side, places).astype(int).tolist():
                for row in np.linspace(0, tall - side, places).astype(int).tolist():
                    coarse = self._backend.pixels(level, column, row, side, side)
                    box = round(column * across), round(row * down), round(side * across), round(side * down)
                    fine = self._backend.pixels(level - 1, *box)
                    gap = np.abs(coarse.mean((0, 1)) - fine.mean((0, 1))).max()
                    if gap > AGREE:
                        raise MedcoreError(
                            f"slide '{self.path}': level {level} does not show what level {level - 1} shows (at "
                            f"x={column}, y={row}, by {gap:.0f} grey levels): it is missing or damaged; export it again"
                        )

    def blocks(self, size: int = BLOCK) -> Iterator[Region]:
        """Regions of level 0 that cover the slide, row by row."""
        height, width = self.shape
        for y in range(0, height, size):
            for x in range(0, width, size):
                yield x, y, min(size, width - x), min(size, height - y)


def _checked_mpp(path: Path, mpp: tuple[float | None, float | None] | None) -> tuple[float, float]:
    low, high = PLAUSIBLE_UM
    way = "give it in the column 'mpp' of metadata.csv beside the slides"
    if mpp is None or mpp[0] is None or mpp[1] is None:
        raise MedcoreError(f"slide '{path}' does not say how large its pixels are; {way}")
    if not all(math.isfinite(side) and low <= side <= high for side in mpp if side is not None):
        raise MedcoreError(f"slide '{path}' has pixels of {mpp[0]:g} × {mpp[1]:g} µm, which no microscope has; {way}")
    return float(mpp[0]), float(mpp[1])


def is_slide(path: Path) -> bool:
    """Whether a file is a whole slide: by its ending; a TIFF when it is tiled and a pyramid."""
    if path.suffix.lower() in ALWAYS:
        return True
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    import tifffile

    tiled = False
    try:
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages[0]
            tiled = bool(page.is_tiled)
            levels = len(tiff.series[0].levels) if tiff.series else 1
            return tiled and levels > 1
    except Exception:  # broken: who opens it names it
        return tiled
