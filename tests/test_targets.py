"""A grade or a measured value an image: read, split, trained, predicted and judged; equal to scikit-learn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.stats import linregress
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from medcore import plots
from medcore.cli.evaluate import command as evaluate
from medcore.cli.export import command as export
from medcore.cli.predict import command as predict_images
from medcore.cli.study import command as new
from medcore.cli.train import command as train
from medcore.data.audit.audit import audit
from medcore.data.card import Card
from medcore.data.load import one_label, read_set
from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits, patient_folds, split_table
from medcore.data.targets import bands, strata
from medcore.errors import MedcoreError
from medcore.evaluation.baselines import run_baselines
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.scores import Values
from medcore.metrics.confusion import confusion_matrix, median_grade, within_one
from medcore.metrics.measured import MEASURED, moments
from medcore.models.classifier import grade_probabilities
from medcore.studies.targets import TargetChoices, TargetStudy
from medcore.studies.targets.questions import question_of
from medcore.studies.validation.frozen import same_classes
from medcore.studies.validation.models import load
from medcore.training.fit import fit
from medcore.training.losses import corn
from medcore.training.objectives import Ordinal, Regression


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


def test_the_ordinal_loss_is_that_of_a_hand_worked_case() -> None:
    """Three grades, so two questions; grade 0 answers the first only, the others both."""
    logits = torch.tensor([[0.0, 5.0], [1.0, -1.0], [2.0, 0.5]])
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    by_hand = [
        -np.log(1 - sigmoid(0.0)) / 2,
        (-np.log(sigmoid(1.0)) - np.log(1 - sigmoid(-1.0))) / 2,
        (-np.log(sigmoid(2.0)) - np.log(sigmoid(0.5))) / 2,
    ]
    assert corn(logits, torch.tensor([0, 1, 2])).tolist() == pytest.approx(by_hand)
    stated = grade_probabilities(logits).numpy()
    first, second = sigmoid(1.0), sigmoid(1.0) * sigmoid(-1.0)
    assert stated[1] == pytest.approx([1 - first, first - second, second]) and np.allclose(stated.sum(1), 1)


def test_the_median_grade_is_the_first_at_which_half_of_the_probability_is_reached() -> None:
    stated = np.array([[0.4, 0.3, 0.3], [0.51, 0.0, 0.49], [0.2, 0.2, 0.6], [0.1, 0.4, 0.5]])
    assert median_grade(stated).tolist() == [1, 0, 2, 1]
    assert median_grade(torch.from_numpy(stated)).tolist() == [1, 0, 2, 1]


def test_grades_equal_scikit_learn() -> None:
    patches = graded(300)
    patches = patches.select(patches.labels >= 0)
    patches = patches.with_split(["test"] * len(patches))
    rng = np.random.default_rng(1)
    stated = rng.dirichlet(np.ones(4), len(patches)) + 2 * np.eye(4)[patches.labels] * rng.random((len(patches), 1))
    stated /= stated.sum(1, keepdims=True)
    question = question_of(patches)
    found = {one.name: one for one in question.estimates(question.cases(patches, stated), {})}
    called = median_grade(stated)
    assert found["quadratic_kappa"].value == pytest.approx(
        cohen_kappa_score(patches.labels, called, weights="quadratic")
    )
    assert found["accuracy"].value == pytest.approx(accuracy_score(patches.labels, called))
    assert found["within_one"].value == pytest.approx((abs(called - patches.labels) <= 1).mean())
    assert found["mae in grades"].value == pytest.approx(mean_absolute_error(patches.labels, called))
    assert all(one.low < one.value < one.high for one in found.values())
    assert within_one(confusion_matrix(patches.labels, called, 4)) == pytest.approx(found["within_one"].value)


def stated_of(count: int = 400, seed: int = 0, offset: float = 0.0) -> Values:
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(count // 2), 2)
    truth = rng.normal(50, 10, count) + offset
    answer = 0.8 * (truth - offset) + 12 + offset + rng.normal(0, 4, count) + rng.normal(0, 3, count // 2)[patient]
    return Values(truth, answer, patient.astype(str), np.array(["test"] * count), ("age",))


@pytest.mark.parametrize("offset", [0.0, 9e5])
def test_values_equal_scikit_learn_and_scipy(offset: float) -> None:
    one = stated_of(offset=offset)
    found = {name: interval(one, name) for name in MEASURED}
    error = one.score - one.truth
    expected = {
        "mae": mean_absolute_error(one.truth, one.score),
        "rmse": mean_squared_error(one.truth, one.score) ** 0.5,
        "r2": r2_score(one.truth, one.score),
        "bias": error.mean(),
        "lower_limit_of_agreement": error.mean() - 1.96 * error.std(ddof=1),
        "upper_limit_of_agreement": error.mean() + 1.96 * error.std(ddof=1),
        "calibration_slope": linregress(one.score, one.truth).slope,
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-6), name
        assert found[name].low < value < found[name].high
    sums = moments(torch.from_numpy(one.truth), torch.from_numpy(one.score)).sum(0)
    assert float(MEASURED["mae"](sums)) == pytest.approx(expected["mae"])


def test_the_interval_of_an_error_covers_the_truth_for_patients_with_several_images() -> None:
    truth = np.mean([interval(stated_of(20_000, seed), "mae").value for seed in (1, 2)])
    held = [found.low <= truth <= found.high for found in (interval(stated_of(80, s), "mae") for s in range(10, 210))]
    assert 0.9 <= np.mean(held) <= 0.99


def test_a_paired_difference_of_errors_is_the_mean_of_the_differences() -> None:
    one = stated_of()
    other = Values(one.truth, np.full(len(one), one.truth.mean()), one.patient, one.split, one.classes)
    gap = paired_difference(one, other, "mae")
    each = np.abs(one.error) - np.abs(other.error)
    assert gap.value == pytest.approx(each.mean()) and gap.high < 0
    assert interval(other, "r2").value == pytest.approx(0, abs=1e-9)
    assert interval(other, "calibration_slope").value is None  # a constant answer has no line


def test_trivial_methods_state_the_median_and_what_brightness_tells() -> None:
    patches = assign_splits(measured(300), seed=0)
    learnt, held = patches.where(split="train"), patches.where(split="val")
    said = run_baselines(learnt, held)
    known = learnt.values[np.isfinite(learnt.values)]
    assert np.allclose(said["median"], np.median(known)) and np.allclose(said["mean"], known.mean())
    rows = np.isfinite(held.values)
    assert r2_score(held.values[rows], said["mean colour"][rows, 0]) > 0.9
    said = run_baselines(*(graded(300).with_split(patches.splits).where(split=side) for side in ("train", "val")))
    assert said["median"].shape == (len(held), 4) and "majority" not in said


def done(command, *arguments: object) -> None:
    result = CliRunner().invoke(command, list(map(str, arguments)), standalone_mode=False)
    if result.exception is not None:
        raise result.exception


SHORT = ("--profile", "smoke", "--epochs", "6", "--learning-rate", "0.01")


def test_a_value_is_trained_predicted_and_judged_in_its_unit(tmp_path: Path) -> None:
    patches = assign_splits(measured(240), seed=0)
    data, run = patches.save(tmp_path / "set.npz").path, tmp_path / "run"
    done(train, "classifier", "--data", data, "--out", run, *SHORT)
    model = load(run)
    stated = model.probabilities(patches)[:, 0]
    known = np.isfinite(patches.values)
    assert model.task == "regression" and np.corrcoef(stated[known], patches.values[known])[0, 1] > 0.8
    done(predict_images, run, data, "--out", tmp_path / "p.csv")
    rows = list(csv.DictReader(open(tmp_path / "p.csv", encoding="utf-8")))
    assert [float(row["age"]) for row in rows] == pytest.approx(stated, rel=1e-4)
    done(evaluate, run, "--data", data, "--out", tmp_path / "e.json")
    told = {one["name"]: one for one in json.loads((tmp_path / "e.json").read_text())["metrics"]}
    test = patches.where(split="test")
    test = test.select(np.isfinite(test.values))
    assert told["mae"]["value"] == pytest.approx(mean_absolute_error(test.values, model.probabilities(test)[:, 0]))
    assert told["mae"]["low"] < told["mae"]["value"] < told["mae"]["high"]


def test_grades_are_trained_predicted_and_judged_from_a_column_of_a_table(tmp_path: Path, tmp_data: Path) -> None:
    patches, folder = graded(160), tmp_path / "images"
    folder.mkdir()
    for n, image in enumerate(patches.take()):
        Image.fromarray(image).save(folder / f"{n}.png")
    names = np.array(["1+", "2+", "3+", "4+", ""])[patches.labels]
    lines = [f"{n}.png,{patches.patients[n]},{name}" for n, name in enumerate(names)]
    (folder / "metadata.csv").write_text("image,patient,score\n" + "\n".join(lines), encoding="utf-8")
    run, table = tmp_path / "run", folder / "metadata.csv"
    read = ("--data", table, "--grade", "score", "--classes", "1+,2+,3+,4+")
    done(train, "classifier", *read, "--out", run, *SHORT)
    model = load(run)
    assert model.task == "ordinal" and model.classes == ["1+", "2+", "3+", "4+"]
    done(predict_images, run, folder, "--out", tmp_path / "p.csv")
    rows = list(csv.DictReader(open(tmp_path / "p.csv", encoding="utf-8")))
    shares = np.array([[float(row[f"p {name}"]) for name in model.classes] for row in rows])
    assert np.allclose(shares.sum(1), 1, atol=1e-3)
    sure = np.abs(shares.cumsum(1)[:, :-1] - 0.5).min(1) > 1e-3  # four digits tell the median
    called = np.array([model.classes.index(row["grade"]) for row in rows])
    assert (called[sure] == median_grade(shares[sure])).all()
    done(evaluate, run, "--data", table, "--out", tmp_path / "e.json")  # the column is known from the checkpoint
    told = {one["name"]: one for one in json.loads((tmp_path / "e.json").read_text())["metrics"]}
    assert told["quadratic_kappa"]["value"] > 0.5 and told["within_one"]["value"] <= 1


def shortcut(count: int = 480, seed: int = 0) -> PatchSet:
    """Finding ``a`` is told by a mark in a corner that most of its images have, ``b`` by brightness alone."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, 2)) < [0.4, 0.5]).astype(int)
    mark = rng.random(count) < np.where(truth[:, 0] == 1, 0.8, 0.05)
    images = rng.integers(60, 120, (count, 16, 16, 1)) + 60 * truth[:, 1, None, None, None]
    images[mark, :6, :6] = 250
    table = {f"finding_{k}": truth[:, k] for k in range(2)} | {"marker": np.where(mark, "yes", "no")}
    table |= {"patient": [f"p{n // 2}" for n in range(count)]}
    return PatchSet.from_arrays(images.astype(np.uint8), table, Card("toy", classes=["a", "b"], task="findings"))


def test_a_study_of_findings_beats_trivial_methods_and_names_who_is_missed(tmp_path: Path, tmp_data: Path) -> None:
    data = shortcut().save(tmp_path / "set.npz").path
    study = TargetStudy.read(str(data), seed=0)
    network = study.build("small_cnn")
    config = study.config("none", epochs=8, learning_rate=1e-2)
    fit(network, study.objective, study.train, study.validation, config, progress=False)
    compared = study.judge(network)
    named = {one.name: one for one in compared.metrics}
    test = study.test
    said = {name: part.positive_score for name, part in study.cases.items()}
    each = [roc_auc_score(test.findings[:, k], said[name]) for k, name in enumerate(("a", "b"))]
    assert named["macro_auroc"].value == pytest.approx(np.mean(each)) and named["macro_auroc"].n == len(test)
    reference = study.answers_of_baselines(test)[compared.reference]
    other = [roc_auc_score(test.findings[:, k], reference[name].positive_score) for k, name in enumerate(("a", "b"))]
    gap = compared.against_reference[0]
    assert gap.value == pytest.approx(np.mean(each) - np.mean(other)) and gap.low < gap.value < gap.high
    table = study.subgroups(study.known(["marker", "nothing"]))
    row = table[(table["finding"] == "a") & (table["group"] == "no")].iloc[0]
    called, has, marked = said["a"] >= study.thresholds["a"], test.findings[:, 0] == 1, test.column("marker") == "yes"
    expected = called[has & ~marked].mean() - called[has & marked].mean()
    assert row["sensitivity gap"].value == pytest.approx(expected) and expected < -0.5
    assert list(study.lagging(table, audit(study.patches)))[0] == "a, marker no (the audit names this column, too)"


@pytest.mark.parametrize("make", [shortcut, graded, measured])
def test_an_exported_network_says_what_its_folder_says(make, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    patches, run = assign_splits(make(60), seed=0), tmp_path / "run"
    done(train, "classifier", "--data", patches.save(tmp_path / "set.npz").path, "--out", run, "--profile", "smoke")
    done(export, run, "--to", "onnx", "--out", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (said,) = session.run(None, {"images": patches.take()})
    assert said.shape == (60, len(patches.classes)) and np.ptp(said) > 0
    assert np.allclose(said, load(run).probabilities(patches), rtol=1e-4, atol=1e-4)


def test_folds_of_a_grade_tell_the_kappa_of_the_patients_that_each_held_out(tmp_path: Path) -> None:
    patches, out = assign_splits(graded(160), seed=0), tmp_path / "folds"
    data = patches.save(tmp_path / "set.npz").path
    done(train, "classifier", "--data", data, "--out", out, *SHORT, "--folds", "2")
    known = patches.select((patches.splits != "test") & (patches.labels >= 0))
    rows = pd.read_csv(out / "folds.csv")
    for n, fold in enumerate(patient_folds(known, 2, seed=0)):
        held_out = known.select(fold.validation)
        called = median_grade(load(out / f"fold-{n + 1}").probabilities(held_out))
        expected = cohen_kappa_score(held_out.labels, called, weights="quadratic", labels=range(4))
        assert rows["val_quadratic_kappa"][n] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("make", [measured, graded])
def test_a_study_of_grades_or_values_judges_saves_and_hands_on(make, tmp_path: Path, tmp_data: Path) -> None:
    study = TargetStudy.read(str(make(200).save(tmp_path / "set.npz").path), seed=0)
    assert study.test.shown.all() or make is graded  # what has no answer is left out
    torch.manual_seed(0)
    network = study.build("small_cnn")
    config = study.config("none", epochs=8, learning_rate=1e-2)
    fit(network, study.objective, study.train, study.validation, config, progress=False, out=tmp_path / "run")
    compared = study.judge(network)
    assert compared.reference != "median"  # brightness is all there is
    assert compared.verdict("median")[compared.metrics[0].name] == "gain"  # less error is a gain
    assert len(study.table()) == (3 if make is measured else 4) and not study.thresholds
    assert set(study.subgroups(["site"])["group"]) == {"a", "b"}
    assert all(one.value is not None for one in study.calibration()) and list(study.predictions()) == ["predictions"]
    study.equip(tmp_path / "run")
    assert load(tmp_path / "run").task == study.question.task
    for figure in (plots.truth_and_answer, plots.stated_and_true):
        assert np.atleast_1d(figure(study.cases))[0].has_data()


def test_a_new_study_of_values_names_its_notebook(tmp_path: Path, tmp_data: Path) -> None:
    rows = [f"p{n},{40 + 3 * n}" for n in range(12)]
    table = written(tmp_path / "a", "patient,age", rows)
    told = CliRunner().invoke(new, [str(tmp_path / "s"), "--data", str(table), "--value", "age"])
    assert "medcore reports 09" in told.output and (tmp_path / "s" / "set.npz").is_file(), told.output
    told = CliRunner().invoke(new, [str(tmp_path / "t"), "--data", str(table), "--value", "age", "--task", "classify"])
    assert isinstance(told.exception, MedcoreError) and "--task targets" in str(told.exception)


def test_classes_are_no_target_and_choices_say_the_policy() -> None:
    classes = PatchSet.from_arrays(np.zeros((2, 8, 8, 1), np.uint8), {"label": [0, 1]}, Card("x", classes=["a", "b"]))
    with pytest.raises(MedcoreError, match="--grade COLUMN.*notebook 06"):
        TargetStudy(classes)
    assert "uncertain" in TargetChoices().table().index


def test_objectives_refuse_what_they_cannot_learn_from() -> None:
    with pytest.raises(MedcoreError, match="every image must have a grade"):
        Ordinal(graded().classes).begin(graded(), torch.device("cpu"))
    with pytest.raises(MedcoreError, match="images have no value"):
        Regression("age", 50, 10).begin(measured(), torch.device("cpu"))
    with pytest.raises(MedcoreError, match="spread"):
        Regression("age", 50, 0)


def test_a_cohort_with_another_measure_is_refused_by_its_name(tmp_path: Path, tmp_data: Path) -> None:
    table = written(tmp_path / "a", "patient,weight", ["p,40", "q,50", "r,60"])
    with pytest.raises(MedcoreError, match="'weight', and the model answers 'age'.*rename the column"):
        same_classes(read_set(table, value="weight"), ["age"])
