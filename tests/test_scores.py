"""Scores: what fits together is accepted, everything else is named."""

import numpy as np
import pandas as pd
import pytest

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.baselines import run_baselines
from medcore.evaluation.features import Familiarity
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Folds, Scores, refuse_test_data
from medcore.studies.anomaly.candidates import colour_distances, fit_linear
from medcore.studies.anomaly.latent import mahalanobis
from medcore.studies.anomaly.patchcore import fit_patchcore
from medcore.studies.segmentation.cases import case_statistics


def make(**changes):
    parts = {
        "truth": [0, 1, 2, 1],
        "score": np.eye(3)[[0, 1, 2, 0]],
        "patient": ["a", "a", "b", "c"],
        "split": ["val", "val", "test", "test"],
        "classes": ("x", "y", "z"),
    }
    return Scores(**(parts | changes))


def test_selecting_keeps_everything_together():
    scores = make(ids=[7, 8, 9, 10]).where("test")
    assert scores.truth.tolist() == [2, 1] and scores.patient.tolist() == ["b", "c"] and scores.ids.tolist() == [9, 10]
    assert scores.predicted.tolist() == [2, 0]
    assert (len(scores), scores.patients, scores.side) == (2, 2, "test")
    assert len(make().select([])) == 0 and len(make().where("train")) == 0
    assert make().side == "test+val"


def test_one_against_the_rest_adds_the_scores_of_the_positives():
    scores = make(score=[[0.2, 0.3, 0.5]] * 4).one_vs_rest("y", "z")
    assert scores.positive.tolist() == [False, True, True, True]
    assert scores.positive_score == pytest.approx([0.8] * 4)
    assert scores.classes == ("rest", "y+z")


def test_a_single_score_belongs_to_the_second_class():
    scores = make(truth=[0, 1, 1, 0], score=[0.1, 0.9, 0.8, 0.3], classes=("n", "p"))
    assert scores.positive_score.tolist() == [0.1, 0.9, 0.8, 0.3]
    assert scores.one_vs_rest("n").positive_score.tolist() == [-0.1, -0.9, -0.8, -0.3]
    with pytest.raises(MedcoreError, match="choose a threshold"):
        _ = scores.predicted


def test_joins_a_model_with_its_set():
    card = Card("demo", classes=["x", "y"])
    table = {"label": [0, 1, 1], "patient": ["a", "b", "b"], "split": ["val", "test", "test"]}
    ps = PatchSet.from_arrays(np.zeros((3, 4, 4, 3), np.uint8), table, card).where(split="test")
    scores = Scores.from_set(ps, np.array([0.2, 0.7]))
    assert scores.ids.tolist() == [1, 2] and scores.classes == ("x", "y") and scores.patient.tolist() == ["b", "b"]


def test_images_without_a_patient_stand_for_themselves():
    table = {"label": [0, 1, 1, 0], "patient": ["a", "", "", ""], "source": ["1.png", "2.png", "3.png", "3.png"]}
    ps = PatchSet.from_arrays(np.zeros((4, 4, 4, 3), np.uint8), table, Card("demo", classes=["x", "y"]))
    patient = Scores.from_set(ps, np.zeros(4)).patient
    assert patient[0] == "a" and len(set(patient)) == 3 and patient[2] == patient[3]


def test_linked_patients_are_resampled_as_one():
    table = {"label": [0, 1, 1, 0], "patient": ["a", "b", "c", "c"], "linked": ["a", "a", "c", "c"]}
    ps = PatchSet.from_arrays(np.zeros((4, 4, 4, 3), np.uint8), table, Card("demo", classes=["x", "y"]))
    assert Scores.from_set(ps, np.zeros(4)).patients == 2


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"score": np.zeros((4, 2))}, r"score has shape \(4, 2\), but there are 3 classes"),
        ({"score": np.zeros(4)}, r"score has shape \(4,\)"),
        ({"score": np.zeros((3, 3))}, "score has 3 entries, but truth has 4"),
        ({"patient": ["a"]}, "patient has 1 entries"),
        ({"truth": [0, 1, 3, 1]}, "truth of case 2 is 3"),
        ({"truth": [0, -1, 2, 1]}, "truth of case 1 is -1"),
        ({"score": np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0], [0, 0, 0]])}, "score of case 1 .*1 of 4"),
        ({"score": [["a"] * 3] * 4}, "score cannot be read as float64"),
    ],
)
def test_what_does_not_fit_is_named(changes, said):
    with pytest.raises(MedcoreError, match=said):
        make(**changes)


@pytest.mark.parametrize("positive", [("nobody",), (), ("x", "y", "z")])
def test_unknown_or_empty_positives_are_refused(positive):
    with pytest.raises(MedcoreError, match="must be some, not all"):
        make().one_vs_rest(*positive)


def test_a_question_with_two_answers_needs_two_classes():
    with pytest.raises(MedcoreError, match="one_vs_rest"):
        _ = make().positive


def test_folds_travel_with_their_cases():
    folds = Folds(np.arange(8).reshape(2, 4) / 8, np.array([[0, 0, 1, 1], [0, 1, 0, 1]]))
    scores = make(truth=[0, 1, 1, 0], score=[0.1, 0.9, 0.8, 0.3], classes=("n", "p"), folds=folds)
    assert scores.select([1, 3]).folds.fold.tolist() == [[0, 1], [1, 1]]
    assert "within folds" in interval(scores, "auroc").note
    with pytest.raises(MedcoreError, match=r"folds must hold \(repeats, 4\)"):
        make(folds=Folds(np.zeros((1, 3)), np.zeros((1, 3))))


def test_only_marked_cases_may_choose():
    refuse_test_data(make().where("val"), "k")
    with pytest.raises(TestDataRefused, match="k can only be chosen .* of 4 cases these are not: 2 'test'"):
        refuse_test_data(make(), "k")
    with pytest.raises(TestDataRefused, match="4 ''"):
        refuse_test_data(make(split=[""] * 4), "k")


LEARNERS = {
    "baselines": lambda marked: run_baselines(marked, marked),
    "a memory of patches": lambda marked: fit_patchcore(None, marked),
    "what is familiar": lambda marked: Familiarity.learn(None, marked.where(split="train"), marked),
    "principal components": lambda marked: fit_linear(marked, 2),
    "normal colours": lambda marked: colour_distances(marked, marked),
    "the covariance of codes": lambda marked: mahalanobis(None, marked, marked),
    "channel statistics": case_statistics,
}


@pytest.mark.parametrize("what", LEARNERS)
def test_whatever_learns_from_images_refuses_a_single_test_image(what):
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), np.uint8)
    table = {"label": np.arange(12) % 2, "patient": [f"p{n}" for n in range(12)], "split": ["train"] * 11 + ["test"]}
    marked = PatchSet.from_arrays(images, pd.DataFrame(table), Card("toy", classes=["a", "b"]))
    with pytest.raises(TestDataRefused, match=f"{what} can only be chosen .* of 12 cases these are not: 1 'test'"):
        LEARNERS[what](marked)


def test_images_without_a_split_may_be_learnt_from_but_scores_may_not():
    ps = PatchSet.from_arrays(
        np.zeros((2, 8, 8, 3), np.uint8), pd.DataFrame({"label": [0, 1]}), Card("toy", classes=["a", "b"])
    )
    refuse_test_data(ps, "anything")
    with pytest.raises(TestDataRefused, match="2 ''"):
        refuse_test_data(Scores.from_set(ps, np.array([0.1, 0.9])), "anything")
