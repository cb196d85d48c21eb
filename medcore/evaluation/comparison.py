"""A method beside what it is compared with, on the same cases: values, and paired differences for every metric.

    compared = compare_methods(scores, {"majority": …, "colour histogram": …}, reference="colour histogram")
    compared.metrics[0]                          # the method's balanced accuracy with its interval
    compared.differences["colour histogram"]     # method minus colour histogram, one per metric
    compared.verdict()                           # gains, losses and what is open, over all metrics

A reference is chosen on validation cases and given by name; without one it is the strongest on the very cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import LOWER_IS_BETTER, Estimate, gain_in_words
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.scores import Scores

METRICS = ("balanced_accuracy", "accuracy", "auroc")


@dataclass(frozen=True)
class Comparison:
    """A method, its baselines and its rivals on the same cases.

    Attributes:
        metrics: The method's estimates, headline first.
        baselines: Trivial methods by name: the same metrics, in the same order.
        rivals: Methods that are not trivial, alike.
        differences: Method minus other, paired, for each metric or the first few; for every baseline and rival.
        reference: The baseline that the headline is set against; empty where there is none.
    """

    metrics: list[Estimate]
    baselines: dict[str, list[Estimate]] = field(default_factory=dict)
    rivals: dict[str, list[Estimate]] = field(default_factory=dict)
    differences: dict[str, list[Estimate]] = field(default_factory=dict)
    reference: str = ""

    def __post_init__(self) -> None:
        """Refuse a reference that nothing is known of, and one name for two methods."""
        others = [*self.baselines, *self.rivals]
        if self.reference and self.reference not in others:
            raise MedcoreError(f"comparison: reference={self.reference!r} is none of {', '.join(others) or 'nothing'}")
        if len(set(others)) < len(others):
            raise MedcoreError(f"comparison: {sorted(set(self.baselines) & set(self.rivals))} are baselines and rivals")

    @property
    def against_reference(self) -> list[Estimate]:
        """The paired differences to the reference, one per metric; empty without one."""
        return self.differences.get(self.reference, [])

    def labelled(self, split: str) -> Comparison:
        """The same with another word for how the cases were held out, such as ``folds``."""

        def of(methods: Mapping[str, Sequence[Estimate]]) -> dict[str, list[Estimate]]:
            return {name: [replace(one, split=split) for one in found] for name, found in methods.items()}

        own = of({"": self.metrics})[""]
        return Comparison(own, of(self.baselines), of(self.rivals), of(self.differences), self.reference)

    def verdict(self, other: str | None = None) -> dict[str, str]:
        """By metric ``gain``, ``loss`` or ``open``: what the intervals of the differences to one method show."""
        return {
            one.name.removesuffix("_difference"): judged(one)
            for one in self.differences.get(self.reference if other is None else other, [])
        }


def judged(difference: Estimate) -> str:
    """``gain`` or ``loss`` where the interval of a difference leaves zero out, else ``open``."""
    return {"a gain": "gain", "a loss": "loss"}.get(gain_in_words(difference), "open")


def strongest(methods: Mapping[str, Sequence[Estimate]]) -> str:
    """The method that is best by its first metric (the first of equals); empty where there are none."""

    def rank(name: str) -> float:
        first = methods[name][0]
        below = first.name.startswith(LOWER_IS_BETTER)
        return -math.inf if first.value is None else -first.value if below else first.value

    return max(methods, key=rank, default="")


def compare_methods(
    scores: Scores,
    baselines: Mapping[str, Scores],
    *,
    metrics: Sequence[str] = METRICS,
    rivals: Mapping[str, Scores] | None = None,
    reference: str | None = None,
) -> Comparison:
    """Estimate every metric of every method and the paired differences.

    Args:
        scores: The method's, on the cases that it is reported on.
        baselines: Trivial methods' scores of the same cases in the same order.
        metrics: As for ``interval``, headline first; all are taken to be better when higher.
        rivals: Other methods' scores of the same cases.
        reference: The baseline (or rival) of the headline, chosen on validation cases. By default the strongest
            baseline on these very cases, which favours the baseline.

    Raises:
        MedcoreError: Two methods do not speak of the same cases, or the reference is none of them.
    """
    rivals = rivals or {}
    trivial, other = (
        {name: [interval(found, metric) for metric in metrics] for name, found in methods.items()}
        for methods in (baselines, rivals)
    )
    differences = {
        name: [paired_difference(scores, found, metric) for metric in metrics]
        for name, found in {**baselines, **rivals}.items()
    }
    own = [interval(scores, metric) for metric in metrics]
    return Comparison(own, trivial, other, differences, strongest(trivial) if reference is None else reference)
