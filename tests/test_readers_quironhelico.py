"""QuironHelico: labels from several tables, ambiguity, copies, and patients, on a small made-up tree."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image

from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits, split_cases
from medcore.errors import MedcoreError

SHEET = [  # Pat_ID, Section_ID, Window_ID, i, j, h, w, Presence
    ("B22-1", 0, "12", 100, 200, 256, 256, 1),
    ("B22-1", 0, "13", 100, 300, 256, 256, -1),
    ("B22-2", 0, "7", 5, 5, 256, 256, -1),
    ("B22-2", 0, "8", 5, 9, 256, 256, 0),
    ("B22-2", 0, "9", 6, 9, 256, 256, -1),
    ("B22-2", 0, "9", 6, 9, 256, 256, 1),
    ("B22-3", 0, "7", 5, 5, 256, 256, -1),
]
FILES = ["CrossValidation/Annotated/B22-1_0/00012.png", "CrossValidation/Annotated/B22-1_0/00012_Aug1.png",
         "CrossValidation/Annotated/B22-1_0/13.png", "CrossValidation/Annotated/B22-2_0/00007.png",
         "CrossValidation/Annotated/B22-2_0/00008.png", "CrossValidation/Annotated/B22-2_0/00009.png",
         "CrossValidation/Annotated/B22-3_0/00007.png", "CrossValidation/Annotated/B22-3_1/00007.png",
         "CrossValidation/Annotated/B22-3_1/00099.png", "CrossValidation/Cropped/B22-2_0/00001.png",
         "HoldOut/B22-4_0/00001.png"]  # fmt: skip
DIAGNOSES = {"B22-1": "ALTA", "B22-2": "NEGATIVA", "B22-3": "BAIXA", "B22-4": "BAIXA", "B22-9": "ALTA"}


def tree(
    tmp_path: Path, *, diagnoses: Mapping[str, str] = DIAGNOSES, sheet: list[tuple] = SHEET, csv: str = ""
) -> Path:
    root = tmp_path / "helico"
    for number, name in enumerate(FILES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8) + np.arange(8, dtype=np.uint8)[:, None]).save(path)
    book = openpyxl.Workbook()
    for row in [("Pat_ID", "Section_ID", "Window_ID", "i", "j", "h", "w", "Presence"), *sheet]:
        book.active.append(row)
    book.save(root / "sheet.xlsx")
    rows = "".join(f"{patient},{density}\n" for patient, density in diagnoses.items())
    (root / "PatientDiagnosis.csv").write_text("CODI,DENSITAT\n" + rows)
    (root / "patches.csv").write_text("folder,Pat_ID,Section_ID,Window_ID,Presence\n" + csv)
    return root


def test_labels_sets_and_diagnoses(tmp_path: Path, tmp_data: Path) -> None:
    patches = read_set(tree(tmp_path, csv="B22-3_1,B22-3,1,7,1\nB22-3_1,B22-3,1,99,\n"), progress=False)
    rows = patches.table.set_index("source")
    base = "CrossValidation/Annotated/"
    assert rows.label[[base + "B22-1_0/00012.png", base + "B22-1_0/13.png", base + "B22-3_1/00007.png"]].tolist() == [
        1,
        0,
        1,
    ]
    unlabelled = [base + "B22-1_0/00012_Aug1.png", base + "B22-3_1/00099.png",
                  "CrossValidation/Cropped/B22-2_0/00001.png", "HoldOut/B22-4_0/00001.png"]  # fmt: skip
    assert rows.label[unlabelled].tolist() == [-1, -1, -1, -1]
    assert rows.set[unlabelled].tolist() == ["Annotated", "Annotated", "Cropped", "HoldOut"]
    assert rows.split[unlabelled].tolist() == ["", "", "", "test"]
    assert rows.diagnosis[base + "B22-1_0/13.png"] == "ALTA" and rows.section[base + "B22-3_1/00007.png"] == 1
    assert rows.window[base + "B22-1_0/13.png"] == 13 and rows.patient[base + "B22-1_0/13.png"] == "B22-1"
    assert patches.classes == ["negative", "positive"] and patches.card.task == "diagnosis"


def test_ambiguous_and_contradictory_windows_are_excluded_and_counted(tmp_path: Path, tmp_data: Path) -> None:
    card = read_set(tree(tmp_path), progress=False).card
    assert {entry["file"].rsplit("/", 1)[1]: entry["reason"] for entry in card.excluded} == {
        "00008.png": "ambiguous annotation (Presence 0) in sheet.xlsx, row 5",
        "00009.png": "contradictory annotations in sheet.xlsx, row 6 and sheet.xlsx, row 7"}  # fmt: skip
    assert any("2 windows with ambiguous annotation" in text and "1 of them because" in text for text in card.warnings)


def test_copies_are_marked_and_reported(tmp_path: Path, tmp_data: Path) -> None:
    root = tree(tmp_path)
    twin = root / "CrossValidation/Cropped/B22-2_0/00002.png"
    twin.write_bytes((root / "CrossValidation/Annotated/B22-1_0/13.png").read_bytes())
    patches = read_set(root, progress=False)
    copies = {row.source: row.copy_of for row in patches.table.itertuples() if row.copy_of}
    base = "CrossValidation/Annotated/"
    assert copies == {
        base + "B22-1_0/00012_Aug1.png": base + "B22-1_0/00012.png",
        base + "B22-3_0/00007.png": base + "B22-2_0/00007.png",
        base + "B22-1_0/13.png": "CrossValidation/Cropped/B22-2_0/00002.png",
    }
    warnings = "\n".join(patches.card.warnings)
    assert "1 windows are augmented copies" in warnings
    assert "1 windows under two patients" in warnings and "B22-2 = B22-3" in warnings
    assert "same bytes" in warnings and "B22-2 = B22-1" in warnings
    assert "1 of 5 patients of PatientDiagnosis.csv have no window here (B22-9)" in warnings


def test_warnings_about_holdout_and_contradictions(tmp_path: Path, tmp_data: Path) -> None:
    both = read_set(tree(tmp_path, csv="f,B22-2,0,7,1\n", sheet=SHEET[:2]), progress=False).card.warnings
    assert any("diagnosed NEGATIVA have positive windows (B22-2)" in text for text in both)
    root = tree(tmp_path / "b")
    (root / "HoldOut/B22-4_0/00001.png").rename(root / "HoldOut/x.png")
    assert any("no HoldOut part" in text for text in read_set(root, progress=False).card.warnings)


def test_faults_are_named(tmp_path: Path, tmp_data: Path) -> None:
    few = {name: density for name, density in DIAGNOSES.items() if name != "B22-4"}
    with pytest.raises(MedcoreError, match=r"HoldOut/B22-4_0/00001\.png': patient 'B22-4' has no row"):
        read_set(tree(tmp_path / "a", diagnoses=few), progress=False)
    skipped = read_set(tree(tmp_path / "a2", diagnoses=few), progress=False, on_error="skip")
    assert "B22-4" not in skipped.patients and len(skipped.card.excluded) == 3
    with pytest.raises(MedcoreError, match=r"row 2: DENSITAT 'ALTO' is not one of NEGATIVA"):
        read_set(tree(tmp_path / "b", diagnoses={"B22-1": "ALTO"}), progress=False)
    root = tree(tmp_path / "c")
    with open(root / "PatientDiagnosis.csv", "a") as file:
        file.write("B22-1,BAIXA\n")
    with pytest.raises(MedcoreError, match=r"row 7: patient 'B22-1' is BAIXA here and ALTA above"):
        read_set(root, progress=False)
    with pytest.raises(MedcoreError, match=r"sheet\.xlsx, row 2: Presence 5 is not -1, 0 or 1"):
        read_set(tree(tmp_path / "d", sheet=[("B22-1", 0, "12", 1, 2, 256, 256, 5)]), progress=False)
    with pytest.raises(MedcoreError, match=r"sheet\.xlsx, row 2: Window_ID 'left' is not a whole number"):
        read_set(tree(tmp_path / "e", sheet=[("B22-1", 0, "left", 1, 2, 256, 256, 1)]), progress=False)
    root = tree(tmp_path / "f")
    (root / "sheet.xlsx").write_bytes(b"PK broken")
    with pytest.raises(MedcoreError, match=r"sheet\.xlsx is not a readable workbook"):
        read_set(root, progress=False)
    root = tree(tmp_path / "g")
    (root / "HoldOut/B22-4_0/00001.png").rename(root / "HoldOut/B22-4_0/first.png")
    with pytest.raises(MedcoreError, match=r"window 'HoldOut/B22-4_0/first\.png' is not named"):
        read_set(root, progress=False)


def test_order_of_table_rows_changes_nothing(tmp_path: Path, tmp_data: Path) -> None:
    first = read_set(tree(tmp_path / "a"), progress=False)
    second = read_set(
        tree(tmp_path / "b", sheet=SHEET[::-1], diagnoses=dict(reversed(DIAGNOSES.items()))), progress=False
    )
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("make", [assign_splits, split_cases])
def test_the_hold_out_is_test_in_every_split_and_nothing_of_its_patients_is_trained_on(
    tmp_path: Path, tmp_data: Path, make: Callable[..., PatchSet]
) -> None:
    root = tree(tmp_path, diagnoses=DIAGNOSES | {f"B22-{n}": "ALTA" for n in range(20, 26)})
    for number in range(20, 26):
        path = root / f"CrossValidation/Annotated/B22-{number}_0/00001.png"
        path.parent.mkdir(parents=True)
        path.write_bytes((root / FILES[0]).read_bytes())
    patches = read_set(root, progress=False)
    for seed in range(5):
        made = make(patches, seed=seed)
        assert set(made.splits[made.column("set") == "HoldOut"]) == {"test"}
        assert set(made.splits[made.column("set") != "HoldOut"]) == {"train", "val"}
        assert "test as given; val taken from train" in made.card.recipe["split"]["how"]
