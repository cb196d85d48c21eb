"""The numbers that a figure shows, as rows that a reader of the report can save."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

HEADER = ["panel", "series", "x", "y", "value"]
MOST_POINTS = 100  # of a series, evenly chosen: more cannot be told apart in print
MOST_ROWS = 1500  # of a figure: what is larger is a picture

NUMBER = re.compile(r"[−\-+]?[\d.,\s]+(e[−\-+]?\d+)?%?|\$.*\$")  # a label that only says the position

Point = tuple[Any, Any, Any]


def drawn_numbers(figure: Figure) -> list[list[str]]:
    """Lines, points, bars, intervals and cells of a figure, a header first; empty where it shows pictures.

    A name of an axis stands for its position. Of a long series ``MOST_POINTS`` points are kept, and its name says so.

    Returns:
        Rows of ``HEADER``; numbers with four digits.
    """
    rows = []
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    if any(ax.images for ax in panels):
        return []
    for number, ax in enumerate(panels, 1):
        panel = ax.get_title() or (str(number) if len(panels) > 1 else "")
        for name, points in _series(ax):
            kept = np.unique(np.linspace(0, len(points) - 1, min(MOST_POINTS, len(points))).round().astype(int))
            said = name if len(kept) == len(points) else f"{name} ({len(kept)} of {len(points)} points)"
            rows += [[_text(panel), _text(said), *map(_text, points[i])] for i in kept]
    return [HEADER, *rows] if 0 < len(rows) <= MOST_ROWS else []


def _series(ax: Axes) -> Iterator[tuple[str, list[Point]]]:
    """What is drawn in the units of the axes, by name."""
    x, y = _names(ax.xaxis), _names(ax.yaxis)

    def points(pairs: Any) -> list[Point]:
        found: np.ndarray = np.ma.asarray(pairs, dtype=float).filled(np.nan)
        return [(x.get(a, a), y.get(b, b), "") for a, b in found.round(9).tolist() if np.isfinite([a, b]).all()]

    for line in ax.get_lines():
        if all(line.get_transform().contains_branch_seperately(ax.transData)):
            yield _named(line, "line"), points(line.get_xydata())
    for bars in (found for found in ax.containers if isinstance(found, BarContainer)):
        flat = bars.orientation == "horizontal"
        middles = [(b.get_width(), b.get_y() + b.get_height() / 2) if flat else
                   (b.get_x() + b.get_width() / 2, b.get_height()) for b in bars]  # fmt: skip
        yield _named(bars, "bars"), points(middles)
    for found in ax.collections:
        if isinstance(found, LineCollection):
            yield (
                _named(found, "interval"),
                points(np.concatenate([[ends[0], ends[-1]] for ends in found.get_segments()])),
            )
        elif isinstance(found, QuadMesh):
            values: np.ndarray = np.ma.asarray(found.get_array(), dtype=float).filled(np.nan)
            cells = np.atleast_2d(values).tolist()
            yield (
                _named(found, "cell"),
                [
                    (x.get(i + 0.5, i), y.get(j + 0.5, j), value)
                    for j, row in enumerate(cells)
                    for i, value in enumerate(row)
                ],
            )
        elif isinstance(found, PathCollection):
            yield _named(found, "points"), points(found.get_offsets())


def _names(axis: Any) -> dict[float, str]:
    """Position to name, where an axis is labelled with words."""
    labels = [label.get_text() for label in axis.get_ticklabels()]
    return {
        round(float(at), 9): label
        for at, label in zip(axis.get_ticklocs(), labels, strict=False)
        if label and not NUMBER.fullmatch(label)
    }


def _named(artist: Any, otherwise: str) -> str:
    label = str(artist.get_label())
    return otherwise if not label or label.startswith("_") else label


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
