"""``metadata.csv``: columns, classes and every fault of issue A, each one error that names file, row and remedy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.readers.tables import read_table, typed
from medcore.errors import MedcoreError

HEADER = "image,label,patient\n"
ROWS = "img/a 1.png,ill,007\nimg/b.png,well,8\nimg/c.png,ill,007\n"


def folder(tmp_path: Path, text: str = HEADER + ROWS, *, encoding: str = "utf-8") -> Path:
    root = tmp_path / "mine"
    (root / "img").mkdir(parents=True)
    for value, name in enumerate(["a 1", "b", "c"]):
        Image.fromarray(np.full((8, 9, 3), value * 10 + np.arange(9)[:, None], np.uint8)).save(root / f"img/{name}.png")
    (root / "metadata.csv").write_text(text, encoding=encoding)
    return root


def read(root: Path, **options: object) -> PatchSet:
    return read_set(root, progress=False, **options)


def test_rows_become_the_table(tmp_path: Path, tmp_data: Path) -> None:
    text = "image,label,patient,split,x,y,age,site,code\n" \
           "img/a 1.png,ill,007,train,0,50,61,north,01\nimg/b.png,well,8,Validation,1,60,,south,02\n" \
           "img/c.png,ill,007,,2,70,58.5,north,03\n"  # fmt: skip
    patches = read(folder(tmp_path, text))
    assert patches.classes == ["ill", "well"] and patches.labels.tolist() == [0, 1, 0]
    assert patches.patients.tolist() == ["007", "8", "007"] and patches.card.patients_known
    assert patches.splits.tolist() == ["train", "val", ""]
    assert patches.column("x").tolist() == [0, 1, 2] and patches.column("x").dtype == np.int64
    assert patches.column("age").dtype == np.float64 and np.isnan(patches.column("age")[1])
    assert patches.column("site").tolist() == ["north", "south", "north"]
    assert patches.column("code").tolist() == ["01", "02", "03"]  # a code, not a number
    assert patches.column("source").tolist() == ["img/a 1.png", "img/b.png", "img/c.png"]
    assert patches.take([1])[0, 0, 0].tolist() == [10, 10, 10]


def test_no_patient_column_is_a_loud_warning(tmp_path: Path, tmp_data: Path) -> None:
    patches = read(folder(tmp_path, "image,label\nimg/b.png,1\nimg/c.png,10\nimg/a 1.png,2\n"))
    assert not patches.card.patients_known and patches.card.group == "image"
    assert any("NO PATIENT INFORMATION" in text for text in patches.card.warnings)
    assert patches.classes == ["1", "2", "10"]  # numbers in the order of numbers
    assert len(set(patches.patients)) == 3


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-8-sig", ","), ("utf-8", ";"), ("utf-8", "\t")])
def test_byte_order_mark_semicolons_and_tabs_are_read(
    tmp_path: Path, tmp_data: Path, encoding: str, delimiter: str
) -> None:
    root = folder(tmp_path, (HEADER + ROWS).replace(",", delimiter).replace("well", "gesünd"), encoding=encoding)
    patches = read(root)
    assert patches.classes == ["gesünd", "ill"]
    assert patches.card.recipe["delimiter"] == delimiter


def test_another_encoding_is_refused_with_its_row_or_named(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path, (HEADER + ROWS).replace("well", "gesünd"), encoding="latin-1")
    with pytest.raises(MedcoreError, match=r"metadata\.csv, row 3: byte 0xfc.*--encoding cp1252"):
        read(root)
    assert "gesünd" in read(root, encoding="latin-1").classes
    (root / "metadata.csv").write_text(HEADER + ROWS, encoding="utf-16")
    assert read(root).classes == ["ill", "well"]


FAULTS = {
    "missing file": (HEADER + ROWS + "img/none.png,ill,9\n", 
                     r"metadata\.csv, row 5: image 'img/none\.png' does not exist \(looked in"),
    "wrong column": ("image,lable,patient\n" + ROWS, r"no column 'label'.*did you mean 'lable'"),
    "no image column": ("file,label\nx,y\n", r"no column 'image'; it has file, label"),
    "same row twice": (HEADER + ROWS + "img/b.png,well,8\n", r"row 5: image 'img/b\.png' stands already in row 3"),
    "unknown split": ("image,label,split\nimg/b.png,ill,tset\n", r"row 2: split 'tset' is not known; allowed"),
    "empty patient": (HEADER + "img/b.png,ill,\nimg/c.png,ill,7\n", r"row 2: patient is empty"),
    "short row": (HEADER + "img/b.png,ill\n", r"row 2: 2 values for 3 columns"),
    "header only": (HEADER, r"header but no rows"),
    "nothing": ("", r"is empty"),
    "labels all empty": (HEADER + "img/b.png,,8\n", r"'label' is empty in every row"),
    "column twice": ("image,label,label\nimg/b.png,a,b\n", r"'label' stands twice"),
    "nameless column": ("image,label,\nimg/b.png,a,b\n", r"column 3 has no name"),
    "x is no number": ("image,label,x\nimg/b.png,a,left\n", r"'x' must hold numbers"),
    "open quote": (HEADER + '"img/b.png,ill,8\n', r"not a valid CSV"),
    "a zip": ("PK\0\0", r"zero bytes"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_clear_error(tmp_path: Path, tmp_data: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(MedcoreError, match=message):
        read(folder(tmp_path, text))
    assert list(tmp_data.rglob("*.npz")) == []


def test_unknown_label_and_empty_class_need_the_class_list(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path)
    with pytest.raises(MedcoreError, match=r"row 3: label 'well' is not among the classes ill, sick"):
        read(root, classes=["ill", "sick"])
    with pytest.raises(MedcoreError, match=r"class dead has no image"):
        read(root, classes=["well", "ill", "dead"])
    assert read(root, classes=["well", "ill"]).labels.tolist() == [1, 0, 1]


def test_skipped_rows_are_counted_and_listed(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path, HEADER + ROWS + "img/none.png,ill,9\nimg/b.png,well,8\nimg/broken.png,well,9\n")
    (root / "img/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    patches = read(root, on_error="skip")
    assert len(patches) == 3
    rows = {entry["row"]: entry["file"] for entry in patches.card.excluded}
    assert rows == {5: "img/none.png", 6: "img/b.png", 7: "img/broken.png"}
    assert all(entry["reason"] for entry in patches.card.excluded)
    assert any(text.startswith("3 images or rows were left out") for text in patches.card.warnings)


def test_when_every_row_is_bad_skipping_is_an_error_too(tmp_path: Path, tmp_data: Path) -> None:
    with pytest.raises(MedcoreError, match=r"no row is usable; the first reason: .*row 2: image 'x\.png'"):
        read(folder(tmp_path, HEADER + "x.png,ill,1\n"), on_error="skip")


def test_unlabelled_rows_stay_and_are_counted(tmp_path: Path, tmp_data: Path) -> None:
    patches = read(folder(tmp_path, HEADER + "img/b.png,ill,1\nimg/c.png,,1\n"))
    assert patches.labels.tolist() == [0, -1]
    assert any("1 images have no label" in text for text in patches.card.warnings)


def test_a_mask_column_makes_a_segmentation_set(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path, "image,mask,label\nimg/b.png,m.png,ill\n")
    mask = np.zeros((8, 9), np.uint8)
    mask[2:4] = 255
    Image.fromarray(mask).save(root / "m.png")
    patches = read(root, classes=["ground", "thing"])
    assert patches.card.task == "segmentation" and patches.classes == ["ground", "thing"]
    assert np.array_equal(patches.take_masks()[0], mask > 0)
    assert patches.column("image_label").tolist() == ["ill"]
    (root / "metadata.csv").write_text("image,mask\nimg/b.png,nomask.png\n")
    with pytest.raises(MedcoreError, match=r"row 2: mask 'nomask\.png' does not exist"):
        read(root)


cell = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8).map(str.strip)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(cell.filter(bool), cell, cell), min_size=1, max_size=6))
def test_any_csv_of_python_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    import csv

    path = tmp_path_factory.getbasetemp() / "any.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label", "site"), *rows])
    table = read_table(path)
    assert [tuple(row) for row in table.rows] == rows
    assert table.place(0) == "any.csv, row 2"


@given(st.lists(st.one_of(st.integers(-(10**6), 10**6).map(str), st.just("")), min_size=1))
def test_columns_of_numbers_become_numbers(values: list[str]) -> None:
    column = typed(values)
    assert len(column) == len(values)
    if all(values):
        assert column.dtype == np.int64 and column.tolist() == [int(value) for value in values]
    elif any(values):
        assert column.dtype == np.float64 and np.isnan(column).tolist() == [not value for value in values]
