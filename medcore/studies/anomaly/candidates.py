"""Candidate scores of a model on validation and test cases, and the reference models that it has to be read beside.

    judged = judge(model, sides, ["mse", "ssim", "structure_centre", "weighted"])
    kind, aurocs = judged.choose()                  # on validation cases, among scores that need no label
    judged.test[kind]
    judge(Blur(), sides, [kind])                    # what the score owes to no training at all
    judge(fit_linear(sides.train, 32), sides, [kind])   # an autoencoder without bends

Any model that reconstructs images can be judged: an autoencoder, a VAE, a PCA, or a mere blur. The same score asked of
a reference model shows what the network itself adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize_maps
from medcore.errors import MedcoreError
from medcore.evaluation.baselines import colour_histogram, mean_colour
from medcore.evaluation.intervals import interval
from medcore.evaluation.predict import stream
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.metrics.similarity import gaussian_blur
from medcore.metrics.stain_scores import red_share
from medcore.models.autoencoder import ConvAutoencoder, DenseAutoencoder
from medcore.models.vae import VAE
from medcore.studies.anomaly import latent
from medcore.studies.anomaly.detection import Sides, abnormal_scores
from medcore.studies.anomaly.scores import (
    KINDS,
    LATENT_SCORES,
    WeightedErrors,
    error_profile,
    reconstruct,
    reconstruction_of,
    scores_of_kinds,
)

WEIGHTED, DISTANCE = "weighted", "latent_distance"
NEED_COLOUR = ("red", "dab")
ENCODERS = (VAE, ConvAutoencoder, DenseAutoencoder)
SIDE = 64  # pixels; principal components are computed on pictures shrunk to this
MOST_PICTURES = 2_000  # more do not change the first hundred components much
COLOUR_RIDGE = 0.1  # inverse strength of the ridge of a colour histogram that was given labels


@dataclass(frozen=True)
class Judged:
    """Scores of one model.

    Attributes:
        validation: Kind of score to its validation cases; those of ``weighted`` are out of fold.
        test: The same of the test cases.
        left_out: Kind to the reason why it was not computed.
    """

    validation: dict[str, Scores]
    test: dict[str, Scores]
    left_out: dict[str, str] = field(default_factory=dict)

    def choose(self) -> tuple[str, dict[str, float]]:
        """The best on validation cases of the scores that are computed without labels, and the AUROC of each.

        ``weighted`` is no candidate: it learns from labelled cases, and has to be read beside trivial methods that
        learnt from the same labels (see ``with_labels``).

        Raises:
            TestDataRefused: A case is marked ``test``.
            MedcoreError: No score without labels is there.
        """
        return choose_kind({kind: one for kind, one in self.validation.items() if kind != WEIGHTED})


def choose_kind(candidates: Mapping[str, Scores]) -> tuple[str, dict[str, float]]:
    """The score with the highest AUROC on validation cases, and the AUROC of each.

    Raises:
        TestDataRefused: A case is marked ``test``.
        MedcoreError: There is nothing to choose from.
    """
    if not candidates:
        raise MedcoreError("choose_kind: no candidate scores")
    aurocs = {}
    for name, scores in candidates.items():
        refuse_test_data(scores, "an anomaly score")
        aurocs[name] = interval(scores, "auroc").value or 0.0
    return max(aurocs, key=lambda name: aurocs[name]), aurocs


def judge(model: nn.Module, sides: Sides, kinds: Sequence[str], *, seed: int = 0) -> Judged:
    """Compute candidate scores of a model on both judging sides.

    Args:
        sides: Validation cases also fit the weights of ``weighted``; normal training images are what
            ``latent_distance`` is measured from.
        kinds: Of ``anomaly.KINDS``, ``weighted`` and ``latent_distance``; what does not fit the model or grey images
            is left out, with the reason.
        seed: Of the folds that keep the weights of ``weighted`` from their own patients.

    Raises:
        MedcoreError: An unknown kind, or none is left.
    """
    left_out = {kind: reason for kind in kinds if (reason := why_not(kind, model, sides.test.shape[2]))}
    usable = [kind for kind in dict.fromkeys(kinds) if kind not in left_out]
    values = {side: _values(model, getattr(sides, side), usable) for side in ("validation", "test")}
    if DISTANCE in usable and isinstance(model, ENCODERS):
        for side in values:
            values[side][DISTANCE] = latent.mahalanobis(model, sides.train, getattr(sides, side))
    judged = {side: {kind: _scores(getattr(sides, side), found, sides) for kind, found in values[side].items()}
              for side in values}  # fmt: skip
    if WEIGHTED in usable:
        try:
            _weigh(model, sides, judged, seed)
        except MedcoreError as problem:
            left_out[WEIGHTED] = str(problem)
    if not judged["validation"]:
        raise MedcoreError(f"no anomaly score is left of {list(kinds)}: {left_out}; name another, such as 'ssim'")
    return Judged(judged["validation"], judged["test"], left_out)


def why_not(kind: str, model: nn.Module, channels: int) -> str:
    """The reason why a kind of score cannot be had, empty where it can.

    Raises:
        MedcoreError: Nobody knows this kind.
    """
    if kind not in (*KINDS, WEIGHTED, DISTANCE):
        raise MedcoreError(f"scores: {kind!r} is unknown; choose from {', '.join((*KINDS, WEIGHTED, DISTANCE))}")
    if kind in NEED_COLOUR and channels != 3:
        return "needs colour images"
    if kind == DISTANCE and not isinstance(model, ENCODERS):
        return f"a {type(model).__name__} has no code"
    return "needs a VAE" if kind in LATENT_SCORES and not isinstance(model, VAE) else ""


def profiles(model: nn.Module, ps: PatchSet) -> np.ndarray:
    """``error_profile`` of a whole set. **Shape** ``(N, F)``."""

    def profile(images: Tensor) -> Tensor:
        return error_profile(images.float(), reconstruction_of(reconstruct(model, images)))

    return stream(profile, ps, model=model)


def _values(model: nn.Module, ps: PatchSet, usable: Sequence[str]) -> dict[str, np.ndarray]:
    plain = [kind for kind in usable if kind in KINDS]
    if not plain:
        return {}
    table = stream(lambda images: scores_of_kinds(model, images, plain), ps, model=model)
    return dict(zip(plain, table.T, strict=True))


def _weigh(model: nn.Module, sides: Sides, judged: dict[str, dict[str, Scores]], seed: int) -> None:
    ask = _scores(sides.validation, np.zeros(len(sides.validation)), sides)
    fitted = WeightedErrors.fit(profiles(model, sides.validation), ask, seed=seed)
    judged["validation"][WEIGHTED] = _scores(sides.validation, fitted.out_of_fold, sides)
    judged["test"][WEIGHTED] = _scores(sides.test, fitted(profiles(model, sides.test)), sides)


def _scores(ps: PatchSet, values: np.ndarray, sides: Sides) -> Scores:
    return abnormal_scores(ps, values, abnormal=sides.abnormal)


def ingredients(models: Mapping[str, Judged], kinds: Sequence[str]) -> pd.DataFrame:
    """AUROC on the test cases by model (rows) and score (columns, from plain to refined): what either adds."""
    cells = {
        name: [str(interval(judged.test[kind], "auroc")) if kind in judged.test else "" for kind in kinds]
        for name, judged in models.items()
    }
    return pd.DataFrame.from_dict(cells, orient="index", columns=list(kinds)).rename_axis("model")


def with_labels(models: Mapping[str, Judged], sides: Sides) -> dict[str, Scores]:
    """What labelled validation cases make of the models' errors, and of colours alone; test cases by name.

    Empty where no weights could be fitted for any model.
    """
    found = {name: judged.test[WEIGHTED] for name, judged in models.items() if WEIGHTED in judged.test}
    return found | {"colour histogram": colours_from_labels(sides)} if found else {}


def colours_from_labels(sides: Sides) -> Scores:
    """Test scores of colours alone, by a method that was given the labels of the validation cases.

    The comparison for anomaly scores that were weighted on the same labels: ridge logistic regression on the square
    roots of the colour histogram's shares.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    asked = abnormal_scores(sides.validation, np.zeros(len(sides.validation)), abnormal=sides.abnormal)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=COLOUR_RIDGE, max_iter=2000))
    model.fit(np.sqrt(colour_histogram(sides.validation)), asked.truth)
    values = model.decision_function(np.sqrt(colour_histogram(sides.test)))
    return abnormal_scores(sides.test, values, abnormal=sides.abnormal)


# --- reference models ---------------------------------------------------------------------------------------------


class Blur(nn.Module):
    """Repeats the picture out of focus, and has learnt nothing.

    Args:
        share: standard deviation of the blur as a share of the shorter side.

    **Shape**: (B, C, H, W) -> same.
    """

    def __init__(self, share: float = 1 / 16) -> None:
        super().__init__()
        self.share = share

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return gaussian_blur(images.float(), self.share * min(images.shape[-2:]))


class LinearAutoencoder(nn.Module):
    """Reconstructs with principal components: a linear autoencoder, the best there is by squared error.

    Args:
        mean: (P,) mean picture of P = C·h·w values.
        components: (K, P) orthonormal.
        shape: (C, h, w) of the pictures that the components are for.

    **Shape**: (B, C, H, W) in [0, 1] -> same; other sizes are shrunk to h×w and enlarged again.

    **Reference**: Baldi and Hornik 1989, doi:10.1016/0893-6080(89)90014-2.
    """

    def __init__(self, mean: Tensor, components: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        components, mean = self.get_buffer("components"), self.get_buffer("mean")
        flat = resize_maps(images.float(), self.shape[1:], antialias=True).flatten(1) - mean
        restored = (flat @ components.T @ components + mean).unflatten(1, self.shape)
        return resize_maps(restored, images.shape[-2:]).clamp(0, 1)


def fit_linear(normal: PatchSet, components: int, *, seed: int = 0) -> LinearAutoencoder:
    """The principal components of normal images as a linear autoencoder.

    Args:
        normal: what to learn from; of more than 2,000 pictures a random 2,000 are used.
        components: numbers that describe a picture, as the bottleneck of the network to compare with.
        seed: of the sample and of the randomised decomposition.

    Raises:
        TestDataRefused: an image is marked ``test``.
        MedcoreError: there are fewer pictures than components.
    """
    from sklearn.decomposition import PCA

    refuse_test_data(normal, "principal components")
    if not 1 <= components <= len(normal):
        raise MedcoreError(f"fit_linear: components={components} must be 1 to the {len(normal)} normal images")
    height, width, channels = normal.shape
    size = (min(SIDE, height), min(SIDE, width))
    rows = np.random.default_rng(seed).permutation(len(normal))[:MOST_PICTURES]
    pixels = stream(
        lambda images: resize_maps(images.float(), size, antialias=True).flatten(1), normal.select(np.sort(rows))
    )
    found = PCA(min(components, *pixels.shape), svd_solver="randomized", random_state=seed).fit(pixels)
    mean, matrix = (torch.from_numpy(array.astype(np.float32)) for array in (found.mean_, found.components_))
    return LinearAutoencoder(mean, matrix, (channels, *size))


def colour_distances(normal: PatchSet, patches: PatchSet) -> dict[str, np.ndarray]:
    """Anomaly scores of colours alone, higher = stranger. Each **Shape** ``(N,)``.

    ``mean colour`` and ``colour histogram`` are distances from the normal mean in normal spreads; images with three
    channels also have ``red pixels``, which knows nothing of normal images.
    """
    refuse_test_data(normal, "normal colours")
    found = {}
    for name, features in (("mean colour", mean_colour), ("colour histogram", colour_histogram)):
        usual, values = features(normal), features(patches)
        found[name] = (((values - usual.mean(0)) / (usual.std(0) + 1e-3)) ** 2).mean(1)
    if patches.shape[2] == 3:
        found["red pixels"] = np.concatenate([red_share(chunk) for chunk in patches.chunks()])
    return found


def oriented(name: str, validation: Scores, test: Scores) -> tuple[str, tuple[Scores, Scores]]:
    """A score and its name, reversed where it ranks validation cases the wrong way round."""
    value = interval(validation, "auroc").value
    if value is None or value >= 0.5:
        return name, (validation, test)
    turned = [replace(one, score=-one.score) for one in (validation, test)]
    return f"{name} (reversed)", (turned[0], turned[1])
