"""Is a file still what it was? Hashes of content, made in parallel and remembered, so that asking twice costs nothing.

- A source is known by the content of its files: two files that were swapped are another source.
- A prepared set is compared with its checksums before a study uses it; what was checked is remembered by device, inode,
  size and times of the file, so that opening it again takes milliseconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from medcore.data.npzfile import atomic_path
from medcore.data.patchset import PatchSet
from medcore.data.source import data_home
from medcore.errors import MedcoreError

_CHUNK_BYTES = 1 << 20
_THREADS = min(8, os.cpu_count() or 1)


class Remembered:
    """Hashes of files below a folder, each with the stamp of the file that it was made from.

    They are kept in ``data_home()/checked``; where that cannot be written, nothing is remembered.
    """

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        self.file = data_home() / "checked" / f"{name}.json"
        self._known: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            known = json.loads(self.file.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}
        self._changed = False

    def get(self, path: Path) -> str | None:
        """The hash of a file that has not changed since; None when it is not known."""
        entry = self._known.get(_key(path))
        fits = isinstance(entry, list) and len(entry) == 2 and entry[0] == _stamp(path)
        return str(entry[1]) if fits and entry is not None else None

    def put(self, path: Path, value: str, stamp: list[int]) -> None:
        """Keep a hash with the stamp that the file had before it was read."""
        self._known[_key(path)] = [stamp, value]
        self._changed = True

    def save(self) -> None:
        """Write what is new, if there is a place for it."""
        if self._changed:
            with contextlib.suppress(OSError), atomic_path(self.file) as temporary:
                temporary.write_text(json.dumps(self._known), encoding="utf-8")
            self._changed = False


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:24]  # no name of a file stands there


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def content_hashes(root: Path, files: Iterable[Path]) -> list[str]:
    """A hash of the content of each file, read in parallel where it is not remembered.

    A file that is missing or cannot be read has the hash ``""``: reading it names it.
    """
    memory, files = Remembered(root), list(files)

    def look(path: Path) -> tuple[str, list[int] | None]:
        try:
            known, stamp = memory.get(path), _stamp(path)
            return (known, None) if known is not None else (_hash_file(path), stamp)
        except OSError:
            return "", None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(look, files))
    for path, (value, stamp) in zip(files, found, strict=True):
        if stamp is not None:
            memory.put(path, value, stamp)
    memory.save()
    return [value for value, _ in found]


def _hash_file(path: Path) -> str:
    """BLAKE2b of a regular file; a pipe or device is not waited for."""
    if not path.is_file():
        return ""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def open_checked(path: str | Path) -> PatchSet:
    """Open a set and compare it with its checksums, unless this very file was compared before.

    Raises:
        MedcoreError: As ``PatchSet.open``, or a byte of the file changed since it was written.
    """
    path = Path(path)
    patches = PatchSet.open(path)
    memory, stamp = Remembered(path.parent), _stamp(path)
    if memory.get(path) != patches.store_hash:
        patches.verify()
        if _stamp(path) == stamp:
            memory.put(path, patches.store_hash, stamp)
            memory.save()
    return patches


def age_of(path: Path) -> str:
    """When a file was made, and how long ago, in words."""
    made = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    minutes = int((datetime.now().astimezone() - made).total_seconds() // 60)
    age = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"
    return f"of {made:%Y-%m-%d %H:%M}, {age} old"


def clean_parts(folder: Path, stem: str) -> None:
    """Remove what a killed writer of the same file left behind; call it with the file's lock held."""
    for part in folder.glob(f".{stem}*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def storage_error(error: OSError, target: Path) -> MedcoreError:
    """One line on a folder that cannot be written to, or a full disk, with the variable that moves it."""
    reason = error.strerror or str(error)
    return MedcoreError(
        f"'{target.parent}' cannot be written to ({reason}); nothing of it was changed. Make room or allow it, or set "
        "MEDCORE_DATA to another folder"
    )
