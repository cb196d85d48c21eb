"""Which file or folder a data source means; a URL (``s3://``, ``https://``, …) is copied once and read from there.

python -c "from medcore.data.remote import local_copy; print(local_copy('https://host/set.npz'))"

- A copy is known by its URL and by what is said of its content (ETag, checksum, time): new content, a new copy.
- A copy takes its name only when it is whole, and when the server says the same as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from medcore.data import datasets
from medcore.data.source import data_home
from medcore.errors import MedcoreError

_STAMPS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5", "md5", "checksum", "generation", "LastModified",
           "last_modified", "updated", "mtime", "modify", "created")  # fmt: skip
_TIMEOUT_S = (15, 60)  # connect, read


def find_source(source: str | os.PathLike[str]) -> Path:
    """The file or folder that a source means; a known name means the set below ``data_home()``, a URL its copy.

    Raises:
        MedcoreError: Neither a path nor a known set, or a known set or URL that is not to be had.
    """
    name = os.fspath(source)
    if not name:
        raise MedcoreError("the data source is empty; name a set, a folder, a metadata.csv or a .npz")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        return local_copy(name)
    path = Path(name).expanduser()
    if name not in datasets.CARDS:
        if path.exists():
            return path
        known = ", ".join(datasets.CARDS)
        raise MedcoreError(f"'{name}' is neither an existing file or folder nor a known set ({known})")
    for candidate in (data_home() / name / f"{name}.npz", data_home() / f"{name}.npz", data_home() / name, path):
        if candidate.exists():
            return candidate
    facts = datasets.CARDS[name]
    remedy = f"run: medcore data fetch {name}" if facts.files else facts.how
    raise MedcoreError(
        f"the set {name!r} is not on this machine (looked in '{data_home() / name}'); {remedy}. Expected layout:\n"
        f"{facts.layout}"
    )


def local_copy(url: str) -> Path:
    """The file or folder that a URL names, copied to this machine unless the same content was copied before.

    Raises:
        MedcoreError: The package of the protocol is missing, nothing is there, it cannot be reached, it changed while
            it was copied, a listed name points outside of its folder, or the disk is too small.
    """
    from filelock import FileLock

    from medcore.data.fetch import points_outside
    from medcore.data.integrity import storage_error

    parts = urlsplit(url)
    if parts.password:
        raise MedcoreError(f"the URL of {parts.hostname} holds a password, which reports would show; leave it out")
    name = PurePosixPath(unquote(parts.path)).name or parts.netloc
    if re.search(r"-00000\.npz$", name):
        raise MedcoreError(f"{url} is the first of several shards; name its folder, or give a single file another name")
    if points_outside(name):
        raise MedcoreError(f"{url}: the name {name!r} points outside of a folder; it is not copied")
    home = data_home() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".lock"):
            return _by_http(url, home, name) if parts.scheme in ("http", "https") else _by_fsspec(url, home, name)
    except OSError as error:
        raise storage_error(error, home) from error


def _by_http(url: str, home: Path, name: str) -> Path:
    import requests

    from medcore.data.fetch import download, require_https

    require_https(name, url)
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT_S, headers={"Accept-Encoding": "identity"}) as answer:
            code, said = answer.status_code, answer.headers
    except requests.RequestException as error:
        raise MedcoreError(
            f"{url} cannot be reached ({type(error).__name__}); is there a network?{_kept(home)}"
        ) from error
    if code != 200:
        raise MedcoreError(f"{url} answered HTTP {code}; is it still there, and may you read it?")
    length = said.get("Content-Length", "")
    state = _digest([said.get("ETag"), said.get("Last-Modified"), length])
    place = home / state / name
    if not place.is_file():
        place.parent.mkdir(exist_ok=True)
        _say(url, 1, int(length) if length.isdigit() else 0, place)
        download(datasets.RemoteFile(name, url, "", int(length) if length.isdigit() else None), place.parent)
    elif not (said.get("ETag") or said.get("Last-Modified")):
        print(f"medcore: nothing says whether {url} changed; the copy '{place}' is used", file=sys.stderr)
    return place


def _by_fsspec(url: str, home: Path, name: str) -> Path:
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
    except ImportError as error:  # fsspec says which package
        raise MedcoreError(f"{url} needs a package that is not installed: {error} (pip)") from error
    except ValueError as error:
        raise MedcoreError(f"{url}: {error}; known are s3, gs, https and the other protocols of fsspec") from error
    with _reachable(url, home):
        files.invalidate_cache()
        listed = _listed(files, root)
    targets = {path: _below(url, root, path) for path in listed}
    state = _digest([[str(targets[path]), facts] for path, facts in listed.items()])
    place = home / state / name
    if place.exists():
        return place
    size = sum(facts[0] or 0 for facts in listed.values())
    if size > (free := shutil.disk_usage(home).free):
        raise MedcoreError(f"{url} holds {size / 1e9:.1f} GB, but '{home}' has {free / 1e9:.1f} GB; set MEDCORE_DATA")
    _say(url, len(listed), size, place)
    for left in home.glob(".*.part"):  # of a killed run: the lock is held
        shutil.rmtree(left)
    half = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=home))
    try:
        copies = [half / name / target for target in targets.values()]
        for copy in copies:
            copy.parent.mkdir(parents=True, exist_ok=True)
        with _reachable(url, home):
            files.get(list(listed), [str(copy) for copy in copies])
            files.invalidate_cache()
            again = _listed(files, root)
        whole = [copy.is_file() and facts[0] in (None, copy.stat().st_size)
                 for copy, facts in zip(copies, listed.values(), strict=True)]  # fmt: skip
        if again != listed or not all(whole):
            raise MedcoreError(f"{url} changed while it was copied, or arrived in part; run the same command again")
        half.rename(place.parent)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    return place


def _listed(files: Any, root: str) -> dict[str, list[Any]]:
    """Path -> bytes and what the file system says of the content, by name; files only."""
    facts = files.info(root)
    found = {root: facts} if facts["type"] == "file" else dict(sorted(files.find(root, detail=True).items()))
    found = {path: facts for path, facts in found.items() if not path.endswith("/")}
    if not found:
        raise FileNotFoundError(root)
    stamps = {path: [str(facts[key]) for key in _STAMPS if facts.get(key)] for path, facts in found.items()}
    return {path: [facts.get("size"), stamps[path] or files.ukey(path)] for path, facts in found.items()}


def _below(url: str, root: str, path: str) -> PurePosixPath:
    """Where a listed file belongs in the copy: its path below the root; the root itself where that is a file."""
    from medcore.data.fetch import points_outside

    if path == root:
        return PurePosixPath()
    below = path.removeprefix(root.rstrip("/") + "/")
    if not path.startswith(root.rstrip("/") + "/") or points_outside(below):
        raise MedcoreError(f"{url}: the listed name {path!r} points outside of its folder; nothing is copied")
    return PurePosixPath(below)


@contextmanager
def _reachable(url: str, home: Path) -> Iterator[None]:
    """Whatever a file system raises, as one line: every protocol has exceptions of its own."""
    try:
        yield
    except FileNotFoundError as error:
        raise MedcoreError(f"{url} does not exist, or holds no file") from error
    except MedcoreError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise MedcoreError(f"{url} cannot be read ({reason}); is there a network, and may you read it?{_kept(home)}"
                           ) from error  # fmt: skip


def _kept(home: Path) -> str:
    """Where copies of earlier lie, to be named instead: never taken in silence, because they may be old."""
    copies = [path for path in home.glob("*/*") if not path.parent.name.startswith(".") and path.suffix != ".part"]
    newest = max(copies, key=lambda path: path.stat().st_mtime, default=None)
    return f" An earlier copy is '{newest}'" if newest else ""


def _say(url: str, count: int, size: int, place: Path) -> None:
    many = "" if count == 1 else f"{count:,} files, "
    print(f"medcore: {url} ({many}{size / 1e6:.1f} MB) is copied to '{place}'", file=sys.stderr)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]
