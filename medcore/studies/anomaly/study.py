"""AnomalyStudy: a network that saw only normal images, beside what needs none; notebooks 02 and 03 hold one.

    study = AnomalyStudy(patches, AnomalyChoices(loss="mse"))
    trained = study.train(network.spec, Reconstruction("mse"))
    study.add("autoencoder", trained.model)           # its score is chosen on validation cases
    study.comparison                                  # AUROC …, trivial detectors, rivals, paired differences

The first network that is added is the method; further ones are its rivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from medcore.data.load import limit_images
from medcore.data.patchset import PatchSet
from medcore.data.readers.hmnist import shrunk, tabular_form
from medcore.data.sizes import resize
from medcore.data.splits import split_cases, unit_of
from medcore.errors import MedcoreError
from medcore.evaluation.comparison import Comparison, compare_methods
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import OperatingPoint, choose_threshold
from medcore.models.autoencoder import DenseAutoencoder
from medcore.studies.anomaly import experiments
from medcore.studies.anomaly.candidates import (
    Blur,
    Judged,
    colour_distances,
    fit_linear,
    ingredients,
    judge,
    oriented,
    with_labels,
)
from medcore.studies.anomaly.choices import AnomalyChoices
from medcore.studies.anomaly.detection import (
    abnormal_scores,
    auroc_within,
    detection_sides,
    detection_table,
    detector_estimates,
    mistakes,
)
from medcore.studies.anomaly.latent import LatentSpace
from medcore.studies.anomaly.pretrained import pretrained_scores
from medcore.studies.anomaly.reconstructions import error_maps, quality_table, reconstruct_pixels
from medcore.studies.anomaly.scores import PIXEL_MAPS, TITLES
from medcore.training.augment.recipe import as_augment
from medcore.training.config import TrainConfig
from medcore.training.objectives import Objective
from medcore.training.reuse import Trained, fit_or_reuse

LADDER = ("mse", "ssim", "ssim_centre", "structure_centre")
HOW_DIAGNOSED = ("dx_type", "diagnosis")


class AnomalyStudy:
    """What notebooks 02 and 03 hold: sides, choices, models, their scores and results.

    Shares of the split are counted in patients (lesions, …), so that one patient with most images cannot fill a side.

    Args:
        abnormal: Abnormal classes; by default those of the card.
        learn: Normal classes to learn from; by default all that are not abnormal.
        limit: Use at most this many images.
    """

    def __init__(
        self,
        patches: PatchSet,
        choices: AnomalyChoices,
        *,
        abnormal: Sequence[str] = (),
        learn: Sequence[str] = (),
        limit: int | None = None,
    ) -> None:
        self.choices, self.learn = choices, tuple(learn)
        known = limit_images(patches.select(patches.labels >= 0), limit, seed=choices.seed)
        stratify = "diagnosis" if "diagnosis" in known.columns else "label"
        self.patches = split_cases(known, fractions=(0.6, 0.2, 0.2), seed=choices.seed, stratify=stratify)
        self.sides = detection_sides(self.patches, abnormal, learn=learn)
        self.models: dict[str, nn.Module] = {}
        self.judged: dict[str, Judged] = {}
        self.chosen: dict[str, str] = {}
        self.objective: Objective | None = None

    # --- material -------------------------------------------------------------------------------------------------

    @property
    def unit(self) -> str:
        """What the patients of the set are: ``patient``, ``lesion`` or ``image``."""
        return unit_of(self.patches)

    def sides_table(self) -> pd.DataFrame:
        """Who learns, who picks the epoch, who chooses, who is tested."""
        return self.sides.table(self.unit)

    def rows_of_classes(self, count: int = 8) -> np.ndarray:
        """Test images of every class in turn, about ``count``. **Shape** ``(n,)`` rows of ``sides.test``."""
        names, each = self.sides.test.label_names, max(1, count // len(self.patches.classes))
        return np.concatenate([np.flatnonzero(names == name)[:each] for name in self.patches.classes])

    def latent_space(self, model: Any) -> LatentSpace:
        """The codes of validation images under a VAE, and what they know."""
        return LatentSpace(model, self.sides, self.choices.seed)

    def normal_test(self) -> PatchSet:
        """The normal images of the test side."""
        return self.sides.test.select(~np.isin(self.sides.test.label_names, self.sides.abnormal))

    # --- networks -------------------------------------------------------------------------------------------------

    @cached_property
    def config(self) -> TrainConfig:
        """The settings of a whole training."""
        chosen = self.choices
        epochs = chosen.epochs or int(
            np.clip(round(chosen.images_seen / max(len(self.sides.train), 1)), chosen.fewest_epochs, chosen.most_epochs)
        )
        return TrainConfig(
            epochs=epochs, batch_size=chosen.batch_size, learning_rate=chosen.lr, seed=chosen.seed,
            device=chosen.device, clip_norm=chosen.clip_norm,
            augment=None if chosen.augment is None else as_augment(chosen.augment),
        )  # fmt: skip

    def train(self, spec: Mapping[str, Any], objective: Objective) -> Trained:
        """Train a network on the normal images, or find an equal one; short trainings take the first objective."""
        sides = self.sides
        self.objective = self.objective or objective
        return fit_or_reuse(spec, objective, sides.train, sides.monitor, self.config, retrain=self.choices.retrain)

    def fully_connected(self, hidden: int = 256) -> DenseAutoencoder:
        """An autoencoder with one hidden layer on each side and the study's bottleneck, not trained."""
        height, width, channels = self.patches.shape
        bottleneck = self.choices.bottleneck
        return DenseAutoencoder((height, width), in_channels=channels, bottleneck=bottleneck, hidden=(hidden,))

    def quality(self, models: Mapping[str, nn.Module], side: PatchSet) -> pd.DataFrame:
        """How well models reconstruct the same images, see ``reconstructions.quality_table``."""
        return quality_table(models, side)

    def add(self, name: str, model: nn.Module) -> pd.DataFrame:
        """Judge a network by every candidate score, and choose one on validation cases.

        Returns:
            A row per candidate: AUROC on validation cases, whether it was chosen, or why it was left out.
        """
        self.models[name] = model
        self.judged[name] = judge(model, self.sides, self.choices.scores, seed=self.choices.seed)
        self.chosen[name], aurocs = self.judged[name].choose()
        rows = {kind: {"AUROC (validation)": value, "note": "chosen" * (kind == self.chosen[name])}
                for kind, value in aurocs.items()}  # fmt: skip
        for kind, reason in self.judged[name].left_out.items():
            rows[kind] = {"AUROC (validation)": float("nan"), "note": reason}
        return pd.DataFrame.from_dict(rows, orient="index").round(3)

    @property
    def method(self) -> str:
        """The first network that was added."""
        if not self.judged:
            raise MedcoreError("AnomalyStudy: no network was judged yet; call add(name, model) first")
        return next(iter(self.judged))

    @property
    def kind(self) -> str:
        """The score that was chosen for the method."""
        return self.chosen[self.method]

    kind_in_words = property(lambda self: TITLES[self.kind], doc="The chosen score as a reader knows it.")

    @property
    def found(self) -> Scores:
        """Test cases under the method and its chosen score."""
        return self.judged[self.method].test[self.kind]

    @property
    def validation(self) -> Scores:
        """Validation cases under the method and its chosen score."""
        return self.judged[self.method].validation[self.kind]

    def validation_auroc(self) -> float:
        """AUROC of the chosen score on validation cases: what a search may choose by."""
        return interval(self.validation, "auroc").value or 0.0

    # --- what needs no network ------------------------------------------------------------------------------------

    @cached_property
    def references(self) -> dict[str, Judged]:
        """A blurred copy and a PCA under the same candidate scores."""
        sides, components = self.sides, min(self.choices.bottleneck, len(self.sides.train))
        models = {
            "blurred copy": Blur(self.choices.blur_share),
            f"PCA, {components} components": fit_linear(sides.train, components, seed=self.choices.seed),
        }
        kinds = list(dict.fromkeys(["mse", *self.choices.scores]))
        return {name: judge(model, sides, kinds, seed=self.choices.seed) for name, model in models.items()}

    @cached_property
    def trivial(self) -> dict[str, tuple[Scores, Scores]]:
        """Trivial detectors: validation and test cases by name.

        One that ranks validation cases the wrong way round is reversed: none is worse than chance for want of a sign.
        """
        sides = (self.sides.validation, self.sides.test)
        pairs = {}
        for name, judged in self.references.items():
            kinds = ["mse"] if name.startswith("PCA") else []
            kinds += [self.kind] if self.kind in judged.test else []
            for kind in dict.fromkeys(kinds):
                pairs[f"{name}, {TITLES[kind]}"] = (judged.validation[kind], judged.test[kind])
        colours = [colour_distances(self.sides.train, side) for side in sides]
        for name in colours[0]:
            first, second = (abnormal_scores(side, found[name], abnormal=self.sides.abnormal)
                             for side, found in zip(sides, colours, strict=True))  # fmt: skip
            pairs[name] = (first, second)
        return dict(oriented(name, *pair) for name, pair in pairs.items())

    def reference(self) -> str:
        """The trivial detector with the highest AUROC on validation cases."""
        return max(self.trivial, key=lambda name: interval(self.trivial[name][0], "auroc").value or 0.0)

    @cached_property
    def pretrained(self) -> dict[str, tuple[Scores, Scores]]:
        """Detectors on features of the pretrained peer: validation and test cases by name; empty without a peer."""
        return pretrained_scores(self.sides, self.choices) if self.choices.peer else {}

    def pretrained_table(self) -> pd.DataFrame:
        """AUROC of each detector on features, on validation and on test cases."""
        rows = {
            f"{name} on {self.choices.peer.removeprefix('timm:')}": [interval(one, "auroc") for one in pair]
            for name, pair in self.pretrained.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=["validation", "test"])

    @property
    def peer(self) -> dict[str, Scores]:
        """Test cases under the detector on features that ranks validation cases best; empty without a peer."""
        if not self.pretrained:
            return {}
        best = max(self.pretrained, key=lambda name: interval(self.pretrained[name][0], "auroc").value or 0.0)
        return {f"{best} on {self.choices.peer.removeprefix('timm:')}": self.pretrained[best][1]}

    # --- results --------------------------------------------------------------------------------------------------

    @cached_property
    def comparison(self) -> Comparison:
        """The method beside trivial detectors, the other networks (each by its own chosen score) and the peer."""
        rivals = {f"{name}, {TITLES[self.chosen[name]]}": self.judged[name].test[self.chosen[name]]
                  for name in list(self.judged)[1:]}  # fmt: skip
        trivial = {name: test for name, (_, test) in self.trivial.items()}
        compared = compare_methods(
            self.found, trivial, metrics=("auroc",), rivals=rivals | self.peer, reference=self.reference()
        )
        return replace(compared, metrics=detector_estimates(self.found, self.point))

    @property
    def test_is_small(self) -> bool:
        """Whether the test part is too small for its figure to lead."""
        few, sides = self.choices, self.sides
        return len(sides.test) < few.fewest_test_images or sides.fewest_test_units < few.fewest_test_units

    def results(self, folds: int) -> dict[str, Comparison]:
        """Results by the method that they speak of, the leading one first.

        Test cases lead, and three detectors that need no network follow, in folds of everybody. Where the test part is
        small, whole trainings of the network in these folds lead. Too few patients have no folds.
        """
        tested = {f"Trained on normal images only, the {self.method} ({TITLES[self.kind]})": self.comparison}
        patches, normal = self.patches, experiments.learnt_from(self.patches, self.sides, self.learn)
        if not folds or len(np.unique(patches.patients[normal])) < 3 * folds:
            return tested
        whole = replace(self.trial, config=self.config, most=len(patches)) if self.test_is_small else None
        crossed = experiments.judged_in_folds(patches, normal, self.sides.abnormal, self.choices, k=folds, trial=whole)
        how = crossed.metrics[0].note.split(";")[0]
        if whole is None:
            return tested | {f"Without a network, mean rank of three ({how})": crossed}
        return {f"In folds of all {self.unit}s, trained on normal images, the {self.method} ({how})": crossed} | tested

    @cached_property
    def point(self) -> OperatingPoint:
        """The threshold, chosen on validation cases."""
        return choose_threshold(self.validation, self.choices.rule)

    def operating(self) -> pd.DataFrame:
        """The chosen threshold and a second one, each from validation cases, and what they give on test cases."""
        rows = {}
        for rule in dict.fromkeys((self.choices.rule, self.choices.strict_rule)):
            point = choose_threshold(self.validation, rule)
            decision = point.apply(self.found)
            rows[rule] = {"threshold": f"{point.threshold:.4g}"} | {
                name: interval(self.found, name, decision=decision) for name in ("sensitivity", "specificity")
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def by_class(self) -> pd.DataFrame:
        """How often each class of the test cases is called abnormal."""
        return detection_table(self.found, self.sides.test.label_names, self.point, group=self.unit)

    def within(self) -> pd.DataFrame:
        """AUROC among cases diagnosed in the same way, where a column says how; else an empty table."""
        column = next((name for name in HOW_DIAGNOSED if name in self.patches.columns), None)
        if column is None:
            return pd.DataFrame(columns=["normal", "abnormal", "auroc"])
        return auroc_within(self.found, self.sides.test.column(column)).rename_axis(column)

    def ingredients(self) -> pd.DataFrame:
        """AUROC on test cases: reference models and networks down, scores across from plain to refined."""
        return ingredients({**self.references, **self.judged}, list(dict.fromkeys((*LADDER, self.kind))))

    def with_labels(self) -> Comparison | None:
        """What labelled validation cases make of every model's errors, and of colours; None where they are too few."""
        found = with_labels({**self.references, **self.judged}, self.sides)
        if self.method not in found:
            return None
        ours = found.pop(self.method)
        return compare_methods(ours, {}, metrics=("auroc",), rivals=found, reference="")

    # --- pictures -------------------------------------------------------------------------------------------------

    def reconstructed(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Some test images, what the method makes of them, and their classes."""
        images = self.sides.test.take(rows)
        return images, reconstruct_pixels(self.models[self.method], images), self.sides.test.label_names[rows].tolist()

    def mistakes(self, count: int = 4) -> dict[str, Any]:
        """The clearest missed images and false alarms with their error map, for ``plots.reconstruction_rows``."""
        missed, alarms = mistakes(self.found, self.point.apply(self.found))
        rows = np.concatenate([missed[:count], alarms[:count]])
        images, restored, names = self.reconstructed(rows)
        kind = self.kind if self.kind in PIXEL_MAPS else "structure"
        words = ["missed"] * len(missed[:count]) + ["false alarm"] * len(alarms[:count])
        titles = [f"{name}\n{word}" for name, word in zip(names, words, strict=True)]
        maps = {"errors": error_maps(self.models[self.method], images, kind), "error_label": TITLES[kind]}
        return {"images": images, "reconstructions": restored, "titles": titles, **maps}

    def mistake_counts(self) -> pd.DataFrame:
        """How many abnormal test images are missed, and how many normal ones raise a false alarm."""
        missed, alarms = mistakes(self.found, self.point.apply(self.found))
        strange = int(self.found.positive.sum())
        rows = {"missed": [len(missed), strange], "false alarm": [len(alarms), len(self.found) - strange]}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["images", "of"])

    # --- short trainings, judged on validation cases ---------------------------------------------------------------

    @property
    def trial(self) -> experiments.Trial:
        """What all short trainings share: the method's architecture, objective and score."""
        if self.objective is None:
            raise MedcoreError("AnomalyStudy: no network was trained yet; call train(spec, objective) first")
        short = replace(self.config, epochs=self.choices.short_epochs)
        spec = getattr(self.models[self.method], "spec", {})
        return experiments.Trial(self.sides, spec, self.objective, short, self.kind, self.choices.short_images)

    def widths(self, widths: Sequence[int]) -> dict[str, Estimate]:
        """AUROC for several widths of the bottleneck."""
        return experiments.width_sweep(self.trial, widths)

    def ways_of_learning(self) -> pd.DataFrame:
        """Which normal images to learn from, and whether to even out their colours first."""
        return experiments.learning_table(self.trial)

    def folds(self, count: int) -> list[Estimate]:
        """AUROC of each fold's patients under a network that learnt from the other folds; test patients stay out."""
        judging = self.patches.where(split=["train", "val"])
        return experiments.patient_folds_auroc(self.trial, judging, k=count, learn=self.learn)

    def tabular(self, source: str = "") -> tuple[PatchSet, PatchSet, str]:
        """The images as a table of 28×28 pixels has them, these enlarged again, and where the table comes from."""
        table, origin = tabular_form(self.patches, source)
        return table, shrunk(table, side=self.patches.shape[0]), origin

    def table_loss(self, source: str = "") -> pd.DataFrame:
        """What the tabular form loses: detail, and with it the detector's AUROC."""
        table, enlarged, _ = self.tabular(source)
        return experiments.table_loss(self.trial, table, enlarged, learn=self.learn)

    def tabular_examples(self, source: str = "") -> tuple[np.ndarray, dict[str, Any], str]:
        """One image of each class, its row of the table, and that row enlarged, for ``plots.image_grid``."""
        table, enlarged, origin = self.tabular(source)
        names, side = self.patches.label_names, self.patches.shape[0]
        rows = np.concatenate([np.flatnonzero(names == name)[:1] for name in self.patches.classes])
        blocks = resize(table.take(rows), (side, side), "nearest")
        images = np.concatenate([self.patches.take(rows), blocks, enlarged.take(rows)])
        labels = ["image", "table,\n28×28", "enlarged\nagain"]
        return images, {"columns": len(rows), "row_labels": labels, "column_titles": names[rows].tolist()}, origin


def history_of(trained: Trained) -> pd.DataFrame:
    """The columns of a training, a row per epoch."""
    return pd.read_csv(trained.folder / "history.csv")
