"""Anomaly detectors class by class: shares and AUROCs by hand and by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.thresholds import choose_threshold
from medcore.studies.anomaly.detection import abnormal_scores, detection_table, detector_estimates

CLASSES = ["nv", "df", "mel", "bcc"]


@pytest.fixture
def derm():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 400, p=[0.6, 0.1, 0.2, 0.1])
    table = {
        "label": labels,
        "patient": rng.integers(0, 80, 400),
        "split": np.where(np.arange(400) < 200, "val", "test"),
    }
    card = Card("derm", classes=CLASSES, abnormal=["mel", "bcc"])
    ps = PatchSet.from_arrays(np.zeros((400, 2, 2, 3), np.uint8), table, card)
    return ps, rng.normal(np.array([0, 0.5, 1, 3])[labels])


def test_classes_become_normal_and_abnormal(derm):
    ps, score = derm
    scores = abnormal_scores(ps, score)
    assert np.array_equal(scores.positive, np.isin(ps.label_names, ["mel", "bcc"]))
    assert scores.classes == ("normal", "abnormal") and np.array_equal(scores.patient, ps.patients)
    assert abnormal_scores(ps, score, abnormal=["df"]).positive.sum() == (ps.labels == 1).sum()


def test_the_threshold_comes_from_validation_and_is_applied_to_test(derm):
    scores = abnormal_scores(*derm)
    point = choose_threshold(scores.where("val"), "specificity>=0.9")
    test = scores.where("test")
    found = {one.name: one for one in detector_estimates(test, point)}
    assert next(iter(found)) == "auroc"
    assert found["auroc"].value == pytest.approx(roc_auc_score(test.truth, test.score), abs=1e-12)
    assert found["specificity"].value == pytest.approx((test.score < point.threshold)[~test.positive].mean())
    assert f"chance: {test.positive.mean():.3f}" in found["average_precision"].note
    with pytest.raises(TestDataRefused):
        choose_threshold(test)


def test_the_table_names_what_is_missed(derm):
    ps, score = derm
    scores = abnormal_scores(ps, score)
    point = choose_threshold(scores.where("val"))
    keep = ps.splits == "test"
    table = detection_table(scores.select(keep), ps.label_names[keep], point)
    assert list(table.index) == ["bcc", "mel", "df", "nv"] and table["n"].sum() == 200
    for name, row in table.iterrows():
        members = keep & (ps.label_names == name)
        share = row["called abnormal"]
        assert share.value == pytest.approx((score[members] >= point.threshold).mean()) and share.n == members.sum()
        if row["kind"] == "abnormal":
            both = members | (keep & (ps.labels < 2))
            assert row["auroc"].value == pytest.approx(roc_auc_score(members[both], score[both]), abs=1e-12)
        else:
            assert row["auroc"] is None
    assert table.loc["bcc", "auroc"].value > table.loc["mel", "auroc"].value


def test_what_is_wrong_is_named(derm):
    ps, score = derm
    scores = abnormal_scores(ps, score)
    point = choose_threshold(scores.where("val"))
    with pytest.raises(MedcoreError, match="2 class names for 400"):
        detection_table(scores, np.array(["a", "b"]), point)
    with pytest.raises(MedcoreError, match="both normal and abnormal"):
        detection_table(scores, np.full(400, "nv"), point)
    with pytest.raises(MedcoreError, match=r"\['akiec'\] of set 'derm'"):
        abnormal_scores(ps, score, abnormal=["akiec"])
    with pytest.raises(MedcoreError, match=r"abnormal classes \[\]"):
        abnormal_scores(ps, score, abnormal=[])
    with pytest.raises(MedcoreError, match="400 images of 'derm' have no label"):
        abnormal_scores(ps.with_columns(label=np.full(400, -1)), score)
