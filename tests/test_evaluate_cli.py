"""``medcore evaluate``: files are read as the checkpoint says, and what the model has seen is known, never guessed."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from training_toys import ended, toy_set, write_ct, write_table

from medcore.data.load import read_set
from medcore.data.phantoms import PHANTOMS, make_crc
from medcore.data.splits import assign_splits
from medcore.evaluation.predictor import load_predictor, read_as_trained
from medcore.training import checkpoint
from medcore.training.seen import Seen

TRAIN = ("train", "classifier", "--profile", "smoke", "--threads", "1")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty patients in a table, and a classifier trained on some of them."""
    place = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCORE_DATA", str(place / "home"))
        write_table(place / "set", patients=40)
        assert run_quietly(*TRAIN, "--data", place / "set", "--out", place / "run", "--seed", 3) == 0
    return place


def run_quietly(*arguments: object) -> int:
    from medcore.cli import main

    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


@pytest.fixture(autouse=True)
def home(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCORE_DATA", str(study / "home"))


def evaluated(capsys: pytest.CaptureFixture, study: Path, data: object, *options: object) -> tuple[int, Any, list[str]]:
    out = study / "figures.json"
    out.unlink(missing_ok=True)
    code, lines = ended(capsys, "evaluate", study / "run", "--data", data, "--out", out, *options)
    return code, json.loads(out.read_text()) if out.exists() else None, lines


def test_options_of_decoding_overrule_the_checkpoint(study: Path, capsys: pytest.CaptureFixture) -> None:
    code, _, lines = evaluated(capsys, study, study / "set", "--max-pixels", 4)
    assert code == 1 and "--max-pixels" in lines[-1]


def test_the_test_side_is_what_training_left(study: Path, capsys: pytest.CaptureFixture) -> None:
    code, figures, _ = evaluated(capsys, study, study / "set")
    patches = assign_splits(read_set(study / "set"), seed=3).where(split="test")
    assert code == 0 and figures["fingerprint"] != "" and figures["seen"]["images"] == 0
    predictor = load_predictor(study / "run")
    probabilities = predictor.probabilities(patches)
    by_name = {row["name"]: row for row in figures["metrics"]}
    truth = patches.labels
    assert by_name["balanced_accuracy"]["n"] >= len(patches) or by_name["balanced_accuracy"]["n"] > 0
    assert by_name["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(truth, probabilities.argmax(1)), abs=1e-6
    )
    assert by_name["auroc"]["value"] == pytest.approx(roc_auc_score(truth, probabilities[:, 1]), abs=1e-6)
    assert all(row["low"] <= row["value"] <= row["high"] for row in figures["metrics"] if row["low"] is not None)


def test_fewer_images_in_training_do_not_make_seen_patients_test_patients(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A model of half of the images: the other half of a seen patient's images is not a test."""
    half = tmp_path / "half"
    shutil.copytree(study / "set", half)
    rows = (half / "metadata.csv").read_text().splitlines()
    (half / "metadata.csv").write_text("\n".join([rows[0], *rows[1::2]]))
    assert run_quietly(*TRAIN, "--data", half, "--out", tmp_path / "run", "--seed", 5) == 0
    capsys.readouterr()
    manifest = checkpoint.load_checkpoint(tmp_path / "run").manifest
    known = set(assign_splits(read_set(half), seed=5).where(split=["train", "val"]).patients.tolist())
    code, lines = ended(capsys, "evaluate", tmp_path / "run", "--data", study / "set", "--out", tmp_path / "e.json")
    figures = json.loads((tmp_path / "e.json").read_text())
    assert code == 0 and figures["metrics"][0]["n"] == 2 * (40 - len(known)), lines
    everything = read_as_trained(manifest, study / "set")
    assert set(Seen.of(manifest).among(everything).patients) == known


def test_a_renamed_copy_is_the_same_data(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copy = tmp_path / "another name"
    shutil.copytree(study / "set", copy)
    code, figures, lines = evaluated(capsys, study, copy, "--split", "all")
    assert code == 1 and figures is None and "seen in training" in lines[-1]
    code, figures, lines = evaluated(capsys, study, copy, "--split", "all", "--seen", "count")
    assert code == 0 and figures["metrics"][0]["n"] == 80
    known = len(set(assign_splits(read_set(study / "set"), seed=3).where(split=["train", "val"]).patients.tolist()))
    assert figures["seen"]["patients"] == known and figures["seen"]["of_patients"] == 40
    assert f"seen in training: {known} of 40 patients" in lines[-1]
    code, figures, _ = evaluated(capsys, study, copy, "--split", "all", "--seen", "leave-out")
    assert code == 0 and figures["metrics"][0]["n"] == 2 * (40 - known)


def test_another_set_of_the_same_name_is_another_set(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_table(tmp_path / "set", patients=12, seed=9, prefix="q")
    code, figures, _ = evaluated(capsys, study, tmp_path / "set", "--split", "all")
    assert code == 0 and figures["seen"]["images"] == 0 and figures["metrics"][0]["n"] == 24


def test_equal_ids_of_another_hospital_can_be_told_apart(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_table(tmp_path / "hospital", patients=40, seed=8)  # ids p000 … again, other pixels
    code, _, lines = evaluated(capsys, study, tmp_path / "hospital", "--split", "all")
    assert code == 1 and "--other-patients" in lines[-1]
    code, figures, _ = evaluated(capsys, study, tmp_path / "hospital", "--split", "all", "--other-patients")
    assert code == 0 and figures["metrics"][0]["n"] == 80 and figures["seen"]["images"] == 0


def test_a_given_test_side_that_was_trained_on_is_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    marked = tmp_path / "marked"
    shutil.copytree(study / "set", marked)
    lines = (marked / "metadata.csv").read_text().splitlines()
    (marked / "metadata.csv").write_text("\n".join([f"{lines[0]},split", *(f"{line},test" for line in lines[1:])]))
    code, _, said = evaluated(capsys, study, marked)
    assert code == 1 and "seen in training" in said[-1]
    code, figures, _ = evaluated(capsys, study, marked, "--seen", "leave-out")
    assert code == 0 and 0 < figures["metrics"][0]["n"] < 80


def test_a_set_without_patients_is_compared_by_pixels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    patches = toy_set(count=60, side=16)
    for name, first in (("old", 0), ("new", 30)):
        for row in range(first, first + 40 if first == 0 else 60):
            folder = tmp_path / name / f"c{patches.labels[row]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(patches.take([row])[0]).save(folder / f"{row + 100 * (name == 'new')}.png")
    assert run_quietly(*TRAIN, "--data", tmp_path / "old", "--out", tmp_path / "run") == 0
    capsys.readouterr()
    code, lines = ended(capsys, "evaluate", tmp_path / "run", "--data", tmp_path / "new", "--split", "all")
    assert code == 1 and "images" in lines[-1]
    code, _ = ended(
        capsys, "evaluate", tmp_path / "run", "--data", tmp_path / "new", "--split", "all", "--seen", "leave-out",
        "--out", tmp_path / "e.json",
    )  # fmt: skip
    figures = json.loads((tmp_path / "e.json").read_text())
    sides = assign_splits(read_set(tmp_path / "old"), seed=0)
    seen = {int(Path(name).stem) for name in sides.where(split=["train", "val"]).column("source").tolist()}
    assert code == 0 and figures["metrics"][0]["n"] == 30 - len(seen & set(range(30, 60)))
    assert "patients" not in figures["seen"]


def test_ct_is_read_with_the_window_of_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_ct(tmp_path / "set", per_class=40)
    options = ("--window", 40, 400, "--epochs", 12, "--batch-size", 16, "--learning-rate", 0.01)
    assert run_quietly(*TRAIN, "--data", tmp_path / "set", "--out", tmp_path / "run", *options) == 0
    capsys.readouterr()
    manifest = checkpoint.load_checkpoint(tmp_path / "run").manifest
    by_checkpoint, by_hand = read_as_trained(manifest, tmp_path / "set"), read_set(tmp_path / "set", window=(40, 400))
    assert np.array_equal(by_checkpoint.take(), by_hand.take())
    code, _ = ended(capsys, "evaluate", tmp_path / "run", "--data", tmp_path / "set", "--out", tmp_path / "e.json")
    figures = {row["name"]: row for row in json.loads((tmp_path / "e.json").read_text())["metrics"]}
    assert code == 0 and figures["balanced_accuracy"]["value"] == 1.0


@pytest.mark.parametrize("policy", ["resize", "pad", "crop", "fit"])
def test_files_become_the_pixels_of_training_under_every_policy(study: Path, tmp_path: Path, policy: str) -> None:
    rng = np.random.default_rng(1)
    for n in range(6):
        folder = tmp_path / "set" / "ab"[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (90 + 10 * n, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.jpg", quality=95)
    patches = read_set(tmp_path / "set", policy=policy, size=None if policy in ("pad", "crop") else 32)
    manifest = {"image_shape": list(patches.shape), "preprocessing": {"policy": policy}}
    again = read_as_trained(manifest, tmp_path / "set")
    assert np.array_equal(again.take(), patches.take())
    predictor = load_predictor(study / "run")
    predictor.manifest = predictor.manifest | manifest
    files = [tmp_path / "set" / name for name in patches.column("source").tolist()]
    seen = np.concatenate([batch.pixels for batch in predictor.predict(files, batch_size=2)])
    assert np.array_equal(seen, patches.take())


def test_a_phantom_is_made_at_the_size_of_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PHANTOMS, "phantom-crc", partial(make_crc, patients=3, images_per_patient=3))
    manifest = {"image_shape": [48, 48, 3], "preprocessing": {}}
    assert read_as_trained(manifest, "phantom-crc").shape == (48, 48, 3)


def test_other_classes_are_named(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_table(tmp_path / "other", patients=6, classes=("well", "ill"))
    code, _, lines = evaluated(capsys, study, tmp_path / "other")
    assert code == 1 and "well" in lines[-1] and len(lines) == 1


def test_predictions_say_which_images_were_seen(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import csv

    sides = assign_splits(read_set(study / "set"), seed=3)
    files = [str(study / "set" / name) for name in sides.column("source").tolist()]
    code, lines = ended(capsys, "predict", study / "run", *files, "--out", tmp_path / "p.csv")
    rows = list(csv.DictReader(open(tmp_path / "p.csv", encoding="utf-8")))
    expected = ["no" if side == "test" else "yes" for side in sides.splits]
    assert code == 0 and [row["seen_in_training"] for row in rows] == expected
    assert any(f"{expected.count('yes')} of 80" in line for line in lines)
    code, lines = ended(capsys, "predict", study / "run", *files, "--out", tmp_path / "q.csv", "--seen", "refuse")
    assert code == 1 and not (tmp_path / "q.csv").exists()


def test_fine_tuning_keeps_the_sides_of_the_first_training(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Another seed draws no seen patient into the test side, and both trainings travel with the new checkpoint."""
    first = assign_splits(read_set(study / "set"), seed=3)
    options = ("--weights", study / "run", "--seed", 11)
    assert run_quietly(*TRAIN, "--data", study / "set", "--out", tmp_path / "tuned", *options) == 0
    capsys.readouterr()
    manifest = checkpoint.load_checkpoint(tmp_path / "tuned").manifest
    assert manifest["data"]["train"]["patients"] == len(set(first.where(split="train").patients.tolist()))
    assert len(manifest["data"]["earlier"]) == 1
    fresh = assign_splits(read_set(study / "set"), seed=11)
    assert set(fresh.where(split="test").patients.tolist()) & set(first.where(split="train").patients.tolist())
    unseen = first.where(split="test")
    assert not Seen.of(manifest).among(unseen).rows.any()
