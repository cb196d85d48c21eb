"""The one walker: which files below a folder are images, for reading, audit and prediction alike.

- A file is an image by its ending, or by its first bytes when the ending is rare or missing (``.pgm``, ``.IMA``, none).
- Hidden and system files (``._x.png``, ``__MACOSX``, ``.ipynb_checkpoints``, ``Thumbs.db``) are passed over everywhere.
- Links are followed, once each; a link to nothing is listed as an image, so that reading it names it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medcore.data.formats import SUFFIXES, is_image
from medcore.data.readers.listing import Problems, listed
from medcore.data.readers.names import split_name, words_of

TABLES = frozenset({".csv", ".tsv", ".tab"})
_COMPANIONS = TABLES | {".xlsx", ".xls", ".ods", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".txt", ".md", ".rst",
                        ".html", ".pdf", ".docx", ".zip", ".tar", ".tgz", ".rar", ".7z", ".npz", ".py", ".ipynb", ".m",
                        ".log", ".db", ".lock"}  # fmt: skip
_PAPERS = frozenset({".xlsx", ".xls", ".ods", ".txt", ".json", ".jsonl"})
FOREIGN = {
    ".nii": "NIfTI volumes", ".gz": "NIfTI volumes or archives", ".mha": "MetaImage volumes",
    ".mhd": "MetaImage volumes", ".nrrd": "NRRD volumes", ".hdr": "Analyze volumes", ".svs": "whole slides",
    ".ndpi": "whole slides", ".mrxs": "whole slides", ".scn": "whole slides", ".vms": "whole slides",
    ".bif": "whole slides", ".czi": "microscope files", ".lif": "microscope files", ".nd2": "microscope files",
    ".h5": "HDF5 arrays", ".hdf5": "HDF5 arrays", ".mat": "MATLAB arrays", ".npy": "NumPy arrays",
    ".svg": "vector drawings", ".heic": "HEIC photographs", ".mp4": "films", ".avi": "films", ".dcmdir": "DICOM index",
}  # fmt: skip
# names that stand early in a .json of outlines, by the program or format
OUTLINES = {"COCO": ("file_name",), "LabelMe": ("shapes", "imagePath"), "VIA": ("regions", "filename")}
_SYSTEM = frozenset({"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found",
                     "thumbs.db", "desktop.ini", "dicomdir", "readme", "licence", "license"})  # fmt: skip


@dataclass
class Folder:
    """A folder and what is visible in it.

    Attributes:
        path: Where it is.
        images: Image files directly inside, sorted.
        folders: Visible folders inside, sorted by name.
        tables: Files that may be tables by their ending.
        papers: Other files that may hold labels or a split by their ending (workbooks, JSON, text).
        others: How many other files there are, by ending.
        hidden: Hidden and system files and folders, for the report.
        by_content: Images whose ending says nothing.
        fault: Why the folder could not be read.
    """

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    papers: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: list[str] = field(default_factory=list)
    by_content: list[Path] = field(default_factory=list)
    fault: str = ""

    @property
    def name(self) -> str:
        """Its name, also of ``.`` and of a link."""
        return self.path.name or self.path.resolve().name

    def walk(self) -> Iterator[Folder]:
        """This folder and everything below it, in order."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def all_images(self) -> list[Path]:
        """All images here and below, sorted by the parts of their paths."""
        return sorted((file for folder in self.walk() for file in folder.images), key=lambda file: file.parts)

    def filled(self) -> list[Folder]:
        """The folders directly inside that hold an image somewhere."""
        return [folder for folder in self.folders if any(inner.images for inner in folder.walk())]

    def child(self, *names: str) -> Folder | None:
        """The folder at a relative path."""
        here: Folder | None = self
        for name in names:
            here = next((folder for folder in here.folders if folder.path.name == name), None) if here else None
        return here


def scan(root: Path) -> Folder:
    """Look through a folder once; what cannot be read carries its fault."""
    return _scan(root, frozenset())


def _scan(path: Path, above: frozenset[tuple[int, int]]) -> Folder:
    folder = Folder(path)
    try:
        status = path.stat()
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        folder.fault = f"folder '{path}' cannot be read ({error.strerror}); allow it, or take it away"
        return folder
    place = (status.st_dev, status.st_ino)
    if place in above:  # a link to a folder above it
        return folder
    for entry in entries:
        if is_hidden(entry.name):
            folder.hidden.append(entry.name)
        elif _is_folder(entry):
            folder.folders.append(_scan(path / entry.name, above | {place}))
        else:
            _sort_file(folder, entry)
    return folder


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _sort_file(folder: Folder, entry: os.DirEntry[str]) -> None:
    ending = os.path.splitext(entry.name)[1].lower()
    path = folder.path / entry.name
    if ending in SUFFIXES and (_is_file(entry) or entry.is_symlink()):
        folder.images.append(path)
    elif ending in _COMPANIONS or ending in FOREIGN or not _is_file(entry):
        folder.others[ending or "no ending"] += 1
        folder.tables += [path] if ending in TABLES else []
        folder.papers += [path] if ending in _PAPERS else []
    elif is_image(path):
        folder.images.append(path)
        folder.by_content.append(path)
    else:
        folder.others[ending or "no ending"] += 1


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left by a system or a program."""
    return name.startswith(".") or name.lower() in _SYSTEM


def image_files(folder: Path, problems: Problems | None = None) -> list[Path]:
    """All image files below a folder, sorted by the parts of their paths.

    Args:
        problems: Says whether a folder that cannot be read is left out and listed; None: it is an error.

    Raises:
        MedcoreError: A folder cannot be read.
    """
    tree = scan(folder)
    for inner in tree.walk():
        if inner.fault:
            (problems or Problems("raise")).bad(inner.fault, file=str(inner.path))
    return tree.all_images()


def endings_below(folder: Folder) -> Counter[str]:
    """How many files that are no images lie below a folder, by ending."""
    found: Counter[str] = Counter()
    for inner in folder.walk():
        found += inner.others
    return found


def nothing_read(folder: Folder) -> str:
    """Why a folder without a readable image has none: the endings that are there, and what can be read."""
    found = endings_below(folder)
    known = sorted({f"{FOREIGN[ending]} ({ending})" for ending in found if ending in FOREIGN})
    there = ", ".join(f"{ending}: {count}" for ending, count in sorted(found.items())) or "no file"
    way = (
        f"medcore does not read {', '.join(known)}: export PNG, TIFF or DICOM images, one a slice or tile"
        if known
        else "fill it or take it away"
    )
    return f"holds no image that can be read (there: {there}; read are {', '.join(sorted(SUFFIXES))}); {way}"


def beside(folder: Folder) -> str:
    """Which files of a folder may hold the labels, and how to use them; nothing where there is none."""
    there = [*folder.tables, *(path for path in folder.papers if path.stem.lower() not in ("readme", "license"))]
    if not there:
        return ""
    if there[0].suffix.lower() in TABLES:
        return (f". {there[0].name} may hold the labels: name it in place of the folder, and its columns with --column "
                "image=NAME --column label=NAME")  # fmt: skip
    if kind := _outlines_in(there[0]):
        return (
            f". {there[0].name} holds outlines or boxes as {kind} writes them, which medcore does not read: draw them "
            "into a mask image an image (images/ and masks/), or write a metadata.csv with the columns image,label"
        )
    return f". {there[0].name} may hold the labels: save it as a .csv with the columns image,label"


def _outlines_in(path: Path) -> str:
    """Which program's outlines a ``.json`` holds, judged by the names in its first 64 kB; empty where none is known."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return ""
    with path.open("rb") as file:
        start = file.read(65_536)
    return next((kind for kind, words in OUTLINES.items() if all(f'"{word}"'.encode() in start for word in words)), "")


def _say_split_lists(folder: Folder, used: Path | None, problems: Problems) -> None:
    """Warn of lists beside the images that may say the split, by their names."""
    lists = [path for inner in folder.walk() for path in [*inner.tables, *inner.papers] if path != used]
    names = [path.name for path in lists
             if split_name(path.stem) or {"split", "splits", "fold", "folds"} & set(words_of(path.stem))]  # fmt: skip
    if names:
        problems.warn(
            f"{listed(names, 4)} beside the images may say the split: not read; a table with the columns "
            "image,label,split (or image,mask,split) would be"
        )


def report_files(folder: Folder, problems: Problems, used: Path | None = None) -> None:
    """Say which files below a folder were passed over and why, and which were known by their content.

    Args:
        used: A table that is read.
    """
    hidden = [name for inner in folder.walk() for name in inner.hidden]
    content = [file.name for inner in folder.walk() for file in inner.by_content]
    others = endings_below(folder) - Counter([used.suffix.lower()] if used else [])
    for inner in folder.walk():
        if inner.fault:
            problems.bad(inner.fault, file=str(inner.path))
    _say_split_lists(folder, used, problems)
    strange = {ending: count for ending, count in sorted(others.items()) if ending not in _COMPANIONS}
    beside = sorted(ending for ending in others if ending in _COMPANIONS)
    if strange:
        shown = ", ".join(f"{ending}: {count}" for ending, count in strange.items())
        problems.warn(f"{folder.name}: {sum(strange.values())} files are no images that can be read ({shown}); ignored")
    if content:
        problems.note(f"{len(content)} files of rare or no ending are images by their content ({listed(content, 3)})")
    if hidden:
        problems.note(f"{len(hidden)} hidden or system files passed over ({listed(hidden, 3)})")
    if beside:
        problems.note(f"{sum(others[ending] for ending in beside)} files beside the images not read ({listed(beside)})")


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
