"""Which windows speak for a patient?

QuironHelico keeps three kinds: ``HoldOut`` (all windows of patients set aside), ``Cropped`` (all windows along the
border of a sample) and ``Annotated`` (a few, looked at by a pathologist). HoldOut patients are judged by all their
windows, so the others should be, too: by ``Cropped`` where healthy *and* infected patients have it, else by
``Annotated``. Annotated windows lend their annotation in any case.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medcore.data.info import HELICO_DENSITIES
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError

FEWEST_PATIENTS = 10  # of each kind that must have Cropped windows before these speak for patients


def diagnosis_windows(patches: PatchSet) -> PatchSet:
    """The windows that a diagnosis needs, with a column ``counted`` for those that make the patient's score.

    Args:
        patches: Windows with columns ``diagnosis`` and, where the set has several kinds, ``set``.

    Returns:
        A view without windows that are neither counted nor annotated. A set without a ``set`` column is taken whole.

    Raises:
        MedcoreError: No window is left.
    """
    counted = _counted(patches)
    view = patches.with_columns(counted=counted).select(counted | (patches.labels >= 0))
    speaking = np.unique(view.patients[view.column("counted")])
    view = view.select(np.isin(view.patients, speaking))
    if not len(view):
        raise MedcoreError(
            f"set {patches.card.name!r}: no window of 'Annotated' or 'HoldOut' is there, so no patient can be diagnosed"
        )
    return view


def bystanders(patches: PatchSet, diagnosed: PatchSet) -> PatchSet:
    """Windows of healthy patients who are not diagnosed: an autoencoder may learn from them in every fold.

    Args:
        patches: The whole set.
        diagnosed: What ``diagnosis_windows`` took of it.

    Returns:
        A view, perhaps empty, without HoldOut, without positive windows, and without patients who share a window
        (``copy_of``) with a diagnosed one.
    """
    strange = ~np.isin(patches.patients, np.unique(diagnosed.patients))
    if "copy_of" in patches.columns:
        copies, sources = patches.column("copy_of"), patches.column("source")
        shared = np.isin(copies, diagnosed.column("source")) | np.isin(sources, diagnosed.column("copy_of"))
        strange &= ~np.isin(patches.patients, np.unique(patches.patients[strange & shared]))
    well = patches.column("diagnosis") == HELICO_DENSITIES[0]
    return patches.select(strange & well & (patches.splits != "test") & (patches.labels != 1))


def window_inventory(patches: PatchSet) -> pd.DataFrame:
    """Windows, patients and annotations of every kind of window and diagnosis."""
    keys = [name for name in ("set", "diagnosis") if name in patches.columns]
    frame = patches.table.assign(annotated=patches.labels >= 0, positive=patches.labels == 1)
    columns = {"patients": ("patient", "nunique"), "windows": ("label", "size")}
    columns |= {"annotated": ("annotated", "sum"), "positive": ("positive", "sum")}
    if not keys:
        frame, keys = frame.assign(set="all"), ["set"]
    return frame.groupby(keys).agg(**columns)  # type: ignore[call-overload]


def speaking_set(patches: PatchSet) -> str:
    """The kind of window that speaks for patients who are not HoldOut: ``Cropped``, ``Annotated`` or ``all``."""
    if "set" not in patches.columns:
        return "all"
    cropped = patches.where(set="Cropped")
    well = cropped.column("diagnosis") == HELICO_DENSITIES[0]
    kinds = [len(np.unique(cropped.patients[kind])) for kind in (well, ~well)]
    return "Cropped" if min(kinds) >= FEWEST_PATIENTS else "Annotated"


def _counted(patches: PatchSet) -> np.ndarray:
    chosen = speaking_set(patches)
    if chosen == "all":
        return np.ones(len(patches), dtype=bool)
    kind = patches.column("set")
    counted = (kind == chosen) | (kind == "HoldOut")
    if chosen == "Cropped":  # a patient without Cropped windows speaks by the annotated ones
        counted |= (kind == "Annotated") & ~np.isin(patches.patients, patches.patients[counted])
    return counted


def limit_patients(patches: PatchSet, most: int | None, *, seed: int = 0) -> PatchSet:
    """At most ``most`` patients of every diagnosis, apart for HoldOut and the others; None takes all.

    Every group has its own draw, so that nothing about HoldOut patients decides which others are taken.

    **Shape**: a view of the set with all windows of the drawn patients.
    """
    if most is None:
        return patches
    frame = patches.table[["patient", "diagnosis", "split"]].drop_duplicates("patient")
    drawn: list[str] = []
    for _, part in frame.groupby(["diagnosis", frame["split"] == "test"], sort=True):
        group = f"{part['diagnosis'].iloc[0]}, HoldOut: {part['split'].iloc[0] == 'test'}"
        generator = np.random.default_rng([seed, *group.encode()])
        drawn += generator.permutation(np.sort(part["patient"].to_numpy(dtype=str)))[:most].tolist()
    return patches.select(np.isin(patches.patients, drawn))
