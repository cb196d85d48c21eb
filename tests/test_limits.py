"""Sentences on what a result does not show follow from the facts of the run."""

from typing import Any

import pytest

from medcore.reporting.front import limits_of


def results(task: str, **counts: int) -> dict[str, Any]:
    test = {"split": "test", "images": 50, "patients": 40, **counts}
    data = {"task": task, "group": "patient", "classes": ["negative", "positive"], "splits": [test], "columns": []}
    return {"data": data, "metrics": [], "warnings": ["made up"]}


def said(found: dict[str, Any]) -> str:
    return "\n".join(limits_of(found))


@pytest.mark.parametrize("task", ["classification", "diagnosis"])
def test_rare_classes_of_the_test_part_are_named(task):
    assert "Too few test images to say much about: positive (3)." in said(results(task, negative=47, positive=3))
    assert "Too few" not in said(results(task, negative=30, positive=20))


def test_withheld_window_labels_are_no_rare_classes():
    hidden = said(results("diagnosis", negative=0, positive=0))
    assert "Too few" not in hidden and hidden.startswith("made up")
    assert "Too few" in said(results("classification", negative=0, positive=0))


def test_pixel_classes_are_not_counted_as_images():
    assert "Too few" not in said(results("segmentation", negative=0, positive=0))
