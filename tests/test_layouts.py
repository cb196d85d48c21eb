"""How people lay out their images: each layout is read rightly, with a word on what is unusual, or refused by name.

The kinds come from Kaggle, Zenodo, MONAI, nnU-Net, mmsegmentation, YOLO-like and CheXpert-like sets and from public bug
reports of people who use them. Nothing here may become a guess in silence.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcore.data.load import read_set, report_reading
from medcore.data.patchset import PatchSet
from medcore.data.readers.files import image_files
from medcore.errors import MedcoreError
from medcore.evaluation.predictor import find_images

DISC = np.hypot(*(np.indices((12, 12)) - 6)) < 4


def picture(path: Path, *, grey: bool = False) -> None:
    """An image that differs from every other one by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.as_posix().encode()))
    pixels = rng.integers(60, 200, (12, 12) if grey else (12, 12, 3), dtype=np.uint8)
    form = {"": "PNG", ".jfif": "JPEG", ".pgm": "PPM", ".xyz": "PNG"}.get(path.suffix)
    Image.fromarray(pixels).save(path, form)


def mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DISC.astype(np.uint8) * 255).save(path)


def build(root: Path, names: str) -> Path:
    """Files by name, ``{a,b}`` and ``{1..3}`` spread as a shell does; ``!`` marks masks, others are images or text."""
    for name in names.split():
        for path in _spread(name):
            target = root / path.removeprefix("!").replace("~", " ")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
            elif path.startswith("!"):
                mask(target)
            elif target.suffix in (
                ".csv",
                ".txt",
                ".pdf",
                ".json",
                ".xml",
                ".gz",
                ".md",
                ".db",
                ".svs",
                ".tsv",
                ".xlsx",
            ):
                target.write_text("x")
            else:
                picture(target)
    return root


def _spread(name: str) -> list[str]:
    start, brace, rest = name.partition("{")
    if not brace:
        return [name]
    inside, _, end = rest.partition("}")
    first, dots, last = inside.partition("..")
    values = [str(n) for n in range(int(first), int(last) + 1)] if dots else inside.split(",")
    return [start + value + tail for value in values for tail in _spread(end)]


def facts(patches: PatchSet) -> dict[str, Any]:
    """What a layout is judged by."""
    counts = Counter(patches.label_names.tolist()) if not patches.has_masks else Counter()
    return {
        "n": len(patches),
        "classes": dict(counts),
        "splits": dict(Counter(patches.splits.tolist())),
        "patients": len(set(patches.patients)) if patches.card.patients_known else None,
        "masks": patches.has_masks,
        "warned": " | ".join(patches.card.warnings),
        "read": " | ".join(patches.card.reading),
    }


# name: (files, what is read, a piece of the warnings that says what is unusual)
READ: dict[str, tuple[str, dict[str, Any], str]] = {
    "class folders": ("{a,b}/{1..3}.png", {"classes": {"a": 3, "b": 3}, "patients": None}, "NO PATIENT"),
    "split above classes": ("{train,test}/{a,b}/{1..3}.png", {"splits": {"train": 6, "test": 6}}, ""),
    "split words": ("{Training,Valid,Testing}/{a,b}/{1,2}.png", {"splits": {"train": 4, "val": 4, "test": 4}}, ""),
    "split words with more": (
        "{train_set,validation-data,TEST}/{a,b}/1.png", {"splits": {"train": 2, "val": 2, "test": 2}}, ""),
    "two test parts": ("{train,testA,testB}/{a,b}/{1,2}.png", {"splits": {"train": 4, "test": 8}}, ""),
    "a further folder beside the splits": (
        "{train,test}/{a,b}/{1..3}.png sample/x.png",
        {"splits": {"train": 6, "test": 6}, "classes": {"a": 6, "b": 6}}, "sample/ (1 images)"),
    "a copy of the set inside it": (
        "{train,test}/{a,b}/{1..3}.png s/{train,test}/{a,b}/{1..3}.png __MACOSX/train/a/._1.png", {"n": 12}, "s/ (12 "
        "images)"),
    "a wrapper": ("set/{train,test}/{a,b}/{1..3}.png", {"splits": {"train": 6, "test": 6}}, "set/ is the only one"),
    "three wrappers": ("x/y/z/{a,b}/{1..3}.png __MACOSX/q.png", {"classes": {"a": 3, "b": 3}}, "z/ is the only one"),
    "a wrapper in a split": ("train/train/{a,b}/1.png test/test/{a,b}/1.png", {"splits": {"train": 2, "test": 2}}, ""),
    "a folder of images in a split": ("{train,test}/images/{a,b}/1.png", {"splits": {"train": 2, "test": 2}}, ""),
    "papers beside the classes": ("{a,b}/{1..3}.png README.md info.pdf docs/x.pdf", {"classes": {"a": 3, "b": 3}}, ""),
    "hidden and system files": (
        "{a,b}/{1..3}.png a/._1.png a/Thumbs.db .git/x.png b/.ipynb_checkpoints/1.png @eaDir/1.png", {"n": 6}, ""),
    "loose images": ("{a,b}/{1..3}.png overview.png", {"n": 6}, "have no class"),
    "rare endings": ("a/{1.pgm,2.jfif,3,4.xyz} b/{1.gif,2.bmp,3.tif}", {"classes": {"a": 4, "b": 3}}, ""),
    "a file that is no image": ("{a,b}/{1..3}.png a/slide.svs", {"n": 6}, ".svs: 1"),
    "capitals in test": ("train/{Benign,Malignant}/{1,2}.png test/{benign,malignant}/1.png",
                         {"classes": {"Benign": 3, "Malignant": 3}}, "read as one class"),
    "blanks and composed accents": ("train/{caf\u00e9~au~lait,b}/{1,2}.png test/{cafe\u0301_au_lait,b}/1.png",
                                    {"classes": {"caf\u00e9 au lait": 3, "b": 3}}, "read as one class"),
    "look-alike classes": ("{Malignant,Malignent,Normal}/{1,2}.png", {"n": 6}, "look alike"),
    "grades are no look-alikes": ("{grade~1,grade~2,grade~3}/{1,2}.png", {"n": 6}, "NO PATIENT"),
    "folds": ("fold{1..3}/{a,b}/{1,2}.png", {"classes": {"a": 6, "b": 6}, "splits": {"": 12}}, "as folds"),
    "patients above classes": (
        "{8863,8864,8865}/{0,1}/{1,2}.png", {"classes": {"0": 6, "1": 6}, "patients": 3}, "as patients"),
    "patients in classes": ("benign/{P01,P02}/{1,2}.png malignant/{P03,P04}/{1,2}.png",
                            {"classes": {"benign": 4, "malignant": 4}, "patients": 4}, "as patients"),
    "splits in classes": (
        "{a,b}/{train,test}/{1,2}.png", {"classes": {"a": 4, "b": 4}, "splits": {"train": 4, "test": 4}}, "split"),
    "deep folders in a class": ("b/{1.png,deep/er/2.png} a/1.png", {"classes": {"a": 1, "b": 2}}, ""),
    "digits as classes": ("{0,1,2}/{1..3}.png", {"classes": {"0": 3, "1": 3, "2": 3}}, ""),
    "a test part without labels": (
        "train/{a,b}/{1..3}.png test/{1..4}.png", {"n": 6, "splits": {"train": 6}}, "no label"),
    "images and masks": ("images/{1..4}.jpg !masks/{1..4}.png", {"masks": True, "n": 4}, ""),
    "Original and Ground Truth": ("Original/{1..4}.jpg !Ground~Truth/{1..4}.png", {"masks": True, "n": 4}, ""),
    "split above images and masks": (
        "{train,val,test}/images/1.jpg !{train,val,test}/mask/1.png",
        {"masks": True, "splits": {"train": 1, "val": 1, "test": 1}}, ""),
    "split below images and masks": (
        "img_dir/{train,val}/{1,2}.jpg !ann_dir/{train,val}/{1,2}.png",
        {"masks": True, "splits": {"train": 2, "val": 2}}, ""),
    "ADE words": ("images/{training,validation}/{1,2}.jpg !annotations/{training,validation}/{1,2}.png",
                  {"masks": True, "splits": {"train": 2, "val": 2}}, ""),
    "split in the names of the folders": (
        "train_images/{1,2}.jpg !train_masks/{1,2}.png test_images/3.jpg !test_masks/3.png",
                                          {"masks": True, "splits": {"train": 2, "test": 1}}, ""),
    "nnU-Net in two dimensions": (
        "imagesTr/c_{1..3}_0000.png !labelsTr/c_{1..3}.png imagesTs/c_9_0000.png dataset.json",
                                  {"masks": True, "n": 3}, "1 images belong to no images and masks"),
    "GlaS in test folders": ("{train,testA,testB}/images/{1,2}.png !{train,testA,testB}/mask/{1,2}.png",
                             {"masks": True, "splits": {"train": 2, "test": 4}}, ""),
    "masks by suffix": ("{x1,x2,x3}.png !{x1,x2,x3}_mask.png", {"masks": True, "n": 3}, ""),
    "masks by ISIC suffix": ("images/ISIC_{1..3}.jpg !masks/ISIC_{1..3}_segmentation.png", {"masks": True, "n": 3}, ""),
    "masks by prefix": ("images/{1..3}.jpg !masks/mask_{1..3}.png", {"masks": True, "n": 3}, ""),
    "other ends on both sides": (
        "images/{21,22,23}_training.png !manual/{21,22,23}_manual1.png", {"masks": True, "n": 3}, ""),
    "field of view beside the truth": (
        "images/{1..3}.png !manual/{1..3}.png !FOV/{1..3}.png", {"masks": True, "n": 3},
        "3 images belong to no images and masks"),
    "images around a mask folder": ("{1..3}.png !masks/{1..3}.png", {"masks": True, "n": 3}, ""),
    "images of an unusual name": ("tissue/{1..3}.png !masks/{1..3}.png", {"masks": True, "n": 3}, ""),
    "patients with masks beside": (
        "TCGA_{01,02,03}/x_1.tif !TCGA_{01,02,03}/x_1_mask.tif", {"masks": True, "patients": 3}, ""),
    "a test part without masks": ("train/images/{1,2}.png !train/labels/{1,2}.png test/images/{3,4}.png",
                                  {"masks": True, "n": 2, "splits": {"train": 2}}, "test/images/"),
    "ISIC folders": (
        "X_Training_Input/I_{1..3}.jpg !X_Training_GroundTruth/I_{1..3}_segmentation.png "
        "X_Validation_Input/I_{7,8}.jpg !X_Validation_GroundTruth/I_{7,8}_segmentation.png",
        {"masks": True, "splits": {"train": 3, "val": 2}}, ""),
    "folds of images and masks": (
        "fold_{1..3}/images/{1,2}.png !fold_{1..3}/masks/{1,2}.png", {"masks": True, "splits": {"": 6}}, ""),
    "patients of images and masks": (
        "P{01,02,03}/images/{1,2}.png !P{01,02,03}/masks/{1,2}.png", {"masks": True, "patients": 3}, ""),
    "an empty part": ("{train,test}/{a,b}/{1,2}.png validation/", {"splits": {"train": 4, "test": 4}}, "validation/"),
    "lists of a split": ("images/{1..3}.png !masks/{1..3}.png train.txt test.txt", {"n": 3}, "may say the split"),
    "parts with other classes": ("train/{a,b,c}/{1,2}.png test/{a,d}/{1,2}.png", {"n": 10}, "no image of d"),
    "two spellings of a part": (
        "train/{Normal,Tumour}/{1,2}.png test/{Normal,Tumor}/1.png", {"n": 6}, "no image of Tumor"),
    "a name in another alphabet": (
        "train/{A,B}/{1,2}.png test/{\u0410,B}/1.png", {"classes": {"A": 3, "B": 3}}, "one class"),
    "numbered headings": ("1.~Images/a.~Training~Set/{1,2}.png !2.~Masks/a.~Training~Set/{1,2}.png",
                          {"masks": True, "splits": {"train": 2}}, ""),
    "equal names in two formats": ("{a,b}/{1.png,1.jpg}", {"n": 4}, ""),
    "a wrapper around images and masks": ("data/images/{1..3}.jpg !data/masks/{1..3}.png", {"masks": True, "n": 3}, ""),
}  # fmt: skip

# name: (files, what the message names)
REFUSED: dict[str, tuple[str, str]] = {
    "images side by side": ("{1..3}.png", r"no class folders, but 3 images"),
    "images only": ("images/{1..3}.png", r"images.*no classes by their names"),
    "nothing": ("a/", r"no file"),
    "an empty class": ("{a,b}/1.png c/", r"class folder '.*c' holds no image"),
    "only volumes": ("imagesTr/c_{1,2}_0000.nii.gz labelsTr/c_{1,2}.nii.gz dataset.json", r"NIfTI"),
    "patients alone": ("{patient_01,patient_02,patient_03}/{1,2}.png", r"look like patients.*--layout class"),
    "sites or classes": ("{north,south}/{benign,malignant}/{1,2}.png", r"--layout 'class/\*' or --layout '\*/class'"),
    "magnifications in classes": ("{benign,malignant}/{40X,100X,200X}/{1,2}.png", r"--layout 'class/\*'"),
    "capitals side by side": ("{Benign,benign,other}/{1,2}.png", r"differ only in spelling.*--classes"),
    "twins of another name": ("A/{1..4}.png !B/{1..4}.png", r"looks like masks.*--images 'A' --masks 'B'"),
    "two truths": ("images/{1..3}.png !mask/{1..3}_mask.png !1st_manual/{1..3}_manual1.png", r"--masks '1st_manual'"),
    "two raters": ("I_{1,2}L.png !I_{1,2}L_1stHO.png !I_{1,2}L_2ndHO.png", r"several masks.*--masks '_1stHO'"),
    "classes with masks beside": (
        "{benign,malignant}/{x1,x2}.png !{benign,malignant}/{x1,x2}_mask.png", r"--masks none.*--masks NAME"),
    "classes with mask folders": (
        "{COVID,Normal}/images/{1,2}.png !{COVID,Normal}/masks/{1,2}.png", r"COVID, Normal.*--masks none"),
    "channels of nnU-Net in colours": (
        "imagesTr/c_{1,2}_{0000,0001}.png !labelsTr/c_{1,2}.png", r"0000.png' is in colours; channels in files"),
    "a channel that is missing": (
        "imagesTr/c_{1,2}_{0000,0001}.png imagesTr/c_3_0000.png !labelsTr/c_{1..3}.png", r"'c_3' has the channels"),
    "a test part inside train": ("train/test/{a,b}/1.png test/{a,b}/1.png", r"lies in split train and in split test"),
    "YOLO": ("images/train/{1,2}.png labels/train/{1,2}.txt", r"YOLO"),
    "VOC boxes": ("JPEGImages/{1,2}.png Annotations/{1,2}.xml", r"Pascal VOC"),
    "an image without a mask": ("images/{1..4}.png !masks/{1..3}.png", r"image 'images/4\.png' has no mask"),
    "one name twice": ("images/{1,2}.png !masks/{1.png,1.tif,2.png}", r"same name; keep one"),
    "masks of other images": ("images/{a,b}.png !masks/{c,d}.png", r"images, masks.*no classes by their names"),
    "eval beside train": ("{train,eval}/{a,b}/{1,2}.png", r"eval' may be the validation or the test part"),
    "years or classes": (
        "{2019,2020,2021}/{benign,malignant}/{1,2}.png", r"--layout 'class/\*' or --layout '\*/class'"),
    "images by organ": ("{colon_image_sets,lung_image_sets}/{aca,n}/{1,2}.png", r"no classes.*--layout '\*/class'"),
    "masks of cases or of classes": ("{a1,b2}/images/x.png !{a1,b2}/masks/{m1,m2}.png", r"a1, b2.*--masks NAME"),
    "many equal masks an image": ("P{01,02}/images/x.png !P{01,02}/masks/{m1,m2}.png", r"two opinions, not two parts"),
    "a class or the test part": ("{control,test}/{1..3}.png", r"--classes 'control,test' reads.*--classes 'control'"),
    "results beside the classes": ("{a,b,results}/{1..3}.png", r"results/ may be a class or no class.*--on-error skip"),
    "a copy of a class": ("{a,b,a~-~Copy}/{1,2}.png", r"a - Copy/ may be a class or a copy of a/"),
    "images without labels": ("{a,b,unlabelled}/{1,2}.png", r"unlabelled/ may be a class"),
    "one folder only": ("stage_1/{1..3}.png labels.csv", r"one class only; --classes 'stage_1'.*labels\.csv may hold"),
    "a workbook beside the images": ("{1..3}.png labels.xlsx", r"labels\.xlsx may hold the labels: save it as a \.csv"),
    "slides with outlines": ("images/{1,2}.png annotations/{1,2}.xml", r"Aperio"),
    "modalities of patients": ("BraTS_{001,002}/x_{flair,t1}.png !BraTS_{001,002}/x_seg.png", r"look like patients"),
    "COCO": ("images/{1,2}.png annotations/instances.json", r"COCO"),
    "splits without classes": ("{train,test}/{1,2}.png", r"images without class folders"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_layout_is_read_and_what_is_unusual_is_said(tmp_path: Path, tmp_data: Path, name: str) -> None:
    names, expected, warned = READ[name]
    found = facts(read_set(build(tmp_path / "set", names), progress=False))
    assert {key: found[key] for key in expected} == expected, found
    assert warned in found["warned"], found["warned"]
    assert found["read"].startswith("read as: ")


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_that_may_mean_two_things_is_refused_with_the_way_out(
    tmp_path: Path, tmp_data: Path, name: str
) -> None:
    names, message = REFUSED[name]
    with pytest.raises(MedcoreError, match=message):
        read_set(build(tmp_path / "set", names), progress=False)
    assert not list(tmp_data.rglob("*.npz")) if tmp_data.exists() else True


@pytest.mark.parametrize("names", ["{1..3}.png", "images/{1..3}.png"])
@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("COCO", {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1}]}),
        ("LabelMe", {"shapes": [{"label": "gland", "points": [[1, 1], [5, 5]]}], "imagePath": "1.png"}),
        ("VIA", {"1.png55": {"filename": "1.png", "regions": [{"shape_attributes": {"name": "polygon"}}]}}),
    ],
)
def test_outlines_in_json_are_named_and_not_taken_for_labels(
    tmp_path: Path, tmp_data: Path, kind: str, written: dict, names: str
) -> None:
    folder = build(tmp_path / "set", names)
    (folder / "notes.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(MedcoreError, match=rf"notes\.json holds outlines or boxes as {kind}.*images/ and masks/"):
        read_set(folder, progress=False)


SAID: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sites": (REFUSED["sites or classes"][0], {"layout": "*/class"}, {"classes": {"benign": 4, "malignant": 4}}),
    "sites as a column": (REFUSED["sites or classes"][0], {"layout": "site/class"},
    {"classes": {"benign": 4, "malignant": 4}}),
    "magnifications": (REFUSED["magnifications in classes"][0], {"layout": "class/*"},
                       {"classes": {"benign": 6, "malignant": 6}}),
    "patients as classes": (REFUSED["patients alone"][0], {"layout": "class"}, {"n": 6, "patients": None}),
    "patients told": (
        "{a,b}/{x,y}/{1,2}.png", {"layout": "class/patient"}, {"classes": {"a": 4, "b": 4}, "patients": 2}),
    "split told": ("{a,b}/{train,test}/1.png", {"layout": "class/split"}, {"splits": {"train": 2, "test": 2}}),
    "spellings kept apart": (REFUSED["capitals side by side"][0], {"classes": ["benign", "Benign", "other"]},
                             {"classes": {"benign": 2, "Benign": 2, "other": 2}}),
    "twins": (REFUSED["twins of another name"][0], {"images": "A", "masks": "B"}, {"masks": True, "n": 4}),
    "twins as classes": (REFUSED["twins of another name"][0], {"layout": "class"}, {"classes": {"A": 4, "B": 4}}),
    "the right truth": (REFUSED["two truths"][0], {"masks": "1st_manual"}, {"masks": True, "n": 3}),
    "one rater": (REFUSED["two raters"][0], {"masks": "_1stHO"}, {"masks": True, "n": 2}),
    "classes, no masks": (REFUSED["classes with masks beside"][0], {"masks": "none"},
                          {"classes": {"benign": 2, "malignant": 2}, "masks": False}),
    "masks, no classes": (REFUSED["classes with masks beside"][0], {"masks": "_mask"}, {"masks": True, "n": 4}),
    "classes, no mask folders": (REFUSED["classes with mask folders"][0], {"masks": "none"},
                                 {"classes": {"COVID": 2, "Normal": 2}}),
    "mask folders, no classes": (REFUSED["classes with mask folders"][0], {"masks": "masks"}, {"masks": True, "n": 4}),
    "patients of masks": ("images/P{1,2}_{a,b}.png !masks/P{1,2}_{a,b}.png", {"patient_pattern": r"(P\d)_"},
                          {"masks": True, "patients": 2}),
    "a class called test": ("{control,test}/{1..3}.png", {"classes": ["control", "test"]},
                            {"classes": {"control": 3, "test": 3}}),
    "results left out": ("{a,b,results}/{1..3}.png", {"classes": ["a", "b"], "on_error": "skip"},
                         {"classes": {"a": 3, "b": 3}}),
    "one class": ("stage_1/{1..3}.png", {"classes": ["stage_1"]}, {"classes": {"stage_1": 3}}),
    "no masks of a set named GT": ("X_with_GT/{a,b}/{1,2}.png !X_with_GT/{a,b}/{1,2}_mask.png", {"masks": "none"},
                                   {"classes": {"a": 2, "b": 2}}),
    "an empty class left out": (REFUSED["an empty class"][0], {"on_error": "skip"}, {"classes": {"a": 1, "b": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_every_option_that_a_message_names_decides(tmp_path: Path, tmp_data: Path, name: str) -> None:
    names, options, expected = SAID[name]
    found = facts(read_set(build(tmp_path / "set", names), progress=False, **options))
    assert {key: found[key] for key in expected} == expected, found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "class/class"}, "class once"),
        ({"layout": "tissue/class"}, "must name levels"),
        ({"layout": "a/b/class"}, "must name levels"),
        ({"layout": "*/*/class"}, "no 3 levels"),
        ({"masks": "outlines"}, "masks='outlines'"),
        ({"images": "photographs"}, "images='photographs'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, tmp_data: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MedcoreError, match=message):
        read_set(build(tmp_path / "set", "{a,b}/{c,d}/1.png"), progress=False, **options)


def test_links_are_followed_once_and_a_link_to_nothing_is_named(tmp_path: Path, tmp_data: Path) -> None:
    build(tmp_path / "store", "{1..3}.png")
    root = build(tmp_path / "set", "a/1.png")
    (root / "b").symlink_to(tmp_path / "store")
    (root / "b2").symlink_to(root / "b2")  # loops
    (root / "a/again").symlink_to(root)
    assert facts(read_set(root, progress=False))["classes"] == {"a": 1, "b": 3}
    (root / "a/gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(MedcoreError, match=r"gone\.png"):
        read_set(root, progress=False)
    left = read_set(root, progress=False, on_error="skip").card.excluded
    assert [entry["file"] for entry in left] == ["a/gone.png"]


def test_masks_of_a_dermatoscopic_set_never_replace_its_images(tmp_path: Path, tmp_data: Path) -> None:
    root = build(tmp_path / "ham", "images/ISIC_{1..4}.jpg !masks/ISIC_{1..4}.png")
    rows = [f"HAM_{k // 2},ISIC_{k},{'nv' if k % 2 else 'mel'},histo" for k in range(1, 5)]
    (root / "HAM10000_metadata.csv").write_text("lesion_id,image_id,dx,dx_type\n" + "\n".join(rows) + "\n")
    patches = read_set(root, progress=False)
    assert all(source.startswith("images/") for source in patches.column("source"))
    assert any("4 masks" in text for text in patches.card.warnings)
    picture(root / "more/ISIC_1.png")
    with pytest.raises(MedcoreError, match=r"two different images have the id ISIC_1"):
        read_set(root, progress=False)


def test_class_names_come_from_the_description_of_nnunet(tmp_path: Path, tmp_data: Path) -> None:
    root = build(tmp_path / "Dataset001", "imagesTr/c_{1..3}_0000.png !labelsTr/c_{1..3}.png")
    for path in (root / "labelsTr").iterdir():
        Image.fromarray(DISC.astype(np.uint8)).save(path)
    for labels in ({"background": 0, "tumour": 1}, {"0": "background", "1": "tumour"}):
        (root / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".png"}))
        assert read_set(root, progress=False).classes == ["background", "tumour"]


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path, tmp_data: Path) -> None:
    root = build(tmp_path / "set", "{train,test}/{a,b}/{1..3}.png sample/x.png")
    card = report_reading(root)
    assert not list(tmp_data.rglob("*.npz"))
    made = read_set(root, progress=False).card
    assert (card.reading, card.warnings, card.classes) == (made.reading, made.warnings, made.classes)
    masked = report_reading(build(tmp_path / "seg", "images/{1..4}.jpg !masks/{1..4}.png"))
    assert any(line.startswith("masks: ") for line in masked.reading)
    with pytest.raises(MedcoreError, match="nothing to try"):
        report_reading("phantom-crc")


@pytest.mark.parametrize("source", ["x.zip", "x.xlsx", "x.pdf"])
def test_files_that_are_no_source_name_the_way_out(tmp_path: Path, tmp_data: Path, source: str) -> None:
    (tmp_path / source).write_bytes(b"PK")
    with pytest.raises(MedcoreError, match=rf"{source}' is neither a folder.*; (unpack|save|name)"):
        read_set(tmp_path / source, progress=False)


def test_reading_and_prediction_walk_alike(tmp_path: Path, tmp_data: Path) -> None:
    """A folder from a Mac: copies, archives and checkpoints of other programs are no images for anybody."""
    root = build(tmp_path / "new", "im{0..3}.png ._im{0..3}.png __MACOSX/im0.png .ipynb_checkpoints/im{0,1}.png more/x")
    expected = ["im0.png", "im1.png", "im2.png", "im3.png", "x"]
    assert [file.name for file in image_files(root)] == expected
    assert [file.name for file in find_images(root)] == expected


def ham(root: Path) -> None:
    build(root, "images/ISIC_{1..4}.jpg closed/ISIC_9.jpg")
    rows = [f"HAM_{k},ISIC_{k},{'nv' if k % 2 else 'mel'},histo" for k in range(1, 5)]
    (root / "HAM10000_metadata.csv").write_text("lesion_id,image_id,dx,dx_type\n" + "\n".join(rows) + "\n")


def helico(root: Path) -> None:
    build(root, "CrossValidation/Annotated/B22-{1,2}_0/{1,2}.png CrossValidation/Annotated/B22-1_0/closed/9.png")
    (root / "PatientDiagnosis.csv").write_text("CODI,DENSITAT\nB22-1,NEGATIVA\nB22-2,ALTA\n")
    (root / "windows.csv").write_text("Pat_ID,Section_ID,Window_ID,Presence\nB22-1,0,1,-1\nB22-2,0,1,1\n")


CLOSED = {
    "class folders": lambda root: build(root, "{a,b}/{1,2}.png a/closed/3.png"),
    "NCT-CRC-HE": lambda root: build(root, "NCT-CRC-HE-100K/{ADI,MUS}/{1,2}.png NCT-CRC-HE-100K/ADI/closed/3.png"),
    "HAM10000": ham,
    "QuironHelico": helico,
    "images and masks": lambda root: build(root, "images/{1..4}.png !masks/{1..4}.png images/closed/9.png"),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_a_folder_that_cannot_be_read_is_named_or_left_out(
    tmp_path: Path, tmp_data: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    root = tmp_path / "set"
    CLOSED[kind](root)
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MedcoreError, match="closed' cannot be read"):
        read_set(root, progress=False)
    patches = read_set(root, progress=False, on_error="skip")
    assert len(patches) == 4 and "closed" in patches.card.excluded[0]["file"]


@pytest.mark.parametrize("column", ["EncodedPixels", "label", "mask"])
def test_masks_as_run_lengths_are_named_and_not_taken_for_labels(tmp_path: Path, tmp_data: Path, column: str) -> None:
    folder = build(tmp_path / "set", "{1..6}.png")
    runs = ["1 5", "1 5 41 5", "", "7 2 90 12 200 3", "", "3 1"]
    rows = [f"{number}.png,{cell}" for number, cell in enumerate(runs, 1)]
    (folder / "metadata.csv").write_text("\n".join([f"image,{column}", *rows]), encoding="utf-8")
    with pytest.raises(MedcoreError, match=rf"column '{column}' holds masks as run lengths.*images/ and masks/"):
        read_set(folder, progress=False)


def test_a_further_column_of_run_lengths_does_not_keep_labels_from_being_read(tmp_path: Path, tmp_data: Path) -> None:
    folder = build(tmp_path / "set", "{1..4}.png")
    rows = [f"{number}.png,{'ab'[number % 2]},1 5 41 5" for number in range(1, 5)]
    (folder / "metadata.csv").write_text("\n".join(["image,label,rle", *rows]), encoding="utf-8")
    assert read_set(folder, progress=False).classes == ["a", "b"]
