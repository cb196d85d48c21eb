"""Copies of an image among others: flipped, turned, recompressed, resized, a little brighter or darker.

How it works, and why it needs no threshold per data set:

* An image is its lowest cosine coefficients (``hashing.low_frequencies``). From the set itself we learn what is
  *ordinary* there (the spread of the coefficients) and what *copying does* there (the set's own images, recompressed at
  JPEG quality 30 and halved). The discriminant between the two weighs the coefficients, so that what all images of the
  set share (the outline of a thorax, a slide's white) counts for nothing. Both spreads are averaged over the eight
  flips and turns; the discriminant then commutes with them, and one description serves all eight.
* Candidates come from magnitudes that no flip or turn changes, by one blocked matrix product over all pairs.
* A candidate is a copy when it agrees in one of the eight positions (cosine), and when what remains is no more than
  copying explains (difference). Images with almost no detail are set aside and counted, not guessed.

This does what a perceptual hash does, vectorised over the set, and separates better because it learns the set's noise;
``benchmarks/audit.py`` compares it with ImageHash.

**Reference**: linear discriminant for verification: Ioffe 2006, doi:10.1007/11744085_41; perceptual hash: Zauner 2010.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.data.audit.hashing import low_frequencies, transform_frequencies
from medcore.data.audit.planted import recompressed, scaled_and_back

AGREEMENT = 0.75  # cosine that a copy reaches; unrelated images stay below 0.6
DIFFERENCE = 0.5  # what remains between copies, in units of √(detail · noise); unrelated images leave more than 1
# An image with detail in few cells, or with few coefficients that matter (a single straight edge), can agree with a
# stranger by chance: its copies must agree more closely.
PLAIN, PLAIN_SHARE = 0.06, 0.063  # share of detailed cells; effective share of coefficients
PLAIN_AGREEMENT, PLAIN_DIFFERENCE = 0.97, 0.12
FLAT = 1.5  # detail energy over copying noise below which nothing can be told
CANDIDATE = 0.55  # cosine of the magnitudes from which a pair is looked at closely
SAMPLE = 256  # images that are copied to learn what copying does
ROWS, COLUMNS, PAIRS = 1024, 16384, 32768  # sizes of the blocks, for about 100 MB of work space
PAIR_COLUMNS = ["a", "b", "symmetry", "agreement", "difference"]


@dataclass(frozen=True)
class Comparer:
    """Learnt weights that make copies agree and others not.

    Attributes:
        mean: average magnitude-free coefficients, invariant under flips and turns. **Shape** ``(D,)``.
        whiten: to units of copying noise. **Shape** ``(D, D)``, commutes with flips and turns.
        weigh: from noise units to discriminant weights. **Shape** ``(D, D)``, commutes with flips and turns.
        scale: ordinary size of each coefficient. **Shape** ``(K, K)``.
        magnitude_mean: **Shape** ``(M,)``.
        magnitude_weigh: discriminant of the magnitudes. **Shape** ``(M, m)``.
    """

    mean: np.ndarray
    whiten: np.ndarray
    weigh: np.ndarray
    scale: np.ndarray
    magnitude_mean: np.ndarray
    magnitude_weigh: np.ndarray


def learn_comparer(frequencies: np.ndarray, sample: np.ndarray, sample_rows: np.ndarray) -> Comparer:
    """Learn from a set what is ordinary in it and what copying does to it.

    Args:
        frequencies: of all images. **Shape** ``(N, K, K)``.
        sample: some of the images, uint8. **Shape** ``(n, H, W, C)``.
        sample_rows: their rows. **Shape** ``(n,)``.
    """
    keep = frequencies.shape[1]
    copies = [low_frequencies(copy, keep) for copy in (recompressed(sample, 30), scaled_and_back(sample, 0.5))]
    errors = np.concatenate([copy - frequencies[sample_rows] for copy in copies])
    pixel = 0.5 / np.prod(sample.shape[1:3])  # rounding alone: half a grey level a pixel
    mean = np.mean([_turned(frequencies, k).mean(axis=0, dtype=np.float64) for k in range(8)], axis=0)
    centred = mean.astype(np.float32)
    ordinary = np.mean([_second_moment(_turned(frequencies, k) - centred) for k in range(8)], axis=0)
    copying = np.mean([_second_moment(_turned(errors, k)) for k in range(8)], axis=0)
    whiten, weigh = _discriminant(ordinary, copying + pixel * np.eye(len(mean)), 8 * len(frequencies))
    square = np.square(frequencies).mean(axis=0)
    scale = np.sqrt((square + square.T) / 2) + np.sqrt(pixel)
    magnitudes = _magnitudes(frequencies, scale)
    shift = np.concatenate([_magnitudes(copy, scale) for copy in copies]) - np.tile(magnitudes[sample_rows], (2, 1))
    centre = magnitudes.mean(axis=0)
    small = 1e-4 * np.eye(len(centre))
    basis, weights = _discriminant(_second_moment(magnitudes - centre), _second_moment(shift) + small, len(frequencies))
    return Comparer(mean, whiten, weigh, scale, centre, basis @ weights)


def find_copies(comparer: Comparer, frequencies: np.ndarray, detail: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """All pairs of images of which one is a copy of the other.

    Args:
        frequencies: **Shape** ``(N, K, K)``.
        detail: share of cells with detail. **Shape** ``(N,)``.

    Returns:
        Pairs with ``a < b``, the symmetry that brings b onto a, their agreement (cosine) and difference; and which
        images are too flat to be compared. **Shape** ``(N,)`` bool.
    """
    noise_units = _in_noise_units(comparer, frequencies)
    flat = np.square(noise_units).mean(axis=1) < FLAT
    plain = _plain(comparer, noise_units, detail)
    rows = np.flatnonzero(~flat)
    magnitudes = (_magnitudes(frequencies[rows], comparer.scale) - comparer.magnitude_mean) @ comparer.magnitude_weigh
    found = [_compare(comparer, noise_units, plain, rows[a], rows[b]) for a, b in _candidates(_unit(magnitudes))]
    if not found:
        return pd.DataFrame(columns=PAIR_COLUMNS).astype({"a": int, "b": int, "symmetry": int}), flat
    return pd.concat(found, ignore_index=True).sort_values(["a", "b"], ignore_index=True), flat


def recognised(comparer: Comparer, originals: np.ndarray, copies: np.ndarray, detail: np.ndarray) -> np.ndarray:
    """Whether each copy would be found, given the frequencies of original and copy. **Shape** ``(n,)`` bool."""
    both = _in_noise_units(comparer, np.concatenate([originals, copies]))
    count = len(originals)
    magnitudes = _magnitudes(np.concatenate([originals, copies]), comparer.scale) - comparer.magnitude_mean
    magnitudes = _unit(magnitudes @ comparer.magnitude_weigh)
    candidate = (magnitudes[:count] * magnitudes[count:]).sum(axis=1) >= CANDIDATE
    flat = np.square(both).mean(axis=1) < FLAT
    plain = _plain(comparer, both, np.tile(detail, 2))
    pairs = _compare(comparer, both, plain, np.arange(count), np.arange(count) + count)
    return candidate & ~flat[:count] & ~flat[count:] & np.isin(np.arange(count), pairs["a"])


def _candidates(units: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows (a < b) whose magnitudes agree, a block at a time."""
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    waiting = 0
    for top in range(0, len(units), ROWS):
        for left in range(top, len(units), COLUMNS):
            cosine = units[top : top + ROWS] @ units[left : left + COLUMNS].T
            a, b = np.divmod(np.flatnonzero(cosine.ravel() >= CANDIDATE), cosine.shape[1])
            forward = a + top < b + left
            kept.append((a[forward] + top, b[forward] + left))
            waiting += int(forward.sum())
            if waiting >= PAIRS:
                yield from _in_blocks(kept)
                kept, waiting = [], 0
    yield from _in_blocks(kept)


def _in_blocks(parts: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Join parts and cut them into blocks of at most `PAIRS`."""
    a = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, int)
    b = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, int)
    for start in range(0, len(a), PAIRS):
        yield a[start : start + PAIRS], b[start : start + PAIRS]


def _compare(
    comparer: Comparer, noise_units: np.ndarray, plain: np.ndarray, a: np.ndarray, b: np.ndarray
) -> pd.DataFrame:
    """Those of the pairs (a, b) that are copies, in the position in which they agree best."""
    one, other = noise_units[a], noise_units[b]
    agreement, difference = _eight_agreements(comparer, one, other)
    best = agreement.argmax(axis=1)
    place = np.arange(len(a)), best
    energy = (np.square(one).mean(axis=1) + np.square(other).mean(axis=1)) / 2
    left = difference[place] / np.sqrt(np.maximum(energy, 1e-12))
    either = plain[a] | plain[b]
    copy = agreement[place] >= np.where(either, PLAIN_AGREEMENT, AGREEMENT)
    copy &= left <= np.where(either, PLAIN_DIFFERENCE, DIFFERENCE)
    values = (a[copy], b[copy], best[copy], agreement[place][copy], left[copy])
    return pd.DataFrame(dict(zip(PAIR_COLUMNS, values, strict=True)))


def _in_noise_units(comparer: Comparer, frequencies: np.ndarray) -> np.ndarray:
    """Centred coefficients in units of copying noise, float32. **Shape** ``(N, K, K)`` to ``(N, D)``."""
    return (_vectors(frequencies) - comparer.mean.astype(np.float32)) @ comparer.whiten.astype(np.float32)


def _plain(comparer: Comparer, noise_units: np.ndarray, detail: np.ndarray) -> np.ndarray:
    """Images that could agree with a stranger by chance. **Shape** ``(N,)`` bool."""
    square = np.square(noise_units @ comparer.weigh.astype(np.float32))
    effective = square.sum(axis=1) ** 2 / np.maximum(np.square(square).sum(axis=1), 1e-12)
    return (detail < PLAIN) | (effective < PLAIN_SHARE * noise_units.shape[1])


def _eight_agreements(comparer: Comparer, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of the weighed, and mean squared difference of the noise-unit vectors, in all eight positions.

    **Shape** two of ``(P, D)`` to two of ``(P, 8)``. A flip multiplies coefficients by fixed signs, so the four flips
    are four sign patterns over the same products.
    """
    size = one.shape[1]
    signs, swap = _sign_patterns(size), _transposition(size)
    weigh = comparer.weigh.astype(np.float32)
    cosines, products = [], []
    weighed, weighed_other = _unit(one @ weigh), _unit(other @ weigh)
    for turned in (np.arange(size), swap):
        cosines.append((weighed * weighed_other[:, turned]) @ signs)
        products.append((one * other[:, turned]) @ signs)
    energy = np.square(one).sum(axis=1) + np.square(other).sum(axis=1)
    difference = (energy[:, None] - 2 * np.concatenate(products, axis=1)) / size
    return np.concatenate(cosines, axis=1), np.maximum(difference, 0)


def _sign_patterns(size: int) -> np.ndarray:
    """Signs of the coefficients under no flip, left-right, top-bottom and both. **Shape** ``(D, 4)``."""
    vertical, horizontal = np.divmod(np.arange(1, size + 1), _side(size))
    rows, columns = (-1.0) ** vertical, (-1.0) ** horizontal
    return np.stack([np.ones(size), columns, rows, rows * columns], axis=1).astype(np.float32)


def _transposition(size: int) -> np.ndarray:
    """Where each coefficient comes from when rows and columns are swapped. **Shape** ``(D,)``."""
    side = _side(size)
    return np.arange(side * side).reshape(side, side).T.ravel()[1:] - 1


def _side(size: int) -> int:
    """K of a vector of K² − 1 coefficients."""
    return int(round((size + 1) ** 0.5))


def _vectors(frequencies: np.ndarray) -> np.ndarray:
    """All coefficients but the mean brightness. **Shape** ``(N, K, K)`` to ``(N, K² − 1)``."""
    return frequencies.reshape(len(frequencies), -1)[:, 1:]


def _turned(frequencies: np.ndarray, number: int) -> np.ndarray:
    """The vectors of the images after a flip or turn."""
    return _vectors(transform_frequencies(frequencies, number))


def _magnitudes(frequencies: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What no flip or turn changes: the joint size of each coefficient and its mirror image. **Shape** ``(N, M)``."""
    square = np.square(frequencies / scale)
    upper = np.triu_indices(frequencies.shape[1])
    return np.sqrt((square + square.swapaxes(1, 2))[:, upper[0], upper[1]])[:, 1:]


def _second_moment(vectors: np.ndarray) -> np.ndarray:
    """Mean outer product, in double precision. **Shape** ``(N, D)`` to ``(D, D)``."""
    return (vectors.T @ vectors).astype(np.float64) / len(vectors)


def _discriminant(ordinary: np.ndarray, copying: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(whitening of the copying noise, discriminant weights in whitened space), both symmetric.

    The ordinary spread is shrunk towards its diagonal when it was estimated from few images; the noise, from a small
    sample, always by half.
    """
    size = len(ordinary)
    shrink = min(0.5, size / max(count, 1))
    ordinary = (1 - shrink) * ordinary + shrink * np.diag(np.diag(ordinary))
    copying = 0.5 * copying + 0.5 * np.diag(np.diag(copying))
    values, vectors = np.linalg.eigh(copying)
    whiten = (vectors / np.sqrt(values)) @ vectors.T
    ratio, axes = np.linalg.eigh(whiten @ ordinary @ whiten)
    ratio = np.maximum(ratio, 0)
    return whiten, (axes * (np.sqrt(ratio) / (ratio + 1))) @ axes.T


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)
