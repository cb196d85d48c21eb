"""What people drew on a slide: QuPath GeoJSON, ASAP and Aperio XML, read and written in level-0 pixels.

    shapes = read_drawing(path)             # [Shape("tumour", rings), ...]
    inside = rasterise(shape.rings, region, (h, w))   # bool, by the centres of the pixels
    write_geojson(path, shapes)                 # opens in QuPath

- A shape is all its rings together: a point is inside where a ray crosses them an odd number of times (even-odd), so
  holes need no order of their corners. Where shapes overlap, the smaller one is on top.
- Classes whose name ends in ``*`` (as QuPath's Ignore) stand for tissue that counts nowhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.npzfile import atomic_path
from medcore.data.slides.slide import Region
from medcore.errors import MedcoreError

ENDINGS = (".geojson", ".json", ".xml")
IGNORED = "*"  # what classes that count nowhere end in
MOST_BYTES = 1 << 28  # read as objects it takes some eight times as much
FARTHEST = 1e9  # level-0 pixels: no slide is wider
MOST_CLASSES = 253  # what a pixel of a mask can say, beside "nothing drawn here" and "counts nowhere"
CROSSINGS = 1 << 22  # of edges and rows of a grid that are worked on at once
GRID = 64  # points a side at which the share of a shape in a tile is taken


@dataclass(frozen=True)
class Shape:
    """A closed area of one class.

    Attributes:
        name: Its class.
        rings: Corners in level-0 pixels, outlines and holes alike. Each of **Shape** ``(n, 2)`` float64, x and y.
        measures: Numbers that go along, for QuPath.
    """

    name: str
    rings: list[np.ndarray]
    measures: dict[str, float] = field(default_factory=dict)

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Lowest and highest x and y: x0, y0, x1, y1."""
        corners = np.concatenate(self.rings)
        return (*corners.min(0).tolist(), *corners.max(0).tolist())

    @property
    def extent(self) -> float:
        """Area of its largest ring, level-0 pixels squared."""
        return max(abs(_area(ring)) for ring in self.rings)


def _area(ring: np.ndarray) -> float:
    x, y = (ring - ring[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def rasterise(rings: list[np.ndarray], region: Region, size: tuple[int, int]) -> np.ndarray:
    """Which pixels of a grid over a region have their centre inside of the rings (even-odd).

    Args:
        region: x, y, width, height in the coordinates of the rings.
        size: Height and width of the grid.

    Returns:
        **Shape** ``size`` bool.
    """
    x, y, width, height = region
    tall, wide = size
    start = np.concatenate(rings)
    stop = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    # into pixels of the grid, moved so that the centres of pixels have whole numbers
    scale, move = np.array([wide / width, tall / height]), np.array([x, y])
    (x0, y0), (x1, y1) = (((corners - move) * scale - 0.5).T for corners in (start, stop))
    first = np.clip(np.ceil(np.minimum(y0, y1)), 0, tall).astype(int)  # rows whose centre an edge crosses
    last = np.clip(np.ceil(np.maximum(y0, y1)), 0, tall).astype(int)
    times = last - first
    crossings = np.zeros((tall, wide + 1), np.int32)
    step = max(1, CROSSINGS // tall)
    crossing = np.flatnonzero(times)
    for some in (crossing[begin : begin + step] for begin in range(0, len(crossing), step)):
        often = times[some]
        edge = np.repeat(some, often)
        row = np.arange(often.sum()) - np.repeat(np.cumsum(often) - often, often) + first[edge]
        slope = (x1 - x0)[edge] / (y1 - y0)[edge]
        column = np.clip(np.ceil(x0[edge] + (row - y0[edge]) * slope), 0, wide).astype(int)
        np.add.at(crossings, (row, column), 1)
    return np.cumsum(crossings, axis=1)[:, :wide] % 2 == 1


def contains(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points lie inside of a ring (even-odd). **Shape** ``(n, 2)`` and ``(m, 2)`` -> ``(m,)`` bool."""
    inside = np.zeros(len(points), bool)
    x, y = points.T
    for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


@dataclass(frozen=True)
class Drawing:
    """All shapes of a slide that count, the largest first, with the class index of each (255: counts nowhere)."""

    shapes: list[Shape]
    numbers: list[int]

    @classmethod
    def of(cls, shapes: Iterable[Shape], classes: list[str]) -> Drawing:
        """Order the shapes so that smaller ones are on top.

        Raises:
            MedcoreError: There are more classes than a mask can hold.
        """
        if len(classes) > MOST_CLASSES:
            raise MedcoreError(f"drawings of {len(classes)} classes; at most {MOST_CLASSES} are told apart")
        ordered = sorted(shapes, key=lambda shape: -shape.extent)
        return cls(ordered, [255 if s.name.endswith(IGNORED) else classes.index(s.name) for s in ordered])

    def paint(self, region: Region, size: tuple[int, int], outside: int) -> np.ndarray:
        """Class indexes of a grid over a region; ``outside`` where nothing is drawn. **Shape** ``size`` uint8."""
        labels = np.full(size, outside, np.uint8)
        x, y, width, height = region
        for shape, number in zip(self.shapes, self.numbers, strict=True):
            x0, y0, x1, y1 = shape.box
            if x1 >= x and y1 >= y and x0 <= x + width and y0 <= y + height:
                labels[rasterise(shape.rings, region, size)] = number
        return labels

    def label(self, region: Region, rule: str, outside: int) -> int:
        """The class of a tile, -1 for none.

        Args:
            rule: ``centre``: what its centre shows. ``share``: what more than half of it shows.
            outside: Class index of tissue where nothing is drawn, -1 for none.
        """
        grid = (1, 1) if rule == "centre" else (GRID, GRID)
        found = self.paint(region, grid, 254).ravel()
        counts = np.bincount(found, minlength=256)
        best = int(counts.argmax())
        if 2 * counts[best] <= found.size or best == 255:
            return -1
        return outside if best == 254 else best


def read_drawing(path: Path) -> tuple[list[Shape], list[str]]:
    """Areas drawn on a slide, and what was passed over.

    Raises:
        MedcoreError: The file is broken, or neither GeoJSON nor ASAP nor Aperio XML.
    """
    if not path.is_file():
        raise MedcoreError(f"annotations '{path}' are no regular file")  # a pipe would wait for ever
    if path.stat().st_size > MOST_BYTES:
        raise MedcoreError(f"annotations '{path}' are larger than {MOST_BYTES >> 20} MB; split the file")
    try:
        if path.suffix.lower() == ".xml":
            shapes, passed = _from_xml(path)
        else:
            shapes, passed = _from_geojson(json.loads(path.read_text(encoding="utf-8")))
    except MedcoreError as error:
        raise MedcoreError(f"annotations '{path}': {error}") from error
    except Exception as error:  # JSON, XML, numbers, missing keys
        raise MedcoreError(f"annotations '{path}' cannot be read ({type(error).__name__}: {error})") from error
    for shape in shapes:
        if not all((np.abs(ring) <= FARTHEST).all() for ring in shape.rings):
            raise MedcoreError(
                f"annotations '{path}': a corner of {shape.name[:100]!r} is no finite number or beyond every slide"
            )
    return shapes, [f"{count} × {what} passed over" for what, count in sorted(passed.items())]


def _from_geojson(data: Any) -> tuple[list[Shape], Counter[str]]:
    features = data if isinstance(data, list) else data.get("features", [data])
    shapes, passed = [], Counter[str]()
    for feature in features:
        if not isinstance(feature, dict) or "geometry" not in feature:
            raise MedcoreError("it is no GeoJSON of features with a geometry")
        geometry, facts = feature["geometry"] or {}, feature.get("properties") or {}
        name = _class_of(facts)
        corners = geometry.get("coordinates")
        parts: list[Any] | None = {"Polygon": [corners], "MultiPolygon": corners}.get(geometry.get("type", ""))
        if name is None or parts is None:
            passed["annotation without a class" if parts is not None else str(geometry.get("type", "no area"))] += 1
            continue
        shapes += [Shape(name, [_ring(ring) for ring in rings]) for rings in parts]
    return shapes, passed


def _class_of(facts: dict[str, Any]) -> str | None:
    """QuPath's class, as a mapping or a text, else the name of the annotation."""
    given = facts.get("classification")
    if isinstance(given, dict):
        names = given.get("names")
        given = given.get("name") or (": ".join(map(str, names)) if names else None)
    return _shown(given or facts.get("name") or "") or None


def _shown(name: object) -> str:
    """A name as one line of characters that can be shown and written."""
    return " ".join("".join(c for c in str(name) if c.isprintable() or c.isspace()).split())


def _ring(corners: Any) -> np.ndarray:
    ring = np.array(corners, dtype=np.float64)
    if ring.ndim != 2 or ring.shape[1] < 2 or len(ring) < 3:
        raise MedcoreError(f"a shape has {len(ring)} corners; an area has three at least")
    ring = ring[:, :2]
    return ring[:-1] if len(ring) > 3 and (ring[0] == ring[-1]).all() else ring


def _from_xml(path: Path) -> tuple[list[Shape], Counter[str]]:
    from defusedxml import ElementTree

    root = ElementTree.parse(path).getroot()
    if root.tag == "ASAP_Annotations":
        return _from_asap(root)
    if root.tag == "Annotations":
        return _from_aperio(root)
    raise MedcoreError(f"its root is <{root.tag}>, neither ASAP's <ASAP_Annotations> nor Aperio's <Annotations>")


def _from_asap(root: Any) -> tuple[list[Shape], Counter[str]]:
    shapes, passed = [], Counter[str]()
    for node in root.iter("Annotation"):
        corners = [(float(c.get("X")), float(c.get("Y"))) for c in _in_order(node.iter("Coordinate"))]
        kind, name = node.get("Type", ""), _shown(node.get("PartOfGroup", ""))
        if kind == "Rectangle" or (kind in ("Polygon", "Spline") and len(corners) >= 3):
            if name in ("", "None"):
                passed["annotation without a group"] += 1
            else:
                shapes.append(Shape(name, [_ring(corners)]))
        else:
            passed[kind or "no area"] += 1
    return shapes, passed


def _in_order(nodes: Iterable[Any]) -> list[Any]:
    return sorted(nodes, key=lambda node: int(node.get("Order", 0)))


def _from_aperio(root: Any) -> tuple[list[Shape], Counter[str]]:
    """Aperio ImageScope: regions of a layer; those with ``NegativeROA`` are holes in the others of the layer."""
    shapes, passed = [], Counter[str]()
    for layer in root.iter("Annotation"):
        name = _shown(
            layer.get("Name")
            or next(
                (a.get("Value") or a.get("Name") for a in layer.iter("Attribute") if a.get("Name") == "Description"), ""
            )
        )
        areas: list[tuple[str, np.ndarray]] = []
        holes: list[np.ndarray] = []
        for region in layer.iter("Region"):
            corners = [(float(v.get("X")), float(v.get("Y"))) for v in region.iter("Vertex")]
            kind = region.get("Type", "0")
            if kind not in ("0", "1", "2") or len(corners) < 2 or (kind == "0" and len(corners) < 3):
                passed["ruler or arrow"] += 1
                continue
            ring = _ellipse(corners) if kind == "2" else _box(corners) if len(corners) == 2 else _ring(corners)
            if region.get("NegativeROA") == "1":
                holes.append(ring)
            else:
                areas.append((name or _shown(region.get("Text", "")), ring))
        starts = np.array([hole[0] for hole in holes]).reshape(-1, 2)
        for own, ring in areas:
            if not own:
                passed["region without a name"] += 1
                continue
            inner = [holes[n] for n in np.flatnonzero(contains(ring, starts))]
            shapes.append(Shape(own, [ring, *inner]))
    return shapes, passed


def _box(corners: list[tuple[float, float]]) -> np.ndarray:
    (x0, y0), (x1, y1) = corners
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _ellipse(corners: list[tuple[float, float]]) -> np.ndarray:
    """The ellipse within the box of the corners, as a polygon of 64 corners."""
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.asarray((low + high) / 2 + (high - low) / 2 * np.stack([np.cos(turn), np.sin(turn)], axis=1))


def write_geojson(path: Path, shapes: Iterable[Shape], colours: dict[str, tuple[int, int, int]] | None = None) -> None:
    """Write areas as QuPath reads them, one feature a line, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for count, shape in enumerate(shapes):
            rings = [[*ring.tolist(), ring[0].tolist()] for ring in shape.rings]
            kind: dict[str, Any] = {"name": shape.name}
            if colours and shape.name in colours:
                kind["color"] = list(colours[shape.name])
            facts: dict[str, Any] = {"objectType": "annotation", "classification": kind}
            if shape.measures:
                facts["measurements"] = shape.measures
            feature = {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": rings},
                "properties": facts,
            }
            file.write(("," if count else "") + "\n" + json.dumps(feature, ensure_ascii=False))
        file.write("\n]}\n")
