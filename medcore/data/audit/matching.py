"""Which images could share a part: patches with equal hashes vote, and votes that agree on one placement stay.

* A patch's hash is the signs of random projections of its coefficients. Coefficients of one parity change sign
  together under a flip, so flips change known bits, and the smallest hash of all eight positions is the patch's key.
  Equal keys are found by sorting: the cost grows with the number of images, not of pairs. Keys get longer with the set.
* Each pair of equal keys says how one image lies on the other (position, size, flip). All keypoints of both images are
  then compared under that placement; images that share a part have several that agree.

**Reference**: hashing by random projections: Charikar 2002, doi:10.1145/509907.509965; one match proposes a placement:
Philbin et al. 2007, doi:10.1109/CVPR.2007.383172.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medcore.data.audit.keypoints import PARITY, SCALE, STEP, SWAPPED, Keypoints, parity_signs, turned_patch

TABLES = 4  # independent hashes of every patch
BITS, BITS_AT = 24, 1000  # length of a hash at this many images; one more each time the set doubles
CROWD = 32  # a key that more patches share tells nothing (a straight edge, a cell like any other)
ALIKE = 0.75  # cosine of two patches from which they can be the same
PROPOSALS = 3  # placements tried for each pair of images
TOLERANCE, DRIFT = 2.0, 0.1  # pixels that a keypoint may be off, and the share of its distance to the proposing one
AGREEING = 4  # keypoints that must agree on a placement
STIFF = 60.0  # pixels²: how much the first placement counts against the agreeing keypoints
PAIRS_PER_IMAGE, FEWEST_PAIRS = 2, 3000  # most pairs of images looked at closely


@dataclass(frozen=True)
class Placements:
    """How one view lies on another, one row per pair.

    Attributes:
        a: view. **Shape** ``(n,)``.
        b: view. **Shape** ``(n,)``.
        affine: from pixels (y, x, 1) of a to (y, x) of b. **Shape** ``(n, 2, 3)``.
        symmetry: what brings b onto a, as in ``hashing.SYMMETRIES``. **Shape** ``(n,)``.
        inverted: whether bright is dark. **Shape** ``(n,)`` bool.
        agreeing: keypoints that agree. **Shape** ``(n,)``.
    """

    a: np.ndarray
    b: np.ndarray
    affine: np.ndarray
    symmetry: np.ndarray
    inverted: np.ndarray
    agreeing: np.ndarray

    def select(self, rows: np.ndarray) -> Placements:
        """Some of the rows."""
        return Placements(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def propose_placements(
    keypoints: Keypoints, *, seed: int = 0, known: np.ndarray, only: bool = False, images: int = 0
) -> Placements:
    """Pairs of views that several keypoints place on each other in the same way, the surest first.

    Args:
        known: pairs of rows ``row_a · N + row_b`` (a < b) that need no further look. **Shape** ``(n,)``.
        only: look at those only instead.
        images: hash as in a set of so many images; 0 is the size of this one.
    """
    votes, cosine = _votes(keypoints, seed, images or len(keypoints.row))
    votes, cosine = _fewer(keypoints, votes, cosine, known, only)
    parts = [_supported(keypoints, votes[start : start + 512]) for start in range(0, len(votes), 512)]
    if not parts:
        none = np.zeros(0, int)
        return Placements(none, none, np.zeros((0, 2, 3)), none, none.astype(bool), none)
    merged = Placements(*(np.concatenate([getattr(p, n) for p in parts]) for n in Placements.__dataclass_fields__))
    order = np.argsort(-merged.agreeing, kind="stable")
    pair = (merged.a * len(keypoints.row) + merged.b)[order]
    first = np.sort(np.unique(pair, return_index=True)[1])  # of several placements of a pair, the best supported
    return merged.select(order[first][merged.agreeing[order[first]] >= AGREEING])


def _votes(keypoints: Keypoints, seed: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of alike patches: (patch of a, patch of b, symmetry) and their cosine. **Shape** ``(n, 3)``, ``(n,)``."""
    views, most = keypoints.valid.shape
    patches = np.flatnonzero(keypoints.valid.ravel())
    vectors = keypoints.patch.reshape(views * most, -1)
    bits = int(np.clip(round(BITS + np.log2(max(images, 1) / BITS_AT)), 16, 36))
    rng = np.random.default_rng(seed)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for _ in range(TABLES):
        keys, symmetry = _keys(vectors, patches, bits, rng)
        for first, second in _equal_keys(keys):
            a, b = patches[first], patches[second]
            other = keypoints.row[a // most] != keypoints.row[b // most]
            other &= (keypoints.part[a // most] == 0) | (keypoints.part[b // most] == 0)
            a, b, number = a[other], b[other], RELATIVE[symmetry[first[other]], symmetry[second[other]]]
            cosine = _cosines(vectors, a, b, number)
            alike = cosine > ALIKE
            found.append((((a * len(vectors) + b) * 8 + number)[alike], cosine[alike]))
    codes, place = np.unique(np.concatenate([code for code, _ in found]), return_index=True)
    ends, number = np.divmod(codes, 8)
    votes = np.stack([*np.divmod(ends, len(vectors)), number], axis=1)
    return votes, np.concatenate([cosine for _, cosine in found])[place]


def _cosines(vectors: np.ndarray, a: np.ndarray, b: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Cosine of two patches each, the second flipped or turned. **Shape** ``(n,)``."""
    cosine = np.empty(len(a), np.float32)
    for start in range(0, len(a), 2**16):
        part = slice(start, start + 2**16)
        one, two = vectors[a[part]] / np.float32(SCALE), vectors[b[part]] / np.float32(SCALE)
        for symmetry in range(8):
            these = number[part] == symmetry
            cosine[part][these] = (one[these] * turned_patch(two[these], symmetry)).sum(axis=1)
    return cosine


def _keys(vectors: np.ndarray, patches: np.ndarray, bits: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The smallest hash of each patch over its eight positions, and which position that is. **Shape** two ``(M,)``."""
    parity = np.arange(bits) % 4
    project = np.zeros((bits, len(PARITY)), np.float32)
    for kind in range(4):
        columns, wanted = np.flatnonzero(PARITY == kind), int((parity == kind).sum())
        turns = [np.linalg.qr(rng.normal(size=(len(columns),) * 2))[0] for _ in range(-(-wanted // len(columns)))]
        project[np.ix_(parity == kind, columns)] = np.concatenate(turns)[:wanted]
    value = 2.0 ** np.arange(bits)  # exact in float64
    masks = [_as_bits(parity_signs(n)[[np.flatnonzero(PARITY == k)[0] for k in parity]] < 0) for n in range(4)]
    keys, symmetry = np.empty(len(patches), np.uint64), np.zeros(len(patches), np.int8)
    for start in range(0, len(patches), 2**16):
        part = vectors[patches[start : start + 2**16]].astype(np.float32)
        best = np.full(len(part), np.iinfo(np.uint64).max, np.uint64)
        for swap in (0, 4):
            hashed = (((part[:, SWAPPED] if swap else part) @ project.T > 0) @ value).astype(np.uint64)
            for number, mask in enumerate(masks):
                turned = hashed ^ mask
                lower = turned < best
                best[lower] = turned[lower]
                symmetry[start : start + 2**16][lower] = swap + number
        keys[start : start + 2**16] = best
    return keys, symmetry


def _as_bits(flags: np.ndarray) -> np.uint64:
    return np.uint64(int(2.0 ** np.arange(len(flags)) @ flags))


def _equal_keys(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of places with equal keys, but for keys that a crowd shares, in blocks. **Shape** two of ``(n,)``."""
    if not len(keys):
        return
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    size = np.diff(np.r_[start, len(keys)])
    end = np.repeat(start + size, size)
    inside = np.flatnonzero(np.repeat((size > 1) & (size <= CROWD), size))
    for step in range(1, CROWD):
        inside = inside[inside + step < end[inside]]
        yield order[inside], order[inside + step]


def _fewer(
    keypoints: Keypoints, votes: np.ndarray, cosine: np.ndarray, known: np.ndarray, only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The best votes of the pairs with most votes, so that a large set costs no more per image than a small one."""
    most = keypoints.valid.shape[1]
    view_a, view_b = votes[:, 0] // most, votes[:, 1] // most
    rows = np.sort(np.stack([keypoints.row[view_a], keypoints.row[view_b]]), axis=0)
    keep = np.isin(rows[0] * (keypoints.row.max() + 1) + rows[1], known) == only
    votes, cosine, view_a, view_b = votes[keep], cosine[keep], view_a[keep], view_b[keep]
    pair = np.minimum(view_a, view_b) * len(keypoints.row) + np.maximum(view_a, view_b)
    order = np.lexsort((-cosine, pair))
    starts = np.flatnonzero(np.r_[True, np.diff(pair[order]) != 0]) if len(order) else np.zeros(0, int)
    size = np.diff(np.r_[starts, len(order)])
    rank = np.arange(len(order)) - np.repeat(starts, size)
    weight = np.add.reduceat(np.square(cosine[order]), starts) if len(starts) else np.zeros(0)
    limit = max(FEWEST_PAIRS, PAIRS_PER_IMAGE * len(np.unique(keypoints.row)))
    chosen = np.zeros(len(starts), bool)
    chosen[np.argsort(-weight, kind="stable")[:limit]] = True
    keep = order[np.repeat(chosen, size) & (rank < PROPOSALS)]
    return votes[keep], cosine[keep]


def _supported(keypoints: Keypoints, votes: np.ndarray) -> Placements:
    """The placement that each vote proposes, fitted to the keypoints that agree with it."""
    most = keypoints.valid.shape[1]
    a, b = votes[:, 0] // most, votes[:, 1] // most
    y, x, level = keypoints.y.ravel(), keypoints.x.ravel(), keypoints.level.ravel()
    bright = keypoints.bright.ravel()
    size = STEP ** (level[votes[:, 1]] - level[votes[:, 0]]).astype(float)
    linear = (size[:, None, None] * POSITIONS[votes[:, 2]]).astype(np.float32)
    from_a, from_b = (np.stack([y[votes[:, end]], x[votes[:, end]]], axis=1) for end in (0, 1))
    all_a, all_b = (np.stack([keypoints.y[view], keypoints.x[view]], axis=2) for view in (a, b))
    away = all_a - from_a[:, None]
    there = away @ linear.swapaxes(1, 2) + from_b[:, None]
    apart = np.square(there[:, :, None] - all_b[:, None]).sum(axis=3)
    near = apart < np.square(TOLERANCE + DRIFT * np.linalg.norm(away, axis=2))[:, :, None]
    grown = keypoints.level[b][:, None].astype(int) - keypoints.level[a][:, :, None]
    near &= np.abs(grown - (level[votes[:, 1]] - level[votes[:, 0]])[:, None, None]) <= 1
    inverted = bright[votes[:, 0]] != bright[votes[:, 1]]
    near &= (keypoints.bright[a][:, :, None] != keypoints.bright[b][:, None]) == inverted[:, None, None]
    near &= keypoints.valid[a][:, :, None] & keypoints.valid[b][:, None]
    one = keypoints.patch[a].astype(np.float32) / SCALE
    two = keypoints.patch[b].astype(np.float32) / SCALE
    for number in range(8):
        these = votes[:, 2] == number
        two[these] = turned_patch(two[these], number)
    cosine = np.where(near, one @ two.swapaxes(1, 2), 0)
    partner, agrees = cosine.argmax(axis=2), cosine.max(axis=2) > ALIKE
    place = np.arange(len(votes))[:, None] * most
    taken = np.unique((place + partner)[agrees]) // most  # a keypoint of b counts once
    matched = np.take_along_axis(all_b, partner[..., None], axis=1)
    affine = _similarity(all_a, matched, agrees, linear, from_a, from_b)
    return Placements(a, b, affine, votes[:, 2], inverted, np.bincount(taken, minlength=len(votes)))


def _similarity(
    source: np.ndarray, target: np.ndarray, used: np.ndarray, linear: np.ndarray, from_a: np.ndarray, from_b: np.ndarray
) -> np.ndarray:
    """Least-squares turn, scale and shift over the agreeing keypoints, drawn to the proposal. **Shape** (n, 2, 3)."""
    weight = used[..., None].astype(float)
    count = np.maximum(weight.sum(axis=1), 1)
    centre, goal = (source * weight).sum(axis=1) / count, (target * weight).sum(axis=1) / count
    none = ~used.any(axis=1)
    centre[none], goal[none] = from_a[none], from_b[none]
    moved = (source - centre[:, None]) @ linear.swapaxes(1, 2) * weight
    left = (target - goal[:, None]) * weight
    square = np.square(moved).sum(axis=(1, 2)) + STIFF
    along = ((moved * left).sum(axis=(1, 2)) + STIFF) / square
    across = (moved[..., 0] * left[..., 1] - moved[..., 1] * left[..., 0]).sum(axis=1) / square
    turn = np.stack([np.stack([along, -across], 1), np.stack([across, along], 1)], 1)
    matrix = turn @ linear
    return np.concatenate([matrix, (goal - (matrix @ centre[..., None])[..., 0])[..., None]], axis=2)


def _position(number: int) -> np.ndarray:
    """Where (y, x) of a turned patch comes from, as a matrix."""
    down, right = 1 - (number & 2), 1 - 2 * (number & 1)
    return np.array([[0, right], [down, 0]]) if number & 4 else np.array([[down, 0], [0, right]])


def _same(position: np.ndarray) -> int:
    """The symmetry with this matrix."""
    return int(np.abs(POSITIONS - position).sum(axis=(1, 2)).argmin())


POSITIONS = np.stack([_position(number) for number in range(8)]).astype(float)
# Where a turned by i equals b turned by j, a is b turned by RELATIVE[i, j].
RELATIVE = np.array([[_same(turned_b @ turned_a.T) for turned_b in POSITIONS] for turned_a in POSITIONS])
