"""When the network of a study had better not answer: rejection and conformal sets, chosen on validation data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from medcore.evaluation.estimate import Estimate
from medcore.evaluation.scores import Scores
from medcore.evaluation.selective import (
    ConformalRule,
    RejectionRule,
    RiskCoverage,
    choose_rejection,
    coverage_table,
    fit_conformal,
    risk_coverage,
    selective_table,
)


@dataclass(frozen=True)
class Abstention:
    """What rejecting the least certain cases, and answering with sets, does to test cases.

    Attributes:
        methods: Name to calibrated scores of the test cases; the study's own network first.
        rejection: Name to rule, chosen on validation data.
        conformal: Limits of the sets, chosen on validation data.
    """

    methods: dict[str, Scores]
    rejection: dict[str, RejectionRule]
    conformal: ConformalRule

    @property
    def scores(self) -> Scores:
        """The network's."""
        return next(iter(self.methods.values()))

    @cached_property
    def curves(self) -> dict[str, RiskCoverage]:
        """Risk over coverage of each method."""
        return {name: risk_coverage(scores) for name, scores in self.methods.items()}

    @property
    def sets(self) -> np.ndarray:
        """Which classes stay plausible. **Shape** ``(N, K)`` bool."""
        return self.conformal.sets(self.scores.score)

    def answered(self) -> pd.DataFrame:
        """Accuracy and sensitivities among the answered, for each rule."""
        return selective_table(self.rejection, self.scores)

    def covered(self) -> pd.DataFrame:
        """Coverage and size of the sets, over all cases and for each class."""
        return coverage_table(self.sets, self.scores)

    def estimates(self) -> list[Estimate]:
        """Area under the risk-coverage curve and coverage of the sets, with intervals."""
        covered: Estimate = self.covered()["coverage"].iloc[0]
        return [next(iter(self.curves.values())).aurc, covered]


def judge_abstention(
    validation: Scores, methods: dict[str, Scores], *, shares: tuple[float, ...], promises: tuple[float, ...]
) -> Abstention:
    """Choose the rules on validation cases.

    Args:
        validation: Calibrated probabilities of the first of ``methods`` on validation cases.
        methods: Calibrated probabilities of each method on test cases.
        shares: Shares of cases that rejection rules shall answer.
        promises: Coverages of the sets, 0 to 1: the first below ``n / (n + 1)`` is kept, with n patients, as more can
            only be kept by sets that hold every class; or the last.

    Raises:
        TestDataRefused: ``validation`` holds test cases.
    """
    rules = {f"the surest {share:.0%}": choose_rejection(validation, coverage=share) for share in shares}
    patients = len(np.unique(validation.patient))
    coverage = next((one for one in promises if one < patients / (patients + 1)), promises[-1])
    return Abstention(methods, rules, fit_conformal(validation, coverage=coverage))
