"""What a classification study hands out besides estimates: a calibration, an explanation and the like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from medcore.data.patchset import PatchSet
from medcore.evaluation import calibration
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.scores import Scores
from medcore.metrics.calibration import calibration_error
from medcore.models.classifier import Classifier


class JudgedNetwork(NamedTuple):
    """A network with its scores of test and of validation images."""

    network: Classifier
    scores: Scores
    on_validation: Scores


@dataclass(frozen=True)
class Calibrated:
    """What one temperature, chosen on validation data, does to stated probabilities of test cases.

    Attributes:
        temperature: The logits are divided by it.
        uncalibrated: Scores of the test cases without it.
        scores: Calibrated scores of the test cases.
        before: Stated probability of each answer without it. **Shape** ``(N,)``.
        after: The same with it. **Shape** ``(N,)``.
        right: Whether each answer is right. **Shape** ``(N,)`` bool.
    """

    temperature: float
    uncalibrated: Scores
    scores: Scores
    before: np.ndarray
    after: np.ndarray
    right: np.ndarray

    @property
    def errors(self) -> tuple[float, float]:
        """Calibration error before and after."""
        before, after = (calibration_error(stated, self.right) for stated in (self.before, self.after))
        return before, after

    @property
    def change(self) -> Estimate:
        """Brier score after minus before, paired: below zero the temperature helps."""
        return calibration.brier_change(self.uncalibrated, self.scores)

    def estimates(self) -> list[Estimate]:
        """Brier score, calibration error and their like of the calibrated answers, with intervals."""
        return calibration.calibration_estimates(self.scores)


@dataclass(frozen=True)
class Explained:
    """Grad-CAM maps of some test images, and how alike they stay when all weights are randomised.

    Attributes:
        pixels: **Shape** ``(n, H, W, C)`` uint8.
        maps: 0 to 1. **Shape** ``(n, H, W)``.
        answers: Class names the maps speak for.
        likeness: Rank correlation with the maps of a randomised network; 1 = nothing learnt matters.
        believed: Whether the likeness lies below the study's limit.
    """

    pixels: np.ndarray
    maps: np.ndarray
    answers: list[str]
    likeness: float
    believed: bool


def surest_mistakes(scores: Scores, images: PatchSet, count: int) -> dict[str, Any]:
    """The wrong answers that were stated with most confidence, as arguments of ``plots.worst_mistakes``."""
    classes, wrong = images.classes, np.flatnonzero(scores.predicted != scores.truth)
    rows = wrong[np.argsort(-scores.score[wrong].max(1))][:count]
    return {
        "images": images.take(rows),
        "classes": classes,
        "confidence": scores.score[rows].max(1),
        "truth": [classes[k] for k in scores.truth[rows]],
        "predicted": [classes[k] for k in scores.predicted[rows]],
    }


def commonest_of(confusion: np.ndarray, classes: Sequence[str]) -> tuple[str, str, int, int]:
    """The commonest confusion of a matrix with truth in rows: truth, answer, how often, of how many of the truth."""
    off = confusion - np.diag(np.diag(confusion))
    truth, answer = np.unravel_index(off.argmax(), off.shape)
    return classes[truth], classes[answer], int(off.max()), int(confusion[truth].sum())
