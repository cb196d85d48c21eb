"""Several files an image: masks of one object or class each, and the channels of nnU-Net.

- Masks of one image are joined where the layout says that they belong together: a folder an image, a folder a class
  (``masks/tumour``, ``masks/necrosis``), or ``x_mask.png`` beside ``x_mask_1.png``. Two that cover the same pixels are
  two opinions, not two parts, and are refused.
- ``case_0000.png`` and ``case_0001.png`` are two channels of one image.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medcore.data.images import Decoded, DecodeOptions, decode
from medcore.data.readers.files import Folder
from medcore.data.readers.mask_files import decode_mask
from medcore.data.readers.masks import MaskRule, grey_values
from medcore.data.readers.names import are_folds, are_patients, split_name
from medcore.errors import MedcoreError

CHANNEL = re.compile(r"_0\d{3}$")
Part = tuple[Path, str]  # a mask and its class; "" for the foreground
_MOST_SHARED = 0.5  # of a mask that may lie in others of the same class


def parts_of(
    pictures: Folder, masks: Folder, *, own_folder: bool
) -> tuple[dict[str, Path], dict[str, list[Part]]] | None:
    """Images and their several masks by one key; None where the folders are not laid out so.

    Args:
        own_folder: The folders belong to one image, as in ``CASE/images/x.png`` and ``CASE/masks/*.png``.
    """
    files, parts = pictures.all_images(), masks.all_images()
    classes = [folder.name for folder in masks.filled()]
    if len(files) == 1 and own_folder and not classes and all(files[0].stem != path.stem for path in parts):
        return {files[0].stem: files[0]}, {files[0].stem: [(path, "") for path in parts]}
    images = {file.relative_to(pictures.path).with_suffix("").as_posix(): file for file in files}
    levels = {part for key in images for part in Path(key).parts[:-1]}
    joined: dict[str, list[Part]] = defaultdict(list)
    for path in parts:
        folders = path.relative_to(masks.path).parts[:-1]
        left = [name for name in folders if name not in levels]
        place = "/".join([*(name for name in folders if name in levels), path.stem])
        key = next((place[:end] for end in range(len(place), 0, -1) if place[:end] in images and (
            end == len(place) or not place[end].isalnum())), None)  # fmt: skip
        if key is None or len(left) != 1:
            return None
        joined[key].append((path, left[0]))
    names = {name for found in joined.values() for _, name in found}
    sides = all(split_name(name) for name in names) or are_folds(sorted(names)) or are_patients(names)
    return (images, dict(joined)) if len(names) > 1 and not sides else None


def channels_of(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Files by case, where their names are those of channels: ``_0000``, ``_0001``, … of every case; else nothing.

    Photographs ``IMG_0000``, ``IMG_0001``, … look so, too: a single case says nothing by its names alone.
    """
    cases: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        cases[file.with_name(CHANNEL.sub("", file.stem))].append(file)
    numbers = {file.stem[-4:] for found in cases.values() for file in found if CHANNEL.search(file.stem)}
    regular = numbers == {f"{n:04d}" for n in range(len(numbers))} and len(numbers) > 1
    return dict(cases) if regular and all(CHANNEL.search(file.stem) for file in files) else {}


def split_channels(pictures: Folder, masks: Sequence[Folder]) -> tuple[Folder, dict[Path, tuple[Path, ...]]]:
    """The first channel of each image, and all channels of each; nothing where every image is one file.

    Args:
        masks: Folders of masks: they are called after the cases where images have channels.

    Raises:
        MedcoreError: An image lacks a channel that others have.
    """
    cases = channels_of(pictures.all_images())
    named = {file.stem for folder in masks for file in folder.all_images()}
    if not {case.name for case in cases} & named:
        return pictures, {}
    most = max(cases.values(), key=len)
    for case, files in cases.items():
        if len(files) != len(most):
            raise MedcoreError(
                f"'{pictures.path}': image '{case.name}' has the channels {', '.join(f.stem[-4:] for f in files)}, "
                f"others have {', '.join(f.stem[-4:] for f in most)}; add what is missing, or take the image away"
            )
    return Folder(pictures.path, images=[files[0] for files in cases.values()]), {
        f[0]: tuple(f) for f in cases.values()
    }


def refuse_channels(files: Sequence[Path]) -> None:
    """Refuse channels in files of their own, where every file counts as an image.

    Raises:
        MedcoreError: Several cases have the same channels.
    """
    cases = channels_of(files)
    if len(cases) > 1 and len({len(found) for found in cases.values()}) == 1:
        first = next(iter(cases.values()))
        raise MedcoreError(
            f"'{first[0]}' and '{first[1].name}' look like channels of one image, and each would count as an image; "
            "save them as one file, red, green and blue in this order, as training joined them"
        )


def chosen_files(channels: tuple[Path, ...], options: DecodeOptions) -> tuple[Path, ...]:
    """The files that become grey (one), or red, green and blue (two or three).

    Raises:
        MedcoreError: There are more than three, and nobody says which.
    """
    if options.bands is not None:
        if max(options.bands) >= len(channels):
            raise MedcoreError(
                f"image '{channels[0]}' has {len(channels)} channels, counted from 0; --bands does not fit"
            )
        return tuple(channels[band] for band in options.bands)
    if len(channels) > 3:
        raise MedcoreError(
            f"image '{channels[0]}' has {len(channels)} channels in files of their own; choose with --bands 0 (one, "
            "for grey) or --bands 0,1,2 (for red, green and blue; in Python bands=[0, 1, 2])"
        )
    return channels


def decode_channels(channels: tuple[Path, ...], options: DecodeOptions) -> Decoded:
    """The channels of an image as one: red, green, blue; blue is 0 where there are two. **Shape** ``(H, W, 1 or 3)``.

    Raises:
        MedcoreError: A file is no grey image, or of another size.
    """
    files = chosen_files(channels, options)
    planes = [decode(file, replace(options, bands=None)) for file in files]
    for file, plane in zip(files, planes, strict=True):
        if plane.pixels.shape[2] != 1 or plane.size != planes[0].size:
            what = "in colours" if plane.pixels.shape[2] != 1 else f"of another size than '{files[0].name}'"
            raise MedcoreError(f"'{file}' is {what}; channels in files of their own are grey images of one size")
    pixels = [plane.pixels for plane in planes] + [np.zeros_like(planes[0].pixels)] * (len(planes) == 2)
    notes = {note for plane in planes for note in plane.conversions} | {
        f"{len(files)} files are the channels of an image"
    }
    return replace(planes[0], pixels=np.concatenate(pixels, axis=2), conversions=tuple(sorted(notes)))


def join_masks(parts: tuple[tuple[Path, int], ...], rule: MaskRule, options: DecodeOptions) -> np.ndarray:
    """Class indexes of the masks of one image; where classes overlap the later one counts. **Shape** ``(H, W)`` uint8.

    Raises:
        MedcoreError: A mask holds several values or another size, or covers what another one of its class does.
    """
    joined: np.ndarray | None = None
    for path, label in parts:
        values = grey_values(decode_mask(path, options).pixels, path)
        found = values >= rule.threshold if rule.kind == "threshold" else values > 0
        if rule.kind != "threshold" and len(np.unique(values[found])) > 1:
            raise MedcoreError(
                f"mask '{path}' holds several values and is one of several masks of its image; each must hold 0 and "
                "one value, or say where the foreground begins: --mask-threshold 128"
            )
        joined = np.zeros(found.shape, np.uint8) if joined is None else joined
        if found.shape != joined.shape:
            raise MedcoreError(f"mask '{path}' is of another size than '{parts[0][0].name}', of the same image")
        if (found & (joined == label)).sum() > _MOST_SHARED * max(1, found.sum()):
            raise MedcoreError(
                f"mask '{path}' covers what another mask of its image does: two opinions, not two parts; keep one"
            )
        joined[found] = label
    assert joined is not None
    return joined
