"""Drawings, slides, feature stores, weights, model folders and reviews from strangers: refused in one line by name.

Each attack is a file; what is done with it runs in a process that may take 4 GB and two minutes, so that a bomb or an
endless loop is a failed test and no failed machine.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from training_toys import toy_set

from medcore.data.audit.fix import correct_labels
from medcore.data.slides.annotations import Drawing, Shape, read_drawing
from medcore.errors import MedcoreError
from medcore.evaluation.features import features
from medcore.models.classifier import build_classifier
from medcore.models.weights import read_weights

ROOT = Path(__file__).resolve().parents[1]
LIMITED = """
import resource, sys, threading
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from pathlib import Path
from medcore.errors import MedcoreError
path = Path(sys.argv[1])
try:
    {}
except MedcoreError as error:
    print("REFUSED", str(error).replace(chr(10), " "))
else:
    print("TAKEN")
"""


def told(code: str, path: Path, seconds: float = 120) -> str:
    """What a limited process says of a file: ``REFUSED`` with the reason, or ``TAKEN``; anything else fails."""
    command = [sys.executable, "-c", LIMITED.format(code), str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=ROOT, env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-1500:]
    return done.stdout.strip().splitlines()[-1]


# --- drawings on slides -----------------------------------------------------------------------------------------------

SQUARE = [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]
READ = "from medcore.data.slides.annotations import read_drawing; read_drawing(path)"


def drawing(coordinates: Any = (SQUARE,), name: Any = "tumour", kind: str = "Polygon", count: int = 1) -> str:
    feature = {"type": "Feature", "geometry": {"type": kind, "coordinates": list(coordinates)},
               "properties": {"classification": {"name": name}}}  # fmt: skip
    return json.dumps({"type": "FeatureCollection", "features": [feature] * count})


def asap(corners: str, head: str = "", group: str = "tumour") -> str:
    body = f'<Annotation Type="Polygon" PartOfGroup="{group}"><Coordinates>{corners}</Coordinates></Annotation>'
    return f'<?xml version="1.0"?>{head}<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>'


LAUGHS = "<!DOCTYPE a [<!ENTITY a0 'ha'>" + "".join(
    f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10)) + "]>"  # fmt: skip
BAD_DRAWINGS: dict[str, tuple[str, str]] = {
    "billion laughs": (".xml", asap("", LAUGHS, "&a9;")),
    "quadratic blow-up": (".xml", asap("", f"<!DOCTYPE a [<!ENTITY x '{'y' * 100_000}'>]>", "&x;" * 1000)),
    "a file of the machine": (".xml", asap("", "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>", "&x;")),
    "an address": (".xml", asap("", "<!DOCTYPE a [<!ENTITY % x SYSTEM 'http://example.org/x.dtd'> %x;]>")),
    "corners of XML that are no numbers": (".xml", asap('<Coordinate Order="0" X="nan" Y="1"/>' * 3)),
    "corners of XML without end": (".xml", asap('<Coordinate Order="0" X="1e999" Y="1"/>' * 3)),
    "an order that is no number": (".xml", asap('<Coordinate Order="first" X="1" Y="1"/>' * 3)),
    "corners without x": (".xml", asap('<Coordinate Order="0" Y="1"/>' * 3)),
    "NaN": (".geojson", drawing([[[float("nan"), 0], [9, 0], [9, 9]]])),
    "infinity": (".geojson", drawing([[[float("inf"), 0], [9, 0], [9, 9]]])),
    "a number of 400 digits": (".geojson", drawing([[[10**400, 0], [9, 0], [9, 9]]])),
    "a number of 10,000 digits": (".geojson", drawing().replace("9", "9" * 10_000)),
    "corners beyond every slide": (".geojson", drawing([[[1e300, 0], [9, -1e300], [9, 9]]])),
    "corners of text": (".geojson", drawing([[["a", "b"], ["c", "d"], ["e", "f"]]])),
    "corners of different lengths": (".geojson", drawing([[[0, 0], [1], [2, 2]]])),
    "a ring of rings": (".geojson", drawing([[SQUARE]])),
    "a corner that is a mapping": (".geojson", drawing([[{"x": 1}, {"x": 2}, {"x": 3}]])),
    "no coordinates": (".geojson", drawing().replace("coordinates", "places")),
    "features that are a number": (".geojson", '{"features": 7}'),
    "a feature that is null": (".geojson", '{"features": [null]}'),
    "a geometry that is text": (".geojson", '{"features": [{"geometry": "POLYGON", "properties": {}}]}'),
    "properties that are a list": (".geojson", drawing().replace('{"classification": {"name": "tumour"}}', "[1]")),
    "nested without end": (".geojson", "[" * 200_000),
    "a text": (".geojson", '"features"'),
    "another encoding": (".geojson", "\ud800"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DRAWINGS)
def test_a_drawing_that_cannot_be_is_one_line(name: str, tmp_path: Path) -> None:
    ending, text = BAD_DRAWINGS[name]
    path = tmp_path / f"slide{ending}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    said = told(READ, path)
    assert said.startswith("REFUSED") and str(path) in said and len(said) < 600


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a file of 300 MB"])
def test_what_is_no_drawing_at_all_does_not_hang(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.geojson"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 300 << 20)
    said = told(READ, path)
    assert said.startswith("REFUSED") and str(path) in said


ZIGZAG = [[float(n % 2) * 4000, float(n % 7) * 500] for n in range(200_000)]
COMB = [[float(n // 2), float((n % 4) in (1, 2)) * 4000] for n in range(200_000)]
HEAVY_DRAWINGS: dict[str, Callable[[], tuple[str, str]]] = {
    "an outline of 200,000 corners from side to side": lambda: (".geojson", drawing([ZIGZAG])),
    "an outline that crosses every row 200,000 times": lambda: (".geojson", drawing([COMB])),
    "2,000 areas and 2,000 holes, each in each": lambda: (".xml", ''
        "<Annotations><Annotation Name='t'><Regions>" + "".join(
        f"<Region Type='0' NegativeROA='{hole}'><Vertices>" + "".join(
            f"<Vertex X='{x}' Y='{y}'/>" for x, y in ((0, 0), (n + 9, 0), (n + 9, n + 9), (0, n + 9))
        ) + "</Vertices></Region>" for n in range(2000) for hole in (0, 1)) + "</Regions></Annotation></Annotations>"),
    "50,000 areas": lambda: (".geojson", drawing(count=50_000)),
}  # fmt: skip
PAINT = """
    from medcore.data.slides.annotations import Drawing, read_drawing
    shapes = read_drawing(path)[0][:200]
    found = Drawing.of(shapes, sorted({shape.name for shape in shapes})).paint((0, 0, 4000, 4000), (1024, 1024), 254)
    assert found.shape == (1024, 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY_DRAWINGS)
def test_a_heavy_drawing_takes_bounded_memory_and_time(name: str, tmp_path: Path) -> None:
    ending, text = HEAVY_DRAWINGS[name]()
    path = tmp_path / f"slide{ending}"
    path.write_text(text, encoding="utf-8")
    assert told(PAINT, path, 300) == "TAKEN"


STRANGE_NAMES = ["\ud800", "a\u0000b", "\u202egnp", "\u001b[2J", "a\nb\tc", "x" * 5000, "=1+1", "<b>&amp;", "../../a"]


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_class_of_a_drawing_is_one_line_that_can_be_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.geojson"
    path.write_bytes(drawing(name=name).encode("utf-8", "surrogatepass"))
    shapes, passed = read_drawing(path)
    (shown,) = [shape.name for shape in shapes] or [""]
    assert shown.encode("utf-8").decode().isprintable() and "\n" not in shown
    assert shown or passed == ["1 × annotation without a class passed over"]


def test_more_classes_than_a_mask_can_hold_are_refused(tmp_path: Path) -> None:
    shapes = [Shape(f"class {n}", [np.array(SQUARE, float)]) for n in range(300)]
    with pytest.raises(MedcoreError, match="300 classes"):
        Drawing.of(shapes, [shape.name for shape in shapes])


# --- stores of features -----------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


def linked(path: Path, target: Path) -> None:
    path.unlink()
    target.write_bytes(b"a thesis")
    path.symlink_to(target)


STORES: dict[str, Callable[[Path], object]] = {
    "a bit of the first number": lambda path: flip(path, 128),
    "a bit in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "a bit of the last number": lambda path: flip(path, -1),
    "a bit of the header": lambda path: flip(path, 30),
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 4),
    "empty": lambda path: os.truncate(path, 0),
    "a byte too many": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "more rows than bytes": lambda path: path.write_bytes(header("{'descr': '<f4', 'fortran_order': False, 'shape': "
                                                                 "(60, 1000000000000)}") + path.read_bytes()[128:]),
    "another order": lambda path: path.write_bytes(path.read_bytes().replace(b"False", b"True ")),
    "numbers of another kind": lambda path: path.write_bytes(path.read_bytes().replace(b"<f4", b"<i4")),
    "objects": lambda path: path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'|O' ")),
    "NaN": lambda path: np.save(path, np.full_like(np.load(path), np.nan)),
    "another store": lambda path: np.save(path, np.load(path)[::-1]),
    "a link to a thesis": lambda path: linked(path, path.with_name("thesis.txt")),
    "no note": lambda path: path.with_suffix(".json").unlink(),
    "a note that is a list": lambda path: path.with_suffix(".json").write_text("[1]"),
    "a note without end": lambda path: path.with_suffix(".json").write_text("[" * 100_000),
    "a note of other facts": lambda path: path.with_suffix(".json").write_text('{"facts": {}, "hash": ""}'),
}  # fmt: skip


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_changed_is_computed_anew_and_said(name: str, tmp_path: Path, tmp_data: Path) -> None:
    torch.manual_seed(0)
    encoder = build_classifier("small_cnn", 2, image_size=8)
    first = features(toy_set(), encoder, home=tmp_path)
    expected = np.array(first.values)
    del first
    (path,) = tmp_path.glob("*.npy")
    STORES[name](path)
    with pytest.warns(UserWarning, match="computed anew"):
        again = features(toy_set(), encoder, home=tmp_path)
    assert again.reused == 0 and np.array_equal(again.values, expected)
    assert features(toy_set(), encoder, home=tmp_path).reused == 60
    if (tmp_path / "thesis.txt").exists():
        assert (tmp_path / "thesis.txt").read_bytes() == b"a thesis" and not path.is_symlink()


PARTS: dict[str, Any] = {"before the start": -5, "behind the end": 61, "a text": "all", "none": None, "a share": 0.5}


@pytest.mark.parametrize("name", [*PARTS, "a link", "a shorter part"])
def test_a_part_of_a_store_that_cannot_be_is_begun_anew(name: str, tmp_path: Path, tmp_data: Path) -> None:
    torch.manual_seed(0)
    encoder = build_classifier("small_cnn", 2, image_size=8)
    whole = features(toy_set(), encoder, home=tmp_path)
    expected, path = np.array(whole.values), whole.path
    del whole
    part, note = path.with_suffix(".part"), path.with_suffix(".json")
    path.rename(part)
    np.save(part.open("wb"), np.zeros_like(expected)[: 30 if name == "a shorter part" else None])
    note.write_text(json.dumps({**json.loads(note.read_text()), "done": PARTS.get(name, 40)}))
    if name == "a link":
        linked(part, tmp_path / "thesis.txt")
    again = features(toy_set(), encoder, home=tmp_path)
    assert again.reused == 0 and np.array_equal(again.values, expected)
    assert not (tmp_path / "thesis.txt").exists() or (tmp_path / "thesis.txt").read_bytes() == b"a thesis"


# --- whole slides -----------------------------------------------------------------------------------------------------


def slide(path: Path, **changed: Any) -> Path:
    """A tiled TIFF of 1024 pixels a side whose tags were changed afterwards, as no writer would."""
    grey = np.random.default_rng(0).integers(90, 200, (1024, 1024, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(grey, tile=(256, 256), photometric="rgb", compression=changed.pop("compression", "zlib"),
                   metadata=None, resolution=(20_000, 20_000), resolutionunit=3)  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag, value in changed.items():
            tiff.pages[0].tags[tag].overwrite(value)
    return path


LYING_SLIDES: dict[str, dict[str, Any]] = {
    "two billion pixels wide": {"ImageWidth": 2_000_000_000},
    "two billion pixels a side": {"ImageWidth": 2_000_000_000, "ImageLength": 2_000_000_000},
    "a million pixels high": {"ImageLength": 1_000_000},
    "no width": {"ImageWidth": 0},
    "tiles of a million pixels a side": {"TileWidth": 1_000_000, "TileLength": 1_000_000},
    "tiles of one pixel": {"TileWidth": 16, "TileLength": 16},
    "tiles of nothing": {"TileWidth": 0},
    "1,000 channels": {"SamplesPerPixel": 1000},
    "an unknown compression": {"Compression": 50_000},
    "a compression of another kind": {"Compression": 7},
    "tiles that lie behind the end": {"TileOffsets": (1 << 31,) * 16},
    "tiles larger than the file": {"TileByteCounts": ((1 << 32) - 1,) * 16},
    "pixels of no size": {"XResolution": (0, 1)},
    "pixels of an endless size": {"XResolution": (1, 0)},
}
CUT = """
    from medcore.data.card import Card
    from medcore.data.slides.tiles import SlideRow, SlideTask, TileRule, cut_slide
    from medcore.data.slides import backends
    if sys.argv[2:]:
        backends.open_backend.__globals__["OpenSlideBackend"] = backends.TiffBackend
    row = SlideRow(path, {"label": -1, "patient": "p", "split": ""}, 0.5)
    found = cut_slide(SlideTask(row, TileRule((64, 64), 0.5, tissue=0.0), Card("s"), None))
    if found.problem:
        raise MedcoreError(found.problem)
    assert found.quality["tiles"] <= 256
"""


@pytest.mark.parametrize("backend", ["openslide", "tifffile"])
@pytest.mark.parametrize("name", LYING_SLIDES)
def test_a_slide_with_lying_sizes_is_one_line(name: str, backend: str, tmp_path: Path) -> None:
    path = slide(tmp_path / "slide.tif", **LYING_SLIDES[name])
    code = CUT.replace("sys.argv[2:]", str(backend == "tifffile"))
    said = told(code, path)
    if name not in ("pixels of no size", "pixels of an endless size"):
        assert said.startswith("REFUSED") and str(path) in said and len(said) < 700


@pytest.mark.parametrize(
    "name", ["empty", "a text", "a pipe", "a device", "a PDF", "PostScript", "a folder", "a page of pages"]
)
def test_a_slide_that_is_none_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    if name == "a pipe":
        os.mkfifo(path)
    elif name == "a device":
        path.symlink_to("/dev/zero")
    elif name == "a folder":
        path.mkdir()
    elif name == "a page of pages":  # the next page is this one
        path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8))
    else:
        path.write_bytes(
            {"empty": b"", "a text": b"hello", "a PDF": b"%PDF-1.4\n", "PostScript": b"%!PS\nquit\n"}[name]
        )
    said = told(CUT, path)
    assert said.startswith("REFUSED") and str(path) in said and len(said) < 700


# --- weights and names of encoders ------------------------------------------------------------------------------------

LOAD = "from medcore.models.weights import read_weights; read_weights(str(path), 'small_cnn')"


def bomb(path: Path) -> None:
    """A state dict whose numbers are a gigabyte of zeros, deflated to a megabyte."""
    torch.save({"weight": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = {name: data.replace(b"K\x04", b"J\0\0\0\x10") for name, data in members.items() if name.endswith("pkl")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (members | pickled).items():
            if name.endswith("data/0"):
                with archive.open(name, "w", force_zip64=True) as member:
                    for _ in range(1024):
                        member.write(bytes(1 << 20))
            else:
                archive.writestr(name, data)


def tensors(head: Any, body: bytes = bytes(16)) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


HEADERS: dict[str, bytes] = {
    "a header of an exabyte": struct.pack("<Q", 1 << 60) + b"{}",
    "a header of 90 MB": struct.pack("<Q", 90 << 20) + b"{}",
    "no header": b"\0" * 4,
    "a list": tensors([1]),
    "nested without end": tensors(b"[" * 100_000),
    "no type": tensors({"a": {"shape": [4], "data_offsets": [0, 16]}}),
    "an unknown type": tensors({"a": {"dtype": "PICKLE", "shape": [4], "data_offsets": [0, 16]}}),
    "more numbers than bytes": tensors({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 16]}}),
    "a shape that overflows": tensors({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 16]}}),
    "a negative shape": tensors({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}),
    "offsets that overlap": tensors({n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in "ab"}),
    "offsets behind the end": tensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [900, 916]}}),
    "offsets backwards": tensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}),
    "a hole between two": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}),
    "NaN": tensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0\0\xc0\x7f" * 4),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_of_weights_that_lies_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(HEADERS[name])
    with pytest.raises(MedcoreError) as refused:
        read_weights(str(path), "small_cnn")
    assert len(str(refused.value)) < 560


def test_deflated_weights_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    bomb(tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").stat().st_size < 4 << 20
    said = told(LOAD, tmp_path / "weights.pth")
    assert said.startswith("REFUSED") and "weights.pth" in said


NAMES = [
    "../../etc/passwd", "/etc/passwd", "hf-hub:evil/model", "hf_hub:evil/model", "local-dir:/etc",
    "http://example.org/m", "resnet18/../../x", "resnet18.../x", "", ".", "resnet18\0", "*", "[a-",
    "resnet18.hf-hub:evil/model", "x" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_an_encoder_is_never_a_path_or_an_address(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if asked is not None and listening and event in ("socket.connect", "socket.getaddrinfo"):
            asked.append(args)

    listening = True
    sys.addaudithook(hook)
    try:
        with pytest.raises(MedcoreError) as refused:
            build_classifier(f"timm:{name}", 2)
        with pytest.raises(MedcoreError):
            build_classifier(f"timm:{name}", 2, weights="hub")
    finally:
        listening = False
    assert not asked and len(str(refused.value)) < 600


# --- reviews of labels ------------------------------------------------------------------------------------------------

HEAD = "row,label,correct\n"
REVIEWS: dict[str, bytes] = {
    "a row that is not there": f"{HEAD}99999,a,b\n".encode(),
    "a row before the start": f"{HEAD}-1,a,b\n".encode(),
    "a row twice": f"{HEAD}0,a,b\n0,a,b\n".encode(),
    "a row of another spelling": f"{HEAD}00,a,b\n".encode(),
    "a row in other digits": f"{HEAD}٠,a,b\n".encode(),
    "a row that is a share": f"{HEAD}0.0,a,b\n".encode(),
    "a row without end": f"{HEAD}{'9' * 10_000},a,b\n".encode(),
    "a formula": f"{HEAD}=0,a,b\n".encode(),
    "a class that is none": f"{HEAD}0,a,tumour\n".encode(),
    "a class with a blank": f"{HEAD}0,a,B\n".encode(),
    "a label that it never had": f"{HEAD}0,b,a\n".encode(),
    "no label": f"{HEAD}0,,b\n".encode(),
    "no column": b"row,label\n0,a\n",
    "no rows of a table": b"",
    "NUL": f"{HEAD}0,a,b\0\n".encode(),
    "too many cells": f"{HEAD}0,a,b,a,b\n".encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", REVIEWS)
def test_a_review_that_does_not_fit_changes_nothing(name: str, tmp_path: Path) -> None:
    patches = toy_set()
    patches = patches.with_columns(label=np.zeros(len(patches), np.int64))
    review = tmp_path / "review.csv"
    review.write_bytes(
        REVIEWS[name]
        .replace(b",a", f",{patches.classes[0]}".encode())
        .replace(b",b", f",{patches.classes[1]}".encode())
    )  # noqa: E501
    with pytest.raises(MedcoreError, match=r"review\.csv") as refused:
        correct_labels(patches, review)
    assert len(str(refused.value)) < 700
