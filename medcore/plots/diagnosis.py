"""From windows to patients: their scores, the windows behind them, levels of density, folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from medcore.errors import MedcoreError
from medcore.plots import style
from medcore.plots.images import as_colour

NEGATIVE, POSITIVE = style.PALETTE[0], style.PALETTE[1]
TEXT_INCHES = 2.75  # room for name, score and decision
NAMED_WRONG, STRAIGHT = 24, 8  # more names than this cannot be read in one figure
RIGHT, WRONG = "#009E73", "#B2182B"


@style.styled
def sorted_patient_scores(
    score: np.ndarray,
    truth: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    threshold: float | None = None,
    threshold_name: str = "threshold",
    classes: tuple[str, str] = ("negative", "positive"),
    label: str = "patient score",
    ax: Axes | None = None,
) -> Axes:
    """Every patient a dot, sorted by score; wrong decisions are ringed and named.

    Args:
        score: (N,) a score per patient.
        truth: (N,) whether the patient is positive.
        names: (N,) patient names, written at the wrong ones.
        classes: what negative and positive are called.
    """
    score, truth = np.asarray(score, dtype=float), np.asarray(truth, dtype=bool)
    order = np.argsort(score, kind="stable")
    ax = style.new_axes(ax, height=3.0)
    for positive, colour in ((False, NEGATIVE), (True, POSITIVE)):
        places = np.flatnonzero(truth[order] == positive)
        ax.plot(places, score[order][places], "o", color=colour, ms=4.5, mew=0, label=classes[int(positive)])
    if threshold is not None:
        ax.axhline(threshold, color=style.INK, lw=1.1, ls=(0, (4, 2)))
        ax.annotate(
            f"{threshold_name}: {threshold:.3g}",
            (0.0, threshold),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=8,
        )
        wrong = np.flatnonzero((score[order] >= threshold) != truth[order])
        ax.plot(wrong, score[order][wrong], "o", mfc="none", mec=WRONG, ms=9, mew=1.2, label="wrong decision")
        if names is not None and len(wrong) <= NAMED_WRONG:
            _name_wrong(ax, wrong, score[order], np.asarray(names)[order], score[order][wrong] >= threshold)
    ax.set(xticks=[], ylabel=label, xlabel=f"{len(score):,} patients, sorted by score", xlim=(-1, len(score)))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, handletextpad=0.1)
    return ax


def _name_wrong(ax: Axes, places: np.ndarray, heights: np.ndarray, names: np.ndarray, alarms: np.ndarray) -> None:
    """Names of wrong patients in a row above (false alarms) and below (missed), with a thin line to their dot."""
    low, high = heights.min(), heights.max()
    room = 0.22 * (high - low)
    ax.set_yticks([tick for tick in ax.get_yticks() if low - 0.3 * room <= tick <= high + 0.3 * room])
    for part, level, side in ((places[~alarms], low - room, "top"), (places[alarms], high + room, "bottom")):
        for place, x in zip(
            part, style.spread_apart(part, len(heights) * (0.085 if len(part) <= STRAIGHT else 0.035)), strict=True
        ):
            ax.plot([place, x], [heights[place], level], color=WRONG, lw=0.5, alpha=0.6, zorder=0)
            ax.text(
                x,
                level,
                str(names[place]),
                ha="center",
                va=side,
                fontsize=8,
                color=WRONG,
                rotation=0 if len(part) <= STRAIGHT else 90,
            )
    below, above = (2.4 if (part.sum() > STRAIGHT) else 1.5 for part in (~alarms, alarms))
    ax.set_ylim(low - below * room, high + above * room)


@style.styled
def patient_gallery(
    windows: np.ndarray,
    *,
    patient: Sequence[str],
    score: Sequence[float],
    decision: Sequence[str],
    truth: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
    maps: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A row per patient: name, score, decision and truth, and the windows that decided.

    Args:
        windows: the most suspicious windows of each patient. **Shape** ``(P, K, H, W, C)``; all-white = none.
        truth: P true diagnoses; a decision that differs is red.
        captions: P × K texts below the windows, such as their scores.
        maps: a coloured map beside each window. **Shape** ``(P, K, H, W, 3)`` uint8.

    Raises:
        MedcoreError: when the lengths differ.
    """
    rows, count = windows.shape[:2]
    if not rows == len(patient) == len(score) == len(decision) == len(truth):
        raise MedcoreError(f"patient_gallery: {rows} rows of windows for {len(patient)} patients.")
    pictures = as_colour(windows.reshape(-1, *windows.shape[2:])).reshape(rows, count, *windows.shape[2:4], 3)
    if maps is not None:
        pictures = np.stack([pictures, maps], axis=2).reshape(rows, 2 * count, *pictures.shape[2:])
    columns = pictures.shape[1]
    tile = min(0.95, (style.WIDTH - TEXT_INCHES) / (1.05 * columns))  # inches
    text_room, step = TEXT_INCHES / tile, 1.0 + (0.24 if captions is not None else 0.06)
    width = text_room + columns * 1.05
    ax = style.new_axes(ax, width=tile * width + 0.1, height=tile * (rows * step + 0.3) + 0.1)
    columns_at = [0.0, 0.85 / tile, 1.4 / tile]
    for place, name in zip(columns_at, ("patient", "score", "decision (truth)"), strict=True):
        ax.text(place, -0.08, name, fontsize=8, fontweight="bold", va="bottom")
    for row in range(rows):
        top, wrong = row * step, decision[row] != truth[row]
        ax.plot([0, width], [top - 0.03] * 2, color=style.FAINT, lw=0.7, zorder=0)
        ax.text(0, top + 0.5, patient[row], fontsize=8, va="center")
        ax.text(columns_at[1], top + 0.5, f"{score[row]:.2f}".replace("-", "−"), fontsize=8, va="center")
        ink, mark = (WRONG, "✗") if wrong else (RIGHT, "✓")
        ax.text(
            columns_at[2], top + 0.42, f"{mark} {decision[row]}", fontsize=8, va="center", color=ink, fontweight="bold"
        )
        ax.text(columns_at[2], top + 0.68, f"({truth[row]})", fontsize=8, va="center", color="#555555")
        for column in range(columns):
            left = text_room + column * 1.05 - (0.04 if maps is not None and column % 2 else 0)
            ax.imshow(pictures[row, column], extent=(left, left + 1, top + 1, top), interpolation="antialiased")
            if captions is not None and (maps is None or column % 2 == 0):
                text = captions[row][column if maps is None else column // 2]
                ax.text(left + 0.5, top + 1.03, text, fontsize=8, ha="center", va="top", color="#555555")
    ax.set(xlim=(-0.02, width), ylim=(rows * step, -0.3), aspect="equal")
    style.bare(ax)
    return ax


@style.styled
def fold_results(
    table: pd.DataFrame,
    *,
    value: str,
    baselines: Mapping[str, float] | None = None,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A value per fold with its interval, and the mean over folds.

    Args:
        table: columns ``fold``, `value`, and optionally ``low``, ``high`` and ``n``.
        value: the column that is drawn.
        baselines: name to value, drawn as lines.

    Raises:
        MedcoreError: when the column is missing.
    """
    if not {"fold", value} <= set(table):
        raise MedcoreError(f"fold_results: columns 'fold' and {value!r} are needed, but there are {list(table)}.")
    ax = style.new_axes(ax, width=5.6, height=2.8)
    places = np.arange(len(table))
    if {"low", "high"} <= set(table):
        ax.vlines(places, table["low"], table["high"], color=style.PALETTE[0], lw=2, alpha=0.6)
    sns.stripplot(x=places, y=table[value].to_numpy(), color=style.PALETTE[0], size=7, jitter=False, edgecolor="white",
                  linewidth=1, ax=ax)  # fmt: skip
    counts = [f"\nn = {count:,}" for count in table["n"]] if "n" in table else [""] * len(table)
    ax.set_xticks(places, [f"fold {fold}{count}" for fold, count in zip(table["fold"], counts, strict=True)])
    ax.set(xlim=(-0.6, len(table) - 0.4), ylabel=label or value.replace("_", " "))
    mean = float(table[value].mean())
    lines = [(f"mean {mean:.2f}", mean, style.PALETTE[0])]
    for number, (name, height) in enumerate((baselines or {}).items()):
        lines.append((f"{name} {height:.2f}", height, style.PALETTE[1 + number % 4]))
    if {"low", "high"} <= set(table):
        style.note(ax, "Bars: 95 % CI of each fold. Dashed: mean over the folds.")
    ends = [height for _, height, _ in lines]
    ends += [*table["low"].dropna(), *table["high"].dropna()] if {"low", "high"} <= set(table) else []
    low, high = ax.get_ylim()
    room = 0.06 * (max(high, *ends) - min(low, *ends))
    ax.set_ylim(min(low, *ends) - room, max(high, *ends) + room)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y")
    style.reference_lines(ax, lines)
    return ax
