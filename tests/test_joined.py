"""Several files an image: masks are joined and channels stacked as written out by hand here, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.load import read_set
from medcore.data.readers.mask_files import decode_mask
from medcore.errors import MedcoreError
from medcore.evaluation.predictor import find_images

TOP, LOW = np.zeros((2, 16, 16), bool)
TOP[1:5, 2:9], LOW[9:14, 4:12] = True, True
LEFT = np.tile(np.arange(16) < 8, (16, 1))


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8) * (255 if values.dtype == bool else 1)).save(path)


def photo(path: Path) -> None:
    save(path, np.random.default_rng(len(path.name)).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def folder_an_image(root: Path) -> None:
    for case in ("P01", "P02"):
        photo(root / case / "images/x.png")
        save(root / case / "masks/m1.png", TOP)
        save(root / case / "masks/m2.png", LOW)


def numbers(root: Path) -> None:
    for k in (1, 2):
        photo(root / f"{k}.png")
        save(root / f"{k}_mask.png", TOP)
        save(root / f"{k}_mask_1.png", LOW)


def folder_a_class(root: Path) -> None:
    for k in (1, 2):
        photo(root / f"images/{k}.png")
        save(root / f"masks/necrosis/{k}.png", LOW)
        save(root / f"masks/tumour/{k}_T.png", TOP)


def headings(root: Path) -> None:
    for k in (1, 2):
        photo(root / f"1. Images/a. Training Set/I_{k}.png")
        save(root / f"2. Segmentations/a. Training Set/1. Low/I_{k}_LO.png", LOW)
        save(root / f"2. Segmentations/a. Training Set/2. Top/I_{k}_TO.png", TOP)


UNION, BY_CLASS = TOP | LOW, LOW + 2 * TOP
JOINED = {
    "a folder an image": (folder_an_image, ["background", "foreground"], UNION),
    "numbers behind the name": (numbers, ["background", "foreground"], UNION),
    "a folder a class": (folder_a_class, ["background", "necrosis", "tumour"], BY_CLASS),
    "a folder a class below a split": (headings, ["background", "1. Low", "2. Top"], BY_CLASS),
}


@pytest.mark.parametrize("kind", JOINED)
def test_masks_of_one_image_are_joined_and_it_is_said(tmp_path: Path, tmp_data: Path, kind: str) -> None:
    make, classes, expected = JOINED[kind]
    make(tmp_path / "set")
    patches = read_set(tmp_path / "set", progress=False)
    assert len(patches) == 2 and patches.classes == classes
    assert all(np.array_equal(mask, expected) for mask in patches.take_masks())
    assert any("2 of 2 images have several masks" in text for text in patches.card.warnings)


def test_a_changed_second_mask_makes_the_set_anew(tmp_path: Path, tmp_data: Path) -> None:
    numbers(tmp_path / "set")
    read_set(tmp_path / "set", progress=False)
    save(tmp_path / "set/1_mask_1.png", LOW & LEFT)
    again = read_set(tmp_path / "set", progress=False).take_masks()
    assert np.array_equal(again[0], TOP | (LOW & LEFT)) and np.array_equal(again[1], UNION)


def test_masks_that_cannot_be_parts_are_refused(tmp_path: Path, tmp_data: Path) -> None:
    numbers(tmp_path / "set")
    save(tmp_path / "set/2_mask_1.png", TOP)
    with pytest.raises(MedcoreError, match=r"2_mask_1\.png' covers what another.*two opinions"):
        read_set(tmp_path / "set", progress=False)
    save(tmp_path / "set/2_mask_1.png", (LOW + 2 * TOP).astype(np.uint8))
    with pytest.raises(MedcoreError, match=r"2_mask_1\.png' holds several values"):
        read_set(tmp_path / "set", progress=False)
    save(tmp_path / "set/2_mask_1.png", LOW[:8])
    with pytest.raises(MedcoreError, match=r"2_mask_1\.png' is of another size"):
        read_set(tmp_path / "set", progress=False)
    assert len(read_set(tmp_path / "set", progress=False, on_error="skip")) == 1


def test_classes_of_joined_masks_may_be_put_in_order(tmp_path: Path, tmp_data: Path) -> None:
    folder_a_class(tmp_path / "set")
    patches = read_set(tmp_path / "set", progress=False, classes=["background", "tumour", "necrosis"])
    assert patches.classes[1:] == ["tumour", "necrosis"] and np.array_equal(patches.take_masks()[0], TOP + 2 * LOW)
    with pytest.raises(MedcoreError, match="folders of masks are necrosis, tumour"):
        read_set(tmp_path / "set", progress=False, classes=["background", "tumour", "vessel"])


@pytest.mark.parametrize("count", [2, 3])
def test_channels_in_files_of_their_own_become_red_green_blue(tmp_path: Path, tmp_data: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (3, count, 16, 16), dtype=np.uint8)
    for k in range(3):
        save(tmp_path / f"set/labelsTr/c_{k}.png", TOP)
        for channel in range(count):
            save(tmp_path / f"set/imagesTr/c_{k}_{channel:04d}.png", planes[k, channel])
    patches = read_set(tmp_path / "set", progress=False)
    expected = np.concatenate([planes, np.zeros((3, 3 - count, 16, 16), np.uint8)], axis=1)
    assert np.array_equal(patches.take(), expected.transpose(0, 2, 3, 1)) and len(patches) == 3
    assert any(f"{count} files an image are its channels" in text for text in patches.card.warnings)
    one = read_set(tmp_path / "set", progress=False, bands=[1])
    assert np.array_equal(one.take()[..., 0], planes[:, 1]) and one.shape == (16, 16, 1)
    with pytest.raises(MedcoreError, match=rf"has {count} channels.*--bands"):
        read_set(tmp_path / "set", progress=False, bands=[5])


def test_four_channels_are_chosen_from(tmp_path: Path, tmp_data: Path) -> None:
    for k in range(2):
        save(tmp_path / f"set/labelsTr/c_{k}.png", TOP)
        for channel in range(4):
            save(
                tmp_path / f"set/imagesTr/c_{k}_{channel:04d}.png", np.full((16, 16), 40 * channel + k, np.uint8) + TOP
            )
    with pytest.raises(MedcoreError, match=r"has 4 channels.*--bands 0,1,2"):
        read_set(tmp_path / "set", progress=False)
    assert read_set(tmp_path / "set", progress=False, bands=[3, 0, 1]).take()[0, 0, 0].tolist() == [120, 0, 40]


def test_photographs_with_numbers_are_no_channels(tmp_path: Path, tmp_data: Path) -> None:
    for k in range(4):
        photo(tmp_path / f"set/images/IMG_{k:04d}.png")
        save(tmp_path / f"set/masks/IMG_{k:04d}.png", TOP)
    assert len(read_set(tmp_path / "set", progress=False)) == 4
    assert len(find_images(tmp_path / "set/images")) == 4


def test_prediction_refuses_channels_that_would_count_as_images(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        save(tmp_path / f"{name}.png", TOP)
    with pytest.raises(MedcoreError, match=r"a_0000\.png' and 'a_0001\.png' look like channels of one image"):
        find_images(tmp_path)
    assert len(find_images([tmp_path / "a_0000.png", tmp_path / "b_0000.png"])) == 2


def test_transparency_of_a_mask_is_background(tmp_path: Path) -> None:
    shown, hidden = np.zeros((2, 16, 16, 4), np.uint8)
    shown[..., :3], shown[LEFT, 3] = 200 * (TOP | LOW)[..., None], 255  # what is transparent is not there
    hidden[TOP, 3] = 255  # one colour: the transparency is the mask
    for name, pixels, expected in (("a", shown, LEFT & UNION), ("b", hidden, TOP)):
        Image.fromarray(pixels, "RGBA").save(tmp_path / f"{name}.png")
        values = decode_mask(tmp_path / f"{name}.png").pixels
        assert np.array_equal(values if values.ndim == 2 else values[..., 0], expected * (200 if name == "a" else 255))
    hidden[LOW, 3] = 90
    Image.fromarray(hidden, "RGBA").save(tmp_path / "c.png")
    with pytest.raises(MedcoreError, match="transparent by degrees"):
        decode_mask(tmp_path / "c.png")


def test_masks_of_pages_are_refused_and_whole_floats_read(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "two.tif", np.stack([TOP, LOW]).astype(np.uint8), photometric="minisblack")
    with pytest.raises(MedcoreError, match="2 pages or frames"):
        decode_mask(tmp_path / "two.tif")
    tifffile.imwrite(tmp_path / "whole.tif", TOP.astype(np.float32))
    assert np.array_equal(decode_mask(tmp_path / "whole.tif").pixels, TOP)
    tifffile.imwrite(tmp_path / "part.tif", TOP.astype(np.float32) / 2)
    with pytest.raises(MedcoreError, match="float32 values"):
        decode_mask(tmp_path / "part.tif")
