"""Intervals, measured: how often each construction covers the truth, and how fast they are beside scipy.

Run: ``python benchmarks/intervals.py [--cohorts 2000] [--device cuda] [--out benchmarks/INTERVALS.md]``.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats
from simulated_cohorts import Cohort, simulate
from sklearn.metrics import roc_auc_score

from medcore.evaluation.intervals import interval
from medcore.evaluation.resampling import bootstrap_values, counts_of_indices, evaluate
from medcore.metrics.ranking import auroc_statistic, delong

METRICS = ("auroc", "accuracy", "balanced_accuracy")
COHORTS = {
    "20 patients, both kinds of patches": Cohort(patients=20),
    "40 patients, both kinds": Cohort(patients=40),
    "60 patients, both kinds": Cohort(patients=60),
    "20 patients, each of one kind": Cohort(patients=20, mixed=False),
    "40 patients, each of one kind": Cohort(patients=40, mixed=False),
    "60 patients, each of one kind": Cohort(patients=60, mixed=False),
    "40 patients, very uneven numbers of patches": Cohort(patients=40, unevenness=1.3),
    "40 patients, 15 % positive, each of one kind": Cohort(patients=40, mixed=False, prevalence=0.15),
    "40 patients, AUROC 0.98, each of one kind": Cohort(patients=40, mixed=False, shift=3.5),
    "30 patients who do not differ": Cohort(patients=30, patient_effect=0, shift_effect=0),
}


def coverage(cohort, cohorts, resamples=399):
    """Share of intervals that hold the truth, and mean width, per (construction, metric)."""
    rng, truth, found = np.random.default_rng(0), cohort.true_values(), {}
    for _ in range(cohorts):
        scores, decision = simulate(cohort, rng)
        patches = replace(scores, patient=np.arange(len(scores)))
        constructions = {
            "jackknife, t (default)": (scores, {}),
            "percentile bootstrap of patients": (scores, {"method": "percentile", "resamples": resamples}),
            "patches taken as independent": (patches, {}),
        }
        for name, (cases, how) in constructions.items():
            for metric in METRICS:
                estimate = interval(cases, metric, decision=decision, **how)
                if estimate.low is not None:
                    hit = estimate.low <= truth[metric] <= estimate.high
                    found.setdefault((name, metric), []).append((hit, estimate.high - estimate.low))
    return {key: np.mean(values, axis=0) for key, values in found.items()}


def coverage_table(cohorts):
    lines = [
        f"## Coverage of 95 % intervals over {cohorts:,} simulated cohorts (mean width)", "",
        f"Binomial error of a share: ±{1.96 * np.sqrt(0.95 * 0.05 / cohorts):.3f}.", "",
        "| cohort | construction | " + " | ".join(METRICS) + " |", "|---|---|" + "---|" * len(METRICS),
    ]  # fmt: skip
    for title, cohort in COHORTS.items():
        found = coverage(cohort, cohorts)
        for name in dict.fromkeys(key[0] for key in found):
            cells = [f"{found[name, metric][0]:.3f} ({found[name, metric][1]:.3f})" for metric in METRICS]
            lines.append(f"| {title} | {name} | " + " | ".join(cells) + " |")
        print(title, flush=True)
    return lines


def best_time(function, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def speed_table(device):
    lines = [
        "## Speed: AUROC, 999 resamples, one core", "",
        "| n | scipy.stats.bootstrap + scikit-learn | medcore | ratio | same indices: largest difference | DeLong |"
        + (f" medcore on {device} |" if device else ""), "|---|---|---|---|---|---|" + ("---|" if device else ""),
    ]  # fmt: skip
    for n in (200, 1000, 7180):
        rng = np.random.default_rng(n)
        truth = (rng.random(n) < 0.4).astype(int)
        score = rng.normal(truth * 1.0, 1)

        def ours(on=None, truth=truth, score=score, n=n):
            statistic = auroc_statistic(truth == 1, score, np.arange(n), n)
            return np.quantile(bootstrap_values(statistic, n, 999, cases=n, device=on), [0.025, 0.975])

        def theirs(truth=truth, score=score):
            return stats.bootstrap(
                (truth, score), roc_auc_score, paired=True, vectorized=False, n_resamples=999, method="percentile"
            )

        indices = rng.integers(0, n, (100, n))
        known = np.array([roc_auc_score(truth[drawn], score[drawn]) for drawn in indices])
        statistic = auroc_statistic(truth == 1, score, np.arange(n), n)
        gap = np.abs(evaluate(statistic, counts_of_indices(indices, n), cases=n) - known).max()
        slow, fast = best_time(theirs, 3), best_time(ours, 7)
        classic = best_time(lambda truth=truth, score=score: delong(truth == 1, score), 5)
        line = f"| {n:,} | {slow:.2f} s | {fast * 1e3:.1f} ms | **{slow / fast:.0f}×** | {gap:.0e} | "
        line += f"{classic * 1e3:.2f} ms |"
        lines.append(line + (f" {best_time(lambda: ours(device), 5) * 1e3:.1f} ms |" if device else ""))
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=2000)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["# Intervals", "", *speed_table(options.device), "", *coverage_table(options.cohorts)]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
