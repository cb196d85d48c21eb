"""Notebook 01: what preprocessing does to some images, and how much a split that mixes patients flatters a result."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medcore.data import stain
from medcore.data.load import limit_images, one_label, read_set
from medcore.data.patchset import PatchSet
from medcore.data.splits import Fold, assign_splits, patient_folds, unit_of
from medcore.errors import MedcoreError
from medcore.evaluation.baselines import baseline_names, is_grey
from medcore.evaluation.comparison import Comparison, compare_methods
from medcore.evaluation.estimate import Estimate
from medcore.models.classifier import Classifier, build_classifier
from medcore.models.normalise import channel_statistics
from medcore.studies.experiments import CrossPrediction, TrainAndPredict, baseline_method, cross_predict, network_method
from medcore.training.augment.recipe import PRESETS, suitable_recipe
from medcore.training.config import TrainConfig, setting
from medcore.training.objectives import Classification

METRIC = "balanced_accuracy"


def read_and_split(source: str, *, limit: int | None = None, seed: int = 0, **options: Any) -> PatchSet:
    """A set as ``read_set`` gives it, at most ``limit`` images of it, split over patients (a given split is kept)."""
    patches = one_label(read_set(source, seed=seed, **options))
    return assign_splits(limit_images(patches, limit, seed=seed), seed=seed)


def select_classes(patches: PatchSet, classes: Sequence[str] | int) -> PatchSet:
    """The images of some classes, labelled anew in their order; a number takes that many of the commonest.

    Raises:
        MedcoreError: A class does not exist, or fewer than two are left.
    """
    if isinstance(classes, int):
        counts = np.bincount(patches.labels[patches.labels >= 0], minlength=len(patches.classes))
        classes = [patches.classes[k] for k in sorted(np.argsort(-counts, kind="stable")[:classes])]
    unknown = [name for name in classes if name not in patches.classes]
    if unknown or len(set(classes)) < 2:
        raise MedcoreError(f"classes {list(classes)}: name two or more of {', '.join(patches.classes)}")
    part = patches.select(np.isin(patches.label_names, list(classes)))
    card = replace(part.card, classes=list(classes), abnormal=[name for name in part.card.abnormal if name in classes])
    numbers = {name: number for number, name in enumerate(classes)}
    return part.with_columns(label=np.array([numbers[name] for name in part.label_names])).with_card(card)


def preprocessing_steps(images: np.ndarray) -> dict[str, np.ndarray]:
    """The images as read and, in colour, their optical density, both dyes and Macenko's normalisation.

    Args:
        images: uint8. **Shape** ``(n, H, W, C)``.

    Returns:
        Step name to uint8 images ``(n, H, W, 3)``, in order; an image without enough tissue is left as it is.
    """
    if images.shape[3] == 1 or (images == images[..., :1]).all():
        return {"as read": images}
    density = stain.optical_density(images)
    shown = 255 * (1 - np.clip(density / max(float(np.quantile(density, 0.995)), 1e-6), 0, 1))
    amounts = stain.separate_stains(images)
    steps = {"as read": images, "optical density": shown.astype(np.uint8)}
    for number, name in enumerate(("haematoxylin", "eosin")):
        alone = np.zeros_like(amounts)
        alone[..., number] = amounts[..., number]
        steps[name] = stain.recombine_stains(alone)
    return steps | {"Macenko": np.stack([_normalised(image) for image in images])}


def _normalised(image: np.ndarray) -> np.ndarray:
    try:
        return stain.normalise_stains(image[None])[0]
    except MedcoreError:  # too little tissue to see two dyes
        return image


def is_stained(ps: PatchSet) -> bool:
    """Whether colour is two dyes here: tissue, but no photographs, radiographs or grey files stored as colour."""
    return not is_grey(ps) and suitable_recipe(ps.card, ps.shape[2]) in ("tissue", "ihc")


def normalisation(train: PatchSet, most: int = 2000) -> pd.DataFrame:
    """Mean and standard deviation of each channel over at most ``most`` training images, pixels from 0 to 1."""
    values = channel_statistics(train.take(np.arange(min(most, len(train)))))
    names = ["red", "green", "blue"] if train.shape[2] == 3 else ["grey"]
    return pd.DataFrame(values, index=["mean", "standard deviation"], columns=names)


@dataclass(frozen=True)
class SplitChoices:
    """The experiment on folds: a small network and two baselines, each under folds over patients and over images."""

    folds: int = setting(2, "Folds of each cross-validation.", "folds")
    epochs: int = setting(16, "How often the small network visits its training fold; 0 leaves it out.", "epochs")
    model: str = setting("small_cnn", "Architecture, from random weights.")
    side: int | None = setting(64, "Larger images are made this small, for a demonstration has minutes.", "pixels")
    learning_rate: float = setting(2e-3, "Largest learning rate of a one-cycle schedule.", "per step")
    seed: int = setting(0, "Draws the folds, the first weights, the order and the augmentation.")
    device: str = setting("auto", "Where to train.")


@dataclass(frozen=True)
class SplitExperiment:
    """The same methods under folds over patients and under folds that mix them.

    Attributes:
        by_patient: Answers from folds over patients (lesions, …).
        mixed: Answers from folds over images.
        method: The strongest method in kind, the one that is reported: the network where there is one.
        histogram: What the histogram baseline is called for these images.
        unit: What must not stand on two sides: ``patient``, ``lesion`` or ``image``.
    """

    by_patient: CrossPrediction
    mixed: CrossPrediction
    method: str
    histogram: str
    unit: str

    @property
    def comparison(self) -> Comparison:
        """The method beside majority and histogram, all under folds over patients; the flattered result as a rival."""
        honest, flattered = (crossed.scores for crossed in (self.by_patient, self.mixed))
        others = {name: found for name, found in honest.items() if name != self.method}
        rivals = {f"{self.method}, random folds (flattered)": flattered[self.method]}
        reference = self.histogram if self.histogram in others else "majority"
        return compare_methods(
            honest[self.method], others, metrics=[METRIC], rivals=rivals, reference=reference
        ).labelled("folds")

    @property
    def flattered(self) -> Estimate:
        """What the method seems to reach when patients are mixed."""
        return next(iter(self.comparison.rivals.values()))[0]

    @property
    def gap(self) -> Estimate:
        """How much mixing adds: flattered minus honest, paired."""
        pair = self.mixed.scores[self.method], {"by patient": self.by_patient.scores[self.method]}
        return compare_methods(*pair, metrics=[METRIC]).labelled("folds").differences["by patient"][0]

    def rows(self) -> dict[str, Estimate]:
        """Every method under both kinds of folds, as rows of a figure."""
        found = {}
        for name in self.by_patient.scores:
            for kind, crossed in ((self.unit, self.by_patient), ("random", self.mixed)):
                found[f"{name}\n{kind} folds"] = crossed.compare(name, metrics=[METRIC]).metrics[0]
        return found


def compare_splits(patches: PatchSet, choices: SplitChoices | None = None) -> SplitExperiment:
    """Cross-predict majority, histogram and a small network under folds over patients and under random folds.

    Raises:
        MedcoreError: There are fewer patients, or fewer images of a class, than folds.
    """
    choices = choices or SplitChoices()
    histogram = baseline_names(patches)[-1]
    methods = {name: baseline_method(name, seed=choices.seed) for name in ("majority", histogram)}
    if choices.epochs:
        methods["small CNN"] = small_network(patches, choices)
    both = cross_both(patches, methods, k=choices.folds, seed=choices.seed)
    return SplitExperiment(*both, method=list(methods)[-1], histogram=histogram, unit=unit_of(patches))


def cross_both(
    patches: PatchSet, methods: dict[str, TrainAndPredict], *, k: int, seed: int = 0
) -> tuple[CrossPrediction, CrossPrediction]:
    """The same methods under folds over patients, and under random folds."""
    by_patient = cross_predict(patches, methods, patient_folds(patches, k, seed=seed))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"[0-9]+ \w+\(s\) are in train")  # here that is the point
        return by_patient, cross_predict(patches, methods, random_folds(patches, k, seed=seed))


def random_folds(patches: PatchSet, k: int, *, seed: int = 0) -> list[Fold]:
    """Folds drawn over images, blind to patients: the usual mistake, here only to measure what it does.

    Raises:
        MedcoreError: A class has fewer images than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    smallest = np.bincount(patches.labels).min() if len(patches) else 0
    if smallest < k:
        raise MedcoreError(f"random_folds: k={k}, but the rarest class has {smallest} images")
    drawn = StratifiedKFold(k, shuffle=True, random_state=seed).split(np.zeros(len(patches)), patches.labels)
    return [Fold(train, np.sort(held_out)) for train, held_out in drawn]


def small_network(patches: PatchSet, choices: SplitChoices) -> TrainAndPredict:
    """A network from random weights that ends with its last epoch."""
    config = TrainConfig(
        epochs=choices.epochs, learning_rate=choices.learning_rate, schedule="one-cycle", seed=choices.seed,
        device=choices.device, augment=PRESETS["tissue" if patches.shape[2] == 3 else "flips"],
    )  # fmt: skip
    classes = patches.classes

    def make(train: PatchSet) -> Classifier:
        return build_classifier(choices.model, len(classes), in_channels=train.shape[2], image_size=train.shape[0])

    return network_method(make, Classification(classes), config, side=choices.side)
