"""What opens a slide's file: OpenSlide, or tifffile where OpenSlide cannot or is not installed."""

from __future__ import annotations

import io
import itertools
import logging
import math
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from PIL import Image

from medcore.data.sizes import WHITE
from medcore.errors import MedcoreError

CACHE_BYTES = 32 << 20, 192 << 20  # decoded tiles of the file that are kept: two rows of them, within these bounds
_JPEG, _YCBCR = 7, 6  # TIFF's numbers of a compression and of a colour space
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says of broken files is said here, by name
MOST_PIXELS = 1 << 36  # of a level: 262,144 a side
MOST_TILE = 1 << 27  # values of a tile of a file
MOST_PAGES = 10_000


class Backend(Protocol):
    """What reads the file: sizes ``(width, height)`` of the levels, the pixel size in µm, and pixels."""

    sizes: list[tuple[int, int]]
    mpp: tuple[float, float] | None

    def pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level, in pixels of that level; white beyond it. **Shape** ``(height, width, 3)`` uint8."""

    def close(self) -> None:
        """Let the file go."""


def open_backend(path: Path) -> Backend:
    """OpenSlide, or tifffile for OME-TIFF and for TIFF that OpenSlide does not know.

    Raises:
        MedcoreError: Neither can open it; the message names the file and the reason.
    """
    if not path.exists():
        raise MedcoreError(f"slide '{path}' does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise MedcoreError(f"slide '{path}' is empty; copy it again")
    if not path.is_file():
        raise MedcoreError(f"slide '{path}' is no regular file")
    tiff = path.suffix.lower() in (".tif", ".tiff", ".svs", ".scn", ".ndpi", ".bif")
    if tiff:
        check_tags(path)
    backend = _opened(path, tiff)
    if any(min(size) < 1 or size[0] * size[1] > MOST_PIXELS for size in backend.sizes):
        backend.close()
        raise MedcoreError(f"slide '{path}' says that its levels have {backend.sizes[:3]} pixels, which none has")
    return backend


def check_tags(path: Path) -> None:
    """Refuse a TIFF whose sizes lie: a library that believes them takes all memory, or ends the process.

    Raises:
        MedcoreError: A tile is larger than any writer makes it, or there are fewer tiles than the size asks for.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            for page in itertools.islice(file.pages, MOST_PAGES):
                _check_page(path, page)
    except MedcoreError:
        raise
    except Exception:  # who opens it names what is wrong
        return


def _check_page(path: Path, page: Any) -> None:
    width, height = page.imagewidth, page.imagelength
    if min(width, height) < 1 or width * height > MOST_PIXELS:
        raise MedcoreError(f"slide '{path}' says that a level has {width} × {height} pixels, which none has; damaged")
    if "TileWidth" not in page.tags:
        return
    wide, tall = page.tilewidth, page.tilelength
    if min(wide, tall) < 1 or wide * tall * page.samplesperpixel > MOST_TILE:
        raise MedcoreError(f"slide '{path}' says that its tiles have {wide} × {tall} pixels; it is damaged")
    needed = -(-width // wide) * -(-height // tall)
    there = page.tags["TileOffsets"].count if "TileOffsets" in page.tags else 0
    if there < needed:
        raise MedcoreError(
            f"slide '{path}': {width} × {height} pixels need {needed:,} tiles, but it names {there:,}; it is damaged"
        )


def _opened(path: Path, tiff: bool) -> Backend:
    if tiff and path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        return TiffBackend(path)
    try:
        return OpenSlideBackend(path)
    except MedcoreError as error:
        if not tiff:
            raise
        try:
            return TiffBackend(path)
        except MedcoreError as other:
            raise other if "not a TIFF" not in str(other) else error from None


class OpenSlideBackend:
    """Pixels by OpenSlide."""

    def __init__(self, path: Path) -> None:
        try:
            import openslide
        except ImportError as error:
            raise MedcoreError(
                f"slide '{path}': whole slides need OpenSlide; install the extra: pip install 'medcore[slides]'"
            ) from error
        self.path, self._failures = path, (openslide.OpenSlideError, OSError, ValueError)
        try:
            self._slide: Any = openslide.OpenSlide(path)
            self.sizes = [(int(w), int(h)) for w, h in self._slide.level_dimensions]
            two_rows = 4 * 512 * max((width for width, _ in self.sizes), default=0)  # of decoded tiles of 256 px
            self._slide.set_cache(openslide.OpenSlideCache(min(max(two_rows, CACHE_BYTES[0]), CACHE_BYTES[1])))
        except self._failures as error:
            raise MedcoreError(
                f"slide '{path}' cannot be opened ({_reason(error)}); copy or export it again"
            ) from error
        if not self.sizes or min(self.sizes[0]) < 1:
            raise MedcoreError(f"slide '{path}' has no image level, only a label or macro image; export it again")
        self.mpp = _mpp_of(self._slide.properties)

    def pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """As in ``Backend``."""
        across, down = (self.sizes[0][k] / self.sizes[level][k] for k in (0, 1))
        try:
            image = self._slide.read_region((round(x * across), round(y * down)), level, (width, height))
        except self._failures as error:
            raise MedcoreError(
                f"slide '{self.path}': level {level} cannot be read at x={x}, y={y} ({_reason(error)}): it is cut "
                "short or damaged; copy it again"
            ) from error
        opaque = np.frombuffer(image.tobytes("raw", "A"), np.uint8).min() == 255
        if opaque:  # packed at once: a fifth of the time of convert("RGB")
            return np.frombuffer(image.tobytes("raw", "RGB"), np.uint8).reshape(height, width, 3)
        values = np.asarray(image).astype(np.uint16)  # 255 × 255 fits
        colour, share = values[..., :3], values[..., 3:]
        return ((colour * share + WHITE * (255 - share) + 127) // 255).astype(np.uint8)

    def close(self) -> None:
        """As in ``Backend``."""
        self._slide.close()


def _mpp_of(properties: Any) -> tuple[float, float] | None:
    """Microns per pixel along x and y, as OpenSlide knows them."""
    try:
        return float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])
    except (KeyError, ValueError):
        return None


class TiffBackend:
    """Pixels of an OME-TIFF or another tiled TIFF by tifffile; decoded tiles are kept for a while."""

    KEPT = 256  # decoded tiles

    def __init__(self, path: Path) -> None:
        import tifffile

        self.path, self._tiles, self._lock = path, OrderedDict[tuple[int, int], np.ndarray](), Lock()
        try:
            self._file: Any = tifffile.TiffFile(path)
        except Exception as error:  # a parser raises whatever it likes
            raise MedcoreError(f"slide '{path}' is not a TIFF that can be read ({_reason(error)})") from error
        try:
            self._levels = self._usable()
            self.sizes = [(page.imagewidth, page.imagelength) for page in self._levels]
            self.mpp = self._pixel_size()
        except MedcoreError:
            self._file.close()
            raise
        except Exception as error:  # tags of a damaged file
            self._file.close()
            raise MedcoreError(f"slide '{path}' cannot be opened ({_reason(error)}); copy it again") from error

    def _usable(self) -> list[Any]:
        """The pages of the pyramid; label and macro pages are told by their words and are no tiles."""
        if not self._file.pages:
            raise MedcoreError(f"slide '{self.path}' is cut short: it names no page that is there; copy it again")
        series = next((s for s in self._file.series if _is_picture(s.levels[0].keyframe)), None)
        if series is None:
            raise MedcoreError(
                f"slide '{self.path}' has no tiled image level (a label or macro image at most); export it again"
            )
        levels = [level.pages[0] for level in series.levels]
        first = levels[0]
        colour = first.dtype == np.uint8 and first.samplesperpixel in (1, 3, 4) and first.planarconfig == 1
        if not colour or len(series.levels[0].pages) > 1:
            raise MedcoreError(
                f"slide '{self.path}' holds {series.axes} {series.shape} of {series.dtype}; brightfield colour with 8 "
                "bits a channel is read: export it so"
            )
        return levels

    def _pixel_size(self) -> tuple[float, float] | None:
        if self._file.ome_metadata:
            return _ome_pixel_size(self._file.ome_metadata)
        page = self._levels[0]
        unit = {2: 25_400.0, 3: 10_000.0}.get(int(getattr(page, "resolutionunit", 1)))
        per = page.get_resolution() if "XResolution" in page.tags else (0, 0)
        return (unit / per[0], unit / per[1]) if unit and per[0] and per[1] else None

    def pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """As in ``Backend``."""
        page = self._levels[level]
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        per_row = -(-page.imagewidth // wide)
        canvas = np.full((height, width, 3), WHITE, np.uint8)
        rows = range(max(0, y) // tall, -(-min(y + height, page.imagelength) // tall))
        columns = range(max(0, x) // wide, -(-min(x + width, page.imagewidth) // wide))
        for row in rows:
            for column in columns:
                with self._lock:
                    tile = self._tile(level, page, row * per_row + column)
                left, top = column * wide, row * tall
                x0, y0 = max(x, left), max(y, top)
                x1 = min(x + width, left + tile.shape[1], page.imagewidth)
                y1 = min(y + height, top + tile.shape[0], page.imagelength)
                if x1 > x0 and y1 > y0:
                    canvas[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return canvas

    def _tile(self, level: int, page: Any, number: int) -> np.ndarray:
        key = (level, number)
        if key in self._tiles:
            self._tiles.move_to_end(key)
            return self._tiles[key]
        try:
            handle = self._file.filehandle
            handle.seek(page.dataoffsets[number])
            count = page.databytecounts[number]
            data = handle.read(count) if count else None
            if data is not None and len(data) < count:
                raise ValueError("the file ends inside a tile")
            values = self._decoded(page, data, number)
        except Exception as error:  # a decoder raises whatever it likes
            raise MedcoreError(
                f"slide '{self.path}': level {level} cannot be read ({_reason(error)}): it is cut short or damaged, or "
                "its tiles need the extra: pip install 'medcore[slides]'"
            ) from error
        values = np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values[..., :3]
        self._tiles[key] = values
        if len(self._tiles) > self.KEPT:
            self._tiles.popitem(last=False)
        return values

    @staticmethod
    def _decoded(page: Any, data: bytes | None, number: int) -> np.ndarray:
        """A tile; JPEG that is whole in itself by Pillow, so that it needs no further package."""
        plain = page.jpegtables is None and page.photometric == _YCBCR
        if data is not None and page.compression == _JPEG and plain and data[:2] == b"\xff\xd8":
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
                if picture.size != (page.tilewidth, page.tilelength):
                    raise ValueError(f"a tile has {picture.size} pixels")
                return np.asarray(picture.convert("RGB"))
        decoded, _, shape = page.decode(data, number, jpegtables=page.jpegtables)
        return np.full((*shape[1:3], 3), WHITE, np.uint8) if decoded is None else decoded[0]

    def close(self) -> None:
        """As in ``Backend``."""
        self._file.close()


def _is_picture(page: Any) -> bool:
    words = str(page.description or "").lower()[:4000]
    carries_names = any(line.startswith(("label", "macro")) for line in words.splitlines())
    return page.is_tiled and not carries_names


def _ome_pixel_size(text: str) -> tuple[float, float] | None:
    """``PhysicalSizeX`` and ``Y`` of the first image, in micrometres."""
    from defusedxml import ElementTree

    units = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
    for node in ElementTree.fromstring(text.encode()).iter():
        if node.tag.endswith("Pixels"):
            sides = [
                float(node.get(f"PhysicalSize{axis}", "nan"))
                * units.get(node.get(f"PhysicalSize{axis}Unit", "µm"), math.nan)
                for axis in "XY"
            ]
            return (sides[0], sides[1]) if all(math.isfinite(side) for side in sides) else None
    return None


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
