"""What the levels of folders above and below class folders are: splits, folds, patients, sites, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from medcore.data.readers.files import Folder, beside, nothing_read
from medcore.data.readers.listing import Problems, listed
from medcore.data.readers.names import are_folds, are_patients, role_of, split_name, words_of
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
            + beside(tree)
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
            f"into one folder a class, or write a metadata.csv with the columns image,label,split{beside(tree)}"
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
            "and masks of the same names; write a metadata.csv with the columns image,label (or image,mask), or say "
            f"where the classes are: --layout class, --layout '*/class'{beside(tree)}"
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


def branches_as_told(tree: Folder, layout: str) -> list[Branch]:
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


def _say_loose(tree: Folder, problems: Problems) -> None:
    if tree.images and tree.filled():
        names = [file.name for file in tree.images]
        problems.warn(f"{len(names)} images beside the class folders have no class: not read ({listed(names, 3)})")
        tree.images = []
