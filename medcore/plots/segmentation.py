"""Masks on images, where they are wrong and to which side, and how each case did.

Where cutting an image into tiles changes the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from medcore.errors import MedcoreError
from medcore.plots import style
from medcore.plots.images import as_colour

IGNORE = 255
MISSED, EXTRA, MISTAKEN, FOUND = "#882255", "#56B4E9", "#F0E442", "#1A1A1A"  # none is the colour of a class here


@style.styled
def mask_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    classes: Sequence[str],
    background: int | None = 0,
    opacity: float = 0.35,
    ax: Axes | None = None,
) -> Axes:
    """One image under its mask: a tint and an outline per class.

    Args:
        image: uint8. **Shape** ``(H, W, C)``.
        mask: class numbers, 255 = ignored. **Shape** ``(H, W)``.
        background: the class that is left clear.
    """
    _check_mask(image, mask)
    shown = as_colour(image[None])[0].astype(float)
    shown = 0.45 * shown + 0.55 * shown.mean(axis=2, keepdims=True)  # paler, so that the tint stands out
    colours = style.class_colours(classes)
    for number, name in enumerate(classes):
        if number != background:
            inside = mask == number
            shown[inside] = (1 - opacity) * shown[inside] + opacity * 255 * np.asarray(to_rgb(colours[name]))
            shown[_outline(inside)] = 255 * np.asarray(to_rgb(colours[name]))
    return _picture(shown, ax)


@style.styled
def mask_overlays(
    image: np.ndarray,
    masks: Mapping[str, np.ndarray],
    *,
    classes: Sequence[str],
    background: int | None = 0,
    opacity: float = 0.35,
) -> np.ndarray:
    """One image under several masks side by side, such as the truth and a prediction.

    Args:
        image: uint8. **Shape** ``(H, W, C)``.
        masks: name to mask, each as for `mask_overlay`.
        background: the class that is left clear.

    Returns:
        The Axes: the image alone, then one per mask.
    """
    size = (style.WIDTH, style.WIDTH / (1 + len(masks)) * image.shape[0] / image.shape[1] + 0.35)
    _, axes = plt.subplots(1, 1 + len(masks), figsize=size)
    _picture(as_colour(image[None])[0], axes[0]).set_title("image", fontsize=8.5)
    for ax, (name, mask) in zip(axes[1:], masks.items(), strict=True):
        mask_overlay(image, mask, classes=classes, background=background, opacity=opacity, ax=ax)
        ax.set_title(name, fontsize=8.5)
    return axes


@style.styled
def masked_examples(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    *,
    classes: Sequence[str],
    titles: Sequence[str] | None = None,
    background: int | None = 0,
) -> np.ndarray:
    """Images in a row, and below each the same image under its mask; a key names the classes.

    Args:
        images: each **Shape** ``(H, W, C)``; sizes may differ.
        masks: a mask per image, as for `mask_overlay`.
        background: the class that is left clear.

    Returns:
        The Axes. **Shape** ``(2, images)``.
    """
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    size = (style.WIDTH, 2 * style.WIDTH / len(images) * tallest + 0.6)
    figure, axes = plt.subplots(2, len(images), figsize=size, squeeze=False)
    for column, (image, mask) in enumerate(zip(images, masks, strict=True)):
        _picture(as_colour(image[None])[0], axes[0, column])
        mask_overlay(image, mask, classes=classes, background=background, ax=axes[1, column])
        if titles is not None:
            axes[0, column].set_title(titles[column], fontsize=8, pad=3)
    colours = style.class_colours(classes)
    _key(figure, [(colours[name], name) for number, name in enumerate(classes) if number != background])
    return axes


@style.styled
def signed_error(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, *, background: int = 0, ax: Axes | None = None
) -> Axes:
    """One image, grey: missed in wine red, added in light blue, called another class in yellow; true outline in black.

    Args:
        image: **Shape** ``(H, W, C)``.
        truth: class numbers, 255 = ignored. **Shape** ``(H, W)``.
        prediction: class numbers. **Shape** ``(H, W)``.
        background: the class that is not looked for.
    """
    _check_mask(image, truth)
    _check_mask(image, prediction)
    grey = as_colour(image[None])[0].mean(axis=2, keepdims=True)
    shown = np.repeat(150 + 0.4 * grey, 3, axis=2)
    counted = truth != IGNORE
    true, said = (truth != background) & counted, (prediction != background) & counted
    mistaken = true & said & (truth != prediction)
    for where, colour in ((true & ~said, MISSED), (said & ~true, EXTRA), (mistaken, MISTAKEN)):
        shown[where] = 0.15 * shown[where] + 0.85 * 255 * np.asarray(to_rgb(colour))
    shown[_outline(true)] = 255 * np.asarray(to_rgb(FOUND))
    shown[~counted] = 255
    return _picture(shown, ax)


@style.styled
def segmentation_rows(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    *,
    classes: Sequence[str],
    titles: Sequence[str] | None = None,
    pixel_size_um: float | None = None,
) -> np.ndarray:
    """A row per case: image, truth, prediction, and the signed error.

    Args:
        images: each **Shape** ``(H, W, C)``; sizes may differ.
        titles: a name per case, such as its file and Dice.
        pixel_size_um: micrometres a pixel, for a scale bar in the first column.

    Returns:
        The Axes. **Shape** ``(cases, 4)``.
    """
    if not len(images) == len(truths) == len(predictions) or not len(images):
        raise MedcoreError(
            f"segmentation_rows: {len(images)} images, {len(truths)} truths and {len(predictions)} predictions."
        )
    heights = [image.shape[0] / image.shape[1] for image in images]
    size = (style.WIDTH, style.WIDTH / 4 * sum(heights) + 0.55 + 0.18 * len(images))
    figure, axes = plt.subplots(len(images), 4, figsize=size, squeeze=False, height_ratios=heights)
    for row, (image, truth, prediction) in enumerate(zip(images, truths, predictions, strict=True)):
        _picture(as_colour(image[None])[0], axes[row, 0])
        mask_overlay(image, truth, classes=classes, ax=axes[row, 1])
        mask_overlay(image, np.where(truth == IGNORE, IGNORE, prediction), classes=classes, ax=axes[row, 2])
        signed_error(image, truth, prediction, ax=axes[row, 3])
        style.scale_bar(
            axes[row, 0],
            pixel_size_um,
            image_width=image.shape[1],
            right=0.96 * image.shape[1],
            bottom=0.96 * image.shape[0],
        )
        if titles is not None:
            axes[row, 0].set_title(titles[row], fontsize=8, pad=3)
    for column, name in ((1, "truth"), (2, "prediction"), (3, "error")):
        axes[0, column].set_title(name, fontsize=8, pad=3)
    mistaken = [(MISTAKEN, "another class")] if len(classes) > 2 else []
    _key(figure, [(MISSED, "missed"), (EXTRA, "added"), *mistaken, (FOUND, "true outline")])
    return axes


@style.styled
def dice_per_case(
    dice: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    unit: str = "patient",
    baselines: Mapping[str, float] | None = None,
    label: str = "Dice",
    ax: Axes | None = None,
) -> Axes:
    """Every case a dot, sorted; cases of one patient in one column; the mean over patients as a line.

    Args:
        dice: (N,) a value per case, 0…1.
        groups: (N,) patients; by default every case stands for itself.
        baselines: name to value, drawn as lines.
    """
    dice = np.asarray(dice, dtype=float)
    names = np.asarray(groups if groups is not None else [f"case {n}" for n in range(len(dice))])
    means = {name: float(dice[names == name].mean()) for name in dict.fromkeys(names)}
    order = sorted(means, key=lambda name: means[name])
    ax = style.new_axes(ax, height=2.8)
    for place, name in enumerate(order):
        values = dice[names == name]
        ax.plot([place, place], [values.min(), values.max()], color=style.lighten(style.PALETTE[0]), lw=1.2, zorder=1)
        ax.plot(np.full(len(values), place), values, "o", color=style.PALETTE[0], ms=4, mew=0, alpha=0.75)
    crowded = len(order) > 24 or groups is None
    ax.set_xticks([] if crowded else range(len(order)), [] if crowded else order, rotation=60, ha="right", fontsize=8)
    ax.set(ylabel=label, ylim=(_floor([*dice, *(baselines or {}).values()]), 1.02), xlim=(-0.7, len(order) - 0.3))
    ax.set_xlabel(f"{len(order)} {unit if groups is not None else 'case'}s, sorted")
    ax.grid(axis="y")
    mean = float(np.mean(list(means.values())))
    lines = [(f"mean over {unit if groups is not None else 'case'}s {mean:.2f}", mean, style.PALETTE[0])]
    for number, (name, value) in enumerate((baselines or {}).items()):
        lines.append((f"{name} {value:.2f}", value, style.PALETTE[1 + number % 4]))
    style.note(ax, f"Dots: cases; a column for each {unit if groups is not None else 'case'}; dashed: means.")
    style.reference_lines(ax, lines)
    return ax


def _floor(values: Sequence[float]) -> float:
    """The tenth below the lowest value, 0 at least."""
    return max(0.0, float(np.floor(10 * min(values) - 0.3)) / 10)


def _outline(inside: np.ndarray) -> np.ndarray:
    """The border pixels of a region, wider in large images. **Shape** ``(H, W)`` bool."""
    core = inside.copy()
    for _ in range(1 + min(inside.shape) // 250):
        padded = np.pad(core, 1, mode="edge")
        core = core & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return inside & ~core


def _picture(pixels: np.ndarray, ax: Axes | None) -> Axes:
    height, width = pixels.shape[:2]
    ax = style.new_axes(ax, width=3.4, height=3.4 * height / width)
    ax.imshow(np.clip(pixels, 0, 255).astype(np.uint8))
    style.bare(ax)
    return ax


def _check_mask(image: np.ndarray, mask: np.ndarray) -> None:
    if image.shape[:2] != mask.shape:
        raise MedcoreError(f"segmentation plots: image {image.shape[:2]} and mask {mask.shape} differ in size.")


def _key(figure: plt.Figure, marks: Sequence[tuple[str, str]]) -> None:
    """What colours mean, below the figure."""
    patches = [Patch(color=colour, label=text) for colour, text in marks]
    figure.legend(handles=patches, loc="outside lower right", ncols=len(patches), handlelength=1, handleheight=1)


@style.styled
def tiling_artefacts(image: np.ndarray, whole: np.ndarray, tiled: Mapping[str, np.ndarray]) -> np.ndarray:
    """The image, and for each way of tiling how far its probability lies from that of the whole image.

    Args:
        image: uint8. **Shape** ``(H, W, C)``.
        whole: Probability of one class from the image in one piece, 0…1. **Shape** ``(H, W)``.
        tiled: Name of a way to the probability that it gives. **Shape** ``(H, W)`` each.

    Returns:
        The Axes, one for the image and one per way.
    """
    panels = 1 + len(tiled)
    height = style.WIDTH / panels * image.shape[0] / image.shape[1] + 0.75
    figure, axes = plt.subplots(1, panels, figsize=(style.WIDTH, height), squeeze=False)
    grey = image.shape[2] == 1
    axes[0, 0].imshow(image[..., 0] if grey else image, cmap="gray" if grey else None)
    axes[0, 0].set_title("image", fontsize=8, pad=3)
    gaps = {name: np.abs(values - whole) for name, values in tiled.items()}
    top = max(float(np.percentile(gap, 99.9)) for gap in gaps.values()) or 1.0
    for ax, (name, gap) in zip(axes[0, 1:], gaps.items(), strict=True):
        drawn = ax.imshow(gap, cmap="magma", vmin=0, vmax=top)
        ax.set_title(f"{name}\nmean difference {gap.mean():.2g}", fontsize=8, pad=3)
    for ax in axes[0]:
        style.bare(ax)
    bar = figure.colorbar(drawn, ax=list(axes[0, 1:]), shrink=0.85, pad=0.02)
    bar.set_label("difference of probability", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return axes[0]
