"""Images and masks: layouts, the mask rules, the grade table, and every fault named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.load import read_set
from medcore.data.readers.listing import Problems
from medcore.data.readers.masks import IGNORE, MaskLook, MaskRule, decide_rule, rule_from_options, to_classes
from medcore.errors import MedcoreError

HALF = np.zeros((10, 12), np.uint8)
HALF[:5] = 255


def picture(path: Path, mask: np.ndarray | None = None, size: tuple[int, int] = (10, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels if mask is None else mask).save(path)


def folders(tmp_path: Path, mask: np.ndarray = HALF, *, masks: str = "mask") -> Path:
    root = tmp_path / "seg"
    for split, names in (("train", ["a", "b"]), ("val", ["c"]), ("test", ["d"])):
        for name in names:
            picture(root / split / "images" / f"{name}.jpg")
            picture(root / split / masks / f"{name}.png", mask)
    return root


@pytest.mark.parametrize("masks", ["mask", "masks"])
def test_split_folders(tmp_path: Path, tmp_data: Path, masks: str) -> None:
    patches = read_set(folders(tmp_path, masks=masks), progress=False)
    assert dict(zip(patches.column("image"), patches.splits, strict=True)) == {
        "a": "train", "b": "train", "c": "val", "d": "test"}  # fmt: skip
    assert patches.classes == ["background", "foreground"] and patches.card.task == "segmentation"
    assert np.array_equal(patches.take_masks()[0], HALF > 0)
    assert (patches.labels == -1).all() and not patches.card.patients_known
    assert "everything else is foreground" in patches.card.recipe["mask_rule"]


def test_sizes_that_differ_are_padded_and_ignored(tmp_path: Path, tmp_data: Path) -> None:
    root = folders(tmp_path)
    picture(root / "train/images/big.png", size=(14, 11))
    picture(root / "train/mask/big.png", np.full((14, 11), 255, np.uint8))
    patches = read_set(root, progress=False)
    assert patches.shape == (14, 12, 3)
    row = patches.column("image").tolist().index("a")
    assert (patches.take([row])[0, 10:] == 255).all() and (patches.take_masks([row])[0, 10:] == IGNORE).all()
    assert np.array_equal(patches.take_masks([row])[0, :10], HALF > 0)
    assert (patches.column("height")[row], patches.column("width")[row]) == (10, 12)


def test_scaled_masks_get_no_new_class(tmp_path: Path, tmp_data: Path) -> None:
    mask = (np.indices((10, 12)).sum(0) % 3).astype(np.uint8)
    patches = read_set(folders(tmp_path, mask), progress=False, size=(23, 31))
    assert set(np.unique(patches.take_masks())) == {0, 1, 2}
    assert patches.classes == ["background", "class 1", "class 2"]


def test_tiles_cover_everything(tmp_path: Path, tmp_data: Path) -> None:
    patches = read_set(folders(tmp_path), progress=False, policy="tile", size=8, overlap=2)
    one = patches.table[patches.table.image == "a"]
    assert sorted(zip(one.x, one.y, strict=True)) == [(0, 0), (0, 2), (4, 0), (4, 2)]
    tile = patches.where(image="a", x=4, y=2)
    assert np.array_equal(tile.take_masks()[0], (HALF > 0)[2:10, 4:12])


def test_glas_names_and_grades(tmp_path: Path, tmp_data: Path) -> None:
    root = tmp_path / "glas"
    objects = np.zeros((10, 12), np.uint8)
    objects[1:3], objects[5:8] = 1, 2  # each gland has its own number
    for name in ("train_1", "testA_2", "testB_3"):
        picture(root / f"{name}.bmp")
        picture(root / f"{name}_anno.bmp", objects)
    (root / "Grade.csv").write_text("name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)\n"
                                    "train_1, 7, benign, adenomatous\ntestA_2, 8, malignant, x\n"
                                    "testB_3, 8, malignant, y\n")  # fmt: skip
    patches = read_set(root, progress=False)
    rows = patches.table.set_index("image")
    assert rows.split.to_dict() == {"testA_2": "test", "testB_3": "test", "train_1": "train"}
    assert rows.patient.to_dict() == {"testA_2": "8", "testB_3": "8", "train_1": "7"} and patches.card.patients_known
    assert rows.grade["train_1"] == "benign" and rows["grade_sirinukunwattana_et_al_2015"]["train_1"] == "adenomatous"
    assert patches.classes == ["background", "gland"] and np.array_equal(patches.take_masks()[0], objects > 0)
    graded = read_set(root, progress=False, mask_classes="grade")
    assert graded.classes == ["background", "benign", "malignant"]
    assert set(np.unique(graded.where(image="train_1").take_masks())) == {0, 1}
    assert set(np.unique(graded.where(image="testA_2").take_masks())) == {0, 2}
    (root / "Grade.csv").write_text("name,patient,grade\ntrain_1,7,benign\n")
    with pytest.raises(MedcoreError, match=r"2 have none \(testA_2\.bmp, testB_3\.bmp\); complete Grade\.csv"):
        read_set(root, progress=False, mask_classes="grade")
    assert any(
        "2 images have no row in the grade table" in text for text in read_set(root, progress=False).card.warnings
    )


def test_colour_masks_need_a_map(tmp_path: Path, tmp_data: Path) -> None:
    colours = np.zeros((10, 12, 3), np.uint8)
    colours[:3, :, 0], colours[7:, :, 2] = 255, 255
    root = folders(tmp_path, colours)
    with pytest.raises(MedcoreError, match=r"in colours.*--mask-map '#000000=NAME"):
        read_set(root, progress=False)
    named = {"#000000": "ground", "#ff0000": "gland", "#0000ff": "ignore"}
    patches = read_set(root, progress=False, mask_map=named)
    assert patches.classes == ["ground", "gland"]
    expected = np.where(colours[..., 0] > 0, 1, np.where(colours[..., 2] > 0, IGNORE, 0))
    assert np.array_equal(patches.take_masks()[0], expected)
    with pytest.raises(MedcoreError, match=r"holds the value #0000ff|holds the value 255, which no class has"):
        read_set(root, progress=False, mask_map={"#000000": "ground", "#ff0000": "gland"})


def test_palette_masks_are_indexes(tmp_path: Path, tmp_data: Path) -> None:
    root = folders(tmp_path)
    index = (np.indices((10, 12)).sum(0) % 3).astype(np.uint8)
    for path in root.glob("*/mask/*.png"):
        image = Image.fromarray(index).convert("P")
        image.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
        image.save(path)
    patches = read_set(root, progress=False, classes=["ground", "benign", "malignant"])
    assert patches.classes[2] == "malignant" and np.array_equal(patches.take_masks()[0], index)


FAULTS = {
    "mask missing": (lambda root: (root / "train/mask/a.png").unlink(), r"image 'train/images/a\.jpg' has no mask"),
    "image missing": (lambda root: (root / "train/images/a.jpg").unlink(), r"mask 'train/mask/a\.png' has no image"),
    "mask of another size": (lambda root: picture(root / "val/mask/c.png", HALF[:9]),
                             r"c\.png' is 12×9, but its image is 12×10"),
    "a broken mask": (lambda root: (root / "val/mask/c.png").write_bytes(b"x"), r"mask/c\.png' is not an image"),
    "same name twice": (lambda root: picture(root / "val/mask/c.tif", HALF), r"same name; keep one"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_or_skipped(tmp_path: Path, tmp_data: Path, fault: str) -> None:
    root = folders(tmp_path)
    damage, message = FAULTS[fault]
    damage(root)
    with pytest.raises(MedcoreError, match=message):
        read_set(root, progress=False)
    if fault != "same name twice":
        patches = read_set(root, progress=False, on_error="skip")
        assert len(patches) == 3 and len(patches.card.excluded) == 1


def test_images_without_foreground_are_named_and_one_class_is_refused(tmp_path: Path, tmp_data: Path) -> None:
    root = folders(tmp_path)
    picture(root / "train/mask/b.png", HALF * 0)
    warnings = read_set(root, progress=False).card.warnings
    assert any("1 images have no foreground in their mask (train/images/b.jpg)" in text for text in warnings)
    with pytest.raises(MedcoreError, match="all masks together hold only one class"):
        read_set(folders(tmp_path / "none", HALF * 0), progress=False)


def test_masks_that_look_inverted_are_said_and_the_way_out_turns_them(tmp_path: Path, tmp_data: Path) -> None:
    """The object is black on white paper; the map may name the background last."""
    inverted = np.full((10, 12), 255, np.uint8)
    inverted[3:6, 4:9] = 0
    root = folders(tmp_path, inverted)
    assert any("all around the border" in text for text in read_set(root, progress=False).card.warnings)
    turned = read_set(root, progress=False, mask_map={0: "gland", 255: "background"})
    assert turned.classes == ["background", "gland"] and np.array_equal(turned.take_masks([0])[0], inverted == 0)
    assert not any("border" in text for text in turned.card.warnings)
    straight = read_set(folders(tmp_path / "other", 255 - inverted), progress=False)
    assert not any("border" in text for text in straight.card.warnings)


def test_unknown_mask_values(tmp_path: Path, tmp_data: Path) -> None:
    root = folders(tmp_path, (np.indices((10, 12)).sum(0) * 11).astype(np.uint8))
    with pytest.raises(MedcoreError, match=r"masks hold the values 0, 11, 22.*mask_map"):
        read_set(root, progress=False)
    with pytest.raises(MedcoreError, match=r"holds the value 33"):
        read_set(root, progress=False, mask_map={0: "ground", 11: "a", 22: "b"})
    index = folders(tmp_path / "i", (np.indices((10, 12)).sum(0) % 3).astype(np.uint8))
    with pytest.raises(MedcoreError, match=r"values 0, 1, 2, which do not fit 2 classes"):
        read_set(index, progress=False, classes=["a", "b"])


def decided(*masks: set[int], classes: tuple[str, ...] = ()) -> MaskRule:
    return decide_rule(MaskRule(classes=classes), [MaskLook(frozenset(m)) for m in masks], "s", Problems("raise"))


def test_rules_by_hand() -> None:
    path = Path("m.png")
    assert decided({0, 255}).kind == "binary"
    assert decided({0, 1}).classes == ("background", "foreground")
    assert decided({0, 7}, {0}, {7}).kind == "binary"
    with pytest.raises(MedcoreError, match="values 0, 3, 7, which are no class indexes without gaps"):
        decided({0, 7}, {0, 3})
    assert decided({0, 1, 2, 255}).classes == ("background", "class 1", "class 2")
    rule = rule_from_options(None, {0: "a", "2": "b", 255: "ignore"})
    assert to_classes(rule, np.array([[0, 2, 255]]), path).tolist() == [[0, 1, 255]]
    with pytest.raises(MedcoreError, match="neither a mask value"):
        rule_from_options(None, {"red": "a"})
    with pytest.raises(MedcoreError, match="not among the classes a"):
        rule_from_options(["a"], {1: "b"})
    with pytest.raises(MedcoreError, match="value 3, which no class has"):
        to_classes(decided({0, 1, 2}, classes=("a", "b", "c")), np.array([[3]]), path)


DISC = np.hypot(*(np.indices((24, 24)) - 12)) < 7
SOFT = np.clip(255 * (7.5 - np.hypot(*(np.indices((24, 24)) - 12))) / 3, 0, 255).astype(np.uint8)


def pairs(tmp_path: Path, *masks: Image.Image | np.ndarray, ending: str = ".png") -> Path:
    for number, given in enumerate(masks):
        picture(tmp_path / f"set/images/{number}.png", size=(24, 24))
        (tmp_path / "set/masks").mkdir(exist_ok=True)
        made = given if isinstance(given, Image.Image) else Image.fromarray(given)
        made.save(tmp_path / f"set/masks/{number}{ending}")
    return tmp_path / "set"


def palette(values: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", values.shape[::-1])
    image.putdata(values.astype(np.uint8).ravel().tolist())
    image.putpalette([part for colour in colours for part in colour])
    return image


BLACK, WHITE, RED, GREY = (0, 0, 0), (255, 255, 255), (200, 0, 0), (90, 90, 90)
ONE, FULL = DISC.astype(np.uint8), DISC.astype(np.uint8) * 255
BINARY_SETS = {
    "0/1 beside 0/255": (ONE, FULL, ONE, FULL),
    "0/38": (ONE * 38, ONE * 38),
    "one mask is full": (FULL, np.full_like(FULL, 255)),
    "palettes in two orders": (palette(DISC, BLACK, WHITE), palette(~DISC, WHITE, BLACK)),
    "white before black everywhere": (palette(~DISC, WHITE, BLACK), palette(~DISC, WHITE, BLACK)),
    "grey palettes in two orders": (palette(DISC, BLACK, GREY), palette(~DISC, GREY, BLACK)),
    "red palette by index": (palette(DISC, BLACK, RED), palette(DISC, BLACK, RED)),
    "three equal channels": (np.stack([FULL] * 3, axis=2), FULL),
    "one bit": (Image.fromarray(DISC), FULL),
}  # fmt: skip


@pytest.mark.parametrize("kind", BINARY_SETS)
def test_two_values_are_the_object_however_they_are_stored(tmp_path: Path, tmp_data: Path, kind: str) -> None:
    patches = read_set(pairs(tmp_path, *BINARY_SETS[kind]), progress=False)
    assert patches.classes == ["background", "foreground"]
    expected = [np.ones_like(DISC) if kind == "one mask is full" and k == 1 else DISC for k in range(len(patches))]
    assert np.array_equal(patches.take_masks(), expected)
    assert any(line.startswith("masks: ") for line in patches.card.reading)


NUMBERED = [np.pad(np.repeat(np.repeat(row[None], 4, 0), 2, 1), ((2, 18), (2, 22 - 2 * row.size))) for row in
            (np.arange(1, n + 1, dtype=np.uint8) for n in (3, 5, 8))]  # fmt: skip
ASKED = {
    "soft edges": ((SOFT, SOFT), r"--mask-threshold 128", {"mask_threshold": 128}, SOFT >= 128),
    "numbered objects": (NUMBERED, r"--mask-rule binary.*--mask-rule index", {"mask_rule": "binary"}, NUMBERED[0] > 0),
    "numbered classes": (NUMBERED, r"objects of one class, or classes", {"mask_rule": "index"}, NUMBERED[0]),
    "values with gaps": ((ONE * 80 + np.eye(24, dtype=np.uint8) * 90 * ~DISC,) * 2, r"0, 80, 90.*--mask-map",
                         {"mask_map": {0: "ground", 80: "a", 90: "b"}}, ONE + 2 * (np.eye(24, dtype=np.uint8) * ~DISC)),
    "colours in two orders": ((palette(DISC, BLACK, RED), palette(~DISC, RED, BLACK)), r"--mask-map '#000000=",
                              {"mask_map": {"#000000": "ground", "#c80000": "gland"}}, DISC),
    "255 beside classes": ((ONE + np.eye(24, dtype=np.uint8) * 254 * DISC, FULL), r"255 foreground or 'ignore'",
                           {"mask_rule": "binary"}, DISC),
}  # fmt: skip


@pytest.mark.parametrize("kind", ASKED)
def test_masks_that_may_mean_two_things_are_asked_for_and_the_answer_works(
    tmp_path: Path, tmp_data: Path, kind: str
) -> None:
    masks, message, options, expected = ASKED[kind]
    root = pairs(tmp_path, *masks)
    with pytest.raises(MedcoreError, match=message):
        read_set(root, progress=False)
    patches = read_set(root, progress=False, **options)
    assert np.array_equal(patches.take_masks()[0], expected)


def test_options_of_masks_exclude_each_other(tmp_path: Path, tmp_data: Path) -> None:
    root = pairs(tmp_path, FULL, FULL)
    with pytest.raises(MedcoreError, match="exclude each other"):
        read_set(root, progress=False, mask_threshold=3, mask_rule="binary")
    with pytest.raises(MedcoreError, match="mask_rule must be"):
        read_set(root, progress=False, mask_rule="objects")
