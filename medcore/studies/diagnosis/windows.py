"""Which windows speak for a patient?

QuironHelico keeps three kinds: ``HoldOut`` (all windows of patients set aside), ``Cropped`` (all windows along the
border of a sample) and ``Annotated`` (a few, looked at by a pathologist). HoldOut patients are judged by all their
windows, so the others should be, too: by ``Cropped`` where healthy *and* infected patients have it, else by
``Annotated``. Annotated windows lend their annotation in any case.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from medcore.data.datasets import HELICO_DENSITIES
from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize_maps
from medcore.errors import MedcoreError
from medcore.studies.diagnosis.choices import DEFAULT, DiagnosisChoices


def diagnosis_windows(patches: PatchSet, choices: DiagnosisChoices = DEFAULT) -> PatchSet:
    """The windows that a diagnosis needs, with a column ``counted`` for those that make the patient's score.

    Returns:
        A view without windows that are neither counted nor annotated. A set without a ``set`` column is taken whole.

    Raises:
        MedcoreError: No window is left.
    """
    counted = _counted(patches, choices)
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


def speaking_set(patches: PatchSet, choices: DiagnosisChoices = DEFAULT) -> str:
    """The kind of window that speaks for patients who are not HoldOut: ``Cropped``, ``Annotated`` or ``all``."""
    if "set" not in patches.columns:
        return "all"
    cropped = patches.where(set="Cropped")
    well = cropped.column("diagnosis") == HELICO_DENSITIES[0]
    kinds = [len(np.unique(cropped.patients[kind])) for kind in (well, ~well)]
    return "Cropped" if min(kinds) >= choices.fewest_cropped else "Annotated"


def _counted(patches: PatchSet, choices: DiagnosisChoices) -> np.ndarray:
    chosen = speaking_set(patches, choices)
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


def smaller(patches: PatchSet, side: int) -> PatchSet:
    """The same windows at ``side`` pixels, in memory, antialiased: what an autoencoder learns in minutes.

    Windows that are no larger are returned as they are.
    """
    if not len(patches) or max(patches.shape[:2]) <= side:
        return patches
    parts = []
    for images in patches.chunks(256):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        reduced = resize_maps(pixels, (side, side), antialias=True)
        parts.append(reduced.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return PatchSet.from_arrays(np.concatenate(parts), patches.table, patches.card)


def spread_over_patients(rows: np.ndarray, patients: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` rows, one of each patient before a second of any. **Shape** ``(n,)``, ``(n,)``."""
    first = np.sort(np.unique(patients, return_index=True)[1])
    return rows[np.r_[first, np.setdiff1d(np.arange(len(rows)), first)]][:count]
