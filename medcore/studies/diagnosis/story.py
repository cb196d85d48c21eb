"""Tables, sentences and pictures of a diagnosis, for a report: every number in them is computed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.thresholds import operating_curve
from medcore.studies.diagnosis import results
from medcore.studies.diagnosis.cohort import PATIENT_CLASSES, Cohort
from medcore.studies.diagnosis.learner import WindowLearner
from medcore.studies.diagnosis.mistakes import suspicious_rows
from medcore.studies.diagnosis.nested import Diagnoses
from medcore.studies.diagnosis.results import count_dependence, patient_auroc
from medcore.studies.diagnosis.study import COUNT, RED


def material(cohort: Cohort, kind: str) -> str:
    """Who is diagnosed from what, and how they are held out."""
    counts, held_out = cohort.windows_per_patient, int((cohort.split == "test").sum())
    start = (
        f"**{len(cohort)} patients** ({int(cohort.truth.sum())} infected) are diagnosed from {int(counts.sum()):,} "
        f"windows ({'all there are' if kind == 'all' else f'kind *{kind}*'}), {counts.min()} to {counts.max()} each. "
    )
    if held_out:
        return start + (
            f"{held_out} of them are HoldOut: they are used once, at the end, and for no choice; the others are "
            "diagnosed in nested folds as well."
        )
    return start + (
        "**There is no HoldOut part here: every result below comes from nested folds over patients, and nobody is "
        "left for a final test.**"
    )


def cuts_sentence(diagnoses: Diagnoses) -> str:
    """How much the AUROC moves when the same patients are cut into other folds; empty where they were not."""
    every = [value for one in diagnoses.cuts if (value := patient_auroc(one).value) is not None]
    if not diagnoses.others or len(every) < len(diagnoses.cuts):
        return ""
    without = set(diagnoses.parts[0].scores) - set(diagnoses.others[0].parts[0].scores)
    return (
        f"Which patients share a fold is one draw of many, so the AUROC is the mean of {len(every)} cuts of the "
        f"patients into folds: {min(every):.3f} to {max(every):.3f}, {every[0]:.3f} in the first. Decisions, and "
        "every figure made from them, are those of the first cut; ABMIL is judged on it alone."
        + (f" The other cuts do without {' and '.join(f'*{name}*' for name in sorted(without))}: no fold of the first "
           "chose them." if without else "")
    )  # fmt: skip


def decision_maker(diagnoses: Diagnoses) -> str:
    """Which scores the decisions come from: those that the folds chose, most frequent first."""
    chosen = Counter((rule.window.score, rule.aggregation) for rule in diagnoses.rules)
    total = len(diagnoses.rules)
    return "; ".join(
        f"{window} of a window, {patient} of a patient" + (f" ({count} of {total} folds)" if total > 1 else "")
        for (window, patient), count in chosen.most_common()
    )


def example_windows(patches: PatchSet, *, per_kind: int = 4, seed: int = 0) -> np.ndarray:
    """Rows of some windows annotated negative, then positive, each of another patient where possible."""
    generator = np.random.default_rng(seed)
    found: list[int] = []
    for kind in (0, 1):
        rows = generator.permutation(np.flatnonzero(patches.labels == kind))
        first = np.sort(np.unique(patches.patients[rows], return_index=True)[1])
        rest = np.setdiff1d(np.arange(len(rows)), first)
        found += rows[np.r_[first, rest]][:per_kind].tolist()
    return np.array(found, dtype=np.int64)


def brownest(cohort: Cohort, patients: np.ndarray, score: str, *, count: int) -> np.ndarray:
    """Rows (of the set) of the highest windows of some patients ``(P,)`` bool, one of each patient first."""
    windows = np.flatnonzero(patients[cohort.owner])
    windows = windows[np.argsort(-cohort.score(score)[windows], kind="stable")]
    first = np.sort(np.unique(cohort.owner[windows], return_index=True)[1])
    rest = np.setdiff1d(np.arange(len(windows)), first)
    return cohort.rows[windows[np.r_[first, rest]][:count]]


def choices(diagnoses: Diagnoses) -> pd.DataFrame:
    """What was chosen: a row per fold, or the one that was applied to HoldOut."""
    rows = [
        {
            "window score": rule.window.score,
            "window threshold": rule.window.threshold,
            "balanced accuracy of windows": rule.window.balanced_accuracy,
            "patient score": rule.aggregation,
            "patient threshold": rule.patient.point.threshold,
            "training patients": rule.patient.point.n,
        }
        for rule in diagnoses.rules
    ]
    names = [f"fold {number}" for number in range(len(rows))] if diagnoses.split == "folds" else ["for HoldOut"]
    return pd.DataFrame(rows, index=names).round(3)


def window_results(diagnoses: Diagnoses) -> dict[str, Estimate]:
    """AUROC of every window score on annotated windows of unseen patients, by name."""
    return {name: interval(diagnoses.window_scores(name), "auroc") for name in diagnoses.parts[0].scores}


def window_sentence(diagnoses: Diagnoses, trivial: str = RED) -> str:
    """The window score that most folds chose beside the trivial one, compared on the same windows."""
    picked = [rule.window.score for rule in diagnoses.rules]
    chosen = max(dict.fromkeys(picked), key=picked.count)
    times = f"chosen in {picked.count(chosen)} of {len(picked)} folds" if len(picked) > 1 else "the chosen one"
    if chosen == trivial:
        return f"No window score is shown to be better than *{trivial}* ({times})."
    ours, simple = diagnoses.window_scores(chosen), diagnoses.window_scores(trivial)
    return (
        f"On {len(ours)} annotated windows of {ours.patients} unseen patients, *{chosen}* ({times}) reaches an "
        f"AUROC of **{interval(ours, 'auroc')}**, *{trivial}* {interval(simple, 'auroc')}; the difference on the same "
        f"windows is {paired_difference(ours, simple, 'auroc')}."
    )


def summary(diagnoses: Diagnoses, ours: Estimate, simple: Estimate, difference: Estimate) -> str:
    """The main result in one sentence."""
    how = "HoldOut patients" if diagnoses.split == "test" else "patients in nested folds"
    if diagnoses.others:
        how += f" (mean of {len(diagnoses.cuts)} cuts into folds)"
    if difference.low is None or difference.high is None:
        verdict = "cannot be compared with"
    elif difference.low > 0:
        verdict = "does better than"
    else:
        verdict = "does worse than" if difference.high < 0 else "is not shown to differ from"
    return (
        f"On {len(diagnoses.table)} unseen {how} the AUROC is {ours}; the trivial rule of red pixels reaches {simple}. "
        f"The method {verdict} it (difference {difference})."
    )


def optimum_sentence(diagnoses: Diagnoses, patches: PatchSet) -> str:
    """How near the chosen thresholds come to the best possible ones, where a phantom tells the truth of every window.

    Args:
        diagnoses: The decisions.
        patches: The windows' set; a column ``bacteria`` holds the true number in each window.
    """
    if "bacteria" not in patches.columns:
        return "The truth of every window is known for phantoms only, so the best possible threshold is not known here."
    windows, patients, distances = [], [], []
    for rule, part in zip(diagnoses.rules, diagnoses.parts, strict=True):
        infected = patches.column("bacteria")[part.rows] > 0
        score, threshold = part.score(rule.window.score), rule.window.threshold
        windows.append((_lost(infected, score, threshold), _between(infected, score, threshold)))
        distances.append(abs(threshold - _best(infected, score)))
    for table in _by_rule(diagnoses.table):
        infected, margin = table["truth"].to_numpy() == 1, table["margin"].to_numpy()
        patients.append((_lost(infected, margin, 0.0), _between(infected, margin, 0.0)))
    (window_loss, window_share), (patient_loss, patient_share) = np.mean(windows, axis=0), np.mean(patients, axis=0)
    return (
        "On this phantom the truth of every window is known. Of the largest possible sensitivity + specificity − 1 on "
        f"unseen patients, the chosen window threshold loses {window_loss:.3f} (it lies {np.mean(distances):.3f} from "
        f"the best threshold of these very windows, {100 * window_share:.1f} % of which lie between the two), the "
        f"patient threshold loses {patient_loss:.3f} ({100 * patient_share:.1f} % of the patients lie between). The "
        "best threshold is found with hindsight, which flatters it: on average, the true losses are smaller."
    )


def _best(positive: np.ndarray, score: np.ndarray) -> float:
    """The threshold of the largest sensitivity + specificity; the middle where several are equal."""
    curve = operating_curve(positive, score)
    gain = curve.sensitivity + curve.specificity
    equal = curve.thresholds[gain >= gain.max() - 1e-12]
    return float((equal.min() + equal.max()) / 2)


def _between(positive: np.ndarray, score: np.ndarray, threshold: float) -> float:
    """Share of cases that a threshold decides otherwise than the best one."""
    return float(((score >= threshold) != (score >= _best(positive, score))).mean())


def _by_rule(table: pd.DataFrame) -> list[pd.DataFrame]:
    return [part for _, part in table.groupby("fold")] if "fold" in table else [table]


def _lost(positive: np.ndarray, score: np.ndarray, threshold: float) -> float:
    """How much of Youden's index a threshold gives away on cases whose truth is known."""
    curve = operating_curve(positive, score)
    reached = (score[positive] >= threshold).mean() + (score[~positive] < threshold).mean() - 1
    return float((curve.sensitivity + curve.specificity - 1).max() - reached)


def count_sentence(found: Mapping[str, Diagnoses]) -> str:
    """What the bare number of windows says, and whether healthy patients' scores grow with it."""
    ours = next(iter(found.values()))
    shortcut = f"AUROC {patient_auroc(found[COUNT])}" if COUNT in found else "nothing, for all have equally many"
    dependence = count_dependence(ours)
    found_there = (
        "it cannot be said"
        if dependence is None
        else f"Spearman correlation {dependence[0]:.2f} (p = {dependence[1]:.2g})".replace("-0", "−0")
    )
    return f"By the bare number of windows: {shortcut}. Score and number of windows in healthy patients: {found_there}."


def counts_table(table: pd.DataFrame) -> pd.DataFrame:
    """``window_counts.by_window_count`` for a reader."""
    names = {"auroc": "AUROC", "mean_score_healthy": "mean score of the healthy", "windows": "windows a patient"}
    return table.rename(columns=names).set_index("windows a patient").round(2)


def reader_sentence(diagnoses: Diagnoses) -> str:
    """What a reader who agrees with the annotators could reach here, and for whom no window shows anything."""
    read = results.read_windows(diagnoses)
    looked = (read["truth"] == 1) & (read["annotated"] > 0)
    if not looked.any():
        return "The windows of these patients are not annotated, so it cannot be said what they show."
    silent = int((looked & (read["shown"] == 0)).sum())
    return (
        f"Of {int(looked.sum())} infected patients with annotated windows, **{silent} have none that is annotated "
        "positive**. A reader who agrees with every annotation (and trusts this method on windows that nobody "
        "annotated), and weighs positive against clean windows as the method does, would reach a patient AUROC of "
        f"**{results.reader_auroc(read):.2f}**."
    )


def ceiling_sentence(diagnoses: Diagnoses) -> str:
    """How high an AUROC can be expected when some infected patients have no suspicious window at all."""
    read = results.read_windows(diagnoses)
    blank, ill = int(results.is_silent(read).sum()), int(read["truth"].sum())
    if not blank:
        return "Every infected patient has a window that is called or annotated positive."
    return (
        f"{blank} of {ill} infected patients have **no window that is called or annotated positive**. If every other "
        "infected patient ranks above every healthy one without a single mistake, and these rank like the healthy, the "
        f"AUROC is **{results.best_auroc(read, by_number=False):.2f}**. All that still tells them from the healthy is "
        "that one clean window proves less than many: ranked by how few they have, it would be "
        f"**{results.best_auroc(read):.2f}**. More cannot be expected of any reading of these windows for bacteria."
    )


def placebo_sentence(diagnoses: Diagnoses, *, draws: int = 20, seed: int = 0) -> str:
    """What the method finds when windows are dealt at random, so that only their number is left."""
    found = results.placebo_aurocs(diagnoses, draws=draws, seed=seed)
    error = float(found.std(ddof=1) / np.sqrt(draws))
    verdict = "nothing" if abs(found.mean() - 0.5) < 3 * error else "something: **the number of windows speaks**"
    return (
        f"Placebo: windows dealt at random among the patients, who keep their number of windows and their diagnosis. "
        f"On {draws} such deals, evidence reaches a mean AUROC of **{found.mean():.2f}** (standard error {error:.2f}): "
        f"the number of windows by itself tells it {verdict}."
    )


def wrong_table(wrong: pd.DataFrame) -> pd.DataFrame:
    """``mistakes.wrong_patients`` for a reader: decisions in words, probabilities with two digits."""
    words = [PATIENT_CLASSES[number] for number in wrong["decision"]]
    shown = wrong.assign(decision=words).round({"probability": 2}).set_index("patient")
    return shown.rename(columns={"positive_windows": "positive windows"})


def windows_and_errors(
    listed: Sequence[str],
    windows: pd.DataFrame,
    patches: PatchSet,
    diagnoses: Diagnoses,
    learner: WindowLearner,
    *,
    count: int = 3,
    side: int = 96,
) -> tuple[np.ndarray, np.ndarray]:
    """The most suspicious windows of some patients, and what an autoencoder that has not seen them could not paint.

    Args:
        listed: Patients.
        windows: ``window_table`` of the diagnoses.
        patches: The windows' pictures.
        diagnoses: Who was scored without whom.
        learner: With autoencoders; its pictures are rows like those of ``patches``.
        count: Windows per patient.
        side: Pixels of the pictures that come back.

    Returns:
        Pictures and coloured error maps, white where a patient has fewer windows. Each **Shape**
        ``(P, count, side, side, 3)`` uint8.
    """
    pictures = np.full((len(listed), count, side, side, 3), 255, np.uint8)
    errors = np.zeros((len(listed), count, side, side), np.float32)
    rows = suspicious_rows(windows, listed, count)
    for part in diagnoses.parts:  # one autoencoder each
        own = np.isin(np.asarray(listed, dtype=str), part.names)[:, None] & (rows >= 0)
        if own.any():
            excluded = np.isin(learner.cohort.names, part.names)
            found = learner.error_maps(rows[own], excluded, "l1")
            pictures[own] = resize(patches.take(rows[own]), (side, side), "bicubic")
            errors[own] = [resize(error, (side, side), "bicubic") for error in found]
    return pictures, _coloured(errors, rows >= 0)


def _coloured(errors: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Errors from white (none) over orange to black (the largest percentile). **Shape** ``(…)`` to ``(…, 3)`` uint8."""
    limit = float(np.quantile(errors[there], 0.995)) or 1.0
    share = np.clip(errors / limit, 0, 1)[..., None]
    low, middle, high = np.array([255, 255, 255]), np.array([230, 120, 0]), np.array([40, 0, 0])
    mixed = np.where(share < 0.5, low + 2 * share * (middle - low), middle + (2 * share - 1) * (high - middle))
    return mixed.round().astype(np.uint8)


def table_columns(listed: pd.DataFrame) -> dict[str, list]:
    """The text columns of ``plots.diagnosis.patient_table``; the score is what lies above the patient's threshold."""
    return {
        "patient": listed["patient"].tolist(),
        "score": listed["margin"].tolist(),
        "decision": [PATIENT_CLASSES[number] for number in listed["decision"]],
        "truth": [PATIENT_CLASSES[number] for number in listed["truth"]],
    }
