"""Pictures with a value per pixel: reconstructions with their error, heat maps over images."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb

from medcore.errors import MedcoreError
from medcore.plots import style
from medcore.plots.images import as_colour, image_grid

ERROR_MAP = "inferno"
OVERLAY_MAP = "YlOrRd"  # dark where it is high, so that it stands out from a pale image


@style.styled
def reconstruction_rows(
    images: np.ndarray,
    reconstructions: np.ndarray,
    *,
    errors: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    error_label: str = "absolute error",
    limit: float | None = None,
    pixel_size_um: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Three rows: input, reconstruction, and a map of the error with its scale.

    Args:
        images: uint8 or float 0…1. **Shape** ``(N, H, W, C)``.
        errors: a value per pixel; by default the mean absolute difference over channels. **Shape** ``(N, H, W)``.
        titles: a caption per image, such as its class and score.
        colours: a frame colour per image, such as its class's.
        limit: value at the top of the scale; by default the 99.5th percentile, the same for all images.

    Raises:
        MedcoreError: when the shapes differ.
    """
    inputs, outputs = as_colour(images), as_colour(reconstructions)
    if inputs.shape != outputs.shape:
        raise MedcoreError(f"reconstruction_rows: images {inputs.shape} and reconstructions {outputs.shape} differ.")
    if errors is None:
        errors = np.abs(inputs.astype(float) - outputs).mean(axis=3) / 255
    limit = float(np.percentile(errors, 99.5)) or 1.0 if limit is None else limit
    count = len(inputs)
    captions = None if titles is None else [*titles, *[""] * (2 * count)]
    ax = image_grid(
        np.concatenate([inputs, outputs, coloured(errors, limit=limit)]),
        column_titles=None if captions is None else captions[:count],
        colours=None if colours is None else [*colours, *["none"] * (2 * count)],
        row_labels=["input", "recon-\nstruction", "error"],
        columns=count,
        pixel_size_um=pixel_size_um,
        ax=ax,
    )
    value_bar(ax, limit=limit, label=error_label)
    return ax


@style.styled
def errors_above(
    images: np.ndarray,
    reconstructions: np.ndarray,
    *,
    threshold: float,
    titles: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Three rows: input, error, and the input with the pixels whose error exceeds a threshold in orange.

    Args:
        images: uint8 or float 0…1. **Shape** ``(N, H, W, C)``.
        threshold: mean absolute difference over the channels, 0…1.
        titles: a caption per image; the share of marked pixels is added below.

    Raises:
        MedcoreError: when the shapes differ.
    """
    inputs, outputs = as_colour(images), as_colour(reconstructions)
    if inputs.shape != outputs.shape:
        raise MedcoreError(f"errors_above: images {inputs.shape} and reconstructions {outputs.shape} differ.")
    errors = np.abs(inputs.astype(float) - outputs).mean(axis=3) / 255
    limit = float(np.percentile(errors, 99.5)) or 1.0
    grey = np.repeat(inputs.mean(axis=3, keepdims=True), 3, axis=3)
    marked = np.where((errors > threshold)[..., None], 255 * np.asarray(to_rgb(style.PALETTE[1])), grey)
    shares = (errors > threshold).mean(axis=(1, 2))
    ax = image_grid(
        np.concatenate([inputs, coloured(errors, limit=limit), marked.astype(np.uint8)]),
        titles=[*(titles or [""] * len(inputs)), *[""] * len(inputs), *[f"{share:.1%}" for share in shares]],
        row_labels=["input", "error", f"above\n{threshold:.3g}"],
        columns=len(inputs),
        ax=ax,
    )
    value_bar(ax, limit=limit, label="absolute error")
    return ax


@style.styled
def heat_overlays(
    images: np.ndarray,
    maps: np.ndarray,
    *,
    titles: Sequence[str] | None = None,
    row_label: str = "map",
    label: str = "relative activation",
    limit: float | None = None,
    opacity: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Images above; below, the same images, pale and grey, under their heat map.

    Args:
        images: **Shape** ``(N, H, W, C)``.
        maps: 0 (nothing) upwards. **Shape** ``(N, H, W)``.
        row_label: name of the second row.
        limit: value at the top of the scale, by default the largest.
        opacity: of the strongest value, 0…1; weaker ones are more transparent.
    """
    inputs = as_colour(images)
    limit = float(np.max(maps)) or 1.0 if limit is None else limit
    strength = opacity * np.clip(maps / limit, 0, 1)[..., None]
    pale = 150 + 0.4 * inputs.mean(axis=3, keepdims=True)
    mixed = (1 - strength) * pale + strength * coloured(maps, limit=limit, colours=OVERLAY_MAP)
    ax = image_grid(
        np.concatenate([inputs, mixed.astype(np.uint8)]),
        column_titles=titles,
        row_labels=["image", row_label],
        columns=len(inputs),
        ax=ax,
    )
    value_bar(ax, limit=limit, label=label, colours=OVERLAY_MAP)
    return ax


def coloured(values: np.ndarray, *, limit: float, colours: str = ERROR_MAP) -> np.ndarray:
    """Values 0…limit as colours. **Shape** ``(…)`` to ``(…, 3)`` uint8."""
    return (mpl.colormaps[colours](np.clip(values / limit, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def value_bar(ax: Axes, *, limit: float, label: str, colours: str = ERROR_MAP) -> None:
    """The scale of a map, at the right of its Axes."""
    mappable = ScalarMappable(Normalize(0, limit), colours)
    bar = ax.figure.colorbar(mappable, ax=ax, fraction=0.025, pad=0.015, aspect=24)
    bar.set_label(label, fontsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=8)
