"""Whole slides: regions against OpenSlide itself, broken files by name, tissue, tiles in order, drawings."""

import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from click.testing import CliRunner
from scipy import ndimage
from shapely.geometry import Point, Polygon, shape

from medcore.cli import cli
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.slides.annotations import Drawing, Shape, rasterise, read_drawing, write_geojson
from medcore.data.slides.backends import OpenSlideBackend, TiffBackend
from medcore.data.slides.slide import Slide, is_slide
from medcore.data.slides.tiles import (
    TileRule,
    kept_tiles,
    tile_grid,
)
from medcore.data.slides.tissue import find_tissue, sharpness
from medcore.errors import MedcoreError

MPP = 0.5
TISSUE = np.s_[512:1600, 384:1536]  # rows and columns of the toy's tissue


def picture(side: int = 2048, glass: int = 241) -> np.ndarray:
    """Glass with one rectangle of pink noise."""
    image = np.full((side, side, 3), glass, np.uint8)
    noise = np.random.default_rng(0).normal(0, 12, (side, side, 1))
    pink = np.clip(np.array([190, 110, 160]) + noise, 0, 255).astype(np.uint8)
    image[TISSUE] = pink[TISSUE]
    return image


def halves(image: np.ndarray, levels: int = 3) -> list[np.ndarray]:
    pyramid = [image]
    for _ in range(levels - 1):
        last = pyramid[-1].astype(np.float32)
        pyramid.append(last.reshape(len(last) // 2, 2, -1, 2, 3).mean((1, 3)).astype(np.uint8))
    return pyramid


def write_pyramid(path: Path, levels: list[np.ndarray], mpp: float | None = MPP, unit: int = 3) -> Path:
    per = {2: 25_400, 3: 10_000}[unit]
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            scale = {} if mpp is None else {"resolution": (per / mpp / 2**number,) * 2, "resolutionunit": unit}
            tiff.write(level, tile=(256, 256), photometric="rgb", compression="zlib", subfiletype=int(number > 0),
                       metadata=None, **scale)  # fmt: skip
    return path


@pytest.fixture
def slide_file(tmp_path: Path) -> Path:
    return write_pyramid(tmp_path / "a.tiff", halves(picture()))


def test_a_region_is_what_openslide_reads_itself(slide_file: Path) -> None:
    with Slide(slide_file) as slide, openslide.OpenSlide(slide_file) as truth:
        assert slide.mpp == pytest.approx((MPP, MPP)) and slide.shape == (2048, 2048)
        assert slide.sizes == [(2048, 2048), (1024, 1024), (512, 512)]
        ours = slide.read((100, 60, 300, 200))
        assert np.array_equal(ours, np.asarray(truth.read_region((100, 60), 0, (300, 200)))[..., :3])
        coarse = slide.read((128, 64, 512, 256), mpp=4 * MPP)  # exactly level 2
        assert np.array_equal(coarse, np.asarray(truth.read_region((128, 64), 2, (128, 64)))[..., :3])


def test_a_size_between_two_levels_is_scaled_from_the_finer_one(slide_file: Path) -> None:
    with Slide(slide_file) as slide:
        found = slide.read((256, 256, 1024, 768), mpp=3 * MPP)
        assert found.shape == (256, 341, 3)
        assert slide.level_for(3) == 1 and slide.level_for(4) == 2 and slide.level_for(0.5) == 0
        whole = slide.read((256, 256, 1024, 768))
        assert abs(found.mean() - whole.mean()) < 1  # scaling keeps the mean


def test_what_lies_beyond_a_slide_is_white(slide_file: Path) -> None:
    with Slide(slide_file) as slide:
        corner = slide.read((-50, -20, 100, 100))
        assert (corner[:20] == 255).all() and (corner[:, :50] == 255).all() and (corner[20:, 50:] == 241).all()
        assert (slide.read((5000, 5000, 64, 64)) == 255).all()
        with pytest.raises(MedcoreError, match=r"a.tiff.*is empty"):
            slide.read((0, 0, 0, 10))


@pytest.mark.parametrize("region", [(0, 0, 300, 300), (-40, 1900, 500, 400), (700, 900, 257, 513)])
@pytest.mark.parametrize("level", [0, 1])
def test_both_backends_read_the_same_pixels(slide_file: Path, region: tuple, level: int) -> None:
    ours, theirs = TiffBackend(slide_file), OpenSlideBackend(slide_file)
    assert ours.sizes[0] == theirs.sizes[0]
    if level < len(ours.sizes):
        assert np.array_equal(ours.pixels(level, *region), theirs.pixels(level, *region))


def test_an_ome_pyramid_gives_its_levels_and_pixel_size(tmp_path: Path) -> None:
    path, levels = tmp_path / "b.ome.tif", halves(picture())
    facts = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        how = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
        tiff.write(levels[0], subifds=2, metadata=facts, **how)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **how)
    with Slide(path) as slide:
        assert slide.mpp == (0.25, 0.25) and len(slide.sizes) == 3 and slide.name == "b"
        assert np.array_equal(slide.read((500, 600, 64, 96)), levels[0][600:696, 500:564])
        assert np.array_equal(slide.read((512, 640, 256, 256), mpp=1.0), levels[2][160:224, 128:192])


def test_a_resolution_in_inches_counts_but_that_of_a_screen_does_not(tmp_path: Path) -> None:
    with Slide(write_pyramid(tmp_path / "i.tiff", halves(picture(1024 * 2)), 0.25, unit=2)) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))
    with pytest.raises(MedcoreError, match="no microscope has"):
        Slide(write_pyramid(tmp_path / "s.tiff", halves(picture()), 25_400 / 72, unit=2))


def broken(folder: Path) -> dict[str, str]:
    """Files that are no good slides, and a word of what is said of each."""
    levels = halves(picture())
    whole = write_pyramid(folder / "short.tiff", levels).read_bytes()
    (folder / "short.tiff").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "empty.svs").write_bytes(b"")
    (folder / "text.svs").write_text("no slide")
    write_pyramid(folder / "unknown.tiff", levels, None)
    write_pyramid(folder / "zero.tiff", levels, 0.005)
    write_pyramid(folder / "level.tiff", [*levels[:2], np.full_like(levels[2], 241)])
    write_pyramid(folder / "glass.tiff", halves(np.full((2048, 2048, 3), 241, np.uint8)))
    with tifffile.TiffWriter(folder / "label.svs") as tiff:
        tiff.write(levels[2], photometric="rgb", description="Aperio Image Library\nlabel 387x463")
    return {
        "short.tiff": "short",
        "empty.svs": "empty",
        "text.svs": "text.svs",
        "unknown.tiff": "how large",
        "zero.tiff": "microscope",
        "level.tiff": "level 2",
        "glass.tiff": "no tissue",
        "label.svs": "label",
    }


def test_broken_slides_are_named_the_others_go_on_and_the_exit_code_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    wanted = broken(folder)
    write_pyramid(folder / "good.tiff", halves(picture()))
    arguments = ["data", "prepare", str(folder), "--mpp", "1", "--size", "128", "--out", str(tmp_path / "o.npz"),
                 "--quality", str(tmp_path / "q")]  # fmt: skip
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert done.return_value == 1, done.output
    patches = PatchSet.open(tmp_path / "o.npz")
    assert set(patches.column("slide")) == {"good.tiff"}
    reasons = {entry["file"]: entry["reason"] for entry in patches.card.excluded}
    assert set(reasons) == set(wanted)
    for name, word in wanted.items():
        assert name in reasons[name] and word in reasons[name] and "\n" not in reasons[name]
    assert "LEFT OUT: 8 of 9 slides" in done.output
    assert (tmp_path / "q" / "good.png").is_file() and "good.tiff" in (tmp_path / "q" / "quality.csv").read_text()
    assert not list(tmp_path.rglob("*.part"))
    arguments[-1], arguments[2] = str(tmp_path / "q2"), str(folder / "good.tiff")
    assert CliRunner().invoke(cli, arguments, standalone_mode=False).return_value == 0


def test_a_label_image_is_never_read_as_a_slide(tmp_path: Path) -> None:
    path = tmp_path / "label.tiff"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(picture(), tile=(256, 256), photometric="rgb", description="label 1x1", resolution=(2e4, 2e4))
    with pytest.raises(MedcoreError, match="label or macro"):
        TiffBackend(path)


def test_tissue_is_where_it_was_drawn(slide_file: Path) -> None:
    with Slide(slide_file) as slide:
        found = find_tissue(slide)
    truth = np.zeros((2048, 2048), bool)
    truth[TISSUE] = True
    across = np.repeat(np.repeat(found.tissue, 16, 0), 16, 1)
    assert found.scale == (16, 16) and (across & truth).sum() / (across | truth).sum() > 0.95
    assert not found.pen.any() and not found.dense.any()
    regions = np.array([[384, 512, 1152, 1088], [0, 0, 256, 256], [256, 512, 256, 512], [1800, 1800, 900, 900]])
    assert np.allclose(found.share("tissue", regions), [1, 0, 0.5, 0], atol=0.05)


def test_pen_is_found_and_is_no_tissue(tmp_path: Path) -> None:
    image = picture()
    image[700:800, 200:1900] = (30, 130, 60)  # a green stroke over glass and tissue
    with Slide(write_pyramid(tmp_path / "p.tiff", halves(image))) as slide:
        found = find_tissue(slide)
    stroke = np.s_[44:50, 13:118]
    assert found.pen[stroke].mean() > 0.95 and not found.tissue[stroke].any()
    assert found.tissue[60:90, 30:90].all()


def test_a_blurred_tile_is_less_sharp() -> None:
    tile = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    tile = ndimage.gaussian_filter(tile, (1, 1, 0))
    values = [sharpness(ndimage.gaussian_filter(tile, (s, s, 0))) for s in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[3] < 0.3 * values[0]
    assert sharpness(np.full((64, 64, 3), 200, np.uint8)) == 0


def test_the_grid_covers_the_slide_in_order_at_the_wanted_size(slide_file: Path) -> None:
    with Slide(slide_file) as slide:
        grid = tile_grid(slide, TileRule((96, 96), mpp=1.3, overlap=16))
        side = round(96 * 1.3 / MPP)
        assert (grid[:, 2:] == side).all() and (np.lexsort((grid[:, 0], grid[:, 1])) == np.arange(len(grid))).all()
        covered = np.zeros(slide.shape, bool)
        for x, y, width, height in grid:
            covered[y : y + height, x : x + width] = True
        assert covered.all()
        steps = np.diff(np.unique(grid[:, 0]))
        assert np.allclose(steps, 80 * 1.3 / MPP, atol=1)
        with pytest.raises(MedcoreError, match="coarser than the 0.2"):
            tile_grid(slide, TileRule((96, 96), mpp=0.2))
        with pytest.raises(MedcoreError, match="no tile is tissue to a share of 1"):
            kept_tiles(slide, TileRule((2048, 2048), mpp=0.5, tissue=1.0), find_tissue(slide))


def test_tiles_become_a_set_with_places_patients_and_splits(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_pyramid(tmp_path / f"{name}.tiff", halves(picture()))
    (tmp_path / "metadata.csv").write_text("slide,patient,label,split,age\nb.tiff,P1,ill,train,50\na,P2,well,test,60\n")
    patches = read_set(tmp_path, mpp=1.0, size=128, tissue=0.8, cache=False, progress=False)
    assert patches.classes == ["ill", "well"] and patches.card.patients_known and patches.card.pixel_size_um == 1.0
    table = patches.table
    assert table["slide"].tolist() == sorted(table["slide"]) and set(table["age"]) == {50, 60}
    assert set(zip(table["slide"], table["patient"], table["split"], patches.label_names, strict=True)) == {
        ("a.tiff", "P2", "test", "well"), ("b.tiff", "P1", "train", "ill")}  # fmt: skip
    with openslide.OpenSlide(tmp_path / "a.tiff") as truth:
        for row in (0, len(patches) // 2 - 1):
            x, y = int(table["x"][row]), int(table["y"][row])
            region = np.asarray(truth.read_region((x, y), 1, (128, 128)))[..., :3]
            assert np.array_equal(patches.take([row])[0], region)
    assert (table["tissue"] >= 0.8).all()
    again = read_set(tmp_path, mpp=1.0, size=128, tissue=0.8, cache=False, progress=False)
    assert again.fingerprint == patches.fingerprint


def test_slides_of_different_pixel_sizes_need_the_wanted_one(tmp_path: Path) -> None:
    for name, mpp in (("a", 0.5), ("b", 0.25)):
        write_pyramid(tmp_path / f"{name}.tiff", halves(picture()), mpp)
    with pytest.raises(MedcoreError, match="--mpp"):
        read_set(tmp_path, size=128, progress=False)
    patches = read_set(tmp_path, size=64, mpp=2, progress=False)
    assert (patches.column("slide") == "a.tiff").sum() > 3 * (patches.column("slide") == "b.tiff").sum()


def even_odd(rings: list[np.ndarray], x: float, y: float) -> bool:
    """The textbook ray, edge by edge."""
    inside = False
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
                inside = not inside
    return inside


@pytest.mark.parametrize("seed", range(8))
def test_rasterised_areas_agree_with_a_ray_for_each_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-20, 120, (int(rng.integers(3, 12)), 2)) for _ in range(int(rng.integers(1, 4)))]
    found = rasterise(rings, (10, 20, 60, 50), (25, 31))
    x, y = 10 + (np.arange(31) + 0.5) * 60 / 31, 20 + (np.arange(25) + 0.5) * 2
    assert np.array_equal(found, [[even_odd(rings, float(a), float(b)) for a in x] for b in y])


def test_shapely_agrees_on_a_polygon_with_a_hole() -> None:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    outer, inner = (50 + r * np.stack([np.cos(turn), np.sin(turn)], 1) for r in (40, 15))
    area = Polygon(outer, [inner])
    found = rasterise([outer, inner], (0, 0, 100, 100), (50, 50))
    truth = [[area.contains(Point(2 * c + 1, 2 * r + 1)) for c in range(50)] for r in range(50)]
    assert np.array_equal(found, truth)


def box(x: float, y: float, side: float) -> np.ndarray:
    return np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)], dtype=float)


def feature(name: str | None, *rings: np.ndarray, kind: str = "Polygon") -> dict:
    corners = [[*ring.tolist(), ring[0].tolist()] for ring in rings]
    facts = {"objectType": "annotation"} | ({"classification": {"name": name, "color": [1, 2, 3]}} if name else {})
    geometry = {"type": kind, "coordinates": corners if kind == "Polygon" else [[corner] for corner in corners]}
    return {"type": "Feature", "geometry": geometry, "properties": facts}


def test_qupath_asap_and_aperio_say_the_same(tmp_path: Path) -> None:
    """The same square with a hole (a smaller area in ASAP, which has no holes), in three formats."""
    outer, hole = box(100, 200, 400), box(200, 300, 50)
    (tmp_path / "q.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [
        feature("tumour", outer, hole), feature(None, outer), {"geometry": {"type": "Point", "coordinates": [1, 2]}},
    ]}))  # fmt: skip
    corners = "".join(f'<Coordinate Order="{3 - n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(outer))
    (tmp_path / "a.xml").write_text(
        "<ASAP_Annotations><Annotations><Annotation Name='A' Type='Polygon' PartOfGroup='tumour'><Coordinates>"
        f"{corners}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    vertices = ["".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ring) for ring in (outer, hole)]
    (tmp_path / "p.xml").write_text(
        "<Annotations MicronsPerPixel='0.5'><Annotation Id='1' Name='tumour'><Regions>"
        f"<Region Type='0' NegativeROA='0'><Vertices>{vertices[0]}</Vertices></Region>"
        f"<Region Type='0' NegativeROA='1'><Vertices>{vertices[1]}</Vertices></Region>"
        "<Region Type='4'><Vertices><Vertex X='0' Y='0'/><Vertex X='9' Y='9'/></Vertices></Region>"
        "</Regions></Annotation></Annotations>"
    )
    grids = {}
    for name in ("q.geojson", "a.xml", "p.xml"):
        shapes, passed = read_drawing(tmp_path / name)
        assert [s.name for s in shapes] == ["tumour"]
        grids[name] = rasterise(shapes[0].rings, (0, 0, 600, 700), (70, 60))
        assert bool(passed) == (name != "a.xml")
    assert np.array_equal(grids["q.geojson"], grids["p.xml"]) and grids["a.xml"].sum() - grids["q.geojson"].sum() == 25


TWO_CORNERS = '[{"geometry": {"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}, "properties": {"name": "x"}}]'


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", "{", TWO_CORNERS])
def test_a_broken_drawing_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.geojson").write_text(text)
    with pytest.raises(MedcoreError, match=r"d\.geojson"):
        read_drawing(tmp_path / "d.geojson")


def test_geojson_that_we_write_is_read_back_by_shapely_and_by_us(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shapes = [Shape(f"c{n % 2}", [box(*rng.uniform(0, 1e5, 2), 224.5)], {"p": n / 7}) for n in range(20)]
    shapes.append(Shape("c1", [box(0, 0, 100), box(10, 10, 20)]))
    write_geojson(tmp_path / "o.geojson", shapes, {"c0": (1, 2, 3)})
    parsed = json.loads((tmp_path / "o.geojson").read_text())["features"]
    for ours, theirs in zip(shapes, parsed, strict=True):
        assert Polygon(ours.rings[0], ours.rings[1:]).equals(shape(theirs["geometry"]))
        assert theirs["properties"]["classification"]["name"] == ours.name
    again, _ = read_drawing(tmp_path / "o.geojson")
    assert all(
        np.array_equal(a, b) for x, y in zip(shapes, again, strict=True) for a, b in zip(x.rings, y.rings, strict=True)
    )


def test_labels_by_centre_and_by_share_and_the_smaller_area_on_top() -> None:
    shapes = [Shape("b", [box(40, 40, 20)]), Shape("a", [box(0, 0, 100)]), Shape("Ignore*", [box(200, 0, 50)])]
    drawing = Drawing.of(shapes, ["a", "b"])
    assert drawing.label((25, 25, 50, 50), "centre", -1) == 1  # the small area lies on the large one
    assert drawing.label((25, 25, 50, 50), "share", -1) == 0  # and fills less than half
    assert drawing.label((90, 0, 40, 40), "centre", -1) == -1 and drawing.label((90, 0, 40, 40), "centre", 1) == 1
    assert drawing.label((80, 0, 40, 40), "share", -1) == -1  # just half is not more than half
    assert drawing.label((210, 10, 20, 20), "centre", 0) == -1
    assert np.unique(drawing.paint((0, 0, 300, 100), (10, 30), 7)).tolist() == [0, 1, 7, 255]


def test_drawings_give_labels_or_masks(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", halves(picture()))
    left = np.array([(0, 0), (896, 0), (896, 2048), (0, 2048)], float)
    (tmp_path / "a.geojson").write_text(json.dumps([feature("tumour", left)]))
    how = {"mpp": 1.0, "size": 128, "cache": False, "progress": False}
    patches = read_set(tmp_path, outside="other", **how)
    centre = patches.column("x") + 128 < 896
    assert patches.classes == ["other", "tumour"] and np.array_equal(patches.label_names == "tumour", centre)
    assert set(read_set(tmp_path, **how).label_names) == {"tumour", ""}
    masked = read_set(tmp_path, tile_label="mask", **how)
    assert masked.classes == ["background", "tumour"] and masked.card.task == "segmentation"
    for x, mask in zip(masked.column("x"), masked.take_masks(), strict=True):
        assert (mask == (x + 2 * np.arange(128) + 1 < 896)).all()


def test_what_is_no_slide_stays_an_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", picture(256 * 8)[:64, :64])
    assert not is_slide(tmp_path / "plain.tif") and is_slide(Path("x.svs"))


def test_two_processes_cut_the_same_set(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for name in "abc":
        write_pyramid(tmp_path / "s" / f"{name}.tiff", halves(picture(), 2))
    (tmp_path / "s" / "bad.svs").write_bytes(b"x")
    arguments = ["data", "prepare", str(tmp_path / "s"), "--mpp", "1", "--size", "128", "--no-cache", "--out"]
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}.npz"
        done = CliRunner().invoke(cli, [*arguments, str(out), "--jobs", str(jobs)], standalone_mode=False)
        assert done.return_value == 1, done.output
        assert out.read_bytes() == (tmp_path / "1.npz").read_bytes()


def test_the_options_of_the_command_line_reach_the_tiles(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for name in ("TCGA-AA-1", "TCGA-BB-1"):
        write_pyramid(folder / f"{name}.tiff", halves(picture(), 2))
    left = np.array([(0, 0), (960, 0), (960, 2048), (0, 2048)], float)
    (folder / "TCGA-AA-1.geojson").write_text(json.dumps([feature("tumour", left)]))
    arguments = ["data", "prepare", str(folder), "--mpp", "1", "--size", "128", "--overlap", "32", "--tissue", "0.9",
                 "--tile-label", "share", "--outside", "other", "--patient-pattern", "(TCGA-..)", "--no-cache",
                 "--out", str(tmp_path / "o.npz")]  # fmt: skip
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert done.return_value == 0, done.output
    patches = PatchSet.open(tmp_path / "o.npz")
    assert set(patches.patients) == {"TCGA-AA", "TCGA-BB"} and patches.classes == ["other", "tumour"]
    assert set(np.diff(np.unique(patches.column("x")))) == {192} and patches.column("tissue").min() >= 0.9
    drawn = patches.where(slide="TCGA-AA-1.tiff")
    share = np.clip((960 - drawn.column("x")) / 256, 0, 1)
    assert np.array_equal(drawn.label_names[share != 0.5], np.where(share > 0.5, "tumour", "other")[share != 0.5])
    assert set(patches.where(slide="TCGA-BB-1.tiff").label_names) == {""} and "TCGA-BB-1" in str(patches.card.warnings)
    dry = CliRunner().invoke(cli, [*arguments[:-2], "--dry-run"], standalone_mode=False)
    assert dry.return_value == 0 and "nothing was written" in dry.output
