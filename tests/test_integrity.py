"""Containers and caches under attack: damage is noticed, bombs are refused packed, nothing waits for ever."""

import json
import os
import stat
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.card import Card
from medcore.data.integrity import Remembered, content_hashes, open_checked
from medcore.data.load import read_set
from medcore.data.npzfile import PatchSetWriter
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError

RNG = np.random.default_rng(3)


def make_set(path: Path, count: int = 12) -> Path:
    images = RNG.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    table = {"label": np.arange(count) % 2, "patient": [f"P{k // 2}" for k in range(count)]}
    PatchSet.from_arrays(images, table, Card("toy", classes=["a", "b"])).save(path)
    return path


def make_folder(root: Path, count: int = 3) -> Path:
    for name, value in (("a", 40), ("b", 200)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((16, 16, 3), value, np.uint8)
            pixels[number, number] = 0
            Image.fromarray(pixels).save(root / name / f"{number}.png", compress_level=0)
    return root


def test_every_flipped_bit_of_a_set_is_noticed_or_changes_nothing(tmp_path: Path, tmp_data: Path) -> None:
    path = make_set(tmp_path / "toy.npz")
    whole, content = path.read_bytes(), PatchSet.open(path)
    pixels, table, fingerprint = content.take(), content.table, content.fingerprint
    noticed = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[RNG.integers(len(whole))] ^= 1 << RNG.integers(8)
        path.write_bytes(damaged)
        try:
            read = read_set(path, progress=False)
        except MedcoreError as error:
            noticed += str(path) in str(error)
            continue
        assert np.array_equal(read.take(), pixels) and read.table.equals(table) and read.fingerprint == fingerprint
    assert noticed > 120  # the rest lies in dates and other words of the zip that mean nothing


def test_what_was_checked_is_not_read_again_until_it_changes(
    tmp_path: Path, tmp_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_set(tmp_path / "toy.npz")
    read = []
    whole = PatchSet.verify
    monkeypatch.setattr(PatchSet, "verify", lambda self: read.append(1) or whole(self))
    open_checked(path)
    open_checked(path)
    assert len(read) == 1
    content = bytearray(path.read_bytes())
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content[content.index(b"NUMPY", content.rindex(b"images.npy", 0, -200)) + 300] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=times)  # the time of writing does not tell
    with pytest.raises(MedcoreError, match=r"toy\.npz"):
        open_checked(path)


def test_a_damaged_prepared_set_is_made_anew_and_said(
    tmp_path: Path, tmp_data: Path, capsys: pytest.CaptureFixture
) -> None:
    first = read_set(make_folder(tmp_path / "set"), progress=False)
    content = bytearray(first.path.read_bytes())
    content[-2000] ^= 4
    first.path.write_bytes(content)
    second = read_set(tmp_path / "set", progress=False)
    assert "damaged" in capsys.readouterr().err
    assert second.fingerprint == first.fingerprint
    second.verify()


def test_swapped_files_are_another_set(tmp_path: Path, tmp_data: Path) -> None:
    root = make_folder(tmp_path / "set")
    one, other = root / "a/0.png", root / "b/0.png"
    assert one.stat().st_size == other.stat().st_size
    for file in (one, other):
        os.utime(file, ns=(10**18, 10**18))
    before = read_set(root, progress=False)
    contents = one.read_bytes(), other.read_bytes()
    for file, content in zip((other, one), contents, strict=True):
        file.write_bytes(content)
        os.utime(file, ns=(10**18, 10**18))
    after = read_set(root, progress=False)
    assert after.fingerprint != before.fingerprint
    assert after.take([0])[0, 5, 5, 0] == 200


def test_a_reused_set_names_its_age_and_can_be_refused(tmp_path: Path, tmp_data: Path) -> None:
    root = make_folder(tmp_path / "set")
    fresh = read_set(root, progress=False)
    reused = read_set(root, progress=False)
    assert reused.path == fresh.path and reused.fingerprint == fresh.fingerprint
    assert len(reused.card.reading) == len(fresh.card.reading) + 1
    inode = fresh.path.stat().st_ino
    assert read_set(root, progress=False, cache=False).path.stat().st_ino != inode


def test_hashes_are_of_the_content_and_remember_no_names(tmp_path: Path, tmp_data: Path) -> None:
    (tmp_path / "files").mkdir()
    files = [tmp_path / "files" / name for name in ("DOE_JANE.txt", "b.txt", "c.txt")]
    for file, content in zip(files, ("x", "y", "x"), strict=True):
        file.write_text(content)
    first = content_hashes(tmp_path / "files", [*files, tmp_path / "files/missing"])
    assert first[0] == first[2] != first[1] and first[3] == ""
    memory = Remembered(tmp_path / "files")
    assert memory.get(files[0]) == first[0]
    assert "DOE" not in memory.file.read_text()
    memory.file.write_text("[" * 100_000)  # a damaged memory is no memory
    assert content_hashes(tmp_path / "files", files) == first[:3]
    os.mkfifo(tmp_path / "files/pipe")
    assert content_hashes(tmp_path / "files", [tmp_path / "files/pipe"]) == [""]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path, tmp_data: Path) -> None:
    first = read_set(make_folder(tmp_path / "set"), progress=False)
    left = [first.path.with_name(f".{first.path.name}.{kind}.part") for kind in ("images", "masks", "x1y2")]
    other = first.path.with_name(".other.npz.images.part")
    for file in [*left, other]:
        file.write_bytes(b"half")
    first.path.unlink()
    read_set(tmp_path / "set", progress=False)
    assert not any(file.exists() for file in left) and other.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, tmp_data: Path) -> None:
    tmp_data.mkdir()
    tmp_data.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(MedcoreError, match="MEDCORE_DATA"):
        read_set(make_folder(tmp_path / "set"), progress=False)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_a_full_disk_is_one_line_that_moves_the_cache(
    tmp_path: Path, tmp_data: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(PatchSetWriter, "add", refuse)
    with pytest.raises(MedcoreError, match="MEDCORE_DATA"):
        read_set(make_folder(tmp_path / "set"), progress=False)
    assert not list((tmp_data / "prepared").glob(".*.part"))


def test_a_data_folder_that_is_a_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path / "file"))
    with pytest.raises(MedcoreError, match="MEDCORE_DATA"):
        read_set(make_folder(tmp_path / "set"), progress=False)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def write_zip(path: Path, content: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content:
            archive.writestr(name, data)
    return path


def npy(values: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def npy_header(shape: tuple[int, ...], kind: str) -> bytes:
    import io

    stream = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


Change = Callable[[dict[str, bytes]], list[tuple[str, bytes]]]


def card_with(**values: object) -> Change:
    def change(content: dict[str, bytes]) -> list[tuple[str, bytes]]:
        meta = json.loads(content["meta.json"])
        meta["card"] |= values
        return list((content | {"meta.json": json.dumps(meta).encode()}).items())

    return change


HOSTILE: dict[str, Change] = {
    "twice": lambda c: [*c.items(), ("labels.npy", c["labels.npy"])],
    "above": lambda c: [*c.items(), ("../evil.npy", c["labels.npy"])],
    "absolute": lambda c: [*c.items(), ("/tmp/evil.npy", c["labels.npy"])],
    "no meta": lambda c: [item for item in c.items() if item[0] != "meta.json"] + [("meta.json", b"[]")],
    "meta is deep": lambda c: list((c | {"meta.json": b"[" * 200_000}).items()),
    "meta is no json": lambda c: list((c | {"meta.json": b"\xff\xfe"}).items()),
    "no checksum": lambda c: list((c | {"meta.json": b'{"card": {"name": "x"}}'}).items()),
    "classes of numbers": card_with(classes=[1, 2]),
    "classes no list": card_with(classes="ab"),
    "size is a text": card_with(pixel_size_um="1 um"),
    "size is not finite": card_with(pixel_size_um=float("nan")),
    "recipe is a list": card_with(recipe=[]),
    "task is unknown": card_with(task="surgery"),
    "flag is a number": card_with(synthetic=3),
    "warnings of objects": card_with(warnings=[{}]),
    "labels short": lambda c: list((c | {"labels.npy": npy(np.zeros(3, np.int64))}).items()),
    "labels float": lambda c: list((c | {"labels.npy": npy(np.zeros(12))}).items()),
    "labels huge": lambda c: list((c | {"labels.npy": npy_header((10**12,), "<i8")}).items()),
    "labels negative": lambda c: list((c | {"labels.npy": npy_header((-1,), "<i8")}).items()),
    "labels structured": lambda c: list((c | {"labels.npy": npy(np.zeros(12, [("a", "i8")]))}).items()),
    "labels pickled": lambda c: list((c | {"labels.npy": npy(np.array([{}] * 12, dtype=object))}).items()),
    "patients numbers": lambda c: list((c | {"table/patient.npy": npy(np.zeros(12, np.int64))}).items()),
    "patients bytes": lambda c: list((c | {"table/patient.npy": npy(np.zeros(12, "S4"))}).items()),
    "column of rows": lambda c: [*c.items(), ("table/more.npy", npy(np.zeros((12, 2))))],
    "column of dates": lambda c: [*c.items(), ("table/more.npy", npy(np.zeros(12, "M8[s]")))],
    "images float": lambda c: list((c | {"images.npy": npy(np.zeros((12, 8, 8, 3)))}).items()),
    "images flat": lambda c: list((c | {"images.npy": npy(np.zeros(12, np.uint8))}).items()),
    "many members": lambda c: [*c.items(), *((f"table/c{k}.npy", npy(np.zeros(12))) for k in range(1100))],
    "member is no array": lambda c: [*c.items(), ("table/more.npy", b"\x93NUMPY\x01\x00\xff\xff")],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_set_is_one_line(tmp_path: Path, tmp_data: Path, name: str) -> None:
    content = members(make_set(tmp_path / "good.npz"))
    bad = write_zip(tmp_path / "bad.npz", HOSTILE[name](content))
    with pytest.raises(MedcoreError) as caught:
        read_set(bad, progress=False)
    assert "bad.npz" in str(caught.value) or "card" in str(caught.value)
    assert "\n" not in str(caught.value)


def bomb(kind: str) -> list[tuple[str, bytes]]:
    """Small archives that unpack to 80 MB."""
    size = 80 << 20
    images = npy(np.zeros((4, 8, 8, 3), np.uint8))
    labels = npy(np.zeros(4, np.int64))
    zeros = bytes(size)
    return {
        "labels": [("images.npy", images), ("labels.npy", npy_header((size // 8,), "<i8") + zeros)],
        "column": [("images.npy", images), ("labels.npy", labels),
                   ("patient.npy", npy_header((4,), f"<U{size // 16}") + zeros)],
        "image": [("images.npy", npy_header((1, 9_000, 9_000), "|u1") + zeros), ("labels.npy", labels)],
        "masks": [("images.npy", images), ("labels.npy", labels), ("masks.npy", npy_header((size,), "|u1") + zeros)],
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["labels", "column", "image", "masks"])
def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path, tmp_data: Path, kind: str) -> None:
    path = write_zip(tmp_path / "bomb.npz", bomb(kind), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 4 << 20
    tracemalloc.start()
    try:
        with pytest.raises(MedcoreError, match="bomb"):
            read_set(path, progress=False)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_sizes_that_lie_are_refused(tmp_path: Path, tmp_data: Path) -> None:
    path = write_zip(tmp_path / "lies.npz", list(members(make_set(tmp_path / "good.npz")).items()))
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # the last entry of the directory: its size becomes 4 GB
    content[at + 24 : at + 28] = b"\xfe\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(MedcoreError, match=r"lies\.npz"):
        read_set(path, progress=False)


def test_pipes_and_devices_are_refused_and_never_waited_for(tmp_path: Path, tmp_data: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for look in (PatchSet.open, lambda path: read_set(path, progress=False)):
        with pytest.raises(MedcoreError, match="pipe"):
            look(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    with pytest.raises(MedcoreError, match="zero"):
        PatchSet.open(tmp_path / "zero.npz")
    root = make_folder(tmp_path / "set")
    os.mkfifo(root / "a/pipe.png")
    assert len(read_set(root, progress=False)) == 6


def test_a_workbook_bomb_is_refused_packed(tmp_path: Path) -> None:
    from medcore.data.readers.quironhelico import read_annotations

    write_zip(tmp_path / "book.xlsx", [("xl/sharedStrings.xml", b"<a>" + bytes(110 << 20))], zipfile.ZIP_DEFLATED)
    with pytest.raises(MedcoreError, match=r"book\.xlsx"):
        read_annotations(tmp_path)


def test_large_images_wait_for_their_turn() -> None:
    """However many threads there are, what is in work and waits to be taken stays within the budget."""
    import threading

    from medcore.data.parallel import BYTES_AHEAD, map_threads

    lock, running, most = threading.Lock(), [0], [0]

    def work(size: int) -> int:
        with lock:
            running[0] += size
            most[0] = max(most[0], running[0])
        return size

    total = 0
    for size in map_threads(work, [BYTES_AHEAD // 3] * 24 + [3 * BYTES_AHEAD] + [1] * 50, 8, weight=lambda size: size):
        total += 1
        with lock:
            running[0] -= size
    assert total == 75 and most[0] <= 3 * BYTES_AHEAD


def test_the_command_reuses_says_so_and_makes_anew(tmp_path: Path, tmp_data: Path) -> None:
    from click.testing import CliRunner

    from medcore.cli import cli

    root = str(make_folder(tmp_path / "set"))
    first = CliRunner().invoke(cli, ["data", "prepare", root])
    again = CliRunner().invoke(cli, ["data", "prepare", root])
    anew = CliRunner().invoke(cli, ["data", "prepare", root, "--no-cache"])
    assert [done.exit_code for done in (first, again, anew)] == [0, 0, 0], anew.output
    assert "--no-cache" in again.output and "--no-cache" not in first.output + anew.output
    green = CliRunner().invoke(cli, ["data", "prepare", root, "--bands", "1", "--out", str(tmp_path / "green.npz")])
    assert green.exit_code == 0 and PatchSet.open(tmp_path / "green.npz").shape == (16, 16, 1)
    assert CliRunner().invoke(cli, ["data", "prepare", root, "--bands", "red"]).exit_code == 2
    assert CliRunner().invoke(cli, ["data", "prepare", root, "--bands", "0,1"]).exit_code == 1
