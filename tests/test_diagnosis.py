"""Window scores to diagnoses: thresholds recovered, nothing learnt from whom it is tested on, oracles for figures."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from cohort_toys import toy_cohort, with_hold_out_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score

from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.scores import Scores
from medcore.metrics.ranking import within_fold_auroc
from medcore.studies.diagnosis import results
from medcore.studies.diagnosis.aggregation import AGGREGATIONS, aggregate, choose_cuts, fit_evidence, levels_from
from medcore.studies.diagnosis.choices import DiagnosisChoices
from medcore.studies.diagnosis.nested import diagnose_patients, diagnose_windows
from medcore.studies.diagnosis.reader import by_window_count, count_dependence
from medcore.studies.diagnosis.rule import (
    choose_diagnosis,
    choose_patient_rule,
    choose_window_rule,
    simplest,
    window_folds,
)

THREE = DiagnosisChoices(folds=3)
FOUR = DiagnosisChoices(folds=4)

MADE_BY_THE_TRUTH = ["diagnosis", "true_level", "truth"]


def patients(score: np.ndarray, level: np.ndarray) -> Scores:
    """Validation patients with these scores."""
    count = len(score)
    return Scores(level > 0, score, np.arange(count), np.full(count, "val"), ("healthy", "infected"), unit="patient")


# --- thresholds ---------------------------------------------------------------------------------------------------


def test_the_window_threshold_finds_the_known_optimum():
    cohort = toy_cohort(400, gap=4.0)
    scaled = cohort.with_scores({"brown": cohort.score("brown") / 4})  # N(0, 0.25) and N(1, 0.25): the optimum is 0.5
    assert choose_window_rule(scaled).threshold == pytest.approx(0.5, abs=0.02)


def test_the_patient_threshold_finds_the_known_optimum():
    cohort = toy_cohort(4000)
    generator = np.random.default_rng(1)
    score = np.where(cohort.truth, 0.6, 0.4) + 0.08 * generator.normal(size=len(cohort))
    assert choose_patient_rule(cohort, score).point.threshold == pytest.approx(0.5, abs=0.02)


def test_a_costly_miss_lowers_the_threshold_to_the_analytic_optimum():
    cohort = toy_cohort(20_000)
    score = 2.0 * cohort.truth + np.random.default_rng(2).normal(size=len(cohort))
    rule = choose_patient_rule(cohort, score, rule="cost 5:1")
    assert rule.point.threshold == pytest.approx(1 + np.log(1 / 5) / 2, abs=0.1)  # likelihood ratio = cost ratio


def test_the_probability_of_a_patient_is_calibrated_on_a_logistic_world():
    generator = np.random.default_rng(0)
    score = generator.normal(size=8000)
    infected = generator.random(8000) < 1 / (1 + np.exp(-(3 * score - 1)))
    cohort = toy_cohort(8000)
    fitted = choose_patient_rule(replace(cohort, level=infected.astype(int)), score).probability
    assert fitted.slope == pytest.approx(3, rel=0.06)
    assert fitted.offset == pytest.approx(-1, rel=0.1)


def test_the_probability_survives_perfect_separation():
    cohort = toy_cohort(20)
    stated = choose_patient_rule(cohort, cohort.truth.astype(float)).decide(np.array([-1e6, 0.0, 1.0, 1e6]))
    assert stated["probability"].between(0, 1).all()
    assert stated["probability"].is_monotonic_increasing
    assert stated["decision"].tolist() == [0, 0, 1, 1]


def test_the_better_window_score_is_chosen():
    cohort = toy_cohort(60)
    noise = np.random.default_rng(0).normal(size=len(cohort.owner))
    rule = choose_window_rule(cohort.with_scores({"noise": noise, "brown": cohort.score("brown")}))
    assert rule.score == "brown"
    assert rule.auroc["noise"] < 0.6 < rule.auroc["brown"]


def test_a_luckily_perfect_candidate_does_not_beat_a_simpler_one():
    truth = np.repeat([0, 1], 20)
    perfect = truth + np.linspace(0, 0.5, 40)
    one_wrong = np.where(np.arange(40) == 0, 1.4, perfect)
    scores = {"simple": one_wrong, "complex": perfect}
    auroc = {name: float(roc_auc_score(truth, score)) for name, score in scores.items()}
    assert 0.95 < auroc["simple"] < auroc["complex"] == 1
    assert simplest(auroc, scores, truth) == "complex"  # DeLong's error of a perfect score is 0
    assert simplest(auroc, scores, truth, few=True) == "simple"
    poor = {"simple": np.roll(perfect, 10), "complex": perfect}
    auroc = {name: float(roc_auc_score(truth, score)) for name, score in poor.items()}
    assert simplest(auroc, poor, truth, few=True) == "complex"


def test_window_folds_keep_patients_whole():
    scores = toy_cohort(30).window_scores("brown")
    side = window_folds(scores, 5, seed=0)
    for patient in np.unique(scores.patient):
        assert len(np.unique(side[scores.patient == patient])) == 1
    for fold in range(5):
        assert scores.truth[side == fold].any()


def test_one_patient_with_positive_windows_is_enough_for_a_threshold():
    cohort = toy_cohort(30)
    label = np.where((cohort.label == 1) & (cohort.owner != 3), 0, cohort.label)
    rule = choose_window_rule(replace(cohort, label=label))
    assert len(rule.fold_thresholds) == 1


# --- nothing is learnt from whom it is tested on ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_hold_out_labels_change_no_decision(seed):
    cohort = toy_cohort(60, hold_out=0.4)
    first = diagnose_windows(cohort, THREE)
    second = diagnose_windows(with_hold_out_labels(cohort, seed), THREE)
    assert not first.table["truth"].equals(second.table["truth"])
    assert first.table.drop(columns=MADE_BY_THE_TRUTH).equals(second.table.drop(columns=MADE_BY_THE_TRUTH))
    assert first.rules == second.rules


def test_hold_out_labels_change_no_directly_scored_decision():
    cohort = toy_cohort(60, hold_out=0.4)
    highest = np.array([cohort.score("brown")[cohort.owner == patient].max() for patient in range(60)])
    tables = [
        diagnose_patients(one, lambda excluded: highest, THREE).table.drop(columns=MADE_BY_THE_TRUTH)
        for one in (cohort, with_hold_out_labels(cohort, 0))
    ]
    assert tables[0].equals(tables[1])


def test_every_chooser_refuses_hold_out_patients():
    cohort = toy_cohort(40, hold_out=0.25)
    with pytest.raises(TestDataRefused, match="window threshold"):
        choose_window_rule(cohort)
    with pytest.raises(TestDataRefused, match="patient threshold"):
        choose_patient_rule(cohort, np.arange(40.0))
    with pytest.raises(TestDataRefused, match="diagnosis rule"):
        choose_diagnosis(cohort)
    scores = cohort.patient_scores(np.arange(40.0))
    with pytest.raises(TestDataRefused, match="density levels"):
        choose_cuts(scores, cohort.level, 3)
    with pytest.raises(TestDataRefused, match="evidence"):
        fit_evidence(np.ones((40, 3)), scores)


class Snitch:
    """Learns nothing but whom it was trained on: its score is high for windows of those patients."""

    def __init__(self, cohort):
        self.cohort, self.trainings = cohort, []

    def __call__(self, excluded):
        self.trainings.append(excluded)
        return {"brown": self.cohort.score("brown") + 1000 * ~excluded[self.cohort.owner]}

    def of_patients(self, excluded):
        self.trainings.append(excluded)
        return self.cohort.level + 1000.0 * ~excluded


def test_no_patient_is_scored_by_a_model_that_saw_it():
    cohort = toy_cohort(40)
    snitch = Snitch(cohort)
    found = diagnose_windows(cohort, FOUR, learn=snitch)
    honest = diagnose_windows(cohort, FOUR)
    assert found.table.equals(honest.table)  # had anybody been seen, scores and thresholds would be near 1000
    assert len(snitch.trainings) == 4 * 5 // 2


def test_no_hold_out_patient_is_scored_by_a_model_that_saw_it():
    cohort = toy_cohort(40, hold_out=0.3)
    snitch = Snitch(cohort)
    assert diagnose_windows(cohort, FOUR, learn=snitch).table.equals(diagnose_windows(cohort, FOUR).table)
    assert all(excluded[cohort.split == "test"].all() for excluded in snitch.trainings)


def test_no_patient_is_scored_directly_by_a_model_that_saw_it():
    cohort = toy_cohort(40, hold_out=0.3)
    free = cohort.select(cohort.split == "val")
    for one in (cohort, free):
        snitch = Snitch(one)
        found = diagnose_patients(one, snitch.of_patients, FOUR)
        assert found.table["score"].max() <= 2
        assert abs(found.table["margin"]).max() < 3


@pytest.mark.parametrize("seed", range(3))
def test_the_diagnosis_of_a_fold_does_not_depend_on_its_labels(seed, monkeypatch):
    cohort = toy_cohort(40)
    side = cohort.folds(4)
    hidden = replace(cohort, split=np.where(side == 0, "test", "val"))
    changed = replace(with_hold_out_labels(hidden, seed), split=cohort.split)
    fixed = dict(zip(cohort.names.tolist(), side.tolist(), strict=True))
    plain = type(cohort).folds

    def folds(self, k, *, seed=0):
        return np.array([fixed[name] for name in self.names]) if len(self) == 40 else plain(self, k, seed=seed)

    monkeypatch.setattr(type(cohort), "folds", folds)
    tables = [diagnose_windows(one, FOUR).table.query("fold == 0") for one in (cohort, changed)]
    assert tables[0].drop(columns=MADE_BY_THE_TRUTH).equals(tables[1].drop(columns=MADE_BY_THE_TRUTH))


def test_labels_at_random_give_no_better_than_chance():
    aurocs = []
    for seed in range(5):
        cohort = toy_cohort(60, seed=seed)
        level = np.random.default_rng(seed).permutation(cohort.level)
        found = diagnose_windows(replace(cohort, level=level), DiagnosisChoices(folds=3, seed=seed))
        table = found.table
        aurocs.append(within_fold_auroc(*(table[n].to_numpy() for n in ("truth", "score", "fold"))))
    assert 0.4 < np.mean(aurocs) < 0.6


# --- the whole way ------------------------------------------------------------------------------------------------


def test_clear_patients_are_diagnosed():
    found = diagnose_windows(toy_cohort(120, hold_out=0.4), FOUR)
    estimates = {one.name: one for one in results.patient_estimates(found)}
    assert estimates["auroc"].value > 0.95
    assert estimates["accuracy"].value > 0.85
    assert estimates["quadratic_kappa"].value > 0.7
    assert {one.unit for one in estimates.values()} == {"patient"}
    assert {one.split for one in estimates.values()} == {"test"}
    assert estimates["auroc"].n == 48


def test_ranking_figures_of_hold_out_speak_of_the_same_score():
    found = diagnose_windows(toy_cohort(120, hold_out=0.4), FOUR)
    found.table["score"] = -found.table["score"]  # now a bad score, whatever the probabilities say
    estimates = {one.name: one.value for one in results.patient_estimates(found)}
    truth, score = found.table["truth"], found.table["score"]
    assert estimates["auroc"] == pytest.approx(roc_auc_score(truth, score))
    assert estimates["average_precision"] == pytest.approx(average_precision_score(truth, score))


def test_nested_estimates_say_folds():
    found = diagnose_windows(toy_cohort(60), FOUR)
    assert {one.split for one in results.patient_estimates(found)} == {"folds"}
    assert sorted(found.table["fold"].unique()) == [0, 1, 2, 3]
    assert found.table["patient"].tolist() == [f"P{number:03d}" for number in range(60)]


def test_no_aggregation_or_an_unknown_one_is_refused():
    with pytest.raises(MedcoreError, match="known are evidence, share"):
        choose_diagnosis(toy_cohort(20), DiagnosisChoices(aggregations=()))
    with pytest.raises(MedcoreError, match="'max' is none of"):
        choose_diagnosis(toy_cohort(20), DiagnosisChoices(aggregations=("max",), folds=2))


# --- aggregation --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_aggregations_against_slow_ones(probability, threshold):
    p = np.array(probability)
    positive = p >= threshold
    slow = {
        "share": sum(positive) / len(p),
        "mean": sum(probability) / len(p),
        "top3": float(np.mean(sorted(probability, reverse=True)[:3])),
        "noisy_or": 1 - float(np.prod([1 - value for value in probability])),
    }
    assert set(slow) == set(AGGREGATIONS)
    for name, expected in slow.items():
        assert AGGREGATIONS[name](p, positive) == pytest.approx(expected, abs=1e-9)


def test_windows_go_to_their_patients_in_any_order():
    generator = np.random.default_rng(0)
    owner = generator.permutation(np.repeat(np.arange(5), [1, 2, 3, 4, 5]))
    probability = generator.random(15)
    for name, function in AGGREGATIONS.items():
        expected = [function(probability[owner == p], probability[owner == p] > 0.5) for p in range(5)]
        assert aggregate(name, probability, probability > 0.5, owner, 5) == pytest.approx(expected)


def test_share_and_mean_do_not_grow_with_the_number_of_windows():
    generator = np.random.default_rng(0)
    few, many = (np.mean([[f(p := generator.random(n), p > 0.9) for f in AGGREGATIONS.values()]
                          for _ in range(400)], axis=0) for n in (3, 60))  # fmt: skip
    change = dict(zip(AGGREGATIONS, many - few, strict=True))
    assert abs(change["share"]) < 0.05 and abs(change["mean"]) < 0.05
    assert change["top3"] > 0.2 and change["noisy_or"] > 0.1


# --- density ------------------------------------------------------------------------------------------------------


def test_cuts_are_as_good_as_trying_all():
    for seed in range(5):
        generator = np.random.default_rng(seed)
        level = generator.integers(0, 3, 18)
        score = np.round(level + generator.normal(size=18), 2)
        values = np.unique(score)
        middles = (values[1:] + values[:-1]) / 2
        best = max(cohen_kappa_score(level, levels_from(score, cuts), weights="quadratic")
                   for cuts in combinations(middles, 2))  # fmt: skip
        found = levels_from(score, choose_cuts(patients(score, level), level, 3))
        assert cohen_kappa_score(level, found, weights="quadratic") == pytest.approx(best, abs=0.03)


def test_separate_levels_are_separated():
    score = np.array([0.0, 0.1, 0.5, 0.55, 0.9, 1.0])
    level = np.array([0, 0, 1, 1, 2, 2])
    cuts = choose_cuts(patients(score, level), level, 3)
    assert 0.1 < cuts[0] <= 0.5 < 0.55 < cuts[1] <= 0.9
    assert levels_from(score, cuts).tolist() == level.tolist()


# --- figures ------------------------------------------------------------------------------------------------------


def test_within_fold_auroc_is_the_pair_weighted_mean_of_the_folds():
    generator = np.random.default_rng(0)
    truth, fold = generator.integers(0, 2, 60), generator.integers(0, 4, 60)
    score = np.round(generator.normal(size=60) + truth, 1) + 10 * fold  # each fold has a scale of its own
    parts = [(truth[fold == f], score[fold == f]) for f in range(4)]
    weights = [t.sum() * (1 - t).sum() for t, _ in parts]
    expected = np.average([roc_auc_score(t, s) for t, s in parts], weights=weights)
    assert within_fold_auroc(truth, score, fold) == pytest.approx(expected, abs=1e-12)
    doubled = within_fold_auroc(truth, score, fold, np.full(60, 2.0))
    assert doubled == pytest.approx(expected, abs=1e-12)
    without = within_fold_auroc(truth, score, fold, (fold > 0).astype(float))
    assert without == pytest.approx(
        np.average([roc_auc_score(t, s) for t, s in parts[1:]], weights=weights[1:]), abs=1e-12
    )


def test_a_fold_of_one_kind_gives_no_pair():
    truth, fold = np.array([1, 1, 0, 1]), np.array([0, 0, 1, 1])
    assert within_fold_auroc(truth, np.array([0, 0, 1, 2]), fold) == 1
    assert np.isnan(within_fold_auroc(truth[:2], np.zeros(2), fold[:2]))


def test_comparing_a_method_with_itself_and_with_chance():
    cohort = toy_cohort(60)
    ours = diagnose_windows(cohort, FOUR)
    noise = np.random.default_rng(0).normal(size=60)
    chance = diagnose_patients(cohort, lambda excluded: noise, FOUR)
    same = results.compare_aurocs(ours, ours)
    assert same.value == 0
    better = results.compare_aurocs(ours, chance)
    assert better.low > 0
    assert better.value == pytest.approx(results.patient_auroc(ours).value - results.patient_auroc(chance).value)
    test = results.compare_decisions(ours, chance)
    assert test.first_only > test.second_only
    assert results.compare_decisions(ours, ours).p == 1
    with pytest.raises(MedcoreError, match="same patients"):
        results.compare_aurocs(ours, diagnose_windows(toy_cohort(56), FOUR))


def test_dependence_on_the_number_of_windows():
    cohort = toy_cohort(60)
    counts = cohort.windows_per_patient.astype(float)
    grows = diagnose_patients(cohort, lambda excluded: counts + 30 * cohort.truth, FOUR)
    assert count_dependence(grows)[0] == pytest.approx(1)
    table = by_window_count(grows)
    assert table["patients"].sum() == 60
    assert table["mean_score_healthy"].is_monotonic_increasing
    ends = [int(number) for words in table["windows"] for number in words.split("–")]
    assert len(ends) == 6 and ends == sorted(set(ends))  # no number of windows is in two rows
    alike = replace(grows, table=grows.table.assign(windows=7))
    assert by_window_count(alike)[["windows", "patients"]].to_numpy().tolist() == [["7", 60]]
    constant = diagnose_patients(cohort, lambda excluded: cohort.truth.astype(float), FOUR)
    assert count_dependence(constant) is None


def test_the_analytic_auroc_of_windows_is_met():
    cohort = toy_cohort(400, gap=2.0)
    rule = choose_window_rule(cohort)
    assert rule.auroc["brown"] == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=0.02)
    assert rule.balanced_accuracy == pytest.approx(norm.cdf(1.0), abs=0.02)
