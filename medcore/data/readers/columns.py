"""Which column of a table says what, and what its cells mean: labels, patients, splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from medcore.data.npzfile import TARGET, finding_column
from medcore.data.readers.listing import Problems, listed
from medcore.data.readers.names import UNKNOWN, look_alikes, merge_spellings, spelling_key, split_name
from medcore.data.readers.tables import Table, is_missing, typed
from medcore.errors import MedcoreError

ROLES = ("image", "label", "patient", "split", "mask")
# near names by role, letters and digits only; several tuples: the first that has one decides
_NEAR: dict[str, tuple[tuple[str, ...], ...]] = {
    "image": (("images", "filename", "file", "filenames", "filepath", "imagepath", "imagefile", "imagefilename",
               "imagename", "imageid", "imageindex", "img", "imgpath", "imgname", "imgid", "imgfile", "path",
               "picture", "photo"), ("id",)),
    "label": (("labels", "labelname", "class", "classname", "classes", "diagnosis", "dx", "target", "category",
               "finding", "findings", "findinglabels", "pathology", "outcome", "diagnostic", "groundtruth"),),
    "patient": (("patients", "patientid", "patid", "patientnumber", "patientno", "patientcode", "pid"),
                ("subject", "subjectid", "participant", "participantid", "person", "personid"),
                ("case", "caseid", "mrn"), ("lesion", "lesionid")),
    "split": (("splits", "subset", "partition", "phase", "usage", "set", "fold", "dataset"),),
    "mask": (("masks", "maskpath", "maskfile", "maskname", "segmentation", "segmentationpath", "maskfilename"),),
}  # fmt: skip
MOST_NUMBERS = 10  # more different numbers than this, with gaps, are measured, not classes
_SEVERAL = "|;,/&+"
NOTHING = frozenset(spelling_key(name) for name in ("No Finding", "No findings", "none", "normal"))
_FLOAT = re.compile(r"^-?\d+\.0+$")
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    rf"^(\d{{4}}[-./]\d\d?[-./]\d\d?([ T]\d\d?:\d\d.*)?|\d\d?[-./]\d\d?[-./](\d{{4}}|\d\d)"
    rf"|\d\d?[- ]{_MONTH}|{_MONTH}[- ]\d+)$",
    re.IGNORECASE,
)
_ROUNDED = re.compile(r"^-?\d\.\d+E\+\d+$", re.IGNORECASE)  # a long number that a spreadsheet has shortened
_CODES = frozenset({9, 99, 999, 9999, -9, -99, -999})  # for "missing" in questionnaires
_RESERVED = {"source": "metadata_source", "height": "metadata_height", "width": "metadata_width"}
_SIDE_COLUMN = re.compile(r"^(is|in|for)?(train|training|test|testing|val|valid|validation|holdout)(set)?$")


class Ambiguous(MedcoreError):
    """Two columns of a table may have one meaning, or two files may be meant by one cell."""


def find_columns(
    table: Table,
    asked: dict[str, str],
    problems: Problems,
    is_image: Callable[[str], bool],
    is_mask: Callable[[str], bool],
) -> Table:
    """The table with the columns that have a meaning called ``image``, ``label``, ``patient``, ``split``, ``mask``.

    Args:
        asked: What the user says, role to column.
        problems: Hears which near names were used.
        is_image: Whether a cell names an image file that is there.
        is_mask: Whether a cell names a mask file that is there.

    Raises:
        MedcoreError: Two columns may be meant, or a column that was asked for does not exist.
    """
    unknown = [role for role in asked if role not in ROLES]
    if unknown:
        raise MedcoreError(f"columns: {unknown[0]!r} is none of {', '.join(ROLES)}")
    header = list(table.header)
    for role in ROLES:
        other = role == "label" and TARGET in header  # a grade or value is asked for
        name = asked.get(role) or (None if other else _chosen(table, role, header, is_image, is_mask))
        if name is None:
            continue
        if name not in header:
            raise MedcoreError(
                f"{table.path}: there is no column {name!r} for {role}; it has {', '.join(table.header)}"
            )
        if name != role:
            if role in header:
                header[header.index(role)] = f"{role} (column)"
            header[header.index(name)] = role
            say = problems.note if name.lower() == role else problems.warn
            say(f"{table.path.name}: column {name!r} is read as {role!r}")
    return replace(table, header=header)


def _chosen(
    table: Table, role: str, header: list[str], is_image: Callable[[str], bool], is_mask: Callable[[str], bool]
) -> str | None:
    """The column of a role by its name; None when there is none."""
    keys = {name: re.sub(r"[^a-z0-9]", "", name.lower()) for name in header}
    exact = [name for name in header if name == role] or [name for name in header if keys[name] == role]
    if exact:
        return exact[0]
    for near in _NEAR[role]:
        found = sorted((name for name in header if keys[name] in near), key=lambda name: near.index(keys[name]))
        found = [name for name in found if name not in ROLES and _fits(table, role, name, is_image, is_mask)]
        if role == "image" and found:
            return found[0]
        if len(found) > 1:
            raise Ambiguous(
                f"{table.path}: the columns {', '.join(map(repr, found))} may all mean {role!r}; say which with "
                f"--column {role}={found[0]} (in Python columns={{{role!r}: {found[0]!r}}})"
            )
        if found:
            return found[0]
    return next((name for name in header if _all_images(table, name, is_image)), None) if role == "image" else None


def _all_images(table: Table, name: str, is_image: Callable[[str], bool]) -> bool:
    """Whether the first cells of a column name image files that are there, whatever the column is called."""
    values = [value for value in table.column(name)[:5] if not is_missing(value)] if name in table.header else []
    return bool(values) and all(is_image(value) for value in values)


def _fits(table: Table, role: str, name: str, is_image: Callable[[str], bool], is_mask: Callable[[str], bool]) -> bool:
    """Whether the cells of a column can have this meaning."""
    values = [value for value in table.column(name)[:200] if not is_missing(value)] if name in table.header else []
    if role == "image":
        return any(is_image(value) for value in values[:5]) or name.lower() not in ("id", "path", "file")
    if role == "mask":
        return any(is_mask(value) for value in values[:5])
    if role == "split":
        return bool(values) and all(split_name(value) is not None for value in values)
    return bool(values)


def refuse_run_lengths(table: Table) -> None:
    """Refuse masks that are written as numbers in a cell, unless another column says what the images show.

    Raises:
        MedcoreError: A column holds pairs of a start and a length, as competitions write masks.
    """
    told = {"label", "mask"} & set(table.header)
    for name in told or table.header:
        filled = [cell.split() for cell in table.column(name) if not is_missing(cell)]
        pairs = all(len(cell) % 2 == 0 and all(part.isdecimal() for part in cell) for cell in filled)
        if pairs and any(len(cell) > 2 for cell in filled):
            raise MedcoreError(
                f"{table.path}: column {name!r} holds masks as run lengths (start and length), which are not read; "
                "write each mask as a PNG file under its image's name, in the folders images/ and masks/"
            )


def say_unread_split(table: Table, problems: Problems) -> None:
    """Warn of a column that may say the split by its name, and is not read: ``is_train``, ``set`` with numbers."""
    keys = {name: re.sub(r"[^a-z]", "", name.lower()) for name in table.header}
    near = {key for group in _NEAR["split"] for key in group} - {"fold", "set"}
    odd = [name for name, key in keys.items() if name not in ROLES and (key in near or _SIDE_COLUMN.match(key))]
    if "split" not in table.header and odd:
        problems.warn(
            f"{table.path.name}: column {odd[0]!r} may say the split: not read; write train, val, test into a column "
            "'split'"
        )


def extra_columns(table: Table, segmented: bool) -> dict[str, np.ndarray]:
    """All columns that have no meaning of their own here, as numbers where they are numbers."""
    extra = {_RESERVED.get(name, name): typed(table.column(name)) for name in table.header if name not in ROLES}
    for name in ("x", "y"):
        if name in extra and extra[name].dtype.kind == "U":
            raise MedcoreError(f"{table.path}: column {name!r} must hold numbers (pixels)")
    if segmented and "label" in table.header:
        extra["image_label"] = np.array(table.column("label"), dtype=str)
    return extra


def spread_columns(table: Table) -> list[str]:
    """Columns that hold 0 and 1 only (or −1, uncertain), as one-hot and multi-label tables have them."""
    found = []
    for name in table.header:
        values = {value for value in table.column(name) if not is_missing(value)}
        plain = {value.removesuffix(".0").lower() for value in values}
        if name not in ROLES and plain and plain <= {"0", "1", "-1", "true", "false"}:
            found.append(name)
    return found


def with_findings(table: Table, names: Sequence[str], problems: Problems) -> Table:
    """The table with a column ``finding_K`` for each finding: 1 present, 0 absent, -1 uncertain, -2 not stated.

    The names are columns of 1, 0, -1 or nothing (not stated), or they stand in the column ``label``, several in a cell
    separated by ``|``: those of a cell are present, all others absent, and an empty cell states nothing.

    Raises:
        MedcoreError: Some names are columns and some are not, a cell holds something else, or a finding stands twice.
    """
    found = [name for name in names if name in table.header]
    if len(set(names)) < max(2, len(names)) or (found and len(found) < len(names)):
        odd = [name for name in names if name not in found] or list(names)
        raise MedcoreError(
            f"{table.path}: findings {listed(odd, 3)}: name two or more different ones, all of them columns or all of "
            f"them names in the cells of the label column; columns are {listed(table.header, 12)}"
        )
    if not found and "label" not in table.header:
        raise MedcoreError(f"{table.path}: there are no columns {listed(list(names), 3)}, and no column 'label'")
    rows = []
    for n, row in enumerate(table.rows):
        cells = dict(zip(table.header, row, strict=True))
        if found:
            rows.append([_finding(cells[name], f"{table.place(n)}, column {name!r}") for name in names])
            continue
        said = [part.strip() for part in cells["label"].split("|") if part.strip()]
        none = len(said) == 1 and said[0] not in names and spelling_key(said[0]) in NOTHING
        strange = [part for part in said if part not in names] if not none else []
        if strange:
            raise MedcoreError(
                f"{table.place(n)}: finding {strange[0]!r} is none of {listed(list(names), 20)}; name all findings"
            )
        rows.append([str(int(name in said and not none)) if said else "-2" for name in names])
    how = "columns of 1, 0, -1 (uncertain) or nothing (not stated)" if found else "names in the cells of 'label'"
    problems.note(f"{table.path.name}: findings {listed(list(names), 20)} are read from {how}")
    header = ["label (column)" if name == "label" else name for name in table.header]
    columns = [finding_column(k) for k in range(len(names))]
    joined = [[*row, *values] for row, values in zip(table.rows, rows, strict=True)]
    return replace(table, header=[*header, *columns], rows=joined)


def _finding(cell: str, place: str) -> str:
    value = cell.strip().lower().removesuffix(".0")
    value = {"true": "1", "false": "0"}.get(value, value)
    if value in ("1", "0", "-1"):
        return value
    if is_missing(cell):
        return "-2"
    raise MedcoreError(f"{place}: {cell!r} must be 1 (present), 0 (absent), -1 (uncertain) or empty (not stated)")


def one_hot_labels(table: Table, names: Sequence[str]) -> list[str]:
    """The label of each row when exactly one of the columns is 1.

    Raises:
        MedcoreError: Some row has none or several: these are findings side by side, not classes.
    """
    cells = [[value.removesuffix(".0").lower() for value in table.column(name)] for name in names]
    labels, odd = [], []
    for row, values in enumerate(zip(*cells, strict=True)):
        hot = [name for name, value in zip(names, values, strict=True) if value in ("1", "true")]
        if len(hot) != 1 or "-1" in values:
            odd.append(row)
        labels.append(hot[0] if hot else "")
    if odd:
        raise MedcoreError(
            f"{table.path}: the columns {listed(list(names))} hold several findings an image ({len(odd)} rows have "
            f"none, "
            f"several or an uncertain one; first {table.place(odd[0])}). Name them with "
            f"--findings, add a "
            f"column 'label' with one class an image, or take one column: --column label='{names[0]}'"
        )
    return labels


def clean_labels(table: Table, classes: list[str] | None, problems: Problems) -> tuple[list[str], list[str]]:
    """The label of each row (``""`` when missing) and the class names.

    Raises:
        MedcoreError: Nothing is labelled, the labels are measured numbers, several in a cell, or of two spellings that
            may be two classes.
    """
    given = list(classes or [])
    values = table.column("label")
    unknown = Counter(value for value in values if is_missing(value) and value not in given)
    if "+" in values:  # then - is the other class
        unknown.pop("-", None)
    words = typed([value for value in values if value and value not in unknown]).dtype.kind == "U"
    named = [value for value in unknown if value.lower() in ("none", "nil")] if words else []
    named += sorted({value for value in values if spelling_key(value) in UNKNOWN})
    if named and not given:
        raise MedcoreError(
            f"{table.path}: label {named[0]!r} may be a class or a missing label; empty the cells if it is missing, or "
            "name all classes with --classes (Python: classes=[...]); rows of others are left out with --on-error skip"
        )
    values = ["" if value in unknown else value for value in values]
    filled = [value for value in values if value]
    if not filled:
        raise MedcoreError(f"{table.path}: column 'label' is empty in every row; fill it")
    if not given and {"-1", "-1.0"} & set(filled):
        raise MedcoreError(
            f"{table.path}: label '-1' may mean uncertain, unlabelled or a class; empty the cells if there is no "
            f"label, or "
            "name all classes with --classes (Python: classes=[...])"
        )
    if any(unknown.keys() - {""}):
        shown = ", ".join(f"{name!r} {count}" for name, count in unknown.items() if name)
        problems.warn(
            f"{table.path.name}: labels {shown} are read as missing (a class of that name: --classes lists all classes)"
        )
    short = _without_point_zero(filled, given)
    merged = merge_spellings([short[value] for value in filled], given)
    _say_merged(table, merged, problems)
    values = [merged[short[value]] if value else "" for value in values]
    names = given or _in_order(sorted(set(values) - {""}))
    if not given:
        _refuse_no_classes(table, [value for value in values if value])
        for one, other in look_alikes(names):
            problems.warn(f"{table.path.name}: labels {one!r} and {other!r} look alike; one class, or two?")
    return values, names


def clean_patients(table: Table, problems: Problems) -> list[str]:
    """The patient of each row (``""`` when missing), spellings of one patient joined, which can leak nothing."""
    values = ["" if is_missing(value) or spelling_key(value) in UNKNOWN else value for value in table.column("patient")]
    rounded = sorted({value for value in values if _ROUNDED.match(value)})
    if rounded:
        raise MedcoreError(
            f"{table.path}: patients {listed(rounded, 3)} are long numbers that a spreadsheet has rounded, so that "
            "several may have become one; export the column again as text"
        )
    filled = [value for value in values if value]
    short = _without_point_zero(filled, [])
    plain = {value: re.sub(r"^0+(?=\d+$)", "", value) for value in short.values()}
    counts = Counter(plain.values())
    shared = {value: len({name for name in plain if plain[name] == plain[value]}) for value in plain}
    unpadded = {value: plain[value] if shared[value] > 1 else value for value in plain}
    merged = merge_spellings([unpadded[short[value]] for value in filled])
    padded = sorted(value for value in plain if shared[value] > 1)
    if padded:
        problems.warn(f"{table.path.name}: patients {listed(padded)} are read as {len(counts.keys() & set(padded))} "
                      "(leading zeros do not tell patients apart)")  # fmt: skip
    _say_merged(table, merged, problems, "patients")
    return [merged[unpadded[short[value]]] if value else "" for value in values]


def _without_point_zero(values: list[str], keep: list[str]) -> dict[str, str]:
    """``1.0`` is ``1`` when every number is whole: programs write so when a value is missing."""
    return {value: value if value in keep or not _FLOAT.match(value) else value.split(".")[0] for value in values}


def _say_merged(table: Table, merged: dict[str, str], problems: Problems, what: str = "labels") -> None:
    for name, stands in merged.items():
        if name == stands:
            continue
        if what == "labels" and len(name) == 1:
            raise MedcoreError(
                f"{table.path}: labels {name!r} and {stands!r} differ only in spelling: one class or two? Write one of "
                f"them, or keep both with --classes {stands},{name},..."
            )
        problems.warn(f"{table.path.name}: {what} {name!r} and {stands!r} are read as one, {stands!r}")


def _in_order(names: list[str]) -> list[str]:
    numbers = typed(names)
    return names if numbers.dtype.kind == "U" else [names[k] for k in np.argsort(numbers, kind="stable")]


def _refuse_no_classes(table: Table, labels: list[str]) -> None:
    """Refuse what cannot be classes: measured numbers, several labels in a cell, one name a row."""
    names = sorted(set(labels))
    numbers = typed(names)
    where, way = f"{table.path}: column 'label'", "--classes lists the classes if these are meant"
    if numbers.dtype.kind in "if":
        whole = numbers.dtype.kind == "i"
        steps = whole and numbers.min() in (0, 1) and len(names) == numbers.max() - numbers.min() + 1
        if not whole or (len(names) > MOST_NUMBERS and not steps):
            raise MedcoreError(
                f"{where} holds {len(names)} different numbers from {numbers.min():g} to {numbers.max():g}, which look "
                f"measured, not like classes; read them as a number with --value NAME (grades: --grade NAME), "
                f"write classes (such as 'below 50', '50 and more'), or {way}"
            )
        left = sorted(set(numbers.tolist()) - _CODES) if whole else []
        codes = sorted(set(numbers.tolist()) & _CODES)
        if codes and len(left) > 1 and left[0] in (0, 1) and left[-1] - left[0] + 1 == len(left) and not steps:
            raise MedcoreError(
                f"{where}: {listed(codes)} beside {listed(left)} may mean missing, or a class; empty the cells, "
                f"or --classes {','.join(map(str, left))} --on-error skip leaves these rows out, or {way}"
            )
    dates = [name for name in names if _DATE.match(name)]
    if dates:
        raise MedcoreError(
            f"{where} holds dates ({listed(dates, 3)}), or codes that a spreadsheet has made into dates; write "
            f"classes, or {way}"
        )
    parted = {
        name: [part.strip() for part in re.split(f"[{re.escape(_SEVERAL)}]", name) if part.strip()] for name in names
    }
    counts = Counter(part for parts in parted.values() for part in parts)
    joined = [name for name, parts in parted.items() if len(parts) > 1 and
              ("|" in name or any(counts[part] > 1 for part in parts))]  # fmt: skip
    if joined:
        raise MedcoreError(
            f"{where} holds several labels in one cell ({listed(joined, 3)}), which are findings: name them with "
            f"--findings, write one class an image, or {way}"
        )
    if len(names) > max(MOST_NUMBERS, len(labels) / 2):
        raise MedcoreError(
            f"{where} holds {len(names)} different names in {len(labels)} rows: names, not classes; {way}"
        )
