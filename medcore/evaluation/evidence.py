"""How much more likely are a patient's windows in an infected patient than in a healthy one?

One suspicious window of two says more than one of fifty, and fifty clean windows say more than one. So the windows of
a patient are counted by level (clean, positive, strongly positive), and both kinds of training patients get a
distribution of such counts: patients differ in their shares (Dirichlet), windows are drawn by them (multinomial). The
score is the probability of infection at even odds, ``LR / (1 + LR)``; healthy patients may well have suspicious
windows, and how often is learnt, too.

How *many* windows a patient has is given, not judged. Both kinds share one strength, that is, how alike the patients of
a kind are: learnt apart, it would be known better where patients have more windows, and so betray their number. Where
infected and healthy patients have windows of the same kind, nobody's score says anything (``test_evidence``).

    evidence = fit_evidence(counts, truth, cut)            # training patients
    evidence.score(counts)                                 # (P,), 0 to 1; Youden's threshold is 1/2 where it fits

**Reference** Dirichlet-multinomial: Mosimann 1962, doi:10.1093/biomet/49.1-2.65.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, gammaln, softmax

from medcore.errors import MedcoreError

LEVELS = 3  # of a window: clean, positive, strongly positive
TYPICAL, FACTOR = 4.0, 4.5  # windows by which patients of a kind are alike, before any was seen; one standard deviation


@dataclass(frozen=True)
class Evidence:
    """Distributions of window levels in two kinds of patients.

    Attributes:
        healthy: Dirichlet parameters of the levels in healthy patients.
        infected: The same in infected ones.
        cut: Window score at and above which a positive window is strongly positive.
    """

    healthy: tuple[float, ...]
    infected: tuple[float, ...]
    cut: float = float("inf")

    def score(self, counts: np.ndarray) -> np.ndarray:
        """Probability of infection at even odds. **Shape** counts of levels ``(P, L)`` to ``(P,)``."""
        return expit(log_likelihood(counts, self.infected) - log_likelihood(counts, self.healthy))


def fit_evidence(counts: np.ndarray, truth: np.ndarray, cut: float = float("inf")) -> Evidence:
    """Learn both distributions.

    Args:
        counts: Windows of each level of each training patient. **Shape** ``(P, L)``.
        truth: 1 infected, 0 healthy, both present. **Shape** ``(P,)``.
        cut: See ``Evidence``; kept with the distributions that belong to it.

    Raises:
        MedcoreError: One kind of patient only.
    """
    if len(np.unique(truth)) < 2:
        raise MedcoreError(f"fit_evidence: all {len(truth)} patients are of one kind; both are needed")
    healthy, infected = fit_dirichlets([counts[truth == kind] for kind in (0, 1)])
    return Evidence(healthy, infected, cut)


def unseen_evidence(counts: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Score of every patient by the distributions of the other folds. **Shape** ``(P, L)`` and ``(P,)`` to ``(P,)``."""
    score = np.zeros(len(truth))
    for number in np.unique(fold):
        own = fold == number
        score[own] = fit_evidence(counts[~own], truth[~own]).score(counts[own])
    return score


def window_levels(score: np.ndarray, threshold: float, cut: float) -> np.ndarray:
    """0 clean, 1 positive, 2 strongly positive. **Shape** ``(N,)`` to ``(N,)`` int64."""
    return np.where(score >= threshold, 1 + (score >= cut), 0)


def level_counts(level: np.ndarray, owner: np.ndarray, patients: int) -> np.ndarray:
    """Windows of each level of each patient. **Shape** ``(N,)`` twice to ``(patients, LEVELS)`` float64."""
    cells = np.bincount(owner * LEVELS + level, minlength=patients * LEVELS)
    return cells.reshape(patients, LEVELS).astype(np.float64)


def strong_cut(score: np.ndarray, label: np.ndarray, threshold: float) -> float:
    """The median score of windows that are annotated positive and reach the threshold. **Shape** each ``(N,)``."""
    found = score[(label == 1) & (score >= threshold)]
    return float(np.median(found)) if len(found) else float("inf")


def fit_dirichlets(kinds: Sequence[np.ndarray]) -> tuple[tuple[float, ...], ...]:
    """Parameters of the most probable Dirichlet-multinomials with one common strength (the sum of the parameters).

    Few patients cannot tell how alike they are, and a level that nobody shows has no likelihood to speak of; so the
    strength has a broad log-normal prior, and every level half a window.

    **Shape** each ``(P, L)`` to L positive numbers each.
    """
    levels = kinds[0].shape[1]

    def parameters(x: np.ndarray) -> np.ndarray:
        shares = softmax(np.c_[np.zeros(len(kinds)), x[1:].reshape(len(kinds), levels - 1)], axis=1)
        return np.exp(np.clip(x[0], -8, 8)) * np.maximum(shares, 1e-9)  # (kinds, L)

    def loss(x: np.ndarray) -> float:
        found = parameters(x)
        likely = sum(log_likelihood(counts, alpha).sum() for counts, alpha in zip(kinds, found, strict=True))
        prior = 0.5 * np.log(found / found.sum(axis=1, keepdims=True)).sum()
        return -float(likely + prior - 0.5 * ((x[0] - np.log(TYPICAL)) / np.log(FACTOR)) ** 2)

    start = np.zeros(1 + len(kinds) * (levels - 1))
    start[0] = np.log(TYPICAL)
    return tuple(tuple(alpha.tolist()) for alpha in parameters(minimize(loss, start, method="BFGS").x))


def log_likelihood(counts: np.ndarray, parameters: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Log probability of each patient's counts, given their sum, less what does not depend on the parameters.

    **Shape** ``(P, L)`` and ``(L,)`` to ``(P,)``.
    """
    alpha = np.asarray(parameters, dtype=np.float64)
    total = gammaln(alpha.sum()) - gammaln(alpha.sum() + counts.sum(axis=1))
    return total + (gammaln(alpha + counts) - gammaln(alpha)).sum(axis=1)
