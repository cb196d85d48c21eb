"""The choices of a study in one small frozen dataclass, which its notebook shows as a table.

@dataclass(frozen=True)
class MyChoices(Choices):
folds: int = setting(5, "Folds over patients.", "folds")

MyChoices.from_parameters(p).table()      # field, value, unit, meaning
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd


@dataclass(frozen=True)
class Choices:
    """A frozen dataclass whose fields are made by ``training.config.setting``."""

    @classmethod
    def from_parameters(cls, parameters: Any, **others: Any) -> Self:
        """Choices from a notebook's parameters of the same names (those that are not None), and ``others``."""
        names = [field.name for field in dataclasses.fields(cls)]
        given = {name: value for name in names if (value := getattr(parameters, name, None)) is not None}
        return cls(**given | others)

    def table(self) -> pd.DataFrame:
        """One row per field: its value, unit and meaning."""
        rows = [
            {
                "choice": f.name,
                "value": getattr(self, f.name),
                "unit": f.metadata["unit"],
                "meaning": f.metadata["help"],
            }
            for f in dataclasses.fields(self)
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("choice")
