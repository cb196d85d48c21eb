"""What ``medcore predict`` leaves: a name for every image, nothing replaced, every odd name in the table."""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_toys import ended, run_toy, toy_config, toy_set

from medcore.cli import main
from medcore.data.load import read_set
from medcore.data.splits import assign_splits
from medcore.evaluation.predict import for_terminal, safe_cell
from medcore.models.classifier import build_classifier
from medcore.models.unet import SmallUNet
from medcore.training.fit import fit
from medcore.training.objectives import Segmentation


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    run_toy(folder, model=build_classifier("small_cnn", 2, image_size=8), epochs=1, ema_decay=0.0)
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, patches = tmp_path_factory.mktemp("segmenter"), toy_set(count=20, side=16, masks=True)
    torch.manual_seed(0)
    sides = (patches.where(split=side) for side in ("train", "val"))
    config = toy_config(epochs=1, ema_decay=0.0, augment=None)
    fit(SmallUNet(2, widths=(4, 6, 8)), Segmentation(["c0", "c1"]), *sides, config, out=folder, progress=False)
    return folder


def picture(path: Path, size: tuple[int, int] = (16, 16), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def rows_of_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("options", [(), ("--overlays", "--probabilities", "--objects")])
def test_every_image_has_a_file_of_its_own_and_the_table_names_it(
    segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture, options: tuple[str, ...]
) -> None:
    names = [
        "p1/slide",
        "p1/slide-2",
        "p2/slide",
        "p2/slide-2",
        "p2/Slide",
        "p3/slide_overlay",
        "p3/slide_c1",
        "p3/slide_objects",
    ]
    sizes = {tmp_path / f"new/{name}.png": (16 + 4 * n, 20) for n, name in enumerate(names)}
    for path, size in sizes.items():
        picture(path, size)
    code, _ = ended(capsys, "predict", segmenter, tmp_path / "new", "--out", tmp_path / "out", *options)
    assert code == 0
    rows = [row for row in rows_of_table(tmp_path / "out" / "summary.csv") if row["class"] == "c0"]
    assert len(rows) == len({row["output"].casefold() for row in rows}) == len(names)
    for row in rows:
        with Image.open(tmp_path / "out" / row["output"]) as labels:
            assert labels.size[::-1] == sizes[Path(row["image"])]
    per_image = 1 + (4 if options else 0)  # labels; overlay, objects, and a map of each of two classes
    assert len(list((tmp_path / "out").iterdir())) == per_image * len(names) + 1


def test_segmenting_into_the_folder_of_the_images_replaces_none(
    segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = [picture(tmp_path / f"{n}.png", seed=n) for n in range(3)]
    before = [path.read_bytes() for path in images]
    for options in ((), ("--overwrite",)):
        code, lines = ended(capsys, "predict", segmenter, tmp_path, "--out", tmp_path, *options)
        assert code == 1 and "0.png" in lines[-1]
        assert [path.read_bytes() for path in images] == before and len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="links")
@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_link_to_an_image_is_that_image(
    segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture, make: object
) -> None:
    image = picture(tmp_path / "images" / "a.png")
    before = image.read_bytes()
    (tmp_path / "out").mkdir()
    make(image, tmp_path / "out" / "a.png")  # type: ignore[operator]
    code, _ = ended(capsys, "predict", segmenter, image, "--out", tmp_path / "out", "--overwrite")
    assert code == 1 and image.read_bytes() == before


def test_results_that_are_there_are_replaced_only_on_request(
    segmenter: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    image = picture(tmp_path / "a.png")
    for run, out in ((classifier, tmp_path / "p.csv"), (classifier, tmp_path / "p.npz"), (segmenter, tmp_path / "seg")):
        assert ended(capsys, "predict", run, image, "--out", out)[0] == 0
        kept = out if out.is_file() else out / "summary.csv"
        kept.write_text("mine")
        code, lines = ended(capsys, "predict", run, image, "--out", out)
        assert code == 1 and "--overwrite" in lines[-1] and kept.read_text() == "mine"
        assert ended(capsys, "predict", run, image, "--out", out, "--overwrite")[0] == 0
        assert kept.read_bytes() != b"mine"


def test_a_table_never_replaces_the_set_it_is_made_of(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    toy_set().save(tmp_path / "set.npz")
    before = (tmp_path / "set.npz").read_bytes()
    arguments = ("predict", classifier, tmp_path / "set.npz", "--out", tmp_path / "set.npz", "--overwrite")
    assert ended(capsys, *arguments)[0] == 1 and (tmp_path / "set.npz").read_bytes() == before


def test_hidden_copies_of_a_mac_are_no_images(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for n in range(4):
        picture(tmp_path / "new" / f"im{n}.png", seed=n)
        (tmp_path / "new" / f"._im{n}.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60))
    for folder in ("__MACOSX", ".ipynb_checkpoints"):
        picture(tmp_path / "new" / folder / "im0.png")
    code, _ = ended(capsys, "predict", classifier, tmp_path / "new", "--out", tmp_path / "p.csv")
    names = [Path(row["image"]).name for row in rows_of_table(tmp_path / "p.csv")]
    assert code == 0 and names == [f"im{n}.png" for n in range(4)]


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_name_that_is_no_utf8_has_its_row(
    classifier: Path, segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture(tmp_path / "new" / "good.png")
    os.rename(picture(tmp_path / "new" / "x.png"), os.fsencode(tmp_path / "new") + b"/bad\xff.png")
    assert ended(capsys, "predict", classifier, tmp_path / "new", "--out", tmp_path / "p.csv")[0] == 0
    names = [row["image"] for row in rows_of_table(tmp_path / "p.csv")]
    assert len(names) == 2 and names[0].endswith(r"bad\udcff.png")
    assert ended(capsys, "predict", classifier, tmp_path / "new", "--out", tmp_path / "p.npz")[0] == 0
    assert np.load(tmp_path / "p.npz")["images"].tolist() == names
    assert ended(capsys, "predict", classifier, tmp_path / "new")[0] == 0
    assert ended(capsys, "predict", segmenter, tmp_path / "new", "--out", tmp_path / "seg")[0] == 0
    assert {row["output"] for row in rows_of_table(tmp_path / "seg" / "summary.csv")} == {"good.png", r"bad\udcff.png"}
    assert ended(capsys, "predict", classifier, tmp_path / "new", "--heatmaps", tmp_path / "heat")[0] == 0
    assert len(list((tmp_path / "heat").iterdir())) == 2


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@a", "=cmd|' /C calc'!A0"])
def test_no_cell_is_a_formula(
    classifier: Path,
    segmenter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    safe = name.replace("/", "_")
    picture(tmp_path / f"{safe}.png")
    assert ended(capsys, "predict", classifier, "--out", "p.csv", "--", f"{safe}.png")[0] == 0
    assert ended(capsys, "predict", segmenter, "--out", "seg", "--", f"{safe}.png")[0] == 0
    for table in ("p.csv", "seg/summary.csv"):
        for row in rows_of_table(tmp_path / table):
            assert all(value[:1] not in tuple("=+-@") for value in row.values())


def test_cells_and_terminal_names() -> None:
    assert [safe_cell(text) for text in ("=1", " =1", "a", "\ta", 5)] == ["'=1", "' =1", "a", "'\ta", 5]
    assert for_terminal("a\x1b[31mb\n") == r"a\x1b[31mb\n"


@pytest.mark.parametrize("which", ["classifier", "segmenter"])
def test_skipping_ends_well_and_says_the_count_last(
    which: str, classifier: Path, segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for n in range(2):
        picture(tmp_path / "new" / f"{n}.png", seed=n)
    for n in range(2, 5):
        (tmp_path / "new" / f"{n}.png").write_bytes(b"no image")
    run, out = (classifier, tmp_path / "p.csv") if which == "classifier" else (segmenter, tmp_path / "seg")
    code, lines = ended(capsys, "predict", run, tmp_path / "new", "--out", out, "--on-error", "skip")
    assert code == 0 and "3 of 5" in lines[-1] and sum("skipped" in line for line in lines) == 3
    for n in range(2):
        (tmp_path / "new" / f"{n}.png").unlink()
    code, lines = ended(capsys, "predict", run, tmp_path / "new", "--out", out, "--on-error", "skip", "--overwrite")
    assert code == 1


def test_a_terminal_of_another_code_page_is_told_all_the_same(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "ärzte-图.png")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as end:
        main(["predict", str(classifier), str(tmp_path / "ärzte-图.png")])
    terminal.flush()
    said = terminal.buffer.getvalue().decode("cp1252")  # type: ignore[attr-defined]
    assert not end.value.code and r"ärzte-\u56fe.png" in said


def test_a_segmenter_knows_the_images_it_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of several sizes are padded for training; the files are compared as training saw them."""
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path / "home"))
    for n in range(12):
        image = picture(tmp_path / "set" / "images" / f"{n}.png", (24 + 2 * (n % 3), 28), seed=n)
        (tmp_path / "set" / "masks").mkdir(exist_ok=True)
        with Image.open(image) as opened:
            Image.fromarray(np.where(np.asarray(opened)[..., 0] > 128, 255, 0).astype(np.uint8)).save(
                tmp_path / "set" / "masks" / f"{n}.png"
            )
    arguments = ("train", "segmenter", "--profile", "smoke", "--data", tmp_path / "set", "--out", tmp_path / "run")
    assert ended(capsys, *arguments)[0] == 0
    picture(tmp_path / "new" / "fresh.png", (26, 28), seed=99)
    files = [*sorted((tmp_path / "set" / "images").iterdir()), tmp_path / "new" / "fresh.png"]
    assert ended(capsys, "predict", tmp_path / "run", *files, "--out", tmp_path / "seg")[0] == 0
    seen = {Path(row["image"]).name: row["seen_in_training"] for row in rows_of_table(tmp_path / "seg" / "summary.csv")}
    sides = assign_splits(read_set(tmp_path / "set"), seed=0)
    trained = {Path(name).name: side != "test" for name, side in zip(sides.column("source"), sides.splits, strict=True)}
    assert seen.pop("fresh.png") == "no" and seen == {name: "yes" if known else "no" for name, known in trained.items()}
