"""What is asked of an image: several findings, a grade, or a measured value; one objective, head and evaluation each.

question = question_of(patches)
network = build_classifier("small_cnn", len(patches.classes), **question.head(train))
fit(network, question.objective(train), train, validation, config)
cases = question.cases(test, predict(network, test))        # name -> Scores or Values
question.estimates(cases, question.thresholds(validation_cases))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.calibration import calibration_estimates
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval, mean_interval, over_parts, paired_difference
from medcore.evaluation.scores import Scores, Values, finding_scores
from medcore.metrics.confusion import median_grade
from medcore.metrics.measured import MEASURED
from medcore.studies.targets.findings import (
    RANKED,
    estimable,
    finding_thresholds,
    findings_estimates,
    image_count,
    macro,
)
from medcore.training.objectives import Findings, Objective, Ordinal, Regression

Cases = Mapping[str, Scores | Values]


class TargetTask(ABC):
    """What the three have in common; see the subclasses.

    Attributes:
        task: Of the card.
        words: What an image has, for sentences.
        stated: Whether answers are probabilities.
    """

    task: ClassVar[str]
    words: ClassVar[str]
    stated: ClassVar[bool] = True

    def labelled(self, patches: PatchSet) -> PatchSet:
        """The images whose answer is known, at least in part."""
        return patches.select(np.asarray(patches.shown.any(axis=1)))

    @abstractmethod
    def objective(self, train: PatchSet, **options: Any) -> Objective:
        """What a network learns by."""

    @abstractmethod
    def head(self, train: PatchSet) -> dict[str, Any]:
        """What ``build_classifier`` needs beside the number of classes."""

    @abstractmethod
    def cases(self, patches: PatchSet, said: np.ndarray) -> Cases:
        """A model's answers ``(N, K)`` beside the truth, one set of cases for each thing that is asked."""

    def thresholds(self, cases: Cases) -> dict[str, float]:
        """What turns answers into decisions, chosen on validation cases; nothing where answers are decisions."""
        return {}

    @abstractmethod
    def leading(self, cases: Cases) -> list[Estimate]:
        """The metrics that methods are compared by, headline first."""

    @abstractmethod
    def differences(self, first: Cases, second: Cases) -> list[Estimate]:
        """The first method minus the second in the leading metrics, paired."""

    @abstractmethod
    def estimates(self, cases: Cases, thresholds: Mapping[str, float]) -> list[Estimate]:
        """Every metric with its interval, the leading ones first."""

    @abstractmethod
    def calibration(self, cases: Cases) -> list[Estimate]:
        """Whether what is stated is true."""


class SeveralFindings(TargetTask):
    """Each finding is present or absent; the mean over the findings leads."""

    task, words = "findings", "several findings"

    def labelled(self, patches: PatchSet) -> PatchSet:
        """See ``TargetTask``."""
        return patches.select(np.asarray((patches.findings >= 0).any(axis=1)))

    def objective(self, train: PatchSet, **options: Any) -> Objective:
        """See ``TargetTask``; ``uncertain`` says what an uncertain finding teaches."""
        return Findings(train.classes, **options)

    def head(self, train: PatchSet) -> dict[str, Any]:
        """See ``TargetTask``."""
        return {"several": True}

    def cases(self, patches: PatchSet, said: np.ndarray) -> Cases:
        """See ``TargetTask``."""
        return finding_scores(patches, said)

    def thresholds(self, cases: Cases) -> dict[str, float]:
        """See ``TargetTask``."""
        return finding_thresholds(_scores(cases))

    def leading(self, cases: Cases) -> list[Estimate]:
        """See ``TargetTask``."""
        return [macro(_scores(cases), metric) for metric in RANKED]

    def differences(self, first: Cases, second: Cases) -> list[Estimate]:
        """See ``TargetTask``."""
        names = [*estimable(_scores(first))]
        parts = [*(first[name] for name in names), *(second[name] for name in names)]
        half = len(names)

        def gap(*each: np.ndarray) -> np.ndarray:
            return np.asarray((sum(each[:half]) - sum(each[half:])) / half)

        n = image_count(estimable(_scores(first)))
        gaps = [over_parts(parts, metric, gap, name=f"macro_{metric}_difference", bounds=None) for metric in RANKED]
        return [replace(one, n=n) for one in gaps]

    def estimates(self, cases: Cases, thresholds: Mapping[str, float]) -> list[Estimate]:
        """See ``TargetTask``."""
        return findings_estimates(_scores(cases), thresholds)

    def calibration(self, cases: Cases) -> list[Estimate]:
        """See ``TargetTask``; of each finding."""
        each = {name: calibration_estimates(part) for name, part in estimable(_scores(cases)).items()}
        return [replace(one, name=f"{one.name} {name}") for name, found in each.items() for one in found]


class OneGrade(TargetTask):
    """One of several ordered grades; the answer is the median of the stated probabilities."""

    task, words = "ordinal", "a grade"
    METRICS: ClassVar[tuple[str, ...]] = ("quadratic_kappa", "within_one", "accuracy")

    def objective(self, train: PatchSet, **options: Any) -> Objective:
        """See ``TargetTask``."""
        return Ordinal(train.classes)

    def head(self, train: PatchSet) -> dict[str, Any]:
        """See ``TargetTask``."""
        return {"ordered": True}

    def cases(self, patches: PatchSet, said: np.ndarray) -> Cases:
        """See ``TargetTask``."""
        return {"grade": Scores.from_set(patches, said)}

    def leading(self, cases: Cases) -> list[Estimate]:
        """See ``TargetTask``."""
        one = _scores(cases)["grade"]
        return [interval(one, metric, decision=median_grade(one.score)) for metric in self.METRICS]

    def differences(self, first: Cases, second: Cases) -> list[Estimate]:
        """See ``TargetTask``."""
        one, other = _scores(first)["grade"], _scores(second)["grade"]
        called = (median_grade(one.score), median_grade(other.score))
        return [paired_difference(one, other, metric, decisions=called) for metric in self.METRICS]

    def estimates(self, cases: Cases, thresholds: Mapping[str, float]) -> list[Estimate]:
        """See ``TargetTask``; then the mean distance in grades."""
        one = _scores(cases)["grade"]
        off = np.abs(median_grade(one.score) - one.truth)
        most = len(one.classes) - 1.0
        mean = mean_interval(off, one.patient, name="mae in grades", unit=one.unit, split=one.side, bounds=(0.0, most))
        return [*self.leading(cases), mean]

    def calibration(self, cases: Cases) -> list[Estimate]:
        """See ``TargetTask``."""
        return calibration_estimates(_scores(cases)["grade"])


class OneValue(TargetTask):
    """A measured value; errors are in its unit."""

    task, words, stated = "regression", "a measured value", False
    METRICS: ClassVar[tuple[str, ...]] = ("mae", "rmse", "r2")

    def objective(self, train: PatchSet, **options: Any) -> Objective:
        """See ``TargetTask``."""
        centre, spread = self.head(train)["scale"]
        return Regression(train.classes[0], centre, spread)

    def head(self, train: PatchSet) -> dict[str, Any]:
        """See ``TargetTask``; mean and spread of the training values."""
        spread = float(np.nanstd(train.values))
        if not spread > 0:
            raise MedcoreError(f"set {train.card.name!r}: all training values are equal; there is nothing to learn")
        return {"scale": [float(np.nanmean(train.values)), spread]}

    def cases(self, patches: PatchSet, said: np.ndarray) -> Cases:
        """See ``TargetTask``."""
        return {"value": Values.from_set(patches, said)}

    def leading(self, cases: Cases) -> list[Estimate]:
        """See ``TargetTask``."""
        return [interval(cases["value"], metric) for metric in self.METRICS]

    def differences(self, first: Cases, second: Cases) -> list[Estimate]:
        """See ``TargetTask``."""
        return [paired_difference(first["value"], second["value"], metric) for metric in self.METRICS]

    def estimates(self, cases: Cases, thresholds: Mapping[str, float]) -> list[Estimate]:
        """See ``TargetTask``; then bias and limits of agreement."""
        return [interval(cases["value"], metric) for metric in MEASURED if metric != "calibration_slope"]

    def calibration(self, cases: Cases) -> list[Estimate]:
        """See ``TargetTask``; the slope of the truth over the answer."""
        return [interval(cases["value"], "calibration_slope")]


def _scores(cases: Cases) -> dict[str, Scores]:
    return {name: part for name, part in cases.items() if isinstance(part, Scores)}


QUESTIONS: dict[str, TargetTask] = {one.task: one for one in (SeveralFindings(), OneGrade(), OneValue())}


def question_of(patches: PatchSet) -> TargetTask:
    """What is asked of the images of a set.

    Raises:
        MedcoreError: One class an image, masks or patients: other studies ask for these.
    """
    task = patches.card.task
    if task not in QUESTIONS:
        raise MedcoreError(
            f"set {patches.card.name!r} is made for {task}; here images have several findings (--findings), a grade "
            "(--grade COLUMN) or a measured value (--value COLUMN). One class an image: notebook 06"
        )
    return QUESTIONS[task]
