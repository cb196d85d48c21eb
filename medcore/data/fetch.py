"""Download a public set: resumed when the connection drops, checked, unpacked safely, never half-done.

    medcore data fetch ham10000

- Every file has the size and checksum of its card; one that differs is deleted and never unpacked.
- A dropped connection is taken up where it ended (HTTP Range), in this run or in a later one.
- Archives are unpacked into a folder beside, then moved into place.

Unpack a zip or tar that somebody else made: no path outside, no link, no device, no more bytes than agreed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

from medcore.data.datasets import DatasetCard, RemoteFile
from medcore.data.datasets import card as card_of
from medcore.data.source import data_home
from medcore.errors import MedcoreError

MAX_BYTES = 30_000_000_000  # no file of a card without a size may be larger
ATTEMPTS = 5  # without a single new byte
_CHUNK = 1 << 16  # what a dropped connection can lose
_TIMEOUT_S = (15, 60)  # connect, read
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def fetch_set(name: str, *, progress: bool = True, budget: int | None = None) -> Path:
    """Download all files of a set below ``data_home()`` and unpack them; what is there already is kept.

    Args:
        budget: Most bytes that download and unpacking together may take on the disk; None for what is free.

    Returns:
        The folder of the set.

    Raises:
        MedcoreError: The set has to be got by hand, the disk is too small, or a file is not what its card says.
    """
    facts = card_of(name)
    if facts.synthetic:
        raise MedcoreError(f"{name} is a phantom: it is made on this machine, there is nothing to download")
    if not facts.files:
        raise MedcoreError(
            f"{name} may not be downloaded by a program: {facts.how}. Put it into '{data_home() / name}' "
            f"as\n{facts.layout}"
        )
    return fetch_card(facts, data_home() / name, progress=progress, budget=budget)


def fetch_card(
    facts: DatasetCard, folder: Path, *, progress: bool = True, budget: int | None = None, pause_s: float = 2.0
) -> Path:
    """Download and unpack the files of a card into a folder; see :func:`fetch_set`.

    Args:
        budget: Most bytes on the disk; None for what is free.
        pause_s: Seconds to wait after a dropped connection.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".fetch.lock"):
        done = _read_done(folder)
        missing = [file for file in facts.files if not _is_there(file, folder, done)]
        _check_room(facts.name, folder, missing, budget)
        for file in missing:
            path = download(file, folder, progress=progress, pause_s=pause_s)
            if file.unpack_to is not None and is_archive(path):
                unpack(path, folder / file.unpack_to, budget=file.unpacked_size or 10 * path.stat().st_size)
                path.unlink()  # the checked content is in place; the archive would only double it
            done[file.name] = file.checksum
            _write_done(folder, done)
    return folder


def download(file: RemoteFile, folder: Path, *, progress: bool = True, pause_s: float = 2.0) -> Path:
    """Download one file, resuming a partial one, and check it.

    Raises:
        MedcoreError: Wrong address, size or checksum, or a connection that keeps dropping.
    """
    require_https(file.name, file.url)
    pooch.get_logger().setLevel("WARNING")  # the bar says it
    resume = _Resuming(file, folder / f"{file.name}.part", progress, pause_s)
    try:
        pooch.retrieve(file.url, file.checksum or None, file.name, folder, downloader=resume)
    except ValueError as error:
        raise MedcoreError(
            f"{file.name} from {file.url} does not have the checksum {file.checksum} of its card and was deleted; try "
            "again, and if it stays so, the published file has changed: report it"
        ) from error
    return folder / file.name


def require_https(name: str, url: str) -> None:
    """Raise a ``MedcoreError`` for an address that anybody on the way could change; this machine's own may be http."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOCAL_HOSTS:
        raise MedcoreError(f"{name}: '{url}' is not an https address; it is not downloaded")


class _Resuming:
    """A downloader for pooch that keeps what it has in a ``.part`` file and goes on from there."""

    def __init__(self, file: RemoteFile, part: Path, progress: bool, pause_s: float) -> None:
        self.file, self.part, self.progress, self.pause_s = file, part, progress, pause_s
        self.limit = file.size or MAX_BYTES

    def __call__(self, url: str, output_file: Any, _: Any, check_only: bool = False) -> None:
        idle = 0
        with tqdm(total=self.file.size, desc=self.file.name, unit="B", unit_scale=True,
                  disable=not self.progress) as bar:  # fmt: skip
            while True:
                have = self._have()
                bar.update(have - bar.n)
                complete, reason = self._read_on(url, have, bar)
                if complete:
                    break
                idle = idle + 1 if self._have() <= have else 0
                if idle >= ATTEMPTS:
                    raise MedcoreError(
                        f"{self.file.name}: the connection to {urlsplit(url).hostname} failed {ATTEMPTS} times without "
                        f"a new byte ({reason}); {self._have():,} bytes are kept, run the same command again to go on"
                    )
                time.sleep(self.pause_s)
        shutil.move(self.part, output_file)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _read_on(self, url: str, have: int, bar: Any) -> tuple[bool, str]:
        """Read from byte ``have`` to the end; False with the reason when the connection dropped."""
        if self.file.size and have == self.file.size:
            return True, ""
        headers = {"Range": f"bytes={have}-"} if have else {}
        headers["Accept-Encoding"] = "identity"  # a length that can be compared
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
                if answer.status_code == 416:  # nothing follows: the part is whole, or larger than the file
                    self.part.unlink(missing_ok=True) if self.file.size else None
                    return not self.file.size, "the kept part does not fit the file"
                if answer.status_code >= 500:
                    return False, f"HTTP {answer.status_code}"
                if answer.status_code not in (200, 206):
                    raise MedcoreError(
                        f"{self.file.name}: {url} answered HTTP {answer.status_code}; is it still there?"
                    )
                start = have if answer.status_code == 206 else 0  # a server without Range sends everything again
                total = self._total(answer, start)
                got = self._save(answer, start, bar)
        except requests.RequestException as error:
            return False, type(error).__name__
        return (got == total if total is not None else True), f"it ended after {got:,} of {total or 0:,} bytes"

    def _total(self, answer: requests.Response, start: int) -> int | None:
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else self.file.size
        if self.file.size and total != self.file.size:
            raise MedcoreError(
                f"{self.file.name}: {answer.url} offers {total:,} bytes, but the card says {self.file.size:,}; it is "
                "not downloaded, because the published file has changed"
            )
        if total is not None and total > self.limit:
            raise MedcoreError(f"{self.file.name}: {total:,} bytes are more than the limit of {self.limit:,}")
        return total

    def _save(self, answer: requests.Response, start: int, bar: Any) -> int:
        got = start
        with open(self.part, "ab" if start else "wb") as out:
            for chunk in answer.iter_content(_CHUNK):
                got += len(chunk)
                if got > self.limit:
                    out.close()
                    self.part.unlink()
                    raise MedcoreError(f"{self.file.name}: more than {self.limit:,} bytes arrived; stopped and deleted")
                out.write(chunk)
                bar.update(len(chunk))
        return got


def _check_room(name: str, folder: Path, files: list[RemoteFile], budget: int | None) -> None:
    need = sum((file.size or 0) + (file.unpacked_size or 0 if file.unpack_to is not None else 0) for file in files)
    room = shutil.disk_usage(folder).free
    limit = room if budget is None else min(room, budget)
    if need > limit:
        raise MedcoreError(
            f"{name} needs up to {need / 1e9:.1f} GB in '{folder}', but the limit is {limit / 1e9:.1f} GB; make room, "
            "raise the budget, or set MEDCORE_DATA to another disk"
        )


def _is_there(file: RemoteFile, folder: Path, done: dict[str, str]) -> bool:
    target = folder / (file.name if file.unpack_to is None else file.unpack_to)
    return done.get(file.name) == file.checksum and target.exists()


def _read_done(folder: Path) -> dict[str, str]:
    """Checksums of what was fetched and unpacked before."""
    with contextlib.suppress(OSError, ValueError):
        values = json.loads((folder / ".fetched.json").read_text())
        return {str(key): str(value) for key, value in values.items()}
    return {}


def _write_done(folder: Path, done: dict[str, str]) -> None:
    temporary = folder / ".fetched.json.part"
    temporary.write_text(json.dumps(done, indent=1))
    temporary.replace(folder / ".fetched.json")


MAX_FILES = 1_000_000
_COPY_CHUNK = 1 << 20


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
        if points_outside(member.name):
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


def points_outside(name: str) -> bool:
    """Whether the name of a file, as somebody else wrote it, could lead out of the folder that it belongs into."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name or not path.parts


def _write(archive: Path, folder: Path, files: Iterator[tuple[str, IO[bytes]]], budget: int) -> list[str]:
    written, names = 0, []
    for name, stream in files:
        name = name.replace("\\", "/")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with stream, open(target, "wb") as out:
            while chunk := stream.read(_COPY_CHUNK):
                written += len(chunk)
                if written > budget:
                    raise MedcoreError(
                        f"'{archive}' expands to more than the {budget:,} bytes that were agreed; stopped"
                    )
                out.write(chunk)
        names.append(name)
    return names
