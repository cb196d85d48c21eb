"""Tables of metrics: values against scikit-learn, prevalence by Bayes, errors that name the argument."""

import numpy as np
import pytest
from sklearn import metrics as sk

from medcore.evaluation import tables as mt
from medcore.evaluation.scores import Scores


@pytest.fixture
def scores():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 240)
    return Scores(
        truth, np.eye(3)[truth] + rng.normal(0, 0.8, (240, 3)), rng.integers(0, 16, 240), ["test"] * 240, "abc"
    )


def test_the_table_equals_scikit_learn(scores):
    table = mt.classification_table(scores)
    precision, recall, f1, support = sk.precision_recall_fscore_support(scores.truth, scores.predicted)
    assert list(table.index) == ["a", "b", "c", "mean"]
    for column, expected in (("ppv", precision), ("sensitivity", recall), ("f1", f1)):
        assert [cell.value for cell in table[column]] == pytest.approx([*expected, expected.mean()], abs=1e-12)
    assert table["n"].tolist() == [*support, 240] and table["patients"].max() == 16
    assert str(table.loc["a", "ppv"]) in table.to_string()  # cells print as value (low–high)


def test_a_class_without_cases_has_no_row(scores):
    table = mt.classification_table(scores.select(scores.truth != 2))
    assert list(table.index) == ["a", "b", "mean"]
    assert "2 of 3 classes" in table.loc["mean", "sensitivity"].note


def bayes(sensitivity, specificity, prevalence):
    """Of 1000: the ill who are called ill among all called ill, and the well among all called well."""
    ill, well = 1000 * prevalence, 1000 * (1 - prevalence)
    hits, quiet = ill * sensitivity, well * specificity
    return hits / (hits + well - quiet), quiet / (quiet + ill - hits)


def test_the_prevalence_table_agrees_with_bayes_and_with_the_data(scores):
    two = scores.one_vs_rest("c")
    decision = (two.score > 0.5).astype(int)
    own = float(two.truth.mean())
    table = mt.prevalence_table(two, decision, prevalences=(0.05, own))
    sensitivity, specificity = decision[two.truth == 1].mean(), 1 - decision[two.truth == 0].mean()
    expected = bayes(sensitivity, specificity, 0.05)
    assert (table["ppv"].iloc[0].value, table["npv"].iloc[0].value) == pytest.approx(expected)
    assert table["ppv"].iloc[1].value == pytest.approx(sk.precision_score(two.truth, decision), abs=1e-5)
    assert table["ppv"].iloc[0].name == "ppv@0.05"


def test_predictive_values_of_patients_cover():
    """Intervals of 95 % hold the true PPV and NPV in at least 91 % of 300 simulated studies of 47 ill and 31 well."""
    generator, covered = np.random.default_rng(0), np.zeros(2)
    truth = np.repeat([0, 1], [31, 47])
    exact = bayes(0.8, 0.9, 0.2)
    for _ in range(300):
        decision = (generator.random(78) < np.where(truth, 0.8, 0.1)).astype(int)
        study = Scores(truth, decision * 1.0, range(78), ["test"] * 78, ("n", "p"), unit="patient")
        row = mt.prevalence_table(study, decision, prevalences=(0.2,)).iloc[0]
        covered += [one.low <= value <= one.high for one, value in zip(row, exact, strict=True)]
    assert (covered / 300 >= 0.91).all()


def test_perfect_decisions_do_not_promise_a_perfect_ppv():
    truth = np.repeat([0, 1], 20)
    perfect = Scores(truth, truth * 1.0, range(40), ["test"] * 40, ("n", "p"), unit="patient")
    ppv = mt.prevalence_table(perfect, truth, prevalences=(0.05,))["ppv"].iloc[0]
    assert ppv.value == 1 and ppv.low < 0.35  # 20 of 20 leaves a specificity of 0.88, and at 5 % that means little
