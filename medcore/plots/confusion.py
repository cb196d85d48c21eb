"""Confusion matrices: counts to believe, row shares to see; and one beside the ROC curve, for one operating point."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from medcore.errors import MedcoreError
from medcore.evaluation.curves import roc_curve
from medcore.evaluation.estimate import cases_of
from medcore.evaluation.scores import Scores
from medcore.metrics.confusion import confusion_matrix as count_decisions
from medcore.plots import style


@style.styled
def confusion_heatmap(
    matrix: np.ndarray, *, classes: Sequence[str], unit: str = "patch", ax: Axes | None = None
) -> Axes:
    """Counts with row shares; the diagonal is the sensitivity of each class.

    Args:
        matrix: counts, rows = truth, columns = prediction. **Shape** ``(K, K)``.
        classes: K class names; their colours mark the axes.

    Raises:
        MedcoreError: when the matrix does not fit the classes.
    """
    matrix = np.asarray(matrix)
    count = len(classes)
    if matrix.shape != (count, count):
        raise MedcoreError(f"confusion_heatmap: matrix has shape {matrix.shape}, but there are {count} classes.")
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    cell = float(np.clip(5.2 / count, 0.42, 0.85))
    ax = style.new_axes(ax, width=cell * count + 2.2, height=cell * count + 1.0)
    size = float(np.clip(cell * 11, 8, 9))
    written = [
        [f"{n:,}\n{_percent(s)} %" if n else "·" for n, s in zip(*row, strict=True)]
        for row in zip(matrix, shares, strict=True)
    ]
    sns.heatmap(
        shares, annot=np.array(written, dtype=object), fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True,
        linewidths=1, linecolor="white", annot_kws={"fontsize": size, "linespacing": 1.1}, ax=ax,
    )  # fmt: skip
    for row, total in enumerate(totals):
        ax.text(count + 0.12, row + 0.5, f"n = {total:,}", va="center", fontsize=8, color="#555555")
    places = np.arange(count) + 0.5
    long = max(len(name) for name in classes) * 0.08 > cell
    ax.set_xticks(places, classes, rotation=40 if long else 0, ha="right" if long else "center", rotation_mode="anchor")
    ax.set_yticks(places, classes, rotation=0)
    for name, tick_x, tick_y in zip(classes, ax.get_xticklabels(), ax.get_yticklabels(), strict=True):
        for tick in (tick_x, tick_y):
            tick.set_color(style.line_colour(style.class_colours(classes)[name]))
            tick.set_fontweight("bold")
    ax.tick_params(length=0)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title(
        f"{cases_of(int(matrix.sum()), unit)}; share of the true class in %", fontweight="normal", fontsize=8.5
    )
    return ax


def _percent(share: float) -> str:
    """A share that never shows 0 % or 100 % when it is not."""
    if 0 < share < 0.005:
        return "<1"
    if 0.995 <= share < 1:
        return ">99"
    return f"{100 * share:.0f}"


@style.styled
def operating_point(scores: Scores, *, threshold: float, positive: str | None = None) -> np.ndarray:
    """The ROC curve with the point that a threshold gives, beside the confusion matrix of its decisions.

    Args:
        scores: what a model said about known cases; use validation cases to choose, test cases only to look.
        threshold: cases with at least this score are called positive, in units of the score.
        positive: the class that is looked for, against all others; by default the second of two.

    Returns:
        The two Axes.

    Raises:
        MedcoreError: when `positive` is no class, or all cases are of one kind.
    """
    names, truth, score = against_the_rest(scores, positive)
    decision = (score >= threshold).astype(int)
    curve = roc_curve(truth == 1, score)
    _, (left, right) = plt.subplots(1, 2, figsize=(style.WIDTH, 3.3), width_ratios=(1, 1.05))
    left.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
    left.plot(curve.x, curve.y, color=style.PALETTE[0], lw=1.6)
    alarms, hits = decision[truth == 0].mean(), decision[truth == 1].mean()
    left.plot(alarms, hits, "o", color=style.INK, ms=8, mec="white", zorder=5)
    left.plot([alarms, alarms, 0], [0, hits, hits], color=style.MUTED, lw=0.8, ls=(0, (4, 3)), zorder=0)
    left.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1)
    left.set_title(f"threshold {threshold:.3g}: sensitivity {hits:.2f}, specificity {1 - alarms:.2f}", fontsize=8.5)
    confusion_heatmap(count_decisions(truth, decision, 2), classes=names, unit=scores.unit, ax=right)
    return np.array([left, right])


def against_the_rest(scores: Scores, positive: str | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the two sides, (N,) truth 0 or 1, and (N,) score of the positive side.

    Raises:
        MedcoreError: `positive` is no class, or none is given where there are more than two.
    """
    classes = list(scores.classes)
    if positive is None and len(classes) == 2:
        positive = classes[1]
    if positive not in classes:
        raise MedcoreError(f"operating_point: positive = {positive!r} must be one of {classes}.")
    number = classes.index(positive)
    values = scores.score if scores.score.ndim == 2 else np.stack([-scores.score, scores.score], axis=1)
    rest = classes[1 - number] if len(classes) == 2 else "rest"
    return [rest, positive], (scores.truth == number).astype(int), values[:, number]


def present(scores: Scores) -> list[str]:
    """Classes that have cases of their own and others to be told from, which a ROC curve needs."""
    return [name for number, name in enumerate(scores.classes) if 0 < (scores.truth == number).mean() < 1]
