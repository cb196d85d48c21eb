"""Laying one image on another: refine a placement on the pixels, and measure how well they agree.

Placements are refined by Gauss–Newton steps on images of equal local contrast (turn, scale, shift). Agreement is then
measured cell by cell, 8 × 8 cells an image: copies agree in most cells that hold any detail, while images that merely
share a blob, an outline or a hair agree in a few. What agreement unrelated images reach is learnt from the set itself.
The same pixels also agree in the fine detail that remains once outlines are taken away; marks that merely look the same
(an engraved scale, a round outline) agree less there.

**Reference**: Lucas & Kanade 1981, IJCAI 674–679; Baker & Matthews 2004, doi:10.1023/B:VISI.0000011205.11775.fd.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from medcore.data.audit.keypoints import Keypoints, blurred, sample_rows, working_images
from medcore.data.audit.matching import POSITIONS, Placements
from medcore.data.patchset import PatchSet

ROUNDS, RASTER = 7, 2  # refining steps, and every how many pixels
COARSE, FINE = 1.2, 0.6  # blur in pixels while refining and while measuring
OUTLINES = 1.5  # blur in pixels whose result is taken away where fine detail is compared
CELLS = 8
DETAIL = 5.0  # spread in a cell (of 20 at full contrast) that counts as detail
LEAST_AGREEMENT, LOWER_QUARTER = 0.6, 0.25  # median correlation of a copy's cells; three in four correlate by more
LEAST_EVIDENCE, MOST_EVIDENCE = 4.5, 8.0  # arctanh(agreement) · √cells: bounds of the limit that the set teaches
COMMON = 0.6  # correlation with the set's mean image from which a cell (a vignette's rim, a rib) tells none apart
COMMON_IMAGES = 24  # fewer images have no mean worth the name
LEAST_CELLS, LEAST_OVERLAP = 8, 0.3  # cells with detail, and shared part of the smaller image
SCALES = 0.4, 2.5
VARIETY = 0.08  # smaller over larger eigenvalue of the gradients: one straight edge fits any other
CLOSE, CLOSE_QUARTER, CLOSE_FINE, MANY = 0.8, 0.7, 0.9, 12  # so close, with so many keypoints, needs no evidence
STRANGERS, STRANGE_PAIRS = 6, 30  # placements with so few keypoints are chance; as many are needed to learn from them
TAIL = 0.2  # share of the unrelated pairs that tell how the rest of them thins out
FALSE_PAIRS = 1e-4  # expected false pairs per image
COLUMNS = ["a", "b", "symmetry", "agreement", "cells", "overlap", "scale", "degrees", "inverted"]


def copies_among(measured: pd.DataFrame, limit: float) -> pd.DataFrame:
    """The measured pairs that share pixels, each once."""
    copies = _plausible(measured) & measured["agreement"].ge(LEAST_AGREEMENT) & measured["lower"].ge(LOWER_QUARTER)
    close = measured["agreement"].ge(CLOSE) & measured["lower"].ge(CLOSE_QUARTER) & measured["agreeing"].ge(MANY)
    copies &= (close & measured["fine"].ge(CLOSE_FINE)) | (evidence(measured) >= limit)
    best = measured[copies].sort_values("agreement", ascending=False, kind="stable").drop_duplicates(["a", "b"])
    return best.sort_values(["a", "b"], ignore_index=True)[COLUMNS]


def learn_limit(measured: pd.DataFrame, groups: np.ndarray) -> float:
    """The evidence that chance reaches FALSE_PAIRS times an image.

    Learnt from pairs of different patients that few keypoints proposed. The upper tail of their evidence is taken as
    exponential; its median says how fast it falls, which a few real copies hardly change.

    Args:
        groups: the patient of each image. **Shape** ``(N,)``.
    """
    plausible = _plausible(measured)
    strange = plausible & measured["agreeing"].le(STRANGERS)
    strange &= groups[measured["a"].to_numpy(dtype=int)] != groups[measured["b"].to_numpy(dtype=int)]
    unrelated = evidence(measured)[strange].to_numpy(dtype=float)
    if len(unrelated) < STRANGE_PAIRS:
        return LEAST_EVIDENCE
    start = np.quantile(unrelated, 1 - TAIL)
    fall = np.median(unrelated[unrelated > start] - start) / np.log(2)
    rarer = max(1.0, TAIL * int(plausible.sum()) / (FALSE_PAIRS * len(groups)))
    return float(np.clip(start + fall * np.log(rarer), LEAST_EVIDENCE, MOST_EVIDENCE))


def evidence(measured: pd.DataFrame) -> pd.Series:
    """How much speaks for a pair: arctanh(agreement, or that of fine detail where it is lower) · √cells."""
    agreement, cells = measured[["agreement", "fine"]].min(axis=1).to_numpy(), measured["cells"].to_numpy(dtype=float)
    return pd.Series(np.arctanh(np.clip(agreement, -0.99, 0.99)) * np.sqrt(cells), index=measured.index)


def _plausible(measured: pd.DataFrame) -> pd.Series:
    enough = measured["cells"].ge(LEAST_CELLS) & measured["overlap"].ge(LEAST_OVERLAP)
    return enough & measured["scale"].between(*SCALES) & measured["variety"].ge(VARIETY)


def measure_placements(ps: PatchSet, keypoints: Keypoints, placements: Placements, common: np.ndarray) -> pd.DataFrame:
    """Refine every placement on the pixels and measure it.

    Returns:
        Columns ``a``, ``b`` (rows), ``symmetry``, ``agreement`` (median correlation of cells), ``lower`` (quartile),
        ``fine`` (median correlation without outlines), ``cells`` compared, ``overlap`` (share of the smaller one),
        ``scale``, ``degrees``, ``inverted``, ``variety`` (of edge directions), ``agreeing`` (keypoints).
    """
    parts = []
    order = np.lexsort((placements.b, placements.a))
    for start in range(0, len(order), 128):
        part = placements.select(order[start : start + 128])
        views, place = np.unique(np.concatenate([part.a, part.b]), return_inverse=True)
        images = working_images(ps, keypoints.row[views], keypoints.part[views])
        a, b = place[: len(part.a)], place[len(part.a) :]
        sign = np.where(part.inverted, -1.0, 1.0).astype(np.float32)
        affine = refine(blurred(images, COARSE), a, b, part.affine, sign)
        table = _cells_agree(blurred(images, FINE), common, a, b, affine, sign)
        rows = np.stack([keypoints.row[part.a], keypoints.row[part.b]])
        swap = rows[0] > rows[1]
        scale = np.sqrt(np.abs(np.linalg.det(affine[:, :, :2])))
        table["scale"] = np.where(swap, 1 / scale, scale)
        table["degrees"] = _degrees(affine, part.symmetry)
        table["a"], table["b"] = rows.min(axis=0), rows.max(axis=0)
        for name in ("symmetry", "inverted", "agreeing"):
            table[name] = getattr(part, name)
        parts.append(table)
    columns = [*COLUMNS, "lower", "fine", "variety", "agreeing"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def refine(images: np.ndarray, a: np.ndarray, b: np.ndarray, affine: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Gauss–Newton over turn, scale and shift.

    Args:
        images: smooth, of equal local contrast. **Shape** ``(V, H, W)``.
        a: which image stays. **Shape** ``(n,)``.
        b: which image is laid on it. **Shape** ``(n,)``.
        affine: first placements. **Shape** ``(n, 2, 3)``.
        sign: -1 where bright is dark. **Shape** ``(n,)``.
    """
    height, width = images.shape[1:]
    y, x = (grid.ravel() for grid in np.mgrid[0:height:RASTER, 0:width:RASTER].astype(np.float32))
    fixed = images[:, ::RASTER, ::RASTER].reshape(len(images), -1)[a]
    slopes = np.gradient(images, axis=1), np.gradient(images, axis=2)
    affine = affine.astype(np.float32)
    middle = np.array([(height - 1) / 2, (width - 1) / 2], np.float32)
    for _ in range(ROUNDS):
        there = affine[:, :, :1] * y + affine[:, :, 1:2] * x + affine[:, :, 2:]
        moving, inside = _sampled((images, *slopes), b, there)
        value, down, right = (part * sign[:, None] * inside for part in moving)
        energy = np.square(fixed * inside).sum(axis=1), np.square(value).sum(axis=1)
        gain = np.sqrt(energy[0] / np.maximum(energy[1], 1e-6))[:, None]
        u, v = there[:, 0] - middle[0], there[:, 1] - middle[1]
        jacobian = np.stack([(down * u + right * v) / height, (right * u - down * v) / height, down, right], axis=1)
        jacobian *= gain[:, None]
        error = fixed * inside - gain * value
        square = jacobian @ jacobian.swapaxes(1, 2)
        square += (0.01 * np.trace(square, axis1=1, axis2=2) / 4 + 1e-6)[:, None, None] * np.eye(4, dtype=np.float32)
        grow, turn, dy, dx = np.linalg.solve(square, jacobian @ error[..., None])[..., 0].T
        grow, turn = np.clip(grow / height, -0.1, 0.1), np.clip(turn / height, -0.1, 0.1)
        step = np.stack([np.stack([1 + grow, -turn], 1), np.stack([turn, 1 + grow], 1)], 1)
        moved = step @ (affine - np.concatenate([np.zeros((2, 2)), middle[:, None]], 1)[None].astype(np.float32))
        moved[:, :, 2] += middle + np.clip(np.stack([dy, dx], 1), -4, 4)
        affine = moved
    return affine


def _cells_agree(
    images: np.ndarray, common: np.ndarray, a: np.ndarray, b: np.ndarray, affine: np.ndarray, sign: np.ndarray
) -> pd.DataFrame:
    """Correlation over cells that lie in both images: its median and lower quartile, how many, and the overlap."""
    height, width = images.shape[1:]
    y, x = (grid.ravel() for grid in np.mgrid[0:height, 0:width].astype(np.float32))
    fixed = images.reshape(len(images), -1)[a]
    there = affine[:, :, :1] * y + affine[:, :, 1:2] * x + affine[:, :, 2:]
    detail = images - blurred(images, OUTLINES)
    (moving, moving_detail), inside = _sampled((images, detail), b, there)
    moving, moving_detail = moving * sign[:, None], moving_detail * sign[:, None]
    high, wide = height // CELLS, width // CELLS

    def cells(values: np.ndarray) -> np.ndarray:
        values = values.reshape(-1, height, width)[:, : high * CELLS, : wide * CELLS]
        return values.reshape(-1, CELLS, high, CELLS, wide).sum(axis=(2, 4)).reshape(len(values), -1)

    count = cells(inside)
    both, square_a, square_b = _moments(cells, fixed, moving, inside)
    usual, whole, square = _moments(cells, fixed, np.broadcast_to(common.ravel(), fixed.shape), np.ones_like(inside))
    usable = (count > 0.6 * high * wide) & (np.maximum(square_a, square_b) > DETAIL**2)
    usable &= usual < COMMON * np.sqrt(whole * square)
    correlation = np.where(usable, both / np.sqrt(square_a * square_b), np.nan)
    both, square_a, square_b = _moments(cells, detail.reshape(len(images), -1)[a], moving_detail, inside)
    fine = np.where(usable, both / np.sqrt(square_a * square_b), np.nan)
    down, right = (slope.reshape(len(images), -1)[a] for slope in np.gradient(images, axis=(1, 2)))
    steep, level, mixed = ((cells(part) * usable).sum(axis=1) for part in (down**2, right**2, down * right))
    spread = np.sqrt((steep - level) ** 2 + 4 * mixed**2)
    variety = (steep + level - spread) / np.maximum(steep + level + spread, 1e-6)
    numbers = usable.sum(axis=1)
    correlation[numbers == 0] = fine[numbers == 0] = -1
    grown = np.maximum(np.abs(np.linalg.det(affine[:, :, :2])), 1e-6)
    overlap = inside.mean(axis=1) * np.maximum(1, grown)  # of the smaller one
    return pd.DataFrame(
        {
            "agreement": np.nanmedian(correlation, axis=1),
            "lower": np.nanquantile(correlation, 0.25, axis=1),
            "fine": np.nanmedian(fine, axis=1),
            "cells": numbers,
            "variety": variety,
            "overlap": np.minimum(overlap, 1),
        }
    )


def _moments(
    cells: Callable[[np.ndarray], np.ndarray], one: np.ndarray, other: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance and the two variances in every cell."""
    count = np.maximum(cells(inside), 1)
    mean, mean_other = cells(one * inside) / count, cells(other * inside) / count
    both = cells(one * other * inside) / count - mean * mean_other
    square, square_other = cells(one**2 * inside) / count - mean**2, cells(other**2 * inside) / count - mean_other**2
    return both, np.maximum(square, 1e-6), np.maximum(square_other, 1e-6)


def common_image(ps: PatchSet) -> np.ndarray:
    """The mean of some working images: what all images of the set share. **Shape** ``(H, W)``."""
    rows = sample_rows(ps)
    images = working_images(ps, rows, np.zeros(len(rows), int))
    return blurred(images.mean(axis=0, keepdims=True), FINE)[0] * (len(rows) >= COMMON_IMAGES)


def _sampled(
    images: tuple[np.ndarray, ...], which: np.ndarray, place: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Bilinear values of several stacks of images at (y, x), and whether a place is inside. **Shape** ``(n, P)``."""
    height, width = images[0].shape[1:]
    y, x = place[:, 0], place[:, 1]
    inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    y, x = np.clip(y, 0, height - 1.001), np.clip(x, 0, width - 1.001)
    top, left = y.astype(np.int64), x.astype(np.int64)
    low, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    corner = which[:, None] * (height * width) + top * width + left
    values = []
    for stack in images:
        flat = stack.reshape(-1)
        above = flat[corner] * (1 - right) + flat[corner + 1] * right
        below = flat[corner + width] * (1 - right) + flat[corner + width + 1] * right
        values.append(above * (1 - low) + below * low)
    return values, inside.astype(np.float32)


def _degrees(affine: np.ndarray, symmetry: np.ndarray) -> np.ndarray:
    """How far b is turned on a besides the symmetry, degrees."""
    turn = affine[:, :, :2] @ POSITIONS[symmetry].swapaxes(1, 2)
    return np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
