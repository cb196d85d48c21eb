"""What could anybody know of the patients from these windows, and does the number of windows speak by itself?

- A reader who agrees with every annotation sees, of an infected patient without a positive window, clean windows only.
  How many of them there are is all that tells such a patient from a healthy one.
- A placebo: windows dealt at random among the patients, who keep their number of windows and their diagnosis. A method
  that reads windows then finds nothing; one that reads their number still does.

    read = read_windows(diagnoses)
    reader_auroc(read)                       # windows as annotated, weighed like the method weighs them
    best_auroc(read)                         # silent patients ranked by their number of windows, all others perfectly
    placebo_aurocs(diagnoses)                # about 1/2, each
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from medcore.evaluation.evidence import level_counts, unseen_evidence, window_levels
from medcore.evaluation.nested import Diagnoses
from medcore.evaluation.patient_metrics import within_fold_auroc


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
