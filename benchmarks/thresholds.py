"""How near chosen thresholds come to the best ones, on phantoms whose truth is known.

    python benchmarks/thresholds.py --draws 24 --patients 96 240     # ten minutes on two cores

Every draw of phantom-helico is one study: its annotated patients choose thresholds. The best threshold is counted out
on the patients of all other draws, thousands of them, for the very same scores. Noted in benchmarks/THRESHOLDS.md:

- distance: between chosen and best threshold, in units of the score;
- sensitivity, specificity: by how much they differ between the two;
- lost: how much of sensitivity + specificity - 1 the chosen threshold gives away;
- decided otherwise: share of cases between the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from results import machine
from scipy.ndimage import gaussian_filter1d

from medcore.data.phantoms import make_helico
from medcore.evaluation.thresholds import choose_threshold, logistic_youden
from medcore.metrics.stain_scores import brown_peak, score_windows
from medcore.studies.diagnosis.choices import EVIDENCE, DiagnosisChoices
from medcore.studies.diagnosis.cohort import Cohort
from medcore.studies.diagnosis.learner import FOREST
from medcore.studies.diagnosis.rule import choose_window_rule, learn_evidence, out_of_fold_scores, patient_scores
from medcore.studies.diagnosis.specks import fit_forest, speck_features
from medcore.studies.diagnosis.windows import diagnosis_windows

TRIED = np.linspace(0, 1, 2001)
SMOOTH = {"window": 60, EVIDENCE: 20, "share": 20}  # steps of TRIED over which the curve of the others is smoothed
FOLDS = 5
NEAR = 0.02


class Drawn(NamedTuple):
    """One phantom: its patients, what describes their windows, and who annotates."""

    cohort: Cohort
    specks: np.ndarray
    annotated: np.ndarray


def draw(seed: int, patients: int) -> Drawn:
    """The windows that a diagnosis needs, the label of every one known."""
    patches = diagnosis_windows(make_helico(seed=seed, patients=patients))
    annotated = np.isin(np.unique(patches.patients), patches.patients[patches.labels >= 0])
    known = patches.with_columns(label=(patches.column("bacteria") > 0).astype(np.int64))
    cohort = Cohort.from_set(known, {"brown peak": score_windows(known, brown_peak)})
    return Drawn(cohort, speck_features(known)[cohort.rows], annotated)


def unseen_scores(cohort: Cohort, specks: np.ndarray) -> np.ndarray:
    """Forest scores of every window by forests that have not seen its patient."""
    side, score = cohort.folds(FOLDS)[cohort.owner], np.zeros(len(specks))
    for fold in range(FOLDS):
        train = side != fold
        score[~train] = fit_forest(specks[train], cohort.label[train]).predict_proba(specks[~train])[:, 1]
    return score


def judge(name: str, threshold: float, positive: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """A threshold beside the best one of cases whose truth is known."""
    ill, well = np.sort(score[positive]), np.sort(score[~positive])

    def reached(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 1 - np.searchsorted(ill, at) / len(ill), np.searchsorted(well, at) / len(well)

    gain = np.sum(reached(TRIED), axis=0) - 1
    best = TRIED[np.argmax(gaussian_filter1d(gain, SMOOTH[name]))]
    (sensitivity, best_sensitivity), (specificity, best_specificity) = map(tuple, reached(np.array([threshold, best])))
    low, high = sorted([threshold, best])
    return {
        "distance": abs(threshold - best),
        "sensitivity": abs(sensitivity - best_sensitivity),
        "specificity": abs(specificity - best_specificity),
        "lost": float(gain.max() - (sensitivity + specificity - 1)),
        "decided otherwise": float(((score >= low) & (score < high)).mean()),
    }


def study(own: Drawn, others: list[Drawn], patients: int) -> list[dict[str, object]]:
    """Choose on the annotated patients of one draw, judge on all patients of the others."""
    taught = own.annotated & (np.arange(len(own.cohort)) < patients * 5 // 6)
    part, specks = own.cohort.select(taught), own.specks[taught[own.cohort.owner]]
    part = part.with_scores({FOREST: unseen_scores(part, specks)})
    forest = fit_forest(specks, part.label)
    window, rows = choose_window_rule(part, DiagnosisChoices(folds=FOLDS)), []
    evidence = learn_evidence(part, window)
    unseen = out_of_fold_scores(
        part, DiagnosisChoices(folds=FOLDS, rule="youden", aggregations=(EVIDENCE, "share"), seed=0)
    )
    seen = [one.cohort.with_scores({FOREST: forest.predict_proba(one.specks)[:, 1]}) for one in others]
    truth = np.concatenate([one.truth == 1 for one in seen])
    label = np.concatenate([one.label == 1 for one in seen])
    score = np.concatenate([one.score(FOREST) for one in seen])
    rows.append({"threshold": "window", "by": "smooth"} | judge("window", window.threshold, label, score))
    for name, values in unseen.items():
        score = np.concatenate([patient_scores(one, window, name, evidence) for one in seen])
        known = part.patient_scores(values)
        for way, threshold in (("bare ROC", choose_threshold(known).threshold), ("logistic", logistic_youden(known))):
            rows.append({"threshold": f"patient, {name}", "by": way} | judge(name, threshold, truth, score))
    return [{"annotated patients": int(taught.sum())} | row for row in rows]


def main(draws: int, sizes: list[int], out: Path | None, jobs: int) -> None:
    """Draw, study, write a table."""
    drawn = Parallel(jobs)(delayed(draw)(seed, max(sizes)) for seed in range(draws))
    parts = [(own, drawn[:number] + drawn[number + 1 :]) for number, own in enumerate(drawn)]
    rows = [row for own, others in parts for size in sizes for row in study(own, others, size)]
    groups = pd.DataFrame(rows).groupby(["annotated patients", "threshold", "by"], sort=False)
    measures = ["distance", "sensitivity", "specificity", "lost", "decided otherwise"]
    head = ["annotated patients", "threshold", "by", *measures]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key, part in groups:
        cells = [f"{part[one].mean():.4f} ({part[one].max():.3f}; {(part[one] <= NEAR).sum()})" for one in measures]
        lines.append("| " + " | ".join([*map(str, key), *cells]) + " |")
    table, others = "\n".join(lines), [one.cohort for one in drawn[1:]]
    text = (
        f"# Thresholds\n\n`python benchmarks/thresholds.py --draws {draws} --patients {' '.join(map(str, sizes))}`: "
        f"{draws} draws, each judged on the others' {sum(map(len, others)):,} patients with some "
        f"{sum(len(one.owner) for one in others):,} windows. Mean over the draws (largest; draws within {NEAR}). "
        f"{machine(torch.device('cpu'))}.\n\n{table}\n"
    )
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--patients", type=int, nargs="+", default=[96, 240])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="only print")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("THRESHOLDS.md"))
    given = parser.parse_args()
    main(given.draws, given.patients, None if given.dry else given.out, given.jobs)
