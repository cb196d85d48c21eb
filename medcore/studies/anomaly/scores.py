"""How unlike the training images is this one? Scores of autoencoders and VAEs, one signature for all.

    values = score_set(model, patches, "structure")              # (N,), higher = stranger
    weighted = WeightedErrors.fit(error_profile(…), scores)      # labelled validation cases

A single score weighs all errors of a reconstruction alike. Where labelled validation cases exist, which a threshold
needs anyway, they can say which errors matter: by window size, by opponent colour, in the middle and at the rim. The
network itself still learns from normal images only, but such a score has to be read beside trivial methods that were
given the same labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.predict import stream
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.metrics.similarity import (
    SCALES,
    central_weights,
    multiscale_ssim_map,
    ssim_map,
    structure_map,
    structure_maps,
)
from medcore.metrics.stain_scores import dab, lost, redness
from medcore.models.vae import VAE, VAEOutput, kl_divergence

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

STRENGTH = 0.3  # inverse of the ridge: weights of related errors share what they explain instead of cancelling out
FOLDS = 5


def error_profile(picture: Tensor, reconstructed: Tensor) -> Tensor:
    """What is missing of the structure: per window size, opponent colour, and place (middle, rim).

    Args:
        picture: (B, C, H, W) in [0, 1].

    **Shape**: -> (B, 18) for colour, (B, 6) for grey pictures; 0 for equal pictures.
    """
    middle = central_weights(picture.shape[-2], picture.shape[-1], picture.device)
    rim = (2.0 - middle).clamp_min(0)
    places = torch.stack([middle / middle.sum(), rim / rim.sum()])  # (2, H, W)
    parts = [
        torch.einsum("bchw,phw->bcp", 1.0 - structure_maps(picture, reconstructed, sigma), places) for sigma in SCALES
    ]
    return torch.stack(parts, dim=1).flatten(1)


@dataclass
class WeightedErrors:
    """Weights of the errors, fitted by ridge logistic regression on labelled validation cases.

    Attributes:
        model: The fitted pipeline.
        out_of_fold: Score of every validation case by weights that never saw its patient, log-odds. **Shape** ``(V,)``.
    """

    model: Pipeline
    out_of_fold: np.ndarray

    @classmethod
    def fit(cls, profile: np.ndarray, scores: Scores, *, seed: int = 0) -> WeightedErrors:
        """Fit on validation cases, and score each of them without its own patient.

        Args:
            profile: **Shape** ``(V, F)``.
            scores: Truth and patient of the same cases.

        Raises:
            TestDataRefused: A case is marked ``test``.
            MedcoreError: The lengths differ, or too few patients of one kind to leave any out.
        """
        from sklearn.model_selection import StratifiedGroupKFold

        refuse_test_data(scores, "the weights of the errors")
        if len(profile) != len(scores):
            raise MedcoreError(f"WeightedErrors: {len(profile)} profiles for {len(scores)} cases")
        patients = [len(np.unique(scores.patient[scores.truth == kind])) for kind in (0, 1)]
        if min(patients) < FOLDS:
            raise MedcoreError(
                f"WeightedErrors: {patients[0]} patients with normal and {patients[1]} with abnormal validation cases; "
                f"{FOLDS} of each are needed to fit weights. Take a score without weights, such as 'structure'"
            )
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        held_out = np.zeros(len(scores))
        for train, rest in folds.split(profile, scores.truth, scores.patient):
            held_out[rest] = _pipeline().fit(profile[train], scores.truth[train]).decision_function(profile[rest])
        return cls(_pipeline().fit(profile, scores.truth), held_out)

    def __call__(self, profile: np.ndarray) -> np.ndarray:
        """Log-odds of being abnormal, as far as the validation cases know. **Shape** ``(N, F)`` -> ``(N,)``."""
        return self.model.decision_function(profile)


def _pipeline() -> Pipeline:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000))


ScoreFunction = Callable[[nn.Module, Tensor], Tensor]
PixelMap = Callable[[Tensor, Tensor], Tensor]


def _in_the_centre(error: PixelMap) -> PixelMap:
    def weighted(picture: Tensor, other: Tensor) -> Tensor:
        return error(picture, other) * central_weights(picture.shape[-2], picture.shape[-1], picture.device)

    return weighted


# picture (B, C, H, W), reconstruction (B, C, H, W) -> (B, H, W)
PIXEL_MAPS: dict[str, PixelMap] = {
    "mse": lambda picture, other: (picture - other).square().mean(1),
    "l1": lambda picture, other: (picture - other).abs().mean(1),
    "ssim": lambda picture, other: 1.0 - ssim_map(picture, other),
    "ssim_multiscale": lambda picture, other: 1.0 - multiscale_ssim_map(picture, other),
    "structure": lambda picture, other: 1.0 - structure_map(picture, other),
    "red": lambda picture, other: lost(redness(picture), redness(other)),
    "dab": lambda picture, other: lost(dab(picture), dab(other)),
}
PIXEL_MAPS |= {f"{kind}_centre": _in_the_centre(PIXEL_MAPS[kind]) for kind in ("ssim", "structure")}
LATENT_SCORES = ("elbo", "kl")
KINDS = (*PIXEL_MAPS, *LATENT_SCORES)
TITLES = {"mse": "squared error", "l1": "absolute error", "ssim": "SSIM error", "ssim_centre": "central SSIM error",
          "ssim_multiscale": "multi-scale SSIM error", "structure": "error of structure", "red": "loss of red",
          "structure_centre": "central error of structure", "dab": "loss of brown stain", "kl": "KL divergence",
          "elbo": "negative ELBO", "weighted": "weighted errors", "latent_distance": "distance of codes"}  # fmt: skip


def score(model: nn.Module, images: Tensor, kind: str = "ssim") -> Tensor:
    """How badly the model reconstructs each picture; larger is stranger.

    Args:
        model: an autoencoder or VAE, trained on normal pictures only; used in evaluation mode.
        images: (B, C, H, W) in [0, 1], on the model's device.
        kind: ``mse``, ``l1``; ``ssim`` (1 - SSIM); ``ssim_multiscale``; ``structure`` (what is missing of the local
            structure in lightness and opponent colours, each against its own noise); ``ssim_centre`` and
            ``structure_centre`` (the same, weighted to the middle of the picture, for lesions); ``red`` (loss of
            reddish, saturated pixels in HSV); ``dab`` (loss of brown stain by colour deconvolution); for a VAE also
            ``kl`` (nats) and ``elbo`` (negative bound in nats, with a unit-variance normal likelihood).

    Returns:
        Scores (B,), float32, finite.

    Raises:
        MedcoreError: an unknown kind, pictures of another shape, or with NaN.
    """
    return scores_of_kinds(model, images, [kind])[:, 0]


def scores_of_output(output: Tensor | VAEOutput, images: Tensor, kind: str) -> Tensor:
    """One score of what a model made of images. **Shape** ``(B, C, H, W)`` in [0, 1] to ``(B,)``."""
    if kind in LATENT_SCORES:
        assert isinstance(output, VAEOutput)
        kl = kl_divergence(output.mean, output.log_variance).sum(1)
        error = 0.5 * (output.reconstruction.float() - images).square().sum((1, 2, 3))
        return kl if kind == "kl" else kl + error
    return PIXEL_MAPS[kind](images, reconstruction_of(output)).mean((1, 2))


def scores_of_kinds(model: nn.Module, images: Tensor, kinds: Sequence[str]) -> Tensor:
    """Several scores of one reconstruction. **Shape**: (B, C, H, W) in [0, 1] -> (B, K); see ``score``."""
    for kind in kinds:
        check_kind(model, kind)
    output = reconstruct(model, images)
    return torch.stack([scores_of_output(output, images.float(), kind) for kind in kinds], dim=1)


def error_map(model: nn.Module, images: Tensor, kind: str = "ssim") -> Tensor:
    """Where the model fails to reconstruct the picture; its mean over the pixels is ``score``.

    **Shape**: (B, C, H, W) in [0, 1] -> (B, H, W).

    Raises:
        MedcoreError: as ``score``, and for ``elbo`` and ``kl``, which have no place in the picture.
    """
    check_kind(model, kind)
    if kind in LATENT_SCORES:
        raise MedcoreError(f"kind={kind!r} has no map: it is a property of the code; use 'mse' for the ELBO's pixels")
    return PIXEL_MAPS[kind](images.float(), reconstruction_of(reconstruct(model, images)))


def score_set(
    model: nn.Module,
    ps: PatchSet,
    kind: str | ScoreFunction = "ssim",
    **options: Any,
) -> np.ndarray:
    """Scores of a whole set in its order. **Shape**: -> (N,) float32.

    Args:
        kind: as in ``score``, or a score function.
        **options: ``batch_size``, ``device``, ``precision`` and ``progress`` of ``predict.stream``.
    """
    function = kind if callable(kind) else score_function(kind)
    return stream(lambda images: function(model, images), ps, model=model, **options)


def score_function(kind: str) -> ScoreFunction:
    """The score of that kind as a function of model and images."""
    return lambda model, images: score(model, images, kind)


@torch.no_grad()
def reconstruct(model: nn.Module, images: Tensor) -> Tensor | VAEOutput:
    """What the model makes of the pictures, drawn without noise.

    Raises:
        MedcoreError: the pictures hold NaN or infinity (or have a shape that the model refuses).
    """
    finite = images.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        rows = (~finite).nonzero().flatten().tolist()
        raise MedcoreError(
            f"images: NaN or infinite pixels in row {rows[0]}{' and others' if len(rows) > 1 else ''} of this batch; "
            "remove or repair these images"
        )
    was_training = model.training
    model.eval()
    try:
        return model(images)
    finally:
        model.train(was_training)


def reconstruction_of(output: Tensor | VAEOutput) -> Tensor:
    """The picture in what a model answers, float32."""
    return (output.reconstruction if isinstance(output, VAEOutput) else output).float()


def check_kind(model: nn.Module, kind: str) -> None:
    """Refuses unknown kinds, and those that need a VAE on another model."""
    if kind not in KINDS:
        raise MedcoreError(f"kind={kind!r}: unknown anomaly score; choose one of {', '.join(KINDS)}")
    if kind in LATENT_SCORES and not isinstance(model, VAE):
        raise MedcoreError(f"kind={kind!r} needs a VAE, not a {type(model).__name__}; use 'ssim' or 'mse'")


class RankEnsemble:
    """The mean rank of several scores, each measured against the same reference cases.

    A score's rank is the share of reference cases that it exceeds: between 0 and 1, whatever the score's unit.

    Args:
        reference: per score the same V validation cases.
        weights: per score; equal by default.

    Raises:
        TestDataRefused: a case is marked ``test``, or not marked at all.
        MedcoreError: no scores, empty or all-equal reference values.
    """

    def __init__(self, reference: dict[str, Scores], weights: dict[str, float] | None = None) -> None:
        if not reference:
            raise MedcoreError("RankEnsemble: no scores were given")
        for name, scores in reference.items():
            refuse_test_data(scores, "the reference of ranks")
            if len(scores) == 0 or np.ptp(scores.score) == 0:
                raise MedcoreError(
                    f"RankEnsemble: the score {name!r} is empty or the same for all {len(scores)} validation cases; "
                    "leave it out"
                )
        self.reference = {name: np.sort(scores.score) for name, scores in reference.items()}
        self.weights = {name: 1.0 for name in reference} if weights is None else dict(weights)
        if set(self.weights) != set(reference) or min(self.weights.values()) < 0 or not sum(self.weights.values()) > 0:
            raise MedcoreError(f"RankEnsemble: weights {weights} must be one number of at least 0 per score")

    def __call__(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """The combined score. **Shape**: per score (N,) -> (N,), each in [0, 1]."""
        if set(values) != set(self.reference):
            raise MedcoreError(f"RankEnsemble: got the scores {sorted(values)}, fitted were {sorted(self.reference)}")
        total = sum(self.weights.values())
        ranks = [self.weights[name] / total * self.rank(name, values[name]) for name in self.reference]
        return np.sum(ranks, axis=0)

    def rank(self, name: str, values: np.ndarray) -> np.ndarray:
        """Interpolated share of the reference below each value, continued beyond its ends by their distance."""
        reference = self.reference[name]
        share = (np.arange(len(reference)) + 0.5) / len(reference)
        inside = np.interp(values, reference, share)
        # beyond the largest reference case ranks would tie; the distance keeps their order, within the last half step
        beyond = np.maximum(values - reference[-1], 0) - np.maximum(reference[0] - values, 0)
        scale = reference[-1] - reference[0]
        return inside + 0.5 / len(reference) * np.tanh(beyond / scale)
