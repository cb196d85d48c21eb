"""``results.json``: what a run found, as a typed and versioned model that other programs can rely on.

``python -m medcore.reporting.results`` prints its JSON Schema, which stands in ``reports/results.schema.json``.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medcore.data.npzfile import atomic_path
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate, metric_name

SCHEMA = "medcore.results/2"
FILE_NAME = "results.json"
RUN_NOTEBOOK, REPORT = "notebook.ipynb", "report.html"  # the executed notebook and its report, in a run's folder
Status = Literal["running", "ok", "raised", "timed out", "killed", "out of memory", "interrupted"]


@dataclass(frozen=True)
class MethodEstimate(Estimate):
    """An estimate that another method reached, or that a method is set against.

    Attributes:
        baseline: Name of the method.
        trivial: Whether any model has to beat it; False for a rival, or for a way of measuring that flatters.
    """

    baseline: str = ""
    trivial: bool = True


class Section(BaseModel):
    """A part of the results; what a newer version adds is kept."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Data(Section):
    """The set that a run stands on: its card, its size and its split; without a fingerprint none was used."""

    name: str = ""
    title: str = ""
    task: str = "classification"
    classes: list[str] = []
    abnormal: list[str] = []
    licence: str = ""
    citation: str = ""
    homepage: str = ""
    pixel_size_um: float | None = None
    group: str = "patient"
    case: str = "image"
    patients_known: bool = True
    synthetic: bool = False
    recipe: dict[str, Any] = {}
    conversions: dict[str, int] = {}
    excluded: list[dict[str, Any]] = []
    warnings: list[str] = []
    fingerprint: str = ""
    images: int = 0
    patients: int = 0
    shape: list[int] = []
    columns: list[str] = []
    source: str = ""
    splits: list[dict[str, Any]] = []

    @property
    def unit(self) -> str:
        """What the patients of the set are: ``patient``, ``lesion``, or ``image`` where none is known."""
        return self.group if self.fingerprint and self.patients_known else "image"


class AuditFacts(Section):
    """Verdict and findings of the leakage audit; without a verdict it was not run."""

    verdict: str = ""
    passed: bool = False
    findings: list[dict[str, Any]] = []


class Validation(Section):
    """The metric on validation data that choices may be based on; without a name there is none."""

    name: str = ""
    value: float | None = None
    mode: Literal["min", "max", ""] = ""


class Answer(Section):
    """One question of the reporting guidelines."""

    question: str
    guidelines: list[str] = []
    numbers: list[str] = []  # of the item in each guideline; empty where it is asked without a number
    answered: bool = False
    answer: str = ""
    where: str = ""  # anchor in the report, or words of the heading, of the section that proves it


class Picture(Section):
    """The thumbnail of a run."""

    file: str = ""
    alt: str = ""


class Results(BaseModel):
    """Everything that a run says of itself."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), populate_by_name=True)

    version: Literal["medcore.results/1", "medcore.results/2"] = Field(
        default="medcore.results/2", validation_alias="schema", serialization_alias="schema"
    )
    notebook: str
    title: str = ""
    status: Status = "running"
    cell: int | None = None
    error: str | None = None
    parameters: dict[str, Any] = {}
    changed: list[str] = []
    summary: str = ""
    answer: str = ""  # one plain sentence that answers the title; else it is built from the headline
    data: Data = Data()
    model: dict[str, Any] = {}
    metrics: list[Estimate] = []
    baselines: list[MethodEstimate] = []
    differences: list[MethodEstimate] = []
    validation: Validation = Validation()
    audit: AuditFacts = AuditFacts()
    answers: dict[str, str] = {}
    checklist: list[Answer] = []
    environment: dict[str, Any] = {}
    command: str = ""
    warnings: list[str] = []
    started: str = ""
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    picture: Picture = Picture()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, as they stand in the file; NaN and infinity become null."""
        return dict(json_types(self.model_dump(by_alias=True)))


def headline_text(results: Results) -> str:
    """The first metric with its interval in a line; empty where there is none."""
    return f"{metric_name(results.metrics[0].name)} {results.metrics[0]}" if results.metrics else ""


def read_results(path: Path) -> Results:
    """Read ``results.json`` (a file or its folder).

    Raises:
        MedcoreError: It is missing, unreadable or of a schema this version does not know.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MedcoreError(f"{path} does not exist: is this the folder of a finished run?") from None
    except (ValueError, OSError, RecursionError) as error:
        raise MedcoreError(f"{path} is not readable ({error})") from None
    return checked(content, str(path))


def checked(content: Any, where: str) -> Results:
    """Results from plain JSON types.

    Raises:
        MedcoreError: They are of another schema, or a value is not of its type.
    """
    version = content.get("schema") if isinstance(content, dict) else type(content).__name__
    try:
        return Results.model_validate(json_types(content))
    except (ValidationError, MedcoreError, RecursionError) as error:
        known = isinstance(version, str) and version.startswith("medcore.results/")
        hint = "" if version == SCHEMA else "; was it written by another version?"
        kind = "not a results.json" if not known else str(version)[:60]
        raise MedcoreError(f"{where}: {kind} that cannot be used ({_first_fault(error)}){hint}") from None


def _first_fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)[:200]
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))[:60]}: {first['msg'][:120]}"


def write_results(folder: Path, results: Results) -> Path:
    """Write ``results.json`` atomically."""
    path = folder / FILE_NAME
    with atomic_path(path) as temporary:
        text = json.dumps(results.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text, encoding="utf-8")
    return path


def json_types(value: Any) -> Any:
    """Plain JSON types: arrays as lists, paths as text, NaN and infinity as None, no half characters."""
    if isinstance(value, dict):
        return {json_types(str(key)): json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [json_types(item) for item in value]
    if hasattr(value, "tolist"):
        return json_types(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (int, bool)):
        return value
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")  # half characters come from file names that are no UTF-8


if __name__ == "__main__":
    print(json.dumps(Results.model_json_schema(by_alias=True), indent=1, ensure_ascii=False))
