"""Every image judged by a network that never saw its patient: cross-validation whose answers are pooled.

    crossed = out_of_fold(make_model, objective, patches, config, k=5)
    network, histogram = crossed.estimate("accuracy")            # over all images
    network, histogram = crossed.estimate("accuracy", "test")    # over the published test part alone

Nothing is chosen: the settings are given and each fold ends with its last epoch, not with the one that its held-out
images like best. That is why, unlike in ``training.folds.cross_validate``, images marked ``test`` may take part.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from medcore.data.patchset import PatchSet
from medcore.data.splits import patient_folds
from medcore.evaluation.baselines import run_baselines
from medcore.evaluation.estimate import Estimate, gain_in_words
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Scores
from medcore.training import checkpoint
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Objective

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
        return predict(checkpoint.load(folder, "last").model.to(next(model.parameters()).device), held_out)
