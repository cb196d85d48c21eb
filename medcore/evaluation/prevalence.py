"""What a decision means at another prevalence: predictive values from sensitivity and specificity.

A set is rarely composed like the patients whom a test will meet. Sensitivity and specificity are carried over, the
prevalence is stated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcore.errors import MedcoreError
from medcore.evaluation.confusion import confusion_matrix
from medcore.evaluation.estimate import Estimate, not_estimable
from medcore.evaluation.nested import Diagnoses

PREVALENCES = (0.05, 0.20, 0.50)
DRAWS, SEED = 10_000, 0


def predictive_values(diagnoses: Diagnoses, prevalences: Sequence[float] = PREVALENCES) -> list[Estimate]:
    """PPV and NPV that the measured sensitivity and specificity give at other prevalences.

    Args:
        diagnoses: Decisions on patients.
        prevalences: Share of infected patients among those examined, above 0 and below 1.

    Returns:
        Estimates named ``ppv_at_5%``, ``npv_at_5%`` and so on; the interval covers what sensitivity and specificity
        leave open, the prevalence is taken as exact.

    Raises:
        MedcoreError: A prevalence is not between 0 and 1.

    **Reference** Brown, Cai & DasGupta 2001 (Jeffreys interval), doi:10.1214/ss/1009213286.
    """
    if not all(0 < prevalence < 1 for prevalence in prevalences):
        raise MedcoreError(f"predictive_values: prevalences {tuple(prevalences)} must lie between 0 and 1")
    counts = confusion_matrix(diagnoses.table["truth"].to_numpy(), diagnoses.table["decision"].to_numpy(), 2)
    found = []
    for prevalence in prevalences:
        odds = prevalence / (1 - prevalence)
        found += [
            _predictive(
                f"ppv_at_{prevalence:.0%}", counts[1, 1], counts[1, 0], counts[0, 1], counts[0, 0], odds, diagnoses
            ),
            _predictive(
                f"npv_at_{prevalence:.0%}", counts[0, 0], counts[0, 1], counts[1, 0], counts[1, 1], 1 / odds, diagnoses
            ),
        ]
    return found


def _predictive(
    name: str, hits: int, misses: int, alarms: int, quiet: int, odds: float, diagnoses: Diagnoses
) -> Estimate:
    """One predictive value: ``hits`` of its own kind, ``alarms`` of the other kind, ``odds`` of its own kind."""
    n = int(hits + misses + alarms + quiet)
    if hits + misses == 0 or alarms + quiet == 0:
        return not_estimable(name, "only one kind of patient", n=n, unit="patient", split=diagnoses.split)
    if hits + alarms == 0:
        return not_estimable(name, "no patient got this decision", n=n, unit="patient", split=diagnoses.split)
    own, other = hits / (hits + misses), alarms / (alarms + quiet)
    value = odds * own / (odds * own + other)
    generator = np.random.default_rng(SEED)
    owns = generator.beta(hits + 0.5, misses + 0.5, DRAWS)
    others = generator.beta(alarms + 0.5, quiet + 0.5, DRAWS)
    low, high = np.quantile(odds * owns / (odds * owns + others), [0.025, 0.975])
    method = f"Jeffreys draws of sensitivity and specificity ({DRAWS}), prevalence as stated"
    return Estimate(name, value, min(low, value), max(high, value), n, "patient", diagnoses.split, method=method)
