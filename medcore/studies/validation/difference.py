"""External minus development: a difference between two independent groups of patients, from both intervals.

    independent_difference(external, development)     # of the same metric, on other patients

Both estimates carry an interval of their own, made for their metric and their patients. The interval of the difference
adds the squared distances of the limits that work against each other ("square and add"), so that it keeps their
asymmetry. It treats the model as fixed.

**Reference**: Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I; Zou & Donner 2008,
doi:10.1002/sim.3095 (for any pair of intervals).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medcore.evaluation.estimate import Estimate, not_estimable

METHOD = "square and add of both intervals, other patients"


def independent_difference(external: Estimate, development: Estimate) -> Estimate:
    """The external estimate minus that of the development, with its interval.

    Args:
        external: On patients who had no part in the development.
        development: The same metric at the same level.
    """
    name, about = f"{external.name}_difference", {"n": external.n, "unit": external.unit, "split": external.split}
    parts = (external.value, external.low, external.high, development.value, development.low, development.high)
    if any(part is None for part in parts) or external.level != development.level:
        return not_estimable(name, "one of both has no interval", **about)  # type: ignore[arg-type]
    value, low, high, before, before_low, before_high = (float(part) for part in parts)  # type: ignore[arg-type]
    gap = value - before
    down = float(np.hypot(value - low, before_high - before))
    up = float(np.hypot(high - value, before - before_low))
    return Estimate(name, gap, gap - down, gap + up, level=external.level, method=METHOD, **about)  # type: ignore[arg-type]


def stored_estimates(rows: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    """Estimates out of a model folder, the first of each name: what a run led with."""
    found: dict[str, Estimate] = {}
    for row in rows:
        known = {name: row[name] for name in Estimate.__dataclass_fields__ if name in row}
        found.setdefault(str(row["name"]), Estimate(**known))
    return found


def in_words(difference: Estimate) -> str:
    """Whether a cohort is shown to be better or worse than the development, by the interval."""
    if difference.low is None or difference.high is None:
        return "not known"
    if difference.low > 0:
        return "higher here"
    return "lower here" if difference.high < 0 else "no difference shown"
