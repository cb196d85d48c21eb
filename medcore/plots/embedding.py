"""Latent spaces: who lies where, what a direction means, and whether samples are memories."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from medcore.errors import MedcoreError
from medcore.plots import style
from medcore.plots.images import as_colour, image_grid
from medcore.plots.maps import coloured, value_bar

NAMED_GROUPS = 8  # patients that get a colour of their own; more cannot be told apart


@style.styled
def latent_scatter(
    points: np.ndarray,
    *,
    labels: np.ndarray,
    classes: Sequence[str],
    axis_names: tuple[str, str] = ("component 1", "component 2"),
    ax: Axes | None = None,
) -> Axes:
    """Points in the plane, coloured by class, each class named at its middle.

    Args:
        points: two coordinates an image. **Shape** ``(N, 2)``.
        labels: class numbers, −1 for unlabelled (grey). **Shape** ``(N,)``.
        axis_names: what the axes are; for t-SNE, whose distances mean little, say so.
    """
    _check_points(points, labels)
    ax = style.new_axes(ax, width=4.4, height=4.0)
    colours = style.class_colours(classes)
    order = np.random.default_rng(0).permutation(len(points))  # so that no class hides another by being drawn last
    shown = [colours[classes[label]] if label >= 0 else style.FAINT for label in labels[order]]
    ax.scatter(points[order, 0], points[order, 1], c=shown, s=_size(len(points)), lw=0, alpha=0.7, rasterized=True)
    for number, name in enumerate(classes):
        if (labels == number).any():
            x, y = np.median(points[labels == number], axis=0)
            _halo(ax, x, y, name, style.line_colour(colours[name]))
    return _plain(ax, axis_names)


@style.styled
def latent_by_group(
    points: np.ndarray,
    *,
    groups: np.ndarray,
    unit: str = "patient",
    axis_names: tuple[str, str] = ("component 1", "component 2"),
    ax: Axes | None = None,
) -> Axes:
    """The same points, coloured by patient: do images of one patient lie together?

    Args:
        points: **Shape** ``(N, 2)``.
        groups: patient of each point; those with the most points get a colour, the others are grey. **Shape** ``(N,)``.
    """
    _check_points(points, groups)
    ax = style.new_axes(ax, width=4.4, height=4.0)
    counts = pd.Series(groups).value_counts()
    named = list(counts.index[:NAMED_GROUPS])
    size = _size(len(points))
    other = ~np.isin(groups, named)
    ax.scatter(points[other, 0], points[other, 1], color=style.FAINT, s=size, lw=0, rasterized=True)
    for name, colour in style.class_colours(named).items():
        part = points[groups == name]
        ax.scatter(
            part[:, 0], part[:, 1], color=colour, s=size * 1.3, lw=0, alpha=0.8, label=str(name), rasterized=True
        )
    ax.set_title(
        f"{min(len(counts), NAMED_GROUPS)} of {len(counts):,} {unit}s in colour", fontweight="normal", fontsize=8.5
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=1.6, handletextpad=0.1, fontsize=8)
    return _plain(ax, axis_names)


@style.styled
def latent_space(
    points: np.ndarray,
    *,
    labels: np.ndarray,
    classes: Sequence[str],
    groups: np.ndarray,
    unit: str = "patient",
    axis_names: tuple[str, str] = ("component 1", "component 2"),
) -> np.ndarray:
    """Two views of the same points: by class, and by patient.

    Args: as for `latent_scatter` and `latent_by_group`.

    Returns:
        The two Axes.
    """
    _, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.5))
    latent_scatter(points, labels=labels, classes=classes, axis_names=axis_names, ax=axes[0])
    latent_by_group(points, groups=groups, unit=unit, axis_names=axis_names, ax=axes[1])
    return axes


@style.styled
def latent_traversal(
    images: np.ndarray, *, dimensions: Sequence[str], values: Sequence[float], ax: Axes | None = None
) -> Axes:
    """What happens along single latent dimensions: a row per dimension, a column per value.

    Args:
        images: decoded. **Shape** ``(D, S, H, W, C)``.
        values: the latent value of each column, in standard deviations.

    Raises:
        MedcoreError: when names and values do not fit the images.
    """
    if images.shape[:2] != (len(dimensions), len(values)):
        raise MedcoreError(
            f"latent_traversal: {images.shape[0]} × {images.shape[1]} images for {len(dimensions)} dimensions and "
            f"{len(values)} values."
        )
    return image_grid(
        images.reshape(-1, *images.shape[2:]),
        column_titles=[f"{value:+.1f} σ".replace("-", "−") if value else "0" for value in values],
        row_labels=list(dimensions),
        columns=len(values),
        ax=ax,
    )


@style.styled
def latent_step(
    images: np.ndarray,
    *,
    dimensions: Sequence[int],
    values: Sequence[float],
    dimension: int,
    value: float,
    ax: Axes | None = None,
) -> Axes:
    """One step of a walk: the image at the mean code, the image at a value of one dimension, and what changed.

    Args:
        images: decoded, as for `latent_traversal`. **Shape** ``(D, S, H, W, C)``.
        dimensions: number of the latent dimension of each row.
        values: the latent value of each column, in standard deviations; the one nearest to zero is the mean code.
        dimension: which one to walk along.
        value: how far, in standard deviations; the nearest column is shown.

    Raises:
        MedcoreError: when `dimension` is none of `dimensions`.
    """
    if dimension not in dimensions:
        raise MedcoreError(f"latent_step: dimension {dimension} is none of {list(dimensions)}.")
    row, places = images[list(dimensions).index(dimension)], np.asarray(values)
    start, there = as_colour(row[[np.abs(places).argmin(), np.abs(places - value).argmin()]])
    change = np.abs(there.astype(float) - start).mean(axis=2) / 255
    shown = f"{places[np.abs(places - value).argmin()]:+.1f} σ".replace("-", "−")
    ax = image_grid(
        np.stack([start, there, coloured(change[None], limit=0.5)[0]]),
        titles=["mean code", f"dimension {dimension}: {shown}", f"change, {change.mean():.3f} on average"],
        columns=3,
        width=5.4,
        ax=ax,
    )
    value_bar(ax, limit=0.5, label="absolute change")
    return ax


@style.styled
def samples_with_neighbours(
    samples: np.ndarray,
    neighbours: np.ndarray,
    *,
    captions: Sequence[str] | None = None,
    columns: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Generated samples above their nearest training image: memories would look the same.

    Args:
        samples: **Shape** ``(N, H, W, C)``.
        neighbours: the nearest training image of each. **Shape** ``(N, H, W, C)``.
        captions: a text per sample, such as its distance.
        columns: pairs side by side; the rest goes below.
    """
    generated, nearest = as_colour(samples), as_colour(neighbours)
    if generated.shape != nearest.shape:
        raise MedcoreError(f"samples_with_neighbours: shapes {generated.shape} and {nearest.shape} differ.")
    columns = min(columns, len(generated))
    whole = len(generated) // columns * columns
    tiles, names, texts = [], [], []
    for start in range(0, whole, columns):
        part = slice(start, start + columns)
        tiles += [generated[part], nearest[part]]
        names += ["sample", "nearest\nin train"]
        texts += [""] * columns + list(captions[part] if captions is not None else [""] * columns)
    return image_grid(
        np.concatenate(tiles), row_labels=names, titles=texts if captions is not None else None, columns=columns, ax=ax
    )


def _check_points(points: np.ndarray, others: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] != 2 or len(points) != len(others):
        raise MedcoreError(f"latent plots need points (N, 2) and N labels, but got {points.shape} and {len(others)}.")


def _size(count: int) -> float:
    """Area of a dot that keeps the cloud readable."""
    return float(np.clip(9000 / max(count, 1), 3, 22))


def _halo(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    """A word on top of dots."""
    written = ax.text(x, y, text, ha="center", va="center", fontsize=8.5, fontweight="bold", color=colour, zorder=6)
    written.set_path_effects([effects.withStroke(linewidth=3.5, foreground="white")])


def _plain(ax: Axes, names: tuple[str, str]) -> Axes:
    """Axes without numbers, which mean nothing in a latent space."""
    ax.set(xticks=[], yticks=[], xlabel=names[0], ylabel=names[1])
    return ax
