"""Whole slides: what was looked at, and maps of the tiles' classes and values beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medcore.plots import style
from medcore.plots.maps import OVERLAY_MAP, coloured, value_bar

PALE = 0.35  # how much of the slide is seen below a map


@style.styled
def slide_maps(
    picture: np.ndarray,
    *,
    classes: Sequence[str] = (),
    labels: Mapping[str, np.ndarray] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    limit: float = 1.0,
    title: str = "slide",
) -> Figure:
    """A slide, and beside it maps of classes and of values over the pale slide.

    Args:
        picture: The slide. **Shape** ``(h, w, 3)`` uint8.
        classes: All classes of the set.
        labels: Title to class indexes, NaN where there is no tile. **Shape** ``(h, w)``.
        values: Title to values 0 … ``limit``, NaN where there is no tile. **Shape** ``(h, w)``.
        limit: Value at the top of the scale.
    """
    labels, values = labels or {}, values or {}
    count = 1 + len(labels) + len(values)
    figure, axes = plt.subplots(1, count, figsize=(style.WIDTH, style.WIDTH / count + 0.7), squeeze=False)
    places = iter(axes[0])
    panel = next(places)
    panel.imshow(picture)
    panel.set_title(title)
    colours = style.class_colours(classes)
    shown: dict[int, None] = {}
    for name, found in labels.items():
        panel = next(places)
        table = np.array([to_rgb(colours[c]) for c in classes]) * 255
        tiles = np.isfinite(found)
        panel.imshow(_over(picture, tiles, table[found[tiles].astype(int)]))
        panel.set_title(name)
        shown |= dict.fromkeys(np.unique(found[tiles]).astype(int).tolist())
    for name, found in values.items():
        panel = next(places)
        tiles = np.isfinite(found)
        panel.imshow(_over(picture, tiles, coloured(found[tiles], limit=limit, colours=OVERLAY_MAP)))
        panel.set_title(name)
        value_bar(panel, limit=limit, label=name, colours=OVERLAY_MAP)
    for panel in axes[0]:
        style.bare(panel)
    if shown:
        patches = [Patch(color=colours[classes[k]], label=classes[k]) for k in sorted(shown)]
        figure.legend(handles=patches, loc="lower center", ncols=len(patches), frameon=False)
    return figure


def _over(picture: np.ndarray, inside: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The slide, pale and grey, with some pixels coloured. **Shape** ``(h, w, 3)`` uint8."""
    grey = picture.mean(axis=2, keepdims=True)
    drawn = np.repeat(150 + 0.41 * grey, 3, axis=2)
    drawn[inside] = PALE * drawn[inside] + (1 - PALE) * colour
    return drawn.astype(np.uint8)
