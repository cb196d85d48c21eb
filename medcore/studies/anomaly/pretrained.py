"""Detectors on features of a pretrained encoder that learn from normal images only.

    found = pretrained_scores(sides, choices)              # name -> (validation cases, test cases)

- **Nearest neighbours** and **Mahalanobis** measure how far an image's features lie from those of normal images; the
  features are mean and spread of every level's maps, scaled by the normal images.
- **PatchCore** does so for each place of an image and looks at the strangest ones.

**References** Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4; Roth et al. 2022, arXiv:2106.08265.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from medcore.evaluation.features import features
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.models.classifier import build_classifier
from medcore.studies.anomaly.choices import AnomalyChoices
from medcore.studies.anomaly.detection import Sides, abnormal_scores
from medcore.studies.anomaly.patchcore import fit_patchcore
from medcore.studies.anomaly.scores import score_set
from medcore.studies.heads import encoder_side

NEIGHBOURS = 5
Detector = Callable[[np.ndarray], np.ndarray]
"""From features, **Shape** ``(N, D)``, to how strange each image is, **Shape** ``(N,)``."""


def from_neighbours(normal: np.ndarray) -> Detector:
    """Mean distance to the five nearest of the normal images, each feature scaled by their spread."""
    from sklearn.neighbors import NearestNeighbors

    mean, spread = normal.mean(0), normal.std(0) + 1e-6
    known = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(normal))).fit((normal - mean) / spread)
    return lambda values: known.kneighbors((values - mean) / spread)[0].mean(1)


def from_the_mean(normal: np.ndarray) -> Detector:
    """Distance from the normal mean under the shrunk covariance of Ledoit and Wolf."""
    from sklearn.covariance import LedoitWolf

    mean, spread = normal.mean(0), normal.std(0) + 1e-6
    fitted = LedoitWolf(assume_centered=True).fit((normal - mean) / spread)
    return lambda values: np.sqrt(fitted.mahalanobis((values - mean) / spread))


DETECTORS = {"nearest neighbours": from_neighbours, "Mahalanobis distance": from_the_mean}


def pretrained_scores(sides: Sides, choices: AnomalyChoices) -> dict[str, tuple[Scores, Scores]]:
    """Validation and test cases under every detector on features of ``choices.peer``; all learn from ``sides.train``.

    Raises:
        TestDataRefused: A training image is marked ``test``.
    """
    refuse_test_data(sides.train, "a detector")
    side = encoder_side(sides.train, choices.peer_sides)
    options: dict[str, Any] = {"image_size": side, "side": side, "levels": True, "weights": choices.peer_weights}
    encoder = build_classifier(choices.peer, 2, in_channels=sides.train.shape[2], **options).to(choices.device)
    normal = features(sides.train, encoder).values.astype(np.float64)
    parts = (sides.validation, sides.test)
    judged = [features(part, encoder).values.astype(np.float64) for part in parts]
    found = {}
    for name, fit in DETECTORS.items():
        detector = fit(normal)
        found[name] = [detector(values) for values in judged]
    memory = fit_patchcore(
        encoder, sides.train, memory=choices.peer_memory, candidates=choices.peer_candidates, top=choices.peer_share,
        seed=choices.seed,
    )  # fmt: skip
    found["PatchCore"] = [score_set(encoder, part, memory.as_score()) for part in parts]
    return {
        name: (
            abnormal_scores(sides.validation, validation, abnormal=sides.abnormal),
            abnormal_scores(sides.test, test, abnormal=sides.abnormal),
        )
        for name, (validation, test) in found.items()
    }
