"""Several findings an image: each judged by itself, their mean, and a threshold of each chosen on validation images.

    parts = finding_scores(patches.where(split="val"), predict(model, patches.where(split="val")))
    chosen = finding_thresholds(parts)
    findings_estimates(finding_scores(test, predict(model, test)), chosen)

Images whose finding is uncertain or not stated play no part in that finding: nobody knows the truth. So findings have
different numbers of images, and each estimate tells its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from medcore.evaluation.estimate import Estimate, not_estimable
from medcore.evaluation.intervals import interval, over_parts
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import choose_threshold

RANKED = ("auroc", "average_precision")


def estimable(parts: Mapping[str, Scores]) -> dict[str, Scores]:
    """The findings that some images have and others have not."""
    return {name: scores for name, scores in parts.items() if 0 < scores.positive.sum() < len(scores)}


def finding_thresholds(parts: Mapping[str, Scores]) -> dict[str, float]:
    """The probability of each finding from which on it is called present: Youden's, on validation images.

    A finding that the images do not tell both ways of keeps 0.5.

    Raises:
        TestDataRefused: An image is marked test.
    """
    known = estimable(parts)
    return {
        name: float(choose_threshold(scores, "youden").threshold) if name in known else 0.5
        for name, scores in parts.items()
    }


def findings_estimates(parts: Mapping[str, Scores], thresholds: Mapping[str, float]) -> list[Estimate]:
    """Mean over the findings first (macro), all of them pooled (micro), then each: ranking, and the decision.

    Args:
        parts: As from ``finding_scores``.
        thresholds: Of each finding.

    Returns:
        Named ``macro_auroc``, ``micro_auroc``, ``auroc NAME`` and the like; a finding without both sides has no value
        and no part in the mean, which its note says.
    """
    known, found = estimable(parts), []
    for metric in RANKED if known else ():
        pooled = interval(_pooled(known), metric)
        note = "; ".join(filter(None, [f"{pooled.n} pairs of image and finding", pooled.note]))
        found += [macro(parts, metric), replace(pooled, name=f"micro_{metric}", n=image_count(known), note=note)]
    for name, scores in parts.items():
        decision = (scores.positive_score >= thresholds[name]).astype(np.int64)
        each = [interval(scores, metric) for metric in RANKED]
        each += [interval(scores, metric, decision=decision) for metric in ("sensitivity", "specificity")]
        found += [replace(one, name=f"{one.name} {name}") for one in each]
    return found


def macro(parts: Mapping[str, Scores], metric: str) -> Estimate:
    """The mean of a metric over the findings that have both sides; patients are resampled together."""
    known, first = estimable(parts), next(iter(parts.values()))
    if not known:
        why = "no finding is known to be both present and absent"
        return not_estimable(f"macro_{metric}", why, n=len(first), unit=first.unit, split=first.side)
    mean = over_parts([*known.values()], metric, lambda *each: sum(each) / len(each), name=f"macro_{metric}")
    left = [name for name in parts if name not in known]
    note = f"mean over {len(known)} of {len(parts)} findings" + (f"; not {', '.join(left)}" if left else "")
    return replace(mean, note="; ".join(filter(None, [note, mean.note])), n=image_count(known))


def image_count(parts: Mapping[str, Scores]) -> int:
    """How many different images some findings are known of: pairs of image and finding are more."""
    known = [part.ids if part.ids is not None else np.arange(len(part)) for part in parts.values()]
    return len(np.unique(np.concatenate(known)))


def _pooled(parts: Mapping[str, Scores]) -> Scores:
    """The cases of all findings as one set."""
    first = next(iter(parts.values()))
    columns = ("truth", "score", "patient", "split")
    truth, score, patient, split = (np.concatenate([getattr(one, name) for one in parts.values()]) for name in columns)
    return replace(first, truth=truth, score=score, patient=patient, split=split, ids=None)
