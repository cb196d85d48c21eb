"""Downloads against a loopback server that lies, drops and resumes; archives that must not be unpacked."""

import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medcore.data.datasets import DatasetCard, RemoteFile
from medcore.data.fetch import download, fetch_card, fetch_set, unpack
from medcore.errors import MedcoreError

CONTENT = bytes(range(256)) * 4000


class Server:
    """Serves ``files``; ``drop_after`` bytes it closes the connection, ``drops`` times."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.drops, self.drop_after, self.ranges_allowed, self.claim = 0, 0, True, None
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # a client that hangs up is part of the test
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        self.requests.append(wanted)
        content = self.files.get(handler.path.strip("/"))
        if content is None:
            handler.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges_allowed else 0
        body = content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(self.claim if self.claim is not None else len(body)))
        handler.end_headers()
        if self.drops > 0:
            self.drops -= 1
            handler.wfile.write(body[: self.drop_after])
            handler.wfile.flush()
            handler.connection.shutdown(2)
            return
        handler.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def remote(server: Server, content: bytes = CONTENT, name: str = "data.bin", **changes: object) -> RemoteFile:
    server.files[name] = content
    values = {"name": name, "url": server.url + name, "checksum": "sha256:" + hashlib.sha256(content).hexdigest(),
              "size": len(content)}  # fmt: skip
    return RemoteFile(**{**values, **changes})  # type: ignore[arg-type]


def get(file: RemoteFile, folder: Path) -> Path:
    return download(file, folder, progress=False, pause_s=0)


def left(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    file = remote(server)
    assert get(file, tmp_path).read_bytes() == CONTENT
    assert get(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == [""] and left(tmp_path) == ["data.bin"]


@pytest.mark.parametrize("sized", [True, False])
def test_a_dropped_connection_is_resumed(server: Server, tmp_path: Path, sized: bool) -> None:
    server.drops, server.drop_after = 3, 300_000
    assert get(remote(server, size=len(CONTENT) if sized else None), tmp_path).read_bytes() == CONTENT
    assert server.requests[0] == "" and all(text.startswith("bytes=") for text in server.requests[1:])
    starts = [int(text[6:-1]) for text in server.requests[1:]]
    assert len(starts) == 3 and starts == sorted(starts) and starts[0] > 0


def test_a_later_run_goes_on_where_the_first_one_ended(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:500_000])
    assert get(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=500000-"]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.drops, server.drop_after, server.ranges_allowed = 1, 300_000, False
    assert get(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_connection_that_never_delivers_ends_in_an_error_that_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.drops, server.drop_after = 1000, 0
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(MedcoreError, match=r"failed 5 times without a new byte.*1,000 bytes are kept"):
        get(remote(server), tmp_path)
    assert left(tmp_path) == ["data.bin.part"]


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match=r"data\.bin.*does not have the checksum sha256:00.*deleted"):
        get(remote(server, checksum="sha256:" + "0" * 64), tmp_path)
    assert left(tmp_path) == []


def test_a_wrong_size_is_refused_before_it_is_read(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match=r"offers 1,024,000 bytes, but the card says 5"):
        get(remote(server, size=5), tmp_path)
    assert left(tmp_path) == []


def test_more_bytes_than_the_limit_are_stopped(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcore.data.fetch.MAX_BYTES", 1000)
    with pytest.raises(MedcoreError, match=r"more than the limit of 1,000"):
        get(remote(server, size=None), tmp_path)


def test_missing_files_and_plain_http_are_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="answered HTTP 404"):
        get(RemoteFile("x", server.url + "x", "md5:" + "0" * 32), tmp_path)
    with pytest.raises(MedcoreError, match="not an https address"):
        get(RemoteFile("x", "http://example.org/x", "md5:" + "0" * 32), tmp_path)


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in entries.items():
            pack.writestr(name, content)
    return buffer.getvalue()


def test_a_card_is_fetched_unpacked_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    archive = remote(server, zipped({"A/1.png": b"one", "B/": b"", "B/2.png": b"two"}), "set.zip", unpack_to="images")
    table = remote(server, b"a,b\n", "table.csv")
    facts = DatasetCard("s", "t", ["a", "b"], files=(archive, table))
    folder = fetch_card(facts, tmp_path / "s", progress=False, pause_s=0)
    assert left(folder) == [".fetched.json", "images/A/1.png", "images/B/2.png", "table.csv"]
    fetch_card(facts, tmp_path / "s", progress=False, pause_s=0)
    assert len(server.requests) == 2
    (folder / "table.csv").unlink()
    fetch_card(facts, tmp_path / "s", progress=False, pause_s=0)
    assert (folder / "table.csv").read_bytes() == b"a,b\n"


def test_a_card_over_budget_is_refused_before_the_download(server: Server, tmp_path: Path) -> None:
    facts = DatasetCard("s", "t", ["a", "b"], files=(remote(server, unpack_to=".", unpacked_size=10**9),))
    with pytest.raises(MedcoreError, match=r"needs up to 1\.0 GB.*limit is 0\.5 GB"):
        fetch_card(facts, tmp_path / "s", progress=False, budget=500_000_000)
    assert server.requests == []


def test_names_that_cannot_be_fetched(tmp_data: Path) -> None:
    with pytest.raises(MedcoreError, match=r"glas may not be downloaded by a program: register"):
        fetch_set("glas")
    with pytest.raises(MedcoreError, match="is a phantom"):
        fetch_set("phantom-crc")
    with pytest.raises(MedcoreError, match="did you mean 'glas'"):
        fetch_set("glass")


def link(name: str, target: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        entry = zipfile.ZipInfo(name)
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        with zipfile.ZipFile(path, "w") as pack:
            pack.writestr("fine.txt", b"fine")
            pack.writestr(entry, target)

    return write


def entries(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as pack:
            for name in names:
                entry = zipfile.ZipInfo("x")
                entry.filename = name  # past the cleaning of the constructor
                pack.writestr(entry, b"x")

    return write


def tarred(**attributes: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w:gz") as pack:
            info = tarfile.TarInfo("a.txt")
            for name, value in attributes.items():
                setattr(info, name, value)
            pack.addfile(info, io.BytesIO(b"x" * info.size))

    return write


HOSTILE = {
    "parent": (entries("fine.txt", "../evil.txt"), "points outside"),
    "inner parent": (entries("a/../../evil.txt"), "points outside"),
    "absolute": (entries("/tmp/evil.txt"), "points outside"),
    "drive": (entries("C:/evil.txt"), "points outside"),
    "backslash": (entries("..\\evil.txt"), "points outside"),
    "twice": (entries("a.txt", "A.txt"), "stands twice"),
    "zip link": (link("l", "/etc/passwd"), "link or a device"),
    "tar symlink": (tarred(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "link or a device"),
    "tar hard link": (tarred(type=tarfile.LNKTYPE, linkname="../x"), "link or a device"),
    "tar device": (tarred(type=tarfile.CHRTYPE), "link or a device"),
    "tar parent": (tarred(name="../evil.txt", size=1), "points outside"),
    "tar absolute": (tarred(name="/evil.txt", size=1), "points outside"),
    "tar bomb": (tarred(size=10_001), "expands to 10,001 bytes, more than the 10,000"),
    "damaged": (lambda path: path.write_bytes(zipped({"a": os.urandom(900)})[:-200]), "neither a zip|damaged"),
    "zip bomb": (lambda path: path.write_bytes(zipped({"a": bytes(50_000)})), "expands to 50,000 bytes"),
    "many files": (lambda path: path.write_bytes(zipped({str(k): b"" for k in range(30)})), "holds 30 files"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_leaves_no_trace(tmp_path: Path, kind: str) -> None:
    make, message = HOSTILE[kind]
    archive = tmp_path / "in/bad.zip"
    archive.parent.mkdir()
    make(archive)
    with pytest.raises(MedcoreError, match=message):
        unpack(archive, tmp_path / "out/set", budget=10_000, max_files=20)
    assert left(tmp_path) == ["in/bad.zip"]


def test_a_header_that_lies_about_its_size_is_stopped_while_writing(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": bytes(50_000)}))
    for at in (content.find(b"PK\x03\x04") + 22, content.find(b"PK\x01\x02") + 24):
        content[at : at + 4] = (10).to_bytes(4, "little")  # uncompressed size in both headers
    (tmp_path / "lie.zip").write_bytes(content)
    with pytest.raises(MedcoreError, match="damaged|expands"):
        unpack(tmp_path / "lie.zip", tmp_path / "out", budget=1000)
    assert left(tmp_path) == ["lie.zip"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_are_unpacked(tmp_path: Path, mode: str) -> None:
    with tarfile.open(tmp_path / "a.tar", mode) as pack:
        for name in ("d", "d/b.txt"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name == "d" else tarfile.REGTYPE
            info.size = 0 if name == "d" else 3
            pack.addfile(info, io.BytesIO(b"abc"))
    assert [path.read_bytes() for path in unpack(tmp_path / "a.tar", tmp_path / "out", budget=100)] == [b"abc"]
