"""Phantom slides and predictions on slides: truth where it is drawn, resumed tables equal, places in level-0 pixels."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image
from shapely.geometry import Point, Polygon, shape

from medcore import Classification, TrainConfig, build_classifier, fit
from medcore.cli import cli
from medcore.data.load import read_set
from medcore.data.phantoms.slides import make_slides, plan_slide
from medcore.data.slides.annotations import read_drawing
from medcore.data.slides.backends import OpenSlideBackend, TiffBackend
from medcore.data.slides.slide import Slide
from medcore.data.slides.tissue import find_tissue
from medcore.evaluation.predictor import load_predictor
from medcore.evaluation.segmenter import Segmenter
from medcore.evaluation.sliding import Window, predict_image
from medcore.models.unet import SmallUNet
from medcore.studies.slides import predict as slide_predict
from medcore.studies.slides.predict import TileChoices, predict_slides, tile_rows
from medcore.studies.slides.segment import SlideLabels

SIDE, MPP = 1024, 0.5


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_slides(tmp_path_factory.mktemp("slides"), slides=2, side=SIDE)


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one epoch on the tiles of the first slide."""
    patches = read_set(drawn, mpp=2 * MPP, size=32, progress=False)
    patches = patches.select(patches.labels >= 0)
    sides = np.where(patches.column("slide") == "P001.tiff", "train", "val")
    train, validation = (patches.with_split(sides).where(split=side) for side in ("train", "val"))
    folder = tmp_path_factory.mktemp("run")
    model = build_classifier("small_cnn", len(patches.classes))
    fit(model, Classification(patches.classes), train, validation, TrainConfig(epochs=1), out=folder, progress=False)
    return folder


def test_a_phantom_slide_is_a_function_of_its_seed_and_a_plain_pyramid(drawn: Path, tmp_path: Path) -> None:
    again = make_slides(tmp_path, slides=1, side=SIDE)
    first = tifffile.TiffFile(drawn / "P001.tiff"), tifffile.TiffFile(again / "P001.tiff")
    assert [len(f.pages) for f in first] == [2, 2]
    with Slide(drawn / "P001.tiff") as a, Slide(again / "P001.tiff") as b:
        assert a.sizes == [(SIDE, SIDE), (SIDE // 2, SIDE // 2)] and a.mpp == pytest.approx((MPP, MPP))
        assert np.array_equal(a.read((0, 0, SIDE, SIDE)), b.read((0, 0, SIDE, SIDE)))
        a.check_levels()
    ours, theirs = TiffBackend(drawn / "P001.tiff"), OpenSlideBackend(drawn / "P001.tiff")
    gap = ours.pixels(0, 100, 100, 600, 600).astype(int) - theirs.pixels(0, 100, 100, 600, 600)
    assert np.abs(gap).mean() < 1  # two decoders of JPEG
    for file in first:
        file.close()


def test_the_truth_of_a_phantom_slide_is_what_is_seen(drawn: Path) -> None:
    plan = plan_slide(0, 0, SIDE, MPP, tumour=True)
    shapes, passed = read_drawing(drawn / "P001.geojson")
    assert not passed and [s.name for s in shapes] == [s.name for s in [*plan.islands, *plan.areas]]
    assert "TUM" in {s.name for s in shapes} and plan.label == "tumour"
    with Slide(drawn / "P001.tiff") as slide:
        found = find_tissue(slide)
    truth = plan.drawing.paint((0, 0, SIDE, SIDE), found.tissue.shape, 254) != 254
    pale = plan.drawing.paint((0, 0, SIDE, SIDE), found.tissue.shape, 254) == 0  # fat is mostly holes
    both = ~pale & ~found.pen
    assert (found.tissue & truth & both).sum() / ((found.tissue | truth) & both).sum() > 0.85
    assert found.pen[:, :].any() and found.pen[found.pen.shape[0] // 2 :].mean() < 0.01


def test_tiles_of_a_phantom_have_the_class_that_shapely_finds_at_their_centre(drawn: Path) -> None:
    patches = read_set(drawn, mpp=2 * MPP, size=32, progress=False)
    assert patches.card.synthetic and set(patches.column("slide_label")) == {"tumour", "normal"}
    for name in ("P001", "P002"):
        features = json.loads((drawn / f"{name}.geojson").read_text())["features"]
        areas = sorted(((shape(f["geometry"]), f["properties"]["classification"]["name"]) for f in features),
                       key=lambda pair: -pair[0].area)  # fmt: skip
        rows = patches.where(slide=f"{name}.tiff")
        for x, y, label in zip(rows.column("x"), rows.column("y"), rows.label_names, strict=True):
            inside = [kind for area, kind in areas if area.contains(Point(x + 32, y + 32))]
            assert label == (inside[-1] if inside else "")


def test_a_classifier_gives_tables_places_and_a_line_per_slide(drawn: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_bytes(b"x")
    arguments = ["predict", str(trained), str(drawn), str(tmp_path / "bad.svs"), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert done.return_value == 1, done.output
    rows = tile_rows(tmp_path / "o" / "P001_tiles.csv")
    patches = read_set(drawn, mpp=2 * MPP, size=32, tissue=0.25, progress=False).where(slide="P001.tiff")
    assert [(int(r["x"]), int(r["y"])) for r in rows] == list(
        zip(patches.column("x"), patches.column("y"), strict=True)
    )
    truth = load_predictor(trained).probabilities(patches)
    names = load_predictor(trained).classes
    assert np.allclose([[float(r[f"p_{name}"]) for name in names] for r in rows], truth, atol=1e-5)
    assert {r["seen_in_training"] for r in rows} >= {"yes"}  # the very pixels of training
    features = json.loads((tmp_path / "o" / "P001.geojson").read_text())["features"]
    bounds = [shape(f["geometry"]).bounds for f in features]
    assert bounds == [(float(r["x"]), float(r["y"]), float(r["x"]) + 64, float(r["y"]) + 64) for r in rows]
    assert [f["properties"]["classification"]["name"] for f in features] == [r["label"] for r in rows]
    with open(tmp_path / "o" / "slides.csv", newline="") as file:
        lines = {row["slide"]: row for row in csv.DictReader(file)}
    assert "bad.svs" in lines["bad.svs"]["problem"] and int(lines["P001.tiff"]["tiles"]) == len(rows)
    assert Image.open(tmp_path / "o" / "P001_overlay.png").size[0] >= 128
    again = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert again.output.count("not read again") == 2
    other = CliRunner().invoke(cli, [*arguments, "--tissue", "0.9"], standalone_mode=False)
    assert other.return_value == 1 and "another model, slide or choice" in other.output


def test_a_run_that_was_killed_reads_only_what_is_missing(
    drawn: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, slide = load_predictor(trained), drawn / "P001.tiff"
    choices = TileChoices(batch_size=8)
    predict_slides(model, [slide], tmp_path / "whole", choices, tell=lambda _: None)
    read, real = [], slide_predict.read_tiles

    def dies(*arguments: object) -> object:
        for number, tile in enumerate(real(*arguments)):
            if number == 21 and not read:
                raise KeyboardInterrupt
            read.append(number) if len(state) else None
            yield tile

    state: list[int] = []
    monkeypatch.setattr(slide_predict, "read_tiles", dies)
    with pytest.raises(KeyboardInterrupt):
        predict_slides(model, [slide], tmp_path / "cut", choices, tell=lambda _: None)
    assert not (tmp_path / "cut" / "P001_tiles.csv").exists()
    part = next((tmp_path / "cut").glob(".P001_tiles.*.part"))
    part.write_bytes(part.read_bytes() + b"1,2,half a r")
    state.append(1)
    monkeypatch.setattr(slide_predict, "read_tiles", lambda *a: (read.append(0) or tile for tile in real(*a)))
    predict_slides(model, [slide], tmp_path / "cut", choices, tell=lambda _: None)
    whole = (tmp_path / "whole" / "P001_tiles.csv").read_bytes()
    assert (tmp_path / "cut" / "P001_tiles.csv").read_bytes() == whole
    assert len(read) == len(tile_rows(tmp_path / "whole" / "P001_tiles.csv")) - 16


def test_a_segmenter_labels_a_slide_as_it_labels_an_image(drawn: Path, tmp_path: Path) -> None:
    model, window = SmallUNet(2, widths=(4, 8, 16)).eval(), Window(tile=128, overlap=0.25)
    segmenter = Segmenter(model, ["background", "gland"], window, pixel_size_um=2.0)
    (row,) = predict_slides(segmenter, [drawn / "P001.tiff"], tmp_path, TileChoices(), tell=lambda _: None)
    labels = tifffile.imread(tmp_path / "P001_labels.tif")
    assert labels.shape == (SIDE // 4, SIDE // 4) and not row.get("problem")
    with Slide(drawn / "P001.tiff") as slide:
        found = find_tissue(slide)
        pixels = slide.read((0, 0, SIDE, SIDE), mpp=2.0)
    truth = predict_image(model, pixels, window).argmax(0)
    deep = np.asarray(Image.fromarray(found.tissue).resize(labels.shape[::-1]))  # the glass is not computed
    assert (labels[deep] == truth[deep]).mean() > 0.99
    features = json.loads((tmp_path / "P001.geojson").read_text())["features"]
    assert all(0 <= value <= SIDE for f in features for value in shape(f["geometry"]).bounds)


def test_outlines_have_the_area_of_the_labels_in_level_0_pixels() -> None:
    """A ring and a disc of another class; shapely measures."""
    y, x = np.mgrid[:200, :200] + 0.5
    coarse = ((np.hypot(x - 80, y - 90) < 60) & (np.hypot(x - 80, y - 90) > 25)).astype(np.uint8)
    coarse[np.hypot(x - 170, y - 170) < 20] = 2
    labels = SlideLabels(np.bincount(coarse.ravel()), coarse, (4.0, 4.0), 1)
    ring, disc = labels.outlines(["background", "a", "b"])
    areas = [Polygon(s.rings[0], s.rings[1:]) for s in (ring, disc)]
    assert [s.name for s in (ring, disc)] == ["a", "b"] and all(area.is_valid for area in areas)
    for area, number in zip(areas, (1, 2), strict=True):
        assert area.area == pytest.approx(16 * (coarse == number).sum(), rel=0.02)
    assert areas[0].centroid.distance(Point(320, 360)) < 2 and areas[1].centroid.distance(Point(680, 680)) < 2
