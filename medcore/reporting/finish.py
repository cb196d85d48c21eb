"""Turn an execution into a run's folder: true status into ``results.json``, the report, then the final name."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat

from medcore.errors import MedcoreError
from medcore.reporting.body import write_body
from medcore.reporting.folders import REPORT, RUN_NOTEBOOK, commit
from medcore.reporting.report import compose
from medcore.reporting.results import FILE_NAME, new_results, read_results, write_results
from medcore.reporting.status import KEY, Verdict, verdict_of
from medcore.reporting.thumbnail import write_thumbnail
from medcore.reporting.worker import LOG


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook.

    Attributes:
        notebook: Its path.
        status: ``ok``, or how it failed.
        cell: The cell (from 1) in which it ended, None when it reached the end or never began.
        error: What went wrong, one line.
        seconds: Wall time (s).
        folder: Folder of the run; None when nothing was written.
        headline: The main result in a line, ``""`` when there is none.
        note: What else the user should know, such as a PDF that could not be printed.
    """

    notebook: Path
    status: str
    cell: int | None
    error: str | None
    seconds: float
    folder: Path | None
    headline: str = ""
    note: str = ""


def finish(
    notebook: Path, parameters: dict[str, Any], partial: Path, folder: Path, started: float, told: Verdict
) -> Outcome:
    """Write results and report of an execution and give the folder its name.

    What cannot be written (a full disk) keeps its partial name: the earlier run of that name stays as it was.

    Args:
        notebook: The source notebook.
        parameters: What it was started with.
        partial: Folder that the execution wrote to.
        folder: Its final name.
        started: ``time.monotonic()`` at the start.
        told: What the execution said of its end; counts when its notebook could not be saved.
    """
    seconds = time.monotonic() - started
    verdict = told
    try:
        executed, verdict = _executed(notebook, partial, told)
        results = _results(notebook, parameters, partial, verdict, seconds, executed)
        executed, results = _renamed(executed, partial.name, folder.name), _renamed(results, partial.name, folder.name)
        note = _write(partial, executed, results, notebook.stem)
        if verdict.status != "killed":
            (partial / LOG).unlink(missing_ok=True)
        commit(partial, folder, good=verdict.status == "ok")
    except OSError as error:
        kept = f"; the earlier report in {folder} is as it was" if folder.exists() else ""
        before = f"{verdict.error}; " if verdict.error else ""
        why = f"{before}the report could not be written ({error}); what there is stands in {partial}{kept}"
        status = verdict.status if verdict.status != "ok" else "raised"
        return Outcome(notebook, status, verdict.cell, why, seconds, None)
    return Outcome(notebook, verdict.status, verdict.cell, verdict.error, seconds, folder, _headline(results), note)


def _write(partial: Path, executed: dict[str, Any], results: dict[str, Any], name: str) -> str:
    """Write notebook, results, report and thumbnail; returns what must be said about it."""
    (partial / RUN_NOTEBOOK).write_text(nbformat.writes(nbformat.from_dict(executed)), encoding="utf-8")
    try:
        body = write_body(executed)
        if body.narrative.undescribed:
            results["warnings"].append(f"Images without a description: {'; '.join(body.narrative.undescribed)}.")
        page = compose(body, results, name)
    except OSError:
        raise
    except Exception as error:  # hours of training must not be lost to a page that cannot be drawn
        write_results(partial, results)
        return f"the report could not be drawn ({type(error).__name__}: {error}); notebook and results are there"
    results["picture"] = write_thumbnail(executed, partial)
    write_results(partial, results)
    (partial / REPORT).write_text(page, encoding="utf-8")
    return ""


def _executed(source: Path, partial: Path, told: Verdict) -> tuple[dict[str, Any], Verdict]:
    """The executed notebook and its verdict; when its process died, what it had saved and where it was."""
    saved = partial / RUN_NOTEBOOK
    notebook = nbformat.read(saved if saved.exists() else source, as_version=4)
    if KEY not in notebook.metadata:
        notebook.metadata[KEY] = told.as_dict()
    verdict = verdict_of(notebook)
    if verdict.status == "killed" and (last := _last_line(partial / LOG)):
        verdict = Verdict("killed", verdict.cell, f"{verdict.error}; its last words: {last}")
        notebook.metadata[KEY]["error"] = verdict.error
    return notebook, verdict


def _last_line(log: Path) -> str:
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    said = [line for line in lines if line and not line.startswith(("[IPKernelApp]", "Traceback", "Input Notebook"))]
    return said[-1][:200] if said else ""


def _results(
    source: Path, parameters: dict[str, Any], partial: Path, verdict: Verdict, seconds: float, executed: dict[str, Any]
) -> dict[str, Any]:
    """The kernel's ``results.json`` with the true status; a small one of our own when the kernel left none."""
    try:
        results = new_results(source.stem) | read_results(partial / FILE_NAME)
    except MedcoreError:
        results = new_results(source.stem, parameters=parameters, changed=sorted(parameters))
    unfinished = verdict.status == "ok" and results["status"] != "ok"
    if unfinished:
        results["warnings"].append("The notebook ended without run.finish(): its results are incomplete.")
    if not results["started"]:
        results["started"] = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")
    peak = executed["metadata"].get(KEY, {}).get("peak_memory_bytes", 0)
    results.update(
        status=verdict.status,
        cell=verdict.cell,
        error=verdict.error,
        seconds=round(seconds, 2),
        peak_memory_bytes=max(results.get("peak_memory_bytes") or 0, peak),
    )
    return results


def _renamed(content: Any, partial: str, final: str) -> Any:
    """Paths that the kernel printed while its folder had the partial name, as they are from now on.

    Half characters, as in file names that are no UTF-8, become question marks: no file could hold them.
    """
    old, new = (json.dumps(name, ensure_ascii=False)[1:-1] for name in (partial, final))
    text = json.dumps(content, ensure_ascii=False).replace(old, new)
    return json.loads(text.encode("utf-8", "replace"))


def _headline(results: dict[str, Any]) -> str:
    from medcore.reporting.wording import estimate_text, metric_name

    metrics = results.get("metrics") or []
    return f"{metric_name(metrics[0].get('name', ''))} {estimate_text(metrics[0])}" if metrics else ""
