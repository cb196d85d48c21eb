"""Download a public set: resumed when the connection drops, checked, unpacked safely, never half-done.

    medcore data fetch ham10000

- Every file has the size and checksum of its card; one that differs is deleted and never unpacked.
- A dropped connection is taken up where it ended (HTTP Range), in this run or in a later one.
- Archives are unpacked by ``unpack.py`` into a folder beside, then moved into place.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

from medcore.data.dataset_card import DatasetCard, RemoteFile
from medcore.data.info import card as card_of
from medcore.data.paths import data_home
from medcore.data.unpack import is_archive, unpack
from medcore.errors import MedcoreError

MAX_BYTES = 30_000_000_000  # no file of a card without a size may be larger
ATTEMPTS = 5  # without a single new byte
_CHUNK = 1 << 16  # what a dropped connection can lose
_TIMEOUT_S = (15, 60)  # connect, read
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def fetch(name: str, *, progress: bool = True, budget: int | None = None) -> Path:
    """Download all files of a set below ``data_home()`` and unpack them; what is there already is kept.

    Args:
        name: A set of ``info.CARDS``.
        progress: Show progress bars.
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
    """Download and unpack the files of a card into a folder; see :func:`fetch`.

    Args:
        facts: The card.
        folder: Where to.
        progress: Show progress bars.
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
    parts = urlsplit(file.url)
    if parts.scheme != "https" and parts.hostname not in _LOCAL_HOSTS:
        raise MedcoreError(f"{file.name}: '{file.url}' is not an https address; it is not downloaded")
    resume = _Resuming(file, folder / f"{file.name}.part", progress, pause_s)
    try:
        pooch.retrieve(file.url, file.checksum, file.name, folder, downloader=resume)
    except ValueError as error:
        raise MedcoreError(
            f"{file.name} from {file.url} does not have the checksum {file.checksum} of its card and was deleted; try "
            "again, and if it stays so, the published file has changed: report it"
        ) from error
    return folder / file.name


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
