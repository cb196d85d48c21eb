"""How good are the diagnoses? Every figure per patient, with its interval; where there are folds, within folds.

The scores of different folds come from different rules, so only patients of one fold can be ranked against each other:
pooling them mixes scales, and flatters or harms. The AUROC of folds therefore counts pairs within folds. Which patients
share a fold is chance; where the same patients were cut into folds several times, it is the mean over the cuts.

What could anybody know of the patients from these windows, and does the number of windows speak by itself?

Does a diagnosis depend on how many windows a patient has?
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval, paired_difference, statistic_interval
from medcore.evaluation.proportions import McNemar, mcnemar, multinomial_interval
from medcore.metrics.confusion import confusion_matrix
from medcore.studies.diagnosis.aggregation import level_counts, unseen_evidence, window_levels
from medcore.studies.diagnosis.nested import Diagnoses

DECISION_METRICS = ("accuracy", "sensitivity", "specificity", "ppv", "npv")


def patient_estimates(diagnoses: Diagnoses, *, levels: int = 3) -> list[Estimate]:
    """AUROC, average precision, the operating point and the density, each with its interval.

    Proportions have Wilson's interval, AUROC on HoldOut DeLong's, within folds a jackknife over patients.
    """
    scores, table = diagnoses.scores(), diagnoses.table
    decision = table["decision"].to_numpy()
    ranked = diagnoses.scores("score") if diagnoses.split == "test" else scores  # folds share no scale of scores
    estimates = [patient_auroc(diagnoses), interval(ranked, "average_precision")]
    estimates += [interval(scores, metric, decision=decision) for metric in DECISION_METRICS]
    return [_held_out(one, diagnoses) for one in [*estimates, density_kappa(diagnoses, levels)]]


def patient_auroc(diagnoses: Diagnoses) -> Estimate:
    """AUROC of patients: DeLong on HoldOut; pairs of patients of one fold, with a jackknife, where there are folds."""
    if diagnoses.split == "test":
        return interval(diagnoses.scores("score"), "auroc")
    return _within(_mean_auroc(diagnoses), diagnoses, "auroc", (0.0, 1.0))


def compare_aurocs(first: Diagnoses, second: Diagnoses) -> Estimate:
    """How much the first AUROC is above the second, on the same patients: DeLong on HoldOut, else as ``patient_auroc``.

    Raises:
        MedcoreError: The two do not speak of the same patients.
    """
    _same_patients(first, second)
    if first.split == "test":
        return paired_difference(first.scores("score"), second.scores("score"), "auroc")
    one, other = _mean_auroc(first), _mean_auroc(second)
    return _within(lambda weights: one(weights) - other(weights), first, "auroc_difference", (-1.0, 1.0))


def compare_decisions(first: Diagnoses, second: Diagnoses) -> McNemar:
    """Exact McNemar test: which is right where the other is wrong, on the same patients.

    Raises:
        MedcoreError: The two do not speak of the same patients.
    """
    _same_patients(first, second)
    right = [(one.table["decision"] == one.table["truth"]).to_numpy() for one in (first, second)]
    return mcnemar(*right)


def within_fold_auroc(
    truth: np.ndarray, score: np.ndarray, fold: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Share of (infected, healthy) pairs of one fold in which the infected patient scores higher; ties count half.

    Args:
        truth: 0 or 1. **Shape** ``(P,)``.
        score: Higher = more suspicious; comparable within a fold only. **Shape** ``(P,)``.
        fold: **Shape** ``(P,)``.
        weight: Of each patient, 1 by default. **Shape** ``(P,)``.

    Returns:
        0 to 1; NaN where no fold has both kinds.

    **Reference** Forman & Scholz 2010, doi:10.1145/1882471.1882479.
    """
    weight = np.ones(len(truth)) if weight is None else np.asarray(weight, dtype=float)
    won = pairs = 0.0
    for number in np.unique(fold):
        ill, well = (np.flatnonzero((fold == number) & (truth == kind) & (weight > 0)) for kind in (1, 0))
        counts = weight[ill][:, None] * weight[well]
        gap = score[ill][:, None] - score[well]
        won += float((counts * ((gap > 0) + 0.5 * (gap == 0))).sum())
        pairs += float(counts.sum())
    return won / pairs if pairs else float("nan")


def density_kappa(diagnoses: Diagnoses, levels: int = 3) -> Estimate:
    """Quadratic-weighted kappa of the density levels, with an interval over patients."""
    table = diagnoses.table
    confusion = confusion_matrix(table["true_level"].to_numpy(), table["level"].to_numpy(), levels)
    return multinomial_interval(confusion, "quadratic_kappa", unit="patient", split=diagnoses.split)


def _mean_auroc(diagnoses: Diagnoses) -> Callable[[np.ndarray], float]:
    """From weights of the patients to the AUROC within folds, averaged over the cuts."""
    cuts = [[one.table[name].to_numpy() for name in ("truth", "score", "fold")] for one in diagnoses.cuts]

    def mean(weights: np.ndarray) -> float:
        return float(np.mean([within_fold_auroc(truth, score, fold, weights) for truth, score, fold in cuts]))

    return mean


def _within(
    statistic: Callable[[np.ndarray], float], diagnoses: Diagnoses, name: str, bounds: tuple[float, float]
) -> Estimate:
    patient = diagnoses.table["patient"].to_numpy()
    return statistic_interval(statistic, patient, name=name, unit="patient", split="folds", bounds=bounds)


def _held_out(one: Estimate, diagnoses: Diagnoses) -> Estimate:
    """The estimate with how its patients were held out (``Scores`` knows val and test only)."""
    return Estimate(**{**one.as_dict(), "split": diagnoses.split})


def _same_patients(first: Diagnoses, second: Diagnoses) -> None:
    if not first.table["patient"].equals(second.table["patient"]) or first.split != second.split:
        raise MedcoreError("compare: the two must be about the same patients in the same order, held out alike")


def read_windows(diagnoses: Diagnoses) -> pd.DataFrame:
    """What a reader who agrees with every annotation sees; windows that nobody annotated count as the rule calls them.

    Returns:
        A row per patient: ``truth``, ``fold``, ``windows`` (counted ones), ``seen`` (positive to the reader),
        ``called`` (positive to the rule), ``shown`` (annotated positive) and ``annotated`` (either way).
    """
    parts = []
    for fold, (rule, part) in enumerate(zip(diagnoses.rules, diagnoses.parts, strict=True)):
        called, known = rule.window.judge(part)[1], part.label >= 0
        marks = {"windows": True, "seen": np.where(known, part.label == 1, called), "called": called,
                 "shown": part.label == 1}  # fmt: skip
        counts = {name: _of_patients(part.counted & mark, part.owner, len(part)) for name, mark in marks.items()}
        counts["annotated"] = _of_patients(known, part.owner, len(part))
        parts.append(pd.DataFrame({"truth": part.truth, "fold": fold} | counts))
    return pd.concat(parts, ignore_index=True)


def _of_patients(mark: np.ndarray, owner: np.ndarray, patients: int) -> np.ndarray:
    return np.bincount(owner[mark], minlength=patients)


def reader_auroc(read: pd.DataFrame) -> float:
    """AUROC (pairs within folds) of a reader who weighs what the annotators saw as the method does.

    Args:
        read: ``read_windows`` of diagnoses in folds: the weights come from the other folds.
    """
    counts = np.stack([read["windows"] - read["seen"], read["seen"]], axis=1).astype(np.float64)
    truth, fold = read["truth"].to_numpy(), read["fold"].to_numpy()
    return within_fold_auroc(truth, unseen_evidence(counts, truth, fold), fold)


def is_silent(read: pd.DataFrame) -> np.ndarray:
    """Infected patients without any window that is called or annotated positive. **Shape** ``(P,)`` bool."""
    return ((read["truth"] == 1) & (read["called"] + read["shown"] == 0)).to_numpy()


def best_auroc(read: pd.DataFrame, *, by_number: bool = True) -> float:
    """AUROC when every infected patient who is not silent ranks above every healthy one, without a single mistake.

    Args:
        read: ``read_windows``.
        by_number: Silent patients rank among the healthy by how few windows they have, since a clean window more is an
            argument more against an infection; else they rank like the healthy.
    """
    score = -read["windows"].to_numpy(dtype=float) if by_number else np.zeros(len(read))
    found = (read["truth"] == 1).to_numpy() & ~is_silent(read)
    return float(roc_auc_score(read["truth"], np.where(found, np.inf, score).clip(max=1.0)))


def placebo_aurocs(diagnoses: Diagnoses, *, draws: int = 20, seed: int = 0) -> np.ndarray:
    """AUROC of the evidence after the windows were dealt at random among the patients of all folds.

    Every patient keeps its number of windows and its diagnosis. **Shape** ``(draws,)``.
    """
    levels, owners, first = [], [], 0
    for rule, part in zip(diagnoses.rules, diagnoses.parts, strict=True):
        level = window_levels(part.score(rule.window.score), rule.window.threshold, rule.evidence.cut)
        levels.append(level[part.counted])
        owners.append(part.owner[part.counted] + first)
        first += len(part)
    level, owner = np.concatenate(levels), np.concatenate(owners)
    truth = np.concatenate([part.truth for part in diagnoses.parts])
    fold = np.repeat(np.arange(len(diagnoses.parts)), [len(part) for part in diagnoses.parts])
    generator = np.random.default_rng(seed)
    dealt = (level_counts(generator.permutation(level), owner, len(truth)) for _ in range(draws))
    return np.array([within_fold_auroc(truth, unseen_evidence(counts, truth, fold), fold) for counts in dealt])


def by_window_count(diagnoses: Diagnoses, parts: int = 3) -> pd.DataFrame:
    """Does the result depend on how many windows a patient has? One row per third of the patients, about.

    Returns:
        ``windows`` (range), ``patients``, ``infected``, ``auroc`` (None where one kind is missing), ``sensitivity``,
        ``specificity``, ``mean_score_healthy``.
    """
    table = diagnoses.table
    place = (table["windows"].rank() - 0.5) / len(table)  # patients with equally many windows stay together
    rows = []
    for _, some in table.groupby((parts * place).astype(int)):
        ill = some["truth"] == 1
        both = ill.any() and not ill.all()
        rows.append(
            {
                "windows": "–".join(map(str, sorted({some["windows"].min(), some["windows"].max()}))),
                "patients": len(some),
                "infected": int(ill.sum()),
                "auroc": float(roc_auc_score(some["truth"], some["probability"])) if both else None,
                "sensitivity": float(some.loc[ill, "decision"].mean()) if ill.any() else None,
                "specificity": float(1 - some.loc[~ill, "decision"].mean()) if not ill.all() else None,
                "mean_score_healthy": float(some.loc[~ill, "score"].mean()) if not ill.all() else None,
            }
        )
    return pd.DataFrame(rows)


def count_dependence(diagnoses: Diagnoses) -> tuple[float, float] | None:
    """Spearman correlation of number of windows and score among healthy patients, with its p; None when constant."""
    healthy = diagnoses.table[diagnoses.table["truth"] == 0]
    if len(healthy) < 3 or healthy["windows"].nunique() < 2 or healthy["score"].nunique() < 2:
        return None
    found = spearmanr(healthy["windows"], healthy["score"])
    return float(found.statistic), float(found.pvalue)
