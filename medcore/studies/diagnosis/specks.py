"""The shape of what is brown: rods are small, long, sharp and often many; debris is large, round, blurred or black.

Each window is described by what of its brown is thinner than a rod (the rest of a morphological opening: clumps and
smears vanish), and by a histogram of its brown specks over size and length, with the sharpest and the blackest. A
forest learns from annotated windows which descriptions mean bacteria. This window score looks at shape; ``brown_peak``
beside it looks at colour alone.

    features = speck_features(patches)                                   # (N, F)
    forest = fit_forest(features[train], label[train])                   # training patients only
    score = forest.predict_proba(features)[:, 1]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from medcore.data.patchset import PatchSet
from medcore.data.stain import optical_density
from medcore.errors import MedcoreError
from medcore.metrics.stain_scores import CHUNK, brown_map

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesClassifier

BROWN = 0.12  # brown excess above which a pixel belongs to a speck; glass and haematoxylin stay below
FAINT = 0.05  # thin structures below are noise
BLACK = 1.2  # natural-log density in every channel: soot, ink, folded tissue
AREAS = np.array([0.0, 2e-4, 6e-4, 2e-3, np.inf])  # shares of the window; a rod covers about 3e-4
LENGTHS = np.array([1.0, 1.8, 3.0, np.inf])  # long axis over short axis; a rod has about 3
ROD_SHARE = 5.5 / 256  # a disk a little wider than a rod, as a share of the window's side
FEATURES = (
    "thin peak", "thin brightest 0.1 %", "thin brightest 1 %", "thin mean",
    "specks", "brown area", "peak", "sharpest", "longest", "largest area", "black area", "brown beside black",
    *(f"area {a} length {b}" for a in range(len(AREAS) - 1) for b in range(len(LENGTHS) - 1)),
)  # fmt: skip


def describe_specks(images: np.ndarray) -> np.ndarray:
    """Describe the brown specks of each window by ``FEATURES``.

    Args:
        images: uint8 windows. **Shape** ``(N, H, W, 3)``.

    Returns:
        Counts, shares of the window, densities and ratios. **Shape** ``(N, F)`` float64.
    """
    brown = brown_map(images)
    black = optical_density(images).min(axis=3) > BLACK
    return np.stack([_describe(one, dark) for one, dark in zip(brown, black, strict=True)])


def speck_features(patches: PatchSet) -> np.ndarray:
    """``describe_specks`` of a whole set in constant memory. **Shape** ``(N, F)``."""
    return np.concatenate([describe_specks(images) for images in patches.chunks(CHUNK)])


def fit_forest(features: np.ndarray, label: np.ndarray, *, seed: int = 0) -> ExtraTreesClassifier:
    """Learn from annotated windows which specks mean bacteria.

    Args:
        features: **Shape** ``(N, F)``.
        label: 0 or 1, both present. **Shape** ``(N,)``.

    Raises:
        MedcoreError: One class only.

    **Reference** Geurts, Ernst & Wehenkel 2006, doi:10.1007/s10994-006-6226-1.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    if len(np.unique(label)) < 2:
        raise MedcoreError(f"fit_forest: all {len(label)} windows are annotated alike; both kinds are needed")
    forest = ExtraTreesClassifier(300, min_samples_leaf=3, class_weight="balanced", random_state=seed)
    return forest.fit(features, label)


def _describe(brown: np.ndarray, black: np.ndarray) -> np.ndarray:
    """One window. **Shape** brown ``(H, W)`` float, black ``(H, W)`` bool to ``(F,)``."""
    thin = np.sort(thinner_than_a_rod(brown), axis=None)
    brightest = [thin[-max(1, round(share * thin.size)) :].mean() for share in (1e-3, 1e-2)]
    pixels = brown.size
    marks, count = ndimage.label(brown > BROWN)
    beside = black.any() and bool(count)
    near_black = (marks > 0) & ndimage.binary_dilation(black, iterations=3) if beside else np.zeros_like(black)
    head = [thin[-1], *brightest, np.maximum(thin - FAINT, 0).mean()]
    head += [count, (marks > 0).mean(), brown.max(), 0.0, 0.0, 0.0, black.mean(), near_black.mean()]
    table = np.zeros((len(AREAS) - 1, len(LENGTHS) - 1))
    if count:
        area, length = speck_sizes(marks, count)
        slope = ndimage.maximum(ndimage.gaussian_gradient_magnitude(brown, 1.0), marks, np.arange(1, count + 1))
        head[7:10] = [float(np.max(slope)), float(np.max(length)), float(np.max(area)) / pixels]
        table = np.histogram2d(area / pixels, length, bins=[AREAS, LENGTHS])[0]
    return np.concatenate([head, table.ravel()])


def thinner_than_a_rod(brown: np.ndarray) -> np.ndarray:
    """What an opening by a disk takes away: rods, threads and grains stay, clumps and smears go.

    **Shape** ``(H, W)`` to ``(H, W)``, at least 0.

    **Reference** Meyer 1979 (top-hat transform), doi:10.1177/27.1.86975.
    """
    radius = max(1.0, ROD_SHARE * len(brown) / 2)
    reach = int(radius)
    disk = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= radius
    return brown - ndimage.grey_opening(brown, footprint=disk)


def speck_sizes(marks: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Area (pixels) and ratio of the axes of every speck, from its second moments. Each **Shape** ``(count,)``."""
    y, x = np.nonzero(marks)
    which = marks[y, x] - 1
    area = np.bincount(which, minlength=count).astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, weights=values, minlength=count) / area

    centre_y, centre_x = mean(y), mean(x)
    yy = mean((y - centre_y[which]) ** 2) + 1 / 12  # a pixel is a square, not a point
    xx = mean((x - centre_x[which]) ** 2) + 1 / 12
    xy = mean((y - centre_y[which]) * (x - centre_x[which]))
    middle, half = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    return area, np.sqrt((middle + half) / np.maximum(middle - half, 1 / 12))
