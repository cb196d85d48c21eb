"""A frozen model on another cohort: nothing is chosen on it, what is mended is nested, and no label is no figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from training_toys import ended, toy_config, toy_set

import medcore
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.calibration import calibration_estimates
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.predictor import equip
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import choose_threshold
from medcore.models.classifier import build_classifier
from medcore.reporting.results import Results
from medcore.reporting.wording import limits_of
from medcore.studies.validation.difference import independent_difference
from medcore.studies.validation.mix import describe_mix, mix_table
from medcore.studies.validation.spent import spend
from medcore.studies.validation.study import ExternalStudy
from medcore.training import checkpoint
from medcore.training.fit import fit
from medcore.training.objectives import Classification


def other_hospital(count: int = 80, seed: int = 5) -> PatchSet:
    """The toy set of other patients, brighter, with the column of a scanner."""
    home = toy_set(count, side=16, seed=seed)
    pixels = np.clip(home.take().astype(int) + 25, 0, 255).astype(np.uint8)
    table = {"label": home.labels, "patient": [f"B{name}" for name in home.patients],
             "scanner": ["old" if row % 8 < 4 else "new" for row in range(count)],
             "source": [f"{row}.png" for row in range(count)]}  # fmt: skip
    return PatchSet.from_arrays(pixels, table, Card("other", classes=home.card.classes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place, patches = tmp_path_factory.mktemp("run"), toy_set(90, side=16)
    train, validation, test = (patches.where(split=side) for side in ("train", "val", "test"))
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2, image_size=16)
    fit(model, Classification(patches.classes), train, validation, toy_config(), out=place, progress=False)
    equip(place, model, train, validation, temperature=1.2)
    scores = Scores.from_set(test, medcore.predict(model, test, temperature=1.2))
    told = {"estimates": [interval(scores, name).as_dict() for name in ("balanced_accuracy", "auroc")],
            "mix": describe_mix(patches), "data": "toy", "notebook": "06_patch_classification"}  # fmt: skip
    return checkpoint.publish(place, place / "model", development=told)


def test_results_stand_beside_those_of_the_development(folder):
    model, cohort = medcore.load(folder), other_hospital()
    study = ExternalStudy(model, cohort)
    table, expected = (
        study.beside(),
        interval(Scores.from_set(cohort, model.probabilities(cohort)), "balanced_accuracy"),
    )
    assert study.outcome.estimates[0].value == pytest.approx(expected.value)
    assert {one.split for one in study.outcome.estimates} == {"external"}
    gap = independent_difference(study.outcome.estimates[0], study.development["balanced_accuracy"])
    assert study.differences["balanced_accuracy"] == gap
    assert table.loc["Brier score", "development"] == "not told" and table.loc["balanced accuracy", "difference"]
    assert str(study.outcome.estimates[0].value)[:4] in study.held() or "development" in study.held()
    scores, decision = study.two_way
    assert np.array_equal(decision, model.probabilities(cohort).argmax(1))
    shown = study.operating().iloc[:, 0]
    assert any("prevalence of development" in name for name in shown.index)
    assert shown["sensitivity"].value == pytest.approx(np.mean(decision[scores.positive]))
    assert study.subgroups().shape[0] == 2 and study.unfamiliar().n == len(cohort)
    with pytest.raises(TestDataRefused):  # no chooser takes the cohort by accident
        choose_threshold(scores)


def test_what_was_seen_is_left_out_or_refused(folder):
    model, home = medcore.load(folder), toy_set(90, side=16)
    left = ExternalStudy(model, home)
    assert len(left.patches) == int((home.splits == "test").sum()) - int(left.overlap.rows[home.splits == "test"].sum())
    assert not model.seen.among(left.patches).rows.any()
    with pytest.raises(TestDataRefused):
        ExternalStudy(model, home, seen="refuse")
    assert len(ExternalStudy(model, home, seen="count").patches) == len(home)


def test_classes_are_matched_by_name_and_a_strange_one_is_refused(folder):
    model, cohort = medcore.load(folder), other_hospital()
    turned = cohort.with_columns(label=1 - cohort.labels).with_card(replace(cohort.card, classes=["c1", "c0"]))
    first, second = model.evaluate(cohort), model.evaluate(turned)
    assert [one.value for one in first.estimates] == [one.value for one in second.estimates]
    alone = turned.select(turned.labels == 0).with_card(replace(cohort.card, classes=["c1"]))  # one class only is there
    assert model.evaluate(alone).scores.truth.tolist() == [1] * len(alone)
    with pytest.raises(MedcoreError, match="c0, strange are not the checkpoint's c0, c1"):
        model.evaluate(cohort.with_card(replace(cohort.card, classes=["c0", "strange"])))


def test_without_labels_there_are_answers_and_no_figure(folder):
    cohort = other_hospital().with_columns(label=[-1] * 80)
    study = ExternalStudy(medcore.load(folder), cohort)
    assert not study.has_labels and not study.has_scores
    answered = study.answers()["share"]
    assert sum(one.value for one in answered) == pytest.approx(1)
    assert "how often the answers are right" in study.cannot_say()[0]
    with pytest.raises(MedcoreError, match="nothing labelled"):
        study.outcome  # noqa: B018


def test_permuted_labels_change_no_answer(folder):
    model, cohort = medcore.load(folder), other_hospital()
    mixed = cohort.with_columns(label=np.random.default_rng(0).permutation(cohort.labels))
    first, second = ExternalStudy(model, cohort), ExternalStudy(model, mixed)
    assert np.array_equal(first.outcome.probability.score, second.outcome.probability.score)
    assert np.array_equal(first.outcome.decision, second.outcome.decision)


def stated(rng, patients: int = 120, shift: float = 0.0, linked: bool = True) -> Scores:
    """Two images a patient; the stated logit is the true one plus ``shift``, or has nothing to do with the truth."""
    true = rng.normal(scale=1.5, size=patients)
    truth = (rng.random(patients) < expit(true if linked else 0 * true)).astype(int)
    owner = np.repeat(np.arange(patients), 2)
    score = expit(true[owner] + shift + rng.normal(scale=0.05, size=2 * patients))
    names = [f"P{k}" for k in owner]
    return Scores(truth[owner], score, names, ["test"] * len(owner), ("no", "yes"))


def test_recalibration_mends_a_shift_on_patients_it_did_not_learn_from():
    scores = stated(np.random.default_rng(1), shift=2.0)
    found = spend(scores, (scores.score > 0.5).astype(int))
    before, after = (
        {one.name: one for one in calibration_estimates(which)} for which in (found.delivered, found.recalibrated)
    )
    assert before["calibration_intercept"].value < -1.5 and abs(after["calibration_intercept"].value) < 0.25
    assert found.change.high < 0 and 90 <= found.patients <= 100 and found.folds == 5
    assert list(found.table()["patients spent"]) == [0, found.patients]


def test_a_new_threshold_does_not_flatter():
    """Scores without information: chosen and judged on the same patients it seems to help; nested it does not."""
    rng, nested, same = np.random.default_rng(2), [], []
    for _ in range(40):
        scores = stated(rng, patients=40, linked=False)
        decision = spend(scores, np.zeros(len(scores), int)).decisions["youden, chosen here (nested)"]
        cheat = choose_threshold(Scores(scores.truth, scores.score, scores.patient, ["val"] * 80, ("no", "yes")))
        for found, called in ((nested, decision), (same, cheat.apply(scores))):
            found.append(called[scores.positive].mean() - called[~scores.positive].mean())
    assert np.mean(same) > 0.12 and abs(np.mean(nested)) < 3 * np.std(nested) / np.sqrt(40)


def test_several_classes_get_a_temperature_and_too_few_patients_nothing():
    rng = np.random.default_rng(3)
    truth = np.repeat(rng.integers(0, 3, 60), 2)
    logits = 4 * (np.eye(3)[truth] * 0.6 + rng.normal(scale=0.5, size=(120, 3)))
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = Scores(truth, probability, [f"P{k // 2}" for k in range(120)], ["test"] * 120, ("a", "b", "c"))
    found = spend(scores, scores.predicted)
    assert not found.decisions and found.operating() is None and np.allclose(found.recalibrated.score.sum(1), 1)
    assert np.array_equal(found.recalibrated.predicted, scores.predicted) and found.change.value < 0
    one = scores.select(np.r_[np.flatnonzero(truth == 0), np.flatnonzero(truth == 1)[:2]])
    with pytest.raises(MedcoreError, match="rarest class has 1"):
        spend(one, one.predicted)


def test_the_case_mix_names_no_single_patient():
    cohort = other_hospital().with_columns(site=["unique"] * 4 + ["shared"] * 76)
    facts = describe_mix(cohort)
    assert "unique" not in facts["columns"]["site"] and facts["patients"] == 20
    assert "B" not in str(facts["columns"]) or "Bp000" not in str(facts)
    table = mix_table(describe_mix(toy_set(40, side=16)), facts)
    assert table.loc["images", "this cohort"] == "80" and "scanner: old" in table.index


def test_the_limits_of_an_external_validation_do_not_say_that_there_is_none():
    facts = {"notebook": "07_external_validation", "data": {"name": "b", "fingerprint": "f"}}
    assert any("one set" in text for text in limits_of(Results(**facts)))
    assert not any("one set" in text for text in limits_of(Results(**facts, model={"developed_on": "a"})))


def test_evaluate_with_report_starts_notebook_07(folder, tmp_path, capsys, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "medcore.reporting.runner.run_notebooks", lambda planned, out: asked.update(planned=planned, out=out) or []
    )
    other_hospital().save(tmp_path / "b.npz")
    code, _ = ended(capsys, "evaluate", folder, "--data", tmp_path / "b.npz", "--report", tmp_path / "out")
    ((path, values),) = asked["planned"].items()
    assert code == 0 and path.stem == "07_external_validation" and Path(values["model"]) == folder.resolve()


def test_the_plan_asks_for_more_patients_where_the_interval_is_wide(folder):
    study = ExternalStudy(medcore.load(folder), other_hospital())
    wide = Estimate("auroc", 0.8, 0.69, 0.88, 80, "image", "external")
    study.__dict__["outcome"] = replace(study.outcome, estimates=[wide])
    table = study.plan()
    assert table.loc["AUROC", "patients here"] == 20
    assert table.loc["AUROC", "patients"] == pytest.approx(20 * (0.095 / 0.05) ** 2, rel=0.2)  # root of their number
