"""A painter before its judges: every candidate score on validation and test cases, and what each ingredient adds.

    judged = judge(model, sides, ["mse", "ssim", "structure_centre", "weighted"])
    chosen = judged.choose()                        # on validation cases, among scores that need no label
    found = judged.test[chosen.kind]

A painter is anything that paints a picture again: an autoencoder, a VAE, a PCA, or a mere blur. Judging the trivial
painters by the same score shows what the network itself adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from torch import Tensor, nn

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.predict import stream
from medcore.evaluation.scores import Scores
from medcore.models.autoencoder import ConvAutoencoder, DenseAutoencoder
from medcore.models.vae import VAE
from medcore.studies.anomaly import latent
from medcore.studies.anomaly.detection import abnormal_scores
from medcore.studies.anomaly.scores import (
    KINDS,
    LATENT_SCORES,
    WeightedErrors,
    error_profile,
    painting,
    reconstruct,
    scores_of_kinds,
)
from medcore.studies.anomaly.study import Sides, choose_kind, colours_from_labels

WEIGHTED, DISTANCE = "weighted", "latent_distance"
NEED_COLOUR = ("red", "dab")
ENCODERS = (VAE, ConvAutoencoder, DenseAutoencoder)


@dataclass(frozen=True)
class Choice:
    """A score chosen on validation cases.

    Attributes:
        kind: The score to use.
        aurocs: Of every candidate, on validation cases.
    """

    kind: str
    aurocs: dict[str, float]

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in self.aurocs.items())
        return f"AUROC on validation cases: {listed}. Chosen: **{self.kind}**."


@dataclass(frozen=True)
class Judged:
    """Scores of one painter.

    Attributes:
        validation: Kind of score to its validation cases; those of ``weighted`` are out of fold.
        test: The same of the test cases.
        left_out: Kind to the reason why it was not computed.
    """

    validation: dict[str, Scores]
    test: dict[str, Scores]
    left_out: dict[str, str] = field(default_factory=dict)

    def choose(self) -> Choice:
        """The best on validation cases of the scores that are computed without labels.

        ``weighted`` is no candidate: it learns from labelled cases, and has to be read beside trivial methods that
        learnt from the same labels (see ``with_labels``).

        Raises:
            MedcoreError: No score without labels is there.
        """
        return Choice(*choose_kind({kind: one for kind, one in self.validation.items() if kind != WEIGHTED}))


def judge(model: nn.Module, sides: Sides, kinds: Sequence[str], *, seed: int = 0) -> Judged:
    """Compute candidate scores of a painter on both judging sides.

    Args:
        model: The painter.
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
        return error_profile(images.float(), painting(reconstruct(model, images)))

    return stream(profile, ps, model=model)


def ingredients(painters: Mapping[str, Judged], kinds: Sequence[str]) -> pd.DataFrame:
    """AUROC on the test cases by painter (rows) and score (columns): what the painter adds, and what the score.

    Args:
        painters: Name to its judged scores.
        kinds: Columns, from plain to refined.
    """
    cells = {
        name: [str(interval(judged.test[kind], "auroc")) if kind in judged.test else "" for kind in kinds]
        for name, judged in painters.items()
    }
    return pd.DataFrame.from_dict(cells, orient="index", columns=list(kinds)).rename_axis("painter")


def with_labels(painters: Mapping[str, Judged], sides: Sides) -> tuple[pd.DataFrame, str]:
    """What labelled validation cases make of the painters' errors, and of colours alone; on the test cases.

    Args:
        painters: Name to its judged scores, the network last; those without ``weighted`` are left out.
        sides: Their cases.

    Returns:
        A table with the ``auroc`` of each, and a sentence on whether the network is what works; an empty table and
        the reason where no weights could be fitted.
    """
    found = {name: judged.test[WEIGHTED] for name, judged in painters.items() if WEIGHTED in judged.test}
    network = list(painters)[-1]
    if network not in found:
        return pd.DataFrame(), painters[network].left_out.get(WEIGHTED, f"{WEIGHTED!r} is not among the scores") + "."
    found["colour histogram"] = colours_from_labels(sides)
    aurocs = {name: interval(scores, "auroc") for name, scores in found.items()}
    best = max((name for name in found if name != network), key=lambda name: aurocs[name].value or 0)
    gain = paired_difference(found[network], found[best], "auroc")
    verdict = "the network still adds something" if (gain.low or 0) > 0 else "most of it is the work of the labels"
    table = pd.DataFrame({"auroc": aurocs}).rename_axis("painter")
    return table, f"With labels, {network} minus the best of the others ({best}) is {gain}: {verdict}."


def steps(judged: Judged, kinds: Sequence[str]) -> str:
    """What each score adds to the one before it, on the same test cases, in words."""
    present = [kind for kind in kinds if kind in judged.test]
    gains = [
        f"{later} against {earlier} {paired_difference(judged.test[later], judged.test[earlier], 'auroc')}"
        for earlier, later in zip(present, present[1:], strict=False)
    ]
    return "; ".join(gains)


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
