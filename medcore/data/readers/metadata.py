"""``metadata.csv`` beside images: ``image,label`` and optionally ``patient,split,mask,x,y`` and any further columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.card import Card
from medcore.data.readers.folder import fill_dicom_patients
from medcore.data.readers.listing import NO_PATIENTS, ImageRow, Listing, Problems, listed, split_name
from medcore.data.readers.masks import rule_from_options
from medcore.data.readers.tables import Table, read_table, require, typed
from medcore.errors import MedcoreError

_RESERVED = {"source": "metadata_source", "height": "metadata_height", "width": "metadata_width"}


def read_metadata(
    path: Path,
    problems: Problems,
    *,
    encoding: str | None = None,
    classes: list[str] | None = None,
    abnormal: list[str] | None = None,
    mask_map: dict[Any, str] | None = None,
) -> Listing:
    """List the images of a ``metadata.csv``.

    Args:
        path: The CSV; images are looked for beside it, then in ``images/`` beside it.
        problems: Collects exclusions and warnings.
        encoding: Encoding of the file; None for UTF-8.
        classes: Class names in the order of their indexes; None for the sorted labels.
        abnormal: Classes that count as abnormal.
        mask_map: Mask value or colour to class name, when there is a ``mask`` column.

    Raises:
        MedcoreError: Missing columns or files, unknown labels or splits, repeated images: with row and remedy.
    """
    table = read_table(path, encoding=encoding)
    segmented = "mask" in table.header
    require(table, ["image"] if segmented else ["image", "label"])
    if not table.rows:
        raise MedcoreError(f"{path} has a header but no rows; it needs one row an image")
    rule = rule_from_options(classes, mask_map) if segmented else None
    names = [] if segmented else _class_names(table, classes)
    items = _items(table, problems, names, segmented)
    known = "patient" in table.header or fill_dicom_patients(items, problems)
    if not known:
        problems.warn(NO_PATIENTS)
    if not segmented:
        _check_classes(path, names, items, problems)
    root = path.parent
    card = Card(
        name=root.resolve().name or "metadata",
        title=f"Images of {root.resolve().name}/{path.name}",
        classes=names,
        abnormal=list(abnormal or []),
        task="segmentation" if segmented else "classification",
        group="patient" if known else "image",
        patients_known=known,
        recipe={"reader": "metadata", "table": path.name, "delimiter": table.delimiter},
    )
    return Listing(root, card, items, mask_rule=rule, problems=problems, also=[path])


def _class_names(table: Table, classes: list[str] | None) -> list[str]:
    if classes:
        return list(classes)
    found = sorted({label for label in table.column("label") if label})
    if not found:
        raise MedcoreError(f"{table.path}: column 'label' is empty in every row; fill it")
    numbers = typed(found)
    return found if numbers.dtype.kind == "U" else [found[k] for k in np.argsort(numbers)]


def _items(table: Table, problems: Problems, names: list[str], segmented: bool) -> list[ImageRow]:
    extra = _extra_columns(table, segmented)
    first_seen: dict[str, int] = {}
    items = []
    for index, row in enumerate(table.rows):
        values = dict(zip(table.header, row, strict=True))
        place, number = table.place(index), table.numbers[index]
        try:
            item = _item(table, values, place, names, segmented)
            _check_new(item.columns["source"], number, place, first_seen)
        except MedcoreError as error:
            problems.bad(str(error), file=values["image"], row=number)
            continue
        item.columns |= {name: column[index].item() for name, column in extra.items()}
        items.append(item)
    if not items:
        raise MedcoreError(f"{table.path}: no row is usable; the first reason: {problems.excluded[0]['reason']}")
    return items


def _item(table: Table, values: dict[str, str], place: str, names: list[str], segmented: bool) -> ImageRow:
    root = table.path.parent
    file = _find(root, values["image"], place, "image")
    label = values.get("label", "")
    if not segmented and label and label not in names:
        raise MedcoreError(f"{place}: label {label!r} is not among the classes {', '.join(names)}; correct it")
    if values.get("patient") == "":
        raise MedcoreError(f"{place}: patient is empty; give every image its patient, or remove the column")
    split = split_name(values.get("split", ""))
    if split is None:
        raise MedcoreError(f"{place}: split {values['split']!r} is not known; allowed are train, val, test or nothing")
    source = Path(values["image"]).as_posix()
    columns = {
        "label": names.index(label) if label and not segmented else -1,
        "patient": values.get("patient", source), "split": split, "source": source, "image": file.name,
    }  # fmt: skip
    mask = _find(root, values["mask"], place, "mask") if segmented else None
    return ImageRow(file, columns, mask, place)


def _find(root: Path, name: str, place: str, what: str) -> Path:
    if not name:
        raise MedcoreError(f"{place}: {what} is empty; name its file")
    for candidate in (root / name, root / f"{what}s" / name):
        if candidate.is_file():
            return candidate
    raise MedcoreError(
        f"{place}: {what} '{name}' does not exist (looked in {root} and {root / (what + 's')}); correct the path"
    )


def _check_new(source: str, number: int, place: str, first_seen: dict[str, int]) -> None:
    if source in first_seen:
        raise MedcoreError(
            f"{place}: image '{source}' stands already in row {first_seen[source]}; remove one of the two rows"
        )
    first_seen[source] = number


def _extra_columns(table: Table, segmented: bool) -> dict[str, np.ndarray]:
    """All columns that have no meaning of their own here, as numbers where they are numbers."""
    own = {"image", "label", "patient", "split", "mask"}
    extra = {_RESERVED.get(name, name): typed(table.column(name)) for name in table.header if name not in own}
    for name in ("x", "y"):
        if name in extra and extra[name].dtype.kind == "U":
            raise MedcoreError(f"{table.path}: column {name!r} must hold numbers (pixels)")
    if segmented and "label" in table.header:
        extra["image_label"] = np.array(table.column("label"), dtype=str)
    return extra


def _check_classes(path: Path, names: list[str], items: list[ImageRow], problems: Problems) -> None:
    used = {item.columns["label"] for item in items}
    empty = [name for index, name in enumerate(names) if index not in used]
    if empty:
        message = f"{path}: class {listed(empty)} has no image; correct 'classes' or the labels"
        if problems.on_error == "raise":
            raise MedcoreError(message)
        problems.warn(message)
    unlabelled = sum(item.columns["label"] < 0 for item in items)
    if unlabelled:
        problems.warn(f"{path.name}: {unlabelled} images have no label and stay unlabelled")
