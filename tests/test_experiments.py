"""Cross-prediction: no patient judges itself, nothing is chosen on held-out images, order kept. Variants, subgroups."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_toys import toy_config, toy_set

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.splits import Fold, patient_folds
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.baselines import run_baselines
from medcore.evaluation.estimate import Estimate, not_estimable
from medcore.evaluation.intervals import group_gap, interval
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Scores
from medcore.models.classifier import build_classifier
from medcore.studies.experiments import (
    CrossPrediction,
    baseline_method,
    compare_variants,
    cross_predict,
    network_method,
    subgroup_table,
    without_prior,
)
from medcore.training.checkpoint import load_checkpoint
from medcore.training.fit import fit
from medcore.training.objectives import Classification

HISTOGRAM = "colour histogram"


def small(_: PatchSet) -> torch.nn.Module:
    return build_classifier("small_cnn", 2)


@pytest.fixture(scope="module")
def crossed():
    patches = toy_set(side=16)
    methods = {
        "network": network_method(small, Classification(2), toy_config(epochs=2)),
        HISTOGRAM: baseline_method(HISTOGRAM),
    }
    return patches, cross_predict(patches, methods, patient_folds(patches, 3, seed=toy_config().seed))


def test_each_image_is_judged_once_by_the_last_epoch_without_its_patient(crossed, tmp_path) -> None:
    patches, result = crossed
    assert sorted(np.unique(result.fold)) == [1, 2, 3]
    for number, fold in enumerate(patient_folds(patches, 3, seed=toy_config().seed), 1):
        assert (result.fold[fold.validation] == number).all()
        assert not set(patches.patients[fold.train]) & set(patches.patients[fold.validation])
    train = patches.select(fold.train).with_split(["train"] * len(fold.train))  # the third fold, by hand
    held_out = patches.select(fold.validation).with_split(["val"] * len(fold.validation))
    torch.manual_seed(toy_config().seed)
    model = small(train)
    fit(model, Classification(2), train, held_out, toy_config(epochs=2), out=tmp_path, progress=False)
    last = predict(load_checkpoint(tmp_path, "last").model, held_out)
    np.testing.assert_allclose(result.scores["network"].score[fold.validation], last, atol=1e-6)


def test_splits_stay_in_the_scores_and_rows_carry_n_and_interval(crossed) -> None:
    patches, result = crossed
    scores = result.scores["network"]
    assert (scores.split == patches.splits).all() and (scores.truth == patches.labels).all()
    table = result.table("network", "accuracy")
    assert table["n"].sum() == len(patches)
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()
    part = result.compare("network", "test", metrics=["accuracy"])
    assert part.metrics[0].n == part.baselines[HISTOGRAM][0].n == int((patches.splits == "test").sum())
    whole = result.compare("network", metrics=["accuracy"])
    assert (part.metrics[0].split, whole.metrics[0].split) == ("folds, test part", "folds")
    right = (result.scores[HISTOGRAM].predicted == patches.labels).mean()
    assert whole.baselines[HISTOGRAM][0].value == pytest.approx(right) and right > 0.8  # the toy is told by its colour
    gap = whole.differences[HISTOGRAM][0]
    assert gap.value == pytest.approx(whole.metrics[0].value - right) and whole.reference == HISTOGRAM


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 1.3, 1.42), (6.0, 1.0, 1.05)])
def test_the_interval_over_folds_is_wider_near_chance_and_hardly_so_away_from_it(shift, least, most) -> None:
    rng = np.random.default_rng(0)
    truth, cases = np.arange(240) % 3, np.arange(240)
    score = rng.normal(size=(240, 3)) + shift * np.eye(3)[truth] / 2
    found = Scores(truth, score, cases, ["test"] * 240, ("a", "b", "c"))
    crossed = CrossPrediction({"network": found}, cases // 3 % 4 + 1)
    plain = interval(found, "balanced_accuracy")
    wide, ranked = crossed.compare("network", metrics=["balanced_accuracy", "auroc"]).metrics
    assert wide.value == plain.value and least <= (wide.high - wide.low) / (plain.high - plain.low) <= most
    assert "folds" in wide.method and ranked.value == interval(found, "auroc").value
    two = replace(found, truth=truth % 2, score=score[:, :2], classes=("a", "b"))
    (within,) = CrossPrediction({"network": two}, crossed.fold).compare("network", metrics=["auroc"]).metrics
    wins = [np.sign(a - b) / 2 + 0.5 for k in range(1, 5) for a in two.score[(crossed.fold == k) & (two.truth == 1), 1]
            for b in two.score[(crossed.fold == k) & (two.truth == 0), 1]]  # fmt: skip
    assert within.value == pytest.approx(np.mean(wins))


def test_folds_that_do_not_cover_the_set_once_are_refused() -> None:
    patches = toy_set(side=16)
    folds = patient_folds(patches, 3)
    for wrong in (folds[:2], [*folds, Fold(folds[0].train, folds[0].validation)]):
        with pytest.raises(MedcoreError, match="cover"):
            cross_predict(patches, {HISTOGRAM: baseline_method(HISTOGRAM)}, wrong)


def test_the_prior_is_taken_out_as_bayes_says() -> None:
    """Three of four training images are of class a: 0.75 said of a is what the prior says, so nothing was seen."""
    table = {"label": [0, 0, 0, 1], "patient": list("abcd"), "split": ["train"] * 4}
    train = PatchSet.from_arrays(np.zeros((4, 4, 4, 3), np.uint8), table, Card("toy", classes=["a", "b", "never"]))
    said = np.array([[0.75, 0.25, 0.0], [0.6, 0.4, 0.0], [1.0, 0.0, 0.0]])
    expected = [[0.5, 0.5, 0], [0.2 / 0.6, 0.4 / 0.6, 0], [1, 0, 0]]
    np.testing.assert_allclose(without_prior(said, train), expected)


def test_a_balanced_baseline_answers_rare_classes_as_a_balanced_network_does() -> None:
    """Colours overlap and nine of ten images are dark: undivided, the histogram hardly ever says light."""
    rng = np.random.default_rng(0)
    label = (np.arange(400) % 10 == 0).astype(int)
    images = (rng.normal(100 + 25 * label, 25)[:, None, None, None] + rng.normal(0, 3, (400, 6, 6, 3))).clip(0, 255)
    table = {"label": label, "patient": np.arange(400) // 2, "split": ["train"] * 400}
    ps = PatchSet.from_arrays(images.astype(np.uint8), table, Card("toy", classes=["dark", "light"]))
    train, held_out = ps.select(np.arange(300)), ps.select(np.arange(300, 400)).with_split(["val"] * 100)
    plain, fair = (baseline_method("mean colour", balanced=b)(train, held_out) for b in (False, True))
    np.testing.assert_array_equal(plain, run_baselines(train, held_out, names=["mean colour"])["mean colour"])
    found = [(said.argmax(1)[held_out.labels == 1] == 1).mean() for said in (plain, fair)]
    assert found[0] < 0.3 < 0.5 < found[1]


def value(number: float, split: str = "val") -> Estimate:
    return not_estimable("dice", "one training", n=4, unit="image", split=split, value=number)


def test_a_difference_is_held_against_what_another_seed_changes() -> None:
    reached = {"plain": 0.80, "wider": 0.70, "longer": 0.78, "seed 1": 0.82, "seed 2": 0.79}
    found = compare_variants(
        {name: {"name": name} for name in reached}, lambda name: value(reached[name]), seeds=["seed 1", "seed 2"]
    )
    assert found.noise == pytest.approx(0.02) and found.shown == ["wider"]
    assert found.differences["wider"] == pytest.approx(-0.10)
    assert found.spread() == pytest.approx((np.mean([0.80, 0.82, 0.79]), np.std([0.80, 0.82, 0.79], ddof=1)))
    assert list(found.table()["difference"].round(2)) == [0, -0.10, -0.02, 0.02, -0.01]


def test_variants_are_not_compared_on_test_data() -> None:
    with pytest.raises(TestDataRefused, match="'plain'"):
        compare_variants({"plain": {}}, lambda: value(0.5, "test"))


def test_subgroups_of_few_patients_are_named_and_bands_hold_everybody() -> None:
    rng = np.random.default_rng(0)
    patient = np.arange(12) // 4
    table = {"label": np.arange(12) % 2, "patient": patient, "split": ["test"] * 12, "age": np.arange(12) + 0.5}
    table["sex"] = np.where(patient % 2, "f", "m")
    ps = PatchSet.from_arrays(
        rng.integers(0, 255, (12, 4, 4, 3)).astype(np.uint8), table, Card("toy", classes=["a", "b"], group="lesion")
    )
    scores = Scores.from_set(ps, np.stack([np.linspace(0, 1, 12), np.linspace(1, 0, 12)], 1))
    found = subgroup_table(scores, ps, ["sex", "age"], metric="accuracy")
    assert all(one.value is None for one in found["estimate"])  # one or two lesions a group
    assert found["lesions"].tolist()[:2] == [1, 2] and found["note"].str.contains("too few to judge").all()
    bands = found[found.column == "age"]
    assert len(bands) == 3 and bands["n"].sum() == 12
    with pytest.raises(MedcoreError, match="'scanner'"):
        subgroup_table(scores, ps, ["scanner"])


def grouped(rng: np.random.Generator, *, gap: float = 0.0, patients: int = 40) -> tuple[PatchSet, Scores]:
    """Patients of two sites, some with images at both; right answers are rarer at site b by ``gap``."""
    patient = np.repeat(np.arange(patients), rng.integers(4, 14, patients))
    site = np.where(rng.random(len(patient)) < np.where(patient % 2, 0.9, 0.1), "b", "a")
    label = rng.integers(0, 2, len(patient))
    ease = 0.8 + rng.normal(0, 0.08, patients)[patient] - gap * (site == "b")
    answer = np.where(rng.random(len(patient)) < ease, label, 1 - label)
    table = {"label": label, "patient": [f"P{n}" for n in patient], "split": ["test"] * len(patient), "site": site}
    pixels = np.zeros((len(patient), 4, 4, 3), np.uint8)
    ps = PatchSet.from_arrays(pixels, table, Card("toy", classes=["well", "ill"]))
    return ps, Scores.from_set(ps, np.eye(2)[answer])


def test_a_gap_is_the_group_minus_the_others_and_the_lowest_group_is_named() -> None:
    ps, scores = grouped(np.random.default_rng(3), gap=0.15)
    found = subgroup_table(scores, ps, ["site"], metric="accuracy").set_index("group")
    right, ill, site = scores.predicted == scores.truth, scores.truth == 1, ps.column("site")
    for name in "ab":
        here = site == name
        assert found.loc[name, "estimate"].value == pytest.approx(right[here].mean())
        assert found.loc[name, "gap"].value == pytest.approx(right[here].mean() - right[~here].mean())
        opportunity = right[here & ill].mean() - right[~here & ill].mean()
        assert found.loc[name, "sensitivity gap"].value == pytest.approx(opportunity)
    assert found.loc["b", "note"].startswith("lowest of its column") and "lowest" not in found.loc["a", "note"]
    one, other = found.loc["a", "gap"], found.loc["b", "gap"]
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low)) and one.low > 0


def test_the_interval_of_a_gap_keeps_its_promise_where_counting_images_would_not_be_paired() -> None:
    rng, held = np.random.default_rng(11), 0
    for _ in range(300):
        ps, scores = grouped(rng, gap=0.1)
        found = group_gap(scores, ps.column("site") == "b", "accuracy")
        held += found.low <= -0.1 <= found.high
    assert 0.92 <= held / 300 <= 0.98


def test_a_side_without_a_class_has_no_gap() -> None:
    ps, scores = grouped(np.random.default_rng(0))
    found = group_gap(scores, scores.truth == 1, "accuracy")
    assert found.value is None and "no case of well" in found.note
    assert group_gap(scores, np.ones(len(ps), bool), "accuracy").note == "there are no other cases"
