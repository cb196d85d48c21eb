"""What needs no model: the patient scores that every diagnosis is read beside.

nested_patients(cohort, rule(cohort, "red share"))     # the trivial rule
nested_patients(cohort, number_of_windows(cohort))     # the shortcut of how the set was made
"""

from __future__ import annotations

import numpy as np

from medcore.evaluation.aggregation import aggregate
from medcore.evaluation.cohort import Cohort
from medcore.evaluation.nested import LearnPatients


def rule(cohort: Cohort, score: str, aggregation: str = "top3") -> LearnPatients:
    """A patient score from a window score that learns nothing: by default the mean of the three highest windows.

    Args:
        cohort: Windows with the score.
        score: Its name.
        aggregation: One of ``AGGREGATIONS`` that needs no threshold (``top3``, ``mean``).
    """
    values, owner = cohort.score(score)[cohort.counted], cohort.owner[cohort.counted]
    found = aggregate(aggregation, values, np.zeros(len(values), dtype=bool), owner, len(cohort))
    return lambda excluded: found


def number_of_windows(cohort: Cohort) -> LearnPatients:
    """How many windows a patient has. It says nothing of tissue: where it tells patients apart, the set was made so."""
    found = cohort.windows_per_patient.astype(np.float64)
    return lambda excluded: found
