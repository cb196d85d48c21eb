"""A classification study that starts from a pretrained encoder: heads on its features, and what they cost and gain.

    start = PretrainedStart(study, "timm:tf_efficientnet_lite0", "imagenet")
    start.table()                                   # every head on validation images
    start.fine_tune("tissue", folder)               # the whole encoder learns on from the probe
    study.judge(start.networks[start.name])         # the linear probe is a network like any other

Features are computed once and kept. Every head learns from training images and chooses its setting in folds over the
training patients; validation and test images only measure.
"""

from __future__ import annotations

import copy
import shutil
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names, patient_folds, unit_of
from medcore.evaluation.comparison import Comparison
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.features import FeatureStore, features
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.models.classifier import Classifier, build_classifier
from medcore.studies.classification.context import CONTEXT, has_neighbours, in_context
from medcore.studies.classification.study import ClassificationStudy
from medcore.studies.experiments import TrainAndPredict, baseline_method, cross_predict, network_method
from medcore.studies.heads import FINE_TUNING, LINEAR, SETTINGS, Head, encoder_side, fit_head, start_from_probe
from medcore.training.augment.recipe import as_augment, suitable_recipe
from medcore.training.batches import suitable_size
from medcore.training.config import TrainConfig
from medcore.training.fit import fit, keep

FINE_TUNED = "fine-tuned"
BESIDE = "folds, beside neighbours"
MOST_NEIGHBOURS = 2000  # images among which the nearest one is looked for


class PretrainedStart:
    """Features of a study's images by a frozen encoder, and heads on them.

    Args:
        encoder: As for ``build_classifier``; empty for none.
        weights: ``imagenet``, ``hub`` or a file.
        side: Pixels that images are brought to; None takes their own within the study's limits.
        device: Where features are computed.
    """

    def __init__(
        self,
        study: ClassificationStudy,
        encoder: str,
        weights: str | None = "imagenet",
        *,
        side: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.study, self.encoder = study, encoder
        choices, shape = study.choices, study.patches.shape
        self.side = side or encoder_side(study.patches, choices.encoder_sides)
        self.balanced = choices.class_weights == "balanced"
        recipe = as_augment(suitable_recipe(study.patches.card, shape[2]))
        self.turns = recipe is not None and recipe.turns and len(study.patches) < choices.turned_images
        self.name = f"{LINEAR} on {encoder.removeprefix('timm:')}"
        self.tuned: dict[str, Classifier] = {}
        self._tuning: TrainConfig | None = None
        if encoder:
            self.network = build_classifier(
                encoder, len(study.patches.classes), in_channels=shape[2], weights=weights, image_size=shape[0],
                side=self.side, levels=True, stain=choices.staining(study.train), turns=self.turns,
            ).to(device)  # fmt: skip
            self.heads[LINEAR].put_into(self.network)
            study.encoded.give(self.network, study.patches, self.of)

    @property
    def networks(self) -> dict[str, Classifier]:
        """The encoder with the linear probe as its last layer, and fine-tuned, by name; empty without an encoder."""
        return {self.name: self.network} | self.tuned if self.encoder else {}

    # --- features and heads

    @cached_property
    def store(self) -> FeatureStore:
        """Features of all images of the study, in their order."""
        began = time.perf_counter()
        found = features(self.study.patches, self.network)
        self.seconds = time.perf_counter() - began
        return found

    def of(self, part: PatchSet) -> np.ndarray:
        """Features of some images of the study. **Shape** ``(N, D)``."""
        rows = np.full(int(self.study.patches.index.max()) + 1, -1)
        rows[self.study.patches.index] = np.arange(len(self.study.patches))
        return np.asarray(self.store.values[rows[part.index]])

    @cached_property
    def heads(self) -> dict[str, Head]:
        """Every kind of head, fitted on the training images."""
        train, found, self.fit_seconds = self.study.train, {}, dict[str, float]()
        for kind in SETTINGS:
            values = self.of(train)
            began = time.perf_counter()
            found[kind] = fit_head(kind, values, train, balanced=self.balanced, seed=self.study.seed)
            self.fit_seconds[kind] = time.perf_counter() - began
        return found

    def table(self) -> pd.DataFrame:
        """A row per head: the setting chosen on training patients, its result on validation images, its cost."""
        if not self.encoder:
            return pd.DataFrame(columns=["setting", "validation", "seconds"])
        rows = {
            f"{kind} on {self.encoder.removeprefix('timm:')}": {
                "setting": f"{head.setting:g}",
                "validation": self._measured(head, self.study.validation),
                "seconds": round(self.fit_seconds[kind], 1),
            }
            for kind, head in self.heads.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def _measured(self, head: Head, part: PatchSet) -> Estimate:
        return interval(Scores.from_set(part, head.probabilities(self.of(part))), self.study.choices.metrics[0])

    def cost(self) -> str:
        """What features and the probe took, in words."""
        if not self.encoder:
            return "No pretrained encoder was asked for."
        count, dimensions = self.store.values.shape
        how = f"computed in {self.seconds:.0f} s" if self.store.reused < count else "read from the store"
        means = ", means over four quarter turns" if self.turns else ""
        return (
            f"{dimensions} features of {count} images at {self.side} pixels{means}: {how}; the linear probe with the "
            f"choice of its penalty: {self.fit_seconds[LINEAR]:.0f} s. Weights: {self.network.weights_report}."
        )

    # --- training on

    def fine_tune(
        self, recipe: str, folder: Path, *, epochs: int | None = None, **settings: Any
    ) -> dict[str, Classifier]:
        """Let the whole encoder learn on from the probe with a low learning rate; the study's networks then hold it.

        Args:
            recipe: Augmentation of the training images.
            folder: Of the study's training; this one is written to ``fine-tuned`` in it.
            epochs: How long; None shows about ``choices.tuned_images`` images.
            **settings: Fields of ``TrainConfig`` in the place of ``heads.FINE_TUNING``.

        Returns:
            The network by its name, with the weights of its best epoch on validation images.
        """
        study, out = self.study, folder / FINE_TUNED
        count = len(study.train)
        usual = int(np.clip(round(study.choices.tuned_images / count), *study.choices.tuned_epochs))
        size = {"batch_size": min(FINE_TUNING["batch_size"], suitable_size(count))}
        fixed = {"epochs": epochs or usual, "seed": study.seed, "augment": as_augment(recipe)}
        self._tuning = TrainConfig.from_dict(FINE_TUNING | size | fixed | settings)
        network = self._ready_to_train(study.train)
        shutil.rmtree(out, ignore_errors=True)  # of an earlier run of the notebook
        fit(network, study.objective, study.train, study.validation, self._tuning, out=out)
        self.tuned = {f"{FINE_TUNED} {self.encoder.removeprefix('timm:')}": network}
        return self.tuned

    def _ready_to_train(self, train: PatchSet) -> Classifier:
        network = copy.deepcopy(self.network)
        start_from_probe(network, train, self.of(train), balanced=self.balanced, seed=self.study.seed)
        return network

    def methods(self, best: str = "") -> dict[str, TrainAndPredict]:
        """The linear probe for cross-prediction, its penalty chosen anew in every fold; and what was fine-tuned.

        Args:
            best: The fine-tuned network takes part, and so is trained in every fold, only where this is its name.
        """

        def train_and_predict(train: PatchSet, held_out: PatchSet) -> np.ndarray:
            head = fit_head(LINEAR, self.of(train), train, balanced=self.balanced, seed=self.study.seed)
            return head.probabilities(self.of(held_out))

        found: dict[str, TrainAndPredict] = {self.name: train_and_predict} if self.encoder else {}
        if self._tuning is not None and best in self.tuned:
            found[best] = network_method(self._ready_to_train, self.study.objective, self._tuning)
        return found

    def beside_neighbours(self) -> list[Comparison]:
        """In folds over all patches: each judged beside the others of its patient, the probe, and the histogram.

        Empty without an encoder, and where patches have no position or no neighbours.
        """
        study, choices = self.study, self.study.choices
        if not self.encoder or not has_neighbours(study.patches):
            return []
        trivial = baseline_method(study.histogram, seed=study.seed, balanced=self.balanced)
        methods = {CONTEXT: in_context(self.of, choices, seed=study.seed)} | self.methods() | {study.histogram: trivial}
        crossed = cross_predict(
            study.patches, methods, patient_folds(study.patches, choices.context_folds, seed=study.seed)
        )
        return [crossed.compare(CONTEXT, metrics=choices.metrics, trivial=[study.histogram]).labelled(BESIDE)]

    def keep(self, folder: Path, config: TrainConfig, name: str = "") -> Path:
        """The run's folder of one of ``networks``; the probe (the default) is written like any other checkpoint."""
        if name in self.tuned:
            return folder / FINE_TUNED
        out, study = folder / "probe", self.study
        shutil.rmtree(out, ignore_errors=True)  # of an earlier run of the notebook
        keep(self.network, study.objective, study.train, study.validation, config, out=out)
        return out

    # --- what else features tell

    def few_shots(self) -> dict[str, Estimate]:
        """The headline metric on validation images after so many training patients of each class.

        The mean over the draws with its extremes (no confidence interval). The penalty is that of all training images;
        counts that no class has are left out, and the last row learns from everybody.
        """
        if not self.encoder:
            return {}
        study, found = self.study, {}
        train, values, unit = study.train, self.of(study.train), unit_of(study.patches)
        groups, random = group_names(train), np.random.default_rng(study.seed)
        most = max(len(np.unique(groups[train.labels == k])) for k in np.unique(train.labels))
        setting, balanced = (self.heads[LINEAR].setting,), self.balanced
        for count in [count for count in study.choices.few_patients if count <= most]:
            reached = []
            for _ in range(study.choices.few_draws):
                drawn = rows_of_few(train.labels, groups, count, random)
                head = fit_head(LINEAR, values[drawn], train.select(drawn), balanced=balanced, settings=setting)
                reached.append(self._measured(head, study.validation).value or 0.0)
            found[f"{count} {unit}{'s' * (count > 1)} a class"] = Estimate(
                study.choices.metrics[0], float(np.mean(reached)), min(reached), max(reached), len(study.validation),
                study.case, "val", method=f"extremes of {len(reached)} draws, no confidence interval",
            )  # fmt: skip
        whole = self._measured(self.heads[LINEAR], study.validation)  # its own interval would be of another kind
        return found | {f"all {unit}s": replace(whole, low=None, high=None, method="none", note="one draw: everybody")}

    def recognised(self) -> dict[str, float]:
        """How often the nearest other image of the same class shares a column's value, and how often by chance.

        Returns:
            ``found`` and ``chance`` for the patients of the training images; empty where each gave one image.
        """
        study = self.study
        rows = np.random.default_rng(study.seed).permutation(len(study.train))[:MOST_NEIGHBOURS]
        part = study.train.select(np.sort(rows))
        values = torch.from_numpy(self.of(part))
        values = torch.nn.functional.normalize((values - values.mean(0)) / values.std(0).clamp_min(1e-6), dim=1)
        groups, found, chance = group_names(part), [], []
        for k in np.unique(part.labels):
            own = np.flatnonzero(part.labels == k)
            alike = values[own] @ values[own].T
            alike.fill_diagonal_(-2.0)
            same = groups[own][:, None] == groups[own][None]
            several = same.sum(1) > 1
            found += list(same[np.arange(len(own)), alike.argmax(1).numpy()][several])
            chance += list(((same.sum(1) - 1) / max(1, len(own) - 1))[several])
        return {"found": float(np.mean(found)), "chance": float(np.mean(chance))} if found else {}

    def robustness(self) -> str:
        """``recognised`` in words."""
        known, unit = self.recognised(), unit_of(self.study.patches)
        if not known:
            return f"Whether features tell the {unit} cannot be said: each gave one image."
        return (
            f"Of images with another of the same {unit} and class, the nearest in features is one of these for "
            f"{known['found']:.0%}; by chance it would be for {known['chance']:.1%}."
        )


def rows_of_few(labels: np.ndarray, groups: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Rows of all images of ``count`` patients drawn from each class (of all where there are fewer), of that class."""
    rows = []
    for k in np.unique(labels):
        names = random.permutation(np.unique(groups[labels == k]))[:count]
        rows.append(np.flatnonzero((labels == k) & np.isin(groups, names)))
    return np.sort(np.concatenate(rows))
