"""Trivial methods that any model has to beat: majority, mean colour, colour histogram, size and brightness.

    probabilities = run_baselines(train, test)          # name -> (N, K)

They see colours and sizes only, never shapes. A model that does not stand clear of them has found a shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError

MOST_TRAINING_IMAGES = 20_000  # more do not change these methods much, and training stays within a minute
BINS = 8
Features = Callable[[PatchSet], np.ndarray]


def mean_colour(ps: PatchSet) -> np.ndarray:
    """Mean of each channel, 0 to 255. **Shape** ``(N, C)``."""
    return np.concatenate([chunk.mean(axis=(1, 2), dtype=np.float64) for chunk in ps.chunks()])


def colour_histogram(ps: PatchSet) -> np.ndarray:
    """Eight bins per channel and, in colour, the share of each of 64 coarse colours. **Shape** ``(N, 24 + 64)``."""
    return np.concatenate([_histograms(chunk) for chunk in ps.chunks()])


def _histograms(images: np.ndarray) -> np.ndarray:
    count, channels = len(images), images.shape[3]
    pixels = images.reshape(count, -1, channels)
    row = np.arange(count)[:, None]
    parts = []
    for channel in range(channels):
        cell = row * BINS + pixels[..., channel] // (256 // BINS)
        parts.append(np.bincount(cell.ravel(), minlength=count * BINS).reshape(count, BINS))
    if channels == 3:
        coarse = pixels // 64
        cell = row * 64 + coarse[..., 0] * np.int64(16) + coarse[..., 1] * 4 + coarse[..., 2]
        parts.append(np.bincount(cell.ravel(), minlength=count * 64).reshape(count, 64))
    return np.concatenate(parts, axis=1) / pixels.shape[1]


def size_and_brightness(ps: PatchSet) -> np.ndarray:
    """Original size where known, mean, spread, share of black and of white pixels. **Shape** ``(N, 4..6)``."""
    parts = []
    for chunk in ps.chunks():
        grey = chunk.mean(axis=3, dtype=np.float32).reshape(len(chunk), -1)
        parts.append(np.stack([grey.mean(1), grey.std(1), (grey < 10).mean(1), (grey > 245).mean(1)], axis=1))
    sizes = [ps.column(name)[:, None] for name in ("height", "width") if name in ps.columns]
    return np.concatenate([np.concatenate(parts), *sizes], axis=1)


BASELINES: dict[str, Features | None] = {
    "majority": None,
    "mean colour": mean_colour,
    "size and brightness": size_and_brightness,
    "colour histogram": colour_histogram,
}


def run_baselines(
    train: PatchSet, held_out: PatchSet, *, names: Sequence[str] = tuple(BASELINES), seed: int = 0
) -> dict[str, np.ndarray]:
    """Train each baseline on labelled images and predict others.

    Args:
        train: Labelled images; of more than 20,000 a random 20,000 are used.
        held_out: Images to predict.
        names: Which baselines.
        seed: Draws the sample of a large set; the methods themselves are deterministic.

    Returns:
        Name to class probabilities of the held-out images. Each **Shape** ``(N, K)``.

    Raises:
        MedcoreError: A name is unknown, or the training images are of one class only.
    """
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise MedcoreError(f"baseline {unknown[0]!r} is none of {', '.join(BASELINES)}")
    train = train.select(train.labels >= 0)
    if len(np.unique(train.labels)) < 2:
        raise MedcoreError(f"baselines: the {len(train)} training images are of one class; two are needed")
    if len(train) > MOST_TRAINING_IMAGES:
        rows = np.random.default_rng(seed).choice(len(train), MOST_TRAINING_IMAGES, replace=False)
        train = train.select(np.sort(rows))
    return {name: _predict(name, train, held_out) for name in names}


def _predict(name: str, train: PatchSet, held_out: PatchSet) -> np.ndarray:
    classes = len(train.classes)
    features = BASELINES[name]
    if features is None:
        shares = np.bincount(train.labels, minlength=classes) / len(train)
        return np.tile(shares, (len(held_out), 1))
    if name == "mean colour":
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    else:
        model = HistGradientBoostingClassifier(random_state=0)
    model.fit(features(train), train.labels)
    probabilities = np.zeros((len(held_out), classes))
    probabilities[:, model.classes_] = model.predict_proba(features(held_out))
    return probabilities
