"""Intervals, measured: how often each construction covers the truth, and how fast they are beside scipy.

    python benchmarks/intervals.py coverage [--cohorts 1000] [--jobs 2]      # writes benchmarks/INTERVALS.md
    python benchmarks/intervals.py speed [--device cuda]                     # a table of benchmarks/RESULTS.md

The peer ``confidenceinterval`` (``pip install confidenceinterval``) takes every case as independent; where it is not
installed its column stays empty.
"""

import argparse
import importlib.util
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from results import machine, record
from scipy import stats
from scipy.special import expit
from sklearn.metrics import f1_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from simulated_cohorts import CONFIRMED, SETTINGS  # noqa: E402

from medcore.evaluation.intervals import interval  # noqa: E402
from medcore.evaluation.measures import measure  # noqa: E402
from medcore.evaluation.resampling import (  # noqa: E402
    bootstrap_values,
    counts_of_indices,
    evaluate,
    group_index,
    leave_one_out_values,
    mean_statistic,
)
from medcore.evaluation.scores import Scores  # noqa: E402

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


def by_peer(metric, truth, decision, score):
    """Milliseconds of the package's analytic interval; None where it is not installed."""
    if importlib.util.find_spec("confidenceinterval") is None:
        return None
    import confidenceinterval as peer

    if metric == "auroc":
        return best_time(lambda: peer.roc_auc_score(truth, score), 5)
    return best_time(lambda: peer.f1_score(truth.tolist(), decision.tolist(), average="macro"), 5)


def by_scipy(metric, truth, decision, score, resamples):
    """Seconds of scipy's bootstrap of scikit-learn's metric."""
    said = score if metric == "auroc" else decision
    function = roc_auc_score if metric == "auroc" else partial(f1_score, average="macro")
    how = {"paired": True, "vectorized": False, "n_resamples": resamples, "method": "percentile"}
    return best_time(lambda: stats.bootstrap((truth, said), function, **how), 1)


def speed_line(metric, n, device, resamples):
    """A row: the peers, our bootstrap on as many resamples, and our own interval, each case a patient."""
    rng = np.random.default_rng(n)
    truth = (rng.random(n) < 0.4).astype(int)
    score = expit(rng.normal(truth * 1.0, 1))
    patient = np.char.zfill(np.arange(n).astype(str), 6)
    scores = Scores(truth, np.stack([1 - score, score], 1), patient, ["test"] * n, ("a", "b"))
    decision = scores.predicted
    statistic, cases = measure(scores, metric, decision).statistic, {"cases": n}
    if metric == "auroc":  # the same resamples give what scikit-learn gives
        indices = rng.integers(0, n, (20, n))
        known = [roc_auc_score(truth[drawn], score[drawn]) for drawn in indices]
        assert np.abs(evaluate(statistic, counts_of_indices(indices, n), **cases) - known).max() < 1e-12
    slow, peer = by_scipy(metric, truth, decision, score, resamples), by_peer(metric, truth, decision, score)
    fast = best_time(lambda: bootstrap_values(statistic, n, resamples, **cases), 5)
    own = best_time(lambda: interval(scores, metric), 5)
    line = f"| {NAMES[metric]}, n = {n:,} | {slow:.2f} s | {fast * 1e3:.1f} ms | **{slow / fast:.0f}** | "
    line += f"{own * 1e3:.1f} ms | {'not installed' if peer is None else f'{peer * 1e3:.1f} ms'} |"
    if device:
        on = best_time(lambda: bootstrap_values(statistic, n, resamples, **cases, device=device), 5)
        line += f" {on * 1e3:.1f} ms |"
    return line


NAMES = {"auroc": "AUROC", "macro_f1": "macro F1"}


def speed_table(device, sizes, resamples):
    lines = [
        f"| metric | scipy.stats.bootstrap + scikit-learn, {resamples} resamples | medcore, as many resamples | × | "
        "medcore's own interval | confidenceinterval, analytic |" + f" resamples on {device} |" * bool(device),
        "|---|---|---|---|---|---|" + "---|" * bool(device),
    ]  # fmt: skip
    for metric in NAMES:
        for n in sizes:
            lines.append(speed_line(metric, n, device, resamples))
            print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="speed, coverage [both]")
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 1000, 7180], help="cases of the speed table")
    parser.add_argument("--resamples", type=int, default=999, help="of the speed table")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", help="cuda: measure our resamples there, too")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    parts = options.parts or ["speed", "coverage"]
    if "speed" in parts:
        start = machine(torch.device(options.device or "cpu"))
        table = speed_table(options.device, options.sizes, options.resamples)
        if not options.dry:
            record(
                "Intervals beside scipy and confidenceinterval", f"{start}; wall time, the best of 5 (scipy: 1);", table
            )
    if "coverage" in parts:
        lines = ["# Intervals", "", *coverage_table(options.cohorts, options.jobs)]
        print("\n".join(lines))
        if not options.dry:
            Path(__file__).with_name("INTERVALS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
