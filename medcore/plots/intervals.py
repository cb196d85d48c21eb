"""Estimates with their intervals, beside what trivial baselines reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from matplotlib.axes import Axes

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import metric_name, printed
from medcore.plots import style

DASHES: tuple = ((0, (1, 1.2)), (0, (4, 2)), (0, (5, 1.5, 1, 1.5)), "solid")


class EstimateLike(Protocol):
    """What a plot needs of ``evaluation.intervals.Estimate``."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    split: str
    method: str
    note: str


@style.styled
def forest(
    estimates: Sequence[EstimateLike],
    *,
    baselines: Mapping[str, Sequence[EstimateLike]] | None = None,
    labels: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    chance: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One row per estimate: point, interval, printed value, and each baseline's value as a line across the row.

    Args:
        estimates: in reading order; one that could not be estimated shows its note.
        baselines: baseline name to its estimates; they are matched by metric name (and unit).
        labels: row names, by default the metric's name, unit and split.
        limits: of the axis; by default 0…1 when all values lie there.
        chance: where guessing lies, a dotted line; known of AUROC (one half) and of differences (zero).

    Raises:
        MedcoreError: when there is nothing to draw.
    """
    if not estimates:
        raise MedcoreError("forest: needs at least one estimate.")
    labels = labels or [f"{metric_name(one.name)}\n{one.unit}, {one.split}" for one in estimates]
    ax = style.new_axes(ax, height=0.8 + 0.42 * len(estimates) + (0.2 if baselines else 0))
    for row, one in enumerate(estimates):
        if one.value is None:
            ax.text(
                0.01,
                row,
                f"not estimable: {one.note}",
                transform=ax.get_yaxis_transform(),
                va="center",
                fontsize=8,
                color="#8A2B0F",
            )
            continue
        if one.low is not None and one.high is not None:
            ax.plot([one.low, one.high], [row, row], color=style.PALETTE[0], lw=2.4, solid_capstyle="butt")
        ax.plot(one.value, row, "o", color=style.PALETTE[0], ms=7, mec="white", mew=1)
        _right(ax, row, f"{_printed(one)}   n = {one.n:,}")
    _draw_baselines(ax, estimates, baselines or {})
    ax.set_yticks(range(len(estimates)), labels)
    ax.set_ylim(len(estimates) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.spines["left"].set_visible(False)
    ax.set_xlim(*(limits or _limits(ax)))
    ax.set_xlabel(axis_label(estimates))
    _draw_chance(ax, estimates, chance)
    _note_methods(ax, estimates)
    return ax


def _draw_chance(ax: Axes, estimates: Sequence[EstimateLike], chance: float | None) -> None:
    """A dotted line where guessing or no difference lies, as far as that is known."""
    names = {_metric(one) for one in estimates}
    differences = all(name.endswith("_difference") for name in names)
    if chance is None:
        chance = 0.0 if differences else 0.5 if names <= {"auroc", "macro_auroc"} else None
    if chance is not None:
        ax.axvline(chance, color=style.MUTED, lw=0.9, ls=(0, (2, 3)), zorder=0)
        style.note(ax, f"Dotted: {'no difference' if differences else 'chance'}.")


def axis_label(estimates: Sequence[EstimateLike]) -> str:
    """What the axis of some estimates measures: the metric's name where they share one."""
    names = dict.fromkeys(metric_name(_metric(one)) for one in estimates)
    if len(names) > 1 and all(one.name.endswith("_difference") for one in estimates):
        return "difference of the metric"
    return next(iter(names)) if len(names) == 1 else "value of the metric"


def _metric(one: EstimateLike) -> str:
    """The metric of an estimate, which may name a finding behind it: ``auroc`` of ``auroc nodule``."""
    return one.name.partition(" ")[0]


def _note_methods(ax: Axes, estimates: Sequence[EstimateLike]) -> None:
    """How the drawn intervals were made, for the caption."""
    methods = list(dict.fromkeys(one.method for one in estimates if one.low is not None and one.method != "exact"))
    others = [method for method in methods if "no confidence interval" in method]
    if others:
        style.note(ax, f"Dots: values; lines: {'; '.join(others)}.")
    elif methods:
        more = f", and {len(methods) - 2} more" if len(methods) > 2 else ""
        style.note(ax, f"Dots: values; lines: 95 % CI ({'; '.join(methods[:2])}{more}).")


def _draw_baselines(
    ax: Axes, estimates: Sequence[EstimateLike], baselines: Mapping[str, Sequence[EstimateLike]]
) -> None:
    """A vertical line per row and baseline, and a key above the plot."""
    for number, (name, values) in enumerate(baselines.items()):
        colour, dash = style.PALETTE[1 + number % 4], DASHES[number % len(DASHES)]
        known = {(one.name, one.unit): one.value for one in values}
        for row, one in enumerate(estimates):
            value = known.get((one.name, one.unit))
            if value is not None:
                ax.plot([value, value], [row - 0.34, row + 0.34], color=style.line_colour(colour), lw=1.8, ls=dash)
        ax.plot([], [], color=style.line_colour(colour), ls=dash, lw=1.8, label=name)
    if baselines:
        ax.plot([], [], "o-", color=style.PALETTE[0], lw=2.4, ms=6, label="this model")
        columns = 5 if sum(map(len, baselines)) < 58 else 3  # of long names five leave the figure
        ax.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, columnspacing=1.4, handlelength=1.8,
            borderaxespad=0.1,
        )  # fmt: skip


def _limits(ax: Axes) -> tuple[float, float]:
    low, high = ax.get_xlim()
    return (0.0, 1.0) if low >= -0.05 and 0.3 < high <= 1.06 else (low, high)


def _right(ax: Axes, row: float, text: str) -> None:
    """A text in the column right of the Axes."""
    ax.annotate(
        text,
        (1.0, row),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )


def _printed(one: EstimateLike) -> str:
    """As everywhere, without the count of cases, which stands beside it."""
    text = printed(one.value, one.low, one.high, name=one.name)
    return text if one.low is not None and one.high is not None else f"{text} (no interval)"
