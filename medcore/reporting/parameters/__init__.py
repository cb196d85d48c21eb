"""Parameters of the notebooks: names, types, ranges, profiles; checked before any kernel starts.

- One class per notebook with the types and ranges; names and defaults are those of the notebook's ``parameters`` cell.
- ``profile`` (smoke, quick, full) fills only what the user left as ``None``.
"""

from medcore.reporting.parameters.checks import did_you_mean, literals, read_literal, schema_for, validate
from medcore.reporting.parameters.schemas import PROFILE_VARIABLE, SCHEMAS, SOURCES, Parameters

__all__ = [
    "PROFILE_VARIABLE", "SCHEMAS", "SOURCES", "Parameters",
    "did_you_mean", "literals", "read_literal", "schema_for", "validate",
]  # fmt: skip
