"""HAM10000: images grouped by lesion, and the tabular form."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.load import read_set
from medcore.errors import MedcoreError

HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
ROWS = ["HAM_1,ISIC_1,nv,histo,45.0,male,back", "HAM_1,ISIC_2,nv,histo,45.0,male,back",
        "HAM_2,ISIC_3,mel,histo,,female,face", "HAM_3,ISIC_4,vasc,consensus,30.0,unknown,back"]  # fmt: skip


def folder(tmp_path: Path, rows: list[str] = ROWS) -> Path:
    root = tmp_path / "ham"
    for number in range(1, 5):
        part = root / f"HAM10000_images_part_{1 + number // 3}"
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 12, 3), number * 20, np.uint8)).save(part / f"ISIC_{number}.jpg", quality=95)
    (root / "HAM10000_metadata.csv").write_text(HEADER + "\n".join(rows) + "\n")
    return root


def test_lesions_are_the_groups_and_columns_are_kept(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path)
    patches = read_set(root, progress=False)
    assert patches.patients.tolist() == ["HAM_1", "HAM_1", "HAM_2", "HAM_3"] and patches.card.group == "lesion"
    assert patches.label_names.tolist() == ["nv", "nv", "mel", "vasc"]
    assert patches.card.abnormal == ["akiec", "bcc", "mel"]
    assert patches.column("sex").tolist() == ["male", "male", "female", "unknown"]
    assert patches.column("dx_type").tolist()[3] == "consensus" and patches.column("localization")[2] == "face"
    assert np.isnan(patches.column("age")[2]) and patches.column("age")[0] == 45
    assert patches.take()[:, 0, 0, 0].tolist() == pytest.approx([20, 40, 60, 80], abs=2)
    assert read_set(root / "HAM10000_metadata.csv", progress=False).fingerprint == patches.fingerprint


def test_metadata_faults(tmp_path: Path, tmp_data: Path) -> None:
    for k, (row, message) in enumerate([
        ("HAM_9,ISIC_9,nv,histo,1,male,back", r"row 6: image 'ISIC_9' does not exist"),
        ("HAM_9,ISIC_1,nv,histo,1,male,back", r"row 6: image 'ISIC_1' stands already in row 2"),
        ("HAM_9,ISIC_4,naevus,histo,1,male,back", r"stands already|diagnosis 'naevus'"),
    ]):  # fmt: skip
        with pytest.raises(MedcoreError, match=message):
            read_set(folder(tmp_path / str(k), [*ROWS, row]), progress=False)
    with pytest.raises(MedcoreError, match="diagnosis 'naevus' is not among akiec"):
        read_set(folder(tmp_path / "dx", [ROWS[0].replace("nv", "naevus")]), progress=False)
    with pytest.raises(MedcoreError, match="lesion_id is empty"):
        read_set(folder(tmp_path / "lesion", [ROWS[0].replace("HAM_1", "")]), progress=False)


def test_images_without_a_row_are_listed(tmp_path: Path, tmp_data: Path) -> None:
    patches = read_set(folder(tmp_path, ROWS[:3]), progress=False)
    assert len(patches) == 3
    assert [entry["file"] for entry in patches.card.excluded] == ["HAM10000_images_part_2/ISIC_4.jpg"]
    assert any("1 image files have no row" in text for text in patches.card.warnings)


def table(path: Path, labels: list[int], side: int = 28, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), side * side * channels))
    lines = [",".join([*(f"pixel{k:04d}" for k in range(pixels.shape[1])), "label"])]
    lines += [",".join(map(str, [*row, label])) for row, label in zip(pixels, labels, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return pixels.reshape(len(labels), side, side, channels).astype(np.uint8)


@pytest.mark.parametrize(("side", "channels"), [(28, 3), (28, 1), (8, 3), (8, 1)])
def test_the_tabular_form_is_read_with_a_warning(tmp_path: Path, tmp_data: Path, side: int, channels: int) -> None:
    path = tmp_path / f"hmnist_{side}.csv"
    pixels = table(path, [4, 6, 5, 0], side, channels)
    patches = read_set(path, progress=False)
    assert np.array_equal(patches.take(), pixels)
    assert patches.label_names.tolist() == ["nv", "mel", "vasc", "akiec"]
    assert any(f"pixels of hmnist_{side}.csv are {side}×{side}" in text for text in patches.card.warnings)
    assert not patches.card.patients_known


def test_the_tabular_form_joins_lesions_only_when_every_row_agrees(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path)
    table(root / "hmnist_28_28_RGB.csv", [4, 4, 6, 5])
    joined = read_set(root / "hmnist_28_28_RGB.csv", progress=False)
    assert joined.card.group == "lesion" and joined.patients.tolist() == ["HAM_1", "HAM_1", "HAM_2", "HAM_3"]
    assert joined.column("image").tolist() == ["ISIC_1", "ISIC_2", "ISIC_3", "ISIC_4"]
    table(root / "hmnist_28_28_RGB.csv", [4, 4, 5, 6])
    assert not read_set(root / "hmnist_28_28_RGB.csv", progress=False).card.patients_known
    table(tmp_path / "alone/hmnist_28_28_RGB.csv", [4])
    assert len(read_set(tmp_path / "alone", progress=False)) == 1  # a folder that only has the table


def test_faults_of_the_table(tmp_path: Path, tmp_data: Path) -> None:
    path = tmp_path / "hmnist.csv"
    table(path, [4, 1], 8, 1)
    good = path.read_text().splitlines()
    for text, message in [
        ("\n".join([good[0], good[1], good[2][:-1] + "9"]), r"row 3: pixels must be 0\.\.255 and labels 0\.\.6"),
        ("\n".join([good[0], "x," + good[1].split(",", 1)[1]]), r"rows 2 to 2: "),
        ("\n".join([good[0], "300," + good[1].split(",", 1)[1]]), r"row 2: pixels must be"),
        (good[0], "no rows"),
        (good[0].replace("label", "dx") + "\n", "last column must be 'label'"),
        ("pixel0000,pixel0001,label\n1,2,3", "2 pixel columns do not make a square"),
    ]:
        path.write_text(text)
        with pytest.raises(MedcoreError, match=message):
            read_set(path, progress=False)
