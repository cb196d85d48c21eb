"""What could anybody know of the patients from these windows, and does the number of windows speak by itself?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medcore.evaluation.estimate import printed_p
from medcore.evaluation.scores import Scores
from medcore.metrics.ranking import within_fold_auroc
from medcore.studies.diagnosis.aggregation import fit_evidence, level_counts, unseen_evidence, window_levels
from medcore.studies.diagnosis.cohort import PATIENT_CLASSES
from medcore.studies.diagnosis.nested import Diagnoses
from medcore.studies.diagnosis.results import patient_auroc


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


def reader_auroc(read: pd.DataFrame, taught: pd.DataFrame | None = None) -> float:
    """AUROC of a reader who weighs what the annotators saw as the method does.

    Args:
        read: ``read_windows`` of the patients who are judged.
        taught: Of the patients from whom the weights come; None takes the other folds of ``read``, and counts pairs
            within folds.
    """
    from sklearn.metrics import roc_auc_score

    truth = read["truth"].to_numpy()
    if taught is None:
        fold = read["fold"].to_numpy()
        return within_fold_auroc(truth, unseen_evidence(_seen(read), _as_scores(truth), fold), fold)
    evidence = fit_evidence(_seen(taught), _as_scores(taught["truth"].to_numpy()))
    return float(roc_auc_score(truth, evidence.score(_seen(read))))


def _seen(read: pd.DataFrame) -> np.ndarray:
    """Windows that a reader finds clean, and positive. **Shape** ``(P, 2)``."""
    return np.stack([read["windows"] - read["seen"], read["seen"]], axis=1).astype(np.float64)


def _as_scores(truth: np.ndarray) -> Scores:
    """Patients of folds, whose evidence is always learnt from other folds."""
    count = len(truth)
    return Scores(truth, np.zeros(count), np.arange(count), np.full(count, "val"), PATIENT_CLASSES, unit="patient")


def is_silent(read: pd.DataFrame) -> np.ndarray:
    """Infected patients without any window that is called or annotated positive. **Shape** ``(P,)`` bool."""
    return ((read["truth"] == 1) & (read["called"] + read["shown"] == 0)).to_numpy()


def best_auroc(read: pd.DataFrame, *, by_number: bool = True) -> float:
    """AUROC when every infected patient who is not silent ranks above every healthy one, without a single mistake.

    Args:
        by_number: Silent patients rank among the healthy by how few windows they have, since a clean window more is an
            argument more against an infection; else they rank like the healthy.
    """
    from sklearn.metrics import roc_auc_score

    score = -read["windows"].to_numpy(dtype=float) if by_number else np.zeros(len(read))
    found = (read["truth"] == 1).to_numpy() & ~is_silent(read)
    return float(roc_auc_score(read["truth"], np.where(found, np.inf, score).clip(max=1.0)))


def reader_table(diagnoses: Diagnoses, in_folds: Diagnoses) -> pd.DataFrame:
    """What could be known from the windows of these patients; ``reader`` rows are None where nothing is annotated.

    Args:
        diagnoses: The patients that the headline speaks of.
        in_folds: Patients from whom a reader's weights come, where the others are HoldOut.
    """
    read = read_windows(diagnoses)
    looked = (read["truth"] == 1) & (read["annotated"] > 0)
    taught = read_windows(in_folds) if diagnoses.split == "test" else None
    rows = {
        "infected patients": int(read["truth"].sum()),
        "infected patients with annotated windows": int(looked.sum()),
        "of these, without a window annotated positive": int((looked & (read["shown"] == 0)).sum()),
        "AUROC of a reader who agrees with every annotation": reader_auroc(read, taught) if looked.any() else None,
        "infected patients without a window called or annotated positive": int(is_silent(read).sum()),
        "highest AUROC, these ranking like the healthy": best_auroc(read, by_number=False),
        "highest AUROC, these ranking by how few windows they have": best_auroc(read),
    }
    shown = [f"{value:.2f}" if isinstance(value, float) else "not annotated" if value is None else str(value)
             for value in rows.values()]  # fmt: skip
    return pd.DataFrame({"value": shown}, index=pd.Index(rows, name=f"{len(read)} patients, {diagnoses.split}"))


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
    generator, known = np.random.default_rng(seed), _as_scores(truth)
    dealt = (level_counts(generator.permutation(level), owner, len(truth)) for _ in range(draws))
    return np.array([within_fold_auroc(truth, unseen_evidence(counts, known, fold), fold) for counts in dealt])


def by_window_count(diagnoses: Diagnoses, parts: int = 3) -> pd.DataFrame:
    """Does the result depend on how many windows a patient has? One row per third of the patients, about.

    Returns:
        ``windows`` (range), ``patients``, ``infected``, ``auroc`` (None where one kind is missing), ``sensitivity``,
        ``specificity``, ``mean_score_healthy``.
    """
    from sklearn.metrics import roc_auc_score

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
    from scipy.stats import spearmanr

    healthy = diagnoses.table[diagnoses.table["truth"] == 0]
    if len(healthy) < 3 or healthy["windows"].nunique() < 2 or healthy["score"].nunique() < 2:
        return None
    found = spearmanr(healthy["windows"], healthy["score"])
    return float(found.statistic), float(found.pvalue)


def count_table(
    found: dict[str, Diagnoses], in_folds: Diagnoses, bare: str, *, seed: int, draws: int = 20
) -> pd.DataFrame:
    """Does the number of windows speak by itself?

    Args:
        found: Every method's diagnoses, the method of the headline first.
        bare: Name of the number of windows in ``found``, where it varies.
        draws: How often windows are dealt at random.
    """
    dependence = count_dependence(next(iter(found.values())))
    dealt = placebo_aurocs(in_folds, draws=draws, seed=seed)
    error = dealt.std(ddof=1) / np.sqrt(draws)
    rows = {
        "AUROC by the bare number of windows": str(patient_auroc(found[bare])) if bare in found else "all have as many",
        "score and number of windows in healthy patients": "not known" if dependence is None
        else f"Spearman {dependence[0]:.2f}, {printed_p(dependence[1])}".replace("-0", "−0"),
        f"placebo: mean AUROC of {draws} random dealings": f"{dealt.mean():.3f} (standard error {error:.3f})",
    }  # fmt: skip
    return pd.DataFrame({"value": rows})
