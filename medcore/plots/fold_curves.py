"""One ROC curve per fold, their mean, and how far it is known."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from medcore.evaluation.curves import mean_roc, roc_curve
from medcore.evaluation.scores import Scores
from medcore.plots import style


@style.styled
def fold_roc_curves(folds: Sequence[Scores], *, estimate: str = "", ax: Axes | None = None) -> Axes:
    """The ROC curve of each fold, and their vertical mean with its 95 % band over folds.

    Args:
        folds: Scores of each fold's held-out patients, both kinds in each.
        estimate: printed AUROC with its interval.
        ax: where to draw.

    Raises:
        MedcoreError: when there is no fold, or one with a single kind of patient.
    """
    band = mean_roc(folds)
    ax = style.new_axes(ax, width=4.6, height=3.9)
    ax.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
    for fold in folds:
        curve = roc_curve(fold.positive, fold.positive_score)
        ax.plot(curve.x, curve.y, color=style.MUTED, lw=0.9, alpha=0.7)
    if band.low is not None and band.high is not None:
        ax.fill_between(band.x, band.low, band.high, color=style.PALETTE[0], alpha=0.18, lw=0)
    ax.plot(band.x, band.value, color=style.PALETTE[0], lw=2.2)
    text = f"{estimate}\nblue: mean of {len(folds)} folds, 95 % band\ngrey: each fold".strip()
    ax.text(0.98, 0.06, text, transform=ax.transAxes, ha="right", fontsize=8.5)
    ax.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1)
    return ax
