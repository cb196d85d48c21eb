"""Confusion matrices: counts to believe, row shares to see."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from medcore.errors import MedcoreError
from medcore.plots import style


@style.styled
def confusion_matrix(
    matrix: np.ndarray, *, classes: Sequence[str], unit: str = "patch", ax: Axes | None = None
) -> Axes:
    """Counts with row shares; the diagonal is the sensitivity of each class.

    Args:
        matrix: counts, rows = truth, columns = prediction. **Shape** ``(K, K)``.
        classes: K class names; their colours mark the axes.
        unit: what is counted.
        ax: where to draw.

    Raises:
        MedcoreError: when the matrix does not fit the classes.
    """
    matrix = np.asarray(matrix)
    count = len(classes)
    if matrix.shape != (count, count):
        raise MedcoreError(f"confusion_matrix: matrix has shape {matrix.shape}, but there are {count} classes.")
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    cell = float(np.clip(5.2 / count, 0.42, 0.85))
    ax = style.new_axes(ax, width=cell * count + 2.2, height=cell * count + 1.0)
    colours = mpl.colormaps["Blues"]
    ax.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    size = float(np.clip(cell * 13, 6.5, 10))
    for (row, column), number in np.ndenumerate(matrix):
        if number == 0:
            ax.text(column + 0.5, row + 0.5, "·", ha="center", va="center", color="#BBBBBB", fontsize=size)
            continue
        ink = style.text_colour(colours(shares[row, column]))
        ax.text(
            column + 0.5,
            row + 0.5,
            f"{number:,}",
            ha="center",
            va="bottom",
            color=ink,
            fontsize=size,
            fontweight="bold",
        )
        ax.text(
            column + 0.5,
            row + 0.54,
            _percent(shares[row, column]),
            ha="center",
            va="top",
            color=ink,
            fontsize=size * 0.82,
        )
    for row, total in enumerate(totals):
        ax.text(count + 0.12, row + 0.5, f"n = {total:,}", va="center", fontsize=8, color="#555555")
    places = np.arange(count) + 0.5
    long = max(len(name) for name in classes) * 0.08 > cell
    ax.set_xticks(places, classes, rotation=40 if long else 0, ha="right" if long else "center", rotation_mode="anchor")
    ax.set_yticks(places, classes)
    for name, tick_x, tick_y in zip(classes, ax.get_xticklabels(), ax.get_yticklabels(), strict=True):
        for tick in (tick_x, tick_y):
            tick.set_color(style.line_colour(style.class_colours(classes)[name]))
            tick.set_fontweight("bold")
    ax.tick_params(length=0)
    ax.set(xlabel="predicted", ylabel="true", aspect="equal")
    ax.set_ylim(count, 0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    many = f"{unit}es" if unit.endswith("ch") else f"{unit}s"
    ax.set_title(f"{matrix.sum():,} {many}; share of the true class in %", fontweight="normal", fontsize=8.5)
    return ax


def _percent(share: float) -> str:
    """A share that never shows 0 % or 100 % when it is not."""
    if 0 < share < 0.005:
        return "<1"
    if 0.995 <= share < 1:
        return ">99"
    return f"{100 * share:.0f}"
