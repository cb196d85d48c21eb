"""Every image judged by a network that never saw its patient: cross-validation whose answers are pooled.

    crossed = out_of_fold(make_model, objective, patches, config, k=5)
    network, histogram = crossed.estimate("accuracy")            # over all images
    network, histogram = crossed.estimate("accuracy", "test")    # over the published test part alone

Nothing is chosen: the settings are given and each fold ends with its last epoch, not with the one that its held-out
images like best. That is why, unlike in ``training.folds.cross_validate``, images marked ``test`` may take part.

Small experiments beside a main result: variants at an equal budget, seeds, subgroups.
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
from medcore.data.splits import patient_folds
from medcore.errors import MedcoreError
from medcore.evaluation.baselines import run_baselines
from medcore.evaluation.estimate import Estimate, gain_in_words
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.models.classifier import build_classifier
from medcore.training import checkpoint
from medcore.training.augment.recipe import as_augment
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification, Objective

BASELINE = "colour histogram"
METRICS = ("balanced_accuracy", "accuracy")


@dataclass(frozen=True)
class OutOfFold:
    """Answers for every image, in the set's order.

    Attributes:
        scores: The network's, each from the fold that held the image's patient out.
        baseline: The colour histogram's, on the same folds.
        fold: Number of that fold, from 1. **Shape** ``(N,)``.
    """

    scores: Scores
    baseline: Scores
    fold: np.ndarray

    def estimate(self, metric: str, *splits: str) -> tuple[Estimate, Estimate]:
        """The network's and the baseline's value over all images, or over those of some splits alone."""
        how = f"folds, {' and '.join(splits)} part" if splits else "folds"
        network, trivial = (replace(interval(part, metric), split=how) for part in self._parts(splits))
        return network, trivial

    def sentence(self, *splits: str) -> str:
        """Both metrics of both methods and their paired difference, in words."""
        said = []
        for metric in METRICS:
            network, trivial = self.estimate(metric, *splits)
            said.append(f"{metric.replace('_', ' ')} {network}, {BASELINE} {trivial}")
        gain = paired_difference(*self._parts(splits), METRICS[0])
        return f"{'; '.join(said)}; paired difference in {METRICS[0].replace('_', ' ')} {gain}, {gain_in_words(gain)}"

    def _parts(self, splits: tuple[str, ...]) -> tuple[Scores, Scores]:
        return (self.scores.where(*splits), self.baseline.where(*splits)) if splits else (self.scores, self.baseline)

    def table(self, metric: str = "balanced_accuracy") -> pd.DataFrame:
        """One row per fold: ``fold, n``, the metric and its interval (``low``, ``high``)."""
        rows = []
        for number in np.unique(self.fold):
            one = interval(self.scores.select(self.fold == number), metric)
            rows.append({"fold": number, "n": one.n, metric: one.value, "low": one.low, "high": one.high})
        return pd.DataFrame(rows)


def out_of_fold(
    make_model: Callable[[], nn.Module],
    objective: Objective,
    patches: PatchSet,
    config: TrainConfig,
    *,
    k: int = 5,
) -> OutOfFold:
    """Train on k - 1 folds of patients, predict the k-th, for each.

    Args:
        make_model: Makes a fresh classifier; its first weights follow ``config.seed``, alike in every fold.
        objective: Loss and metrics.
        patches: Labelled images; their splits are ignored in the folds and kept in the scores.
        config: Every other choice; its seed also cuts the folds.
        k: Number of folds.

    Raises:
        MedcoreError: There are fewer patients than folds.
    """
    size = (len(patches), len(patches.classes))
    said, trivial, number = np.zeros(size), np.zeros(size), np.zeros(len(patches), int)
    for n, fold in enumerate(patient_folds(patches, k, seed=config.seed), 1):
        train = patches.select(fold.train).with_split(["train"] * len(fold.train))
        held_out = patches.select(fold.validation).with_split(["val"] * len(fold.validation))
        said[fold.validation] = _train_and_predict(make_model, objective, train, held_out, config)
        trivial[fold.validation] = run_baselines(train, held_out, names=[BASELINE], seed=config.seed)[BASELINE]
        number[fold.validation] = n
    return OutOfFold(Scores.from_set(patches, said), Scores.from_set(patches, trivial), number)


def _train_and_predict(
    make_model: Callable[[], nn.Module], objective: Objective, train: PatchSet, held_out: PatchSet, config: TrainConfig
) -> np.ndarray:
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(config.seed)
        model = make_model()
        fit(model, objective, train, held_out, config, out=folder, progress=False)
        return predict(checkpoint.load_checkpoint(folder, "last").model.to(next(model.parameters()).device), held_out)


def train_variant(
    train: PatchSet, validation: PatchSet, config: TrainConfig, *, model: str = "small_cnn", weights: str | None = None
) -> Scores:
    """Train one variant from fresh weights and score the validation images.

    Args:
        train: Images to learn from.
        validation: Images to score; marked ``val``.
        config: All settings; its seed also draws the first weights.
        model: Architecture.
        weights: ``imagenet``, a file, or None.
    """
    torch.manual_seed(config.seed)
    network = build_classifier(
        model, len(train.classes), in_channels=train.shape[2], weights=weights, image_size=train.shape[0]
    )
    fit(network, Classification(train.classes, class_weights="balanced"), train, validation, config, progress=False)
    return Scores.from_set(validation, predict(network, validation))


def compare_variants(
    train: PatchSet,
    validation: PatchSet,
    config: TrainConfig,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    metric: str = "balanced_accuracy",
) -> dict[str, Estimate]:
    """The metric of each variant on validation patients, everything else equal.

    Args:
        train: Images to learn from.
        validation: Images to judge on.
        config: What all variants share, the number of epochs among it.
        variants: Name to what differs: ``model``, ``weights``, or any field of ``TrainConfig``.
        metric: As for ``interval``.

    Raises:
        TestDataRefused: Test images were passed to judge on.
        MedcoreError: A variant changes something that does not exist.
    """
    found = {}
    for name, changes in variants.items():
        changes = dict(changes)
        chosen = {key: changes.pop(key) for key in ("model", "weights") if key in changes}
        if "augment" in changes:
            changes["augment"] = as_augment(changes["augment"])
        unknown = sorted(set(changes) - set(config.to_dict()))
        if unknown:
            raise MedcoreError(f"variant {name!r}: {unknown[0]!r} is neither model, weights nor a field of TrainConfig")
        scores = train_variant(train, validation, replace(config, **changes), **chosen)
        refuse_test_data(scores, "a variant")
        found[name] = interval(scores, metric)
    return found


def spread(estimates: Mapping[str, Estimate]) -> tuple[float, float]:
    """Mean and standard deviation of the values, such as over seeds."""
    values = [one.value for one in estimates.values() if one.value is not None]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def subgroup_table(
    scores: Scores, patches: PatchSet, columns: Sequence[str], *, metric: str = "balanced_accuracy"
) -> pd.DataFrame:
    """A metric for each value of some columns of the table, with n and interval.

    Args:
        scores: What the model said about the images of ``patches``, in their order.
        patches: The set, for its columns. Numbers with many values (an age) are cut into thirds.
        columns: Such as ``["sex", "site"]``.
        metric: As for ``interval``.

    Returns:
        Columns ``column, group, n, patients, estimate, note``.

    Raises:
        MedcoreError: A column does not exist, or lengths differ.
    """
    if len(scores) != len(patches):
        raise MedcoreError(f"subgroup_table: {len(scores)} scores for {len(patches)} images")
    rows = []
    for column in columns:
        values = _groups_of(patches.column(column))
        for group in sorted(set(values.tolist())):
            members = scores.select(values == group)
            one = interval(members, metric)
            rows.append(
                {"column": column, "group": group or "(unknown)", "n": len(members), "patients": members.patients,
                 "estimate": one, "note": one.note}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _groups_of(values: np.ndarray) -> np.ndarray:
    """Values as names; numbers of more than eight values become three bands of about equal size."""
    if values.dtype.kind not in "if" or len(np.unique(values)) <= 8:
        return values.astype(str)
    low, high = np.nanquantile(values, [1 / 3, 2 / 3])
    names = [f"up to {low:g}", f"{low:g} to {high:g}", f"above {high:g}"]
    bands = np.array(names)[np.digitize(values, [low, high], right=True)]
    return np.where(np.isnan(values.astype(float)), "", bands)
