"""Data by URL: ``memory://`` and a loopback server give what a path gives; nothing half, old or outside is read."""

from __future__ import annotations

import email.utils
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from medcore.cli import cli
from medcore.cli.reports import check_sources, with_absolute_paths
from medcore.data.card import Card
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.remote import local_copy
from medcore.errors import MedcoreError
from medcore.evaluation.predictor import read_as_trained


def folder(root: Path) -> Path:
    for number in range(6):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(path)
    return root


def toy(count: int = 5) -> PatchSet:
    images = np.random.default_rng(count).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return PatchSet.from_arrays(images, {"label": np.arange(count) % 2}, Card("toy", classes=["a", "b"]))


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A loopback server of a folder: its address, the folder, and what was asked for."""
    root, asked = tmp_path / "served", []
    root.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    http.handle_error = lambda *_: None  # type: ignore[method-assign]  # who asks only for the headers hangs up
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}", root, asked
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_folder_by_url_is_the_folder(tmp_path: Path, tmp_data: Path, memory: fsspec.AbstractFileSystem) -> None:
    here = folder(tmp_path / "photos")
    memory.put(str(here), "/bucket/photos", recursive=True)
    memory.pipe("/bucket/photos2/a/9.png", b"of another folder with the same beginning")
    there = read_set("memory://bucket/photos", progress=False)
    assert there.fingerprint == read_set(here, progress=False).fingerprint and there.card.name == "photos"
    assert not list(tmp_data.rglob("*.part"))


def test_a_copy_is_made_once_and_anew_when_the_content_changes(
    tmp_path: Path, tmp_data: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy().save(tmp_path / "x.npz")
    memory.put(str(tmp_path / "x.npz"), "/b/x.npz")
    first = local_copy("memory://b/x.npz")
    assert read_set("memory://b/x.npz").fingerprint == toy().fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get", lambda *_, **__: pytest.fail("copied twice"))
        assert local_copy("memory://b/x.npz") == first
    toy(7).save(tmp_path / "x.npz")
    memory.put(str(tmp_path / "x.npz"), "/b/x.npz")
    assert read_set("memory://b/x.npz").fingerprint == toy(7).fingerprint
    assert local_copy("memory://b/x.npz") != first


def test_shards_by_url_are_one_set(tmp_path: Path, tmp_data: Path, memory: fsspec.AbstractFileSystem) -> None:
    for number, rows in enumerate((range(2), range(2, 5))):
        toy().select(rows).save(tmp_path / f"s/set-{number:05d}.npz")
    memory.put(str(tmp_path / "s"), "/b/s", recursive=True)
    assert read_set("memory://b/s", progress=False).fingerprint == toy().fingerprint
    with pytest.raises(MedcoreError, match="first of several shards; name its folder"):
        read_set("memory://b/s/set-00000.npz")
    manifest = {"image_shape": (6, 6, 3), "preprocessing": {}}
    assert read_as_trained(manifest, "memory://b/s").fingerprint == toy().fingerprint


def test_names_that_point_outside_are_refused(tmp_data: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/b/s/a.png", b"1")
    proper = memory.store["/b/s/a.png"]
    for name in ("/b/s/../../../evil.png", "/b/s/a\\..\\..\\evil.png", "/b/s/C:evil.png"):
        memory.store[name] = proper
        with pytest.raises(MedcoreError, match="points outside"):
            local_copy("memory://b/s")
        del memory.store[name]
    with pytest.raises(MedcoreError, match="points outside"):
        local_copy("memory://b/..")
    assert not [path for path in tmp_data.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_source_that_changes_or_breaks_off_leaves_nothing(
    tmp_data: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe({"/b/s/a.png": b"1", "/b/s/b.png": b"2"})
    get = type(memory).get

    def and_then(change: object) -> None:
        def changed(self: object, *given: object, **more: object) -> None:
            get(self, *given, **more)
            change()  # type: ignore[operator]

        monkeypatch.setattr(type(memory), "get", changed)

    def breaks() -> None:
        raise ConnectionResetError("gone")

    and_then(lambda: memory.pipe("/b/s/c.png", b"3"))
    with pytest.raises(MedcoreError, match="changed while it was copied"):
        local_copy("memory://b/s")
    and_then(breaks)
    with pytest.raises(MedcoreError, match=r"memory://b/s cannot be read \(ConnectionResetError: gone\)"):
        local_copy("memory://b/s")
    assert not [path for path in tmp_data.rglob("*") if path.is_file() and path.name != ".lock"]
    monkeypatch.undo()


def test_what_cannot_be_had_is_one_line(tmp_data: Path, memory: fsspec.AbstractFileSystem) -> None:
    for url, said in (
        ("s3://bucket/x", "Install s3fs"),
        ("gs://bucket/x", "install gcsfs"),
        ("nonsense://bucket/x", "Protocol not known"),
        ("memory://bucket/nothing", "does not exist"),
        ("http://127.0.0.1:9/x.npz", r"cannot be reached \(ConnectionError\)"),
        ("http://example.org/x.npz", "not an https address"),
        ("https://me:secret@example.org/x.npz", "holds a password"),
    ):
        with pytest.raises(MedcoreError, match=said) as caught:
            read_set(url)
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_file_by_http_is_copied_once_and_anew_when_it_changes(
    tmp_data: Path, served: tuple[str, Path, list[str]]
) -> None:
    address, root, asked = served
    toy().save(root / "x y.npz")
    url = f"{address}/x%20y.npz"
    first = read_set(url, progress=False)
    assert first.fingerprint == toy().fingerprint and first.path is not None and first.path.name == "x y.npz"
    assert len(asked) == 2  # what it is, and all of it
    assert read_set(url, progress=False).path == first.path and len(asked) == 3
    toy(9).save(root / "x y.npz")
    stamp = email.utils.parsedate_to_datetime("Mon, 01 Jan 2024 00:00:00 GMT").timestamp()
    os.utime(root / "x y.npz", (stamp, stamp))
    assert read_set(url, progress=False).fingerprint == toy(9).fingerprint
    with pytest.raises(MedcoreError, match="answered HTTP 404"):
        read_set(f"{address}/none.npz")


def test_without_a_network_an_earlier_copy_is_named_but_not_taken(
    tmp_path: Path, tmp_data: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/b/x.npz", b"1")
    copy = local_copy("memory://b/x.npz")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(type(memory), "info", offline)
    with pytest.raises(MedcoreError, match=rf"no route to host.*An earlier copy is '{copy}'"):
        local_copy("memory://b/x.npz")


def test_commands_take_a_url(tmp_path: Path, tmp_data: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.put(str(folder(tmp_path / "photos")), "/bucket/photos", recursive=True)
    made = CliRunner().invoke(cli, ["data", "prepare", "memory://bucket/photos", "--out", str(tmp_path / "o.npz")])
    assert made.exit_code == 0, made.output
    assert len(PatchSet.open(tmp_path / "o.npz")) == 6
    values = with_absolute_paths({"data": "memory://bucket/photos"})
    assert values == {"data": "memory://bucket/photos"}
    check_sources({Path("06.ipynb"): values})
    with pytest.raises(MedcoreError, match="does not exist"):
        check_sources({Path("06.ipynb"): {"data": "memory://bucket/none"}})
