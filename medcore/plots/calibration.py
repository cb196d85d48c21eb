"""Is a stated probability true? Reliability diagrams, before and after calibration, and decision curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from medcore.errors import MedcoreError
from medcore.evaluation.calibration import reliability
from medcore.evaluation.curves import DecisionCurve
from medcore.evaluation.resampling import group_index
from medcore.metrics.calibration import calibration_error
from medcore.plots import style

TREAT_ALL, TREAT_NONE = "#555555", "#999999"


@style.styled
def reliability_diagram(
    probability: np.ndarray,
    outcome: np.ndarray,
    patient: np.ndarray | None = None,
    *,
    bins: int = 10,
    label: str | None = None,
    colour: str = style.PALETTE[0],
    ax: Axes | None = None,
) -> Axes:
    """How often it happened, over how probable the model said it was: equal-mass bins with Wilson intervals.

    Args:
        probability: (N,) stated probabilities, 0…1 (of the positive class, or of the predicted class).
        outcome: (N,) whether it was so (positive, or predicted correctly).
        patient: (N,) whose case it is; the bars then speak of patients, not of cases.
        bins: number of bins, each with about the same number of cases.
        label: name of this curve, written beside it.
        ax: where to draw; call again on the same Axes to compare.

    Raises:
        MedcoreError: when a probability lies outside 0…1.
    """
    found = reliability(probability, outcome, patient, bins=bins)
    group = None if patient is None else group_index(patient)[0]
    ax = style.new_axes(ax, width=4.2, height=3.9)
    fresh = not ax.lines
    if fresh:
        ax.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
        ax.annotate("overconfident", (0.97, 0.06), ha="right", fontsize=8, color="#777777", style="italic")
        ax.annotate("underconfident", (0.03, 0.93), fontsize=8, color="#777777", style="italic")
    ax.vlines(found.stated, found.low, found.high, color=colour, lw=1.4, alpha=0.6)
    ax.plot(found.stated, found.observed, "o-", color=colour, lw=1.2, ms=5, mec="white", mew=0.7, label=label)
    shown = np.asarray(probability)[:: max(1, len(probability) // 400)]
    ax.plot(shown, np.full(len(shown), -0.035 if fresh else -0.06), "|", color=colour, ms=4, alpha=0.25, clip_on=False)
    error = calibration_error(probability, outcome, group, bins=bins)
    row = len([text for text in ax.texts if text.get_gid() == "calibration error"])
    ax.annotate(
        f"{label + ': ' if label else ''}calibration error {error:.3f}",
        (0.0, 1.0),
        xycoords="axes fraction",
        xytext=(0, 6 + 12 * row),
        textcoords="offset points",
        fontsize=8.5,
        color=style.line_colour(colour),
        fontweight="bold",
        gid="calibration error",
    )
    over = "single cases" if patient is None else "patients"
    style.note(ax, f"Dots: {bins} bins of about equally many cases; bars: 95 % Wilson intervals over {over}.")
    style.note(ax, "Dotted: perfect calibration; ticks below: single stated probabilities.")
    ax.set(xlabel="stated probability", ylabel="observed share", xlim=(-0.01, 1.01), ylim=(-0.08, 1.01), box_aspect=1)
    return ax


@style.styled
def calibration_before_after(
    before: np.ndarray,
    after: np.ndarray,
    outcome: np.ndarray,
    patient: np.ndarray | None = None,
    *,
    names: tuple[str, str] = ("before", "after"),
    bins: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Two reliability curves on one diagram, such as before and after temperature scaling.

    Args:
        before: (N,) probabilities of the raw model.
        after: (N,) probabilities after calibration.
        outcome: (N,) what happened, for both.
        names: what the two are called.
    """
    ax = reliability_diagram(before, outcome, patient, bins=bins, label=names[0], colour=style.PALETTE[1], ax=ax)
    return reliability_diagram(after, outcome, patient, bins=bins, label=names[1], colour=style.PALETTE[0], ax=ax)


@style.styled
def decision_curves(found: Mapping[str, DecisionCurve], *, ax: Axes | None = None) -> Axes:
    """Net benefit over the threshold probability, against treating everybody and nobody.

    Args:
        found: method to its ``evaluation.curves.decision_curve``, all of the same cases and thresholds.

    Raises:
        MedcoreError: when there is nothing to draw.

    **Reference**: Vickers & Elkin 2006, doi:10.1177/0272989X06295361.
    """
    if not found:
        raise MedcoreError("decision_curves: needs at least one decision curve.")
    ax = style.new_axes(ax, width=5.6, height=3.3)
    first = next(iter(found.values()))
    lines = [("treat all", first.treat_all, TREAT_ALL), ("treat none", np.zeros(len(first.threshold)), TREAT_NONE)]
    for _, values, colour in lines:
        ax.plot(first.threshold, values, color=colour, lw=1.1, ls=(0, (4, 2)))
    for number, (name, curve) in enumerate(found.items()):
        colour = style.PALETTE[number % len(style.PALETTE)]
        ax.plot(curve.threshold, curve.model, color=colour)
        if curve.low is not None and curve.high is not None:
            ax.fill_between(curve.threshold, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
        lines.append((name, curve.model, colour))
    if any(curve.low is not None for curve in found.values()):
        style.note(ax, "Band: 95 %, pointwise, from bootstrap resamples of patients.")
    bands = [curve.high for curve in found.values() if curve.high is not None]
    top = max(float(np.max(values)) for values in [*(values for _, values, _ in lines), *bands]) or 0.01
    ax.set(xlabel="threshold probability", ylabel="net benefit", ylim=(-0.15 * top, 1.1 * top))
    ax.set_xlim(first.threshold[0], first.threshold[-1])
    ends = [float(np.clip(values[-1], *ax.get_ylim())) for _, values, _ in lines]
    style.label_ends(ax, [name for name, _, _ in lines], ends, [colour for _, _, colour in lines], gap=0.07)
    return ax
