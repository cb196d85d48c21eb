"""Tables as pandas, Excel, Windows and R write them: read rightly, with a word on what was read over, or refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.readers.tables import read_table, typed
from medcore.errors import MedcoreError

ROWS = 12


def folder(root: Path, text: str, *, encoding: str = "utf-8", name: str = "metadata.csv") -> Path:
    """Twelve images ``images/im00.png`` … and a table."""
    (root / "images").mkdir(parents=True)
    for k in range(ROWS):
        pixels = np.full((8, 8, 3), 20 * k, np.uint8) + np.arange(8, dtype=np.uint8)[:, None]
        Image.fromarray(pixels).save(root / f"images/im{k:02d}.png")
    (root / name).write_bytes(text.encode(encoding))
    return root


def lines(header: str, row: Callable[[int], str]) -> str:
    return "\n".join([header, *(row(k) for k in range(ROWS))]) + "\n"


def plain(k: int, mark: str = ",") -> str:
    return mark.join((f"im{k:02d}.png", "ab"[k % 2], f"p{k // 2}"))


def labelled(*labels: object) -> str:
    """Labels in turns."""
    return lines("image,label", lambda k: f"im{k:02d}.png,{labels[k % len(labels)]}")


def read(root: Path, **options: Any) -> PatchSet:
    return read_set(root, progress=False, **options)


def said(patches: PatchSet) -> str:
    return " | ".join([*patches.card.warnings, *patches.card.reading])


WELL: dict[str, tuple[str, dict[str, str]]] = {
    "pandas index": (lines(",image,label,patient", lambda k: f"{k}," + plain(k)), {"said": "numbers the rows"}),
    "unnamed index": (
        lines("Unnamed: 0,image,label,patient", lambda k: f"{k}," + plain(k)), {"said": "numbers the rows"}),
    "row names of R": (
        lines('"image","label","patient"', lambda k: f'"{k + 1}",' + plain(k)), {"said": "numbers the rows"}),
    "empty columns of a spreadsheet": (lines("image,label,patient,,", lambda k: plain(k) + ",,"), {}),
    "sep line": ("sep=;\n" + lines("image;label;patient", lambda k: plain(k, ";")), {"said": "sep=;"}),
    "semicolons": (lines("image;label;patient", lambda k: plain(k, ";")), {}),
    "tabs": (lines("image\tlabel\tpatient", lambda k: plain(k, "\t")), {}),
    "bars": (lines("image|label|patient", lambda k: plain(k, "|")), {}),
    "back-slashes": (lines("image,label,patient", lambda k: "images\\" + plain(k)), {"said": "back-slashes"}),
    "paths of another computer": (
        lines("image,label,patient", lambda k: "C:\\data\\images\\" + plain(k)), {"said": "by its name"}),
    "paths from a parent folder": (
        lines("image,label,patient", lambda k: "data/set/images/" + plain(k)), {"said": "by its name"}),
    "absolute paths": (lines("image,label,patient", lambda k: "/mnt/x/" + plain(k)), {"said": "by its name"}),
    "addresses": (lines("image,label,patient", lambda k: "file:///x/images%2F" + plain(k)), {"said": "as an address"}),
    "without endings": (
        lines("image,label,patient", lambda k: plain(k).replace(".png", "")), {"said": "without its ending"}),
    "other endings": (
        lines("image,label,patient", lambda k: plain(k).replace(".png", ".jpg")), {"said": "under another ending"}),
    "capitals": (lines("Image,LABEL,Patient", plain), {"said": "'LABEL' is read as 'label'"}),
    "near names": (lines("filename,diagnosis,patient_id", plain), {"said": "'patient_id' is read as 'patient'"}),
    "other near names": (lines("Image Index,Class,Subject ID", plain), {"said": "'Subject ID' is read as 'patient'"}),
    "the nearest of two patients": (
        lines("image,label,PatientID,case", lambda k: plain(k) + ",x"), {"said": "'PatientID'"}),
    "spellings of one label": (
        lines("image,label,patient", lambda k: f"im{k:02d}.png,{['Ab', 'B1', ' ab', 'b1'][k % 4]},p{k // 2}"),
                               {"said": "are read as one", "classes": "Ab B1"}),
    "patients 1, 1.0 and 01": (
        lines("image,label,patient", lambda k: f"im{k:02d}.png,{'ab'[k % 2]},{['1', '1.0', '01', '2'][k % 4]}"),
                               {"said": "leading zeros", "patients": "2"}),
    "patients by capitals": (
        lines("image,label,patient", lambda k: f"im{k:02d}.png,{'ab'[k % 2]},{'pP'[k % 2]}{k // 4}"),
                             {"said": "patients", "patients": "3"}),
    "one-hot": (
        lines("image,a,b,c", lambda k: f"im{k:02d},{float(k % 3 == 0)},{float(k % 3 == 1)},{float(k % 3 == 2)}"),
                {"said": "read as classes", "classes": "a b c"}),
    "whole floats": (lines("image,label", lambda k: f"im{k:02d}.png,{float(k % 2)}"), {"classes": "0 1"}),
    "missing labels": (lines("image,label", lambda k: f"im{k:02d}.png,{['0', '1', 'NA', 'nan', 'None', ''][k % 6]}"),
                       {"said": "read as missing", "classes": "0 1", "unlabelled": "8"}),
    "plus and minus": (lines("image,label", lambda k: f"im{k:02d}.png,{'+-'[k % 2]}"), {"classes": "+ -"}),
    "split words": (
        lines("image,label,patient,set", lambda k: f"{plain(k)},{['Training', 'validation', 'TEST', 'NA'][k % 4]}"),
                    {"splits": "3333"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WELL)
def test_a_table_is_read_and_what_was_read_over_is_said(tmp_path: Path, tmp_data: Path, name: str) -> None:
    text, expected = WELL[name]
    patches = read(folder(tmp_path / "set", text))
    assert len(patches) == ROWS and expected.get("said", "") in said(patches), said(patches)
    assert patches.classes == expected.get("classes", "a b").split()
    assert [pixels[0, 0, 0] for pixels in patches.take()] == [20 * k for k in range(ROWS)]  # the right files
    if "patients" in expected:
        assert len(set(patches.patients)) == int(expected["patients"])
    elif patches.card.patients_known:
        assert len(set(patches.patients)) == 6
    if "unlabelled" in expected:
        assert (patches.labels == -1).sum() == int(expected["unlabelled"])
    if "splits" in expected:
        assert Counter(patches.splits.tolist()) == {"train": 3, "val": 3, "test": 3, "": 3}


ENCODED = [("utf-8-sig", None), ("utf-16", None), ("utf-16-le", None), ("utf-16-be", None), ("cp1252", "cp1252"),
           ("gb18030", "gb18030")]  # fmt: skip


@pytest.mark.parametrize(("encoding", "told"), ENCODED)
def test_encodings(tmp_path: Path, tmp_data: Path, encoding: str, told: str | None) -> None:
    names = ["früh", "spät"] if encoding != "gb18030" else ["正常", "肿瘤"]
    text = lines("image,label", lambda k: f"im{k:02d}.png,{names[k % 2]}")
    root = folder(tmp_path / "set", text, encoding=encoding)
    if told:
        with pytest.raises(MedcoreError, match="--encoding cp1252"):
            read(root)
    assert sorted(read(root, **({"encoding": told} if told else {})).classes) == sorted(names)


AGES = lines("image,label,patient", lambda k: f"im{k:02d}.png,{20 + 3 * k},p{k}")
ILL: dict[str, tuple[str, str]] = {
    "ages": (AGES, r"12 different numbers from 20 to 53.*--classes"),
    "measured": (lines("image,label", lambda k: f"im{k:02d}.png,{0.1 * k:.2f}"), r"look measured"),
    "decimal commas": (lines("image;label", lambda k: f"im{k:02d}.png;0,{k:02d}"), r"look measured"),
    "several labels": (
        labelled('Effusion|Mass', 'Mass', 'None found'),
                       r"several labels in one cell \(Effusion\|Mass\).*--classes"),
    "several labels by semicolons": (
        labelled('edema; mass', 'mass', 'edema'),
                                     r"several labels in one cell"),
    "findings side by side": (
        lines("Path,Edema,Mass,Fracture", lambda k: f"im{k:02d}.png,{k % 2},{k % 3 // 2},{-(k % 2)}.0"),
                              r"several findings an image.*column 'label'"),
    "names of images as labels": (
        lines("image,label", lambda k: f"im{k:02d}.png,note {chr(97 + k)}"), r"names, not classes"),
    "minus one": (lines("image,label", lambda k: f"im{k:02d}.png,{k % 3 - 1}"), r"'-1' may mean uncertain"),
    "two label columns": (lines("image,class,diagnosis,patient", lambda k: f"im{k:02d}.png,a,b,p{k}"),
                          r"'class', 'diagnosis' may all mean 'label'.*--column label=class"),
    "none among words": (labelled('none', 'mild', 'severe'),
                         r"'none' may be a class or a missing label.*--classes"),
    "single letters": (
        lines("image,label", lambda k: f"im{k:02d}.png,{'aA'[k % 2]}"), r"differ only in spelling.*--classes"),
    "missing patients": (lines("image,label,patient", lambda k: f"im{k:02d}.png,a,{'NA' if k == 3 else k}"),
                         r"row 5: patient is empty"),
    "unknown split": (
        lines("image,label,split", lambda k: f"im{k:02d}.png,a,fold {k}"), r"split 'fold 0' is not known"),
    "a row twice": (
        lines("image,label", lambda k: f"{['im00.png', './im00.png', 'im00'][k % 3]},a"), r"stands already in row 2"),
    "dates": (
        labelled('2020-01-05', '05.01.2020', '2020-02-01'), r"holds dates \(05\.01\.2020, "),
    "codes that became dates": (
        labelled('1-2', 'Mar 4', '5-6'), r"holds dates \(Mar 4\).*--classes"),
    "a code for missing": (
        labelled('0', '1', '999'), r"999 beside 0, 1 may mean missing.*--classes 0,1 --on-error skip"),
    "nine for missing": (
        labelled(1, 2, 9), r"9 beside 1, 2 may mean missing"),
    "unknown among words": (
        labelled('yes', 'no', 'Unknown'), r"'Unknown' may be a class or a missing label.*--on-error skip"),
    "letters of another alphabet": (
        labelled('A', chr(0x410), 'B'), r"differ only in spelling.*--classes"),
    "rounded patients": (
        lines("image,label,patient", lambda k: f"im{k:02d}.png,{'ab'[k % 2]},1.23E+12"), r"a spreadsheet has rounded"),
    "unknown patients": (
        lines("image,label,patient", lambda k: f"im{k:02d}.png,a,{'unknown' if k == 3 else k}"),
        r"row 5: patient is empty"),
    "a title above the header": (
        "Study of lesions,,\n,,\n" + lines("image,label,patient", plain),
        r"row 1 looks like a title, and row 3 \(image"),
    "no header": ("\n".join(map(plain, range(ROWS))), r"row 1 names an image \('im00\.png'\): the header is missing"),
    "columns in another language": (
        lines("\u56fe\u50cf,\u7c7b\u522b", lambda k: f"im{k:02d}.png,a"), r"no column 'label'.*--column label=NAME"),
    "misspelt": (lines("image,lable", lambda k: f"im{k:02d}.png,a"), r"did you mean 'lable'"),
    "100,000 columns": ("image," + ",".join(map(str, range(100_000))) + "\n", r"100,001 columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", ILL)
def test_a_table_that_cannot_be_classes_is_refused_with_the_way_out(tmp_path: Path, tmp_data: Path, name: str) -> None:
    text, message = ILL[name]
    with pytest.raises(MedcoreError, match=message):
        read(folder(tmp_path / "set", text))


TOLD: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "ages": (AGES, {"classes": [str(20 + 3 * k) for k in range(ROWS)]}, [str(20 + 3 * k) for k in range(ROWS)]),
    "several labels": (ILL["several labels"][0], {"classes": ["Effusion|Mass", "Mass", "None found"]},
                       ["Effusion|Mass", "Mass", "None found"]),
    "two label columns": (ILL["two label columns"][0], {"columns": {"label": "class"}}, ["a"]),
    "none": (ILL["none among words"][0], {"classes": ["none", "mild", "severe"]}, ["none", "mild", "severe"]),
    "single letters": (ILL["single letters"][0], {"classes": ["a", "A"]}, ["a", "A"]),
    "misspelt": (ILL["misspelt"][0], {"columns": {"label": "lable"}}, ["a"]),
    "dates as classes": (ILL["codes that became dates"][0], {"classes": ["1-2", "Mar 4", "5-6"]},
                         ["1-2", "Mar 4", "5-6"]),
    "codes left out": (ILL["a code for missing"][0], {"classes": ["0", "1"], "on_error": "skip"}, ["0", "1"]),
    "codes as classes": (ILL["a code for missing"][0], {"classes": ["0", "1", "999"]}, ["0", "1", "999"]),
    "unknown left out": (ILL["unknown among words"][0], {"classes": ["yes", "no"], "on_error": "skip"}, ["yes", "no"]),
    "columns told": (ILL["columns in another language"][0], {"columns": {"label": "\u7c7b\u522b"}}, ["a"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_every_remedy_of_a_message_works(tmp_path: Path, tmp_data: Path, name: str) -> None:
    text, options, classes = TOLD[name]
    patches = read(folder(tmp_path / "set", text), **options)
    assert patches.classes == classes and (patches.labels >= 0).all()


def test_rows_without_a_patient_can_be_left_out(tmp_path: Path, tmp_data: Path) -> None:
    patches = read(folder(tmp_path / "set", ILL["missing patients"][0]), on_error="skip")
    assert len(patches) == ROWS - 1 and "NA" not in patches.patients


def test_one_name_in_two_folders_is_refused_and_a_path_tells(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "set", "image,label\nx/im00.png,a\nim01.png,b\n", name="labels.csv")
    for place in ("north", "south"):
        (root / place).mkdir()
        (root / place / "im50.png").write_bytes((root / "images/im05.png").read_bytes())
    (root / "labels.csv").write_text("image,label\nim50.png,a\nim01.png,b\n")
    with pytest.raises(MedcoreError, match=r"'im50\.png' may be 'north/im50\.png' or 'south/im50\.png'"):
        read(root / "labels.csv")
    (root / "labels.csv").write_text("image,label\nold/south/im50.png,a\nim01.png,b\n")
    assert read(root / "labels.csv").column("source")[0] == "old/south/im50.png"


def test_files_outside_the_folder_are_read_and_said(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "set", lines("image,label", lambda k: f"../other/im{k:02d}.png,{'ab'[k % 2]}"))
    (root / "images").rename(tmp_path / "other")
    assert "12 files were found outside" in said(read(root))


def test_another_table_is_found_when_it_names_the_images(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "set", lines("id,label", lambda k: f"im{k:02d},{'ab'[k % 2]}"), name="train_labels.csv")
    (root / "notes.csv").write_text("what,why\nx,y\n")
    patches = read(root)
    assert patches.classes == ["a", "b"] and "train_labels.csv is read as the table" in said(patches)
    (root / "again.csv").write_text("id,label\nim00,a\n")
    with pytest.raises(MedcoreError, match=r"several tables.*again\.csv, train_labels\.csv"):
        read(root)
    (root / "again.csv").unlink()
    for place in ("ill", "well"):
        (root / place).mkdir()
        (root / place / "im70.png").write_bytes((root / "images/im05.png").read_bytes())
    with pytest.raises(MedcoreError, match=r"the folders ill, well or stand in train_labels\.csv.*--layout class"):
        read(root)


def test_tables_of_kaggle_and_chexpert_are_found_by_what_they_hold(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "aptos", lines("id_code,diagnosis", lambda k: f"im{k:02d},{k % 5}"), name="train.csv")
    assert read(root).classes == ["0", "1", "2", "3", "4"]
    rows = lines(
        "Path,Sex,Age,Edema,Mass", lambda k: f"v1/images/im{k:02d}.png,F,{k},{k % 2}.0,{['', '-1.0', '1.0'][k % 3]}"
    )
    with pytest.raises(MedcoreError, match=r"Edema, Mass hold several findings"):
        read(folder(tmp_path / "chexpert", rows, name="train.csv"))
    rows = lines("Image Index,Finding Labels,Patient ID", lambda k: f"im{k:02d}.png,{['A|B', 'A'][k % 2]},{k}")
    with pytest.raises(MedcoreError, match=r"several labels in one cell \(A\|B\)"):
        read(folder(tmp_path / "nih", rows, name="Data_Entry.csv"))


def test_masks_beside_a_table_of_labels_are_not_read_and_that_is_said(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "set", lines("image,label,patient", lambda k: plain(k).replace(".png", "")))
    (root / "masks").mkdir()
    for k in range(ROWS):
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(root / f"masks/im{k:02d}.png")
    patches = read(root)
    assert "no column 'mask'" in said(patches) and patches.take([3])[0, 0, 0, 0] == 60


def test_a_pipe_is_no_table_and_nothing_hangs(tmp_path: Path, tmp_data: Path) -> None:
    os.mkfifo(tmp_path / "metadata.csv")
    with pytest.raises(MedcoreError, match=r"not a regular file|neither a folder"):
        read(tmp_path / "metadata.csv")
    with pytest.raises(MedcoreError, match="not a regular file"):
        read_table(tmp_path / "metadata.csv")


def test_numbers_of_people() -> None:
    assert typed(["1,5", "2", "NA"]).tolist()[:2] == [1.5, 2.0]
    assert typed(["007", "8"]).dtype.kind == "U"
    assert typed(["a", "1,5"]).dtype.kind == "U"


def test_rows_that_contradict_each_other_are_left_out_with_their_image(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "set", lines("image,label,patient", plain) + "im00.png,b,p0\nim01.png,b,p0\n")
    with pytest.raises(MedcoreError, match="row 14: image 'im00.png' stands already in row 2 and says another label"):
        read(root)
    patches = read(root, on_error="skip")
    assert sorted(set(patches.column("image"))) == [f"im{k:02d}.png" for k in range(1, ROWS)]
    reasons = {entry["row"]: entry["reason"] for entry in patches.card.excluded if entry["row"]}
    assert "says another" in reasons[14] and "says the same" in reasons[15] and len(patches.card.excluded) == 3


def test_what_may_say_the_split_or_lies_in_one_part_only_is_warned_of(tmp_path: Path, tmp_data: Path) -> None:
    text = lines("image,label,is_train", lambda k: f"im{k:02d}.png,{'ab'[k % 2]},{k % 2 == 0}")
    assert "column 'is_train' may say the split" in said(read(folder(tmp_path / "a", text)))
    text = lines("image,label,split", lambda k: f"im{k:02d}.png,{'ab'[k % 2]},{'train' if k % 2 else 'test'}")
    assert "the test part has no image of b" in said(read(folder(tmp_path / "b", text)))


def test_a_sample_of_answers_is_no_table_of_labels(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "set", lines("id_code,diagnosis", lambda k: f"im{k:02d},{k % 2}"), name="train.csv")
    (root / "sample_submission.csv").write_text(lines("id_code,diagnosis", lambda k: f"im{k:02d},0"))
    assert "train.csv is read as the table" in said(read(root))


def test_a_cell_that_fits_two_files_is_refused(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "set", lines("id,label", lambda k: f"im{k:02d},{'ab'[k % 2]}"), name="labels.csv")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "images/im03.jpg")
    with pytest.raises(MedcoreError, match=r"row 5: image 'im03' may be 'images/im03.jpg' or 'images/im03.png'"):
        read(root)
