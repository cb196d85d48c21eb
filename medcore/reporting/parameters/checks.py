"""Check parameters before any kernel starts: unknown names get a "did you mean", types are strict, ranges hold."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from medcore.data.source import repository_root
from medcore.errors import MedcoreError
from medcore.reporting.parameters.schemas import COMMON, SCHEMAS, Parameters


def schema_for(notebook: str | Path, history: Sequence[str] = ()) -> type[Parameters]:
    """The schema of a notebook: types, ranges and profiles from here where it is one of ours, defaults from its cell.

    Args:
        history: Sources that a kernel has run, for a notebook whose file is not here: the first that holds nothing but
            literals is its parameters cell.

    Raises:
        MedcoreError: The notebook is missing, unreadable, or has not exactly one cell of literals tagged so.
    """
    path = located(Path(notebook))
    if path.is_file():
        return _schema(path, path.stat().st_mtime_ns)
    for source in history:
        with suppress(MedcoreError, SyntaxError):
            values = literals(source, path.name)
            if values.keys() & Parameters.model_fields.keys():
                return with_defaults(path.stem, values)
    raise MedcoreError(f"notebook {notebook} does not exist")


@lru_cache(maxsize=32)
def _schema(path: Path, changed: int) -> type[Parameters]:
    return with_defaults(path.stem, literals(parameters_source(path), str(path)))


def with_defaults(stem: str, defaults: dict[str, Any]) -> type[Parameters]:
    """The schema of a notebook whose parameters cell holds these names and values."""
    base = SCHEMAS.get(stem, Parameters)
    fields: dict[str, Any] = {}
    absent = dict.fromkeys(base.model_fields)  # an older copy of a notebook lacks what was added since
    for name, value in (absent | COMMON | defaults).items():
        known = base.model_fields.get(name)
        fields[name] = (known.rebuild_annotation() if known else Any if value is None else type(value) | None, value)
    return create_model(re.sub(r"\W", "_", stem), __base__=base, **fields)


def located(notebook: Path) -> Path:
    """A notebook by its name alone is looked for here and among the checkout's notebooks."""
    root, name = repository_root(), f"{notebook.stem}.ipynb"
    places = [notebook, Path(name), *([root / "notebooks" / name] if root else [])]
    return next((place for place in places if place.is_file()), notebook)


def validate(notebook: str | Path, raw: dict[str, Any], schema: type[Parameters] | None = None) -> dict[str, Any]:
    """Check parameters for one notebook before any kernel starts.

    Args:
        notebook: Path or stem of the notebook.
        raw: Names and values; a ``str`` from the command line is read as the parameter's type.
        schema: Its schema where that is known.

    Returns:
        The values, typed, and nothing that was not given.

    Raises:
        MedcoreError: A name is unknown (with a "did you mean"), a type is wrong or a value out of its range.
    """
    schema, stem = schema or schema_for(notebook), Path(notebook).stem
    checked = {name: _typed(schema, name, value, stem) for name, value in raw.items()}
    try:
        schema.model_validate(checked)
    except ValidationError as error:
        raise MedcoreError(f"notebook {stem}: {_explain(error)}") from None
    return checked


def _typed(schema: type[Parameters], name: str, value: Any, stem: str) -> Any:
    if name not in schema.model_fields:
        raise MedcoreError(f"notebook {stem} has no parameter {name!r}{did_you_mean(name, list(schema.model_fields))}")
    field = schema.model_fields[name]
    adapter: TypeAdapter[Any] = TypeAdapter(  # type: ignore[arg-type]
        Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation,  # type: ignore[arg-type]
        config=ConfigDict(strict=True),
    )
    candidates = [read_literal(value), value] if isinstance(value, str) else [value]
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            problem = error
    raise MedcoreError(f"notebook {stem}, parameter {name!r} = {value!r}: {_explain(problem)}") from None


def did_you_mean(name: str, known: list[str]) -> str:
    """``"; did you mean 'epochs'? ..."`` for a name that nobody knows."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}? There" if close else "; there"
    return f"{hint} are: {', '.join(known)}"


def read_literal(text: str) -> Any:
    """A command-line value as Python: number, true/false, none, list; anything else stays text."""
    word = text.strip().lower()
    if word in ("true", "false"):
        return word == "true"
    if word in ("none", "null"):
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"] if isinstance(part, str) and "[" not in part)
        parts.append(f"{where + ': ' if where else ''}{item['msg'].lower()} (got {item['input']!r})")
    return "; ".join(dict.fromkeys(parts))


def parameters_source(notebook: Path) -> str:
    """The source of the one cell tagged ``parameters``."""
    try:  # plain JSON: a machine without Jupyter runs a notebook's cells, too (benchmarks/cells.py)
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    except Exception as error:
        raise MedcoreError(f"{notebook} is not a readable notebook ({error})") from None
    if len(tagged) != 1:
        raise MedcoreError(f"{notebook} has {len(tagged)} cells tagged 'parameters'; it needs exactly one")
    return tagged[0]


def literals(source: str, where: str) -> dict[str, Any]:
    """Names and values of a cell that holds nothing but ``name = literal``.

    Raises:
        MedcoreError: The cell holds anything else; papermill would then run with derived values of old inputs.
    """
    values: dict[str, Any] = {}
    for node in ast.parse(source).body:
        try:
            assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            values[node.targets[0].id] = ast.literal_eval(node.value)
        except (AssertionError, ValueError):
            raise MedcoreError(
                f"{where}, parameters cell, line {node.lineno}: only 'name = literal' may stand here"
            ) from None
    return values
