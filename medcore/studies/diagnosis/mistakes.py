"""Which windows decided, and an honest guess at why a patient was diagnosed wrongly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medcore.studies.diagnosis.nested import Diagnoses

FEW_WINDOWS = 3


def window_table(diagnoses: Diagnoses) -> pd.DataFrame:
    """Every window of the diagnosed patients, most suspicious first within its patient.

    Returns:
        ``patient``, ``row`` (of the set), ``score``, ``probability``, ``positive`` and ``label`` (-1 = not annotated).
    """
    parts = []
    for rule, part in zip(diagnoses.rules, diagnoses.parts, strict=True):
        probability, positive = rule.window.judge(part)
        parts.append(
            pd.DataFrame(
                {
                    "patient": part.names[part.owner],
                    "row": part.rows,
                    "score": part.score(rule.window.score),
                    "probability": probability,
                    "positive": positive,
                    "label": part.label,
                }
            )[part.counted]
        )
    return pd.concat(parts).sort_values(["patient", "probability"], ascending=[True, False], ignore_index=True)


def wrong_patients(diagnoses: Diagnoses, windows: pd.DataFrame) -> pd.DataFrame:
    """The patients diagnosed wrongly, surest first, each with a guess at why.

    Args:
        diagnoses: The decisions.
        windows: ``window_table`` of them.
    """
    table = diagnoses.table
    wrong = table[table["decision"] != table["truth"]].copy()
    wrong["guess"] = [
        guess(truth, windows[windows["patient"] == patient])
        for truth, patient in zip(wrong["truth"].tolist(), wrong["patient"].tolist(), strict=True)
    ]
    order = (wrong["probability"] - 0.5).abs().sort_values(ascending=False).index
    return wrong.loc[order, ["patient", "diagnosis", "decision", "probability", "windows", "positive_windows", "guess"]]


def guess(truth: int, windows: pd.DataFrame) -> str:
    """Why a patient may have been diagnosed wrongly, from the annotations of its windows; a guess, not a finding.

    Args:
        truth: 1 for a missed infection, 0 for a false alarm.
        windows: The patient's rows of ``window_table``.
    """
    seen, known = windows["label"] == 1, windows["label"] >= 0
    count = f"{len(windows)} window{'s' * (len(windows) != 1)}"
    if not known.any():
        hits = f"{int(windows['positive'].sum())} of {count} looked suspicious (nobody annotated them)"
        return f"{hits}: " + ("too few for the threshold" if truth else "debris, pigment, or a missed infection")
    if not truth:
        alarms = windows[windows["positive"]]
        refused = int((alarms["label"] == 0).sum())
        if not len(alarms):
            return "false alarm without a positive window: the threshold lies very low"
        if refused == len(alarms):
            which = f"any of the {refused} suspicious windows" if refused > 1 else "the one suspicious window"
            return f"the annotators saw no bacteria in {which}: other brown"
        return (
            f"{len(alarms)} suspicious windows ({refused} annotated negative): debris, pigment, or a missed infection"
        )
    if seen.any() and not windows.loc[seen, "positive"].any():
        shown = f"{int(seen.sum())} annotated window{'s' * int(seen.sum() > 1)}"
        return f"bacteria in {shown} were not recognised: few, pale or out of focus"
    if seen.any():
        return f"recognised in {int(windows.loc[seen, 'positive'].sum())} of {count}: too few for the patient threshold"
    few = " and there are few of them" if len(windows) <= FEW_WINDOWS else ""
    if known.all():
        where = f"any of the {count}{few}" if len(windows) > 1 else "the only window there is"
        return f"the annotators saw no bacteria in {where}: it cannot be seen here"
    return f"no window is annotated positive ({int((~known).sum())} of {count} not annotated){few}"


def suspicious_rows(windows: pd.DataFrame, patients: Sequence[str], k: int = 3) -> np.ndarray:
    """Rows of the k most suspicious windows of some patients; -1 where a patient has fewer. **Shape** ``(P, k)``."""
    found = np.full((len(patients), k), -1, dtype=np.int64)
    for number, patient in enumerate(patients):
        rows = windows.loc[windows["patient"] == patient, "row"].to_numpy()[:k]
        found[number, : len(rows)] = rows
    return found


def patients_to_show(diagnoses: Diagnoses, most: int = 24) -> pd.DataFrame:
    """The wrong patients first, then the right ones from the surest infected to the surest healthy, evenly thinned."""
    table = diagnoses.table.sort_values("probability", ascending=False)
    wrong = table["decision"] != table["truth"]
    right = table[~wrong]
    room = max(0, most - int(wrong.sum()))
    chosen = np.unique(np.linspace(0, len(right) - 1, min(room, len(right))).round().astype(int))
    return pd.concat([table[wrong].iloc[:most], right.iloc[chosen]])
