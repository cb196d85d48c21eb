"""Intervals, measured: how often each construction covers the truth, and how fast they are beside scipy.

Run: ``python benchmarks/intervals.py [--cohorts 1000] [--jobs 2] [--device cuda] [--out benchmarks/INTERVALS.md]``.
The peer ``confidenceinterval`` (``pip install confidenceinterval``) takes every case as independent; where it is not
installed its column stays empty.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy import stats
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from simulated_cohorts import CONFIRMED, SETTINGS  # noqa: E402

from medcore.evaluation.measures import measure  # noqa: E402
from medcore.evaluation.resampling import (  # noqa: E402
    bootstrap_values,
    counts_of_indices,
    evaluate,
    group_index,
    leave_one_out_values,
    mean_statistic,
)
from medcore.metrics.ranking import auroc_statistic, delong  # noqa: E402

RESAMPLES, SEED = 499, 2026
COLUMNS = ("medcore", "percentile", "BCa", "confidenceinterval")


def bootstrap_limits(statistic, patients, cases, seed):
    """Percentile and BCa over patients (Efron 1987, doi:10.1080/01621459.1987.10478410)."""
    values = bootstrap_values(statistic, patients, RESAMPLES, cases=cases, seed=seed)
    values = values[np.isfinite(values)]
    value = float(evaluate(statistic, np.ones((1, patients)), cases=cases)[0])
    if not len(values) or not np.isfinite(value):
        return None, None
    ends = stats.norm.ppf([0.025, 0.975])
    bias = stats.norm.ppf(np.clip((values < value).mean() + 0.5 * (values == value).mean(), 1e-3, 1 - 1e-3))
    left = leave_one_out_values(statistic, patients, cases=cases)
    gap = np.nanmean(left) - left
    spread = np.nansum(gap**2)
    skew = np.nansum(gap**3) / (6 * spread**1.5) if spread > 0 else 0.0
    shares = stats.norm.cdf(bias + (bias + ends) / (1 - skew * (bias + ends)))
    return np.quantile(values, [0.025, 0.975]), np.quantile(values, np.clip(shares, 0, 1))


def peer_limits(drawn, metric):
    """The package's analytic interval."""
    try:
        import confidenceinterval as peer
    except ImportError:
        return None
    truth, decision = drawn.scores.truth, drawn.decision
    try:
        if metric == "auroc":
            return peer.roc_auc_score(truth, drawn.scores.score)[1]
        binary = {"sensitivity": "tpr_score", "specificity": "tnr_score", "ppv": "ppv_score", "npv": "npv_score"}
        if metric in binary or metric == "accuracy":
            return getattr(peer, binary.get(metric, "accuracy_score"))(truth, decision)[1]
        if metric in ("macro_f1", "f1"):
            average = "macro" if metric == "macro_f1" else "binary"
            return peer.f1_score(truth.tolist(), decision.tolist(), average=average)[1]
    except (ValueError, ZeroDivisionError, IndexError):
        return (np.nan, np.nan)
    return None


def limits_of(drawn, metric, seed):
    """Every construction's limits on one study, None where it has none for this metric."""
    found = {"medcore": None if drawn.found.low is None else (drawn.found.low, drawn.found.high)}
    if drawn.scores is not None:
        one = measure(drawn.scores, metric, drawn.decision)
        found["percentile"], found["BCa"] = bootstrap_limits(one.statistic, one.patients, len(one.group), seed)
        found["confidenceinterval"] = peer_limits(drawn, metric)
    elif drawn.values is not None:
        group, patients = group_index(drawn.patient)
        statistic = mean_statistic(drawn.values, group, patients)
        found["percentile"], found["BCa"] = bootstrap_limits(statistic, patients, len(group), seed)
    return found


def coverage(setting, cohorts):
    """Share of intervals that hold the truth and mean width per construction; a missing interval holds nothing."""
    rng = np.random.default_rng([SEED, sum(map(ord, setting.name + setting.metric))])
    found = {}
    for number in range(cohorts):
        for name, limits in limits_of(setting.draw(rng), setting.metric, number).items():
            if limits is not None or name == "medcore":
                low, high = (np.nan, np.nan) if limits is None else limits
                found.setdefault(name, []).append((low <= setting.truth <= high, high - low))
    return {name: (np.mean([hit for hit, _ in rows]), np.nanmean([width for _, width in rows]))
            for name, rows in found.items()}  # fmt: skip


def coverage_table(cohorts, jobs):
    lines = [
        f"## Coverage of 95 % intervals over {cohorts:,} simulated cohorts a row (mean width)", "",
        f"Binomial error of a share: ±{1.96 * np.sqrt(0.95 * 0.05 / cohorts):.3f}. Percentile and BCa draw whole "
        f"patients, {RESAMPLES} times; confidenceinterval takes cases as independent; – where it has no such interval. "
        "Settings: `tests/simulated_cohorts.py`.", "",
    ]  # fmt: skip
    titles = ("Settings that served to choose the constructions", "Settings and seeds that had no part in the choice")
    for title, settings in zip(titles, (SETTINGS, CONFIRMED), strict=True):
        lines += [
            f"### {title}",
            "",
            f"| cohort | metric | truth | {' | '.join(COLUMNS)} |",
            "|---|---|---|---|---|---|---|",
        ]
        tables = Parallel(n_jobs=jobs)(delayed(coverage)(one, cohorts) for one in settings)
        for one, table in zip(settings, tables, strict=True):
            cells = ["{:.3f} ({:.3f})".format(*table[name]) if name in table else "–" for name in COLUMNS]
            lines.append(f"| {one.name} | {one.metric} | {one.truth:.3f} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        lines.append("")
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
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["# Intervals", "", *speed_table(options.device), "", *coverage_table(options.cohorts, options.jobs)]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
