"""``results.json``: what a run found, in a documented and versioned form that other programs can rely on.

=================== ========================================================================================
key                 value
=================== ========================================================================================
schema              ``"medcore.results/1"``
notebook, title     stem of the notebook; its title
status              ``running``, ``ok``, ``raised``, ``timed out``, ``killed``, ``out of memory``, ``interrupted``
cell, error         where and why it failed (None when ok)
parameters, changed all parameters after the profile; the names that differ from the notebook's defaults
summary             one sentence with the main result, computed
data                the set's card, fingerprint, size, split table
model               architecture, number of weights, checkpoint and its hash, whether it was trained or reused
metrics             list, headline first: name, value, low, high, n, unit, split, level, method, note
baselines           the same shape, with ``baseline`` (its name) and ``trivial`` (false for a rival method)
validation          the metric that choices may be based on: name, value, mode (min or max)
audit               verdict and findings of the leakage audit
answers             what the notebook says to guideline questions: threshold, selection, calibration, failures, ...
picture             thumbnail of the run: file, alt (written by the report)
checklist           guideline items, with what answers them or what is missing
environment         versions, device, commit, machine
command             a line that repeats the run
warnings            sentences that a reader must see
started, seconds    start (UTC, ISO 8601), wall time (s)
peak_memory_bytes   largest resident memory of the kernel (bytes)
=================== ========================================================================================

A value that cannot be estimated is null with the reason in ``note``; NaN and infinity never occur.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from medcore.data.npzfile import atomic_path
from medcore.errors import MedcoreError

SCHEMA = "medcore.results/1"
FILE_NAME = "results.json"
STATUSES = ("running", "ok", "raised", "timed out", "killed", "out of memory", "interrupted")


def new_results(notebook: str, **values: Any) -> dict[str, Any]:
    """A complete, empty result with status ``running``."""
    empty: dict[str, Any] = {
        "schema": SCHEMA, "notebook": notebook, "title": notebook, "status": "running", "cell": None, "error": None,
        "parameters": {}, "changed": [], "summary": "", "data": {}, "model": {}, "metrics": [], "baselines": [],
        "validation": {}, "audit": {}, "answers": {}, "checklist": [], "environment": {}, "command": "",
        "warnings": [], "started": "", "seconds": 0.0, "peak_memory_bytes": 0,
    }  # fmt: skip
    return empty | values


def write_results(folder: Path, results: dict[str, Any]) -> Path:
    """Write ``results.json`` atomically; NaN and infinity become null."""
    path = folder / FILE_NAME
    with atomic_path(path) as temporary:
        text = json.dumps(plain_json(results), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return path


def read_results(path: Path) -> dict[str, Any]:
    """Read ``results.json`` (a file or its folder).

    Raises:
        MedcoreError: It is missing, unreadable or of a schema this version does not know.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MedcoreError(f"{path} does not exist: is this the folder of a finished run?") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise MedcoreError(f"{path} is not readable ({error})") from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        found = results.get("schema") if isinstance(results, dict) else type(results).__name__
        raise MedcoreError(f"{path}: schema {str(found)[:60]!r} is not {SCHEMA}; was it written by another version?")
    return results


def plain_json(value: Any) -> Any:
    """Plain JSON types: numpy scalars unwrapped, paths as text, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
