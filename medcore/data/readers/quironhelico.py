"""QuironHelico: immunohistochemistry windows per patient, with annotated windows and a diagnosis per patient.

- ``set`` column: ``Cropped``, ``Annotated`` (both below ``CrossValidation``) or ``HoldOut``. HoldOut is split
  ``test``; the rest has no split, because it is for cross-validation.
- Label: the ``Presence`` of the window in any annotation table (1 positive, -1 negative). Windows in no table, and
  augmented copies (``_AugN``), stay unlabelled. Ambiguous windows (0, or contradictory rows) are excluded, counted.
- ``diagnosis`` column: ``DENSITAT`` of the patient, NEGATIVA, BAIXA or ALTA.
- ``copy_of`` column: the source of the window that this one copies (an ``_AugN`` name, or the same window listed under
  another patient, or a file with the same bytes); empty for originals.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from medcore.data.info import HELICO_DENSITIES
from medcore.data.info import card as facts_of
from medcore.data.readers.helico_tables import Annotation, read_annotations, read_diagnoses
from medcore.data.readers.listing import Item, Listing, Problems, image_files, listed, subfolders
from medcore.errors import MedcoreError

_SETS = {"Cropped": "CrossValidation/Cropped", "Annotated": "CrossValidation/Annotated", "HoldOut": "HoldOut"}
_WINDOW = re.compile(r"^0*(\d+)(?:_Aug(\d+))?$")
_DIAGNOSIS = "PatientDiagnosis.csv"
Key = tuple[str, int, int]  # patient, section, window


def is_quironhelico(root: Path) -> bool:
    """Whether a folder has the diagnosis table and at least one of the three sets."""
    return (root / _DIAGNOSIS).is_file() and any((root / part).is_dir() for part in _SETS.values())


def read_quironhelico(root: Path, problems: Problems) -> Listing:
    """List all windows with their patient, section, annotation and diagnosis.

    Args:
        root: The folder of the published layout.
        problems: Collects exclusions and warnings.

    Raises:
        MedcoreError: A folder or window whose name cannot be read, a patient without a diagnosis row, contradictory
            diagnoses, or a bad annotation table.
    """
    facts = facts_of("quironhelico")
    diagnoses = read_diagnoses(root / _DIAGNOSIS)
    tables, annotations = read_annotations(root)
    items = [item for name in _SETS for item in _windows(root, name, problems)]
    if not items:
        raise MedcoreError(f"'{root}' holds no window; expected\n{facts.layout}")
    items = _diagnose(items, diagnoses, problems)
    items = _annotate(items, annotations, problems)
    _mark_copies(items, annotations, problems)
    _warn_about_patients(items, diagnoses, problems)
    if not tables:
        problems.warn(
            "no annotation table was found (.xlsx or .csv with Pat_ID, Window_ID, Presence): no window is labelled"
        )
    recipe = {"reader": "quironhelico", "annotation_tables": [path.name for path in tables]}
    card = facts.as_card(name=root.resolve().name, recipe=recipe)
    return Listing(root, card, items, problems=problems, also=[root / _DIAGNOSIS, *tables])


def _windows(root: Path, set_name: str, problems: Problems) -> list[Item]:
    """The windows of one set, from ``<Pat_ID>_<Section_ID>/<Window_ID>[_AugN]``."""
    folder = root / _SETS[set_name]
    items = []
    for sample in subfolders(folder) if folder.is_dir() else []:
        patient, _, section = sample.name.rpartition("_")
        if not patient or not section.isdigit():
            problems.bad(f"folder '{sample}' is not named <Pat_ID>_<Section_ID>; rename it", file=sample.name)
            continue
        for file in image_files(sample, problems):
            match = _WINDOW.match(file.stem)
            source = file.relative_to(root).as_posix()
            if match is None:
                problems.bad(f"window '{source}' is not named <number> or <number>_Aug<number>; rename it", file=source)
                continue
            columns: dict[str, Any] = {
                "label": -1, "patient": patient, "split": "test" if set_name == "HoldOut" else "", "source": source,
                "image": file.stem, "set": set_name, "section": int(section), "window": int(match[1]),
                "augmented": int(match[2] or 0), "copy_of": "",
            }  # fmt: skip
            items.append(Item(file, columns))
    return items


def _diagnose(items: list[Item], diagnoses: dict[str, str], problems: Problems) -> list[Item]:
    kept = []
    for item in items:
        patient = item.columns["patient"]
        if patient in diagnoses:
            item.columns["diagnosis"] = diagnoses[patient]
            kept.append(item)
        else:
            problems.bad(
                f"window '{item.columns['source']}': patient {patient!r} has no row in {_DIAGNOSIS}; add it",
                file=item.columns["source"],
            )
    return kept


def _annotate(items: list[Item], annotations: dict[Key, Annotation], problems: Problems) -> list[Item]:
    """Labels from the tables; ambiguous windows leave the set, listed."""
    kept, ambiguous, contradictory = [], 0, 0
    for item in items:
        entry = (
            annotations.get(_key(item)) if item.columns["set"] != "Cropped" and not item.columns["augmented"] else None
        )
        if entry is None:
            kept.append(item)
            continue
        if entry.presence == 0:
            ambiguous += 1
            contradictory += entry.contradictory
            reason = "contradictory annotations" if entry.contradictory else "ambiguous annotation (Presence 0)"
            problems.exclude(f"{reason} in {entry.place}", file=item.columns["source"])
            continue
        item.columns["label"] = 1 if entry.presence > 0 else 0
        kept.append(item)
    if ambiguous:
        problems.warn(
            f"{ambiguous} windows with ambiguous annotation (Presence 0) are excluded"
            + (f"; {contradictory} of them because their rows contradict each other" if contradictory else "")
        )
    return kept


def _key(item: Item) -> Key:
    return item.columns["patient"], item.columns["section"], item.columns["window"]


def _mark_copies(items: list[Item], annotations: dict[Key, Annotation], problems: Problems) -> None:
    """Fill ``copy_of`` for augmented copies and for one window under two patients; warn about both."""
    _mark_augmented(items, problems)
    _mark_shared_places(items, annotations, problems)
    _mark_equal_files(items, problems)


def _mark_augmented(items: list[Item], problems: Problems) -> None:
    originals = {(item.columns["set"], *_key(item)): item.columns["source"] for item in items
                 if not item.columns["augmented"]}  # fmt: skip
    copies = [item for item in items if item.columns["augmented"]]
    for item in copies:
        patient, section, window = _key(item)
        absent = f"{item.columns['set']}/{patient}_{section}/{window:05d} (not here)"
        item.columns["copy_of"] = originals.get((item.columns["set"], *_key(item)), absent)
    if copies:
        count = len({item.columns["copy_of"] for item in copies})
        problems.warn(f"{len(copies)} windows are augmented copies (_AugN) of {count} others; unlabelled, with copy_of")


def _mark_shared_places(items: list[Item], annotations: dict[Key, Annotation], problems: Problems) -> None:
    """Windows that the tables list under two patients with the same number at the same place of the slide."""
    places: dict[tuple[int, tuple[int, int]], list[Key]] = defaultdict(list)
    for key, entry in annotations.items():
        if entry.position:
            places[(key[2], entry.position)].append(key)
    shared = [sorted(keys) for keys in places.values() if len({key[0] for key in keys}) > 1]
    if not shared:
        return
    here = {_key(item): item for item in items if item.columns["set"] != "Cropped" and not item.columns["augmented"]}
    doubled = 0
    for keys in shared:
        present = [here[key] for key in keys if key in here]
        for item in present[1:]:
            item.columns["copy_of"] = present[0].columns["source"]
        doubled += len(present) > 1
    pairs = sorted({" = ".join(sorted({key[0] for key in keys})) for keys in shared})
    problems.warn(
        f"the annotation tables list {len(shared)} windows under two patients with the same number and place on the "
        f"slide ({listed(pairs)}): these may be one patient. Of {doubled} of them both images are here; the later ones "
        "carry copy_of"
    )


def _mark_equal_files(items: list[Item], problems: Problems) -> None:
    """Files with equal bytes; only files of equal size are read."""
    sizes: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        sizes[item.file.stat().st_size].append(item)
    equal, across = 0, set()
    for candidates in sizes.values():
        first: dict[str, Item] = {}
        for item in candidates if len(candidates) > 1 else []:
            original = first.setdefault(hashlib.sha256(item.file.read_bytes()).hexdigest(), item)
            if original is not item:
                equal += 1
                item.columns["copy_of"] = item.columns["copy_of"] or original.columns["source"]
                if original.columns["patient"] != item.columns["patient"]:
                    across.add(f"{original.columns['patient']} = {item.columns['patient']}")
    if equal:
        under = f", also under two patients ({listed(sorted(across))})" if across else ""
        problems.warn(f"{equal} windows are files with the same bytes as an earlier one{under}; they carry copy_of")


def _warn_about_patients(items: list[Item], diagnoses: dict[str, str], problems: Problems) -> None:
    present = {item.columns["patient"] for item in items}
    absent = sorted(set(diagnoses) - present)
    if absent:
        problems.warn(
            f"{len(absent)} of {len(diagnoses)} patients of {_DIAGNOSIS} have no window here ({listed(absent)})"
        )
    sets = {item.columns["set"] for item in items}
    if "HoldOut" not in sets:
        problems.warn("there is no HoldOut part: no patient is set aside for a final test")
    positive = sorted({item.columns["patient"] for item in items
                       if item.columns["label"] == 1 and item.columns["diagnosis"] == HELICO_DENSITIES[0]})  # fmt: skip
    if positive:
        problems.warn(f"patients diagnosed NEGATIVA have positive windows ({listed(positive)}): contradictory labels")
    both = {item.columns["patient"] for item in items if item.columns["set"] == "HoldOut"} & {
        item.columns["patient"] for item in items if item.columns["set"] != "HoldOut"
    }
    if both:
        problems.warn(f"patients of HoldOut also have cross-validation windows ({listed(sorted(both))})")
