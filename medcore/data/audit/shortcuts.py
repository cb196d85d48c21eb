"""What gives a class away without looking at it: colour, contrast, size, corners, files, columns. And broken images.

A class that can be told from a mean colour, the size of the file, a mark in a corner or a column of the table may be
told so by a network as well; a good score then says little about the disease. The audit measures how far such cues
reach on patients that they were not fitted to.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from medcore.data.npzfile import TARGET
from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names

CORNERS = ["mark top left", "mark top right", "mark bottom left", "mark bottom right"]
STATISTICS = [
    "mean red",
    "mean green",
    "mean blue",
    "spread red",
    "spread green",
    "spread blue",
    "sharpness",
    "border darkness",
    "JPEG blocks",
    *CORNERS,
    "widest range",
    "narrowest range",
    "clipped alone",
]
CUES = STATISTICS[:9]  # those a shortcut can rest on, besides the corners
SIZE_CUES = ("source_height", "source_width", "height", "width")
TRUTH = {
    "diagnosis",
    "grade",
    "density",
    "level",
    "bacteria",
    "purity",
    "glands",
    "architecture",
}  # what is to be found out, not a cue
TAKEN = {"label", "split", "source", "image", "patient", "linked", "copy_of", "x", "y", TARGET, *SIZE_CUES, *TRUTH}
MOST_VALUES = 60  # of a column that are told apart; numbers go into as many bins as NUMBER_BINS
NUMBER_BINS = 16
FOLDS, FEWEST_GROUPS, FEWEST_IMAGES = 3, 6, 3  # patients in all, and images of each class
TREES = 40
MOST_IMAGES = 4000  # enough for a score with an error of about one point
RASTER = 96  # pixels per axis that statistics look at
CORNER = 6  # a corner is a sixth of the side
CONSTANT, NARROW, CLIPPED = 0, 8, 0.5


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Simple numbers per image. **Shape** ``(N, H, W, C)`` uint8 to ``(N, len(STATISTICS))`` float32.

    Ranges are taken over all pixels, the rest over a raster of about 96 × 96, which is enough and much faster.
    """
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # (N, C, H, W): reductions run along memory
    reach = planes.max(axis=(2, 3)).astype(int) - planes.min(axis=(2, 3))
    step = max(1, min(images.shape[1:3]) // RASTER)
    planes = planes[:, :, ::step, ::step]
    count, channels, height, width = planes.shape
    pixels = planes.reshape(count, channels, -1).astype(np.float32)
    mean = np.einsum("ncp->nc", pixels) / pixels.shape[2]
    spread = np.sqrt(np.maximum(np.einsum("ncp,ncp->nc", pixels, pixels) / pixels.shape[2] - mean**2, 0))
    light = pixels.mean(axis=1).reshape(count, height, width)
    sharp = np.abs(np.diff(light, axis=1)).mean(axis=(1, 2)) if height > 1 else np.zeros(count)
    edge = np.concatenate([light[:, 0], light[:, -1], light[:, :, 0], light[:, :, -1]], axis=1)
    columns = [*_three(mean), *_three(spread), sharp, 255 - edge.mean(axis=1)]
    columns += [_blockiness(images), *_corner_marks(light)]
    columns += [reach.max(axis=1), reach.min(axis=1), _clipped_alone(planes.reshape(count, channels, -1))]
    return np.stack(columns, axis=1).astype(np.float32)


def broken_images(statistics: pd.DataFrame) -> dict[str, np.ndarray]:
    """Rows of images that cannot be right.

    Args:
        statistics: as from `image_statistics`, one row per image.

    Returns:
        Kind to row numbers: ``constant`` (one value everywhere), ``narrow range`` (all channels within 8 grey levels),
        ``dead channel`` (one channel constant, another not), ``clipped channel`` (one channel at its end in more than
        half of the pixels while the others are not).
    """
    widest, narrowest = statistics["widest range"].to_numpy(), statistics["narrowest range"].to_numpy()
    constant = widest <= CONSTANT
    dead = ~constant & (narrowest <= CONSTANT)
    kinds = {
        "constant": constant,
        "narrow range": ~constant & (widest <= NARROW),
        "dead channel": dead,
        "clipped channel": ~dead & ~constant & (statistics["clipped alone"].to_numpy() > CLIPPED),
    }
    return {kind: np.flatnonzero(found) for kind, found in kinds.items() if found.any()}


def cue_table(ps: PatchSet, statistics: pd.DataFrame) -> pd.DataFrame:
    """How well each single number tells one class from the rest.

    Args:
        statistics: its pixel statistics, row by row.

    Returns:
        One row per number, best first: ``cue``, the ``class`` it tells best, and ``auroc`` (0.5 = nothing, 1 = all).
    """
    from scipy.stats import rankdata

    labelled = ps.labels >= 0
    cues = cue_values(ps, statistics)[labelled]
    labels = ps.labels[labelled]
    rows = []
    for name in cues:
        ranks = rankdata(cues[name].to_numpy(dtype=float))
        found = [(_auroc(ranks, labels == number), ps.classes[number]) for number in np.unique(labels)]
        best = max(found, default=(0.5, ""))
        rows.append({"cue": name, "class": best[1], "auroc": best[0]})
    return pd.DataFrame(rows, columns=["cue", "class", "auroc"]).sort_values(
        "auroc", ascending=False, ignore_index=True
    )


def cue_values(ps: PatchSet, statistics: pd.DataFrame) -> pd.DataFrame:
    """The numbers a shortcut can rest on: pixel statistics, and the source's size where it varies."""
    cues = statistics[[name for name in [*CUES, *CORNERS] if statistics[name].nunique() > 1]].copy()
    if {"mean red", "mean green"} <= set(cues) and np.allclose(cues["mean red"], cues["mean green"]):
        grey = {"mean red": "mean brightness", "spread red": "contrast"}
        cues = cues.drop(columns=["mean green", "mean blue", "spread green", "spread blue"]).rename(columns=grey)
    for name in SIZE_CUES:
        if name in ps.columns and len(set(ps.column(name))) > 1:
            cues[name.replace("_", " ")] = ps.column(name).astype(float)
    return cues


def shortcut_score(ps: PatchSet, cues: pd.DataFrame, *, seed: int = 0) -> tuple[float, float] | None:
    """Balanced accuracy that some numbers alone reach on patients they were not fitted to.

    Args:
        cues: numbers, one row per image.
        seed: of the folds and trees.

    Returns:
        (balanced accuracy out of fold, chance level), or None where it cannot be measured (one class, few patients).
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import balanced_accuracy_score

    values = cues.to_numpy(dtype=float)
    folds = _folds(ps, seed)
    if folds is None or not values.shape[1]:
        return None
    rows, labels, parts = folds
    predicted = np.empty_like(labels)
    for train, held_out in parts:
        trees = ExtraTreesClassifier(TREES, min_samples_leaf=3, class_weight="balanced", random_state=seed)
        predicted[held_out] = trees.fit(values[rows][train], labels[train]).predict(values[rows][held_out])
    return float(balanced_accuracy_score(labels, predicted)), 1 / len(set(labels))


def column_scores(ps: PatchSet, *, seed: int = 0) -> pd.DataFrame:
    """How far each column of the table, the ending, name and number of the file tell the class of unseen patients.

    Each value votes for the class that is most over-represented in it among other patients; numbers are binned.

    Returns:
        ``column``, ``balanced_accuracy`` and ``chance``, best first; empty where it cannot be measured.
    """
    from sklearn.metrics import balanced_accuracy_score

    folds = _folds(ps, seed)
    found = []
    if folds is not None:
        rows, labels, parts = folds
        chance = 1 / len(set(labels))
        for name, codes in _column_codes(ps).items():
            predicted = np.empty_like(labels)
            for train, held_out in parts:
                predicted[held_out] = _vote(codes[rows][train], labels[train], codes[rows][held_out])
            found.append((name, float(balanced_accuracy_score(labels, predicted)), chance))
    table = pd.DataFrame(found, columns=["column", "balanced_accuracy", "chance"])
    return table.sort_values("balanced_accuracy", ascending=False, kind="stable", ignore_index=True)


def _folds(ps: PatchSet, seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]] | None:
    """(rows with a label, their labels, folds over patients), or None where there are too few."""
    from sklearn.model_selection import StratifiedGroupKFold

    rows = np.flatnonzero(ps.labels >= 0)
    if len(rows) > MOST_IMAGES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_IMAGES, replace=False))
    labels, groups = ps.labels[rows], group_names(ps)[rows]
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < FEWEST_IMAGES or len(set(groups)) < FEWEST_GROUPS:
        return None
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels, groups)
    return rows, labels, list(folds)


def _column_codes(ps: PatchSet) -> dict[str, np.ndarray]:
    """Every column that varies, and what the file names hold, as whole numbers. **Shape** ``(N,)`` each."""
    told = [name for name in ps.columns if name not in TAKEN and not re.fullmatch(r"finding_\d+", name)]
    columns = {f"column '{name}'": ps.column(name) for name in told}
    source = pd.Series(ps.column("source").astype(str))
    columns["ending of the file"] = source.str.extract(r"\.([A-Za-z0-9]{1,5})$")[0].str.lower().fillna("").to_numpy()
    stem = source.str.rsplit("/", n=1).str[-1].str.replace(r"\.[A-Za-z0-9]{1,5}$", "", regex=True)
    number = pd.to_numeric(stem.str.extract(r"(\d+)\D*$")[0], errors="coerce")
    columns["number of the file"] = number.fillna(-1).to_numpy(dtype=float)
    prefix = stem.str.extract(r"^(\D*)")[0].str.lower()
    classes = [name.lower() for name in ps.classes]
    named = prefix.map({text: any(name in text for name in classes) for text in prefix.unique()})
    columns["name of the file"] = prefix.mask(named.astype(bool), "").to_numpy()  # a class in the name is no news
    codes = {name: _codes(values) for name, values in columns.items()}
    return {name: code for name, code in codes.items() if 1 < len(set(code[ps.labels >= 0]))}


def _codes(values: np.ndarray) -> np.ndarray:
    """Values as numbers of their kind: bins of numbers, rare texts together."""
    numbers = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=float)
    if np.isfinite(numbers).mean() > 0.9 and len(np.unique(numbers)) > NUMBER_BINS:
        edges = np.unique(np.nanquantile(numbers[np.isfinite(numbers)], np.linspace(0, 1, NUMBER_BINS + 1)[1:-1]))
        return np.where(np.isfinite(numbers), np.searchsorted(edges, numbers, side="right"), NUMBER_BINS)
    texts = pd.Series(values).astype(str)
    common = texts.value_counts().index[:MOST_VALUES]
    return pd.Categorical(texts, categories=common).codes.astype(int)


def _vote(codes: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The class most over-represented in each value; the commonest where a value was never seen."""
    shares = pd.crosstab(codes, labels)
    weight = shares.to_numpy() / shares.to_numpy().sum(axis=0)
    answer = pd.Series(shares.columns.to_numpy()[weight.argmax(axis=1)], index=shares.index)
    return answer.reindex(asked).fillna(pd.Series(labels).mode()[0]).to_numpy(dtype=int)


def _blockiness(images: np.ndarray) -> np.ndarray:
    """How much steps between 8 × 8 blocks exceed those inside: JPEG leaves them, PNG does not. **Shape** ``(N,)``."""
    if min(images.shape[1:3]) < 24:
        return np.zeros(len(images))
    line = images[:, ::4, :, images.shape[3] // 2].astype(np.float32)
    bend = np.abs(line[:, :, 1:-2] - line[:, :, 2:-1] - (line[:, :, :-3] - line[:, :, 3:]) / 3)  # curvature left out
    bend = np.minimum(bend, 30).mean(axis=1)
    at = np.arange(1, line.shape[2] - 2) % 8
    return bend[:, at == 7].mean(axis=1) / (bend[:, (at == 3) | (at == 4)].mean(axis=1) + 0.1)


def _corner_marks(light: np.ndarray) -> list[np.ndarray]:
    """Spread of brightness in each corner over that of the whole image. **Shape** four of ``(N,)``."""
    high, wide = max(1, light.shape[1] // CORNER), max(1, light.shape[2] // CORNER)
    corners = light[:, :high, :wide], light[:, :high, -wide:], light[:, -high:, :wide], light[:, -high:, -wide:]
    whole = light.std(axis=(1, 2)) + 1
    return [corner.std(axis=(1, 2)) / whole for corner in corners]


def _clipped_alone(planes: np.ndarray) -> np.ndarray:
    """Largest share of pixels at which one channel sits at 0 or 255 and not all of them do. **Shape** ``(N,)``."""
    if planes.shape[1] == 1:
        return np.zeros(len(planes))
    alone = []
    for end in (0, 255):
        at_end = planes == end
        all_at_end = np.count_nonzero(np.logical_and.reduce(at_end, axis=1), axis=1)
        alone.append(np.count_nonzero(at_end, axis=2).max(axis=1) - all_at_end)
    return np.maximum(*alone) / planes.shape[2]


def _three(values: np.ndarray) -> list[np.ndarray]:
    """Three columns, a grey channel three times."""
    return [values[:, min(channel, values.shape[1] - 1)] for channel in range(3)]


def _auroc(ranks: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve from ranks, at least 0.5 (either direction counts)."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return 0.5
    area = (ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count))
    return float(max(area, 1 - area))
