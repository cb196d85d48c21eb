"""Images with masks: ``train/{images,masks}``, ``images/train`` beside ``masks/train``, or ``x.png, x_mask.png``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcore.data.card import Card
from medcore.data.datasets import GLAND_CLASSES, GLAND_GRADES
from medcore.data.datasets import card as facts_of
from medcore.data.readers.files import Folder, report_files, scan
from medcore.data.readers.folder import compiled_pattern
from medcore.data.readers.listing import NO_PATIENTS, ImageRow, Listing, Problems, listed
from medcore.data.readers.masks import MaskRule, rule_from_options
from medcore.data.readers.names import are_patients, split_name
from medcore.data.readers.pairs import Pairs, find_pairs, levels_above, report_unpaired
from medcore.data.readers.tables import read_table
from medcore.errors import MedcoreError

_GLAS_NAME = re.compile(r"^(train|testA|testB)_\d+$")
_NNUNET = "dataset.json"


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


def is_segmentation(tree: Folder, images: str | None = None, masks: str | None = None) -> bool:
    """Whether a folder holds images with masks in one of the known layouts.

    Raises:
        MedcoreError: Masks are there, but several may be meant.
    """
    return bool(find_pairs(tree, images, masks))


def read_segmentation(
    root: Path,
    problems: Problems,
    *,
    classes: list[str] | None = None,
    images: str | None = None,
    masks: str | None = None,
    mask_map: dict[Any, str] | None = None,
    mask_threshold: float | None = None,
    mask_rule: str | None = None,
    mask_classes: str = "mask",
    patient_pattern: str | None = None,
) -> Listing:
    """List images and masks.

    Args:
        classes: Class names in the order of the mask values; None: background and foreground, or numbers.
        images: Name of the folders of images; None for usual names.
        masks: Name of the folders of masks, or what a mask's name ends with; None for usual ones.
        mask_classes: ``mask``: the masks say the classes. ``grade``: every foreground pixel gets the grade of its
            image, which makes the classes background, benign, malignant.
        patient_pattern: Regular expression with one group that finds the patient in the relative path of an image.

    Raises:
        MedcoreError: An image without mask, a mask without image, folders that may be classes, or a grade that is
            needed and missing.
    """
    if mask_classes not in ("mask", "grade"):
        raise MedcoreError(f"mask_classes must be 'mask' or 'grade', not {mask_classes!r}")
    tree = scan(root)
    table = grade_file(root)
    report_files(tree, problems, table)
    pairs = find_pairs(tree, images, masks)
    report_unpaired(tree, pairs, problems)
    items = _paired_items(root, pairs, problems, told=masks is not None or images is not None)
    if not items:
        raise MedcoreError(f"'{root}' holds no image with a mask that can be used")
    grades = read_grades(table) if table else {}
    _join(items, grades, problems)
    _patients_by_pattern(items, patient_pattern)
    labels = _joined_classes(items, pairs, (classes, mask_map, mask_rule), problems)
    glas = all(_GLAS_NAME.match(item.file.stem) for item in items)
    named = labels or classes or _nnunet_classes(root, problems)
    rule = _rule(items, glas, named, mask_map, mask_threshold, mask_rule, mask_classes)
    if labels and rule.kind != "threshold":
        rule = MaskRule("binary" if len(labels) == 2 else "index", tuple(labels))
    known = all(item.columns["patient"] != item.columns["source"] for item in items)
    if not known:
        problems.warn(NO_PATIENTS)
    recipe = {"reader": "segmentation", "table": table.name if table else None, "mask_classes": mask_classes}
    names = {"name": root.resolve().name, "classes": list(rule.classes) if rule.kind != "auto" else [],
             "recipe": recipe, "group": "patient" if known else "image", "patients_known": known}  # fmt: skip
    card = facts_of("glas").as_card(**names) if glas else Card.from_dict(
        {"title": f"Images and masks of the folder {root.resolve().name}", "task": "segmentation"} | names)  # fmt: skip
    return Listing(root, card, items, mask_rule=rule, problems=problems, also=[table] if table else [])


def _joined_classes(
    items: list[ImageRow], pairs: Sequence[Pairs], told: tuple[Any, ...], problems: Problems
) -> list[str] | None:
    """Class names of a set whose images have several masks, and the class of each mask; None for any other set.

    Raises:
        MedcoreError: An option says what mask values mean: the files do.
    """
    if count := max(len(item.channels) for item in items):
        problems.warn(
            f"{count} files an image are its channels, as nnU-Net writes them: red, green and blue in this order"
        )
    if not any(pair.parts for pair in pairs):
        return None
    if any(told[1:]):
        raise MedcoreError(
            "several masks an image say their class by folder: --mask-map and --mask-rule have no meaning"
        )
    found = {path: name for pair in pairs for parts in pair.parts.values() for path, name in parts}
    names = sorted(set(found.values()) - {""}) or ["foreground"]
    wanted = [name for name in told[0] or () if name != "background"]
    if wanted and (sorted(wanted) != names and len(names) > 1 or len(wanted) != len(names)):
        raise MedcoreError(f"the folders of masks are {listed(names)}; --classes must name these, or nothing")
    names = wanted or names
    for item in items:
        given = [path for path, _ in item.parts] or [path for path in [item.mask] if path]
        labels = {path: names.index(found[path]) + 1 if found.get(path) else 1 for path in given}
        item.parts = tuple(sorted(labels.items(), key=lambda part: part[1]))
    several = sum(len(item.parts) > 1 for item in items)
    problems.warn(
        f"{several} of {len(items)} images have several masks, which are joined: "
        + (f"classes {listed(names, 12)} from the folders, in this order where they overlap" if len(names) > 1 else
           "every pixel of any of them is foreground")
    )  # fmt: skip
    return ["background", *names]


def _rule(
    items: list[ImageRow],
    glas: bool,
    classes: list[str] | None,
    mask_map: dict[Any, str] | None,
    mask_threshold: float | None,
    mask_rule: str | None,
    mask_classes: str,
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
    if glas and not mask_map and mask_threshold is None and mask_rule is None:
        return MaskRule("binary", tuple(classes or GLAND_CLASSES))
    return rule_from_options(classes, mask_map, mask_threshold, mask_rule)


def _nnunet_classes(root: Path, problems: Problems) -> list[str] | None:
    """Class names in the order of the mask values, from the ``dataset.json`` of nnU-Net or the Decathlon."""
    try:
        labels = json.loads((root / _NNUNET).read_text(encoding="utf-8"))["labels"]
        numbers = {str(k): int(v) for k, v in labels.items()} if not all(str(k).isdigit() for k in labels) else {
            str(v): int(k) for k, v in labels.items()}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    names = sorted((name for name in numbers if name != "ignore"), key=lambda name: numbers[name])
    if [numbers[name] for name in names] != list(range(len(names))):
        return None
    problems.note(f"classes from {_NNUNET}: {listed(names, 12)}")
    return names


def _paired_items(root: Path, pairs: Sequence[Pairs], problems: Problems, *, told: bool) -> list[ImageRow]:
    says, strange = levels_above(pairs)
    if strange and not told:
        raise MedcoreError(
            f"'{root}': the folders {listed(strange, 4)} hold images and masks: one class a folder, or images with "
            f"masks? "
            "--masks none reads classes and passes the masks over; --masks NAME (the name of the mask folders, or "
            "what the "
            "names of masks end with, as _mask) reads images with masks"
        )
    items = []
    for pair, above in zip(pairs, says, strict=True):
        inner = {Path(key).parts[0] for key in pair.images if len(Path(key).parts) > 1}
        for key in sorted(set(pair.images) - set(pair.masks)):
            name = pair.images[key].relative_to(root).as_posix()
            problems.bad(
                f"image '{name}' has no mask (looked for '{key}.*' in {pair.where}); add it or remove the image",
                file=name,
            )
        for key in sorted(set(pair.masks) - set(pair.images)):
            name = pair.masks[key].relative_to(root).as_posix()
            problems.bad(f"mask '{name}' has no image '{key}.*'; add it or remove the mask", file=name)
        for key in sorted(set(pair.images) & set(pair.masks)):
            first = Path(key).parts[0] if len(Path(key).parts) > 1 else ""
            more = {"split": split_name(first) or ""} if first and split_name(first) else {}
            more |= {"patient": first} if first and are_patients(inner) else {}
            item = _item(root, pair.images[key], pair.masks[key], above | more)
            item.parts = tuple((path, 1) for path, _ in pair.parts.get(key, ()))
            item.channels = pair.channels.get(item.file, ())
            items.append(item)
    _say_pairs(root, pairs, says, problems)
    return items


def _say_pairs(root: Path, pairs: Sequence[Pairs], says: Sequence[dict[str, str]], problems: Problems) -> None:
    """The reading report: where the masks are, and what the folders above say."""
    count = sum(len(set(pair.images) & set(pair.masks)) for pair in pairs)
    places = [Path(pair.where.strip("'")) for pair in pairs]
    named = [place.relative_to(root).as_posix() + "/" if place.is_relative_to(root) else str(place) for place in places]
    problems.note(f"{count} images with masks, masks in {listed(named, 4)}")
    for level in ("split", "fold", "patient", "folder"):
        found = sorted({one[level] for one in says if level in one})
        if found:
            problems.note(f"{level} from folders: {listed(found, 6)}")


def _item(root: Path, file: Path, mask: Path, says: dict[str, str]) -> ImageRow:
    source = file.relative_to(root).as_posix()
    split = says.get("split", "")
    if _GLAS_NAME.match(file.stem):
        split = "train" if file.stem.startswith("train") else "test"
        says = says | ({"subset": file.stem.split("_")[0]} if split == "test" else {})
    columns: dict[str, Any] = {"label": -1, "patient": says.get("patient", source), "split": split, "source": source,
                               "image": file.stem}  # fmt: skip
    return ImageRow(file, columns | {name: says[name] for name in ("fold", "subset", "folder") if name in says}, mask)


def _patients_by_pattern(items: list[ImageRow], pattern: str | None) -> None:
    for item in items if pattern else []:
        match = compiled_pattern(pattern or "").search(item.columns["source"])
        if match is None:
            raise MedcoreError(f"patient_pattern {pattern!r} finds no patient in '{item.columns['source']}'")
        item.columns["patient"] = match.group(1)


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
