"""``metadata.csv`` beside images: ``image,label`` and optionally ``patient,split,mask,x,y`` and any further columns."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from medcore.data.card import Card
from medcore.data.formats import SUFFIXES
from medcore.data.npzfile import TARGET
from medcore.data.readers.columns import (
    ROLES,
    Ambiguous,
    clean_labels,
    clean_patients,
    extra_columns,
    find_columns,
    one_hot_labels,
    refuse_run_lengths,
    say_unread_split,
    spread_columns,
    with_findings,
)
from medcore.data.readers.files import Folder, scan
from medcore.data.readers.listing import NO_PATIENTS, ImageRow, Listing, Problems, listed, say_one_sided
from medcore.data.readers.masks import rule_from_options
from medcore.data.readers.names import role_of, split_name
from medcore.data.readers.series import fill_dicom_patients
from medcore.data.readers.tables import Table, is_missing, read_table, require
from medcore.errors import MedcoreError

METADATA = ("metadata.csv", "metadata.tsv", "metadata.tab")


class Finder:
    """Finds the file that a cell means: by its path, else by its name anywhere beside the table."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ways: Counter[str] = Counter()

    def find(self, cell: str, what: str) -> Path | None:
        """The file, None when there is none; ``ways`` counts what it took.

        Raises:
            MedcoreError: Two files fit equally well.
        """
        for name, way in _readings(cell):
            for candidate in (self.root / name, self.root / f"{what}s" / name):
                if candidate.is_file() or candidate.is_symlink():
                    self.ways[way] += 1
                    if _outside(candidate, self.root):
                        self.ways["outside the folder of the table"] += 1
                    return candidate
        for name, way in _readings(cell):
            parts = _plain(name).split("/")
            for start in range(max(1, len(parts) - 1)):  # the path, then without the folders of another computer
                key = "/".join(parts[start:])
                if len(found := self._by_path.get(_stem(key), [])) == 1:
                    same = _plain(found[0].name) == parts[-1]
                    more = _how(parts[-1], same, bool(start))
                    self.ways[" and ".join(filter(None, [way, more]))] += 1
                    return found[0]
            for index, more in ((self._by_name, "by its name in a subfolder"), (self._by_stem, "without its ending")):
                key = parts[-1] if index is self._by_name else _stem(parts[-1])
                if nearest := self._nearest(index.get(key, []), parts, what, cell):
                    named = more if index is self._by_name else _how(parts[-1], False, True)
                    self.ways[" and ".join(filter(None, [way, named]))] += 1
                    return nearest
        return None

    def _nearest(self, files: list[Path], parts: list[str], what: str, cell: str) -> Path | None:
        """The file that shares most of the path's end; masks are no images, and images no masks."""
        fit = [file for file in files if _among_masks(file, self.root) == (what == "mask")] or files
        shared = {file: _shared_end(_plain(file.as_posix()).split("/"), parts) for file in fit}
        best = [file for file in fit if shared[file] == max(shared.values())]
        if len(best) > 1:
            raise Ambiguous(
                f"{what} '{cell}' may be '{best[0].relative_to(self.root)}' or '{best[1].relative_to(self.root)}'; "
                "write its path"
            )
        return best[0] if best else None

    @cached_property
    def tree(self) -> Folder:
        """Everything beside the table."""
        return scan(self.root)

    @cached_property
    def _by_path(self) -> dict[str, list[Path]]:
        return self._index(lambda file: _stem(_plain(file.relative_to(self.root).as_posix())))

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return self._index(lambda file: _plain(file.name))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return self._index(lambda file: _stem(_plain(file.name)))

    def _index(self, key: Any) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for file in self.tree.all_images():
            found[key(file)].append(file)
        return found


def _readings(cell: str) -> list[tuple[str, str]]:
    """The path of a cell as written, and as Windows or a web address would mean it."""
    readings = [(cell, "")]
    if "\\" in cell:
        readings.append((cell.replace("\\", "/"), "with back-slashes"))
    if "%" in cell or cell.startswith("file:"):
        readings.append((unquote(cell.removeprefix("file://")), "as an address"))
    return readings


def _how(name: str, same: bool, moved: bool) -> str:
    """What it took to find a file by its path: nothing, another folder, no ending or another one."""
    if same:
        return "by its name in a subfolder" if moved else ""
    return "under another ending" if os.path.splitext(name)[1] in SUFFIXES else "without its ending"


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold().removeprefix("./")


def _stem(name: str) -> str:
    stem, ending = os.path.splitext(name)
    return stem if ending in SUFFIXES else name


def _shared_end(one: list[str], other: list[str]) -> int:
    count = 0
    for a, b in zip(reversed(one[:-1]), reversed(other[:-1]), strict=False):
        if a != b:
            break
        count += 1
    return count


def _among_masks(file: Path, root: Path) -> bool:
    return any(role_of(part) == "masks" for part in file.relative_to(root).parent.parts)


def _outside(file: Path, root: Path) -> bool:
    return not Path(os.path.abspath(file)).is_relative_to(os.path.abspath(root))


def read_metadata(
    path: Path,
    problems: Problems,
    *,
    encoding: str | None = None,
    columns: dict[str, str] | None = None,
    classes: list[str] | None = None,
    abnormal: list[str] | None = None,
    mask_map: dict[Any, str] | None = None,
    mask_threshold: float | None = None,
    mask_rule: str | None = None,
    findings: list[str] | None = None,
    target: str | None = None,
) -> Listing:
    """List the images of a ``metadata.csv``.

    Args:
        path: The table; images are looked for beside it, in ``images/``, then by name anywhere below its folder.
        encoding: Encoding of the file; None for UTF-8 (or UTF-16 with its mark).
        columns: Which column is meant by ``image``, ``label``, ``patient``, ``split``, ``mask``; near names are found.
        classes: Class names in the order of their indexes; None for the sorted labels.
        abnormal: Classes that count as abnormal.
        mask_map, mask_threshold, mask_rule: As in ``masks.rule_from_options``, when there is a ``mask`` column.
        findings: Names of several findings an image, as in ``columns.with_findings``.
        target: The column of a grade or value: the set's column ``measured``.

    Raises:
        MedcoreError: Missing columns or files, unknown labels or splits, repeated images: with row and remedy.
    """
    table, finder = _understood(path, encoding, columns or {}, problems, findings, target)
    segmented = "mask" in table.header
    classed = not (segmented or findings or target)
    require(table, ["image", "label"] if classed else ["image"], "; say which one it is: --column {0}=NAME")
    rule = rule_from_options(classes, mask_map, mask_threshold, mask_rule) if segmented else None
    labels, names = clean_labels(table, classes, problems) if classed else ([""] * len(table.rows), [])
    patients = clean_patients(table, problems) if "patient" in table.header else []
    if patients and not any(patients):
        problems.warn(f"{path.name}: column 'patient' is empty in every row")
        patients = []
    items = _items(table, finder, problems, names, labels, patients)
    _say_columns(table, len(items), problems)
    known = bool(patients) or fill_dicom_patients(items, problems)
    if not known:
        problems.warn(NO_PATIENTS)
    if classed:
        _check_classes(path, names, items, problems)
        say_one_sided([(item.columns["label"], item.columns["split"]) for item in items], names, problems)
    _say_found(finder, path, items, problems, segmented)
    lesions = any("lesion" in line and "'patient'" in line for line in problems.warnings)
    card = Card(
        name=path.parent.resolve().name or "metadata",
        title=f"Images of {path.parent.resolve().name}/{path.name}",
        classes=list(findings or names),
        abnormal=list(abnormal or []),
        task="findings" if findings else "segmentation" if segmented else "classification",
        group="lesion" if lesions else "patient" if known else "image",
        patients_known=known,
        recipe={"reader": "metadata", "table": path.name, "delimiter": table.delimiter},
    )
    return Listing(path.parent, card, items, mask_rule=rule, problems=problems, also=[path])


def _say_columns(table: Table, count: int, problems: Problems) -> None:
    used = [role for role in ROLES if role in table.header]
    extra = [name for name in table.header if name not in ROLES]
    more = f"; further {listed(extra, 8)}" if extra else ""
    problems.note(f"{table.path.name}: {count} rows, columns {', '.join(used)}{more}")


def names_images(path: Path) -> bool:
    """Whether a table lists images of its folder with labels or masks: then it may be read in place of folders."""
    look = Finder(path.parent)
    try:
        table = find_columns(
            read_table(path), {}, Problems("skip"), lambda cell: bool(look.find(cell, "image")),
            lambda cell: bool(look.find(cell, "mask")),
        )  # fmt: skip
        labelled = {"label", "mask"} & set(table.header) or len(spread_columns(table)) > 1
        cells = [cell for cell in table.column("image")[:5] if cell] if "image" in table.header else []
        return bool(labelled) and any(look.find(cell, "image") for cell in cells)
    except Ambiguous:  # reading it says so
        return True
    except MedcoreError:
        return False


def _understood(
    path: Path, encoding: str | None, asked: dict[str, str], problems: Problems, findings: list[str] | None,
    target: str | None,
) -> tuple[Table, Finder]:  # fmt: skip
    """The table with its columns named by role, and what finds its files."""
    table = read_table(path, encoding=encoding)
    for note in table.notes:
        problems.note(f"{path.name}: {note}")
    if not table.rows:
        raise MedcoreError(f"{path} has a header but no rows; it needs one row an image")
    finder = Finder(path.parent)
    look = Finder(path.parent)  # looking does not count as finding
    headless = [name for name in table.header if name.lower().endswith(tuple(SUFFIXES)) and look.find(name, "image")]
    if headless:
        raise MedcoreError(f"{path}, row 1 names an image ({headless[0]!r}): the header is missing; write image,label")
    if target in table.header:  # whatever it is called, it plays no other part
        table.header[table.header.index(target)] = TARGET
    table = find_columns(
        table, asked, problems, lambda cell: bool(look.find(cell, "image")), lambda cell: bool(look.find(cell, "mask"))
    )
    if target:
        if TARGET not in table.header:
            there = ", ".join(table.header)
            raise MedcoreError(f"{path}: there is no column {target!r}; name one of {there}, or rename one of them so")
        return table, finder
    if findings:
        if "mask" in table.header:
            raise MedcoreError(f"{path}: findings and masks are two questions; read one of them (--masks none)")
        return with_findings(table, findings, problems), finder
    spread = spread_columns(table)
    if "label" not in table.header and "mask" not in table.header and len(spread) > 1:
        labels = one_hot_labels(table, spread)
        problems.warn(f"{path.name}: the columns {listed(spread, 12)} hold one 1 a row and are read as classes")
        table.header = [*table.header, "label"]
        table.rows = [[*row, label] for row, label in zip(table.rows, labels, strict=True)]
    refuse_run_lengths(table)
    say_unread_split(table, problems)
    return table, finder


def _items(
    table: Table, finder: Finder, problems: Problems, names: list[str], labels: list[str], patients: list[str]
) -> list[ImageRow]:
    extra = extra_columns(table, "mask" in table.header)
    first_seen: dict[Path, ImageRow] = {}
    items: list[ImageRow] = []
    contradicted: dict[Path, ImageRow] = {}
    for index, row in enumerate(table.rows):
        values = dict(zip(table.header, row, strict=True))
        values["label"] = labels[index]
        if patients:
            values["patient"] = patients[index]
        place, number = table.place(index), table.numbers[index]
        try:
            item = _item(finder, values, place, names, bool(patients), "mask" in table.header)
            earlier = first_seen.setdefault(item.file, item)
            if earlier is not item:
                if not _says_the_same(item, earlier):
                    contradicted[item.file] = earlier
                _refuse_again(item, earlier, same=item.file not in contradicted)
        except MedcoreError as error:
            problems.bad(str(error), file=values["image"], row=number)
            continue
        item.columns |= {name: column[index].item() for name, column in extra.items()}
        items.append(item)
    for earlier in contradicted.values():  # which of the rows is right, nobody knows
        items.remove(earlier)
        problems.exclude(f"{earlier.place}: another row contradicts it", file=str(earlier.columns["source"]))
    if not items:
        raise MedcoreError(f"{table.path}: no row is usable; the first reason: {problems.excluded[0]['reason']}")
    return items


def _item(
    finder: Finder, values: dict[str, str], place: str, names: list[str], known: bool, segmented: bool
) -> ImageRow:
    file = _found(finder, values["image"], place, "image")
    label = values["label"]
    if label and label not in names:
        raise MedcoreError(f"{place}: label {label!r} is not among the classes {', '.join(names)}; correct it")
    if known and not values["patient"]:
        raise MedcoreError(f"{place}: patient is empty; give every image its patient, or remove the column")
    side = values.get("split", "")
    split = "" if is_missing(side) else split_name(side)
    if split is None:
        raise MedcoreError(f"{place}: split {side!r} is not known; allowed are train, val, test or nothing")
    source = Path(values["image"].replace("\\", "/")).as_posix()
    columns = {
        "label": names.index(label) if label else -1,
        "patient": values["patient"] if known else source, "split": split, "source": source, "image": file.name,
        **{name: cell for name, cell in values.items() if name == TARGET or name.startswith("finding_")},
    }  # fmt: skip
    mask = _found(finder, values["mask"], place, "mask") if segmented else None
    return ImageRow(file, columns, mask, place)


def _found(finder: Finder, cell: str, place: str, what: str) -> Path:
    if is_missing(cell):
        raise MedcoreError(f"{place}: {what} is empty; name its file")
    try:
        file = finder.find(cell, what)
    except MedcoreError as error:
        raise MedcoreError(f"{place}: {error}") from error
    if file is None:
        root = finder.root
        raise MedcoreError(
            f"{place}: {what} '{cell}' does not exist (looked in {root}, {root / (what + 's')} and for its name "
            "below); correct the path"
        )
    return file


def _says_the_same(item: ImageRow, other: ImageRow) -> bool:
    """Whether two rows of one image agree in what is asked of it, split, mask, and patient where one is given."""
    no_role = {"source", "image"} | ({"patient"} if item.columns["patient"] == item.columns["source"] else set())
    same = (item.columns[name] == other.columns[name] for name in item.columns.keys() - no_role)
    return item.mask == other.mask and all(same)


def _refuse_again(item: ImageRow, earlier: ImageRow, *, same: bool) -> None:
    what, skipped = ("and says the same", "takes the first") if same else (
        "and says another label, patient, split or mask", "leaves the image out")  # fmt: skip
    row = earlier.place.rsplit(" ", 1)[1]
    raise MedcoreError(
        f"{item.place}: image '{item.columns['source']}' stands already in row {row} {what}; "
        f"remove one of the two rows (--on-error skip {skipped})"
    )


def _say_found(finder: Finder, path: Path, items: list[ImageRow], problems: Problems, segmented: bool) -> None:
    """What it took to find the files, and what lies beside them unread."""
    for way, count in finder.ways.items():
        if way.startswith(("outside", "under another")):
            problems.warn(f"{path.name}: {count} files were found {way}")
        elif way:
            problems.note(f"{path.name}: {count} files were found {way}")
    beside = [] if segmented else sorted(entry.name for entry in os.scandir(path.parent) if entry.is_dir())
    if "tree" in vars(finder):
        rest = len(set(finder.tree.all_images()) - {file for item in items for file in (item.file, item.mask)})
        problems.note(f"{path.name}: {rest} images beside it have no row") if rest else None
    masks = [name for name in beside if role_of(name) == "masks"]
    if masks:
        problems.warn(f"{path.name} has no column 'mask': the folder {listed(masks)} is not read")


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
