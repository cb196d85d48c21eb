"""Sliding window: the same as the whole image, in any order, at any size, in constant memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.evaluation.sliding import (
    Window,
    at_scale,
    blended_strips,
    edge_weights,
    predict_image,
    predict_large,
    tile_starts,
    turn,
    turn_back,
)
from medcore.models.unet import SmallUNet

RADIUS = 80  # how far a SmallUNet of four levels sees; `test_radius` measures it


@pytest.fixture(scope="module")
def model() -> SmallUNet:
    torch.manual_seed(0)
    network = SmallUNet(3, widths=(4, 6, 8, 8))
    for images in torch.rand(3, 2, 3, 64, 64):  # batch norm statistics that are not the initial ones
        network.train()(images)
    return network.eval()


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_radius(model: SmallUNet) -> None:
    image = torch.rand(1, 3, 320, 320, requires_grad=True)
    model(image)[0, :, 160:176, 160:176].sum().backward()
    rows = torch.nonzero(image.grad.abs().sum((0, 1, 3))).flatten()
    assert 160 - int(rows[0]) <= RADIUS and int(rows[-1]) - 175 <= RADIUS


@pytest.mark.parametrize("size", [(400, 500), (331, 517), (100, 700)])
def test_with_the_receptive_field_as_margin_it_is_the_whole_image_everywhere(
    model: SmallUNet, size: tuple[int, int]
) -> None:
    pixels = picture(*size)
    window = Window(tile=320, overlap=0.5, margin=RADIUS, precision="fp32")
    whole = predict_image(model, pixels, window, whole=True)
    np.testing.assert_allclose(predict_image(model, pixels, window), whole, atol=1e-4)


def test_without_a_margin_it_is_the_whole_image_away_from_tile_borders(model: SmallUNet) -> None:
    pixels = picture(300, 640)
    window = Window(tile=320, overlap=0, precision="fp32")
    difference = np.abs(predict_image(model, pixels, window) - predict_image(model, pixels, window, whole=True)).max(0)
    assert difference[:, : 320 - RADIUS].max() < 1e-4 and difference[:, 320 + RADIUS :].max() < 1e-4
    assert difference[:, 300:340].max() > 1e-4  # and at the seam it is not: what blending is for


def test_the_order_of_tiles_does_not_matter(model: SmallUNet) -> None:
    pixels, window = picture(200, 300), Window(tile=64, batch_size=2)
    rng = np.random.default_rng(0)

    def answer(tiles: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255.0).numpy()

    first = np.concatenate(list(blended_strips(answer, pixels, window, 3, stride=16)), 1)
    for order in (lambda n: range(n)[::-1], lambda n: rng.permutation(n)):
        other = np.concatenate(list(blended_strips(answer, pixels, window, 3, stride=16, order=order)), 1)
        np.testing.assert_allclose(other, first, atol=1e-5)


def test_blending_is_the_weighted_mean_of_a_slow_reference() -> None:
    pixels, window = picture(50, 70), Window(tile=32, overlap=0.5)

    def answer(tiles: np.ndarray) -> np.ndarray:  # depends on the place within the tile
        ramp = np.arange(32)[None, None, :, None] * np.arange(32)[None, None, None, :]
        return (tiles.transpose(0, 3, 1, 2) + ramp).astype(np.float32)

    total, mass = np.zeros((3, 64, 80)), np.zeros((64, 80))
    padded = np.pad(pixels, ((0, 14), (0, 10), (0, 0)), mode="edge")
    weight = np.outer(edge_weights(32, window), edge_weights(32, window))
    for top in (0, 16, 32):
        for left in (0, 16, 32, 48):
            tile = padded[top : top + 32, left : left + 32]
            total[:, top : top + 32, left : left + 32] += answer(tile[None])[0] * weight
            mass[top : top + 32, left : left + 32] += weight
    expected = (total / np.maximum(mass, 1e-30))[:, :50, :70]
    found = np.concatenate(list(blended_strips(answer, pixels, window, 3, stride=16)), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "tile", "step"), [(10, 20, 5), (20, 20, 7), (100, 32, 16), (33, 32, 32), (97, 8, 3)]
)
def test_tiles_reach_both_ends_and_leave_no_gap(length: int, tile: int, step: int) -> None:
    starts = tile_starts(length, tile, step)
    assert starts[0] == 0 and starts[-1] == max(0, length - tile)
    assert all(0 < b - a <= step for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("number", range(8))
def test_turns_come_back(number: int) -> None:
    images = torch.rand(2, 3, 5, 7)
    assert torch.equal(turn_back(turn(images, number), number), images)


def test_test_time_turns_make_the_answer_equivariant(model: SmallUNet) -> None:
    pixels = picture(64, 64)
    window = Window(tile=64, turns=8, precision="fp32")
    straight = predict_image(model, pixels, window, whole=True)
    turned = predict_image(model, np.rot90(pixels).copy(), window, whole=True)
    np.testing.assert_allclose(np.rot90(straight, axes=(1, 2)), turned, atol=1e-5)
    plain = Window(tile=64, precision="fp32")
    assert np.abs(predict_image(model, pixels, plain, whole=True) - straight).max() > 1e-3


def test_a_large_image_on_disk_is_the_one_in_memory(model: SmallUNet, tmp_path: Path) -> None:
    pixels, window = picture(210, 333), Window(tile=64, precision="fp32")
    labels = predict_large(model, pixels, tmp_path / "labels.npy", window, probabilities=tmp_path / "shares.npy")
    expected = predict_image(model, pixels, window)
    assert labels.dtype == np.uint8 and np.array_equal(labels, expected.argmax(0))
    shares = np.load(tmp_path / "shares.npy", mmap_mode="r")
    assert np.abs(shares.transpose(2, 0, 1) / 255 - expected).max() <= 0.5 / 255 + 1e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.npy", "shares.npy"]


def test_a_failure_leaves_no_half_written_file(model: SmallUNet, tmp_path: Path) -> None:
    class Breaks:
        shape, dtype, ndim = (300, 64, 3), np.dtype(np.uint8), 3

        def __getitem__(self, place: tuple) -> np.ndarray:
            if place[0].start > 100:
                raise OSError("the disk is gone")
            return np.zeros((64, 64, 3), np.uint8)

    with pytest.raises(OSError, match="disk is gone"):
        predict_large(model, Breaks(), tmp_path / "x.npy", Window(tile=64), probabilities=tmp_path / "y.npy")
    assert list(tmp_path.iterdir()) == []


def test_at_scale_gives_the_original_size_back() -> None:
    pixels = picture(61, 83)
    seen = []
    found = at_scale(lambda image: seen.append(image.shape) or image.transpose(2, 0, 1) / np.float32(255), pixels, 0.5)
    assert seen == [(30, 42, 3)] and found.shape == (3, 61, 83)
    assert at_scale(lambda image: image.transpose(2, 0, 1), pixels, 1).shape == (3, 61, 83)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"tile": 4}, "tile=4"), ({"overlap": 1}, "overlap=1"), ({"turns": 3}, "turns=3"), ({"margin": 70}, "margin=70"),
     ({"sigma": 0}, "sigma=0")],
)  # fmt: skip
def test_impossible_windows_are_refused(change: dict, words: str) -> None:
    with pytest.raises(MedcoreError, match=words):
        Window(**change)


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), float), np.zeros((8, 8, 1), np.uint8)]
)
def test_pixels_that_do_not_fit_are_refused(model: SmallUNet, pixels: np.ndarray) -> None:
    with pytest.raises(MedcoreError, match="image must be uint8"):
        predict_image(model, pixels)


MEMORY = """
import resource, sys
import numpy as np, torch
from medcore.evaluation.sliding import Window, predict_large
from medcore.models.unet import SmallUNet
torch.set_num_threads(1)
side, folder = int(sys.argv[1]), sys.argv[2]
image = np.lib.format.open_memmap(folder + "/image.npy", "w+", np.uint8, (side, 2048, 3))
image[:] = 200
del image
model = SmallUNet(2, widths=(4, 6, 8))
pixels = np.load(folder + "/image.npy", mmap_mode="r")
predict_large(model, pixels, folder + "/out.npy", Window(tile=256, overlap=0.25))
with open("/proc/self/status") as status:
    lines = dict(line.split(":", 1) for line in status)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - int(lines["RssFile"].split()[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    peaks = []
    for side in (1024, 8192):
        run = subprocess.run(
            [sys.executable, "-c", MEMORY, str(side), str(tmp_path)], capture_output=True, text=True, check=True
        )
        peaks.append(int(run.stdout))
    assert peaks[1] - peaks[0] < 40_000, f"kB at 1024 and 8192 rows: {peaks}"  # 7,168 rows of input are 44 MB
