"""Sentences on what a result does not show follow from the facts of the run."""

import pytest

from medcore.evaluation.estimate import Estimate
from medcore.reporting.results import Data, Results
from medcore.reporting.wording import limits_of


def rare(task: str, **counts: int) -> str:
    """What is said of a test part with these numbers of images per class, beside what is said of every set."""
    test = {"split": "test", "images": 50, "patients": 40, **counts}
    data = Data(task=task, classes=["negative", "positive"], splits=[test], columns=["sex", "age", "site"])
    sentences = limits_of(Results(notebook="x", data=data, warnings=["made up"]))
    assert sentences[0] == "made up"
    return " ".join(sentences[1:-1])


@pytest.mark.parametrize("task", ["classification", "diagnosis"])
def test_rare_classes_of_the_test_part_are_named(task: str) -> None:
    assert "positive (3)" in rare(task, negative=47, positive=3)
    assert rare(task, negative=30, positive=20) == ""


def test_withheld_window_labels_are_no_rare_classes() -> None:
    assert rare("diagnosis", negative=0, positive=0) == ""
    assert "negative (0)" in rare("classification", negative=0, positive=0)


def test_pixel_classes_are_not_counted_as_images() -> None:
    assert rare("segmentation", negative=0, positive=0) == ""


def test_only_intervals_on_a_scale_of_shares_are_called_wide() -> None:
    """A difference of 3 dB is no share, whatever its width."""
    wide = Estimate("auroc", 0.7, 0.5, 0.9, 9, "patient", "test")
    decibels = Estimate("psnr_difference", 3.0, 1.0, 5.0, 9, "patient", "test")
    for metrics, said in (([wide], True), ([decibels], False)):
        assert ("AUROC" in " ".join(limits_of(Results(notebook="x", metrics=metrics)))) == said
