"""Large TIFF files: on the disk, in constant memory, the same pixels as an ordinary reader."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medcore.data.formats.large import mapped_tiff, tiff_pixels, write_tiled
from medcore.errors import MedcoreError
from medcore.evaluation import segmenter as segment_predict
from medcore.evaluation.segmenter import Segmenter, pixels_per_class, segment_files
from medcore.evaluation.sliding import Window
from medcore.models.unet import SmallUNet


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (150, 203, 3), dtype=np.uint8)


LAYOUTS = {
    "plain": {},
    "deflated strips": {"compression": "zlib", "rowsperstrip": 32},
    "tiles": {"tile": (64, 64)},
    "deflated tiles": {"tile": (64, 64), "compression": "zlib"},
    "predicted": {"compression": "zlib", "predictor": False, "bigtiff": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_those_of_pillow(tmp_path: Path, picture: np.ndarray, layout: str, channels: int) -> None:
    pixels = np.concatenate([picture, picture[..., :1]], 2)[..., :channels]
    colour = {"photometric": "minisblack" if channels == 1 else "rgb"} | (
        {"extrasamples": [2]} if channels == 4 else {}
    )
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels[..., 0] if channels == 1 else pixels, **colour, **LAYOUTS[layout])
    with Image.open(path) as opened:
        expected = np.asarray(opened)[..., None] if channels == 1 else np.asarray(opened)[..., :3]
    with mapped_tiff(path, tmp_path) as values:
        assert np.array_equal(values, expected)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
    assert tiff_pixels(path) == 150 * 203


def test_what_cannot_be_mapped_is_named(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, picture.astype(np.uint16))
    with pytest.raises(MedcoreError, match=r"deep\.tif.*uint16"), mapped_tiff(path):
        pass
    tifffile.imwrite(path, picture[..., 0], photometric="miniswhite")
    with pytest.raises(MedcoreError, match="white as zero"), mapped_tiff(path):
        pass
    tifffile.imwrite(path, np.moveaxis(picture, 2, 0), photometric="rgb", planarconfig="separate")
    with pytest.raises(MedcoreError, match="interleaved"), mapped_tiff(path):
        pass
    tifffile.imwrite(path, picture, tile=(64, 64), compression="zlib")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 :: 7] = bytes(len(damaged[len(damaged) // 2 :: 7]))
    path.write_bytes(bytes(damaged))
    with pytest.raises(MedcoreError, match=r"deep\.tif"), mapped_tiff(path):
        pass
    assert tiff_pixels(tmp_path / "missing.tif") == 0


def test_label_files_hold_labels_and_scale(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (700, 900), dtype=np.uint8)
    write_tiled(tmp_path / "labels.tif", labels, 0.5)
    with Image.open(tmp_path / "labels.tif") as opened:
        assert np.array_equal(np.asarray(opened), labels)
    with tifffile.TiffFile(tmp_path / "labels.tif") as tiff:
        page = tiff.pages[0]
        assert page.is_tiled and page.tags["XResolution"].value[0] / page.tags["XResolution"].value[1] == 20_000
    assert pixels_per_class(labels, 4).tolist() == np.bincount(labels.ravel(), minlength=4).tolist()


def test_a_large_image_is_labelled_as_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (300, 260, 3), dtype=np.uint8)
    source = tmp_path / "slide.tif"
    tifffile.imwrite(source, pixels, tile=(64, 64), compression="zlib", photometric="rgb")
    segmenter = Segmenter(SmallUNet(2).eval(), ["background", "gland"], Window(tile=64, overlap=0.25))
    monkeypatch.setattr(segment_predict, "WHOLE", 0)
    segment_files(segmenter, [source], tmp_path / "small")
    monkeypatch.setattr(segment_predict, "LARGE", 10_000)
    segment_files(segmenter, [source], tmp_path / "large")
    with Image.open(tmp_path / "small/slide.png") as one, Image.open(tmp_path / "large/slide.tif") as two:
        assert np.array_equal(np.asarray(one), np.asarray(two))
    small, large = ((tmp_path / name / "summary.csv").read_text() for name in ("small", "large"))
    assert small.replace(",slide.png,", ",slide.tif,") == large
    assert sorted(file.name for file in (tmp_path / "large").iterdir()) == ["slide.tif", "summary.csv"]
    with pytest.raises(MedcoreError, match="overlays and objects"):
        segment_files(segmenter, [source], tmp_path / "refused", overlays=True)


MEMORY = """
import sys
import resource
from pathlib import Path
import numpy as np
from medcore.data.formats.large import mapped_tiff, write_tiled
with mapped_tiff(sys.argv[1]) as values:
    total = 0
    for top in range(0, len(values), 512):
        total += int(values[top:top + 512].sum())
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(lines["RssAnon"].split()[0]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_unpacking_holds_tiles_not_the_image(tmp_path: Path) -> None:
    """The own memory after reading 144 MB of pixels is that after reading 1 MB, within a few tiles."""
    used = []
    for side in (512, 7168):
        path = tmp_path / f"{side}.tif"
        tiles = (np.full((512, 512, 3), n % 251, np.uint8) for n in range((side // 512) ** 2))
        tifffile.imwrite(
            path, tiles, shape=(side, side, 3), dtype=np.uint8, tile=(512, 512), compression="zlib", photometric="rgb"
        )
        done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
        used.append(int(done.stdout))
    assert used[1] - used[0] < 40
    with ExitStack() as stack:
        assert stack.enter_context(mapped_tiff(path))[7167, 7167, 0] == (14 * 14 - 1) % 251
