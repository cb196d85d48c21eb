"""What is in a set: images per class and side, patients, sizes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from medcore.data.audit.audit import Audit
from medcore.data.audit.hashing import apply_symmetry
from medcore.data.datasets import title_of
from medcore.data.patchset import PatchSet
from medcore.data.splits import SPLITS, group_names, unit_of
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import plural
from medcore.plots import style
from medcore.plots.images import image_pairs

SIDES = (*SPLITS, "unassigned")


@style.styled
def class_counts(ps: PatchSet, *, ax: Axes | None = None) -> Axes:
    """Images per class or finding, split into train, val and test, with totals and shares written out.

    Args:
        ps: the set; unlabelled images, or those without any finding, are a bar of their own.
    """
    shown, none = ps.shown, "no finding present" if ps.card.task == "findings" else "unlabelled"
    bare = ~shown.any(axis=1, keepdims=True)
    names, shown = [*ps.classes, *([none] if bare.any() else [])], np.concatenate([shown, bare], axis=1)
    sides = np.where(ps.splits == "", "unassigned", ps.splits)
    ax = style.new_axes(ax, height=0.75 + 0.3 * len(names))
    start = np.zeros(len(names))
    for side in SIDES:
        counts = shown[sides == side].sum(axis=0)[: len(names)]
        if counts.any():
            ax.barh(names, counts, left=start, height=0.72, color=style.SPLIT_COLOURS[side], label=side)
            start += counts
    for place, total in enumerate(start):
        ax.annotate(
            f"{int(total):,}  ({total / len(ps):.1%})",
            (total, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#333333",
        )
    ax.set_yticks(range(len(names)), [f"{title_of(name)} {name}".strip() for name in names])
    ax.invert_yaxis()
    ax.set(xlabel=f"number of {plural(ps.card.case)}", xlim=(0, max(start.max(), 1) * 1.17))
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, handlelength=1, handleheight=1)
    return ax


FAR_MORE = 20  # times the images of the patient with the fewest, from which a linear scale would hide these


@style.styled
def images_per_patient(ps: PatchSet, *, ax: Axes | None = None) -> Axes:
    """How many images each patient gives, sorted, with the median; on a log scale where some give far more."""
    unit = unit_of(ps)
    counts = np.sort(pd.Series(group_names(ps)).value_counts().to_numpy())[::-1]
    ax = style.new_axes(ax, height=2.6)
    place = np.arange(1, len(counts) + 1)
    ax.fill_between(place, counts, 0.8, step="mid", color=style.lighten(style.PALETTE[0], 0.75), lw=0)
    ax.step(place, counts, where="mid", color=style.PALETTE[0], lw=1.4)
    median = float(np.median(counts))
    ax.axhline(median, color=style.MUTED, lw=1, ls=(0, (4, 3)))
    uneven = counts.max() > FAR_MORE * counts.min()
    ax.set(ylim=(0, counts.max() * 1.15), xlim=(0.5, len(counts) + 0.5))
    ax.set(xlabel=f"{unit}s, sorted by number of images", ylabel="images (log scale)" if uneven else "images")
    if uneven:
        ax.set(yscale="log", ylim=(0.8, counts.max() * 1.6))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_formatter(lambda value, _: "")
    ax.annotate(
        f"median {median:g}",
        (1.0, median),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color="#333333",
    )
    ax.set_title(f"{len(counts):,} {unit}s, {counts.min():,} to {counts.max():,} images each")
    return ax


@style.styled
def copies_found(ps: PatchSet, audited: Audit, *, limit: int = 9, ax: Axes | None = None) -> Axes:
    """Pairs that the audit holds for copies, those across the split first; flips and turns are undone on the right.

    Args:
        ps: the set that was audited.
        limit: pairs shown.

    Raises:
        MedcoreError: when the audit found no pair.
    """
    if audited.pairs.empty:
        raise MedcoreError("copies_found: the audit found no copies; there is nothing to show.")
    pairs = audited.pairs.sort_values(["across", "same_group", "agreement"], ascending=[False, True, False]).head(limit)
    left, right = (ps.take(pairs[end].to_numpy(dtype=int)) for end in "ab")
    if ps.shape[0] == ps.shape[1]:
        turns = pairs["symmetry"].clip(lower=0).to_numpy(dtype=int)
        right = np.stack([apply_symmetry(image, turn) for image, turn in zip(right, turns, strict=True)])
    unit = unit_of(ps)
    captions = [
        f"{pair.kind}\n{'across the split' if pair.across else f'one {unit}' if pair.same_group else f'two {unit}s'}"
        for pair in pairs.itertuples()
    ]
    return image_pairs(left, right, captions=captions, columns=min(3, len(pairs)), ax=ax)
