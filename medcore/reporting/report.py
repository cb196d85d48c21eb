"""One report: first screen from the results, then the notebook's narrative, then checklist, environment and parameters.

The results are those of ``results.json`` beside the notebook when it belongs to it, else those that the notebook's last
cell recorded inside the notebook.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from medcore.reporting.body import Body, write_body
from medcore.reporting.folders import RUN_NOTEBOOK
from medcore.reporting.front import front
from medcore.reporting.narrative import Heading
from medcore.reporting.outputs import RESULTS
from medcore.reporting.pages import render
from medcore.reporting.results import FILE_NAME


def report_page(notebook: Any, results: dict[str, Any], *, name: str = "", strict: bool = False) -> str:
    """The report of one executed notebook.

    Args:
        notebook: The notebook as nbformat reads it.
        results: Content of its ``results.json``; may be empty.
        name: Stem of the notebook, the last resort for a title.
        strict: Refuse images without a description.

    Raises:
        MedcoreError: ``strict`` is set and an image has no description.
    """
    body = write_body(notebook)
    if strict and body.narrative.undescribed:
        listed = "; ".join(body.narrative.undescribed)
        raise MedcoreError(f"notebook {name}: images without a description: {listed}; use plots.show(…, alt=…)")
    return compose(body, results, name)


def compose(body: Body, results: dict[str, Any], name: str = "") -> str:
    """A report page of a written body and the results that belong to it."""
    facts = front(results, body.verdict, body.title or name) | {"recorded": bool(results)}
    return render("report.html.j2", front=facts, headings=contents(body, facts), body=body.html)


def contents(body: Body, facts: dict[str, Any], prefix: str = "") -> list[Heading]:
    """Entries of the table of contents: first screen, narrative, appendix."""
    before = [("result", "Result", facts["headline"]), ("data", "Data and audit", facts["data"])]
    after = [(key, label, facts[key]) for key, label in APPENDIX]
    return (
        [Heading(2, label, prefix + anchor) for anchor, label, there in before if there]
        + [heading for heading in body.narrative.headings if heading.level <= body.narrative.top + 1]
        + [Heading(2, label, prefix + anchor) for anchor, label, there in after if there]
    )


APPENDIX = (
    ("checklist", "Reporting checklist"),
    ("model", "Model"),
    ("parameters", "Parameters"),
    ("environment", "Environment"),
    ("command", "Run it again"),
)


def find_results(notebook: Any, folder: Path, name: str) -> dict[str, Any]:
    """Results of an executed notebook: of the file beside it, else recorded inside it, else none."""
    try:
        beside = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        beside = None
    if isinstance(beside, dict) and _belongs(beside, notebook, name):
        return beside
    for cell in reversed(notebook["cells"]):
        for output in cell.get("outputs", []):
            recorded = output.get("data", {}).get(RESULTS)
            if isinstance(recorded, dict):
                return recorded
    return {}


def _belongs(results: dict[str, Any], notebook: Any, name: str) -> bool:
    source = str(notebook.get("metadata", {}).get("papermill", {}).get("input_path") or "")
    stem = Path(RUN_NOTEBOOK).stem
    return results.get("notebook") in {name, Path(source).stem} or name == stem
