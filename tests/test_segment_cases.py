"""Cases of a set at their original size, rules without learning, splits by patients, and label images on disk."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.sizes import factor_for, rescaled
from medcore.data.splits import split_cases
from medcore.errors import MedcoreError
from medcore.evaluation.segmenter import load_segmenter, object_numbers, segment_files
from medcore.evaluation.sliding import Window
from medcore.models.unet import SmallUNet, build_unet
from medcore.studies.segmentation import SegmentationStudy, cases
from medcore.training import checkpoint
from medcore.training.augment.recipe import Augment
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Segmentation


def glands(count: int = 8, side: int = 48, patients: int = 4) -> PatchSet:
    """Bright images with one dark disc each; half of them have eight rows of padding."""
    rng = np.random.default_rng(0)
    images = rng.integers(180, 256, (count, side, side, 3)).astype(np.uint8)
    masks = np.zeros((count, side, side), np.uint8)
    y, x = np.mgrid[:side, :side]
    heights = np.where(np.arange(count) % 2, side - 8, side)
    for n in range(count):
        inside = (y - 18) ** 2 + (x - 14 - 2 * n) ** 2 < 100
        masks[n][inside] = 1
        images[n][inside] = rng.integers(40, 90, (inside.sum(), 3))
        images[n, heights[n] :], masks[n, heights[n] :] = 255, 255
    table = {
        "label": np.full(count, -1), "patient": [f"p{n % patients}" for n in range(count)],
        "source": [f"{n}.png" for n in range(count)], "split": [("train", "val")[n % 4 == 3] for n in range(count)],
        "height": heights, "width": np.full(count, side),
    }  # fmt: skip
    return PatchSet.from_arrays(images, table, Card("toy", classes=["background", "gland"], task="segmentation"), masks)


def test_cases_come_without_their_padding() -> None:
    ps = glands()
    assert [image.shape[0] for image in cases.case_images(ps)] == [48, 40] * 4
    assert not any((mask == 255).any() for mask in cases.case_masks(ps))


def test_statistics_and_class_counts_ignore_padding() -> None:
    ps = glands()
    values = np.concatenate([image.reshape(-1, 3) for image in cases.case_images(ps)]) / 255
    mean, std = cases.case_statistics(ps)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(std, values.std(0))
    table = cases.class_table(ps)
    assert table["pixels"].sum() == sum(mask.size for mask in cases.case_masks(ps))
    weighted = table["pixels"] * table["weight"]
    assert weighted.iloc[0] == pytest.approx(weighted.iloc[1], rel=1e-3)


def test_baselines_are_scored_and_the_dark_disc_is_found() -> None:
    ps = glands()
    said = cases.baseline_cases(ps, ps)
    tables = {name: cases.score_predictions(ps, answer, borders=False, objects=False) for name, answer in said.items()}
    dice = {name: table[table["class"] == "gland"]["dice"].mean() for name, table in tables.items()}
    assert dice["Otsu on haematoxylin"] > 0.9 > dice["everything is foreground"] > 0


def test_a_network_is_judged_at_the_original_size() -> None:
    ps, model = glands(), SmallUNet(2, widths=(4, 6, 8))
    predicted = cases.predict_cases(model, ps, factor=0.5, window=Window(tile=32, turns=2))
    assert [mask.shape for mask in predicted] == [(48, 48), (40, 48)] * 4
    table = cases.score_predictions(ps, predicted)
    assert len(table) == 2 * len(ps) and set(table["patient"]) == {"p0", "p1", "p2", "p3"}
    with pytest.raises(MedcoreError, match="3 predictions for 8 images"):
        cases.score_predictions(ps, predicted[:3])


def test_nothing_to_learn_is_refused_and_empty_images_are_named() -> None:
    ps = glands()
    empty = PatchSet.from_arrays(ps.take(), ps.table, ps.card, np.zeros((8, 48, 48), np.uint8))
    with pytest.raises(MedcoreError, match="hold only background"):
        cases.check_trainable(empty)
    with pytest.raises(MedcoreError, match="has no masks"):
        cases.check_trainable(PatchSet.from_arrays(ps.take(), ps.table, ps.card))
    cases.check_trainable(ps)
    assert cases.without_foreground(ps) == [] and len(cases.without_foreground(empty)) == 8


def test_rescaled_keeps_classes_table_and_padding(tmp_path: Path) -> None:
    ps = glands()
    small = rescaled(ps, 0.5, tmp_path / "small.npz")
    assert small.shape == (24, 24, 3) and len(small) == len(ps)
    assert set(np.unique(small.take_masks())) == {0, 1, 255}
    assert small.column("height").tolist() == [24, 20] * 4
    assert small.patients.tolist() == ps.patients.tolist() and small.splits.tolist() == ps.splits.tolist()
    assert rescaled(ps, 1) is ps
    assert factor_for(ps, 24) == 0.5 and factor_for(ps, None) == factor_for(ps, 500) == 1
    with pytest.raises(MedcoreError, match="factor=0"):
        rescaled(ps, 0)


def test_split_counts_patients_and_keeps_a_published_split() -> None:
    count = np.array([30, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    patient = np.repeat([f"p{n}" for n in range(10)], count)
    rows = len(patient)
    table = {"label": np.full(rows, -1), "patient": patient, "source": [str(n) for n in range(rows)]}
    ps = PatchSet.from_arrays(np.zeros((rows, 8, 8, 3), np.uint8), table, Card("toy", classes=["a", "b"]))
    given = split_cases(ps, fractions=(0.6, 0.2, 0.2))
    sides = {side: set(given.where(split=side).patients) for side in ("train", "val", "test")}
    assert [len(names) for names in sides.values()] == [6, 2, 2]
    assert not sides["train"] & sides["val"] and not sides["test"] & (sides["train"] | sides["val"])
    published = ps.with_split(["train", "val", "test", *["train"] * (rows - 3)])
    assert split_cases(published).splits.tolist() == published.splits.tolist()


def test_the_full_network_learns_from_a_file_of_encoder_weights(tmp_path: Path) -> None:
    """Two steps as in the full profile: ResNet-50 encoder from a .pth, Adam, exponential decay, auxiliary heads."""
    theirs = torchvision.models.resnet50(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    ps = glands()
    train = ps.where(split="train")
    network = build_unet("resnet50", 2, weights=tmp_path / "resnet50.pth", deep_supervision=True)
    mine, first = dict(network.backbone.named_parameters()), theirs.conv1.weight
    assert any(torch.equal(value, first) for value in mine.values())
    before = {name: value.detach().clone() for name, value in mine.items()}
    config = TrainConfig(epochs=2, batch_size=6, optimiser="adam", schedule="exponential", decay=0.5, device="cpu")
    history = fit(network, Segmentation(ps.classes), train, ps.where(split="val"), config, progress=False)
    assert history.table["lr"].tolist() == pytest.approx([1e-3, 5e-4])
    assert np.isfinite(history.table["train_loss"]).all()
    assert all(not torch.equal(before[name], value) for name, value in mine.items() if value.ndim == 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ps, folder = glands(), tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = SmallUNet(2, widths=(8, 12, 16))
    config = TrainConfig(epochs=25, batch_size=3, learning_rate=1e-2, device="cpu")
    fit(model, Segmentation(ps.classes), ps.where(split="train"), ps.where(split="val"), config, out=folder)
    checkpoint.annotate(folder, segmentation={"factor": 1.0, "tile": 48, "turns": 1, "pixel_size_um": 0.5})
    return folder


def test_files_are_segmented_with_everything_that_was_asked_for(run: Path, tmp_path: Path) -> None:
    ps = glands()
    for n in (0, 1):
        Image.fromarray(ps.take([n])[0]).save(tmp_path / f"case {n}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [tmp_path / "case 0.png", tmp_path / "bad.png", tmp_path / "case 1.png"]
    segmenter = load_segmenter(run)
    problems = segment_files(
        segmenter, paths, tmp_path / "out", probabilities=True, overlays=True, objects=True, on_error="skip"
    )
    assert len(problems) == 1 and "bad.png" in problems[0][0]
    with Image.open(tmp_path / "out" / "case 0.tif") as picture:
        labels = np.asarray(picture)
        assert float(picture.tag_v2[282]) == pytest.approx(20000)  # pixels per centimetre at half a micrometre
    truth = ps.take_masks([0])[0]
    overlap = 2 * ((labels == 1) & (truth == 1)).sum() / ((labels == 1).sum() + (truth == 1).sum())
    assert overlap > 0.8
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"case 0_gland.png", "case 0_overlay.png", "case 0_objects.png", "case 1.tif", "summary.csv"} <= names
    shares = np.asarray(Image.open(tmp_path / "out" / "case 0_gland.png"))
    assert np.array_equal(shares > 127, labels == 1)
    rows = list(csv.DictReader(open(tmp_path / "out" / "summary.csv", encoding="utf-8")))
    assert len(rows) == 4
    assert int(rows[1]["pixels"]) == (labels == 1).sum()
    assert float(rows[1]["area_um2"]) == pytest.approx((labels == 1).sum() * 0.25, abs=0.06)
    assert int(rows[1]["objects"]) >= 1
    with pytest.raises(MedcoreError, match="bad.png"):
        segment_files(segmenter, paths, tmp_path / "again")
    assert not (tmp_path / "again" / "summary.csv").exists()


def test_labels_without_a_pixel_size_are_png_and_names_do_not_collide(run: Path, tmp_path: Path) -> None:
    checkpoint.annotate(run, segmentation={"factor": 0.5, "tile": 48, "turns": 1, "pixel_size_um": None})
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(glands().take([0])[0]).save(tmp_path / folder / "x.y.png")
    segment_files(load_segmenter(run), [tmp_path / "a" / "x.y.png", tmp_path / "b" / "x.y.png"], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x.y.png", "x.y-2.png", "summary.csv"}
    with Image.open(tmp_path / "out" / "x.y.png") as picture:
        assert picture.mode == "P" and picture.size == (48, 48)


def test_objects_of_two_classes_keep_their_numbers_apart() -> None:
    labels = np.zeros((40, 80), np.uint8)
    labels[5:35, 5:35], labels[5:35, 35:70] = 1, 2
    numbers = object_numbers(labels)
    assert sorted(np.unique(numbers)) == [0, 1, 2]
    assert np.array_equal(numbers == 2, labels == 2)


def test_a_large_image_goes_strip_by_strip_to_the_disk(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.annotate(run, segmentation={"factor": 1.0, "tile": 48, "turns": 1, "pixel_size_um": None})
    scan = np.concatenate([np.concatenate(list(glands().take([0, 2, 4])), 1)] * 2)
    np.save(tmp_path / "scan.npy", scan)
    segmenter = load_segmenter(run)
    segment_files(segmenter, [tmp_path / "scan.npy"], tmp_path / "small")
    monkeypatch.setattr("medcore.evaluation.segmenter.LARGE", 100)
    monkeypatch.setattr("medcore.evaluation.segmenter.WHOLE", 100)
    segment_files(segmenter, [tmp_path / "scan.npy"], tmp_path / "large", probabilities=True)
    labels = np.asarray(Image.open(tmp_path / "large" / "scan.tif"))
    whole = np.asarray(Image.open(tmp_path / "small" / "scan.png"))
    assert labels.shape == whole.shape == scan.shape[:2]
    assert (labels == whole).mean() > 0.97  # cut and blended against one piece
    assert np.load(tmp_path / "large" / "scan_probabilities.npy").shape == (*scan.shape[:2], 2)
    np.save(tmp_path / "odd.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MedcoreError, match="odd.npy"):
        segment_files(segmenter, [tmp_path / "odd.npy"], tmp_path / "again")


def study(**options: object) -> SegmentationStudy:
    ps = glands(12, patients=6)
    ps = ps.with_split([("train", "train", "val", "test", "train", "test")[n % 6] for n in range(12)])
    return SegmentationStudy(ps, crop=32, turns=1, device="cpu", **options)  # type: ignore[arg-type]


def test_the_study_judges_a_network_beside_rules_and_the_reference_is_chosen_on_validation_cases() -> None:
    done = study()
    with pytest.raises(MedcoreError, match="judge"):
        done.seams(0)
    compared = done.judge(done.build("small"))
    validation = done.tables_of_rules(done.validation)
    means = {name: table[table["class"] == "gland"]["dice"].mean() for name, table in validation.items()}
    assert compared.reference == done.reference == max(means, key=means.get)
    assert [e.name for e in compared.metrics[:3]] == ["dice", "nsd", "hd95_pixels"]
    for own, other, gap in zip(
        compared.metrics[:3], compared.baselines[done.reference], compared.against_reference, strict=False
    ):
        assert gap.value == pytest.approx(own.value - other.value), own.name
    assert {e.unit for e in compared.metrics} == {"patient", "image"} and compared.metrics[0].n == 2
    assert len(done.dice) == len(done.test) and sorted(done.extremes(2)) == [0, 1, 2, 3]
    assert list(done.seams(0).table().index) == ["tiles side by side", "overlapping, Gaussian"]


def test_where_the_test_part_is_small_every_case_is_judged_by_a_network_that_never_saw_its_patient() -> None:
    done = study()
    config = TrainConfig(epochs=1, batch_size=4, device="cpu", augment=Augment(crop=32))
    crossed = done.cross_validate("small", None, config, done.objective("ce+dice"))
    assert done.test_is_small and crossed.reference == done.reference
    assert {one.split for one in crossed.metrics} == {"folds"} and crossed.metrics[0].n == 6  # patients
    whole = done.tables_of_rules(done.patches)  # rules that learn nothing say the same in every fold
    for name, table in whole.items():
        by_patient = table[table["class"] == "gland"].groupby("patient")["dice"].mean()
        assert crossed.baselines[name][0].value == pytest.approx(by_patient.mean()), name


def test_without_patients_the_cases_are_images_not_patients() -> None:
    ps = study().patches
    card = replace(ps.card, patients_known=False, group="image")
    done = SegmentationStudy(ps.with_card(card), crop=32, turns=1, device="cpu")
    assert {e.unit for e in done.judge(done.build("small")).metrics} == {"image"}


def test_an_ablation_holds_every_variant_against_another_seed_and_repeats() -> None:
    done = study()
    config = TrainConfig(epochs=1, batch_size=4, device="cpu", augment=Augment(crop=32))
    first = done.ablation("small", None, config, loss="ce+dice")
    assert list(first.values) == ["both", "no deep supervision", "no class weights", "both, another seed"]
    assert first.noise == pytest.approx(abs(first.values["both, another seed"] - first.values["both"]))
    assert first.values == done.ablation("small", None, config, loss="ce+dice").values


def test_a_given_test_side_is_kept_where_only_validation_is_missing() -> None:
    ps = glands(12, patients=6)
    given = ps.with_split([("train", "test")[n % 6 > 3] for n in range(12)])
    sides = split_cases(given)
    assert (sides.splits[given.splits == "test"] == "test").all() and set(sides.splits) == {"train", "val", "test"}
    assert (given.splits[sides.splits == "val"] == "train").all()


def test_unstained_images_have_no_haematoxylin() -> None:
    ps = glands()
    grey = PatchSet.from_arrays(ps.take().mean(3).astype(np.uint8), ps.table, ps.card, ps.take_masks())
    stored = PatchSet.from_arrays(np.repeat(grey.take(), 3, axis=3), ps.table, ps.card, ps.take_masks())
    for images in (grey, stored):
        assert list(cases.baseline_cases(images, images)) == ["everything is foreground", "Otsu on darkness"]
