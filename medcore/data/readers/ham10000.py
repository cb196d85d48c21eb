"""HAM10000: the metadata and the original images, grouped by lesion.

``hmnist_*.csv``, the tabular form at 28×28 pixels, is read by ``hmnist.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medcore.data.datasets import card as facts_of
from medcore.data.readers.files import image_files
from medcore.data.readers.listing import ImageRow, Listing, Problems, listed
from medcore.data.readers.names import role_of
from medcore.data.readers.tables import Table, read_table, require, typed
from medcore.errors import MedcoreError

METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
_OWN = ("image_id", "lesion_id", "dx")


def metadata_file(folder: Path) -> Path | None:
    """The metadata table of a HAM10000 folder, under one of its published names."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def read_ham10000(root: Path, problems: Problems) -> Listing:
    """List the images of HAM10000 (or of a part of it); the ``patient`` column holds the lesion.

    Args:
        root: Folder with the metadata and ``HAM10000_images_part_*`` (or ``images``) folders.

    Raises:
        MedcoreError: The metadata is missing or bad, an image is missing, or a diagnosis is unknown.
    """
    facts = facts_of("ham10000")
    path = metadata_file(root)
    if path is None:
        raise MedcoreError(f"'{root}' has no {METADATA[0]}; expected\n{facts.layout}")
    table = read_metadata_table(path)
    files = _images_by_id(root, problems)
    extra = {name: typed(table.column(name)) for name in table.header if name not in _OWN}
    items: list[ImageRow] = []
    seen: dict[str, int] = {}
    for index, row in enumerate(table.rows):
        values = dict(zip(table.header, row, strict=True))
        place, number, image = table.place(index), table.numbers[index], values["image_id"]
        message = _fault(values, place, files, facts.classes, seen.get(image))
        if message:
            problems.bad(message, file=image, row=number)
            continue
        seen[image] = number
        columns = {
            "label": facts.classes.index(values["dx"]), "patient": values["lesion_id"], "split": "",
            "source": files[image].relative_to(root).as_posix(), "image": image,
        }  # fmt: skip
        items.append(
            ImageRow(
                files[image], columns | {name: values[index].item() for name, values in extra.items()}, None, place
            )
        )
    unnamed = sorted(set(files) - set(table.column("image_id")))
    for name in unnamed:
        problems.exclude("no row in the metadata", file=files[name].relative_to(root).as_posix())
    if unnamed:
        problems.warn(f"{len(unnamed)} image files have no row in {path.name} ({listed(unnamed)}) and are left out")
    card = facts.as_card(name=root.resolve().name, recipe={"reader": "ham10000", "table": path.name})
    return Listing(root, card, items, problems=problems, also=[path])


def _images_by_id(root: Path, problems: Problems) -> dict[str, Path]:
    """Each image id to its file; masks are passed over, and one id in two files is read once when they are equal.

    Raises:
        MedcoreError: Two different files have one id.
    """
    found: dict[str, Path] = {}
    masks, copies = [], []
    for file in image_files(root, problems):
        parts = file.relative_to(root).parent.parts
        if any(role_of(part) in ("masks", "field") for part in parts) or file.stem.lower().endswith("_segmentation"):
            masks.append(file.name)
        elif file.stem not in found:
            found[file.stem] = file
        elif file.read_bytes() == found[file.stem].read_bytes():
            copies.append(file.name)
        else:
            one, other = found[file.stem].relative_to(root), file.relative_to(root)
            raise MedcoreError(f"'{root}': two different images have the id {file.stem} ('{one}', '{other}'); keep one")
    if masks:
        problems.warn(f"{len(masks)} masks beside the images are not read ({listed(masks, 3)})")
    if copies:
        problems.warn(f"{len(copies)} images lie there twice with equal bytes ({listed(copies, 3)}); read once")
    return found


def read_metadata_table(path: Path) -> Table:
    """The metadata rows, with the columns that they must have."""
    table = read_table(path)
    require(table, _OWN)
    if not table.rows:
        raise MedcoreError(f"{path} has a header but no rows; download it again")
    return table


def _fault(
    values: dict[str, str], place: str, files: dict[str, Path], classes: list[str], earlier: int | None
) -> str | None:
    image = values["image_id"]
    if earlier is not None:
        return f"{place}: image '{image}' stands already in row {earlier}; remove one of the two rows"
    if image not in files:
        return f"{place}: image '{image}' does not exist (looked for {image}.jpg in all folders beside the metadata)"
    if values["dx"] not in classes:
        return f"{place}: diagnosis {values['dx']!r} is not among {', '.join(classes)}"
    if not values["lesion_id"]:
        return f"{place}: lesion_id is empty; without it the images of one lesion cannot be kept together"
    return None


def as_labels(table: Table, classes: list[str]) -> np.ndarray:
    """Class indexes of all rows, -1 for an unknown diagnosis. **Shape** ``(N,)`` int64."""
    return np.array([classes.index(dx) if dx in classes else -1 for dx in table.column("dx")], dtype=np.int64)
