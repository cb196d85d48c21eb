"""``Grade.csv``-like tables: image name to patient and grade, whatever the spelling of the columns."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from medcore.data.readers.tables import read_table
from medcore.errors import MedcoreError


@dataclass(frozen=True)
class Grade:
    """What the table says about one image: patient (may be empty), grade in lower case, further columns."""

    patient: str
    grade: str
    further: dict[str, str] = field(default_factory=dict)


def grade_file(root: Path) -> Path | None:
    """``Grade.csv`` or ``grades.csv`` beside the images, in any spelling."""
    names = sorted(root.glob("*.csv"))
    return next((path for path in names if path.stem.lower() in ("grade", "grades")), None)


def read_grades(path: Path) -> dict[str, Grade]:
    """Patient and grade by image name.

    Args:
        path: A CSV with a column for the name of the image (``name``), and optionally columns whose names hold
            ``patient`` and ``grade``; the first ``grade`` column counts, others are kept under their names.

    Raises:
        MedcoreError: No name column, or one image with two different rows.
    """
    table = read_table(path)
    keys = [_plain(name) for name in table.header]
    name_at = next((k for k, key in enumerate(keys) if key in ("name", "image", "file", "image_name")), None)
    if name_at is None:
        raise MedcoreError(f"{path}: there is no column 'name'; it has {', '.join(table.header)}")
    patient_at = next((k for k, key in enumerate(keys) if "patient" in key), None)
    grade_at = next((k for k, key in enumerate(keys) if "grade" in key), None)
    grades: dict[str, Grade] = {}
    for index, row in enumerate(table.rows):
        used = (name_at, patient_at, grade_at)
        further = {keys[k]: value for k, value in enumerate(row) if k not in used}
        entry = Grade(row[patient_at] if patient_at is not None else "",
                      row[grade_at].lower() if grade_at is not None else "", further)  # fmt: skip
        stem = (
            Path(row[name_at]).stem if Path(row[name_at]).suffix.lower() in (".bmp", ".png", ".jpg") else row[name_at]
        )
        if grades.get(stem, entry) != entry:
            raise MedcoreError(
                f"{table.place(index)}: '{stem}' stands twice with different values; correct one of them"
            )
        grades[stem] = entry
    return grades


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
