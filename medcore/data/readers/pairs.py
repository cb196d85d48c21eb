"""Which files are the masks of which images: in two folders side by side, or side by side in one folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medcore.data.readers.files import Folder
from medcore.data.readers.joined import CHANNEL, Part, parts_of, split_channels
from medcore.data.readers.listing import Problems, listed
from medcore.data.readers.names import are_folds, are_patients, role_of, split_name, split_within
from medcore.errors import MedcoreError

_SUFFIX = re.compile(
    r"[ _.-]*(masks?|anno|annotations?|labels?|seg|segmentations?|gt|ground[ _-]?truth|manual|truth|[12](st|nd)HO)"
    r"[ _-]?\d*$",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^(masks?|seg|segmentation|labels?|gt|anno)[ _-]+", re.IGNORECASE)
_BOXES = {".txt": "YOLO", ".xml": "XML (Pascal VOC, Aperio, ASAP)", ".json": "COCO"}
_LOOKED_AT = 3  # files of a folder that are opened to see whether they hold masks
_FEW_VALUES = 4


@dataclass
class Pairs:
    """Images with their masks.

    Attributes:
        images: Key to image file; keys are relative paths without ending, or what is common to both names.
        masks: Key to mask file.
        above: The folders between the root and these images.
        split: The split that the folders' own names say.
        where: For messages: where masks were looked for.
        parts: Key to all masks of an image and their classes, where some image has several.
        channels: First file to all files of an image whose channels are files of their own.
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    above: tuple[str, ...] = ()
    split: str = ""
    where: str = ""
    parts: dict[str, list[Part]] = field(default_factory=dict)
    channels: dict[Path, tuple[Path, ...]] = field(default_factory=dict)


@dataclass
class _Roles:
    images: list[Folder] = field(default_factory=list)
    masks: list[Folder] = field(default_factory=list)
    others: list[Folder] = field(default_factory=list)


def find_pairs(tree: Folder, images: str | None = None, masks: str | None = None) -> list[Pairs]:
    """All images with masks below a folder, in two folders or side by side.

    Args:
        images: Name of the folders of images; None for the usual names.
        masks: Name of the folders of masks, or what a mask's name ends with; None for the usual ones.

    Raises:
        MedcoreError: Several folders may be the masks of one, one image has several masks, or a name is not there.
    """
    named = {folder.name for folder in tree.walk()} | {
        folder.path.relative_to(tree.path).as_posix() for folder in tree.walk()
    }
    suffix = masks if masks and masks not in named else None
    if images and images not in named:
        raise MedcoreError(f"images={images!r}: there is no such folder in '{tree.path}'")
    found = [] if suffix else _in_folders(tree, (), images, masks)
    found = found or _side_by_side(tree, suffix)
    if masks and not found:
        raise MedcoreError(f"masks={masks!r}: no folder of '{tree.path}' is called so, and no mask's name ends so")
    return found


def _in_folders(folder: Folder, above: tuple[str, ...], images: str | None, masks: str | None) -> list[Pairs]:
    roles = _roles(folder, images, masks)
    found: list[Pairs] = []
    for given in roles.images if roles.masks else []:
        pictures, channels = split_channels(given, roles.masks)
        own = bool(above) and not split_name(above[-1])
        several = [(m, joined) for m in roles.masks if (joined := parts_of(pictures, m, own_folder=own))]
        if len(several) == 1:
            mask_folder, (files, parts) = several[0]
            first = {key: found[0][0] for key, found in parts.items()}
            found.append(Pairs(files, first, above, split_within(given.name), f"'{mask_folder.path}'", parts, channels))
            continue
        fit = _masks_of(pictures, roles.masks)
        if len(fit) > 1:
            raise MedcoreError(
                f"'{folder.path}': {listed([m.name for m in fit])} may all be the masks of {pictures.name}/; say "
                f"which: "
                f"--masks '{fit[0].name}' (in Python masks={fit[0].name!r})"
            )
        if fit:
            keyed = _matched(pictures, fit[0])
            found.append(Pairs(*keyed, above, split_within(given.name), f"'{fit[0].path}'", channels=channels))
    if not found:
        return [pair for child in folder.filled() if child not in roles.masks
                for pair in _in_folders(child, (*above, child.name), images, masks)]  # fmt: skip
    return found


def _roles(folder: Folder, images: str | None, masks: str | None) -> _Roles:
    """Which folders hold images and which masks, by what the user says or by their names."""
    roles = _Roles()
    for child in folder.filled():
        role = role_of(child.name)
        if masks is not None:
            is_mask = child.name == masks or child.path.as_posix().endswith("/" + masks)
            role = "masks" if is_mask else "" if role == "masks" else role
        if images is not None:
            role = "images" if child.name == images else "" if role == "images" else role
        {"images": roles.images, "masks": roles.masks}.get(role, roles.others).append(child)
    plain = [child for child in roles.others if role_of(child.name) != "field" and not split_name(child.name)]
    if roles.masks and not roles.images:
        if folder.images:
            roles.images.append(Folder(folder.path, images=folder.images))
        elif len(plain) == 1 and _masks_of(plain[0], roles.masks):
            roles.images.append(plain[0])
            roles.others.remove(plain[0])
    return roles


def _masks_of(pictures: Folder, masks: Sequence[Folder]) -> list[Folder]:
    """The mask folders whose files fit: of the same split by name, and with at least half of the names in common."""
    side = split_within(pictures.name)
    same = [m for m in masks if split_within(m.name) == side]
    fit = []
    for candidate in same or ([] if any(split_within(m.name) for m in masks) else masks):
        keys, others = _matched(pictures, candidate)
        if keys and len(set(keys) & set(others)) >= 0.5 * min(len(keys), len(others)):
            fit.append(candidate)
    return fit


def _matched(pictures: Folder, masks: Folder) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and masks by the key that fits most of both."""
    ways: list[tuple[Callable[[str], str], Callable[[str], str]]] = [
        (_same, _without_suffix),
        (lambda stem: CHANNEL.sub("", stem), _without_suffix),
        (_same, lambda stem: _PREFIX.sub("", stem)),
        (_between(pictures), _between(masks)),
    ]
    best: tuple[int, dict[str, Path], dict[str, Path]] | None = None
    for of_image, of_mask in ways:
        for flat in (False, True):
            one, other = _keyed(pictures, of_image, flat), _keyed(masks, of_mask, flat)
            if one is None or other is None:
                continue
            common = len(set(one) & set(other))
            if best is None or common > best[0]:
                best = (common, one, other)
    if best is None or best[0] == 0:
        return _named_once(pictures, _same), _named_once(masks, _without_suffix)
    if best[0] < min(len(pictures.all_images()), len(masks.all_images())):
        for of_image, of_mask in ways[:1]:  # a name that stands twice is the reason, when there is one
            _named_once(pictures, of_image), _named_once(masks, of_mask)
    return best[1], best[2]


def _same(stem: str) -> str:
    return stem


def _without_suffix(stem: str) -> str:
    return _SUFFIX.sub("", stem) or stem


def _between(folder: Folder) -> Callable[[str], str]:
    """What is left of a stem without the start and end that all files of a folder share (digits stay)."""
    stems = [file.stem for file in folder.all_images()]
    start = re.sub(r"\d+$", "", _shared(stems)) if len(stems) > 1 else ""
    ends = [stem[len(start) :][::-1] for stem in stems]
    end = re.sub(r"\d+$", "", _shared(ends)) if len(stems) > 1 else ""
    return lambda stem: stem[len(start) : len(stem) - len(end)] if end else stem[len(start) :]


def _shared(names: Sequence[str]) -> str:
    low, high = min(names), max(names)
    same = next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:same]


def _keyed(folder: Folder, key: Callable[[str], str], flat: bool) -> dict[str, Path] | None:
    """Files by key; None when two have the same."""
    found: dict[str, Path] = {}
    for file in folder.all_images():
        place = "" if flat else file.relative_to(folder.path).parent.as_posix() + "/"
        name = (place.removeprefix("./")) + key(file.stem)
        if name in found:
            return None
        found[name] = file
    return found


def _named_once(folder: Folder, key: Callable[[str], str]) -> dict[str, Path]:
    """Files by relative path and key.

    Raises:
        MedcoreError: Two files have the same name but for their endings.
    """
    found: dict[str, Path] = {}
    for file in folder.all_images():
        name = (file.relative_to(folder.path).parent / key(file.stem)).as_posix()
        if name in found:
            raise MedcoreError(
                f"'{found[name].name}' and '{file.name}' in '{folder.path}' have the same name; keep one"
            )
        found[name] = file
    return found


def report_unpaired(tree: Folder, pairs: Sequence[Pairs], problems: Problems) -> None:
    """Say which images are in no pair of folders: without masks, or of a mask folder that is not used."""
    used = {file for pair in pairs for file in [*pair.images.values(), *pair.masks.values()]}
    used |= {path for pair in pairs for parts in pair.parts.values() for path, _ in parts}
    used |= {path for pair in pairs for files in pair.channels.values() for path in files}
    rest = Counter(f.parent.relative_to(tree.path).as_posix() + "/" for f in tree.all_images() if f not in used)
    if rest:
        problems.warn(
            f"{sum(rest.values())} images belong to no images and masks: not read ({listed(sorted(rest), 4)})"
        )


def mask_partner(stem: str, stems: set[str], suffix: str | None = None) -> str:
    """The image among ``stems`` that a name is the mask of (``x_mask`` of ``x``); nothing when it is none."""
    if suffix is not None:
        stem = stem if stem.endswith(suffix) else re.sub(r"[ _-]?\d+$", "", stem)
        base = stem.removesuffix(suffix) if stem.endswith(suffix) else ""
        return base if base in stems else ""
    match = _SUFFIX.search(stem)
    base = stem[: match.start()] if match else _PREFIX.sub("", stem)
    return base if base and base != stem and base in stems else ""


def _side_by_side(tree: Folder, suffix: str | None) -> list[Pairs]:
    """Images with masks in the same folder, by the ends of their names."""
    found: list[Pairs] = []
    for folder in tree.walk():
        stems = {file.stem for file in folder.images}
        images: dict[str, Path] = {}
        masks: dict[str, Path] = {}
        parts: dict[str, list[Part]] = {}
        for file in folder.images:
            base = mask_partner(file.stem, stems, suffix)
            if base and base in masks and _numbered(file.stem, masks[base].stem):
                parts[base].append((file, ""))
                continue
            if base and base in masks:
                raise MedcoreError(
                    f"image '{base}' in '{folder.path}' has several masks ({masks[base].name}, {file.name}); join "
                    f"them into "
                    "one file, or say what the name of the right one ends with: --masks "
                    f"'{masks[base].stem.removeprefix(base)}'"
                )
            if base:
                masks[base], parts[base] = file, [(file, "")]
            elif suffix is None or not _SUFFIX.search(file.stem):
                images[file.stem] = file
        if masks:
            above = folder.path.relative_to(tree.path).parts
            several = parts if any(len(each) > 1 for each in parts.values()) else {}
            found.append(Pairs(images, masks, above, where=f"'{folder.path}'", parts=several))
    return found


def _numbered(stem: str, other: str) -> bool:
    """Whether two names of masks differ by a number only: ``x_mask`` and ``x_mask_1``, parts of one mask."""
    plain = [re.sub(r"[ _-]?\d+$", "", name) for name in (stem, other)]
    return plain[0] == plain[1] and plain[0].lower().endswith(("mask", "masks"))


def levels_above(pairs: Sequence[Pairs]) -> tuple[list[dict[str, str]], list[str]]:
    """What the folders above each group of images say (split, fold, patient), and the names that nothing explains."""
    says: list[dict[str, str]] = [{"split": pair.split} if pair.split else {} for pair in pairs]
    strange: list[str] = []
    for depth in range(max((len(pair.above) for pair in pairs), default=0)):
        names = sorted({pair.above[depth] for pair in pairs if len(pair.above) > depth})
        for what, one in zip(pairs, says, strict=True):
            if len(what.above) > depth:
                _explain(what.above[depth], names, one)
        unknown = [n for n in names if not split_name(n)]
        if len(names) > 1 and not (are_folds(names) or are_patients(names)):
            strange += unknown
    return says, strange


def _explain(name: str, names: Sequence[str], says: dict[str, str]) -> None:
    if side := split_name(name):
        says["split"] = side
        if name.lower() in ("testa", "testb"):
            says["subset"] = name
    elif are_folds(names):
        says["fold"] = name
    elif are_patients(names):
        says["patient"] = name
    elif len(names) > 1:
        says["folder"] = name


def refuse_boxes(tree: Folder) -> None:
    """Refuse boxes or outlines in text files (YOLO, Pascal VOC, COCO), which are no classes and no masks."""
    for folder in tree.walk():
        names = {role_of(child.name): child for child in folder.folders}
        boxes = names.get("masks")
        if "images" not in names or boxes is None or any(inner.images for inner in boxes.walk()):
            continue
        endings = {ending for inner in boxes.walk() for ending in inner.others}
        kinds = [kind for ending, kind in _BOXES.items() if ending in endings]
        if kinds:
            raise MedcoreError(
                f"'{boxes.path}' holds boxes or outlines in {' and '.join(kinds)} files, which medcore does not read: "
                "it needs a class an image (folders or metadata.csv) or a mask image an image (images/ and masks/)"
            )


def refuse_twins(folders: Sequence[Folder]) -> None:
    """Refuse two folders of equal file names of which one holds masks by its pixels: they are no two classes."""
    for one in folders:
        stems = {file.stem for file in one.images}
        for other in folders:
            common = stems & {file.stem for file in other.images}
            if one is other or len(common) < 0.8 * len(stems) or len(common) < _LOOKED_AT:
                continue
            if _looks_like_masks(other) and not _looks_like_masks(one):
                raise MedcoreError(
                    f"'{one.path.parent}': {one.name}/ and {other.name}/ have equal file names, and {other.name}/ "
                    f"looks like masks: say --images '{one.name}' --masks '{other.name}', or --layout class if both "
                    "are classes"
                )


def _looks_like_masks(folder: Folder) -> bool:
    from medcore.data.images import decode

    try:
        values = [np.unique(decode(file).pixels.reshape(-1, 3 if decode(file).pixels.shape[2] == 3 else 1), axis=0)
                  for file in folder.images[:_LOOKED_AT]]  # fmt: skip
    except MedcoreError:
        return False
    return bool(values) and all(len(value) <= _FEW_VALUES for value in values)
