"""One ROC curve per fold, their mean, and how far they spread."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from medcore.errors import MedcoreError
from medcore.plots import style
from medcore.plots.curves import roc_points

GRID = np.linspace(0, 1, 101)


@style.styled
def fold_roc_curves(
    score: np.ndarray,
    truth: np.ndarray,
    fold: np.ndarray,
    *,
    estimate: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The ROC curve of each fold, their vertical mean with a band of one standard deviation.

    Args:
        score: (P,) comparable within a fold.
        truth: (P,) whether a patient is positive.
        fold: (P,) fold of each patient; a fold of one kind only has no curve and is left out.
        estimate: printed AUROC with its interval.
        ax: where to draw.

    Raises:
        MedcoreError: when no fold has patients of both kinds.

    **Reference** Fawcett 2006 (vertical averaging), doi:10.1016/j.patrec.2005.10.010.
    """
    score, truth, fold = np.asarray(score, dtype=float), np.asarray(truth, dtype=bool), np.asarray(fold)
    usable = [number for number in np.unique(fold) if 0 < truth[fold == number].sum() < (fold == number).sum()]
    if not usable:
        raise MedcoreError("fold_roc_curves: no fold has both positive and negative patients.")
    ax = style.new_axes(ax, width=4.6, height=3.9)
    ax.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
    heights = []
    for number in usable:
        false, true = roc_points(truth[fold == number], score[fold == number])
        ax.plot(false, true, color=style.MUTED, lw=0.9, alpha=0.7)
        heights.append(np.interp(GRID, false, true))
    mean, spread = np.mean(heights, axis=0), np.std(heights, axis=0)
    ax.fill_between(
        GRID, np.clip(mean - spread, 0, 1), np.clip(mean + spread, 0, 1), color=style.PALETTE[0], alpha=0.18, lw=0
    )
    ax.plot(GRID, mean, color=style.PALETTE[0], lw=2.2)
    ax.text(0.98, 0.06, f"{estimate or ''}\nblue: mean of {len(usable)} folds ± 1 SD\ngrey: each fold".strip(),
            transform=ax.transAxes, ha="right", fontsize=8.5)  # fmt: skip
    ax.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1)
    return ax
