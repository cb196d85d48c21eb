"""Intervals: they cover what they promise, and say so when they cannot promise anything."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom
from simulated_cohorts import CONFIRMED, SETTINGS, Cohort, simulate
from sklearn import metrics as sk

from medcore.errors import MedcoreError
from medcore.evaluation import intervals as iv
from medcore.evaluation.estimate import printed_p
from medcore.evaluation.resampling import degrees_of_freedom, jackknife_limits, widened_for_folds
from medcore.evaluation.scores import Scores
from medcore.metrics.ranking import delong_test

UNCOVERED = {  # settings where no construction covers, and the least that is reached; the note says so
    ("200 patients, 7 imbalanced classes", "macro_f1"): 0.88,
}


def per_patch(scores):
    """The same cases, taken as if every patch were a patient of its own."""
    return replace(scores, patient=np.arange(len(scores)))


def coverage(setting, cohorts, seed):
    """Share of cohorts whose interval holds the truth."""
    rng = np.random.default_rng(seed)
    found = [setting.draw(rng).found for _ in range(cohorts)]
    return np.mean([one.low is not None and one.low <= setting.truth <= one.high for one in found])


@pytest.mark.parametrize(
    "setting", [SETTINGS[n] for n in (0, 10, 14, 19, 22, 28)], ids=lambda s: f"{s.name}, {s.metric}"
)
def test_intervals_cover(setting):
    """80 cohorts each: a true coverage of 0.95 falls below this once in 10,000 runs (binomial)."""
    assert coverage(setting, 80, seed=3) >= binom.ppf(5e-5, 80, 0.95) / 80


def test_intervals_of_patches_that_are_taken_as_patients_do_not():
    cohort, rng, hits = Cohort(patients=30, mixed=False), np.random.default_rng(1), 0
    for _ in range(60):
        found = iv.interval(per_patch(simulate(cohort, rng)[0]))
        hits += found.low <= cohort.true_values()["auroc"] <= found.high
    assert hits / 60 < 0.88


@pytest.mark.slow
@pytest.mark.parametrize("setting", [*SETTINGS, *CONFIRMED], ids=lambda s: f"{s.name}, {s.metric}")
def test_coverage_over_800_cohorts(setting):
    """Seeds that had no part in the choice of the constructions; below 0.93 only where the note says so."""
    least = UNCOVERED.get((setting.name, setting.metric), 0.93 - 3 * np.sqrt(0.05 * 0.95 / 800))
    assert least <= coverage(setting, 800, seed=77)


@pytest.mark.parametrize("setting", [one for one in [*SETTINGS, *CONFIRMED] if (one.name, one.metric) in UNCOVERED],
                         ids=lambda s: f"{s.name}, {s.metric}")  # fmt: skip
def test_where_no_construction_covers_the_note_says_so(setting):
    rng = np.random.default_rng(0)
    said = [bool(setting.draw(rng).found.note) for _ in range(20)]
    assert np.mean(said) > 0.3


def test_the_mean_of_zeros_and_ones_has_the_limits_of_jeffreys():
    values = np.repeat([1.0, 0.0], [17, 3])
    found = iv.mean_interval(values, np.arange(20), name="share", unit="image", split="test")
    assert (found.low, found.high) == pytest.approx(beta(17.5, 3.5).ppf([0.025, 0.975]), abs=0.01)


def test_a_mean_of_good_cases_holds_a_failure_that_none_of_them_had():
    """0 of 15 failed: a share of failures of a tenth is not excluded (0.9**15 = 0.21)."""
    found = iv.mean_interval(np.full(15, 0.91), np.arange(15), name="dice", unit="image", split="test")
    assert 0.7 < found.low < 0.9 * 0.91 < found.value < found.high < 0.95
    many = iv.mean_interval(np.full(900, 0.91), np.arange(900), name="dice", unit="image", split="test")
    assert many.low > 0.9


def test_limits_over_folds_are_wider_where_there_is_little_to_learn():
    def gain(value):
        low, high = value - 0.06, value + 0.06
        wide = widened_for_folds(value, low, high, 0.5)
        assert wide[0] < low and high < wide[1]
        return (wide[1] - wide[0]) / (high - low)

    assert 1.3 < gain(0.5) < np.sqrt(2)  # the variance doubles at chance itself, and less at the ends
    assert 1 < gain(0.9) < 1.15
    assert widened_for_folds(1.0, 0.9, 1.0, 0.5) == (0.9, 1.0)


@pytest.fixture
def scores():
    return simulate(Cohort(patients=25), np.random.default_rng(8))[0]


@pytest.mark.parametrize(
    "metric, oracle", [("auroc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)]
)
def test_values_equal_scikit_learn(scores, metric, oracle):
    found = iv.interval(scores, metric)
    assert found.value == pytest.approx(oracle(scores.truth, scores.score), abs=1e-12)
    assert found.low < found.value < found.high
    assert (found.n, found.unit, found.split, found.name) == (len(scores), "patch", "test", metric)
    assert "25 patients" in found.method


def test_many_classes_are_averaged_one_against_the_rest():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    score = np.exp(np.eye(3)[truth] + rng.normal(size=(300, 3)))
    score /= score.sum(1, keepdims=True)
    many = Scores(truth, score, rng.integers(0, 20, 300), ["test"] * 300, ("a", "b", "c", "d")[:3])
    found = iv.interval(many)
    assert found.value == pytest.approx(sk.roc_auc_score(truth, score, multi_class="ovr"), abs=1e-12)
    assert "one against the rest" in found.note
    alone = iv.interval(many, "auroc", positive="b")
    assert alone.value == pytest.approx(sk.roc_auc_score(truth == 1, score[:, 1]), abs=1e-12)
    assert iv.interval(many, "sensitivity", positive="b").n == (truth == 1).sum()


def test_the_jackknife_is_what_its_formula_says(scores):
    values = np.array(
        [
            sk.roc_auc_score(scores.truth[keep], scores.score[keep])
            for keep in (scores.patient != p for p in np.unique(scores.patient))
        ]
    )
    value = sk.roc_auc_score(scores.truth, scores.score)
    everybody = [np.ones(25, dtype=bool)]
    found = iv.interval(scores)
    assert (found.low, found.high) == pytest.approx(jackknife_limits(value, values, everybody), abs=1e-10)


@pytest.mark.parametrize("method", ["auto", "percentile"])
def test_neither_order_nor_names_matter(scores, method):
    shuffled = scores.select(np.random.default_rng(0).permutation(len(scores)))
    renamed = replace(shuffled, patient=np.char.add("p", shuffled.patient))
    assert iv.interval(scores, method=method).low == pytest.approx(iv.interval(shuffled, method=method).low, abs=1e-12)
    if method == "auto":
        assert iv.interval(scores).low == pytest.approx(iv.interval(renamed).low, abs=1e-12)


def test_degrees_of_freedom_shrink_with_concentration():
    equal = np.tile([1.0, -1.0], 20)
    normal = np.random.default_rng(0).normal(size=40)
    assert degrees_of_freedom(equal) == 39
    assert 20 < degrees_of_freedom(normal) <= 39
    assert degrees_of_freedom(np.where(np.arange(40) < 2, 10.0, 0.1)) < 6
    two_of_forty = np.arange(40) < 2
    assert degrees_of_freedom(np.where(two_of_forty, 10.0, 0.1), [two_of_forty]) < 1.1


def test_one_case_per_patient_uses_the_classical_intervals(scores):
    single = per_patch(scores)
    decision = (single.score > 0.7).astype(int)
    assert iv.interval(single).method == "DeLong, logit scale"
    found = iv.interval(single, "sensitivity", decision=decision)
    assert found.method == "Wilson" and found.n == single.truth.sum()
    hits = int(decision[single.truth == 1].sum())
    assert (found.low, found.high) == pytest.approx(iv.wilson_limits(hits, found.n))
    other = replace(single, score=single.score + np.random.default_rng(1).normal(size=len(single)))
    difference = iv.paired_difference(single, other)
    assert difference.method == "DeLong, paired"
    assert printed_p(delong_test(single.positive, single.score, other.score).p) in difference.note


def test_difference_of_identical_methods_has_no_interval(scores):
    found = iv.paired_difference(scores, scores)
    assert found.value == 0 and found.low is None and "nothing shows" in found.note


def test_differences_of_decisions_and_ranked_metrics(scores):
    weaker = replace(scores, score=scores.score + np.random.default_rng(0).normal(0, 2, len(scores)))
    for metric, kwargs in [
        ("average_precision", {}),
        ("balanced_accuracy", {"decisions": ((scores.score > 0.7) * 1, (weaker.score > 0.7) * 1)}),
    ]:
        for method in ("auto", "percentile"):
            found = iv.paired_difference(scores, weaker, metric, method=method, **kwargs)
            assert 0 < found.low < found.value < found.high, (metric, method)
    with pytest.raises(MedcoreError, match="truth of the two scores differs"):
        iv.paired_difference(scores, replace(weaker, truth=1 - weaker.truth))


RANKED_OR_DECIDED = ["auroc", "average_precision", "accuracy", "balanced_accuracy", "macro_f1", "mcc", "kappa", "ppv",
                     "specificity", "npv@0.2"]  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 4), st.integers(0, 6)), min_size=8,
             max_size=50),
    st.sampled_from(RANKED_OR_DECIDED),
)  # fmt: skip
@settings(deadline=None, max_examples=200)
def test_the_difference_the_other_way_round_is_its_mirror(table, metric):
    truth, first, second, patient = np.array(table).T
    one, other = cases(truth, first, patient), cases(truth, second, patient)
    calls = ((first > 2) * 1, (second > 2) * 1)
    there = iv.paired_difference(one, other, metric, decisions=calls)
    back = iv.paired_difference(other, one, metric, decisions=calls[::-1])
    assert (there.low is None) == (back.low is None) and there.n == back.n
    if there.value is not None:
        assert back.value == pytest.approx(-there.value, abs=1e-12)
    if there.low is not None:
        assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-7)
        assert there.low <= there.value <= there.high


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=30),
    st.sampled_from(["accuracy", "balanced_accuracy", "macro_f1", "mcc", "quadratic_kappa", "sensitivity", "ppv@0.1"]),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_an_interval_holds_its_value_whatever_the_cases_are(table, metric):
    truth, decision, patient = np.array(table).T
    many = Scores(truth, np.eye(3)[decision], patient, ["test"] * len(truth), "abc")
    found = iv.interval(many, metric, positive="a" if metric in ("sensitivity", "ppv@0.1") else None)
    assert found.low is None or found.low - 1e-9 <= found.value <= found.high + 1e-9


def test_a_difference_inherits_nothing_from_the_first_method(scores):
    """A collapsed first method has an exact 1/2, the difference to a working one does not."""
    collapsed = replace(scores, score=np.zeros(len(scores)))
    for metric, calls in (
        ("auroc", None),
        ("balanced_accuracy", (np.zeros(len(scores), int), (scores.score > 0.7) * 1)),
    ):
        found = iv.paired_difference(collapsed, scores, metric, decisions=calls)
        assert found.method != "exact" and found.low < found.value < found.high < 0, metric
    calls = ((scores.score > 3.0) * 1, (scores.score > 0.7) * 1)
    found = iv.paired_difference(scores, scores, "npv@0.2", decisions=calls)
    assert found.low <= found.value <= found.high and found.high - found.low < 0.3


def test_decisions_about_a_class_from_one_patient_have_an_interval_that_says_so():
    truth = np.array([0] * 12 + [1] * 6)
    given = cases(truth, truth * 1.0, np.append(np.arange(12), [12] * 6))
    decision = np.where(np.arange(18) % 5 == 0, 1 - truth, truth)
    for metric in ("balanced_accuracy", "mcc", "kappa", "sensitivity"):
        found = iv.interval(given, metric, decision=decision)
        assert found.low < found.value < found.high and "one patient" in found.note, metric


def cases(truth, score, patient=None):
    return Scores(truth, score, range(len(truth)) if patient is None else patient, ["test"] * len(truth), ("n", "p"))


@pytest.mark.parametrize(
    "metric", ["auroc", "average_precision", "accuracy", "balanced_accuracy", "mcc", "ppv", "ppv@0.2"]
)
@pytest.mark.parametrize(
    "given",
    [
        cases([], []),
        cases([1, 1, 1], [0.2, 0.8, 0.9]),
        cases([0, 0], [0.1, 0.2]),
        cases([0, 1], [0.1, 0.9], ["a", "a"]),
    ],
)
@pytest.mark.parametrize("method", ["auto", "jackknife", "percentile"])
def test_what_cannot_be_estimated_is_explained(metric, given, method):
    found = iv.interval(given, metric, decision=(given.score > 0.5).astype(int), method=method)
    if found.low is None:
        assert found.note
    else:  # accuracy, and the PPV of the calls there are, exist with one class
        assert metric in ("accuracy", "ppv") and found.low < found.high


@pytest.mark.parametrize("patient", [None, np.arange(60) // 3])
@pytest.mark.parametrize(
    "metric", ["auroc", "average_precision", "accuracy", "sensitivity", "balanced_accuracy", "kappa"]
)
@pytest.mark.parametrize("flip", [False, True])
def test_perfect_and_hopeless_scores_get_honest_limits(patient, metric, flip):
    truth = np.arange(60) % 2
    given = cases(truth, (1 - truth if flip else truth), patient)
    found = iv.interval(given, metric, decision=1 - truth if flip else truth)
    assert found.high - found.low > 0.02
    assert found.low <= found.value <= found.high
    if patient is not None and not flip:
        assert found.low < iv.wilson_limits(60, 60)[0] - 0.01  # 60 patches of 20 patients are not 60 patients


def test_a_class_from_one_patient_has_no_interval():
    found = iv.interval(cases([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9], ["a", "b", "c", "c"]))
    assert found.value == 0.75 and found.low is None and "class 'p' come from one patient" in found.note


def test_metrics_of_decisions_need_decisions(scores):
    with pytest.raises(MedcoreError, match="choose a threshold"):
        iv.interval(scores, "accuracy")
    with pytest.raises(MedcoreError, match="3 decisions for"):
        iv.interval(scores, "accuracy", decision=[0, 1, 0])
    with pytest.raises(MedcoreError, match="metric 'auc'"):
        iv.interval(scores, "auc")
    with pytest.raises(MedcoreError, match="positive='ill'"):
        iv.interval(scores, "ppv", positive="ill", decision=scores.truth)


@pytest.mark.parametrize("wrong", [{"level": 1.5}, {"level": 95}, {"method": "bca"}])
def test_an_unknown_construction_is_named(scores, wrong):
    with pytest.raises(MedcoreError, match="level=.*method="):
        iv.interval(scores, **wrong)


def test_means_by_case_and_by_patient():
    values, patient = np.array([0.9, 0.9, 0.9, 0.3, np.nan]), np.array(["a", "a", "a", "b", "c"])
    by_case = iv.mean_interval(values, patient, name="dice", unit="image", split="test")
    by_patient = iv.mean_interval(values, patient, name="dice", unit="image", split="test", by="patient")
    assert (by_case.value, by_case.n, by_case.unit) == (pytest.approx(0.75), 4, "image")
    assert (by_patient.value, by_patient.n, by_patient.unit) == (pytest.approx(0.6), 2, "patient")
    assert "1 of 5 cases have no dice" in by_case.note
    assert (
        iv.mean_interval(np.array([]), np.array([]), name="dice", unit="image", split="test").note
        == "there are no cases"
    )


def test_the_mean_of_independent_values_has_students_interval():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=30)
    found = iv.mean_interval(values, np.arange(30), name="x", unit="image", split="test", bounds=None)
    expected = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert found.high - found.low == pytest.approx(expected[1] - expected[0], rel=0.15)
    assert found.high - found.low >= (expected[1] - expected[0]) * (1 - 1e-9)


def test_any_statistic_of_case_weights(scores):
    found = iv.statistic_interval(
        lambda weights: sk.roc_auc_score(scores.truth, scores.score, sample_weight=weights),
        scores.patient, name="auroc", unit="patch", split="test",
    )  # fmt: skip
    known = iv.interval(scores)
    assert (found.low, found.value, found.high) == pytest.approx((known.low, known.value, known.high), abs=0.01)


def test_a_constant_answer_is_exact_whoever_the_patients_are():
    """Hand-worked: one class of three is always right, so the mean of the three sensitivities is 1/3; no order: 1/2."""
    truth, patient = np.repeat([0, 1, 2], [10, 4, 6]), np.arange(20) % 5
    always = Scores(truth, np.tile([0.5, 0.3, 0.2], (20, 1)), patient, ["test"] * 20, ("a", "b", "c"))
    balanced = iv.interval(always, "balanced_accuracy")
    assert (balanced.value, balanced.low, balanced.high) == pytest.approx((1 / 3,) * 3)
    assert str(balanced) == "0.33 (exact)" and "same answer" in balanced.note
    assert str(iv.interval(always, "auroc")) == "0.50 (exact)"
    spread = iv.interval(always, "accuracy")  # how often the class occurs does differ between patients
    assert spread.low < spread.value == 0.5 < spread.high
