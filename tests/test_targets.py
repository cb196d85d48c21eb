"""A grade or a measured value an image: read, split, trained, predicted and judged; equal to scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.card import Card
from medcore.data.load import one_label, read_set
from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits, patient_folds, split_table
from medcore.data.targets import bands, strata
from medcore.errors import MedcoreError


def measured(count: int = 200, seed: int = 0) -> PatchSet:
    """The brighter an image, the larger its value; some values are unknown; two images a patient."""
    rng = np.random.default_rng(seed)
    values = rng.normal(50, 12, count)
    images = np.clip(values[:, None, None, None] * 2.5 + rng.normal(0, 12, (count, 16, 16, 3)), 0, 255).astype(np.uint8)
    table = {
        "measured": np.where(rng.random(count) < 0.05, np.nan, values),
        "site": np.array(["a", "b"])[np.arange(count) % 2],
    }
    table |= {"patient": [f"p{n // 2}" for n in range(count)]}
    return PatchSet.from_arrays(images, table, Card("toy", classes=["age"], task="regression"))


def graded(count: int = 240, seed: int = 0) -> PatchSet:
    """The values in four bands: grades 0 to 3."""
    patches = measured(count, seed)
    card = Card("toy", classes=["G0", "G1", "G2", "G3"], task="ordinal")
    return patches.with_card(card).with_columns(label=bands(patches.values, 4))


def written(folder: Path, header: str, rows: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for n in range(len(rows)):
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) // (n + 1)).save(folder / f"{n}.png")
    lines = [f"image,{header}", *(f"{n}.png,{row}" for n, row in enumerate(rows))]
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "metadata.csv"


def test_a_column_is_read_as_a_value_or_as_grades_and_said(tmp_path: Path, tmp_data: Path) -> None:
    rows = ["p,61.5,G2,mild", "q,40,G10,severe", "r,,,", "s,52,G2,moderate"]
    table = written(tmp_path / "a", "patient,age,isup,diagnosis", rows)
    aged = read_set(table, value="age")
    assert np.array_equal(aged.values, [61.5, 40, np.nan, 52], equal_nan=True) and aged.classes == ["age"]
    assert (aged.labels == -1).all() and any("measured value, 40 to 61.5" in line for line in aged.card.reading)
    assert aged.column("diagnosis").tolist() == ["mild", "severe", "", "moderate"]  # kept, and no class
    by_number = read_set(table, grade="isup")  # G10 comes after G2
    assert by_number.classes == ["G2", "G10"] and by_number.labels.tolist() == [0, 1, -1, 0]
    assert any("G2 < G10" in line for line in by_number.card.reading)
    named = read_set(table, grade="diagnosis", classes=["mild", "moderate", "severe"])
    assert named.labels.tolist() == [0, 2, -1, 1] and named.card.task == "ordinal"
    again = read_set(aged.save(tmp_path / "own.npz").path, grade="isup")  # a prepared set, too
    assert again.labels.tolist() == [0, 1, -1, 0] and again.path != tmp_path / "own.npz"
    assert PatchSet.open(again.path).card.task == "ordinal"


def test_arrays_and_folders_have_grades(tmp_path: Path, tmp_data: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "plain.npz", images=images, age=np.arange(6) * 1.5)
    assert read_set(tmp_path / "plain.npz", value="age").values.tolist() == [0, 1.5, 3, 4.5, 6, 7.5]
    np.savez(tmp_path / "retina.npz", images=images, labels=np.array([2, 0, 1, 2, 0, 1]))
    assert read_set(tmp_path / "retina.npz", grade="label").labels.tolist() == [2, 0, 1, 2, 0, 1]
    for n, name in enumerate(["2", "10", "0"]):
        (tmp_path / "f" / name).mkdir(parents=True)
        Image.fromarray(images[n]).save(tmp_path / "f" / name / "a.png")
    assert read_set(tmp_path / "f", grade="label").classes == ["0", "2", "10"]


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({"grade": "x"}, ["p,mild", "q,severe"], "say no order.*--classes"),
        ({"grade": "x", "classes": ["mild"]}, ["p,mild", "q,severe"], "severe"),
        ({"grade": "x"}, [f"p{n},{n}" for n in range(30)], "30 different grades.*--value"),
        ({"value": "x"}, ["p,1", "q,two"], "'two', which is no number"),
        ({"value": "x"}, ["p,1", "q,1"], "two or more different"),
        ({"value": "x"}, ["p,61", "q,57", "r,66", "s,999"], "999 lies far"),
        ({"value": "y"}, ["p,1", "q,2"], "no column 'y'"),
        ({"value": "x", "grade": "x"}, ["p,1", "q,2"], "three questions"),
        ({}, [f"p{n},{n * 1.7}" for n in range(5)], "--value"),
    ],
)  # fmt: skip
def test_what_no_grade_or_value_can_be_is_refused(
    tmp_path: Path, tmp_data: Path, options: dict, rows: list[str], message: str
) -> None:
    table = written(tmp_path / "a", "patient,x" if options else "patient,label", rows)
    with pytest.raises(MedcoreError, match=message):
        read_set(table, **options)


def test_two_rows_of_an_image_with_two_values_contradict_each_other(tmp_path: Path, tmp_data: Path) -> None:
    table = written(tmp_path / "a", "patient,age", ["p,40", "q,50", "r,60"])
    table.write_text(table.read_text() + "\n0.png,p,41", encoding="utf-8")
    with pytest.raises(MedcoreError, match="says another"):
        read_set(table, value="age")


def test_splits_and_folds_balance_the_values_and_say_how_many_are_known() -> None:
    patches = assign_splits(measured(400), seed=1)
    means = [np.nanmean(patches.where(split=side).values) for side in ("train", "val", "test")]
    assert np.ptp(means) < 2.5  # of a spread of 12
    assert (strata(patches) == -1).sum() == np.isnan(patches.values).sum()
    assert split_table(patches).loc["all", "age"] == np.isfinite(patches.values).sum()
    folds = patient_folds(patches, 3)
    assert np.ptp([np.nanmean(patches.values[fold.validation]) for fold in folds]) < 2.5


def test_studies_of_classes_point_to_the_notebook_that_takes_such_sets() -> None:
    for patches in (measured(), graded()):
        with pytest.raises(MedcoreError, match="notebook 09"):
            one_label(patches)
