"""Unpack a zip or tar that somebody else made: no path outside, no link, no device, no more bytes than agreed."""

from __future__ import annotations

import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from medcore.errors import MedcoreError

MAX_FILES = 1_000_000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    directory: bool
    regular: bool


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar (also compressed)."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, folder: Path, *, budget: int, max_files: int = MAX_FILES) -> list[Path]:
    """Unpack all files into a folder; on any fault nothing of the archive is left there.

    Args:
        archive: A zip or tar (``.tar``, ``.tar.gz``, ...).
        folder: Where to; made when missing. A file that exists there already is replaced.
        budget: Most bytes that may be written; counted while writing, because headers can lie.
        max_files: Most members.

    Returns:
        The files, in the order of the archive.

    Raises:
        MedcoreError: A member with ``..``, an absolute path, a link or a device; more bytes or files than agreed; a
            damaged archive.
    """
    if not is_archive(archive):
        raise MedcoreError(f"'{archive}' is neither a zip nor a tar archive; download it again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", suffix=".part", dir=folder.parent) as temporary:
        try:
            names = _extract(archive, Path(temporary), budget, max_files)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise MedcoreError(f"'{archive}' is damaged or cannot be unpacked ({error}); download it again") from error
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (Path(temporary) / name).replace(target)
    return [folder / name for name in names]


def _extract(archive: Path, folder: Path, budget: int, max_files: int) -> list[str]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            entries = pack.infolist()
            _check(archive, [_zip_member(entry) for entry in entries], budget, max_files)
            pairs = ((entry.filename, pack.open(entry)) for entry in entries if not entry.is_dir())
            return _write(archive, folder, pairs, budget)
    with tarfile.open(archive) as pack:
        infos = pack.getmembers()
        _check(
            archive, [_Member(info.name, info.size, info.isdir(), info.isreg()) for info in infos], budget, max_files
        )
        return _write(archive, folder, _tar_files(pack, infos), budget)


def _zip_member(entry: zipfile.ZipInfo) -> _Member:
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    return _Member(entry.filename, entry.file_size, entry.is_dir(), kind in (0, stat.S_IFREG))


def _tar_files(pack: tarfile.TarFile, infos: list[tarfile.TarInfo]) -> Iterator[tuple[str, IO[bytes]]]:
    for info in infos:
        stream = pack.extractfile(info) if info.isreg() else None
        if stream is not None:
            yield info.name, stream


def _check(archive: Path, members: list[_Member], budget: int, max_files: int) -> None:
    """Refuse the whole archive before a byte is written."""
    if len(members) > max_files:
        raise MedcoreError(f"'{archive}' holds {len(members):,} files, more than {max_files:,}; it is not unpacked")
    seen: set[str] = set()
    for member in members:
        where = f"'{archive}', member '{member.name}'"
        path = PurePosixPath(member.name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.name or "\0" in member.name or not path.parts:
            raise MedcoreError(f"{where}: the name points outside of the folder; the archive is not unpacked")
        if not (member.regular or member.directory):
            raise MedcoreError(f"{where}: it is a link or a device, not a file; the archive is not unpacked")
        if not member.directory and str(path).lower() in seen:
            raise MedcoreError(f"{where}: the name stands twice; the archive is not unpacked")
        seen.add(str(path).lower())
    total = sum(member.size for member in members)
    if total > budget:
        raise MedcoreError(
            f"'{archive}' expands to {total:,} bytes, more than the {budget:,} that were agreed; it is not unpacked"
        )


def _write(archive: Path, folder: Path, files: Iterator[tuple[str, IO[bytes]]], budget: int) -> list[str]:
    written, names = 0, []
    for name, stream in files:
        name = name.replace("\\", "/")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with stream, open(target, "wb") as out:
            while chunk := stream.read(_CHUNK):
                written += len(chunk)
                if written > budget:
                    raise MedcoreError(
                        f"'{archive}' expands to more than the {budget:,} bytes that were agreed; stopped"
                    )
                out.write(chunk)
        names.append(name)
    return names
