"""Small experiments beside a main result: variants at an equal budget, seeds, subgroups.

Variants are compared on **validation** patients, never on test patients: they inform choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.models.classifier import build_classifier
from medcore.training.augment import as_augment
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification


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
