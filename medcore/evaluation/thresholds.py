"""Youden's threshold, steadily: off the bare ROC it jumps between near-equals wherever cases are few.

- ``smooth_youden`` for many cases (windows): smoothed distributions of any shape.
- ``logistic_youden`` for few cases (patients): a logistic curve, which says where a score speaks for neither class.

    threshold = logistic_youden(scores.where("val"))

Where is the decision threshold chosen? Here: on validation cases, by a named rule, and applied elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtr

from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores, refuse_test_data

SMOOTH_STEPS = 400  # thresholds that are tried
NEARLY = 0.02  # of sensitivity + specificity: what hardly matters


def smooth_youden(scores: Scores) -> float:
    """The threshold of the largest sensitivity + specificity, averaged over all that are nearly as good.

    Both distributions are smoothed by a Gaussian kernel, and the thresholds are averaged with weight
    exp((J − largest J) / ``NEARLY``), J = sensitivity + specificity − 1.

    Args:
        scores: Two classes, both present, marked ``train`` or ``val``.

    Raises:
        TestDataRefused: A case is marked ``test``.
        MedcoreError: One class only, or all scores equal.

    **Reference** Fluss, Faraggi & Reiser 2005, doi:10.1002/bimj.200410135 (kernels); Syring & Martin 2017,
    doi:10.1016/j.jspi.2017.03.001 (weights).
    """
    choose_threshold(scores)  # refuses whatever no threshold can be chosen on
    ill, well = scores.score[scores.positive], scores.score[~scores.positive]
    values = np.unique(np.quantile(scores.score, np.linspace(0, 1, min(len(scores), SMOOTH_STEPS))))
    grid = (values[1:] + values[:-1]) / 2
    above = [ndtr((part - grid[:, None]) / _bandwidth(part)).mean(axis=1) for part in (ill, well)]
    gain = above[0] - above[1]
    return float(np.average(grid, weights=np.diff(values) * np.exp((gain - gain.max()) / NEARLY)))


def logistic_youden(scores: Scores) -> float:
    """The score at which a case is as likely positive as negative, were both classes equally common.

    There sensitivity + specificity is largest. A logistic curve is drawn through the logit of the score's place between
    the lowest and the highest one, which suits shares and probabilities; both classes weigh alike. Where the curve
    falls, the score says nothing that could be relied on, and the bare ROC decides.

    Args:
        scores: Two classes, both present, marked ``train`` or ``val``.

    Raises:
        TestDataRefused: A case is marked ``test``.
        MedcoreError: One class only, or all scores equal.

    **Reference** Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3. The logit as the form
    of a calibration: Kull, Silva Filho & Flach 2017, doi:10.1214/17-EJS1338SI (here with equal parameters).
    """
    from sklearn.linear_model import LogisticRegression

    bare = choose_threshold(scores).threshold  # refuses whatever no threshold can be chosen on
    values = scores.positive_score
    low, width, edge = values.min(), np.ptp(values), 0.5 / (len(values) + 1)
    place = logit(edge + (1 - 2 * edge) * (values - low) / width)
    curve = LogisticRegression(class_weight="balanced").fit(place[:, None], scores.positive)
    if curve.coef_[0, 0] <= 0:
        return bare
    even = expit(-curve.intercept_[0] / curve.coef_[0, 0])
    return float(low + width * np.clip((even - edge) / (1 - 2 * edge), 0, 1))


def _bandwidth(score: np.ndarray) -> float:
    """Half of Silverman's rule of thumb, which is meant for one hump; a sliver of the value where all are equal."""
    spread = float(np.std(score))
    quartiles = float(np.subtract(*np.quantile(score, [0.75, 0.25]))) / 1.349
    width = 0.45 * (min(spread, quartiles) or spread) * len(score) ** -0.2
    return width or max(1e-9, 1e-6 * abs(float(score[0])))


RULES = ("youden", "sensitivity>=0.95", "specificity>=0.90", "cost 5:1")
_RULE = re.compile(
    r"(youden)|(sensitivity|specificity)\s*>=\s*([0-9.]+)|cost\s+([0-9.]+)\s*:\s*([0-9.]+)", re.IGNORECASE
)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and everything a reviewer asks about it.

    Attributes:
        threshold: A case is called positive when its score is at least this.
        rule: By which rule it was chosen.
        chosen_on: On which side(s): ``train``, ``val``, ``train+val``.
        n: On how many cases.
        sensitivity: On those cases, 0 to 1.
        specificity: On those cases, 0 to 1.
        positives: How many of the cases were positive.
        patients: From how many patients they come.
        note: What the reader must know, empty when nothing.
    """

    threshold: float
    rule: str
    chosen_on: str
    n: int
    sensitivity: float
    specificity: float
    positives: int = 0
    patients: int = 0
    note: str = ""

    def apply(self, scores: Scores | np.ndarray) -> np.ndarray:
        """Decide: 1 where the score is at least the threshold, else 0. **Shape** ``(N,)`` int64.

        Raises:
            MedcoreError: A score is not finite.
        """
        values = scores.positive_score if isinstance(scores, Scores) else np.asarray(scores, dtype=float)
        broken = np.flatnonzero(~np.isfinite(values))
        if len(broken):
            raise MedcoreError(f"threshold: scores[{broken[0]}] is {values[broken[0]]}; no decision can be made on it")
        return (values >= self.threshold).astype(np.int64)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        share = f"{self.positives} of {self.n} {self.chosen_on} cases positive"
        return (
            f"threshold {self.threshold:.4g} by rule {self.rule!r} ({share}): "
            f"sensitivity {self.sensitivity:.3f}, specificity {self.specificity:.3f} there"
            + (f"; {self.note}" if self.note else "")
        )


class OperatingCurve(NamedTuple):
    """All decisions that one score allows, from all called positive to none. Each **Shape** ``(T,)``."""

    thresholds: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray


def operating_curve(positive: np.ndarray, score: np.ndarray) -> OperatingCurve:
    """Sensitivity and specificity at every threshold that makes a difference.

    Thresholds lie halfway between neighbouring scores, so that a new case close to an old one falls on its side.

    Args:
        positive: Whether a case is positive; both kinds must occur. **Shape** ``(N,)`` bool.
        score: Higher = more likely positive. **Shape** ``(N,)``.
    """
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=float)
    values, index = np.unique(score, return_inverse=True)
    halfway = values[:-1] / 2 + values[1:] / 2
    halfway = np.where(halfway > values[:-1], halfway, values[1:])  # two scores without a number between them
    thresholds = np.concatenate([values[:1], halfway, [np.nextafter(values[-1], np.inf)]])
    hits = np.bincount(index[positive], minlength=len(values))
    alarms = np.bincount(index[~positive], minlength=len(values))
    missed, quiet = np.append(0, hits.cumsum()), np.append(0, alarms.cumsum())
    return OperatingCurve(thresholds, 1 - missed / positive.sum(), quiet / (~positive).sum())


def choose_threshold(scores: Scores, rule: str = "youden") -> OperatingPoint:
    """Choose a threshold on validation cases.

    Where several thresholds are equally good by the rule, the one with the most balanced sensitivity and specificity
    is taken, then the lowest.

    Args:
        scores: Two classes, every case marked ``train`` or ``val``.
        rule: See the top of this file.

    Raises:
        TestDataRefused: A case is marked ``test`` or not marked.
        MedcoreError: Unknown rule, no case, one class only, or all scores equal.
    """
    refuse_test_data(scores, "a threshold")
    name, first, second = parse_rule(rule)
    positive, score = scores.positive, scores.positive_score
    _explain_impossible(scores, positive, score)
    curve = operating_curve(positive, score)
    order = _by_rule(curve, name, first, second, float(positive.mean()))
    return point_at(scores, float(curve.thresholds[order[0]]), rule)


def point_at(scores: Scores, threshold: float, rule: str) -> OperatingPoint:
    """What a threshold does on the cases that it was chosen on.

    Args:
        scores: Two classes, both present, every case marked ``train`` or ``val``.
        threshold: A case is called positive when its score is at least this.
        rule: By which rule it was chosen.

    Raises:
        TestDataRefused: A case is marked ``test`` or not marked.
    """
    refuse_test_data(scores, "a threshold")
    positive, called = scores.positive, scores.positive_score >= threshold
    sensitivity = float(1 - (positive & ~called).sum() / positive.sum())
    specificity = float((~positive & ~called).sum() / (~positive).sum())
    return OperatingPoint(
        threshold=threshold,
        rule=rule,
        chosen_on=scores.side,
        n=len(scores),
        sensitivity=sensitivity,
        specificity=specificity,
        positives=int(positive.sum()),
        patients=scores.patients,
        note=_note(sensitivity, specificity),
    )


def parse_rule(rule: str) -> tuple[str, float, float]:
    """Read a rule: its name and its one or two numbers (0 where it has none).

    Raises:
        MedcoreError: It is no rule, or its number is out of range.
    """
    found = _RULE.fullmatch(rule.strip()) if isinstance(rule, str) else None
    if found is None:
        raise MedcoreError(f"rule={rule!r} is not known; rules are written like {', '.join(map(repr, RULES))}")
    if found[1]:
        return "youden", 0.0, 0.0
    name, numbers = (found[2].lower(), [found[3]]) if found[2] else ("cost", [found[4], found[5]])
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        raise MedcoreError(f"rule={rule!r}: {numbers} are not numbers") from None
    if name == "cost" and min(values) <= 0:
        raise MedcoreError(f"rule={rule!r}: both costs must be above 0")
    if name != "cost" and not 0 < values[0] <= 1:
        raise MedcoreError(f"rule={rule!r}: {values[0]} must lie above 0 and at most at 1")
    return name, values[0], values[-1]


def _explain_impossible(scores: Scores, positive: np.ndarray, score: np.ndarray) -> None:
    negative_name, positive_name = scores.classes
    if not len(scores):
        raise MedcoreError("a threshold cannot be chosen: there are no cases; is the validation side empty?")
    if positive.all() or not positive.any():
        there, missing = (positive_name, negative_name) if positive.all() else (negative_name, positive_name)
        raise MedcoreError(
            f"a threshold cannot be chosen: all {len(scores)} {scores.side} cases are {there!r}, none is {missing!r}; "
            "put patients of both kinds on the validation side"
        )
    if score.min() == score.max():
        raise MedcoreError(
            f"a threshold cannot be chosen: all {len(scores)} scores are equal ({score[0]:g}), so they separate "
            "nothing; did the model train, and is every image different?"
        )


def _by_rule(curve: OperatingCurve, name: str, first: float, second: float, prevalence: float) -> np.ndarray:
    """Thresholds from best to worst."""
    sensitivity, specificity, slack = curve.sensitivity, curve.specificity, 1e-9
    if name == "youden":
        goodness = sensitivity + specificity
    elif name == "cost":
        goodness = -(first * prevalence * (1 - sensitivity) + second * (1 - prevalence) * (1 - specificity))
    elif name == "sensitivity":
        goodness = np.where(sensitivity >= first - slack, specificity, -1.0)
    else:
        goodness = np.where(specificity >= first - slack, sensitivity, -1.0)
    return np.lexsort([curve.thresholds, -np.minimum(sensitivity, specificity), -np.round(goodness, 12)])


def _note(sensitivity: float, specificity: float) -> str:
    if sensitivity == 0:
        return "the rule is met only by calling every case negative"
    if specificity == 0:
        return "the rule is met only by calling every case positive"
    return ""
