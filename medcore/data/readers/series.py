"""DICOM as series: whose they are, the order of the geometry, which slices become images, one grey scale a series.

Nothing that names a person, a date or a place leaves the files unless asked for (``keep_ids``): patients, series and
file names become hashes, salted by all identifiers of the set, so that no list of names can be tried against them.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.formats import DICOM_SUFFIXES, SUFFIXES, is_image, kind_of
from medcore.data.formats.dicom import GREY_RULES, DicomHeader, default_grey, measured_values
from medcore.data.formats.intensity import Range
from medcore.data.images import Header, probe
from medcore.data.options import DecodeOptions, chosen_slices
from medcore.data.readers.listing import ImageRow, Listing, Problems
from medcore.data.readers.names import split_name
from medcore.errors import MedcoreError

Grey = tuple[str, Range]  # name of the rule, values that become black and white
_SLICES_LOOKED_AT = 16  # of a series, evenly spaced, for its range of values
_WINDOW = "one scale for all: --window CENTRE WIDTH (window=(centre, width))"
_OTHER_SUFFIXES = SUFFIXES - DICOM_SUFFIXES


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM, by content; not asked where the ending names another format."""
    return file.suffix.lower() not in _OTHER_SUFFIXES and is_image(file) and kind_of(file) == "DICOM"


def fill_dicom_patients(rows: list[ImageRow], problems: Problems) -> bool:
    """Set the patients of DICOM files; False when the files are not all DICOM or do not all name a patient."""
    if not rows or not all(is_dicom(row.file) for row in rows):
        return False
    identifiers = []
    for row in rows:
        try:
            identifiers.append(probe(row.file).patient)
        except MedcoreError:
            identifiers.append("unreadable")  # reported when its pixels are read
    if not all(identifiers):
        problems.warn(f"{identifiers.count('')} of {len(rows)} DICOM files name no patient")
        return False
    known = identifiers if problems.keep_ids else [f"patient-{code}" for code in pseudonyms(identifiers)]
    for row, patient in zip(rows, known, strict=True):
        row.columns["patient"] = patient
    return True


def pseudonyms(names: Sequence[str]) -> list[str]:
    """A hash in place of each name, the same for the same name in this set and different in another set."""
    salt = hashlib.sha256("\0".join(sorted(set(names))).encode("utf-8", "replace")).digest()
    codes = {name: hashlib.sha256(salt + name.encode("utf-8", "replace")).hexdigest()[:10] for name in set(names)}
    return [codes[name] for name in names]


def hide_file_names(listing: Listing) -> None:
    """Put hashes in place of the names of DICOM files, which often are those of patients, in rows and in reports.

    Patients that were read from paths (a folder a patient, a pattern) are such names too; those of a table are not.
    """
    rows = [] if listing.problems.keep_ids else [row for row in listing.items if is_dicom(row.file)]
    names: dict[str, str] = {}
    patients = [str(row.columns.get("patient", "")) for row in rows]
    if all(patient and patient in str(row.file) for patient, row in zip(patients, rows, strict=True)):
        for row, patient, code in zip(rows, patients, pseudonyms(patients), strict=True):
            if patient != row.columns["source"]:
                row.columns["patient"] = names[patient] = f"patient-{code}"
    for row, code in zip(rows, pseudonyms([str(row.columns["source"]) for row in rows]), strict=True):
        given, name = row.columns["source"], f"dicom-{code}"
        row.columns |= {key: name for key in ("source", "image", "patient") if row.columns.get(key) == given}
        row.columns |= {key: name for key, value in row.columns.items() if value in (row.file.name, str(row.file))}
        names |= {str(row.file): name, str(given): name, row.file.name: name}
    names |= _hidden_folders(listing, rows)
    longest_first = sorted(names, key=len, reverse=True)
    problems = listing.problems
    problems.reading = [_replaced(text, names, longest_first) for text in problems.reading]
    problems.warnings = [_replaced(text, names, longest_first) for text in problems.warnings]
    for entry in problems.excluded:
        entry |= {key: _replaced(str(entry[key]), names, longest_first) for key in ("file", "reason")}


def _hidden_folders(listing: Listing, rows: list[ImageRow]) -> dict[str, str]:
    """Hashes for the folders of DICOM files, often named after patients; not for classes, splits, sites."""
    levels = ("fold", "site", "split")
    kept = {*listing.card.classes, *(str(row.columns.get(level, "")) for row in rows for level in levels)}
    places = {row.file.parent for row in rows if row.file.is_relative_to(listing.root)}
    folders = {part for place in places for part in place.relative_to(listing.root).parts}
    hidden = sorted(name for name in folders if name not in kept and split_name(name) is None)
    return dict(zip(hidden, (f"folder-{code}" for code in pseudonyms(hidden)), strict=True))


def _replaced(text: str, names: dict[str, str], order: list[str]) -> str:
    for name in order:
        if name in text:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], text)
    return text


def arrange(listing: Listing, headers: list[Header], decoding: DecodeOptions) -> list[Header]:
    """Bring slices into the order of the geometry, choose frames, share grey scales; ``listing.items`` is replaced.

    Returns:
        A header for each of the new items.

    Raises:
        MedcoreError: A file of several chosen frames has one mask.
    """
    rows, headers = _ordered(listing.items, headers, decoding, listing.problems.keep_ids)
    listing.items, headers = _framed(rows, headers, decoding, listing.problems)
    greys = shared_greys([(r.file, h.dicom, r.frame) for r, h in zip(listing.items, headers, strict=True)], decoding)
    for row, grey in zip(listing.items, greys, strict=True):
        row.grey = grey
    _warn(listing, headers, decoding)
    return headers


def _ordered(
    rows: list[ImageRow], headers: list[Header], decoding: DecodeOptions, keep_ids: bool
) -> tuple[list[ImageRow], list[Header]]:
    """Slices of a series in the places of that series, by position; a policy may leave some out."""
    series = _series(headers)
    codes = dict(zip(series, series if keep_ids else pseudonyms(list(series)), strict=True))
    order: dict[int, int] = {number: number for number in range(len(rows))}
    for name, places in series.items():
        along = sorted(places, key=lambda n: (headers[n].dicom.position, str(rows[n].columns["source"])))  # type: ignore[union-attr]
        chosen = {along[k] for k in chosen_slices(len(along), decoding.slices)}
        for place, number in zip(places, along, strict=True):
            order[place] = number
            rows[number].columns |= {"series": codes[name], "slice": along.index(number)}
            if number not in chosen:
                del order[place]
    return [rows[number] for number in order.values()], [headers[number] for number in order.values()]


def _series(headers: Iterable[Header]) -> dict[str, list[int]]:
    """Series of at least two files of one slice each: its files by number."""
    members: dict[str, list[int]] = defaultdict(list)
    for number, header in enumerate(headers):
        if header.dicom is not None and header.dicom.series and len(header.frames) == 1:
            members[header.dicom.series].append(number)
    return {name: numbers for name, numbers in members.items() if len(numbers) > 1}


def _framed(
    rows: list[ImageRow], headers: list[Header], decoding: DecodeOptions, problems: Problems
) -> tuple[list[ImageRow], list[Header]]:
    """One row a chosen frame or page."""
    made: list[tuple[ImageRow, Header]] = []
    files = frames = 0
    paged = [len(h.frames) for h in headers if h.dicom is None and len(h.frames) > 1] if decoding.slices is None else []
    if paged:
        problems.warn(
            f"{len(paged)} files hold several pages (up to {max(paged)}): only the first of each is read; "
            "--slices all, middle or n (every n-th) takes others"
        )
    for row, header in zip(rows, headers, strict=True):
        if len(header.frames) == 1 or (header.dicom is None and decoding.slices is None):
            made.append((row, header))
            continue
        chosen = [header.frames[k] for k in chosen_slices(len(header.frames), decoding.slices)]
        if row.mask is not None and len(chosen) > 1:
            raise MedcoreError(
                f"image '{row.file}' has {len(header.frames)} frames and one mask; save each frame as a file, or take "
                "one with --slices middle (slices='middle')"
            )
        files, frames = files + 1, frames + len(chosen)
        for frame in chosen:
            more = {"source": f"{row.columns['source']}#{frame + 1:04d}", "slice": header.frames.index(frame)}
            made.append((replace(row, columns={**row.columns, **more}, frame=frame), header))
    if files:
        policy = "all" if decoding.slices is None else decoding.slices
        problems.warn(
            f"{files} files hold several frames; {frames} of them became images of their patient (slices {policy!r}; "
            "others are 'all', 'middle' and n for every n-th)"
        )
    if any("slice" in row.columns for row, _ in made):
        for row, _ in made:
            row.columns.setdefault("slice", 0)
            row.columns.setdefault("series", "")
    return [row for row, _ in made], [header for _, header in made]


def shared_greys(
    files: Sequence[tuple[Path, DicomHeader | None, int | None]], decoding: DecodeOptions
) -> list[Grey | None]:
    """The grey rule for each file that has no window, the same over a series; files without a series are one.

    Args:
        files: Path, header (None: not DICOM) and frame (None: the middle one).
        decoding: A given window or value range makes the rule needless.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    if decoding.window is None and decoding.value_range is None:
        for number, (_, header, _) in enumerate(files):
            if header is not None and header.grey == "none":
                groups[header.series, header.modality].append(number)
    greys: list[Grey | None] = [None] * len(files)
    for (_, modality), numbers in groups.items():
        looked_at = numbers[:: max(1, len(numbers) // _SLICES_LOOKED_AT)]
        samples = [values for number in looked_at if (values := _sample(files[number], decoding)) is not None]
        grey = default_grey(samples, modality, "series" if len(numbers) > 1 else "image") if samples else None
        for number in numbers:
            greys[number] = grey
    return greys


def greys_of(paths: Sequence[Path], decoding: DecodeOptions) -> dict[Path, Grey]:
    """The shared grey rules of those image files that need one, for prediction."""
    files: list[tuple[Path, DicomHeader | None, int | None]] = []
    for path in paths:
        with contextlib.suppress(MedcoreError):  # said when its pixels are read
            if is_dicom(path):
                files.append((path, probe(path, decoding).dicom, None))
    greys = zip(files, shared_greys(files, decoding), strict=True)
    return {path: grey for (path, _, _), grey in greys if grey is not None}


def _sample(file: tuple[Path, DicomHeader | None, int | None], decoding: DecodeOptions) -> np.ndarray | None:
    path, header, frame = file
    middle = len(header.frames) // 2 if header is not None else 0
    try:
        values = measured_values(path, decoding.max_pixels, middle if frame is None else frame)
        return values[:: max(1, values.size // 50_000)]
    except Exception:  # a broken file is named when its pixels are read
        return None


def _warn(listing: Listing, headers: list[Header], decoding: DecodeOptions) -> None:
    """Say what was decided, and what the files say about themselves."""
    warn = listing.problems.warn
    of_dicom: list[Any] = [header.dicom for header in headers if header.dicom is not None]
    rules = Counter(row.grey[0] for row in listing.items if row.grey is not None)
    for name, count in rules.items():
        warn(f"{count} DICOM images name no window: {GREY_RULES[name]}; {_WINDOW}")
    burned = sum(header.burned_in for header in of_dicom)
    if burned:
        warn(f"{burned} DICOM images have text burned into their pixels (BurnedInAnnotation); it may name the patient")
    if decoding.window is not None or decoding.value_range is not None:
        return
    scales: dict[str, set[str]] = defaultdict(set)
    for header in of_dicom:
        if header.grey != "colour":
            scales[header.series].add(header.grey)
    several = [found for name, found in scales.items() if name and len(found) > 1]
    if several:
        warn(
            f"{len(several)} DICOM series have slices with different windows (up to {max(map(len, several))}), so that "
            "equal grey levels do not mean equal values; " + _WINDOW
        )
