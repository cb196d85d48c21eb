"""How values spread: colour and stain per class and patient, scores per class with the threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from medcore.data.patchset import PatchSet
from medcore.data.splits import SPLITS, group_names, unit_of
from medcore.data.stain import HAEMATOXYLIN_EOSIN, separate_stains
from medcore.plots import style

CHANNELS = (("red", "#C23B22"), ("green", "#2E8B57"), ("blue", "#3B5BA5"))
SAMPLE = 4000  # images are enough to draw a distribution


@style.styled
def colour_by_class(ps: PatchSet, *, seed: int = 0, ax: Axes | None = None) -> Axes:
    """Mean red, green and blue of the images of each class: median, quartiles, and 5 to 95 %.

    Classes that stand apart here can be told by a mean colour alone, without looking at any structure.

    Args:
        ps: the set; at most 4,000 random images are read.
    """
    ps = _sample(ps, seed)
    means = np.concatenate([chunk.mean(axis=(1, 2), dtype=np.float32) for chunk in ps.chunks(256)])
    present = [number for number in range(len(ps.classes)) if (ps.labels == number).any()]
    channels = CHANNELS if means.shape[1] == 3 else (("brightness", style.INK),)
    ax = style.new_axes(ax, height=0.9 + 0.36 * len(present))
    for row, number in enumerate(present):
        values = means[ps.labels == number]
        for channel, (_, colour) in enumerate(channels):
            _interval(ax, values[:, channel], row + (channel - (len(channels) - 1) / 2) * 0.22, colour)
        typical = np.resize(np.median(values, axis=0) / 255, 3)
        ax.add_patch(Rectangle((262, row - 0.33), 12, 0.66, color=typical))
    ax.set(
        xlim=(0, 276), ylim=(len(present) - 0.4, -0.6), xlabel="mean of an image, 0 to 255", xticks=range(0, 256, 51)
    )
    ax.set_yticks(range(len(present)), [ps.classes[number] for number in present])
    ax.tick_params(axis="y", length=0)
    ax.set_title(
        "median, quartiles, 5 to 95 % of images; typical colour at the right", fontweight="normal", fontsize=8.5
    )
    for place, (name, colour) in enumerate(channels if len(channels) == 3 else ()):
        ax.text(0.76 + 0.08 * place, 1.02, name, transform=ax.transAxes, color=colour, fontsize=8.5, fontweight="bold")
    return ax


@style.styled
def stain_by_patient(
    ps: PatchSet,
    *,
    matrix: np.ndarray = HAEMATOXYLIN_EOSIN,
    names: tuple[str, str] = ("haematoxylin", "eosin"),
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """The mean amount of two stains in each patient's images: how far laboratories and days differ.

    Args:
        ps: a set of RGB images; at most 4,000 random images are read.
        matrix: stain vectors, **Shape** ``(2 or 3, 3)``.
        names: what the first two stains are called.
    """
    ps = _sample(ps, seed)
    amounts = []
    for chunk in ps.chunks(256):
        stains = separate_stains(chunk[:, ::2, ::2], matrix)[..., :2]
        amounts.append(stains.mean(axis=(1, 2)))
    frame = pd.DataFrame(np.concatenate(amounts), columns=list("xy"))
    frame["group"], frame["side"] = group_names(ps), ps.splits
    patients = frame.groupby("group").agg(x=("x", "mean"), y=("y", "mean"), n=("x", "size"), side=("side", "first"))
    ax = style.new_axes(ax, width=4.6, height=3.6)
    for side in [name for name in (*SPLITS, "") if (patients["side"] == name).any()]:
        part = patients[patients["side"] == side]
        colour = style.SPLIT_COLOURS[side or "unassigned"]
        size = np.clip(np.sqrt(part["n"]) * 7, 8, 90)
        ax.scatter(part["x"], part["y"], s=size, color=colour, alpha=0.75, lw=0.4, ec="white", label=side or None)
    ax.set(xlabel=f"{names[0]}, mean optical density", ylabel=f"{names[1]}, mean optical density")
    ax.set_title(f"one dot a {unit_of(ps)}, larger with more images", fontweight="normal", fontsize=8.5)
    if (patients["side"] != "").any():
        ax.legend(loc="best")
    return ax


@style.styled
def score_histograms(
    score: np.ndarray,
    truth: np.ndarray,
    *,
    classes: Sequence[str],
    threshold: float | None = None,
    threshold_name: str = "threshold",
    label: str = "score",
    bins: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """The score's distribution in each class, one above the other, with the threshold across.

    Args:
        score: (N,) the model's score.
        truth: (N,) class numbers.
        threshold: the operating point, in the score's units.
        threshold_name: how it was chosen, as in ``"threshold (youden, validation)"``.
        bins: number of bins over the range of all scores.
    """
    score, truth = np.asarray(score, dtype=float), np.asarray(truth)
    present = [number for number in range(len(classes)) if (truth == number).any()]
    colours = style.class_colours(classes)
    edges = np.linspace(score.min(), score.max() if np.ptp(score) else score.min() + 1, bins + 1)
    ax = style.new_axes(ax, height=0.9 + 0.62 * len(present))
    for base, number in enumerate(reversed(present)):
        values, colour = score[truth == number], colours[classes[number]]
        heights = np.histogram(values, edges)[0] / len(values)
        ridge = base + 0.85 * heights / max(heights.max(), 1e-12)
        ax.stairs(ridge, edges, baseline=base, fill=True, color=colour, alpha=0.8)
        ax.axhline(base, color=style.FAINT, lw=0.8, zorder=0)
        above = "" if threshold is None else f"\n{(values >= threshold).mean():.0%} above"
        _beside(ax, f"{classes[number]} (n = {len(values):,}){above}", base + 0.12, style.line_colour(colour))
    if threshold is not None:
        ax.axvline(threshold, color=style.INK, lw=1.2, ls=(0, (4, 2)))
        side = "left" if threshold < edges.mean() else "right"
        ax.annotate(f"{threshold_name}: {threshold:.3g}", (threshold, 1.0), xycoords=("data", "axes fraction"),
                    xytext=(4, 2), textcoords="offset points", ha=side, va="bottom", fontsize=8)  # fmt: skip
    style.note(ax, "Each class is drawn to its own height.")
    ax.set(yticks=[], ylim=(0, len(present)), xlabel=label, ylabel="share of class")
    ax.spines["left"].set_visible(False)
    return ax


def _beside(ax: Axes, text: str, y: float, colour: str) -> None:
    """A bold text right of the Axes."""
    ax.annotate(text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
                va="bottom", fontsize=8, color=colour, fontweight="bold")  # fmt: skip


def _sample(ps: PatchSet, seed: int) -> PatchSet:
    """At most `SAMPLE` random rows, in file order."""
    if len(ps) <= SAMPLE:
        return ps
    return ps.select(np.sort(np.random.default_rng(seed).choice(len(ps), SAMPLE, replace=False)))


def _interval(ax: Axes, values: np.ndarray, y: float, colour: str) -> None:
    """Median as a dot, quartiles thick, 5 to 95 % thin."""
    low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95])
    ax.plot([low, high], [y, y], color=colour, lw=0.9, solid_capstyle="butt")
    ax.plot([first, third], [y, y], color=colour, lw=3, alpha=0.55, solid_capstyle="butt")
    ax.plot(middle, y, "o", color=colour, ms=4, mec="white", mew=0.6)
