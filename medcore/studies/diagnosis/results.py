"""How good are the diagnoses, and why are some wrong? Every figure per patient, with its interval.

- The scores of different folds come from different rules, so only patients of one fold can be ranked against each
  other: pooling them mixes scales, and flatters or harms. The AUROC of folds therefore counts pairs within folds. Which
  patients share a fold is chance; where the folds were repeated, it is the mean over the repeats.
- Which windows decided, and what their annotations say about the patients diagnosed wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.proportions import McNemar, mcnemar
from medcore.evaluation.thresholds import operating_curve
from medcore.studies.diagnosis.choices import DEFAULT
from medcore.studies.diagnosis.cohort import LEVEL_NAMES, PATIENT_CLASSES
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
    return [replace(one, split=diagnoses.split) for one in [*estimates, density_kappa(diagnoses, levels)]]


def patient_auroc(diagnoses: Diagnoses) -> Estimate:
    """AUROC of patients: DeLong on HoldOut; pairs of patients of one fold, with a jackknife, where there are folds."""
    return replace(interval(diagnoses.scores("score"), "auroc"), split=diagnoses.split)


def compare_aurocs(first: Diagnoses, second: Diagnoses) -> Estimate:
    """How much the first AUROC is above the second, on the same patients: DeLong on HoldOut, else as ``patient_auroc``.

    Raises:
        MedcoreError: The two do not speak of the same patients.
    """
    _same_patients(first, second)
    return replace(paired_difference(first.scores("score"), second.scores("score"), "auroc"), split=first.split)


def compare_decisions(first: Diagnoses, second: Diagnoses) -> McNemar:
    """Exact McNemar test: which is right where the other is wrong, on the same patients.

    Raises:
        MedcoreError: The two do not speak of the same patients.
    """
    _same_patients(first, second)
    right = [(one.table["decision"] == one.table["truth"]).to_numpy() for one in (first, second)]
    return mcnemar(*right)


def density_kappa(diagnoses: Diagnoses, levels: int = 3) -> Estimate:
    """Quadratic-weighted kappa of the density levels, with an interval over patients."""
    table = diagnoses.table
    known, level = table["true_level"].to_numpy(), table["level"].to_numpy()
    names = tuple(f"level {number}" for number in range(levels))
    scores = replace(diagnoses.scores(), truth=known, score=np.eye(levels)[level], classes=names)
    return replace(interval(scores, "quadratic_kappa", decision=level), split=diagnoses.split)


def _same_patients(first: Diagnoses, second: Diagnoses) -> None:
    if not first.table["patient"].equals(second.table["patient"]) or first.split != second.split:
        raise MedcoreError("compare: the two must be about the same patients in the same order, held out alike")


def chosen_rules(diagnoses: Diagnoses) -> pd.DataFrame:
    """What was chosen: a row per fold, or the one that was applied to HoldOut."""
    rows = [
        {
            "window score": rule.window.score,
            "threshold": rule.window.threshold,
            "balanced accuracy": rule.window.balanced_accuracy,
            "patient score": rule.aggregation,
            "threshold of patients": rule.patient.point.threshold,
            "patients": rule.patient.point.n,
        }
        for rule in diagnoses.rules
    ]
    names = [f"fold {number}" for number in range(len(rows))] if diagnoses.split == "folds" else ["for HoldOut"]
    return pd.DataFrame(rows, index=names).round(3)


def repeats_table(found: dict[str, Diagnoses]) -> pd.DataFrame:
    """AUROC of every method in every repeat of the folds; empty where a method was diagnosed once."""
    columns = {name: pd.Series([patient_auroc(one).value for one in ours.repeats]) for name, ours in found.items()}
    table = pd.DataFrame(columns, dtype=float).round(3)
    return table.set_axis([f"repeat {number}" for number in range(1, len(table) + 1)])


def threshold_regret(diagnoses: Diagnoses, positive: np.ndarray) -> pd.DataFrame:
    """How near the chosen thresholds come to the best possible ones, where the truth of every window is known.

    The best threshold of these very cases is found with hindsight, which flatters it.

    Args:
        positive: Truth of every window of the set that the cohort was made from. **Shape** ``(N,)`` bool.

    Returns:
        For ``windows`` and ``patients``: ``youden lost`` (of the largest sensitivity + specificity - 1) and ``decided
        otherwise`` (share of cases between the two thresholds), means over the folds.
    """
    windows, patients = [], []
    for rule, part in zip(diagnoses.rules, diagnoses.parts, strict=True):
        windows.append(_regret(positive[part.rows], part.score(rule.window.score), rule.window.threshold))
    for _, table in diagnoses.table.groupby("fold"):
        patients.append(_regret(table["truth"].to_numpy() == 1, table["margin"].to_numpy(), 0.0))
    means = {"windows": np.mean(windows, axis=0), "patients": np.mean(patients, axis=0)}
    return pd.DataFrame.from_dict(means, orient="index", columns=["youden lost", "decided otherwise"]).round(3)


def _regret(positive: np.ndarray, score: np.ndarray, threshold: float) -> tuple[float, float]:
    """Youden's index that a threshold gives away, and the share of cases decided otherwise than by the best one."""
    curve = operating_curve(positive, score)
    gain = curve.sensitivity + curve.specificity
    equal = curve.thresholds[gain >= gain.max() - 1e-12]
    best = (equal.min() + equal.max()) / 2
    reached = (score[positive] >= threshold).mean() + (score[~positive] < threshold).mean()
    return float(gain.max() - reached), float(((score >= threshold) != (score >= best)).mean())


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


def wrong_patients(diagnoses: Diagnoses, windows: pd.DataFrame, *, few: int = DEFAULT.few_windows) -> pd.DataFrame:
    """The patients diagnosed wrongly, surest first, with what is known of their windows and a possible reason.

    Of a patient's windows, the rule ``called`` so many positive, annotators looked at the ``annotated`` ones and
    ``marked`` some positive, of which the rule ``recognised`` some.

    Args:
        few: Windows of a patient that are called few.
    """
    table = diagnoses.table
    wrong = table[table["decision"] != table["truth"]]
    rows = []
    for patient, truth in zip(wrong["patient"].tolist(), wrong["truth"].tolist(), strict=True):
        own = windows[windows["patient"] == patient]
        marked = own["label"] == 1
        rows.append(
            {
                "patient": patient,
                "annotated": int((own["label"] >= 0).sum()),
                "marked": int(marked.sum()),
                "recognised": int(own.loc[marked, "positive"].sum()),
                "possible reason": possible_reason(truth, own, few=few),
            }
        )
    known = pd.DataFrame(rows, columns=["patient", "annotated", "marked", "recognised", "possible reason"])
    shown = wrong[["patient", "diagnosis", "decision", "probability", "windows", "positive_windows"]]
    shown = shown.rename(columns={"positive_windows": "called"})
    shown["diagnosis"] = shown["diagnosis"].replace(LEVEL_NAMES)
    shown["decision"] = [PATIENT_CLASSES[number] for number in wrong["decision"]]
    order = (shown["probability"] - 0.5).abs().sort_values(ascending=False).index
    return shown.loc[order].merge(known, on="patient", sort=False).set_index("patient").round({"probability": 2})


def possible_reason(truth: int, windows: pd.DataFrame, *, few: int = DEFAULT.few_windows) -> str:
    """Why a patient may have been diagnosed wrongly, as far as the annotations of its windows say; not a finding.

    Args:
        truth: 1 for a missed infection, 0 for a false alarm.
        windows: The patient's rows of ``window_table``.
        few: Windows of a patient that are called few.
    """
    label, called = windows["label"], windows["positive"]
    if not truth:
        if not called.any():
            return "no window called positive: the patient threshold is low"
        return "other brown: annotated negative" if (label[called] == 0).all() else "other brown, or bacteria"
    if (label == 1).any():
        return "recognised, in too few windows" if called[label == 1].any() else "bacteria not recognised"
    if called.any():
        return "called positive, in too few windows"
    where = "few windows, " if len(windows) <= few else ""
    return where + ("none annotated positive" if (label >= 0).all() else "none called positive")


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
