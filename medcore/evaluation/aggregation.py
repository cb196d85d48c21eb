"""From the windows of a patient to one score: how many are positive, how sure the surest are, whether any is.

Each aggregation takes the probabilities and decisions of the windows. Which one serves is chosen by validation
(``diagnosis.choose_diagnosis``), never on HoldOut. How many windows a patient has must not decide by itself: the
highest of a hundred windows is higher than the highest of two even where nobody is ill. ``share`` and ``mean`` do not
grow with the number of windows; ``top3`` and ``noisy_or`` do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medcore.errors import MedcoreError

TOP = 3


def share(probability: np.ndarray, positive: np.ndarray) -> float:
    """Share of windows above the window threshold."""
    return float(positive.mean())


def mean(probability: np.ndarray, positive: np.ndarray) -> float:
    """Mean probability of the windows."""
    return float(probability.mean())


def top3(probability: np.ndarray, positive: np.ndarray) -> float:
    """Mean of the three highest probabilities (of all, where there are fewer)."""
    return float(np.partition(probability, -min(TOP, len(probability)))[-TOP:].mean())


def noisy_or(probability: np.ndarray, positive: np.ndarray) -> float:
    """Probability that at least one window is positive, as if windows were independent: ``1 - prod(1 - p)``.

    **Reference** Pearl 1988, *Probabilistic Reasoning in Intelligent Systems*, section 4.3.2.
    """
    with np.errstate(divide="ignore"):
        return float(-np.expm1(np.log1p(-probability).sum()))


Aggregation = Callable[[np.ndarray, np.ndarray], float]
AGGREGATIONS: dict[str, Aggregation] = {"share": share, "mean": mean, "top3": top3, "noisy_or": noisy_or}
"""By name, in the order in which they are preferred when validation sees no difference."""


def aggregate(name: str, probability: np.ndarray, positive: np.ndarray, owner: np.ndarray, patients: int) -> np.ndarray:
    """One score per patient.

    Args:
        name: One of ``AGGREGATIONS``.
        probability: Probability of each window. **Shape** ``(N,)``, 0 to 1.
        positive: Decision on each window. **Shape** ``(N,)`` bool.
        owner: Patient of each window. **Shape** ``(N,)`` int, 0 to ``patients`` - 1, each at least once.
        patients: Number of patients P.

    Returns:
        Scores, 0 to 1. **Shape** ``(P,)``.

    Raises:
        MedcoreError: The name is unknown.
    """
    if name not in AGGREGATIONS:
        raise MedcoreError(f"aggregation {name!r} is none of {', '.join(AGGREGATIONS)}")
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(patients + 1))
    parts = [order[start:stop] for start, stop in zip(edges[:-1], edges[1:], strict=True)]
    return np.array([AGGREGATIONS[name](probability[part], positive[part]) for part in parts])
