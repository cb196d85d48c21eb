"""NCT-CRC-HE-100K and CRC-VAL-HE-7K: ``SUBSET/CLASS/FILE``, or one subset's ``CLASS/FILE``.

Subset to split: NCT-CRC-HE-100K (also -NONORM) is ``train``, CRC-VAL-HE-7K is ``test``, as in the publication; any
other folder beside them is ``train``, because nothing vouches for it as a test set.
"""

from __future__ import annotations

from pathlib import Path

from medcore.data.datasets import card as facts_of
from medcore.data.readers.files import image_files, subfolders
from medcore.data.readers.listing import NO_PATIENTS, ImageRow, Listing, Problems, listed
from medcore.errors import MedcoreError

_SPLITS = {"nct-crc-he-100k": "train", "nct-crc-he-100k-nonorm": "train", "crc-val-he-7k": "test"}


def is_nct_crc(root: Path) -> bool:
    """Whether a folder is one of the published subsets with class folders, or holds one."""
    classes = set(facts_of("nct-crc").classes)
    names = {folder.name for folder in subfolders(root)}
    if root.resolve().name.lower() in _SPLITS:
        return bool(names) and names <= classes
    return any(name.lower() in _SPLITS for name in names)


def read_nct_crc(root: Path, problems: Problems) -> Listing:
    """List the tiles of one or several subsets.

    Args:
        root: The folder of the subsets, or one subset.

    Raises:
        MedcoreError: A class folder is unknown, or there are no images.
    """
    facts = facts_of("nct-crc")
    single = root.resolve().name.lower() in _SPLITS
    subsets = [root] if single else subfolders(root)
    items: list[ImageRow] = []
    for subset in subsets:
        items += _subset(root, subset, facts.classes, problems)
    if not items:
        raise MedcoreError(f"no folder below '{root}' holds an image; expected\n{facts.layout}")
    empty = [name for k, name in enumerate(facts.classes) if not any(item.columns["label"] == k for item in items)]
    if empty:
        problems.warn(f"no image of class {listed(empty)}")
    problems.warn(NO_PATIENTS)
    splits = {subset.resolve().name: _split(subset) for subset in subsets}
    card = facts.as_card(name=root.resolve().name, recipe={"reader": "nct-crc", "subset_to_split": splits})
    return Listing(root, card, items, problems=problems)


def _split(subset: Path) -> str:
    return _SPLITS.get(subset.resolve().name.lower(), "train")


def _subset(root: Path, subset: Path, classes: list[str], problems: Problems) -> list[ImageRow]:
    items = []
    for folder in subfolders(subset):
        if folder.name not in classes:
            raise MedcoreError(
                f"folder '{folder}' is none of the classes {', '.join(classes)}; rename or remove it, or read the set "
                "with one folder a class under another name"
            )
        for file in image_files(folder, problems):
            source = file.relative_to(root).as_posix()
            columns = {"label": classes.index(folder.name), "patient": source, "split": _split(subset),
                       "source": source, "image": file.name, "subset": subset.resolve().name}  # fmt: skip
            items.append(ImageRow(file, columns))
    return items
