"""One operating point: where it lies on the ROC curve, and what it means in counts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from medcore.errors import MedcoreError
from medcore.evaluation.curves import roc_curve
from medcore.evaluation.metrics import confusion_matrix as count_decisions
from medcore.evaluation.scores import Scores
from medcore.plots import style
from medcore.plots.confusion import confusion_matrix


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
    confusion_matrix(count_decisions(truth, decision, 2), classes=names, unit=scores.unit, ax=right)
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


def threshold_range(scores: Scores, positive: str | None = None) -> tuple[float, float]:
    """Lowest and highest score, the ends of a slider over thresholds."""
    _, _, score = against_the_rest(scores, positive)
    low, high = float(score.min()), float(score.max())
    return low, high if high > low else low + 1.0
