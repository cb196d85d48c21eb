"""Who trains and who is tested: splits and folds that never put a patient on two sides.

* The unit is the patient. A set without patients treats each source image as one, and says so.
* ``StratifiedGroupKFold`` draws the groups; several draws are compared, because its greedy order can leave
  a rare class out of a side when the patients are few.
* A published split is honoured: its test part is kept, and only a missing part is made, out of train.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from medcore.data.patchset import PatchSet
from medcore.data.targets import strata
from medcore.errors import MedcoreError

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test")
FEW_PATIENTS = 5  # a side with fewer than this gives intervals too wide to conclude anything
MANY_GROUPS = 2000  # above this one draw is balanced enough, and twenty would take minutes


Draw = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # rows, groups of all rows, shares -> sides


@dataclass(frozen=True)
class Fold:
    """One fold: rows of the set it was made from (positions, sorted, disjoint)."""

    train: np.ndarray
    validation: np.ndarray


def group_names(ps: PatchSet) -> np.ndarray:
    """What must stay together: the patient, or the source image where no patient is known.

    A ``linked`` column (from ``fix_splits``, which joins patients that share a copied image) goes before both.

    Returns:
        (N,) array of str. Rows with an empty patient are each a group of their own source image.
    """
    import pandas as pd

    if "linked" in ps.columns:
        return ps.column("linked").astype(str)
    source = pd.Series(ps.column("source").astype(str))
    if source.nunique() <= 1:  # one array file holds everything: each row is an image
        source = pd.Series([f"row {row}" for row in range(len(ps))])
    if not ps.card.patients_known:
        return source.to_numpy(dtype=str)
    patient = pd.Series(ps.patients.astype(str))
    return patient.where(patient != "", "no patient: " + source).to_numpy(dtype=str)


def assign_splits(
    ps: PatchSet,
    *,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    honour: bool = True,
) -> PatchSet:
    """Give every row a side, ``train``, ``val`` or ``test``, with no patient on two of them.

    Args:
        ps: the set; an existing ``split`` column is honoured unless `honour` is False.
        fractions: shares of train, val and test, summing to 1; val or test may be 0.
        seed: the same seed and set give the same split.
        honour: keep every side that is given: what is marked test stays test and nothing joins it but its own
            patients; a missing side is drawn, by patient, out of train (and out of rows without a side).

    Returns:
        A view of `ps` with the ``split`` column filled; ``card.recipe["split"]`` says how it was made and
        ``card.warnings`` what to be careful about.

    Raises:
        MedcoreError: when there are fewer patients than sides, or `fractions` make no sense.
    """

    def draw(rows: np.ndarray, groups: np.ndarray, parts: np.ndarray) -> np.ndarray:
        return split_groups(strata(ps)[rows], groups[rows], fractions=parts, seed=seed)

    return _with_sides(ps, draw, _checked_fractions(fractions), seed, honour)


def split_cases(
    ps: PatchSet, *, fractions: Sequence[float] = (0.6, 0.15, 0.25), seed: int = 0, stratify: str = "grade"
) -> PatchSet:
    """As :func:`assign_splits`, for few large images: shares are counted in patients, not in images.

    Args:
        ps: the set; sides that are given are kept.
        fractions: shares of train, val and test, summing to 1.
        seed: the same seed and set give the same split.
        stratify: column whose values are spread evenly (a patient has its commonest one); unused when it is not there.

    Raises:
        MedcoreError: when there are fewer patients than sides.
    """
    import pandas as pd

    values = ps.column(stratify).astype(str) if stratify in ps.columns else np.full(len(ps), "")

    def draw(rows: np.ndarray, groups: np.ndarray, parts: np.ndarray) -> np.ndarray:
        commonest = pd.Series(values[rows]).groupby(groups[rows]).agg(lambda part: part.mode()[0])
        names = commonest.index.to_numpy(dtype=str)
        kinds = np.unique(commonest.to_numpy(dtype=str), return_inverse=True)[1]
        side_of = dict(zip(names, split_groups(kinds, names, fractions=parts, seed=seed), strict=True))
        return np.array([side_of[name] for name in groups[rows]], dtype=object)

    return _with_sides(ps, draw, _checked_fractions(fractions), seed, honour=True)


def check_enough(ps: PatchSet, sides: Sequence[str] = SPLITS) -> list[str]:
    """Whether a classifier can be trained, chosen and judged on this split; it takes milliseconds.

    Args:
        ps: a set with a split (:func:`assign_splits`).
        sides: the sides that are going to be used.

    Returns:
        Sentences on classes that some side lacks, so that nothing can be estimated for them there.

    Raises:
        MedcoreError: when a side holds fewer than two classes, or a class has no training image.
    """
    groups, unit = group_names(ps), unit_of(ps)
    counts = {
        side: [len(set(groups[(ps.splits == side) & (ps.labels == k)])) for k in range(len(ps.classes))]
        for side in sides
    }
    used = [k for k in range(len(ps.classes)) if (ps.labels == k).any()]
    where = {k: ", ".join(f"{counts[side][k]} in {side}" for side in sides) for k in used}
    untrained = [k for k in used if "train" in sides and not counts["train"][k]]
    poor = [side for side in sides if sum(counts[side][k] > 0 for k in used) < 2]
    if untrained or poor:
        rare = untrained or [k for k in used if not all(counts[side][k] for side in sides)]
        fault = f"no {unit} of {_named(ps, untrained)} is in train" if untrained else (
            f"{_listed(poor)} hold{'s' * (len(poor) == 1)} fewer than two classes")  # fmt: skip
        raise MedcoreError(
            f"set {ps.card.name!r}: {fault} ({'; '.join(f'{ps.classes[k]}: {where[k]} {unit}s' for k in rare[:5])}). "
            f"A class needs at least {len(sides)} {unit}s, one for each side: add some, "
            "join the class with another, or leave it out"
        )
    lacking = [k for k in used if not all(counts[side][k] for side in sides)]
    return [f"Class {ps.classes[k]} has {where[k]} {unit}s: nothing can be estimated where it has none."
            for k in lacking]  # fmt: skip


def _named(ps: PatchSet, numbers: Sequence[int]) -> str:
    return _listed([ps.classes[k] for k in numbers[:5]]) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _with_sides(ps: PatchSet, draw: Draw, shares: tuple[float, float, float], seed: int, honour: bool) -> PatchSet:
    """The set with its sides, the recipe of the split, and what to be careful about."""
    groups = group_names(ps)
    given = ps.splits.astype(object)
    present = set(given) - {""}
    if honour and present and ("train" in present or (given == "").any()):
        sides, how, notes = _complete(given, groups, shares, draw)
    else:
        sides = draw(np.arange(len(ps)), groups, np.array(shares))
        how, notes = "stratified by class, drawn by group", []
        if honour and present:
            notes.append(f"The given split has only {_listed(present)} and no train part: it was drawn anew.")
    notes += _cautions(ps, sides, groups)
    recipe = {"how": how, "fractions": list(shares), "seed": seed, "unit": unit_of(ps)}
    recipe["groups"] = {side: len(set(groups[sides == side])) for side in SPLITS}
    card = replace(
        ps.card,
        recipe={**ps.card.recipe, "split": recipe},
        warnings=[*ps.card.warnings, *(note for note in notes if note not in ps.card.warnings)],
    )
    return ps.with_split(sides.astype(str)).with_card(card)


def unit_of(ps: PatchSet) -> str:
    """What a group of this set is: ``patient``, ``lesion`` or ``image``."""
    return ps.card.group if ps.card.patients_known else "image"


def split_groups(
    labels: np.ndarray, groups: np.ndarray, *, fractions: Sequence[float] | np.ndarray = (0.6, 0.2, 0.2), seed: int = 0
) -> np.ndarray:
    """Draw train, val and test so that a group stays on one side and the classes are spread evenly.

    Args:
        labels: (N,) class numbers (-1 = unlabelled, treated as a class of its own).
        groups: (N,) names of what must stay together.
        fractions: shares of train, val, test.

    Returns:
        (N,) array of ``"train" | "val" | "test"``.

    Raises:
        MedcoreError: when there are fewer groups than sides.
    """
    train, val, test = _checked_fractions(fractions)
    labels, groups = np.asarray(labels), np.asarray(groups)
    sides = np.full(len(labels), "train", dtype=object)
    wanted = 1 + (val > 0) + (test > 0)
    found = len(np.unique(groups))
    if found < wanted:
        raise MedcoreError(
            f"splits: {wanted} sides with fractions {(train, val, test)} need at least {wanted} patients, but "
            f"the set has {found}. Add patients, set a fraction to 0, or correct the 'patient' column."
        )
    if test > 0:
        sides[_held_out(labels, groups, test, seed, spare=1 + (val > 0))] = "test"
    if val > 0:
        rest = np.flatnonzero(sides == "train")
        sides[rest[_held_out(labels[rest], groups[rest], val / (train + val), seed + 1, spare=1)]] = "val"
    return _train_first(sides, labels, groups)


def _train_first(sides: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Move a group of every class that training lacks to train, from val before test, never the last of a side."""
    for label in sorted(set(labels.tolist()) - {-1}):
        if (sides[labels == label] == "train").any():
            continue
        for side in ("val", "test"):
            names = np.unique(groups[(labels == label) & (sides == side)])
            if len(names) and len(np.unique(groups[sides == side])) > 1:
                size = [int((groups == name).sum()) for name in names]
                sides[groups == names[int(np.argmin(size))]] = "train"
                break
    return sides


def patient_folds(ps: PatchSet, k: int = 5, *, seed: int = 0) -> list[Fold]:
    """Cut a set into `k` folds; each patient is in the validation part of exactly one.

    Give it a view without the test rows (``ps.where(split=["train", "val"])``) when the folds choose anything.

    Args:
        ps: the (view of a) set.
        k: number of folds, 2 or more.

    Returns:
        `k` folds with positions into `ps`.

    Raises:
        MedcoreError: when there are fewer patients than folds.
    """
    groups = group_names(ps)
    found = len(np.unique(groups))
    if not 2 <= k <= found:
        raise MedcoreError(
            f"patient_folds: k = {k}, but it must lie between 2 and the number of {unit_of(ps)}s, {found}."
        )
    numbers = _fold_numbers(strata(ps), groups, k, seed)
    return [Fold(np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)) for fold in range(k)]


def split_table(ps: PatchSet) -> pd.DataFrame:
    """Count images, patients and images per class on each side.

    Returns:
        One row per side that has images (train, val, test, then "unassigned") and a row "all"; columns
        ``images``, the unit in the plural (``patients`` …) and one per class.
    """
    import pandas as pd

    frame = pd.DataFrame({"side": ps.splits, "group": group_names(ps)})
    frame["side"] = frame["side"].replace("", "unassigned")
    rows = [side for side in (*SPLITS, "unassigned") if (frame["side"] == side).any()]
    counts = {}
    for side in [*rows, "all"]:
        part = frame if side == "all" else frame[frame["side"] == side]
        per_class = ps.shown[part.index].sum(axis=0).tolist()
        counts[side] = [len(part), part["group"].nunique(), *per_class]
    columns = ["images", f"{unit_of(ps)}s" if unit_of(ps) != "image" else "source images", *ps.classes]
    return pd.DataFrame.from_dict(counts, orient="index", columns=columns).rename_axis("split")


def _complete(
    given: np.ndarray, groups: np.ndarray, shares: tuple[float, float, float], draw: Draw
) -> tuple[np.ndarray, str, list[str]]:
    """Keep a given split and make what it lacks out of its train part."""
    sides, notes = _fill_blanks(given, groups)
    train, val, test = shares
    missing = [side for side, share in (("val", val), ("test", test)) if share > 0 and side not in set(sides)]
    if not missing:
        return sides, "as given", notes
    rows = np.flatnonzero(sides == "train")
    # A group that the given split already shares with another side cannot become a clean val or test.
    free = rows[~np.isin(groups[rows], groups[sides != "train"])]
    parts = np.array([train, val if "val" in missing else 0.0, test if "test" in missing else 0.0])
    sides[free] = draw(free, groups, parts / parts.sum())
    kept = sorted(set(given) - {""}, key=SPLITS.index)
    return sides, f"{_listed(kept)} as given; {_listed(missing)} taken from train by group", notes


def _fill_blanks(given: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Rows without a side go where the rest of their group is, else to train."""
    unknown = set(given) - {"", *SPLITS}
    if unknown:
        raise MedcoreError(f"splits: unknown side {_listed(unknown)} in the 'split' column; use {SPLITS}.")
    blank = given == ""
    if not blank.any():
        return given.copy(), []
    side_of = dict(zip(groups[~blank], given[~blank], strict=True))
    sides = given.copy()
    sides[blank] = [side_of.get(group, "train") for group in groups[blank]]
    return sides, [f"{int(blank.sum())} rows had no side: they follow their group, or train."]


def _held_out(labels: np.ndarray, groups: np.ndarray, share: float, seed: int, *, spare: int) -> np.ndarray:
    """Positions of about `share` of the rows, whole groups, leaving at least `spare` groups behind."""
    found = len(np.unique(groups))
    ratio = Fraction(share).limit_denominator(max(2, min(10, found)))
    folds = ratio.denominator if 0 < ratio < 1 else min(10, found)
    take = min(max(1, ratio.numerator), folds - 1, found - spare)
    draws = 20 if found <= MANY_GROUPS else 1
    best: tuple[float, np.ndarray] | None = None
    for draw in range(draws):
        rows = np.flatnonzero(_fold_numbers(labels, groups, folds, seed * 1009 + draw) < take)
        if not 0 < len(rows) < len(labels):
            continue
        cost = _imbalance(labels, rows, share)
        if best is None or cost < best[0]:
            best = (cost, rows)
    if best is None:
        raise MedcoreError(f"splits: {found} patients cannot give a part of {share:.0%}; use other fractions.")
    return best[1]


def _imbalance(labels: np.ndarray, rows: np.ndarray, share: float) -> float:
    """How far the held-out part is from `share` in every class; a class that a side lacks costs most."""
    names, number = np.unique(labels, return_inverse=True)
    total = np.bincount(number, minlength=len(names))
    inside = np.bincount(number[rows], minlength=len(names))
    left_out = (inside == 0).sum() + 10 * (inside == total).sum()  # what is held out whole cannot be learnt
    return float(np.abs(inside / total - share).mean() + left_out)


def _fold_numbers(labels: np.ndarray, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The fold (0 … k−1) of every row, groups kept whole."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    names, number = np.unique(groups, return_inverse=True)
    if len(names) == len(labels):  # every group is one row: the plain splitter is equal and much faster
        splitter, extra = StratifiedKFold(k, shuffle=True, random_state=seed % 2**32), None
    else:
        splitter, extra = StratifiedGroupKFold(k, shuffle=True, random_state=seed % 2**32), number
    folds = np.empty(len(labels), dtype=int)
    with warnings.catch_warnings():  # scikit-learn warns of rare classes; _cautions says it with names
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, rows) in enumerate(splitter.split(number, _common_classes(labels, k), extra)):
            folds[rows] = fold
    return folds


def _common_classes(labels: np.ndarray, k: int) -> np.ndarray:
    """Labels for stratifying: when every class is rarer than `k`, scikit-learn refuses, so drop the strata."""
    _, counts = np.unique(labels, return_counts=True)
    return labels if counts.max() >= k else np.zeros(len(labels), dtype=int)


def _cautions(ps: PatchSet, sides: np.ndarray, groups: np.ndarray) -> list[str]:
    """What a reader must know about this split."""
    notes, unit = list[str](), unit_of(ps)
    if not ps.card.patients_known and not any("NO PATIENT INFORMATION" in text for text in ps.card.warnings):
        notes.append("No patients are known: each source image was treated as one, so results may flatter.")
    torn = sum(count > 1 for count in Counter(group for group, _ in set(zip(groups, sides, strict=True))).values())
    if torn:
        notes.append(f"The given split has {torn} {unit}s on more than one side; `medcore audit --fix` corrects it.")
    for side in SPLITS:
        on_side = sides == side
        count = len(set(groups[on_side]))
        if 0 < count < FEW_PATIENTS:
            notes.append(f"Only {count} {unit}{'s' * (count > 1)} in {side}: expect wide intervals.")
        lacking = [ps.classes[n] for n in sorted(set(ps.labels) - {-1}) if not (ps.labels[on_side] == n).any()]
        if count and lacking:
            notes.append(f"No image of {_listed(lacking)} in {side}.")
    return notes


def _checked_fractions(fractions: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Three shares that sum to 1, or an error that says so."""
    shares = tuple(float(share) for share in fractions)
    if len(shares) != 3 or min(shares) < 0 or shares[0] == 0 or abs(sum(shares) - 1) > 1e-6:
        raise MedcoreError(
            f"splits: fractions = {shares}, but they must be three shares (train, val, test) that sum to 1, "
            "with some train, such as (0.6, 0.2, 0.2)."
        )
    return shares[0], shares[1], shares[2]


def _listed(names: Iterable[str]) -> str:
    """Names for a sentence, in a stable order."""
    return ", ".join(names if isinstance(names, list) else sorted(names))
