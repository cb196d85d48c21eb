"""What gives a class away without looking at it: colour, contrast, size, source. And images that are broken.

A class that can be told from a mean colour or the size of the file may be told so by a network as well; a good score
then says little about the disease. The audit measures how far such cues reach.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold

from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names

STATISTICS = [
    "mean red",
    "mean green",
    "mean blue",
    "spread red",
    "spread green",
    "spread blue",
    "sharpness",
    "border darkness",
    "widest range",
    "narrowest range",
    "clipped alone",
]
CUES = STATISTICS[:8]  # those a shortcut can rest on
SIZE_CUES = ("source_height", "source_width", "height", "width")
SOURCE_COLUMNS = ("subset", "set", "site", "centre", "center", "hospital", "scanner", "device", "section")
MOST_IMAGES = 4000  # enough for a score with an error of about one point
RASTER = 96  # pixels per axis that statistics look at
CONSTANT, NARROW, CLIPPED = 0, 8, 0.5


def pixel_statistics(images: np.ndarray) -> np.ndarray:
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
    columns += [reach.max(axis=1), reach.min(axis=1), _clipped_alone(planes.reshape(count, channels, -1))]
    return np.stack(columns, axis=1).astype(np.float32)


def broken_images(statistics: pd.DataFrame) -> dict[str, np.ndarray]:
    """Rows of images that cannot be right.

    Args:
        statistics: as from `pixel_statistics`, one row per image.

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
        ps: the set.
        statistics: its pixel statistics, row by row.

    Returns:
        One row per number, best first: ``cue``, the ``class`` it tells best, and ``auroc`` (0.5 = nothing, 1 = all).
    """
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
    cues = statistics[[name for name in CUES if statistics[name].nunique() > 1]].copy()
    if {"mean red", "mean green"} <= set(cues) and np.allclose(cues["mean red"], cues["mean green"]):
        grey = {"mean red": "mean brightness", "spread red": "contrast"}
        cues = cues.drop(columns=["mean green", "mean blue", "spread green", "spread blue"]).rename(columns=grey)
    for name in SIZE_CUES:
        if name in ps.columns and len(set(ps.column(name))) > 1:
            cues[name.replace("_", " ")] = ps.column(name).astype(float)
    return cues


def shortcut_score(ps: PatchSet, statistics: pd.DataFrame, *, seed: int = 0) -> tuple[float, float] | None:
    """Balanced accuracy that the cues alone reach on patients they were not fitted to.

    Args:
        ps: the set.
        statistics: its pixel statistics.
        seed: of the folds and trees.

    Returns:
        (balanced accuracy out of fold, chance level), or None where it cannot be measured (one class, few patients).
    """
    cues = cue_values(ps, statistics).to_numpy(dtype=float)
    rows = np.flatnonzero(ps.labels >= 0)
    if len(rows) > MOST_IMAGES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_IMAGES, replace=False))
    labels, groups = ps.labels[rows], group_names(ps)[rows]
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 3 or len(set(groups)) < 6 or not cues.shape[1]:
        return None
    predicted = np.empty_like(labels)
    for train, held_out in StratifiedGroupKFold(3, shuffle=True, random_state=seed).split(cues[rows], labels, groups):
        trees = ExtraTreesClassifier(60, min_samples_leaf=3, class_weight="balanced", random_state=seed)
        predicted[held_out] = trees.fit(cues[rows][train], labels[train]).predict(cues[rows][held_out])
    return float(balanced_accuracy_score(labels, predicted)), 1 / len(counts)


def source_association(ps: PatchSet) -> list[tuple[str, float]]:
    """How far the source an image comes from already tells its class.

    Returns:
        (column, Cramér's V from 0 to 1, corrected for chance) for each source column that varies.

    **Reference**: Bergsma 2013, doi:10.1016/j.jkss.2012.10.002.
    """
    labelled = ps.labels >= 0
    found = []
    for name in SOURCE_COLUMNS:
        if name in ps.columns and 1 < len(set(ps.column(name)[labelled])) <= 50:
            found.append((name, _cramers_v(pd.crosstab(ps.column(name)[labelled], ps.labels[labelled]).to_numpy())))
    return found


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


def _cramers_v(table: np.ndarray) -> float:
    """Bias-corrected Cramér's V of a contingency table."""
    if min(table.shape) < 2:
        return 0.0
    total = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / total
    rows, columns = table.shape
    phi = max(
        0.0, float((np.square(table - expected) / expected).sum()) / total - (rows - 1) * (columns - 1) / (total - 1)
    )
    most = min(columns - (columns - 1) ** 2 / (total - 1), rows - (rows - 1) ** 2 / (total - 1)) - 1
    return float(np.sqrt(phi / most)) if most > 0 else 0.0
