"""``.npz`` files: MedMNIST with missing parts, plain arrays, and files that must be refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medcore.data.card import Card
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)


def test_medmnist_with_its_class_names(tmp_path: Path, tmp_data: Path) -> None:
    path = tmp_path / "pneumoniamnist.npz"
    parts = {"train": slice(0, 4), "val": slice(4, 5), "test": slice(5, 7)}
    images = {f"{split}_images": IMAGES[rows, ..., 0] for split, rows in parts.items()}
    labels = {f"{split}_labels": np.arange(7)[rows, None] % 2 for split, rows in parts.items()}
    np.savez_compressed(path, **images, **labels)
    patches = read_set(path, progress=False)
    assert np.array_equal(patches.take()[..., 0], IMAGES[..., 0])
    assert patches.classes == ["normal", "pneumonia"] and patches.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert patches.splits.tolist() == ["train"] * 4 + ["val"] + ["test"] * 2
    assert patches.card.abnormal == ["pneumonia"] and not patches.card.patients_known
    assert len(set(patches.patients)) == 7


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_any_part_may_be_alone(tmp_path: Path, tmp_data: Path, split: str) -> None:
    np.savez(tmp_path / "one.npz", **{f"{split}_images": IMAGES, f"{split}_labels": np.arange(7) % 3})
    patches = read_set(tmp_path / "one.npz", progress=False)
    assert set(patches.splits) == {split} and patches.classes == ["class 0", "class 1", "class 2"]
    assert np.array_equal(patches.take(), IMAGES)


def test_plain_arrays_bring_their_columns(tmp_path: Path, tmp_data: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=IMAGES, labels=np.array([0, 1, -1, 0, 1, 0, 1]), patients=np.arange(7) // 2,
             split=np.array(["train"] * 5 + ["valid"] * 2), age=np.linspace(20, 80, 7))  # fmt: skip
    patches = read_set(tmp_path / "mine.npz", progress=False, classes=["no", "yes"])
    assert patches.patients.tolist() == ["0", "0", "1", "1", "2", "2", "3"] and patches.card.patients_known
    assert patches.splits.tolist()[-1] == "val" and patches.labels[2] == -1
    assert patches.column("age")[0] == 20 and patches.classes == ["no", "yes"]


def test_arrays_with_masks_and_another_size(tmp_path: Path, tmp_data: Path) -> None:
    masks = RNG.integers(0, 2, (7, 5, 6), dtype=np.uint8)
    np.savez(tmp_path / "seg.npz", images=IMAGES, masks=masks)
    patches = read_set(tmp_path / "seg.npz", progress=False)
    assert patches.card.task == "segmentation" and np.array_equal(patches.take_masks(), masks)
    padded = read_set(tmp_path / "seg.npz", progress=False, size=8, policy="pad")
    assert np.array_equal(padded.take()[:, :5, :6], IMAGES) and (padded.take()[:, 5:] == 255).all()
    assert (padded.take_masks()[:, :, 6:] == 255).all() and padded.column("height").tolist() == [5] * 7


def test_our_own_file_is_opened_in_place(tmp_path: Path, tmp_data: Path) -> None:
    made = PatchSet.from_arrays(IMAGES, {"label": [0] * 7}, Card("own", classes=["a"])).save(tmp_path / "own.npz")
    patches = read_set(tmp_path / "own.npz", progress=False)
    assert patches.path == tmp_path / "own.npz" and patches.fingerprint == made.fingerprint
    assert not (tmp_data / "prepared").exists()
    with pytest.raises(MedcoreError, match=r"prepared set of 6×5; prepare the original.*--size 9"):
        read_set(tmp_path / "own.npz", size=9)  # nobody says whether it was scaled before
    assert any("scaled twice" in text for text in read_set(tmp_path / "own.npz", size=3).card.warnings)


def test_a_prepared_set_at_another_size_is_what_its_files_would_be(tmp_path: Path, tmp_data: Path) -> None:
    for number, pixels in enumerate(IMAGES):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    whole = read_set(tmp_path / "set", progress=False).save(tmp_path / "whole.npz")
    scaled, direct = read_set(tmp_path / "whole.npz", size=8), read_set(tmp_path / "set", size=8, progress=False)
    assert np.array_equal(scaled.take(), direct.take()) and scaled.labels.tolist() == direct.labels.tolist()
    assert scaled.card.warnings == whole.card.warnings and scaled.card.reading == whole.card.reading
    assert read_set(tmp_path / "whole.npz", size=8).path == scaled.path


def test_what_is_refused(tmp_path: Path, tmp_data: Path) -> None:
    faults = {
        "pickle": (dict(images=IMAGES, labels=np.array([{}] * 7)), r"labels\.npy' holds Python objects"),
        "pickled images": (dict(images=np.array([None, IMAGES], dtype=object), labels=np.zeros(2)), "Python objects"),
        "no labels": (dict(images=IMAGES), "has 'images' but no 'labels'"),
        "half": (dict(train_images=IMAGES), "'train_images' but no 'train_labels'"),
        "count": (dict(images=IMAGES, labels=np.zeros(6, int)), "6 labels for 7 images"),
        "kind": (dict(images=IMAGES, labels=np.zeros(7)), "float64 values; labels must be whole numbers"),
        "several": (dict(test_images=IMAGES, test_labels=np.full((7, 14), 2)), "must hold 0 or 1"),
        "one-hot": (dict(test_images=IMAGES, test_labels=np.eye(14, dtype=int)[:7]), "one 1 an image is a class"),
        "volume": (dict(images=IMAGES[:, None].repeat(5, 1), labels=np.zeros(7, int)), r"shape \(5, 5, 6, 3\)"),
        "float": (dict(images=IMAGES / 255, labels=np.zeros(7, int)), "float64 pixels; store uint8"),
        "other": (dict(x=IMAGES), "expected 'images' and 'labels'"),
        "split": (dict(images=IMAGES, labels=np.zeros(7, int), split=np.array(["a"] * 7)), "split 'a' is not known"),
        "sizes": (dict(train_images=IMAGES, train_labels=np.zeros(7, int), test_images=IMAGES[:, :4],
                       test_labels=np.zeros(7, int)), "differ in image size"),
    }  # fmt: skip
    for name, (arrays, message) in faults.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(MedcoreError, match=message):
            read_set(tmp_path / f"{name}.npz", progress=False)
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(MedcoreError, match=r"text\.npz is not a readable"):
        read_set(tmp_path / "text.npz", progress=False)
    assert list((tmp_data / "prepared").glob("*.npz")) == []


def test_a_damaged_compressed_member_is_named(tmp_path: Path, tmp_data: Path) -> None:
    path = tmp_path / "damaged.npz"
    np.savez_compressed(path, images=IMAGES, labels=np.zeros(7, int))
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(MedcoreError, match=r"damaged\.npz"):
        read_set(path, progress=False)
    assert not list(tmp_data.rglob("*.npz"))


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 40), side=st.integers(1, 6), grey=st.booleans(), compressed=st.booleans())
def test_streamed_pixels_equal_numpy(
    tmp_path_factory: pytest.TempPathFactory, count: int, side: int, grey: bool, compressed: bool
) -> None:
    from medcore.data.readers.arrays import read_npz
    from medcore.data.readers.listing import Problems

    images = np.random.default_rng(count).integers(
        0, 256, (count, side, side + 1) + (() if grey else (3,)), dtype=np.uint8
    )
    path = tmp_path_factory.getbasetemp() / "stream.npz"
    (np.savez_compressed if compressed else np.savez)(path, images=images, labels=np.zeros(count, int))
    rows = read_npz(path, Problems("raise")).rows
    assert rows is not None
    assert np.array_equal(np.concatenate(list(rows.chunks())), images.reshape(count, side, side + 1, -1))
