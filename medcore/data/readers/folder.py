"""One folder a class, alone or below a split, fold, patient or site: ``CLASS/FILE``, ``SPLIT/CLASS/FILE``.

Which level of folders is what is found out from their names and from how they repeat; ``layout`` says it instead.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medcore.data.card import Card
from medcore.data.readers.files import Folder, endings_below, nothing_read, report_files, scan
from medcore.data.readers.listing import NO_PATIENTS, ImageRow, Listing, Problems, listed
from medcore.data.readers.names import (
    are_folds,
    are_patients,
    look_alikes,
    merge_spellings,
    role_of,
    spelling_key,
    split_name,
    words_of,
)
from medcore.data.readers.series import fill_dicom_patients
from medcore.errors import MedcoreError

LEVELS = ("class", "split", "patient", "fold", "site", "*")


@dataclass
class Branch:
    """A folder of images and what the folders above it say.

    Attributes:
        folder: Everything below it belongs to it.
        says: ``class``, ``split``, ``patient``, ``fold`` or ``site`` to the name of the folder.
    """

    folder: Folder
    says: dict[str, str] = field(default_factory=dict)


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
        _drop_masks(tree, problems)
    branches = _as_told(tree, layout) if layout else find_branches(unwrapped(tree, problems), problems)
    allowed = {spelling_key(name) for name in classes or ()}
    unknown = sorted({b.says["class"] for b in branches if allowed and spelling_key(b.says["class"]) not in allowed})
    if unknown:
        raise MedcoreError(f"'{root}': folders {listed(unknown)} are not among the classes {', '.join(classes or ())}")
    branches = [branch for branch in branches if _usable(branch, tree, problems)]
    names, stands = _class_names(root, branches, classes, problems)
    items = []
    for branch in branches:
        label = names.index(stands[branch.says["class"]])
        items += [_item(file, root, label, branch.says) for file in branch.folder.all_images()]
    if not items:
        raise MedcoreError(f"no class folder below '{root}' holds an image that can be read")
    known = _fill_patients(items, patient_pattern, problems)
    _say_levels(branches, names, problems)
    card = Card(
        name=root.resolve().name or "folder",
        title=f"Images of the folder {root.resolve().name}, one class a subfolder",
        classes=names,
        group="patient" if known else "image",
        patients_known=known,
        recipe={"reader": "folder", "patient_pattern": patient_pattern, "layout": layout},
    )
    return Listing(root, card, items, problems=problems)


def unwrapped(tree: Folder, problems: Problems) -> Folder:
    """The folder inside the folder, when there is nothing else (an archive unpacked twice)."""
    while True:
        filled = tree.filled()
        if len(filled) != 1 or tree.images or not filled[0].filled() or split_name(filled[0].name):
            return tree
        problems.warn(f"the folder {filled[0].name}/ is the only one inside {tree.name}/: it is read in its place")
        tree = filled[0]


def find_branches(tree: Folder, problems: Problems) -> list[Branch]:
    """The class folders of a tree, with what stands above and below them.

    Raises:
        MedcoreError: There are none, or the folders may mean two things.
    """
    filled = tree.filled()
    splits = _split_folders(filled)
    if splits:
        return _below_splits(tree, splits, problems)
    if are_folds([folder.name for folder in filled]) and all(folder.filled() for folder in filled):
        problems.warn(
            f"the folders {listed([folder.name for folder in filled])} are read as folds (column 'fold'), not as a "
            f"split"
        )
        return [_with(branch, "fold", folder.name) for folder in filled for branch in find_branches(folder, problems)]
    _say_loose(tree, problems)
    if not filled:
        raise MedcoreError(
            f"'{tree.path}' has no class folders"
            + (f" and {nothing_read(tree)}" if not tree.images else f", but {len(tree.images)} images side by side")
            + "; put the images into one folder a class, or write a metadata.csv with the columns image,label"
        )
    return _by_levels(tree, filled, problems)


def _split_folders(filled: Sequence[Folder]) -> list[Folder]:
    """Those that are parts of a split: all of them, or those with class folders inside when others stand beside."""
    named = [folder for folder in filled if split_name(folder.name)]
    if len(named) == len(filled):
        return named
    named = [folder for folder in named if folder.filled()]
    trains = any(split_name(folder.name) == "train" for folder in named)
    return named if trains or len(named) > 1 else []


def _below_splits(tree: Folder, splits: list[Folder], problems: Problems) -> list[Branch]:
    others = [folder for folder in tree.filled() if folder not in splits]
    for folder in others:
        count = len(folder.all_images())
        if set(words_of(folder.name)) & {"eval", "evaluation"} and folder.filled():
            raise MedcoreError(
                f"'{folder.path}' may be the validation or the test part; call it val or test, or move it away"
            )
        sides = listed([side.name for side in splits])
        problems.warn(f"the folder {folder.name}/ ({count} images) stands beside {sides} and "
                      "is no part of a split: not read")  # fmt: skip
    for folder in tree.folders:
        if split_name(folder.name) and folder not in splits and folder not in others:
            problems.warn(f"the folder {folder.name}/ holds no images")
    _say_loose(tree, problems)
    branches = []
    for folder in splits:
        inner = unwrapped(folder, problems)
        while len(inner.filled()) == 1 and not inner.images and role_of(inner.filled()[0].name) == "images":
            inner = inner.filled()[0]
        if not inner.filled():
            problems.warn(f"{folder.name}/: {len(inner.images)} images without class folders have no label: not read")
            continue
        side = split_name(folder.name) or ""
        branches += [_with(branch, "split", side) for branch in find_branches(inner, problems)]
    if not branches:
        raise MedcoreError(
            f"'{tree.path}': {listed([folder.name for folder in splits])} hold images without class folders; put them "
            f"into "
            "one folder a class, or write a metadata.csv with the columns image,label,split"
        )
    return branches


def _by_levels(tree: Folder, filled: list[Folder], problems: Problems) -> list[Branch]:
    """Classes, and a level of patients, sites or splits above or below them."""
    tops = [folder.name for folder in filled]
    inner = {folder.name: [child.name for child in folder.filled()] for folder in filled}
    _refuse_roles(tree, filled, inner)
    within = sorted({name for names in inner.values() for name in names})
    deep = [name for name in tops if inner[name] and not _folder(filled, name).images]
    if within and len(deep) == len(tops) and all(split_name(name) for name in within):
        problems.warn(f"the folders {listed(within)} inside each class are read as its split")
        return [Branch(child, {"class": top.name, "split": split_name(child.name) or ""})
                for top in filled for child in top.filled()]  # fmt: skip
    shared = [name for name in within if sum(name in names for names in inner.values()) > 1]
    if within and are_patients(tops) and not are_patients(within) and (shared or len(tops) == 1):
        problems.warn(f"the {len(tops)} folders {listed(tops, 3)} are read as patients, {listed(within)} as classes")
        return [Branch(child, {"class": child.name, "patient": top.name}) for top in filled for child in top.filled()]
    if not within and are_patients(tops):
        raise MedcoreError(
            f"'{tree.path}': the folders {listed(tops, 3)} look like patients, and nothing says the classes; write a "
            "metadata.csv with the columns image,label,patient, or say --layout class if these are the classes"
        )
    if len(shared) > 1 and not are_patients(within):
        if len(tops) > 1:
            raise MedcoreError(
                f"'{tree.path}': the classes may be {listed(tops, 4)} (the outer folders) or {listed(within, 4)} "
                f"(inside each "
                "of them); say which: --layout 'class/*' or --layout '*/class'"
            )
    if are_patients(within) and all(inner[name] or not _folder(filled, name).images for name in tops):
        problems.warn(f"the folders inside the classes ({listed(within, 3)}) are read as patients")
        loose = [Branch(Folder(top.path, images=top.images), {"class": top.name}) for top in filled if top.images]
        inside = [(top, child) for top in filled for child in top.filled()]
        return [Branch(child, {"class": top.name, "patient": child.name}) for top, child in inside] + loose
    if within:
        say = problems.warn if len(within) > 1 else problems.note
        say(f"the folders inside the classes ({listed(within, 4)}) are taken for no classes and no patients; --layout "
            "'class/patient' or '*/class' says otherwise")  # fmt: skip
    empty = [folder for folder in tree.folders if folder not in filled]
    return [Branch(folder, {"class": folder.name}) for folder in [*filled, *empty]]


def _refuse_roles(tree: Folder, filled: Sequence[Folder], inner: dict[str, list[str]]) -> None:
    """Refuse folders named as images or masks, here or inside, and twins: they are no classes."""
    from medcore.data.readers.pairs import refuse_twins  # pairs reads folders, too

    named = [folder.name for folder in filled if role_of(folder.name) in ("images", "masks")]
    inside = sorted({name for names in inner.values() for name in names if role_of(name) == "masks"})
    if inside or (named and (len(named) == len(filled) or any(role_of(name) == "masks" for name in named))):
        raise MedcoreError(
            f"'{tree.path}': the folders {listed(named or inside)} are no classes by their names, and hold no images "
            f"and "
            "masks of the same names; write a metadata.csv with the columns image,label (or image,mask), or say where "
            "the "
            "classes are: --layout class, --layout '*/class'"
        )
    refuse_twins([folder for folder in filled if folder.images])


def _folder(folders: Sequence[Folder], name: str) -> Folder:
    return next(folder for folder in folders if folder.name == name)


def _with(branch: Branch, level: str, name: str) -> Branch:
    if branch.says.get(level, name) != name:
        raise MedcoreError(
            f"'{branch.folder.path}' lies in {level} {name} and in {level} {branch.says[level]}; which is it? Move it"
        )
    return Branch(branch.folder, {level: name, **branch.says})


def _as_told(tree: Folder, layout: str) -> list[Branch]:
    """The branches of a layout such as ``patient/class``.

    Raises:
        MedcoreError: A level is unknown, there is no class, or the folders are less deep.
    """
    levels = [level.strip() for level in layout.strip("/").split("/")]
    if levels.count("class") != 1 or any(level not in LEVELS for level in levels):
        raise MedcoreError(f"layout {layout!r} must name levels of {', '.join(LEVELS)}, class once: as in split/class")
    branches = [Branch(tree)]
    for level in levels:
        branches = [Branch(child, branch.says if level == "*" else {**branch.says, level: child.name})
                    for branch in branches for child in branch.folder.filled()]  # fmt: skip
    if not branches:
        raise MedcoreError(f"'{tree.path}' has no {len(levels)} levels of folders, as layout {layout!r} needs")
    for branch in branches:
        if "split" in branch.says and (side := split_name(branch.says["split"])) is None:
            raise MedcoreError(
                f"'{branch.folder.path}': {branch.says['split']!r} is no split; allowed are train, val, test"
            )
        elif "split" in branch.says:
            branch.says["split"] = side or ""
    return branches


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
    beside: dict[Path, list[str]] = defaultdict(list)
    for branch in branches:
        beside[branch.folder.path.parent].append(branch.says["class"])
    weights = Counter({branch.says["class"]: 0 for branch in branches})
    for branch in branches:
        weights[branch.says["class"]] += len(branch.folder.all_images())
    stands = merge_spellings(weights.elements(), wanted or ())
    for name, other in stands.items():
        if name == other:
            continue
        if any({name, other} <= set(names) for names in beside.values()) and name not in (wanted or ()):
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


def _say_loose(tree: Folder, problems: Problems) -> None:
    if tree.images and tree.filled():
        names = [file.name for file in tree.images]
        problems.warn(f"{len(names)} images beside the class folders have no class: not read ({listed(names, 3)})")
        tree.images = []


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
