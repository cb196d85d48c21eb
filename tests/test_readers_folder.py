"""One folder per class, and the NCT-CRC layouts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.datasets import CRC_CLASSES
from medcore.data.load import read_set
from medcore.errors import MedcoreError


def picture(path: Path, value: int = 7, shape: tuple[int, ...] = (6, 6, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(
        np.full(shape, value, np.uint8) + np.arange(6, dtype=np.uint8).reshape(-1, *[1] * (len(shape) - 1))
    ).save(path)
    return path


def test_folders_are_classes_at_any_depth(tmp_path: Path, tmp_data: Path) -> None:
    root = tmp_path / "xray"
    for name in ("b/2.png", "b/deep/er/1.png", "a/1.jpg", "a/.hidden.png", "a/notes.txt", "a/slide.svs"):
        picture(root / name) if name.endswith(("png", "jpg")) else (root / name).write_text("x")
    patches = read_set(root, progress=False)
    assert patches.classes == ["a", "b"]
    assert patches.column("source").tolist() == ["a/1.jpg", "b/2.png", "b/deep/er/1.png"]
    assert not patches.card.patients_known
    assert any("NO PATIENT" in text for text in patches.card.warnings)
    assert any(".svs: 1" in text for text in patches.card.warnings)


def test_split_folders_above_the_classes(tmp_path: Path, tmp_data: Path) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "valid/a/3.png", "test/b/4.png"):
        picture(tmp_path / "s" / name)
    patches = read_set(tmp_path / "s", progress=False)
    assert patches.splits.tolist() == ["test", "train", "train", "val"]
    assert patches.label_names.tolist() == ["b", "a", "b", "a"]


def test_the_patient_can_be_in_the_path(tmp_path: Path, tmp_data: Path) -> None:
    for name in ("a/P01_x.png", "b/P01_y.png", "b/P02_x.png"):
        picture(tmp_path / "p" / name)
    patches = read_set(tmp_path / "p", progress=False, patient_pattern=r"(P\d+)_")
    assert patches.patients.tolist() == ["P01", "P01", "P02"] and patches.card.patients_known
    with pytest.raises(MedcoreError, match=r"finds no patient in 'a/P01_x\.png'"):
        read_set(tmp_path / "p", progress=False, patient_pattern=r"(Q\d+)_")
    with pytest.raises(MedcoreError, match="exactly one group"):
        read_set(tmp_path / "p", progress=False, patient_pattern=r"P\d+")
    with pytest.raises(MedcoreError, match="not a regular expression"):
        read_set(tmp_path / "p", progress=False, patient_pattern="(P")


def test_folder_faults(tmp_path: Path, tmp_data: Path) -> None:
    picture(tmp_path / "flat/1.png")
    with pytest.raises(MedcoreError, match=r"no class folders, but 1 images"):
        read_set(tmp_path / "flat", progress=False)
    picture(tmp_path / "hole/a/1.png")
    (tmp_path / "hole/b").mkdir()
    with pytest.raises(MedcoreError, match=r"class folder '.*b' holds no image"):
        read_set(tmp_path / "hole", progress=False)
    with pytest.raises(MedcoreError, match=r"one class only; --classes 'a' reads it so"):
        read_set(tmp_path / "hole", progress=False, on_error="skip")
    assert len(read_set(tmp_path / "hole", progress=False, on_error="skip", classes=["a"])) == 1
    with pytest.raises(MedcoreError, match=r"the folder a/ is not among the classes x, b"):
        read_set(tmp_path / "hole", progress=False, classes=["x", "b"])
    (tmp_path / "hole/b/bad.png").write_bytes(b"GIF87a")
    with pytest.raises(MedcoreError, match=r"bad\.png.*on_error='skip'"):
        read_set(tmp_path / "hole", progress=False)


def test_grey_sets_have_one_channel_and_mixed_sets_three(tmp_path: Path, tmp_data: Path) -> None:
    picture(tmp_path / "g/a/1.png", shape=(6, 6))
    picture(tmp_path / "g/b/2.png", shape=(6, 6))
    assert read_set(tmp_path / "g", progress=False).shape == (6, 6, 1)
    picture(tmp_path / "g/b/3.png")
    mixed = read_set(tmp_path / "g", progress=False)
    assert mixed.shape == (6, 6, 3)
    assert mixed.card.conversions == {"grey repeated to three channels": 2}
    assert read_set(tmp_path / "g", progress=False, channels=1).card.conversions == {"colour to grey": 1}


def test_nct_crc_subsets_become_splits(tmp_path: Path, tmp_data: Path) -> None:
    root = tmp_path / "crc"
    picture(root / "NCT-CRC-HE-100K/ADI/ADI-AAAA.tif")
    picture(root / "CRC-VAL-HE-7K/TUM/TUM-TCGA-B.png")
    picture(root / "figure-crops/LYM/fig1.jpg")
    patches = read_set(root, progress=False)
    assert dict(zip(patches.column("subset"), patches.splits, strict=True)) == {
        "NCT-CRC-HE-100K": "train", "CRC-VAL-HE-7K": "test", "figure-crops": "train"}  # fmt: skip
    assert patches.classes == CRC_CLASSES and patches.label_names.tolist() == ["TUM", "ADI", "LYM"]
    assert patches.card.licence == "CC-BY-4.0" and not patches.card.patients_known
    assert patches.card.recipe["subset_to_split"]["figure-crops"] == "train"
    one = read_set(root / "CRC-VAL-HE-7K", progress=False)
    assert one.splits.tolist() == ["test"] and one.classes == CRC_CLASSES
    picture(root / "CRC-VAL-HE-7K/XXX/1.png")
    with pytest.raises(MedcoreError, match=r"XXX' is none of the classes"):
        read_set(root, progress=False)
