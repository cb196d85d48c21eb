"""``.npz`` files: MedMNIST's ``train_images, train_labels, ...`` (parts may be missing), plain ``images, labels``."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from medcore.data import datasets, npzfile
from medcore.data.card import Card
from medcore.data.options import MAX_PIXELS
from medcore.data.readers.listing import NO_PATIENTS, ArrayRows, Listing, Problems
from medcore.data.readers.names import split_name
from medcore.errors import MedcoreError

_CHUNK_BYTES = 16 << 20
MOST_ROWS = 20_000_000
MOST_ROW_BYTES, MOST_MASK_BYTES = 4_096, 4 << 30  # of a column's text; of all masks, which are held in memory
_PLURALS = {"labels": "label", "patients": "patient", "splits": "split"}


def is_patchset(path: Path) -> bool:
    """Whether a ``.npz`` is one of ours: it holds a ``meta.json``."""
    with npzfile.open_zip(path) as archive:
        return {"meta.json", "images.npy"} <= set(archive.namelist())


def read_npz(path: Path, problems: Problems, *, classes: list[str] | None = None, target: str | None = None) -> Listing:
    """List the images of a ``.npz`` in MedMNIST's layout, or with plain ``images`` and ``labels``.

    Args:
        path: The file; compressed members are streamed, so its size does not matter.
        classes: Class names; None for those of the MedMNIST set that the file is named after, else numbers.
        target: An array of a grade or value an image, which may stand in place of labels.

    Raises:
        MedcoreError: Not a zip, Python objects inside, images without labels, or shapes that do not fit.
    """
    members = _members(path)
    parts = [split for split in ("train", "val", "test") if f"{split}_images" in members]
    if parts:
        listing = _medmnist(path, members, parts, problems, classes)
    elif "images" in members:
        listing = _plain(path, members, problems, classes, target)
    else:
        raise MedcoreError(
            f"{path} holds {', '.join(sorted(members)) or 'nothing'}; expected 'images' and 'labels', or MedMNIST's "
            "'train_images', 'train_labels', ..."
        )
    if not listing.card.patients_known:
        problems.warn(NO_PATIENTS)
    return listing


def _members(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays; Python objects and broken members are refused."""
    shapes = {}
    with npzfile.open_zip(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as member:
                    where = f"{path}, member {entry.filename!r}"
                    shape, _, dtype = npzfile.read_npy_header(member, where)
                if math.prod(shape) * dtype.itemsize > entry.file_size:
                    raise MedcoreError(f"{where}: {entry.file_size:,} bytes do not hold an array of shape {shape}")
                if "images" in entry.filename and (len(shape) not in (3, 4) or math.prod(shape[1:3]) > MAX_PIXELS):
                    raise MedcoreError(f"{where} holds images of shape {shape[1:]}; cut them into tiles")
                if shape and shape[0] > MOST_ROWS:
                    raise MedcoreError(f"{where} holds {shape[0]:,} rows, more than {MOST_ROWS:,}; split the file")
                shapes[entry.filename.removesuffix(".npy")] = shape
    return shapes


def _medmnist(
    path: Path, members: dict[str, tuple[int, ...]], parts: list[str], problems: Problems, classes: list[str] | None
) -> Listing:
    labels, splits, sources = [], [], []
    for split in parts:
        if f"{split}_labels" not in members:
            raise MedcoreError(f"{path} has '{split}_images' but no '{split}_labels'; add them")
        values = _labels(path, f"{split}_labels", members[f"{split}_images"][0])
        labels.append(values)
        splits += [split] * len(values)
        sources += [f"{split}/{row:06d}" for row in range(len(values))]
    facts = datasets.medmnist_card(path.stem)
    if len({values.shape[1:] for values in labels}) > 1:
        raise MedcoreError(f"{path}: the parts have different numbers of labels an image; make a file of each")
    label = np.concatenate(labels)
    names = _class_names(path, label, classes or (facts.classes if facts else None))
    columns = {
        "label": label,
        "patient": np.array(sources, dtype=str),
        "split": np.array(splits, dtype=str),
        "source": np.array(sources, dtype=str),
    }
    rows = ArrayRows(
        columns,
        _shape(path, members, [f"{split}_images" for split in parts]),
        lambda: _stream(path, [f"{split}_images" for split in parts]),
    )
    card = Card(
        name=path.stem,
        title=facts.title if facts else f"Images of {path.name}",
        classes=names,
        abnormal=[name for name in facts.abnormal if name in names] if facts else [],
        licence=facts.licence if facts else "unknown",
        citation=facts.citation if facts else "",
        homepage=facts.homepage if facts else "",
        group="image",
        patients_known=False,
        recipe={"reader": "medmnist", "parts": parts},
    )
    card = _as_findings(card, columns, problems)
    return Listing(path, card, rows=rows, problems=problems)


def _plain(
    path: Path, members: dict[str, tuple[int, ...]], problems: Problems, classes: list[str] | None, target: str | None
) -> Listing:
    count = members["images"][0]
    columns: dict[str, np.ndarray] = {}
    masks = None
    for name, shape in members.items():
        column = _PLURALS.get(name, name)
        if column == "label":
            columns[column] = _labels(path, name, count)
        elif name == "masks":
            masks = _masks(path, name)
        elif name != "images" and len(shape) == 1 and shape[0] == count:
            columns[column] = _whole(path, name, MOST_ROW_BYTES * count + 4096)
    if "label" not in columns and masks is None and target not in columns:
        raise MedcoreError(f"{path} has 'images' but no 'labels'; add whole numbers, one an image (-1 = unlabelled)")
    columns.setdefault("label", np.full(count, -1, dtype=np.int64))
    columns["source"] = np.array([f"{row:06d}" for row in range(count)], dtype=str)
    known = "patient" in columns
    columns["patient"] = columns["patient"].astype(str) if known else columns["source"]
    columns["split"] = _splits(path, columns.get("split", np.full(count, "", dtype=str)).astype(str))
    names = _class_names(path, columns["label"] if masks is None else masks, classes)
    card = Card(
        name=path.stem,
        title=f"Images of {path.name}",
        classes=names,
        patients_known=known,
        group="patient" if known else "image",
        recipe={"reader": "npz"},
        task="classification" if masks is None else "segmentation",
    )
    card = _as_findings(card, columns, problems)
    rows = ArrayRows(columns, _shape(path, members, ["images"]), lambda: _stream(path, ["images"]), masks)
    return Listing(path, card, rows=rows, problems=problems)


def _whole(path: Path, name: str, most_bytes: int) -> np.ndarray:
    with npzfile.open_zip(path) as archive:
        return npzfile.read_array(archive, f"{name}.npy", most_bytes, f"{path}, member {name!r}")


def _masks(path: Path, name: str) -> np.ndarray:
    values = _whole(path, name, MOST_MASK_BYTES)
    if values.dtype.kind not in "iub" or values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise MedcoreError(f"{path}, '{name}' must hold class indexes 0..254 and 255 for 'ignore', not {values.dtype}")
    return values.astype(np.uint8)


def _labels(path: Path, name: str, count: int) -> np.ndarray:
    values = _whole(path, name, 1_024 * count + 4096)
    where = f"{path}, '{name}'"
    if values.ndim == 2 and values.shape[1] > 1:
        if values.shape[0] != count or values.dtype.kind not in "iu" or not np.isin(values, (0, 1)).all():
            raise MedcoreError(f"{where} of shape {values.shape} must hold 0 or 1 for each of {count} images")
        return values.astype(np.int64)
    values = values.reshape(-1)
    if len(values) != count:
        raise MedcoreError(f"{where} has {len(values)} labels for {count} images")
    if values.dtype.kind not in "iu":
        raise MedcoreError(f"{where} holds {values.dtype} values; labels must be whole numbers (class indexes)")
    return values.astype(np.int64)


def _as_findings(card: Card, columns: dict[str, np.ndarray], problems: Problems) -> Card:
    """The card of a set whose labels are several findings an image; the columns then hold each of them."""
    label = columns["label"]
    if label.ndim == 1:
        return card
    if card.task == "segmentation":
        raise MedcoreError(f"set {card.name!r} holds masks and findings: two questions; make a file of each")
    if (label.sum(axis=1) == 1).all():
        raise MedcoreError(f"set {card.name!r}: one 1 an image is a class, not findings; store its index (argmax)")
    columns["label"] = np.full(len(label), -1, dtype=np.int64)
    columns |= {npzfile.finding_column(k): label[:, k] for k in range(label.shape[1])}
    problems.note(f"labels of {label.shape[1]} columns of 0 and 1 are read as findings, several an image")
    return replace(card, task="findings")


def _class_names(path: Path, label: np.ndarray, classes: list[str] | None) -> list[str]:
    if label.ndim == 2:
        if classes and len(classes) != label.shape[1]:
            raise MedcoreError(f"{path}: {label.shape[1]} findings an image, but {len(classes)} names: {classes}")
        return list(classes) if classes else [f"finding {k}" for k in range(label.shape[1])]
    highest = int(label[label != 255].max(initial=0)) if label.ndim == 3 else int(label.max(initial=0))
    if classes and highest >= len(classes):
        raise MedcoreError(f"{path}: label {highest} occurs, but there are only {len(classes)} classes: {classes}")
    return list(classes) if classes else [f"class {k}" for k in range(highest + 1)]


def _splits(path: Path, values: np.ndarray) -> np.ndarray:
    names = {value: split_name(value) for value in np.unique(values).tolist()}
    unknown = [value for value, split in names.items() if split is None]
    if unknown:
        raise MedcoreError(f"{path}: split {unknown[0]!r} is not known; allowed are train, val, test or nothing")
    return np.array([names[value] for value in values.tolist()], dtype=str)


def _shape(path: Path, members: dict[str, tuple[int, ...]], names: list[str]) -> tuple[int, int, int]:
    """Common shape ``(H, W, C)`` of some image arrays."""
    shapes = {members[name][1:] for name in names}
    if len(shapes) > 1:
        raise MedcoreError(f"{path}: {', '.join(names)} differ in image size: {sorted(shapes)}; make one file of each")
    shape = shapes.pop()
    shape = (*shape, 1) if len(shape) == 2 else shape
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise MedcoreError(f"{path}: '{names[0]}' has images of shape {shape}; expected (H, W), (H, W, 1) or (H, W, 3)")
    return shape


def _stream(path: Path, names: list[str]) -> Iterator[np.ndarray]:
    """Images of some members in chunks ``(n, H, W, C)``, also from compressed files, in constant memory."""
    with npzfile.open_zip(path) as archive:
        for name in names:
            where = f"{path}, member {name!r}"
            with archive.open(f"{name}.npy") as member:
                shape, fortran, dtype = npzfile.read_npy_header(member, where)
                if dtype != np.uint8:
                    raise MedcoreError(f"{where} holds {dtype} pixels; store uint8 values 0..255")
                if fortran:
                    raise MedcoreError(f"{where} is in Fortran order; store it with numpy.ascontiguousarray")
                shape = (*shape, 1) if len(shape) == 3 else shape
                row_bytes = int(np.prod(shape[1:], dtype=np.int64))
                yield from _read_rows(member, shape, max(1, _CHUNK_BYTES // row_bytes), row_bytes, where)


def _read_rows(member: object, shape: tuple[int, ...], step: int, row_bytes: int, where: str) -> Iterator[np.ndarray]:
    for start in range(0, shape[0], step):
        rows = min(step, shape[0] - start)
        try:
            data = member.read(rows * row_bytes)  # type: ignore[attr-defined]
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise MedcoreError(f"{where} is damaged ({error}); copy the file again") from error
        if len(data) != rows * row_bytes:
            raise MedcoreError(f"{where} ends after {start} of {shape[0]} images; copy the file again")
        yield np.frombuffer(data, np.uint8).reshape(rows, *shape[1:])
