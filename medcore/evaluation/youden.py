"""Youden's threshold, steadily: off the bare ROC it jumps between near-equals wherever cases are few.

- ``smooth_youden`` for many cases (windows): smoothed distributions of any shape.
- ``logistic_youden`` for few cases (patients): a logistic curve, which says where a score speaks for neither class.

    threshold = logistic_youden(scores.where("val"))
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit, ndtr
from sklearn.linear_model import LogisticRegression

from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import choose_threshold

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
