"""``Grade.csv``-like tables: image name to patient and grade, whatever the spelling of the columns.

Images with masks: ``train|val|test/{images,mask}``, ``{images,masks}``, or GlaS' ``train_1.bmp, train_1_anno.bmp``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcore.data.card import Card
from medcore.data.datasets import GLAND_CLASSES, GLAND_GRADES
from medcore.data.datasets import card as facts_of
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
from medcore.data.readers.masks import MaskRule, rule_from_options
from medcore.data.readers.tables import read_table
from medcore.errors import MedcoreError


@dataclass(frozen=True)
class Grade:
    """What the table says about one image: patient (may be empty), grade in lower case, further columns."""

    patient: str
    grade: str
    further: dict[str, str] = field(default_factory=dict)


def grade_file(root: Path) -> Path | None:
    """``Grade.csv`` or ``grades.csv`` beside the images, in any spelling."""
    names = sorted(root.glob("*.csv"))
    return next((path for path in names if path.stem.lower() in ("grade", "grades")), None)


def read_grades(path: Path) -> dict[str, Grade]:
    """Patient and grade by image name.

    Args:
        path: A CSV with a column for the name of the image (``name``), and optionally columns whose names hold
            ``patient`` and ``grade``; the first ``grade`` column counts, others are kept under their names.

    Raises:
        MedcoreError: No name column, or one image with two different rows.
    """
    table = read_table(path)
    keys = [_plain(name) for name in table.header]
    name_at = next((k for k, key in enumerate(keys) if key in ("name", "image", "file", "image_name")), None)
    if name_at is None:
        raise MedcoreError(f"{path}: there is no column 'name'; it has {', '.join(table.header)}")
    patient_at = next((k for k, key in enumerate(keys) if "patient" in key), None)
    grade_at = next((k for k, key in enumerate(keys) if "grade" in key), None)
    grades: dict[str, Grade] = {}
    for index, row in enumerate(table.rows):
        used = (name_at, patient_at, grade_at)
        further = {keys[k]: value for k, value in enumerate(row) if k not in used}
        entry = Grade(row[patient_at] if patient_at is not None else "",
                      row[grade_at].lower() if grade_at is not None else "", further)  # fmt: skip
        stem = (
            Path(row[name_at]).stem if Path(row[name_at]).suffix.lower() in (".bmp", ".png", ".jpg") else row[name_at]
        )
        if grades.get(stem, entry) != entry:
            raise MedcoreError(
                f"{table.place(index)}: '{stem}' stands twice with different values; correct one of them"
            )
        grades[stem] = entry
    return grades


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


_MASK_FOLDERS = ("mask", "masks", "labels", "annotations")
_IMAGE_FOLDERS = ("images", "image", "imgs")
_MASK_SUFFIX = re.compile(r"[_-](anno|mask|label|seg)$", re.IGNORECASE)
_GLAS_NAME = re.compile(r"^(train|testA|testB)_\d+$")


def is_segmentation(root: Path) -> bool:
    """Whether a folder holds images with masks in one of the known layouts."""
    return bool(_pair_folders(root)) or any(root.glob("*_anno.*"))


def read_segmentation(
    root: Path,
    problems: Problems,
    *,
    classes: list[str] | None = None,
    mask_map: dict[Any, str] | None = None,
    mask_classes: str = "mask",
) -> Listing:
    """List images and masks.

    Args:
        root: The folder.
        problems: Collects exclusions and warnings.
        classes: Class names in the order of the mask values; None: background and foreground, or numbers.
        mask_map: Mask value or colour to class name; see ``masks.rule_from_options``.
        mask_classes: ``mask``: the masks say the classes. ``grade``: every foreground pixel gets the grade of its
            image, which makes the classes background, benign, malignant.

    Raises:
        MedcoreError: An image without mask, a mask without image, or a grade that is needed and missing.
    """
    if mask_classes not in ("mask", "grade"):
        raise MedcoreError(f"mask_classes must be 'mask' or 'grade', not {mask_classes!r}")
    items = _paired_items(root, problems) if _pair_folders(root) else _anno_items(root, problems)
    if not items:
        raise MedcoreError(f"'{root}' holds no image with a mask that can be used")
    table = grade_file(root)
    grades = read_grades(table) if table else {}
    _join(items, grades, problems)
    glas = all(_GLAS_NAME.match(item.file.stem) for item in items)
    rule = _rule(items, glas, classes, mask_map, mask_classes)
    known = bool(grades) and all(item.columns["patient"] != item.columns["source"] for item in items)
    if not known:
        problems.warn(NO_PATIENTS)
    recipe = {"reader": "segmentation", "table": table.name if table else None, "mask_classes": mask_classes}
    names = {"name": root.resolve().name, "classes": list(rule.classes) if rule.kind != "auto" else [],
             "recipe": recipe, "group": "patient" if known else "image", "patients_known": known}  # fmt: skip
    card = facts_of("glas").as_card(**names) if glas else Card.from_dict(
        {"title": f"Images and masks of the folder {root.resolve().name}", "task": "segmentation"} | names)  # fmt: skip
    return Listing(root, card, items, mask_rule=rule, problems=problems, also=[table] if table else [])


def _rule(
    items: list[ImageRow], glas: bool, classes: list[str] | None, mask_map: dict[Any, str] | None, mask_classes: str
) -> MaskRule:
    if mask_classes == "grade":
        missing = [item.columns["source"] for item in items if item.columns.get("grade") not in GLAND_GRADES[1:]]
        if missing:
            raise MedcoreError(
                f"mask_classes='grade' needs the grade benign or malignant of every image; {len(missing)} have none "
                f"({listed(missing)}); complete Grade.csv"
            )
        for item in items:
            item.mask_label = GLAND_GRADES.index(item.columns["grade"])
        return MaskRule("binary", tuple(GLAND_GRADES))
    if glas and not mask_map:
        return MaskRule("binary", tuple(classes or GLAND_CLASSES))
    return rule_from_options(classes, mask_map)


def _pair_folders(root: Path) -> list[tuple[Path, Path, str]]:
    """(images, masks, split) folders: in train, val, test, or directly below the root."""
    found = []
    for folder, split in [(root, ""), *((side, split_name(side.name) or "") for side in subfolders(root))]:
        if folder is not root and not split:
            continue
        names = {child.name.lower(): child for child in subfolders(folder)}
        images = next((names[name] for name in _IMAGE_FOLDERS if name in names), None)
        masks = next((names[name] for name in _MASK_FOLDERS if name in names), None)
        if images and masks:
            found.append((images, masks, split))
    return found


def _paired_items(root: Path, problems: Problems) -> list[ImageRow]:
    items = []
    for images, masks, split in _pair_folders(root):
        by_stem = _by_stem(image_files(masks, problems), masks)
        pictures = _by_stem(image_files(images, problems), images, strip=False)
        for stem in sorted(set(pictures) - set(by_stem)):
            name = pictures[stem].relative_to(root).as_posix()
            problems.bad(
                f"image '{name}' has no mask (looked for '{stem}.*' in '{masks}'); add it or remove the image",
                file=name,
            )
        for stem in sorted(set(by_stem) - set(pictures)):
            name = by_stem[stem].relative_to(root).as_posix()
            problems.bad(f"mask '{name}' has no image '{stem}.*' in '{images}'; add it or remove the mask", file=name)
        items += [_item(root, pictures[stem], by_stem[stem], split) for stem in sorted(set(pictures) & set(by_stem))]
    return items


def _by_stem(files: list[Path], folder: Path, *, strip: bool = True) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for file in files:
        stem = file.relative_to(folder).with_suffix("").as_posix()
        stem = _MASK_SUFFIX.sub("", stem) if strip else stem
        if stem in stems:
            raise MedcoreError(f"'{stems[stem].name}' and '{file.name}' in '{folder}' have the same name; keep one")
        stems[stem] = file
    return stems


def _anno_items(root: Path, problems: Problems) -> list[ImageRow]:
    files = {file.stem: file for file in image_files(root, problems, recursive=False)}
    items = []
    for stem, file in files.items():
        if stem.endswith("_anno"):
            if stem.removesuffix("_anno") not in files:
                problems.bad(f"mask '{file.name}' has no image; add it or remove the mask", file=file.name)
            continue
        mask = files.get(f"{stem}_anno")
        if mask is None:
            problems.bad(f"image '{file.name}' has no mask '{stem}_anno.*'; add it or remove the image", file=file.name)
            continue
        items.append(_item(root, file, mask, split_name(re.split(r"[AB]?_", stem)[0]) or ""))
    return items


def _item(root: Path, file: Path, mask: Path, split: str) -> ImageRow:
    source = file.relative_to(root).as_posix()
    columns: dict[str, Any] = {"label": -1, "patient": source, "split": split, "source": source, "image": file.stem}
    if file.stem.startswith(("testA", "testB")):
        columns["subset"] = file.stem.split("_")[0]
    return ImageRow(file, columns, mask)


def _join(items: list[ImageRow], grades: dict[str, Grade], problems: Problems) -> None:
    """Patient and grade by image name; images without a row are named in a warning."""
    missing = []
    for item in items:
        row = grades.get(item.file.stem)
        if row is None:
            missing.append(item.file.stem)
        item.columns |= {"grade": row.grade if row else "", **(row.further if row else {})} if grades else {}
        if row and row.patient:
            item.columns["patient"] = row.patient
    if grades and missing:
        problems.warn(f"{len(missing)} images have no row in the grade table ({listed(missing)})")
