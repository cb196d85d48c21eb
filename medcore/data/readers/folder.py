"""One folder a class, alone or below a split, fold, patient or site: ``CLASS/FILE``, ``SPLIT/CLASS/FILE``.

Which level of folders is what is found out from their names and from how they repeat; ``layout`` says it instead.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

from medcore.data.card import Card
from medcore.data.readers.files import Folder, beside, endings_below, nothing_read, report_files, scan
from medcore.data.readers.levels import Branch, branches_as_told, find_branches, unwrapped
from medcore.data.readers.listing import NO_PATIENTS, ImageRow, Listing, Problems, listed, say_one_sided
from medcore.data.readers.names import look_alikes, merge_spellings, no_class, role_of, spelling_key, split_name
from medcore.data.readers.series import fill_dicom_patients
from medcore.errors import MedcoreError


def read_folder(
    root: Path,
    problems: Problems,
    *,
    layout: str | None = None,
    patient_pattern: str | None = None,
    classes: list[str] | None = None,
    masks: str | None = None,
) -> Listing:
    r"""List the images of a folder with one subfolder a class, or with splits, folds, patients or sites above or below.

    Args:
        layout: What the levels of folders are, as in ``split/class``, ``patient/class``, ``class/patient`` or
            ``*/class`` (``*``: a level without a meaning); None to find it out.
        patient_pattern: Regular expression with one group that finds the patient in the relative path of a file, as
            in ``r"(P\d+)_"``; None when the paths say nothing. DICOM files bring their own patient.
        classes: Class names in the order of their indexes; None for the sorted folder names.
        masks: ``none``: files and folders that look like masks are passed over.

    Raises:
        MedcoreError: No class folders, an empty or unknown one, folders that may mean two things, or a path without
            patient.
    """
    if masks not in (None, "none"):
        raise MedcoreError(f"masks={masks!r}: no such masks were found in '{root}'")
    tree = scan(root)
    report_files(tree, problems)
    if masks == "none":
        tree = unwrapped(tree, problems)
        _drop_masks(tree, problems)
    branches = branches_as_told(tree, layout) if layout else find_branches(unwrapped(tree, problems), problems)
    branches = _among(root, branches, classes, problems) if classes else branches
    branches = [branch for branch in branches if _usable(branch, tree, problems)]
    if not layout and not classes:
        _refuse_odd(root, tree, branches)
    names, stands = _class_names(root, branches, classes, problems)
    items = []
    for branch in branches:
        label = names.index(stands[branch.says["class"]])
        items += [_item(file, root, label, branch.says) for file in branch.folder.all_images()]
    if not items:
        raise MedcoreError(f"no class folder below '{root}' holds an image that can be read")
    known = _fill_patients(items, patient_pattern, problems)
    _say_levels(branches, names, problems)
    say_one_sided([(item.columns["label"], item.columns["split"]) for item in items], names, problems)
    card = Card(
        name=root.resolve().name or "folder",
        title=f"Images of the folder {root.resolve().name}, one class a subfolder",
        classes=names,
        group="patient" if known else "image",
        patients_known=known,
        recipe={"reader": "folder", "patient_pattern": patient_pattern, "layout": layout},
    )
    return Listing(root, card, items, problems=problems)


def _among(root: Path, branches: list[Branch], classes: list[str], problems: Problems) -> list[Branch]:
    """The branches of the named classes; others are an error, or left out and listed."""
    allowed = {spelling_key(name) for name in classes}
    for branch in branches:
        if spelling_key(branch.says["class"]) not in allowed:
            name = branch.folder.path.relative_to(root).as_posix()
            problems.bad(f"'{root}': the folder {name}/ is not among the classes {', '.join(classes)}", file=name)
    return [branch for branch in branches if spelling_key(branch.says["class"]) in allowed]


def _refuse_odd(root: Path, tree: Folder, branches: list[Branch]) -> None:
    """Refuse folders that may be no class (a split, a copy, results), and a single class, which says nothing."""
    tops = sorted({branch.says["class"] for branch in branches})
    odd = {name: f"the {side} part of a split" for name in tops if (side := split_name(name))}
    odd |= {name: why for name in tops if (why := no_class(name, tops))}
    plain = [name for name in tops if name not in odd]
    if odd and len(tops) > 1:
        told = "; ".join(f"{name}/ may be a class or {why}" for name, why in odd.items())
        left = f"; --classes '{','.join(plain)}' --on-error skip leaves it out" if plain else ""
        raise MedcoreError(f"'{root}': {told}. --classes '{','.join(tops)}' reads every folder as a class{left}")
    if len(tops) == 1:
        raise MedcoreError(
            f"'{root}': all images lie in {tops[0]}/, one class only; --classes '{tops[0]}' reads it so, else put the "
            f"images into one folder a class{beside(tree)}"
        )


def _drop_masks(tree: Folder, problems: Problems) -> None:
    """Take masks out of a tree that is read as classes."""
    from medcore.data.readers.pairs import mask_partner  # segmentation reads folders, too

    dropped = 0
    for folder in tree.walk():
        out = [child for child in folder.folders if role_of(child.name) in ("masks", "field")]
        dropped += sum(len(child.all_images()) for child in out)
        folder.folders = [child for child in folder.folders if child not in out]
        stems = {file.stem for file in folder.images}
        beside = [file for file in folder.images if mask_partner(file.stem, stems)]
        dropped += len(beside)
        folder.images = [file for file in folder.images if file not in beside]
    problems.warn(f"{dropped} masks are passed over (masks='none')")


def _usable(branch: Branch, tree: Folder, problems: Problems) -> bool:
    """Whether a class folder holds images; one of papers only is passed over, an empty one is an error."""
    folder = branch.folder
    if folder.all_images():
        return True
    name = folder.path.relative_to(tree.path).as_posix()
    endings = endings_below(folder)
    if endings and all(ending in (".txt", ".md", ".csv", ".pdf", ".json", ".xlsx", ".py", ".html", ".docx")
                       for ending in endings):  # fmt: skip
        problems.note(f"the folder {name}/ holds no images: passed over")
        return False
    problems.warn(f"class folder '{name}' holds no image")
    if problems.on_error == "raise":
        raise MedcoreError(
            f"class folder '{folder.path}' {nothing_read(folder)}, or leave it out with --on-error skip "
            f"(on_error='skip')"
        )
    return False


def _class_names(
    root: Path, branches: list[Branch], wanted: list[str] | None, problems: Problems
) -> tuple[list[str], dict[str, str]]:
    """Class names in order, and each folder's name to its class; spellings that differ by side are joined."""
    together: dict[Path, list[str]] = defaultdict(list)
    for branch in branches:
        together[branch.folder.path.parent].append(branch.says["class"])
    weights = Counter({branch.says["class"]: 0 for branch in branches})
    for branch in branches:
        weights[branch.says["class"]] += len(branch.folder.all_images())
    stands = merge_spellings(weights.elements(), wanted or ())
    for name, other in stands.items():
        if name == other:
            continue
        if any({name, other} <= set(names) for names in together.values()) and name not in (wanted or ()):
            raise MedcoreError(
                f"'{root}': the folders {name!r} and {other!r} stand side by side and differ only in spelling: one "
                f"class or "
                f"two? Join them, or keep both with --classes '{other},{name},...'"
            )
        problems.warn(f"the class folders {name!r} and {other!r} are read as one class, {other!r}")
    found = sorted(set(stands.values()))
    for one, other in look_alikes(found):
        problems.warn(f"the classes {one!r} and {other!r} look alike; one class, or two?")
    return list(wanted) if wanted else found, stands


def _item(file: Path, root: Path, label: int, says: dict[str, str]) -> ImageRow:
    source = file.relative_to(root).as_posix()
    columns = {"label": label, "patient": says.get("patient", source), "split": says.get("split", ""),
               "source": source, "image": file.name}  # fmt: skip
    return ImageRow(file, columns | {level: says[level] for level in ("fold", "site") if level in says})


def _say_levels(branches: list[Branch], names: list[str], problems: Problems) -> None:
    """The reading report: which folders are what."""
    problems.note(f"classes from folders: {listed(names, 12)}")
    for level in ("split", "fold", "site", "patient"):
        found = sorted({branch.says[level] for branch in branches if level in branch.says})
        if found:
            problems.note(f"{level} from folders: {listed(found, 6)}")
    without = [branch.folder.name for branch in branches if "split" not in branch.says]
    if without and len(without) < len(branches):
        problems.note(f"folders without a split: {listed(without)}")


def _fill_patients(items: list[ImageRow], pattern: str | None, problems: Problems) -> bool:
    """Set the patient column from the pattern or from DICOM headers; False when no patient is known."""
    if pattern is not None:
        regex = compiled_pattern(pattern)
        for item in items:
            match = regex.search(item.columns["source"])
            if match is None:
                raise MedcoreError(f"patient_pattern {pattern!r} finds no patient in '{item.columns['source']}'")
            item.columns["patient"] = match.group(1)
        problems.note(f"patients from the paths by {pattern!r}: {len({item.columns['patient'] for item in items})}")
        return True
    if all(item.columns["patient"] != item.columns["source"] for item in items):
        return True
    if fill_dicom_patients(items, problems):
        return True
    problems.warn(NO_PATIENTS)
    return False


def compiled_pattern(pattern: str) -> re.Pattern[str]:
    """The pattern that finds a patient in a path; it has one group.

    Raises:
        MedcoreError: It is no regular expression, or has no group or several.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise MedcoreError(f"patient_pattern {pattern!r} is not a regular expression ({error})") from error
    if regex.groups != 1:
        raise MedcoreError(f"patient_pattern {pattern!r} needs exactly one group in parentheses, as in '(P[0-9]+)_'")
    return regex
