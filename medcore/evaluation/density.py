"""Density of infection as ordered levels (healthy, low, high), beside the yes-or-no question.

cuts = choose_cuts(score, level, levels=3)      # on training patients
predicted = levels_from(score, cuts)            # how well: ``quadratic_kappa`` of intervals.multinomial_interval
"""

from __future__ import annotations

import numpy as np

from medcore.evaluation.confusion import quadratic_kappa

MOST_CANDIDATES = 200  # cut positions that are tried; more patients than this are thinned by quantiles
MOST_ROUNDS = 20  # of the cyclic search; two to four are enough in practice


def choose_cuts(score: np.ndarray, level: np.ndarray, levels: int) -> tuple[float, ...]:
    """The cuts of a patient score into levels that agree best with the truth by quadratic-weighted kappa.

    Callers see to it that no test patient is among these (``patient_rule.choose_patient_rule`` does).

    Args:
        score: **Shape** ``(P,)``.
        level: True level, 0 to ``levels`` - 1. **Shape** ``(P,)`` int.
        levels: Number of levels K.

    Returns:
        K - 1 ascending cuts, found by moving one at a time until none moves.

    **Reference** Cohen 1968, doi:10.1037/h0026256.
    """
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
