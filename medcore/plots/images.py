"""Pictures of pictures: grids, examples per class, mistakes, pairs, processing steps, reconstructions.

A grid is drawn as one montage in one Axes: quick, pixel-exact, and small in a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from medcore.data.datasets import title_of
from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize
from medcore.errors import MedcoreError
from medcore.plots import style

GAP = 0.05  # between tiles, as a share of a tile


@style.styled
def image_grid(
    images: np.ndarray,
    *,
    titles: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    row_colours: Sequence[str] | None = None,
    columns: int = 8,
    pixel_size_um: float | None = None,
    width: float = style.WIDTH,
    ax: Axes | None = None,
) -> Axes:
    """Tiles in rows, with captions.

    Args:
        images: uint8 0…255 or float 0…1. **Shape** ``(N, H, W, C)``, C 1 or 3.
        titles: a caption above each tile; a line break is allowed.
        colours: a frame colour for each tile.
        column_titles: a name above each column.
        row_labels: a name at the left of each row.
        row_colours: a colour chip for each row label.
        pixel_size_um: micrometres a pixel; draws a scale bar into the last tile.
        width: inches, for a new figure.

    Raises:
        MedcoreError: when there is no image, or the captions do not fit the images.
    """
    images = as_colour(images)
    _check_lengths(len(images), titles=titles, colours=colours)
    height_px, width_px = images.shape[1:3]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max((text.count("\n") + 1 for text in titles), default=0) if titles is not None else 0
    left = _label_room(row_labels)
    tile_inches = (width - left) / (columns + (columns - 1) * GAP)
    caption = lines * 0.15 / tile_inches * width_px + (0.04 * width_px if lines else 0)  # in pixels
    step_x, step_y = width_px * (1 + GAP), height_px + width_px * GAP + caption
    total = (columns * step_x - width_px * GAP, rows * step_y - width_px * GAP)
    ax = style.new_axes(ax, width=width, height=tile_inches * total[1] / width_px + (0.3 if column_titles else 0.1))
    size = _font_size(titles or (), 8, tile_inches)
    for number, image in enumerate(images):
        x, y = (number % columns) * step_x, (number // columns) * step_y + caption
        ax.imshow(image, extent=(x, x + width_px, y + height_px, y), interpolation="antialiased")
        if colours is not None:
            _frame(ax, x, y, width_px, height_px, colours[number])
        if titles is not None:
            place: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": size, "linespacing": 1.1}
            ax.text(x + width_px / 2, y - 0.03 * width_px, titles[number], **place)
    for column, name in enumerate(column_titles or ()):
        _above(ax, name, column * step_x + width_px / 2, _font_size(column_titles or (), 8.5, tile_inches))
    for row, name in enumerate(row_labels or ()):
        _row_label(ax, name, row * step_y + caption + height_px / 2, row_colours[row] if row_colours else None)
    last_x, last_y = ((len(images) - 1) % columns) * step_x, (rows - 1) * step_y + caption
    corner = {"right": last_x + 0.93 * width_px, "bottom": last_y + height_px - 0.06 * width_px}
    style.scale_bar(ax, pixel_size_um, image_width=width_px, **corner)
    ax.set(xlim=(-1, total[0] + 1), ylim=(total[1] + 1, -1), aspect="equal")
    style.bare(ax)
    return ax


@style.styled
def class_examples(ps: PatchSet, *, per_class: int = 8, seed: int = 0, ax: Axes | None = None) -> Axes:
    """A row of examples per class, from as many patients as possible, with the class's colour and count.

    Args:
        ps: the set; classes without an image are left out.
    """
    rng = np.random.default_rng(seed)
    colours = style.class_colours(ps.classes)
    chosen, names = [], []
    for number, name in enumerate(ps.classes):
        rows = np.flatnonzero(ps.shown[:, number])
        if len(rows):
            chosen.append(varied_rows(rows, ps.patients[rows], per_class, rng))
            names.append((name, len(rows)))
    if not chosen:
        raise MedcoreError("class_examples: the set has no labelled image.")
    images = as_colour(ps.take(np.concatenate(chosen)))
    blank = np.full((1, *images.shape[1:]), 255, np.uint8)
    tiles, start = [], 0
    for rows in chosen:
        tiles += [images[start : start + len(rows)], np.repeat(blank, per_class - len(rows), axis=0)]
        start += len(rows)
    ax = image_grid(
        np.concatenate(tiles),
        row_labels=[f"{name}\n{count:,}" for name, count in names],
        row_colours=[colours[name] for name, _ in names],
        columns=per_class,
        pixel_size_um=ps.card.pixel_size_um if len(chosen[-1]) == per_class else None,
        ax=ax,
    )
    words = [f"{name}: {title_of(name)}" for name, _ in names if title_of(name)]
    style.note(ax, f"{'; '.join(words)}." if words else "")
    return ax


@style.styled
def worst_mistakes(
    images: np.ndarray,
    *,
    truth: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    classes: Sequence[str],
    columns: int = 6,
    pixel_size_um: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The mistakes that the model was surest of: the frame has the true class's colour.

    Args:
        images: **Shape** ``(N, H, W, C)``, worst first.
        truth: (N,) true class names.
        predicted: (N,) predicted class names.
        confidence: (N,) probability given to the predicted class, 0…1.
        classes: all classes of the set, for the colours.
    """
    _check_lengths(len(images), truth=truth, predicted=predicted, confidence=confidence)
    colours = style.class_colours(classes)
    arrow = " →\n" if max(map(len, classes)) > 6 else " → "  # two long names do not fit above one tile
    titles = [
        f"{is_}{arrow}{was}\n{share:.0%} sure" for is_, was, share in zip(truth, predicted, confidence, strict=True)
    ]
    ax = image_grid(
        images,
        titles=titles,
        colours=[colours[name] for name in truth],
        columns=columns,
        pixel_size_um=pixel_size_um,
        ax=ax,
    )
    style.note(ax, "Above each: truth → answer, and its stated probability; the frame has the colour of the truth.")
    return ax


@style.styled
def processing_steps(
    steps: Mapping[str, np.ndarray],
    *,
    row_labels: Sequence[str] | None = None,
    pixel_size_um: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The same images before and after each step: a column per step, a row per image.

    Args:
        steps: step name to its images; every entry **Shape** ``(n, H, W, C)``; sizes are brought to the first's.
        row_labels: a name for each of the n images.
        pixel_size_um: micrometres a pixel of the first step.
    """
    names = list(steps)
    stacks = [as_colour(steps[name]) for name in names]
    shape = stacks[0].shape
    # nearest neighbour: pixels of a small step stay visible as pixels
    stacks = [resize(stack, shape[1:3], "nearest") for stack in stacks]
    tiles = np.stack(stacks, axis=1).reshape(-1, *shape[1:])
    return image_grid(
        tiles,
        column_titles=names,
        row_labels=row_labels,
        columns=len(names),
        pixel_size_um=pixel_size_um,
        width=min(style.WIDTH, 1.7 * len(names) + _label_room(row_labels)),
        ax=ax,
    )


@style.styled
def image_pairs(
    left: np.ndarray, right: np.ndarray, *, captions: Sequence[str], columns: int = 3, ax: Axes | None = None
) -> Axes:
    """Pairs side by side with one caption each: duplicates found by the audit, or before and after.

    Args:
        left: **Shape** ``(N, H, W, C)``.
        right: the partner of each, same shape.
    """
    left, right = as_colour(left), as_colour(right)
    _check_lengths(len(left), right=right, captions=captions)
    gap = np.full((len(left), left.shape[1], max(1, left.shape[2] // 50), 3), 255, np.uint8)
    joined = np.concatenate([left, gap, right], axis=2)
    return image_grid(joined, titles=captions, columns=columns, ax=ax)


def varied_rows(rows: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` of `rows`, one from every group before a second from any."""
    order = rng.permutation(len(rows))
    shuffled = groups[order]
    turn = np.zeros(len(rows), dtype=int)
    seen: dict[str, int] = {}
    for place, group in enumerate(shuffled):
        turn[place] = seen[group] = seen.get(group, -1) + 1
    return rows[order[np.argsort(turn, kind="stable")[:count]]]


def as_colour(images: np.ndarray) -> np.ndarray:
    """Images as uint8 RGB. **Shape** ``(N, H, W)`` or ``(N, H, W, 1 or 3)`` to ``(N, H, W, 3)``.

    Raises:
        MedcoreError: when there is no image or the shape is another.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise MedcoreError(f"plots: needs images (N, H, W, 1 or 3) with N ≥ 1, but got shape {images.shape}.")
    if images.dtype != np.uint8:
        images = np.round(np.clip(images.astype(float), 0, 1) * 255).astype(np.uint8)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _check_lengths(count: int, **sequences: Sequence | np.ndarray | None) -> None:
    """Every sequence that is given has one entry per image."""
    for name, values in sequences.items():
        if values is not None and len(values) != count:
            raise MedcoreError(f"plots: {name} has {len(values)} entries for {count} images.")


def _frame(ax: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A frame of `colour` around a tile."""
    ax.add_patch(Rectangle((x, y), width, height, fill=False, ec=colour, lw=2.2, clip_on=False, zorder=4))


def _label_room(labels: Sequence[str] | None) -> float:
    """Inches that row labels need at the left."""
    if not labels:
        return 0.0
    longest = max(len(line) for label in labels for line in label.split("\n"))
    return 0.25 + 0.075 * longest


def _font_size(texts: Sequence[str], size: float, tile_inches: float) -> float:
    """At most ``size`` points: the longest line stays above its tile (a bold letter is 0.66 as wide as high)."""
    longest = max((len(line) for text in texts for line in text.split("\n")), default=0)
    return min(size, tile_inches * (1 + GAP) * 72 / (0.66 * max(longest, 1)))


def _above(ax: Axes, name: str, x: float, size: float) -> None:
    """A column's name above the grid."""
    ax.annotate(
        name,
        (x, 0),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=size,
        fontweight="bold",
        annotation_clip=False,
    )


def _row_label(ax: Axes, name: str, y: float, colour: str | None) -> None:
    """A row's name at the left of the grid, with its colour chip."""
    ax.annotate(
        name,
        (0, y),
        xytext=(-14 if colour else -5, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8,
        annotation_clip=False,
    )
    if colour:
        ax.annotate(
            "■",
            (0, y),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )
