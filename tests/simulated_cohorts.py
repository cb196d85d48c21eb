"""Studies whose truth is known, to see whether an interval keeps its promise: patients who differ, and bring very
different numbers of cases. Counting cases as if they were independent then gives intervals that are far too narrow.

``SETTINGS`` names them; the first group served to choose constructions, ``CONFIRMED`` had no part in that choice.

**Reference** The binormal model with random patient effects: Obuchowski 1997, doi:10.2307/2533958.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from medcore.evaluation.calibration import CALIBRATION, calibration_estimates
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval, mean_interval, paired_difference
from medcore.evaluation.scores import Folds, Scores
from medcore.metrics.confusion import metric_function


@dataclass(frozen=True)
class Cohort:
    """How patients and patches of a simulated study behave.

    A patch scores ``patient effect + (shift + patient's own shift) · positive + noise``.

    Attributes:
        patients: How many.
        mixed: Every patient has positive and negative patches (True), or is positive or negative (False).
        shift: By how much positive patches score higher, in standard deviations of the noise.
        patient_effect: Standard deviation of the patients' own level.
        shift_effect: Standard deviation of the patients' own shift.
        patches: Median number of patches of a patient.
        unevenness: Standard deviation of the logarithm of that number.
        prevalence: Expected share of positive patches.
        half: The first patient has as many patches as all others together.
        most: Largest number of patches of a patient.
    """

    patients: int = 40
    mixed: bool = True
    shift: float = 1.5
    patient_effect: float = 0.6
    shift_effect: float = 0.4
    patches: float = 20.0
    unevenness: float = 0.7
    prevalence: float = 0.4
    half: bool = False
    most: int = 10_000

    @property
    def threshold(self) -> float:
        """The threshold that decisions use: half the shift."""
        return self.shift / 2

    def true_values(self) -> dict[str, float]:
        """Metrics at ``threshold`` in the population of all patients."""
        between, own = self.patient_effect**2, self.shift_effect**2
        hit = norm.cdf(self.threshold / np.sqrt(1 + between + own))
        quiet = norm.cdf(self.threshold / np.sqrt(1 + between))
        share = self.prevalence
        matrix = np.array([[(1 - share) * quiet, (1 - share) * (1 - quiet)], [share * (1 - hit), share * hit]])
        decided = {name: float(metric_function(name)(matrix)) for name in DECIDED}
        return decided | {"auroc": float(norm.cdf(self.shift / np.sqrt(2 + 2 * between + own)))}


DECIDED = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "mcc", "kappa", "f1", "ppv@0.05")


def sizes_of(cohort: Cohort, rng: np.random.Generator) -> np.ndarray:
    """How many patches each patient has."""
    sizes = np.exp(rng.normal(np.log(cohort.patches), cohort.unevenness, cohort.patients))
    sizes = np.clip(np.round(sizes), 1, cohort.most).astype(int)
    if cohort.half:
        sizes[0] = sizes[1:].sum()
    return sizes


def simulate(cohort: Cohort, rng: np.random.Generator) -> tuple[Scores, np.ndarray]:
    """Draw one study.

    Returns:
        The scores, every case marked ``test``, and the decisions at ``cohort.threshold``, **Shape** ``(N,)``.
    """
    patient = np.repeat(np.arange(cohort.patients), sizes_of(cohort, rng))
    share = rng.beta(2, 2 * (1 - cohort.prevalence) / cohort.prevalence, cohort.patients)
    positive = rng.random(len(patient)) < share[patient]
    if not cohort.mixed:
        positive = (rng.random(cohort.patients) < cohort.prevalence)[patient]
    level = rng.normal(0, cohort.patient_effect, cohort.patients)[patient]
    shift = cohort.shift + rng.normal(0, cohort.shift_effect, cohort.patients)[patient]
    score = level + positive * shift + rng.normal(0, 1, len(patient))
    marks = np.full(len(patient), "test")
    scores = Scores(positive.astype(np.int64), score, patient, marks, ("negative", "positive"))
    return scores, (score >= cohort.threshold).astype(np.int64)


class Drawn(NamedTuple):
    """One study: its cases (where the metric is one of scores or decisions), and medcore's estimate."""

    found: Estimate
    scores: Scores | None = None
    decision: np.ndarray | None = None
    values: np.ndarray | None = None
    patient: np.ndarray | None = None


@dataclass(frozen=True)
class Setting:
    """A study to repeat: its name, the metric, the truth, and one draw of it."""

    name: str
    metric: str
    truth: float
    draw: Callable[[np.random.Generator], Drawn] = field(repr=False)


def of_cohort(name: str, cohort: Cohort, metric: str) -> Setting:
    """A metric of a ``Cohort``."""

    def draw(rng: np.random.Generator) -> Drawn:
        scores, decision = simulate(cohort, rng)
        return Drawn(interval(scores, metric, decision=decision), scores, decision)

    return Setting(name, metric, cohort.true_values()[metric], draw)


def of_rates(name: str, metric: str, patients: int, windows: float, rate: float, correlation: float, *,
             specificity: float = 0.9, one_class: bool = True) -> Setting:  # fmt: skip
    """Windows of patients whose rates scatter like a beta: sensitivity near 1, specificity, PPV at a prevalence."""
    matrix = np.array([[specificity, 1 - specificity], [1 - rate, rate]])

    def draw(rng: np.random.Generator) -> Drawn:
        patient = np.repeat(np.arange(patients), rng.poisson(windows - 1, patients) + 1)
        truth = np.ones(len(patient), int) if one_class else (rng.random(patients) < 0.5).astype(int)[patient]
        right = np.where(truth, rate, specificity)
        if correlation:
            odds = (1 - correlation) / correlation
            own = [rng.beta(share * odds, (1 - share) * odds, patients) for share in (specificity, rate)]
            right = np.where(truth, own[1][patient], own[0][patient])
        decision = np.where(rng.random(len(patient)) < right, truth, 1 - truth)
        scores = Scores(truth, decision * 1.0, patient, np.full(len(patient), "test"), ("n", "p"))
        return Drawn(interval(scores, metric, decision=decision), scores, decision)

    return Setting(name, metric, float(metric_function(metric)(matrix)), draw)


SEVEN = (0.62, 0.12, 0.10, 0.08, 0.04, 0.025, 0.015)  # shares of the classes of a skin-lesion set
DENSITY = np.array([[0.46, 0.03, 0.01], [0.06, 0.14, 0.05], [0.01, 0.05, 0.19]])  # truth down


def of_matrix(name: str, metric: str, matrix: np.ndarray, patients: int, images: float = 1.0,
              correlation: float = 0.2) -> Setting:  # fmt: skip
    """Patients of one true class each, whose images get alike decisions; the matrix holds the population's shares."""
    classes, rows = len(matrix), matrix.sum(1)

    def draw(rng: np.random.Generator) -> Drawn:
        truth = rng.choice(classes, patients, p=rows / rows.sum())
        counts = rng.poisson(images - 1, patients) + 1
        odds = (1 - correlation) / correlation
        own = np.array([rng.dirichlet(np.maximum(matrix[k] / rows[k] * odds, 1e-3)) for k in truth])
        own = own if images > 1 else matrix[truth] / rows[truth, None]
        decision = np.concatenate([rng.choice(classes, n, p=p / p.sum()) for n, p in zip(counts, own, strict=True)])
        patient = np.repeat(np.arange(patients), counts)
        scores = Scores(truth[patient], np.eye(classes)[decision], patient, np.full(len(patient), "test"),
                        tuple(f"class {k}" for k in range(classes)))  # fmt: skip
        return Drawn(interval(scores, metric, decision=decision), scores, decision)

    return Setting(name, metric, float(metric_function(metric)(matrix)), draw)


def seven_classes() -> np.ndarray:
    """Shares of true and decided class: the frequent one well recognised, errors spread by frequency."""
    recall, shares = np.array([0.9, 0.6, 0.6, 0.55, 0.5, 0.6, 0.7]), np.array(SEVEN)
    off = np.tile(shares, (7, 1)) * ~np.eye(7, dtype=bool)
    off = off / off.sum(1, keepdims=True) * (1 - recall)[:, None]
    return shares[:, None] * (off + np.diag(recall))


def dice_of(name: str, patients: int, failures: float, images: float = 1.0, uneven: float | None = None) -> Setting:
    """Mean Dice where whole patients fail (0 to 0.5) beside good ones (about 0.91); ``uneven`` as in ``Cohort``."""

    def draw(rng: np.random.Generator) -> Drawn:
        counts = rng.poisson(images - 1, patients) + 1 if uneven is None else sizes_of(
            Cohort(patients, patches=images, unevenness=uneven, most=341), rng)  # fmt: skip
        patient = np.repeat(np.arange(patients), counts)
        good = np.clip(rng.normal(0.91, 0.03, patients), 0, 1)
        level = np.where(rng.random(patients) < failures, rng.uniform(0, 0.5, patients), good)
        values = np.clip(level[patient] + rng.normal(0, 0.02, len(patient)), 0, 1)
        found = mean_interval(values, patient, name="dice", unit="image", split="test")
        return Drawn(found, values=values, patient=patient)

    return Setting(name, "dice", 0.91 * (1 - failures) + 0.25 * failures, draw)


def calibration_of(name: str, metric: str, patients: int, windows: float, slope: float, truth: float) -> Setting:
    """Probabilities whose logits are stretched by ``slope``; patients differ in level, which the model knows."""

    def draw(rng: np.random.Generator) -> Drawn:
        patient = np.repeat(np.arange(patients), rng.poisson(windows - 1, patients) + 1)
        likely = expit(rng.normal(0, 1.5, len(patient)) + rng.normal(0, 1, patients)[patient])
        truth = (rng.random(len(patient)) < likely).astype(int)
        scores = Scores(truth, expit(slope * logit(likely)), patient, np.full(len(patient), "test"), ("n", "p"))
        return Drawn(calibration_estimates(scores)[CALIBRATION.index(metric)])

    return Setting(name, metric, truth, draw)


def difference_of(name: str, metric: str, patients: int, weaker: float) -> Setting:
    """A method beside one whose positives score ``weaker`` lower."""
    cohort = Cohort(patients=patients)
    other = replace(cohort, shift=cohort.shift - weaker)
    hit = norm.cdf((cohort.threshold - weaker) / np.sqrt(1 + 0.6**2 + 0.4**2))
    quiet = norm.cdf(cohort.threshold / np.sqrt(1 + 0.6**2))
    lost = {"auroc": other.true_values()["auroc"], "accuracy": 0.4 * hit + 0.6 * quiet}[metric]

    def draw(rng: np.random.Generator) -> Drawn:
        scores, decision = simulate(cohort, rng)
        weak = replace(scores, score=scores.score - weaker * scores.truth)
        calls = (decision, (weak.score >= cohort.threshold).astype(np.int64))
        return Drawn(paired_difference(scores, weak, metric, decisions=calls))

    return Setting(name, f"{metric} difference", cohort.true_values()[metric] - lost, draw)


def dice_difference_of(name: str, patients: int, failures: tuple[float, float]) -> Setting:
    """Two methods on the same patients whose failures are independent of each other."""
    truth = [level * (1 - share) + 0.25 * share for level, share in zip((0.93, 0.91), failures, strict=True)]

    def draw(rng: np.random.Generator) -> Drawn:
        first, second = (
            np.where(rng.random(patients) < share, rng.uniform(0, 0.5, patients), rng.normal(level, 0.03, patients))
            for level, share in zip((0.93, 0.91), failures, strict=True)
        )
        values, names = np.clip(first, 0, 1) - np.clip(second, 0, 1), np.arange(patients)
        about = {"name": "dice_difference", "unit": "image", "split": "test", "bounds": (-1.0, 1.0)}
        return Drawn(mean_interval(values, names, **about), values=values, patient=names)

    return Setting(name, "dice difference", truth[0] - truth[1], draw)


def folds_of(name: str, patients: int, metric: str = "auroc", folds: int = 5, features: int = 8) -> Setting:
    """A linear discriminant over folds where there is nothing to learn."""

    def draw(rng: np.random.Generator) -> Drawn:
        label = (np.arange(patients) % 2).astype(int)
        measured = rng.normal(size=(patients, features))
        fold, score = np.arange(patients) // 2 % folds, np.zeros(patients)
        for k in range(folds):
            seen, new = measured[fold != k], measured[fold == k]
            gap = seen[label[fold != k] == 1].mean(0) - seen[label[fold != k] == 0].mean(0)
            weight = np.linalg.solve(np.cov(seen.T) + 0.1 * np.eye(features), gap)
            score[fold == k] = (new - seen.mean(0)) @ weight
        names = np.arange(patients)
        scores = Scores(label, score, names, np.full(patients, "val"), ("n", "p"), unit="patient",
                        folds=Folds(score[None], fold[None]))  # fmt: skip
        return Drawn(interval(scores, metric, decision=(score > 0).astype(np.int64)))

    return Setting(name, metric, 0.5, draw)


SETTINGS = [
    of_cohort("20 patients, both kinds of patches", Cohort(patients=20), "auroc"),
    of_cohort("40 patients, both kinds", Cohort(patients=40), "auroc"),
    of_cohort("20 patients, each of one kind", Cohort(patients=20, mixed=False), "auroc"),
    of_cohort("40 patients, each of one kind", Cohort(patients=40, mixed=False), "auroc"),
    of_cohort("40 patients, very uneven numbers of patches", Cohort(patients=40, unevenness=1.3), "auroc"),
    of_cohort("40 patients, 15 % positive", Cohort(patients=40, mixed=False, prevalence=0.15), "auroc"),
    of_cohort("40 patients, AUROC 0.98", Cohort(patients=40, mixed=False, shift=3.5), "auroc"),
    of_cohort("30 patients who do not differ", Cohort(patients=30, patient_effect=0, shift_effect=0), "auroc"),
    of_cohort("one patient with half of the patches", Cohort(patients=30, half=True), "auroc"),
    of_cohort("1 to 341 patches a patient", Cohort(patients=40, patches=12, unevenness=1.2, most=341), "auroc"),
    of_cohort("40 patients, AUROC 0.98", Cohort(patients=40, mixed=False, shift=3.5), "balanced_accuracy"),
    of_cohort("20 patients, both kinds of patches", Cohort(patients=20), "balanced_accuracy"),
    of_cohort("one patient with half of the patches", Cohort(patients=30, half=True), "balanced_accuracy"),
    of_cohort("1 to 341 patches a patient", Cohort(patients=40, patches=12, unevenness=1.2, most=341), "accuracy"),
    of_rates("20 patients, 3 windows each, correlation 0.1", "sensitivity", 20, 3, 0.98, 0.1),
    of_rates("20 patients, 20 windows each, correlation 0.1", "sensitivity", 20, 20, 0.95, 0.1),
    of_rates("10 patients, 20 windows each, correlation 0.3", "sensitivity", 10, 20, 0.95, 0.3),
    of_rates("57 patients, one image each", "sensitivity", 57, 1, 0.98, 0.0),
    of_rates("78 patients, one image each", "ppv@0.05", 78, 1, 0.8, 0.0, one_class=False),
    of_rates("40 patients, 8 windows each", "ppv@0.05", 40, 8, 0.8, 0.1, one_class=False),
    of_matrix("300 lesions, 7 imbalanced classes", "macro_f1", seven_classes(), 300),
    of_matrix("120 patients with 3 images, 7 classes", "balanced_accuracy", seven_classes(), 120, 3.0),
    of_matrix("78 patients, 3 densities", "quadratic_kappa", DENSITY, 78),
    dice_of("15 patients, 10 % fail", 15, 0.1),
    dice_of("15 patients, none fails", 15, 0.0),
    calibration_of("20 patients, calibrated", "calibration_error", 20, 20, 1.0, 0.0),
    calibration_of("60 patients with one image, calibrated", "calibration_error", 60, 1, 1.0, 0.0),
    calibration_of("20 patients, calibrated", "calibration_slope", 20, 20, 1.0, 1.0),
    difference_of("30 patients, both kinds", "auroc", 30, 0.5),
    difference_of("30 patients, both kinds", "accuracy", 30, 0.5),
    dice_difference_of("15 patients, only the second method fails, 10 %", 15, (0.0, 0.1)),
    dice_difference_of("30 patients, 5 % and 20 % fail", 30, (0.05, 0.2)),
    folds_of("60 patients, nothing to learn", 60),
    folds_of("120 patients, nothing to learn", 120),
    folds_of("60 patients, nothing to learn", 60, "balanced_accuracy"),
]
# settings and seeds that had no part in the choice of a construction
CONFIRMED = [
    of_cohort(
        "25 patients, 30 % positive, each of one kind", Cohort(patients=25, mixed=False, prevalence=0.3), "auroc"
    ),
    of_cohort("50 patients with 6 patches", Cohort(patients=50, patches=6, patient_effect=0.9), "balanced_accuracy"),
    of_cohort("50 patients with 6 patches", Cohort(patients=50, patches=6, patient_effect=0.9), "specificity"),
    of_cohort("30 patients, each of one kind", Cohort(patients=30, mixed=False, shift=2.5), "mcc"),
    of_cohort("30 patients, each of one kind", Cohort(patients=30, mixed=False, shift=2.5), "ppv"),
    of_cohort("30 patients, each of one kind", Cohort(patients=30, mixed=False, shift=2.5), "f1"),
    of_cohort("15 patients, one with half of the patches", Cohort(patients=15, half=True, patches=8), "accuracy"),
    of_rates("27 patients, 4 windows each, correlation 0.2", "sensitivity", 27, 4, 0.97, 0.2),
    of_rates("12 patients, 9 windows each, correlation 0.15", "sensitivity", 12, 9, 0.92, 0.15),
    of_rates("50 patients, 5 windows each", "npv@0.2", 50, 5, 0.85, 0.2, one_class=False),
    of_matrix("200 patients, 7 imbalanced classes", "macro_f1", seven_classes(), 200),
    of_matrix("400 lesions, 7 imbalanced classes", "macro_f1", seven_classes(), 400),
    of_matrix("60 patients, 3 densities", "quadratic_kappa", DENSITY, 60),
    of_matrix("60 patients with 2 images, 3 densities", "kappa", DENSITY, 60, 2.0, 0.3),
    dice_of("6 patients, 10 % fail", 6, 0.1),
    dice_of("10 patients, 10 % fail", 10, 0.1),
    dice_of("40 patients with 3 images, 10 % fail", 40, 0.1, 3.0),
    dice_of("8 patients, none fails", 8, 0.0),
    dice_of("12 patients, 20 % fail", 12, 0.2),
    dice_of("25 patients, 4 % fail", 25, 0.04),
    dice_of("20 patients with 1 to 341 images, 10 % fail", 20, 0.1, 6.0, 1.2),
    calibration_of("25 patients with 12 windows, calibrated", "calibration_error", 25, 12, 1.0, 0.0),
    calibration_of("35 patients, overconfident", "calibration_slope", 35, 8, 1.6, 1 / 1.6),
    calibration_of("35 patients, overconfident", "calibration_intercept", 35, 8, 1.0, 0.0),
    difference_of("18 patients, both kinds", "accuracy", 18, 0.3),
    dice_difference_of("8 patients, 15 % of the first method fail", 8, (0.15, 0.0)),
    dice_difference_of("20 patients, both fail in 8 %", 20, (0.08, 0.08)),
    dice_difference_of("40 patients, 2 % and 10 % fail", 40, (0.02, 0.1)),
    folds_of("90 patients, ten folds, 30 features, nothing to learn", 90, "auroc", 10, 30),
    folds_of("150 patients, three folds, nothing to learn", 150, "auroc", 3, 5),
    folds_of("90 patients, ten folds, 30 features, nothing to learn", 90, "balanced_accuracy", 10, 30),
]
