"""From the windows of a patient to one score, and from the score to a level of density.

- Plain aggregations of the windows' probabilities and decisions. Which one serves is chosen by validation
  (``rule.choose_diagnosis``), never on HoldOut. How many windows a patient has must not decide by itself: the highest
  of a hundred windows is higher than the highest of two even where nobody is ill. ``share`` and ``mean`` do not grow
  with the number of windows; ``top3`` and ``noisy_or`` do.
- Evidence: how much more likely are a patient's windows in an infected patient than in a healthy one?
- Density of infection as ordered levels (healthy, low, high), beside the yes-or-no question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, gammaln, softmax

from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.metrics.confusion import quadratic_kappa

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
        probability: Probability of each window. **Shape** ``(N,)``, 0 to 1.
        positive: Decision on each window. **Shape** ``(N,)`` bool.
        owner: Patient of each window. **Shape** ``(N,)`` int, 0 to ``patients`` - 1, each at least once.

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


def fit_evidence(counts: np.ndarray, scores: Scores, cut: float = float("inf")) -> Evidence:
    """Learn both distributions.

    Args:
        counts: Windows of each level of each training patient. **Shape** ``(P, L)``.
        scores: The same patients: truth (1 infected, 0 healthy, both present) and side; their score is not looked at.
        cut: See ``Evidence``; kept with the distributions that belong to it.

    Raises:
        TestDataRefused: A patient is marked ``test``.
        MedcoreError: One kind of patient only.
    """
    refuse_test_data(scores, "the evidence of windows")
    if len(np.unique(scores.truth)) < 2:
        raise MedcoreError(f"fit_evidence: all {len(scores)} patients are of one kind; both are needed")
    healthy, infected = fit_dirichlets([counts[scores.truth == kind] for kind in (0, 1)])
    return Evidence(healthy, infected, cut)


def unseen_evidence(counts: np.ndarray, scores: Scores, fold: np.ndarray) -> np.ndarray:
    """Score of every patient by the distributions of the other folds. **Shape** ``(P, L)`` and ``(P,)`` to ``(P,)``."""
    found = np.zeros(len(scores))
    for number in np.unique(fold):
        own = fold == number
        found[own] = fit_evidence(counts[~own], scores.select(~own)).score(counts[own])
    return found


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
    """Log probability of each patient's counts, given their sum, without what does not depend on the parameters.

    **Shape** ``(P, L)`` and ``(L,)`` to ``(P,)``.
    """
    alpha = np.asarray(parameters, dtype=np.float64)
    total = gammaln(alpha.sum()) - gammaln(alpha.sum() + counts.sum(axis=1))
    return total + (gammaln(alpha + counts) - gammaln(alpha)).sum(axis=1)


MOST_CANDIDATES = 200  # cut positions that are tried; more patients than this are thinned by quantiles
MOST_ROUNDS = 20  # of the cyclic search; two to four are enough in practice


def choose_cuts(scores: Scores, level: np.ndarray, levels: int) -> tuple[float, ...]:
    """The cuts of a patient score into levels that agree best with the truth by quadratic-weighted kappa.

    Args:
        level: True level, 0 to ``levels`` - 1. **Shape** ``(P,)`` int.

    Returns:
        K - 1 ascending cuts, found by moving one at a time until none moves.

    Raises:
        TestDataRefused: A patient is marked ``test``.

    **Reference** Cohen 1968, doi:10.1037/h0026256.
    """
    refuse_test_data(scores, "density levels")
    score = scores.score
    candidates = _candidates(score)
    cuts = np.quantile(score, [np.mean(level < k) for k in range(1, levels)])
    best = _agreement(score, level, cuts[None])[0]
    for _ in range(MOST_ROUNDS):
        before = best
        for k in range(levels - 1):
            trials = np.repeat(cuts[None], len(candidates), axis=0)
            trials[:, k] = candidates
            trials.sort(axis=1)
            agreement = _agreement(score, level, trials)
            if agreement.max() > best + 1e-12:
                best, cuts = agreement.max(), trials[int(agreement.argmax())]
        if best <= before:
            break
    return tuple(cuts.tolist())


def levels_from(score: np.ndarray, cuts: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Level of each score: how many cuts it reaches. **Shape** ``(P,)`` int64."""
    return np.searchsorted(np.asarray(cuts), score, side="right").astype(np.int64)


def _agreement(score: np.ndarray, level: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Kappa of several sets of cuts; -1 where it has no value. **Shape** trials ``(T, K-1)`` to ``(T,)``."""
    count = trials.shape[1] + 1
    predicted = (score >= trials[:, :, None]).sum(axis=1)  # (T, P)
    cells = level * count + predicted + np.arange(len(trials))[:, None] * count**2
    tables = np.bincount(cells.ravel(), minlength=len(trials) * count**2).reshape(-1, count, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(quadratic_kappa(tables.astype(np.float64)), nan=-1.0)


def _candidates(score: np.ndarray) -> np.ndarray:
    """Middles between neighbouring scores."""
    values = np.unique(score)
    middles = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    if len(middles) > MOST_CANDIDATES:
        middles = np.quantile(middles, np.linspace(0, 1, MOST_CANDIDATES))
    return middles
