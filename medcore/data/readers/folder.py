"""One folder per class: ``CLASS/FILE``, ``SPLIT/CLASS/FILE``, at any depth below the class folder."""

from __future__ import annotations

import re
from pathlib import Path

from medcore.data.card import Card
from medcore.data.images import probe
from medcore.data.readers.listing import (
    NO_PATIENTS,
    ImageRow,
    Listing,
    Problems,
    image_files,
    listed,
    split_name,
    subfolders,
)
from medcore.errors import MedcoreError


def read_folder(
    root: Path, problems: Problems, *, patient_pattern: str | None = None, classes: list[str] | None = None
) -> Listing:
    r"""List the images of a folder with one subfolder a class, or with ``train``, ``val``, ``test`` above them.

    Args:
        root: The folder.
        problems: Collects exclusions and warnings.
        patient_pattern: Regular expression with one group that finds the patient in the relative path of a file, as
            in ``r"(P\d+)_"``; None when the paths say nothing. DICOM files bring their own patient.
        classes: Class names in the order of their indexes; None for the sorted folder names.

    Raises:
        MedcoreError: No class folders, an empty or unknown one, or a path without patient.
    """
    sides = [(folder, split_name(folder.name)) for folder in subfolders(root)]
    if sides and all(split for _, split in sides):
        pairs = [(folder, split or "") for side, split in sides for folder in subfolders(side)]
    else:
        pairs = [(folder, "") for folder, _ in sides]
    names = _class_names(root, [folder.name for folder, _ in pairs], classes)
    items = []
    for folder, split in pairs:
        files = image_files(folder, problems)
        if not files:
            problems.warn(f"class folder '{folder.relative_to(root)}' holds no image")
            if problems.on_error == "raise":
                raise MedcoreError(
                    f"class folder '{folder}' holds no image; fill it, remove it, or pass on_error='skip'"
                )
        label = names.index(folder.name)
        items += [_item(file, root, label, split) for file in files]
    if not items:
        raise MedcoreError(f"no class folder below '{root}' holds an image that can be read")
    known = _fill_patients(items, patient_pattern, problems)
    card = Card(
        name=root.name or "folder",
        title=f"Images of the folder {root.name}, one class a subfolder",
        classes=names,
        group="patient" if known else "image",
        patients_known=known,
        recipe={"reader": "folder", "patient_pattern": patient_pattern},
    )
    return Listing(root, card, items, problems=problems)


def _class_names(root: Path, found: list[str], wanted: list[str] | None) -> list[str]:
    if not found:
        raise MedcoreError(
            f"'{root}' has no class folders; put the images into one folder a class, or write a metadata.csv with the "
            "columns image,label"
        )
    names = list(wanted) if wanted else sorted(set(found))
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise MedcoreError(f"'{root}': folders {listed(unknown)} are not among the classes {', '.join(names)}")
    return names


def _item(file: Path, root: Path, label: int, split: str) -> ImageRow:
    source = file.relative_to(root).as_posix()
    return ImageRow(file, {"label": label, "patient": source, "split": split, "source": source, "image": file.name})


def _fill_patients(items: list[ImageRow], pattern: str | None, problems: Problems) -> bool:
    """Set the patient column from the pattern or from DICOM headers; False when no patient is known."""
    if pattern is not None:
        regex = _compiled(pattern)
        for item in items:
            match = regex.search(item.columns["source"])
            if match is None:
                raise MedcoreError(f"patient_pattern {pattern!r} finds no patient in '{item.columns['source']}'")
            item.columns["patient"] = match.group(1)
        return True
    if fill_dicom_patients(items, problems):
        return True
    problems.warn(NO_PATIENTS)
    return False


def fill_dicom_patients(items: list[ImageRow], problems: Problems) -> bool:
    """Set the patients of DICOM files; False when the files are not all DICOM or do not all name a patient.

    Patients are numbered in the order of their identifiers, so that no identifier leaves the files.
    """
    if not all(item.file.suffix.lower() in (".dcm", ".dicom") for item in items):
        return False
    identifiers = []
    for item in items:
        try:
            identifiers.append(probe(item.file).patient)
        except MedcoreError:
            identifiers.append("unreadable")  # reported when its pixels are read
    if not all(identifiers):
        problems.warn(f"{identifiers.count('')} of {len(items)} DICOM files name no patient")
        return False
    order = {name: number for number, name in enumerate(sorted(set(identifiers)), 1)}
    for item, identifier in zip(items, identifiers, strict=True):
        item.columns["patient"] = f"patient-{order[identifier]:04d}"
    return True


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise MedcoreError(f"patient_pattern {pattern!r} is not a regular expression ({error})") from error
    if regex.groups != 1:
        raise MedcoreError(f"patient_pattern {pattern!r} needs exactly one group in parentheses, as in '(P[0-9]+)_'")
    return regex
