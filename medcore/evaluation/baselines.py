"""Trivial methods that any model has to beat: majority, mean colour, colour histogram, size and brightness.

    probabilities = run_baselines(train, test)          # name -> (N, K)

- They see colours and sizes only, never shapes. A model that does not stand clear of them has found a shortcut.
- Padding is left out: a method must not learn it by accident; the original size is a feature only where it is meant.
- Time is capped: of more than 20,000 training images a random 20,000 are used, and above 10,000 the trees stop when
  a held-out tenth of them no longer improves.
- Anomaly detectors have their own trivial methods: ``studies.anomaly.candidates``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from medcore.data.audit.hashing import content_images
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.scores import refuse_test_data

MOST_TRAINING_IMAGES = 20_000  # more do not change these methods much
BINS = 8
CHUNK = 256  # images read at once
Features = Callable[[PatchSet], np.ndarray]


def mean_colour(ps: PatchSet) -> np.ndarray:
    """Mean of each channel, 0 to 255. **Shape** ``(N, C)``."""
    return _per_image(ps, ps.shape[2], lambda images: images.mean(axis=(1, 2), dtype=np.float64))


def colour_histogram(ps: PatchSet) -> np.ndarray:
    """Shares of eight bins per channel and of 64 coarse colours (or grey levels). **Shape** ``(N, 8 C + 64)``."""
    return _per_image(ps, BINS * ps.shape[2] + 64, _histograms)


def size_and_brightness(ps: PatchSet) -> np.ndarray:
    """Mean, spread, share of black and of white pixels, original size where known. **Shape** ``(N, 4 or 6)``."""
    sizes = [ps.column(name).astype(float)[:, None] for name in ("height", "width") if name in ps.columns]
    return np.concatenate([_per_image(ps, 4, _brightness), *sizes], axis=1)


def _per_image(ps: PatchSet, width: int, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros((0, width)), *(function(images) for images in _chunks(ps))])


def _chunks(ps: PatchSet) -> Iterator[np.ndarray]:
    """The images without their padding, some at a time."""
    for start in range(0, len(ps), CHUNK):
        yield content_images(ps, np.arange(start, min(len(ps), start + CHUNK)))


def _histograms(images: np.ndarray) -> np.ndarray:
    count, channels = len(images), images.shape[3]
    pixels = images.reshape(count, -1, channels)
    coarse = pixels // 64 if channels == 3 else pixels // 4
    mixed = coarse[..., 0] * np.int64(16) + coarse[..., 1] * 4 + coarse[..., 2] if channels == 3 else coarse[..., 0]
    parts = [_cell_shares(pixels[..., channel] // (256 // BINS), BINS) for channel in range(channels)]
    return np.concatenate([*parts, _cell_shares(mixed, 64)], axis=1)


def _cell_shares(cells: np.ndarray, many: int) -> np.ndarray:
    """Share of the pixels in each cell. **Shape** ``(N, P)`` to ``(N, many)``."""
    flat = (np.arange(len(cells))[:, None] * many + cells).ravel()
    return np.bincount(flat, minlength=len(cells) * many).reshape(len(cells), many) / cells.shape[1]


def _brightness(images: np.ndarray) -> np.ndarray:
    grey = images.mean(axis=3, dtype=np.float32).reshape(len(images), -1)
    return np.stack([grey.mean(1), grey.std(1), (grey < 10).mean(1), (grey > 245).mean(1)], axis=1).astype(float)


BASELINES: dict[str, Features | None] = {
    "majority": None,
    "prevalence": None,
    "median": None,
    "mean": None,
    "mean colour": mean_colour,
    "mean grey level": mean_colour,
    "size and brightness": size_and_brightness,
    "colour histogram": colour_histogram,
    "grey-level histogram": colour_histogram,
}
SIMPLE = ("mean colour", "mean grey level")  # a straight line on them
OF_COLOUR = ("mean colour", "colour histogram")
OF_GREY = ("mean grey level", "grey-level histogram")
CONSTANT = {"findings": ("prevalence",), "ordinal": ("median",), "regression": ("median", "mean")}
LOOKED_AT = 64  # images that tell whether a set is grey


def is_grey(ps: PatchSet) -> bool:
    """Whether the images have one channel, or three that are equal (grey files stored as colour)."""
    if ps.shape[2] == 1 or not len(ps):
        return ps.shape[2] == 1
    images = ps.take(np.unique(np.linspace(0, len(ps) - 1, LOOKED_AT).astype(int)))
    return bool((images == images[..., :1]).all())


def baseline_names(ps: PatchSet) -> tuple[str, ...]:
    """The baselines that fit a set and its task, weakest first: of grey images there is no colour."""
    unfit, constant = OF_COLOUR if is_grey(ps) else OF_GREY, CONSTANT.get(ps.card.task, ("majority",))
    return tuple(name for name, see in BASELINES.items() if name not in unfit and (see or name in constant))


def run_baselines(
    train: PatchSet, held_out: PatchSet, *, names: Sequence[str] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Train each baseline on labelled images and predict others.

    Args:
        train: Labelled images; of more than 20,000 a random 20,000 are used.
        names: Which baselines; by default those that fit the training images.
        seed: Draws the sample of a large set; the methods themselves are deterministic.

    Returns:
        Name to class probabilities of the held-out images, of findings each by itself, or to values. Each **Shape**
        ``(N, K)``.

    Raises:
        TestDataRefused: A training image is marked ``test``.
        MedcoreError: A name is unknown, or the training images are of one class only.
    """
    refuse_test_data(train, "baselines")
    names = baseline_names(train) if names is None else names
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise MedcoreError(f"baseline {unknown[0]!r} is none of {', '.join(BASELINES)}")
    several = train.card.task == "findings"
    train = train if several else train.select(np.asarray(train.shown.any(axis=1)))
    if not several and len(np.unique(train.targets)) < 2:
        raise MedcoreError(f"baselines: the {len(train)} training images are of one class; two are needed")
    if len(train) > MOST_TRAINING_IMAGES:
        rows = np.random.default_rng(seed).choice(len(train), MOST_TRAINING_IMAGES, replace=False)
        train = train.select(np.sort(rows))
    return {name: _predict(name, train, held_out) for name in names}


def _predict(name: str, train: PatchSet, held_out: PatchSet) -> np.ndarray:
    see = BASELINES[name]
    if not len(held_out):
        return np.zeros((0, len(train.classes)))
    known, asked = (np.zeros((len(ps), 1)) if see is None else see(ps) for ps in (train, held_out))
    with threadpool_limits(1):  # trees of few images: several threads were up to 20 times slower on a busy machine
        if train.card.task == "regression":
            return _value(name, known, train.values, asked)
        if train.card.task != "findings":
            return _shares(name, known, train.labels, asked, len(train.classes))
        stated = [row >= 0 for row in train.findings.T]
        parts = zip(stated, train.findings.T, strict=True)
        return np.stack([_shares(name, known[rows], row[rows], asked, 2)[:, 1] for rows, row in parts], axis=1)


def _shares(name: str, known: np.ndarray, labels: np.ndarray, asked: np.ndarray, classes: int) -> np.ndarray:
    """Class probabilities from features, or the classes' shares. **Shape** ``(n, K)``."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if BASELINES[name] is None or len(np.unique(labels)) < 2:
        return np.tile(np.bincount(labels, minlength=classes) / max(1, len(labels)), (len(asked), 1))
    if name in SIMPLE:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    else:
        model = HistGradientBoostingClassifier(min_samples_leaf=_leaf(known), random_state=0)
    model.fit(known, labels)
    probabilities = np.zeros((len(asked), classes))
    probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities


def _value(name: str, known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """A measured value from features, or its mean or median. **Shape** ``(n, 1)``."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if BASELINES[name] is None:
        return np.full((len(asked), 1), np.median(values) if name == "median" else values.mean())
    if name in SIMPLE:
        model = make_pipeline(StandardScaler(), RidgeCV())
    else:
        model = HistGradientBoostingRegressor(min_samples_leaf=_leaf(known), random_state=0)
    return np.asarray(model.fit(known, values).predict(asked))[:, None]


def _leaf(known: np.ndarray) -> int:
    return int(np.clip(len(known) // 20, 2, 20))  # few images would otherwise make one leaf
