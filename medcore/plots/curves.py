"""Curves: learning, ROC, precision-recall, each with what is needed to believe it.

One ROC curve per fold, their mean, and how far it is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from medcore.errors import MedcoreError
from medcore.evaluation.curves import Band, mean_roc, roc_band, roc_curve
from medcore.evaluation.estimate import metric_name
from medcore.evaluation.scores import Scores
from medcore.evaluation.selective import RiskCoverage
from medcore.plots import style

DIAGONAL = "Dotted: chance."


@style.styled
def learning_curve(
    table: pd.DataFrame, *, value: str = "loss", best_epoch: int | None = None, ax: Axes | None = None
) -> Axes:
    """One quantity over the epochs, for train, validation and (only to look at) test.

    Args:
        table: one row per epoch with ``epoch`` and any of ``train_<value>``, ``val_<value>``, ``test_<value>``.
        value: which quantity, such as ``"loss"``.
        best_epoch: the epoch whose checkpoint was kept; a line marks it.

    Raises:
        MedcoreError: when no column holds this quantity.
    """
    sides = [side for side in ("train", "val", "test") if f"{side}_{value}" in table]
    if not sides:
        raise MedcoreError(
            f"learning_curve: no column 'train_{value}' or 'val_{value}'; columns: {list(table.columns)}."
        )
    ax = style.new_axes(ax, width=4.2, height=2.8)
    ends, colours = [], []
    for side in sides:
        part = table[["epoch", f"{side}_{value}"]].dropna()
        colour = style.SPLIT_COLOURS[side]
        only = "-" if len(part) > 1 else ""
        ax.plot(part["epoch"], part[f"{side}_{value}"], only, color=colour, marker="o", ms=3 if len(part) < 60 else 0)
        ends.append(float(part[f"{side}_{value}"].iloc[-1]) if len(part) else 0.0)
        colours.append(colour)
    if best_epoch is not None:
        ax.axvline(best_epoch, color=style.MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
        ax.annotate(
            f"kept: epoch {best_epoch}",
            (best_epoch, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color="#555555",
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if table["epoch"].nunique() == 1:
        ax.set_xticks([table["epoch"].iloc[0]])  # the locator would invent fractions of an epoch
    ax.set(xlabel="epoch", ylabel=metric_name(value))
    ax.grid(axis="y")
    style.label_ends(ax, sides, ends, colours)
    return ax


@style.styled
def learning_curves(table: pd.DataFrame, *, metric: str | None = None, best_epoch: int | None = None) -> np.ndarray:
    """Loss and the validation metric over the epochs, side by side.

    Args:
        metric: which one; the first further ``val_<metric>`` column by default.
        best_epoch: the epoch whose checkpoint was kept.

    Returns:
        The Axes, one or two.
    """
    known = [name[4:] for name in table.columns if name.startswith("val_") and name != "val_loss"]
    values = ["loss", *([metric] if metric else known[:1])]
    _, axes = plt.subplots(1, len(values), figsize=(3.6 * len(values), 2.7), squeeze=False)
    for value, ax in zip(values, axes[0], strict=True):
        learning_curve(table, value=value, best_epoch=best_epoch, ax=ax)
    style.note(axes[0, 0], f"{' and '.join(map(metric_name, values)).capitalize()} over the epochs.")
    return axes[0]


@style.styled
def roc_curves(
    score: np.ndarray,
    truth: np.ndarray,
    *,
    classes: Sequence[str],
    groups: np.ndarray | None = None,
    estimates: Mapping[str, str] | None = None,
    operating_point: float | None = None,
    resamples: int = 200,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """ROC curves, one class against the rest, with 95 % bands over patients.

    Args:
        score: (N,) score of the last class, or (N, K) one score per class.
        truth: (N,) class numbers.
        groups: (N,) patients; resampled as wholes. Without them the band is over single images.
        estimates: class to printed AUROC with interval, such as ``"0.93 (0.90–0.95)"``; else the plain AUROC.
        operating_point: for a binary score, the threshold in use; marked by a dot.
        resamples: bootstrap resamples of the band; 0 draws none.
    """
    ax = style.new_axes(ax, width=6.4, height=3.7)
    ax.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls=(0, (2, 3)), zorder=0)
    rows = _one_vs_rest(score, truth, classes)
    labels = []
    for name, positive, values in rows:
        colour = style.line_colour(style.class_colours(classes)[name])
        curve = roc_curve(positive, values)
        ax.plot(curve.x, curve.y, color=colour, lw=1.6, label=name)
        if resamples:
            band = roc_band(_binary(name, positive, values, groups), resamples=resamples, seed=seed)
            _shade(ax, band, colour, crowded=len(rows) > 3)
        text = (estimates or {}).get(name) or f"{np.trapezoid(curve.y, curve.x):.2f}"
        labels.append((f"{name}  {text}", colour))
    if operating_point is not None and len(rows) == 1:
        name, positive, values = rows[0]
        chosen = values >= operating_point
        ax.plot(chosen[~positive].mean(), chosen[positive].mean(), "o", color=style.INK, ms=7, mec="white", zorder=5)
    _side_key(ax, "AUROC (95 % CI)" if estimates else "AUROC", labels)
    unit = "single cases" if groups is None else "patients"
    style.note(ax, DIAGONAL)
    if resamples:
        style.note(ax, f"Bands: 95 %, pointwise, from {resamples} bootstrap resamples of {unit}.")
    ax.set(
        xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1, anchor="W"
    )
    return ax


def _binary(name: str, positive: np.ndarray, score: np.ndarray, groups: np.ndarray | None) -> Scores:
    """One class against the rest; without groups every case stands for itself."""
    patient = np.arange(len(score)) if groups is None else groups
    return Scores(positive.astype(int), score, patient, np.full(len(score), ""), ("rest", name))


def _shade(ax: Axes, band: Band, colour: str, *, crowded: bool) -> None:
    """A band, fainter where many lie on each other; none where it could not be estimated."""
    if band.low is not None and band.high is not None:
        ax.fill_between(band.x, band.low, band.high, color=colour, alpha=0.09 if crowded else 0.18, lw=0)


def _one_vs_rest(
    score: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(class, is it that class, score) for every class that has both kinds of cases; a binary score gives one."""
    score, truth = np.asarray(score, dtype=float), np.asarray(truth)
    if score.ndim == 2 and score.shape[1] == 2 and len(classes) == 2:
        score = score[:, 1]
    if score.ndim == 1:
        return [(classes[-1], truth == len(classes) - 1, score)]
    found = [(name, truth == number, score[:, number]) for number, name in enumerate(classes)]
    return [row for row in found if 0 < row[1].sum() < len(truth)]


def _side_key(ax: Axes, title: str, labels: Sequence[tuple[str, str]]) -> None:
    """Coloured names at the right, where ROC curves leave no room to label their ends."""
    ax.annotate(
        title,
        (1.0, 0.97),
        xycoords="axes fraction",
        xytext=(10, 0),
        textcoords="offset points",
        fontsize=8,
        color="#555555",
        annotation_clip=False,
    )
    for place, (text, colour) in enumerate(labels):
        ax.annotate(
            re.sub(r"\(no interval.*", "(no interval)", text),  # why not stands in the table
            (1.0, 0.97 - 0.075 * (place + 1)),
            xycoords="axes fraction",
            xytext=(10, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=style.line_colour(colour),
            fontweight="bold",
            annotation_clip=False,
        )


@style.styled
def robustness_curves(
    table: pd.DataFrame,
    *,
    value: str = "value",
    label: str | None = None,
    chance: float | None = None,
    columns: int = 3,
) -> np.ndarray:
    """How a result falls as images get worse: one panel per corruption, the same axis for all.

    Args:
        table: columns ``corruption``, ``severity`` (0 = untouched), `value`; optionally ``setting`` and its ``unit``,
            ``low``, ``high``, ``model``.
        value: the column that is drawn.
        chance: drawn as a dotted line.

    Returns:
        The Axes, one per corruption.
    """
    names = list(dict.fromkeys(table["corruption"]))
    models = list(dict.fromkeys(table["model"])) if "model" in table else [""]
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    size = (style.WIDTH, 1.95 * rows + 0.35)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for name, ax in zip(names, axes.flat, strict=False):
        for number, model in enumerate(models):
            part = table[table["corruption"] == name]
            part = (part[part["model"] == model] if "model" in table else part).sort_values("severity")
            colour = style.PALETTE[number % len(style.PALETTE)]
            ax.plot(part["severity"], part[value], "o-", color=colour, ms=3.5, lw=1.5, label=model or None)
            if {"low", "high"} <= set(part):
                ax.fill_between(part["severity"], part["low"], part["high"], color=colour, alpha=0.15, lw=0)
        if chance is not None:
            ax.axhline(chance, color=style.MUTED, lw=0.8, ls=(0, (2, 3)))
            style.note(ax, "Dotted: guessing.")
        if {"low", "high"} <= set(table):
            style.note(ax, "Bands: 95 % CI of each point.")
        _name_settings(ax, name, table[table["corruption"] == name])
        ax.grid(axis="y")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    figure.supxlabel("strength of the corruption (left: the image as it is)", fontsize=8.5)
    figure.supylabel(label or value.replace("_", " "), fontsize=8.5)
    if len(models) > 1:
        handles, texts = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper right", ncols=len(models))
    return axes.flat[: len(names)]


def _name_settings(ax: Axes, name: str, part: pd.DataFrame) -> None:
    """The settings of a corruption at its axis, where the table has them, and their unit in its title."""
    unit = f" ({part['unit'].iloc[0]})" if "unit" in part else ""
    ax.set_title(f"{name}{unit}", fontsize=8.5)
    if "setting" in part:
        steps = part.drop_duplicates("severity")
        ax.set_xticks(steps["severity"], steps["setting"].astype(str))


@style.styled
def fold_roc_curves(folds: Sequence[Scores], *, estimate: str = "", ax: Axes | None = None) -> Axes:
    """The ROC curve of each fold, and their vertical mean with its 95 % band over folds.

    Args:
        folds: Scores of each fold's held-out patients, both kinds in each.
        estimate: printed AUROC with its interval.

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
    text = f"{estimate}\nblue: mean of {len(folds)} folds\ngrey: each fold".strip()
    ax.text(0.98, 0.06, text, transform=ax.transAxes, ha="right", fontsize=8.5)
    style.note(ax, DIAGONAL)
    if band.low is not None:
        style.note(ax, f"Band: 95 % interval of the mean over {len(folds)} folds (Student's t), not over new patients.")
    ax.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1)
    return ax


@style.styled
def risk_coverage_curves(curves: Mapping[str, RiskCoverage], *, ax: Axes | None = None) -> Axes:
    """Share of wrong answers among the answered, as more and more uncertain cases are answered; bands over patients.

    Args:
        curves: method to its ``evaluation.selective.risk_coverage``, all on the same cases.

    Raises:
        MedcoreError: when there is nothing to draw.
    """
    if not curves:
        raise MedcoreError("risk_coverage_curves: needs at least one curve.")
    ax = style.new_axes(ax, width=5.6, height=3.2)
    for colour, curve in zip(style.PALETTE, curves.values(), strict=False):
        if curve.low is not None and curve.high is not None:
            ax.fill_between(curve.coverage, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
        ax.plot(curve.coverage, curve.risk, color=style.line_colour(colour), lw=1.8)
    if any(curve.low is not None for curve in curves.values()):
        style.note(ax, "Bands: 95 %, pointwise, from bootstrap resamples of patients.")
    ax.set(xlabel="coverage: share of cases that are answered", ylabel="risk: share of wrong answers", xlim=(0, 1))
    ax.set_ylim(bottom=0)
    ax.grid(axis="y")
    style.label_ends(
        ax, list(curves), [curve.risk[-1] for curve in curves.values()], list(style.PALETTE[: len(curves)])
    )
    return ax
