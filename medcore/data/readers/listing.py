"""What every reader returns: a list of the images of a source, before any pixel is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.card import Card
from medcore.errors import MedcoreError

NO_PATIENTS = (
    "NO PATIENT INFORMATION: nothing says which images come from one patient, so every source image counts as a "
    "patient of its own. Images of one patient may stand on both sides of a split, and every result may look better "
    "than it is. Where the paths name the patient: --patient-pattern."
)


@dataclass
class ImageRow:
    """One image file and its row of the table.

    Attributes:
        file: The image.
        columns: Its table row: ``label`` (int), ``patient``, ``split``, ``source`` and any more.
        mask: Its mask, for segmentation.
        place: Where the source names it, as in ``metadata.csv, row 17``; for messages.
        mask_label: The class that every foreground pixel of the mask gets; None when the mask says it.
        frame: Frame or page of the file, counted from 0; None for its only or usual one.
        grey: Name and range of the grey rule of its DICOM series.
        parts: Its masks and their class indexes, where it may have several.
        channels: Its files, where each channel has its own.
        bytes_needed: Memory that decoding takes, about.
    """

    file: Path
    columns: dict[str, Any]
    mask: Path | None = None
    place: str = ""
    mask_label: int | None = None
    frame: int | None = None
    grey: tuple[str, tuple[float, float]] | None = None
    parts: tuple[tuple[Path, int], ...] = ()
    channels: tuple[Path, ...] = ()
    bytes_needed: int = 0

    def files(self) -> Iterator[Path]:
        """Every file that its pixels or classes come from."""
        yield from dict.fromkeys([self.file, *self.channels])
        yield from dict.fromkeys([*([self.mask] if self.mask else []), *(path for path, _ in self.parts)])


@dataclass
class ArrayRows:
    """Images that already are arrays: rows of the table and a way to stream the pixels in order."""

    columns: dict[str, np.ndarray]
    shape: tuple[int, int, int]
    chunks: Callable[[], Iterator[np.ndarray]]
    masks: np.ndarray | None = None


@dataclass
class Listing:
    """All images of a source.

    Attributes:
        root: The folder or file.
        card: Name, classes, licence, ...; the recipe, conversions and exclusions are completed on decoding.
        items: The images, in the order of the set.
        rows: In place of ``items`` when the source holds arrays.
        mask_rule: How mask values become classes, when there are masks.
        problems: Where exclusions and warnings are collected.
        also: Further files whose content decides about the result (annotation tables), for the cache key.
    """

    root: Path
    card: Card
    items: list[ImageRow] = field(default_factory=list)
    rows: ArrayRows | None = None
    mask_rule: Any = None
    problems: Problems = field(default_factory=lambda: Problems("raise"))
    also: list[Path] = field(default_factory=list)


class Problems:
    """What to do with a bad image or row: stop with an error, or leave it out and list it.

    Attributes:
        on_error: ``raise`` or ``skip``.
        keep_ids: Identifiers and file names of DICOM may reach the set.
        excluded: ``{"file", "row", "reason"}`` of everything left out.
        warnings: Sentences for the card, which every report shows.
        reading: Short lines for the card on what was understood.
    """

    def __init__(self, on_error: str, *, keep_ids: bool = False) -> None:
        if on_error not in ("raise", "skip"):
            raise MedcoreError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        self.on_error, self.keep_ids = on_error, keep_ids
        self.excluded: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.reading: list[str] = []

    def bad(self, message: str, *, file: str, row: int | None = None) -> None:
        """A bad input: raise, or exclude it."""
        if self.on_error == "raise":
            raise MedcoreError(f"{message} (or leave such images out: --on-error skip, on_error='skip')")
        self.exclude(message, file=file, row=row)

    def exclude(self, reason: str, *, file: str, row: int | None = None) -> None:
        """Leave an image out by a rule of its set, whatever ``on_error`` says; it is listed."""
        self.excluded.append({"file": file, "row": row, "reason": reason})

    def warn(self, sentence: str) -> None:
        """A sentence that every report of this set shows."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def note(self, line: str) -> None:
        """A line of the reading report: usual, but good to see."""
        if line not in self.reading:
            self.reading.append(line)


def say_one_sided(rows: Iterable[tuple[int, str]], names: Sequence[str], problems: Problems) -> None:
    """Warn of classes that some part of a given split has not: a slip of spelling, or nothing to test or learn.

    Args:
        rows: Label and split of each image.
    """
    sides: dict[str, set[int]] = {}
    for label, side in rows:
        if side and label >= 0:
            sides.setdefault(side, set()).add(label)
    every = set().union(*sides.values()) if sides else set()
    for side in sorted(sides):
        if missing := sorted(every - sides[side]):
            problems.warn(
                f"the {side} part has no image of {listed([names[label] for label in missing])}, other parts have"
            )


def listed(values: Sequence[Any], limit: int = 5) -> str:
    """The first few values as text, with the number of the rest."""
    rest = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(map(str, values[:limit])) + rest
