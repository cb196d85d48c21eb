"""One segmentation study: its sides, its baselines, its cases and its results, on one object.

    study = SegmentationStudy.read("phantom-glands", longest_side=384, crop=160)
    network = study.build("small")
    fit(network, study.objective("ce+dice"), study.train_seen, study.validation_seen, study.config(epochs=80, …))
    compared = study.judge(network)              # test cases: metrics, baselines, paired differences

- Images are judged at their original size; the network sees them at ``factor`` of it.
- The reference baseline is chosen on validation cases.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medcore.data.load import limit_images, read_set
from medcore.data.patchset import PatchSet
from medcore.data.sizes import factor_for, rescaled
from medcore.data.splits import group_names, patient_folds, split_cases
from medcore.errors import MedcoreError
from medcore.evaluation.comparison import Comparison, strongest
from medcore.evaluation.estimate import Estimate, not_estimable
from medcore.evaluation.sliding import Window, predict_image
from medcore.metrics.objects import label_objects, split_touching
from medcore.models.unet import SegmentationModel, build_unet
from medcore.studies.experiments import Variants, compare_variants
from medcore.studies.segmentation import cases, scoring
from medcore.training.augment.apply import augmented_examples
from medcore.training.augment.recipe import Augment
from medcore.training.checkpoint import annotate, load_checkpoint
from medcore.training.config import TrainConfig, setting, settings_table
from medcore.training.fit import fit
from medcore.training.objectives import Segmentation


@dataclass(frozen=True)
class SegmentationChoices:
    """What a segmentation study fixes beside the parameters of its notebook."""

    tolerance: float = setting(
        scoring.TOLERANCE_PIXELS, "Outlines this close agree (NSD), where none is given.", "pixels"
    )
    blur: float = setting(cases.BLUR, "Gaussian before Otsu's threshold.", "share of the longer side")
    in_one_up_to: int = setting(cases.IN_ONE, "Larger images are predicted in overlapping tiles.", "pixels seen")
    rotation: float = setting(20.0, "Largest turn of a training window, besides quarter turns.", "degrees")
    scale: tuple[float, float] = setting((0.8, 1.25), "Smallest and largest zoom of a training window.", "factor")
    elastic: float = setting(0.03, "How far a training window is bent.", "share of the window")
    light: float = setting(0.1, "Change of brightness and of contrast.", "share")
    stain: float = setting(0.2, "Change of the amount of each dye, in colour.", "share")
    saturation: float = setting(0.1, "Change of the saturation, in colour.", "share")
    hue: float = setting(0.02, "Change of the hue, in colour.", "turns of the colour circle")
    smallest_object: int = setting(50, "Connected regions with fewer pixels are no objects.", "pixels")
    ablation_crop: float = setting(0.6, "Windows of the small experiments.", "share of the training window")
    ablation_crop_least: int = setting(32, "… but no smaller than this.", "pixels")
    fewest_test_units: int = setting(5, "With fewer test patients (slides, …) the cross-validated figure leads.")
    folds: int = setting(5, "Parts of the patients, each held out once, where that figure is needed.")

    def table(self) -> pd.DataFrame:
        """One row per choice: value, unit, meaning."""
        return settings_table(self)


@dataclass(frozen=True)
class Seams:
    """One image in one piece and in tiles: how far the probabilities lie apart.

    Attributes:
        image: As the network sees it. **Shape** ``(H, W, C)`` uint8.
        whole: Probability of the first foreground class in one piece. **Shape** ``(H, W)``.
        tiled: The same, by way of tiling.
    """

    image: np.ndarray
    whole: np.ndarray
    tiled: dict[str, np.ndarray]

    def table(self) -> pd.DataFrame:
        """Mean and largest difference of the probability, by way of tiling."""
        gaps = {name: np.abs(found - self.whole) for name, found in self.tiled.items()}
        rows = {name: [gap.mean(), gap.max()] for name, gap in gaps.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean difference", "largest difference"]).round(4)


class SegmentationStudy:
    """The sides, baselines, cases and results of one study; see the top of this file."""

    def __init__(
        self,
        patches: PatchSet,
        *,
        longest_side: int | None = None,
        crop: int = 256,
        turns: int = 8,
        tolerance: float | None = None,
        seed: int = 0,
        device: str | None = None,
        choices: SegmentationChoices | None = None,
    ) -> None:
        """Keep the set with its splits, and how the network sees it.

        Args:
            patches: Images with masks and splits.
            longest_side: Pixels of the longer side as the network sees it; None keeps the size.
            crop: Side of the windows that the network learns from, pixels as seen.
            turns: Flips and quarter turns averaged at prediction: 1, 2 or 8.
            tolerance: Of NSD, µm where the pixel size is known, else pixels.
            seed: First weights, order and augmentation.

        Raises:
            MedcoreError: There are no masks, or the training masks hold one class only.
        """
        self.patches, self.seed, self.turns, self.device = patches, seed, turns, device
        self.choices = choices or SegmentationChoices()
        self.longest_side = longest_side
        self.train, self.validation, self.test = (patches.where(split=side) for side in ("train", "val", "test"))
        cases.check_trainable(self.train)
        self.factor = factor_for(patches, longest_side)
        seen = rescaled(patches, self.factor)
        self.train_seen, self.validation_seen = seen.where(split="train"), seen.where(split="val")
        self.crop = min(crop, *seen.shape[:2])
        self.tolerance = tolerance or self.choices.tolerance * (patches.card.pixel_size_um or 1.0)
        self._network: SegmentationModel | None = None

    @classmethod
    def read(
        cls, source: str, *, limit: int | None = None, on_error: str = "raise", seed: int = 0, **options: Any
    ) -> SegmentationStudy:
        """Read a set with masks, take at most ``limit`` images, split over patients (a given split is kept)."""
        patches = limit_images(read_set(source, on_error=on_error, seed=seed), limit, seed=seed)
        return cls(split_cases(patches, seed=seed), seed=seed, **options)

    @property
    def unit(self) -> str:
        """Of distances: ``µm`` or ``pixels``."""
        return "µm" if self.patches.card.pixel_size_um else "pixels"

    @property
    def foreground(self) -> str:
        """The classes but the background, in words."""
        return ", ".join(self.patches.classes[1:])

    def without_foreground(self) -> list[str]:
        """Names of the images whose mask holds nothing but background."""
        return cases.without_foreground(self.patches)

    def class_table(self) -> pd.DataFrame:
        """Pixels, share and weight of each class in the training masks."""
        return cases.class_table(self.train)

    def examples(self, count: int = 4) -> dict[str, Any]:
        """Training images of as many patients as possible, as arguments of ``plots.masked_examples``."""
        order = np.random.default_rng(self.seed).permutation(len(self.train))
        seen: set[str] = set()
        rows: list[int] = []
        for again in (False, True):  # one image of each patient first
            for row in order:
                if len(rows) < count and row not in rows and (again or self.train.patients[row] not in seen):
                    rows.append(int(row))
                    seen.add(self.train.patients[row])
        shown = self.train.select(np.sort(rows))
        return {
            "images": list(cases.case_images(shown)),
            "masks": list(cases.case_masks(shown)),
            "classes": self.patches.classes,
            "titles": [str(name) for name in shown.patients],
        }

    # --- baselines

    def score(self, ps: PatchSet, predicted: list[np.ndarray]) -> pd.DataFrame:
        """Metrics of some images, case by case."""
        return cases.score_predictions(ps, predicted, tolerance=self.tolerance)

    @cached_property
    def baselines(self) -> dict[str, pd.DataFrame]:
        """Rules that learn no shapes, on the test cases."""
        return self.tables_of_rules(self.test)

    @cached_property
    def reference(self) -> str:
        """The rule that the result is set against: the strongest on validation cases."""
        found = self.tables_of_rules(self.validation)
        return strongest({name: scoring.case_estimates(table, split="val") for name, table in found.items()})

    def tables_of_rules(self, ps: PatchSet) -> dict[str, pd.DataFrame]:
        """The rules' metrics on some images, case by case."""
        found = cases.baseline_cases(self.train, ps, blur=self.choices.blur)
        return {name: self.score(ps, said) for name, said in found.items()}

    def rule_example(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A validation image, its true mask, and what the threshold rule says of it."""
        shown = self.validation.select([0])
        name, said = list(cases.baseline_cases(self.train, shown, blur=self.choices.blur).items())[-1]
        return next(cases.case_images(shown)), {"truth": next(cases.case_masks(shown)), name: said[0]}

    # --- the network

    def build(
        self, model: str, weights: str | None = None, *, deep_supervision: bool = True, seed: int | None = None
    ) -> SegmentationModel:
        """A fresh U-Net; without pretrained weights it is normalised by the training images' own statistics."""
        options: dict[str, Any] = {"in_channels": self.patches.shape[2], "weights": weights}
        if weights is None:
            options |= dict(zip(("mean", "std"), cases.case_statistics(self.train_seen), strict=True))
        torch.manual_seed(self.seed if seed is None else seed)
        return build_unet(model, len(self.patches.classes), deep_supervision=deep_supervision, **options)

    def levels(self, network: SegmentationModel) -> list[tuple[int, int]]:
        """Channels and side of the maps at each level, for a window, as ``plots.unet_diagram`` draws them."""
        widths: Any = network.spec["args"].get("widths") or network.backbone.widths  # type: ignore[union-attr]
        return [(width, self.crop >> level + 1) for level, width in enumerate(widths)]

    def augmentation(self) -> Augment:
        """Random windows, flipped, turned, zoomed and bent with their masks; colours vary in the image alone."""
        choices = self.choices
        in_colour = self.patches.shape[2] == 3
        return Augment(
            crop=self.crop, flip_horizontal=0.5, turns=True, rotation=choices.rotation, scale=choices.scale,
            elastic=choices.elastic * self.crop, brightness=choices.light, contrast=choices.light,
            stain=choices.stain * in_colour, saturation=choices.saturation * in_colour, hue=choices.hue * in_colour,
        )  # fmt: skip

    def augmented(self, recipe: Augment, *, images: int = 2, count: int = 5) -> np.ndarray:
        """Some training windows, each followed by variants. **Shape** ``(images (count + 1), crop, crop, C)`` uint8."""
        windows = self.train_seen.take(np.arange(images))[:, : self.crop, : self.crop]
        return augmented_examples(recipe, windows, count=count, seed=self.seed)

    def objective(self, loss: str, class_weights: str = "balanced") -> Segmentation:
        """What the network minimises."""
        weights = None if class_weights == "none" else class_weights
        return Segmentation(self.patches.classes, loss=loss, class_weights=weights)

    def config(self, recipe: Augment, **settings: Any) -> TrainConfig:
        """A training's settings; an exponential schedule goes with Adam, others with AdamW."""
        settings["optimiser"] = "adam" if settings.get("schedule") == "exponential" else "adamw"
        return TrainConfig(augment=recipe, seed=self.seed, device=self.device or "auto", **settings)

    # --- the result

    @property
    def window(self) -> Window:
        """How images are predicted: overlapping tiles of the training window's size, and turns."""
        return Window(tile=self.crop, turns=self.turns, device=self.device)

    def predict(self, network: SegmentationModel, ps: PatchSet) -> list[np.ndarray]:
        """Classes of every image at its original size."""
        return cases.predict_cases(
            network, ps, factor=self.factor, window=self.window, in_one_up_to=self.choices.in_one_up_to
        )

    def judge(self, network: SegmentationModel) -> Comparison:
        """The network's result on test cases beside the rules; the study keeps its predictions and its table."""
        self._network = network
        self.predicted = self.predict(network, self.test)
        self.table = self.score(self.test, self.predicted)
        return scoring.compare_cases(self.table, self.baselines, split="test", reference=self.reference)

    @property
    def test_is_small(self) -> bool:
        """Whether the test part has too few patients for its figure to lead."""
        return len(set(group_names(self.test))) < self.choices.fewest_test_units

    def cross_validate(
        self, model: str, weights: str | None, config: TrainConfig, objective: Segmentation, *, deep: bool = True
    ) -> Comparison:
        """Every case under a network, and beside rules, that never saw its patient.

        Nothing is chosen: settings are given and each fold ends with its last epoch, so that test cases may take part.

        Args:
            deep: With deep supervision.
        """
        own, rules = [], []
        count = min(self.choices.folds, len(set(group_names(self.patches))))
        how: dict[str, Any] = {"longest_side": self.longest_side, "crop": self.crop, "turns": self.turns}
        how |= {"tolerance": self.tolerance, "seed": self.seed, "device": self.device, "choices": self.choices}
        for fold in patient_folds(self.patches, count, seed=self.seed):
            sides = np.where(np.isin(np.arange(len(self.patches)), fold.validation), "val", "train")
            part = SegmentationStudy(self.patches.with_split(sides.tolist()), **how)
            network = part.build(model, weights, deep_supervision=deep)
            with tempfile.TemporaryDirectory() as folder:
                unused = part.validation_seen.select(np.arange(1))  # nothing is chosen, see experiments.network_method
                fit(network, objective, part.train_seen, unused, config, out=folder, progress=False)
                last: Any = load_checkpoint(folder, "last").model
            own.append(part.score(part.validation, part.predict(last, part.validation)))
            rules.append(part.tables_of_rules(part.validation))
        tables = {name: scoring.joined([fold[name] for fold in rules]) for name in rules[0]}
        return scoring.compare_cases(scoring.joined(own), tables, split="folds", reference=self.reference)

    @property
    def network(self) -> SegmentationModel:
        """The network that was judged.

        Raises:
            MedcoreError: None was.
        """
        if self._network is None:
            raise MedcoreError("this study has no result yet: call study.judge(network) first")
        return self._network

    def per_class(self) -> pd.DataFrame:
        """Dice, NSD and HD95 of each class but the background, over the test cases that have one."""
        columns = {
            metric: scoring.class_estimates(self.table, metric, split="test") for metric in ("dice", "nsd", "hd95")
        }
        return pd.DataFrame(columns).rename_axis("class")

    def strays(self) -> pd.Series:
        """Test cases with a class drawn that is not there: the share of their pixels."""
        return scoring.absent_but_drawn(self.table)

    @cached_property
    def dice(self) -> pd.Series:
        """Dice of the foreground of every test case that has one, by case."""
        rows = scoring.foreground_rows(self.table)
        return pd.Series(rows["dice"].to_numpy(), index=rows["case"]).dropna()

    def dice_by_patient(self) -> dict[str, Any]:
        """Every case's Dice with its patient, as arguments of ``plots.dice_per_case``."""
        rows = scoring.foreground_rows(self.table).set_index("case").loc[self.dice.index]
        lines = {name: scoring.case_estimates(table, split="test")[0] for name, table in self.baselines.items()}
        return {
            "dice": self.dice.to_numpy(),
            "groups": rows["patient"].to_numpy(),
            "baselines": {name: found.value for name, found in lines.items() if found.value is not None},
        }

    def extremes(self, count: int = 2) -> list[int]:
        """Positions in the test part of the worst and then the best cases."""
        names = scoring.foreground_rows(self.table)["case"].tolist()
        order = [names.index(name) for name in self.dice.sort_values(kind="stable").index]
        return list(dict.fromkeys([*order[:count], *order[-count:]]))

    def shown(self, rows: list[int]) -> dict[str, Any]:
        """Some test cases with truth and prediction, as arguments of ``plots.segmentation_rows``."""
        part = self.test.select(rows)
        names = scoring.foreground_rows(self.table)["case"].to_numpy()[rows]
        return {
            "images": list(cases.case_images(part)),
            "truths": list(cases.case_masks(part)),
            "predictions": [self.predicted[row] for row in rows],
            "classes": self.patches.classes,
            "pixel_size_um": self.patches.card.pixel_size_um,
            "titles": [f"{name}: Dice {self.dice[name]:.2f}" for name in names],
        }

    def seams(self, row: int) -> Seams:
        """One test image in one piece, in tiles side by side, and in overlapping tiles under a Gaussian."""
        network = self.network
        image = rescaled(self.test.select([row]), self.factor).take()[0]
        tile = max(network.stride * 2, min(image.shape[:2]) // 2 // network.stride * network.stride)
        ways = {
            "tiles side by side": Window(tile=tile, overlap=0),
            "overlapping, Gaussian": Window(tile=tile, overlap=0.5),
        }
        whole = predict_image(network, image, whole=True)[1]
        return Seams(image, whole, {name: predict_image(network, image, way)[1] for name, way in ways.items()})

    def objects(self, row: int) -> tuple[int, int]:
        """Objects in one predicted test case: connected regions, and after the watershed."""
        mask, least = self.predicted[row] > 0, self.choices.smallest_object
        return int(label_objects(mask, smallest=least).max()), int(split_touching(mask, smallest=least).max())

    def ablation(self, model: str, weights: str | None, config: TrainConfig, *, loss: str) -> Variants:
        """Short trainings with deep supervision and class weights, without each, and with both from another seed.

        The Dice is that of the last epoch on the validation images as the network sees them.
        """
        crop = max(self.choices.ablation_crop_least, int(self.crop * self.choices.ablation_crop + 1e-9))
        config = replace(config, augment=replace(config.augment, crop=crop)) if config.augment else config

        def train_one(deep: bool = True, class_weights: str = "balanced", seed: int = 0) -> Estimate:
            again = replace(config, seed=config.seed + seed)
            network = self.build(model, weights, deep_supervision=deep, seed=again.seed)
            objective = self.objective(loss, class_weights)
            history = fit(network, objective, self.train_seen, self.validation_seen, again, progress=False)
            value, images = float(history.table["val_dice"].iloc[-1]), len(self.validation)
            return not_estimable("dice", "one short training", value=value, n=images, unit="image", split="val")

        variants: dict[str, dict[str, Any]] = {
            "both": {},
            "no deep supervision": {"deep": False},
            "no class weights": {"class_weights": "none"},
            "both, another seed": {"seed": 1},
        }
        return compare_variants(variants, train_one, seeds=["both, another seed"])

    def annotate(self, folder: Path) -> None:
        """Write into the best checkpoint at which size and how images are to be predicted."""
        facts = {"factor": self.factor, "tile": self.crop, "turns": self.turns, "tolerance": self.tolerance}
        annotate(folder, segmentation=facts | {"pixel_size_um": self.patches.card.pixel_size_um})
