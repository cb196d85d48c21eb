"""Answers beside the truth, for several findings, a grade or a measured value; and whether what is stated is true."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from medcore.errors import MedcoreError
from medcore.evaluation.curves import roc_curve
from medcore.evaluation.scores import Scores, Values
from medcore.metrics.confusion import confusion_matrix, median_grade
from medcore.metrics.measured import LIMITS
from medcore.plots import style
from medcore.plots.calibration import reliability_diagram
from medcore.plots.confusion import confusion_heatmap
from medcore.plots.curves import DIAGONAL

BINS = 8  # of stated values, each with about equally many cases


@style.styled
def truth_and_answer(cases: Mapping[str, Scores | Values], *, ax: Axes | None = None) -> Axes | np.ndarray:
    """ROC curves of findings; the confusion matrix of grades; answer over truth and Bland–Altman of a value.

    Args:
        cases: as a ``TargetStudy`` has them: by finding, or one entry of grades or values.

    Raises:
        MedcoreError: No finding is known both ways.
    """
    first = next(iter(cases.values()))
    if isinstance(first, Values):
        return bland_altman(first)
    if len(first.classes) > 2 or "grade" in cases:
        counts = confusion_matrix(first.truth, median_grade(first.score), len(first.classes))
        return confusion_heatmap(counts, classes=first.classes, unit=first.unit, ax=ax)
    known = _both_sides(cases)
    ax = style.new_axes(ax, width=4.4, height=4.0)
    ax.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
    for number, (name, part) in enumerate(known.items()):
        curve = roc_curve(part.positive, part.positive_score)
        ax.plot(curve.x, curve.y, color=style.PALETTE[number % len(style.PALETTE)], lw=1.4, label=name)
    ax.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1)
    ax.legend(loc="lower right", fontsize=8)
    style.note(ax, DIAGONAL)
    return ax


@style.styled
def bland_altman(values: Values) -> np.ndarray:
    """The answer over the truth, and the error over their mean with bias and limits of agreement.

    Returns:
        The two Axes.

    **Reference**: Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
    """
    _, (left, right) = plt.subplots(1, 2, figsize=(style.WIDTH, 3.3))
    name = values.classes[0]
    low, high = (float(of(np.r_[values.truth, values.score])) for of in (np.min, np.max))
    left.plot([low, high], [low, high], color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
    left.plot(values.truth, values.score, "o", color=style.PALETTE[0], ms=3, alpha=0.5, mew=0)
    left.set(xlabel=f"true {name}", ylabel=f"stated {name}", box_aspect=1)
    bias, spread = values.error.mean(), values.error.std(ddof=1)
    right.plot((values.truth + values.score) / 2, values.error, "o", color=style.PALETTE[0], ms=3, alpha=0.5, mew=0)
    for place, words in (
        (bias, "bias"),
        (bias - LIMITS * spread, "lower limit"),
        (bias + LIMITS * spread, "upper limit"),
    ):
        right.axhline(place, color=style.INK, lw=0.9, ls="solid" if words == "bias" else (0, (4, 3)))
        right.annotate(words, (1.0, place), xycoords=("axes fraction", "data"), xytext=(-2, 3), ha="right",
                       textcoords="offset points", fontsize=8)  # fmt: skip
    right.set(xlabel=f"mean of true and stated {name}", ylabel="stated minus true", box_aspect=1)
    return np.array([left, right])


@style.styled
def stated_and_true(cases: Mapping[str, Scores | Values], *, ax: Axes | None = None) -> Axes:
    """Reliability of the stated probabilities, one curve a finding; of a value its mean where so much was stated.

    Raises:
        MedcoreError: No finding is known both ways.
    """
    first = next(iter(cases.values()))
    if isinstance(first, Values):
        return _mean_truth(first, ax)
    if len(first.classes) > 2 or "grade" in cases:
        right = first.predicted == first.truth
        return reliability_diagram(first.score.max(axis=1), right, first.patient, ax=ax)
    for number, (name, part) in enumerate(_both_sides(cases).items()):
        colour = style.PALETTE[number % len(style.PALETTE)]
        stated, known = part.positive_score, part.positive
        ax = reliability_diagram(stated, known, part.patient, bins=5, label=name, colour=colour, ax=ax)
    assert ax is not None
    return ax


def _mean_truth(values: Values, ax: Axes | None) -> Axes:
    ax = style.new_axes(ax, width=4.2, height=3.9)
    order = np.array_split(np.argsort(values.score, kind="stable"), BINS)
    stated, true, error = (
        np.array([of(rows) for rows in order if len(rows) > 1])
        for of in (
            lambda rows: values.score[rows].mean(),
            lambda rows: values.truth[rows].mean(),
            lambda rows: values.truth[rows].std(ddof=1) / np.sqrt(len(np.unique(values.patient[rows]))),
        )
    )
    ends = [min(stated.min(), true.min()), max(stated.max(), true.max())]
    ax.plot(ends, ends, color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
    ax.errorbar(stated, true, 2 * error, fmt="o-", color=style.PALETTE[0], ms=5, lw=1.2)
    style.note(ax, f"Dots: {BINS} bins of about equally many cases; bars: two standard errors over their patients.")
    ax.set(xlabel=f"stated {values.classes[0]}", ylabel=f"mean true {values.classes[0]}", box_aspect=1)
    return ax


def _both_sides(cases: Mapping[str, Scores | Values]) -> dict[str, Scores]:
    known = {name: part for name, part in cases.items() if isinstance(part, Scores) and 0 < part.truth.mean() < 1}
    if not known:
        raise MedcoreError("no finding is known to be present in some and absent in other images")
    return known
