"""Experiments that several studies share: cross-prediction over folds, variants at an equal budget, subgroups.

    methods = {"network": network_method(make_model, objective, config)}
    crossed = cross_predict(patches, methods, patient_folds(patches, 5))
    crossed.compare("network")                  # over all images
    crossed.compare("network", "test")          # over the published test part alone
    variants = compare_variants({"plain": {}, "seed 1": {"seed": 1}}, train_one, seeds=["seed 1"])

- **Cross-prediction** chooses nothing: settings are given and a network ends with its last epoch, not with the one that
  its held-out images like best. That is why, unlike in ``training.folds.cross_validate``, test images may take part.
- **Variants** are judged on validation data, and a difference is held against what another seed alone changes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from medcore.data.patchset import PatchSet
from medcore.data.sizes import factor_for, rescaled
from medcore.data.splits import Fold, group_names, unit_of
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.baselines import run_baselines
from medcore.evaluation.comparison import Comparison, compare_methods
from medcore.evaluation.estimate import LOWER_IS_BETTER, Estimate, not_estimable
from medcore.evaluation.intervals import FEW_PATIENTS, group_gap, interval
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Folds, Scores, Values, decided
from medcore.training.checkpoint import load_checkpoint
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Objective

TrainAndPredict = Callable[[PatchSet, PatchSet], np.ndarray]
"""From (train, held out) to class probabilities of the held-out images, **Shape** ``(n, K)``."""
BEYOND = 2.0  # a difference counts as shown when it is this many times what another seed changes
BANDS = 8  # a column of numbers with more values than this is cut into thirds


@dataclass(frozen=True)
class CrossPrediction:
    """Answers of several methods for every image, each from the fold that held the image's patient out.

    Attributes:
        scores: By method, in the set's order and with the set's own splits.
        fold: Number of the fold that held an image out, from 1. **Shape** ``(N,)``.
    """

    scores: dict[str, Scores]
    fold: np.ndarray

    def compare(
        self, method: str, *splits: str, metrics: Sequence[str], reference: str | None = None,
        trivial: Sequence[str] | None = None,
    ) -> Comparison:  # fmt: skip
        """One method beside the others, over all images or over those of some splits alone.

        Intervals are wider by what the folds' trainings share, see ``resampling.widened_for_folds``.

        Args:
            trivial: Which of the others are baselines; the rest are rivals. None takes all.
        """
        said = {name: replace(found, folds=Folds(found.score[None, :, -1], self.fold[None]))
                for name, found in self.scores.items()}  # fmt: skip
        parts = {name: found.where(*splits) if splits else found for name, found in said.items()}
        how = f"folds, {' and '.join(splits)} part" if splits else "folds"
        own = parts.pop(method)
        simple = {name: found for name, found in parts.items() if trivial is None or name in trivial}
        others = {name: found for name, found in parts.items() if name not in simple}
        return compare_methods(own, simple, metrics=metrics, rivals=others, reference=reference).labelled(how)

    def table(self, method: str, metric: str = "balanced_accuracy") -> pd.DataFrame:
        """One row per fold: ``fold, n``, the metric and its interval (``low``, ``high``)."""
        rows = []
        for number in np.unique(self.fold):
            found = interval(self.scores[method].select(self.fold == number), metric)
            rows.append({"fold": number, "n": found.n, metric: found.value, "low": found.low, "high": found.high})
        return pd.DataFrame(rows)


def cross_predict(patches: PatchSet, methods: Mapping[str, TrainAndPredict], folds: Sequence[Fold]) -> CrossPrediction:
    """Every method predicts every image after training on the other folds.

    Args:
        patches: Labelled images; in a fold their splits are ``train`` and ``val``, in the scores they are kept.
        methods: Name to what trains on its first argument and predicts its second.
        folds: Every image is in the validation part of exactly one.

    Raises:
        MedcoreError: The folds do not cover the set exactly once.
    """
    seen = np.concatenate([fold.validation for fold in folds])
    if not np.array_equal(np.sort(seen), np.arange(len(patches))):
        raise MedcoreError(f"cross_predict: the folds cover {len(np.unique(seen))} of {len(patches)} images once")
    answers = {name: np.zeros((len(patches), len(patches.classes))) for name in methods}
    number = np.zeros(len(patches), int)
    for n, fold in enumerate(folds, 1):
        train = patches.select(fold.train).with_split(["train"] * len(fold.train))
        held_out = patches.select(fold.validation).with_split(["val"] * len(fold.validation))
        number[fold.validation] = n
        for name, method in methods.items():
            answers[name][fold.validation] = method(train, held_out)
    return CrossPrediction({name: Scores.from_set(patches, said) for name, said in answers.items()}, number)


def network_method(
    make_model: Callable[[PatchSet], nn.Module], objective: Objective, config: TrainConfig, *, side: int | None = None
) -> TrainAndPredict:
    """A network trained for a fixed number of epochs; nothing is chosen on the held-out images.

    Args:
        make_model: Makes a fresh classifier for images like those of its argument; its first weights follow
            ``config.seed``, alike in every fold.
        side: Larger images are made this small, in pixels; None keeps them.
    """

    def train_and_predict(train: PatchSet, held_out: PatchSet) -> np.ndarray:
        train, held_out = (rescaled(part, factor_for(part, side)) for part in (train, held_out))
        with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(config.seed)
            model = make_model(train)
            unused = held_out.select(np.arange(1))  # nothing is chosen, so one image's loss per epoch is enough
            fit(model, objective, train, unused, config, out=folder, progress=False)
            last = load_checkpoint(folder, "last").model
            return predict(last.to(next(model.parameters()).device), held_out)

    return train_and_predict


def baseline_method(name: str, *, seed: int = 0, balanced: bool = False) -> TrainAndPredict:
    """A trivial baseline such as ``colour histogram``; ``balanced`` takes the class shares out of its answers."""

    def train_and_predict(train: PatchSet, held_out: PatchSet) -> np.ndarray:
        answers = run_baselines(train, held_out, names=[name], seed=seed)[name]
        return without_prior(answers, train) if balanced and name != "majority" else answers

    return train_and_predict


def without_prior(probabilities: np.ndarray, train: PatchSet) -> np.ndarray:
    """Class probabilities as if every class were equally common: divided by the training shares, summing to 1.

    A network whose loss weighs the classes equally answers like this. **Shape** ``(N, K)``.

    **Reference** Saerens, Latinne, Decaestecker 2002, doi:10.1162/089976602753284446.
    """
    counts = np.bincount(train.labels[train.labels >= 0], minlength=len(train.classes))
    corrected = np.where(counts > 0, probabilities / np.maximum(counts, 1), 0.0)
    total = corrected.sum(axis=1, keepdims=True)
    return np.where(total > 0, corrected / np.where(total > 0, total, 1.0), probabilities)


@dataclass(frozen=True)
class Variants:
    """What each variant of a training reached on validation data; the first is what the others are held against.

    Attributes:
        estimates: By variant, in the order given.
        seeds: Variants that differ from the first in the seed alone.
    """

    estimates: dict[str, Estimate]
    seeds: tuple[str, ...] = ()

    @property
    def differences(self) -> dict[str, float]:
        """Each variant minus the first."""
        first, *others = self.values.items()
        return {name: value - first[1] for name, value in others}

    @property
    def values(self) -> dict[str, float]:
        """The values that exist."""
        return {name: found.value for name, found in self.estimates.items() if found.value is not None}

    @property
    def noise(self) -> float:
        """The largest change that another seed alone makes; NaN without other seeds."""
        return max((abs(self.differences[name]) for name in self.seeds), default=float("nan"))

    @property
    def shown(self) -> list[str]:
        """Variants (not seeds) whose difference is more than twice what another seed changes."""
        return [
            name
            for name, difference in self.differences.items()
            if name not in self.seeds and abs(difference) > BEYOND * self.noise
        ]

    @property
    def shown_text(self) -> str:
        """Their names with the signed difference, ``none`` where there are none."""
        return ", ".join(f"{name} ({self.differences[name]:+.3f})".replace("-", "−") for name in self.shown) or "none"

    def spread(self) -> tuple[float, float]:
        """Mean and standard deviation over the first and the other seeds."""
        values = [value for n, (name, value) in enumerate(self.values.items()) if n == 0 or name in self.seeds]
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def table(self) -> pd.DataFrame:
        """By variant: the estimate and its difference to the first."""
        rows = {name: [found, self.differences.get(name, 0.0)] for name, found in self.estimates.items()}
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["validation", "difference"])
        return table.rename_axis("trained with")


def compare_variants(
    variants: Mapping[str, Mapping[str, object]], train_one: Callable[..., Estimate], *, seeds: Sequence[str] = ()
) -> Variants:
    """Train every variant, everything else equal.

    Args:
        variants: Name to what differs, as keyword arguments of ``train_one``; the first is the reference.
        train_one: Trains with these changes and returns an estimate on validation data.
        seeds: Names of the variants that differ in the seed alone.

    Raises:
        TestDataRefused: A variant was judged on other than validation data.
    """
    found = {}
    for name, changes in variants.items():
        found[name] = train_one(**changes)
        if found[name].split != "val":
            raise TestDataRefused(f"variant {name!r} was judged on {found[name].split!r}; compare on validation data")
    return Variants(found, tuple(seeds))


def subgroup_table(
    scores: Scores | Values,
    patches: PatchSet,
    columns: Sequence[str],
    *,
    metric: str = "balanced_accuracy",
    decision: np.ndarray | None = None,
) -> pd.DataFrame:
    """A metric for each value of some columns of the table, with n and interval, and how far it is from the others.

    Args:
        scores: What the model said about the images of ``patches``, in their order.
        patches: The set, for its columns. Numbers with many values (an age) are cut into thirds.
        decision: Class of each case at a threshold that was chosen, for the sensitivity. **Shape** ``(N,)``.

    Returns:
        Columns ``column, group, n``, the set's unit in the plural, ``estimate``, ``gap`` (the group minus all others,
        patients resampled together), with two classes ``sensitivity gap`` (the equal-opportunity difference) and
        ``note``, which also marks the worst group of each column. Groups of fewer than five patients are named only.

    Raises:
        MedcoreError: A column does not exist, or lengths differ.
    """
    if len(scores) != len(patches):
        raise MedcoreError(f"subgroup_table: {len(scores)} scores for {len(patches)} images")
    units, rows, unit = group_names(patches), [], unit_of(patches)
    for column in columns:
        values = _groups_of(patches.column(column))
        part: list[dict[str, Any]] = []
        for group in sorted(set(values.tolist())):
            inside = values == group
            count = len(set(units[inside]))
            row = {"column": column, "group": group or "(unknown)", "n": int(inside.sum()), f"{unit}s": count}
            few = f"{count} {unit}(s): too few to judge"
            part.append(row | _of_group(scores, inside, metric, few, count, decision))
        known = [row["estimate"].value for row in part if row["estimate"].value is not None]
        worst, word = (max, "highest") if metric in LOWER_IS_BETTER else (min, "lowest")
        for row in part:
            if len(known) > 1 and row["estimate"].value == worst(known):
                row["note"] = "; ".join(text for text in (f"{word} of its column", row["note"]) if text)
        rows += part
    return pd.DataFrame(rows)


def _of_group(
    scores: Scores | Values, inside: np.ndarray, metric: str, few: str, count: int, decision: np.ndarray | None
) -> dict[str, Any]:
    """What stands in a row of :func:`subgroup_table` on one group."""
    gaps = {"gap": metric} | ({"sensitivity gap": "sensitivity"} if len(scores.classes) == 2 else {})
    if count < FEW_PATIENTS:
        unknown = not_estimable(metric, few, n=int(inside.sum()), unit=scores.unit, split=scores.side)
        return {"estimate": unknown, **dict.fromkeys(gaps, unknown), "note": few}
    found = interval(scores.select(inside), metric)
    called = decided(scores, decision) if isinstance(scores, Scores) and decision is not None else scores
    each = {name: group_gap(called if of == "sensitivity" else scores, inside, of) for name, of in gaps.items()}
    return {"estimate": found, **each, "note": found.note}


def _groups_of(values: np.ndarray) -> np.ndarray:
    """Values as names; numbers of more than eight values become three bands of about equal size."""
    if values.dtype.kind not in "if" or len(np.unique(values)) <= BANDS:
        return values.astype(str)
    low, high = np.nanquantile(values, [1 / 3, 2 / 3])
    names = [f"up to {low:g}", f"{low:g} to {high:g}", f"above {high:g}"]
    bands = np.array(names)[np.digitize(values, [low, high], right=True)]
    return np.where(np.isnan(values.astype(float)), "", bands)
