"""Is a stated probability true? Reliability diagrams, before and after calibration, and decision curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import norm

from medcore.errors import MedcoreError
from medcore.plots import style


@style.styled
def reliability_diagram(
    probability: np.ndarray,
    outcome: np.ndarray,
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
        bins: number of bins, each with about the same number of cases.
        label: name of this curve, written beside it.
        colour: its colour.
        ax: where to draw; call again on the same Axes to compare.

    Raises:
        MedcoreError: when a probability lies outside 0…1.
    """
    probability, outcome = np.asarray(probability, dtype=float), np.asarray(outcome, dtype=bool)
    if not len(probability) or probability.min() < 0 or probability.max() > 1:
        raise MedcoreError("reliability_diagram: probability must hold values between 0 and 1.")
    fresh = ax is None
    ax = style.new_axes(ax, width=4.2, height=3.9)
    if fresh:
        ax.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
        ax.annotate("too sure", (0.97, 0.60), ha="right", fontsize=8, color="#777777", style="italic")
        ax.annotate("too modest", (0.03, 0.47), fontsize=8, color="#777777", style="italic")
    parts = [part for part in np.array_split(np.argsort(probability, kind="stable"), bins) if len(part)]
    stated = np.array([probability[part].mean() for part in parts])
    observed = np.array([outcome[part].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    low, high = wilson(observed, sizes)
    ax.vlines(stated, low, high, color=colour, lw=1.4, alpha=0.6)
    ax.plot(stated, observed, "o-", color=colour, lw=1.2, ms=5, mec="white", mew=0.7, label=label)
    ax.plot(
        probability[:: max(1, len(probability) // 400)],
        np.full(len(probability[:: max(1, len(probability) // 400)]), -0.035 if fresh else -0.06),
        "|",
        color=colour,
        ms=4,
        alpha=0.25,
        clip_on=False,
    )
    error = float(np.sum(sizes / sizes.sum() * np.abs(stated - observed)))
    row = len([text for text in ax.texts if text.get_gid() == "calibration error"])
    ax.text(
        0.98,
        0.17 + 0.07 * row,
        f"{label + ': ' if label else ''}calibration error {error:.3f}",
        transform=ax.transAxes,
        ha="right",
        fontsize=8.5,
        color=style.line_colour(colour),
        fontweight="bold",
        gid="calibration error",
    )
    ax.set(xlabel="stated probability", ylabel="observed share", xlim=(-0.01, 1.01), ylim=(-0.08, 1.01), box_aspect=1)
    return ax


@style.styled
def calibration_before_after(
    before: np.ndarray,
    after: np.ndarray,
    outcome: np.ndarray,
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
        bins: number of equal-mass bins.
        ax: where to draw.
    """
    ax = reliability_diagram(before, outcome, bins=bins, label=names[0], colour=style.PALETTE[1], ax=ax)
    return reliability_diagram(after, outcome, bins=bins, label=names[1], colour=style.PALETTE[0], ax=ax)


@style.styled
def decision_curve(
    thresholds: np.ndarray,
    net_benefit: Mapping[str, np.ndarray],
    *,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Net benefit over the threshold probability, against treating everybody and nobody.

    Args:
        thresholds: (T,) threshold probabilities.
        net_benefit: name to (T,) net benefit; the names ``"treat all"`` and ``"treat none"`` are drawn grey.
        bands: name to (low, high), each (T,).
        ax: where to draw.

    **Reference**: Vickers & Elkin 2006, doi:10.1177/0272989X06295361.
    """
    ax = style.new_axes(ax, width=5.6, height=3.3)
    ax.axhline(0, color=style.MUTED, lw=1)
    plain = {"treat all": "#555555", "treat none": "#999999"}
    models = [name for name in net_benefit if name not in plain]
    for name, values in net_benefit.items():
        colour = plain.get(name) or style.PALETTE[models.index(name) % len(style.PALETTE)]
        ax.plot(
            thresholds, values, color=colour, lw=1.1 if name in plain else 1.9, ls=(0, (4, 2)) if name in plain else "-"
        )
        if bands and name in bands:
            ax.fill_between(thresholds, *bands[name], color=colour, alpha=0.15, lw=0)
    top = max(float(np.max(values)) for values in net_benefit.values())
    ax.set(
        xlabel="threshold probability",
        ylabel="net benefit",
        xlim=(thresholds[0], thresholds[-1]),
        ylim=(-0.15 * top, 1.1 * top),
    )
    ends, colours = [], []
    for name, values in net_benefit.items():
        ends.append(float(np.clip(values[-1], *ax.get_ylim())))
        colours.append(plain.get(name) or style.PALETTE[models.index(name) % len(style.PALETTE)])
    style.label_ends(ax, list(net_benefit), ends, colours, gap=0.07)
    return ax


def wilson(share: np.ndarray, count: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of a proportion; stays inside 0…1 and is honest at both ends.

    **Reference**: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    z = norm.ppf(0.5 + level / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half
