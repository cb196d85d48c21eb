"""Does a diagnosis depend on how many windows a patient has?"""

from __future__ import annotations

import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from medcore.evaluation.nested import Diagnoses


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
