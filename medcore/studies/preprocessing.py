"""What each preprocessing step does to some images, as pictures for a notebook.

How much a split that mixes patients flatters a result: the same method under patient folds and random folds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from medcore.data import stain
from medcore.data.patchset import PatchSet
from medcore.data.sizes import factor_for, rescaled
from medcore.data.splits import Fold, patient_folds
from medcore.errors import MedcoreError
from medcore.evaluation.baselines import run_baselines
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Scores
from medcore.models.classifier import build_classifier
from medcore.training.augment.recipe import PRESETS
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification


def preprocessing_steps(images: np.ndarray) -> dict[str, np.ndarray]:
    """The images as read and, in colour, their optical density, both dyes and Macenko's normalisation.

    Args:
        images: uint8. **Shape** ``(n, H, W, C)``.

    Returns:
        Step name to uint8 images ``(n, H, W, 3)``, in order; an image without enough tissue is left as it is.
    """
    if images.shape[3] == 1:
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


Predictor = Callable[[PatchSet, PatchSet], np.ndarray]
"""From (train, held out) to class probabilities of the held-out images, **Shape** ``(n, K)``."""


def random_folds(patches: PatchSet, k: int, *, seed: int = 0) -> list[Fold]:
    """Folds drawn over images, blind to patients: the usual mistake, here only to measure what it does.

    Raises:
        MedcoreError: A class has fewer images than there are folds.
    """
    smallest = np.bincount(patches.labels).min() if len(patches) else 0
    if smallest < k:
        raise MedcoreError(f"random_folds: k={k}, but the rarest class has {smallest} images")
    drawn = StratifiedKFold(k, shuffle=True, random_state=seed).split(np.zeros(len(patches)), patches.labels)
    return [Fold(train, np.sort(held_out)) for train, held_out in drawn]


def out_of_fold(patches: PatchSet, folds: Sequence[Fold], predictor: Predictor) -> Scores:
    """Predictions for every image by a model whose training fold did not hold it.

    Args:
        patches: Labelled images.
        folds: Every image is in the validation part of exactly one.
        predictor: Trains on its first argument, predicts its second.

    Returns:
        Scores in the order of ``patches``, marked ``val``.

    Raises:
        MedcoreError: The folds do not cover the set exactly once.
    """
    seen = np.concatenate([fold.validation for fold in folds])
    if not np.array_equal(np.sort(seen), np.arange(len(patches))):
        raise MedcoreError(f"out_of_fold: the folds cover {len(np.unique(seen))} of {len(patches)} images once")
    probabilities = np.zeros((len(patches), len(patches.classes)))
    for fold in folds:
        train = patches.select(fold.train)
        held_out = patches.select(fold.validation)
        count_train, count_held = len(train), len(held_out)
        probabilities[fold.validation] = predictor(
            train.with_split(["train"] * count_train), held_out.with_split(["val"] * count_held)
        )
    return Scores.from_set(patches.with_split(["val"] * len(patches)), probabilities)


def compare_splits(
    patches: PatchSet, predictors: Mapping[str, Predictor], *, k: int = 3, seed: int = 0
) -> dict[tuple[str, str], Scores]:
    """Out-of-fold scores of each predictor under patient folds and under random folds.

    Args:
        patches: Labelled images with patients.
        predictors: Name to predictor.
        k: Number of folds.
        seed: Draws both kinds of folds.

    Returns:
        ``(predictor name, "patient" | "random")`` to Scores.
    """
    folds = {"patient": patient_folds(patches, k, seed=seed), "random": random_folds(patches, k, seed=seed)}
    return {
        (name, kind): out_of_fold(patches, drawn, predictor)
        for name, predictor in predictors.items()
        for kind, drawn in folds.items()
    }


def baseline_predictor(name: str, *, seed: int = 0) -> Predictor:
    """One of the trivial baselines, such as ``majority`` or ``colour histogram``."""
    return lambda train, held_out: run_baselines(train, held_out, names=[name], seed=seed)[name]


def network_predictor(
    *, epochs: int, model: str = "small_cnn", seed: int = 0, device: str = "auto", side: int | None = 64
) -> Predictor:
    """A network trained from random weights for a fixed number of epochs; nothing is chosen on the held-out images.

    Args:
        epochs: Passes over the training fold.
        model: Architecture.
        seed: First weights, order and augmentation.
        device: Where to train.
        side: Larger images are made this small, in pixels, for a demonstration has minutes; None keeps them.
    """

    def train_and_predict(train: PatchSet, held_out: PatchSet) -> np.ndarray:
        train, held_out = (rescaled(part, factor_for(part, side)) for part in (train, held_out))
        torch.manual_seed(seed)
        network = build_classifier(model, len(train.classes), in_channels=train.shape[2], image_size=train.shape[0])
        config = TrainConfig(
            epochs=epochs, learning_rate=2e-3, schedule="one-cycle", seed=seed, device=device,
            augment=PRESETS["tissue" if train.shape[2] == 3 else "flips"], monitor="val_loss",
        )  # fmt: skip
        # Epochs are compared on training images: picking one on the held-out fold would be a small leak of its own.
        known = train.select(np.sort(np.random.default_rng(seed).permutation(len(train))[:200]))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "[0-9]+ patient")  # of training images among training images
            fit(network, Classification(train.classes), train, known, config, progress=False)
        return predict(network, held_out)

    return train_and_predict
