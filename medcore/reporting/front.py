"""The first screen of a report, from its results: what came out, how sure that is, on which data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medcore.evaluation.estimate import Estimate, cases_of, metric_name
from medcore.reporting.results import AuditFacts, Data, MethodEstimate, Results
from medcore.reporting.sanitise import LAST
from medcore.reporting.status import Verdict
from medcore.reporting.wording import (
    PHANTOM_LINE,
    SMOKE_LINE,
    STATUS_NOTES,
    as_sentence,
    duration,
    interval_method,
    memory,
    moment,
    shown,
)

Facts = list[tuple[str, str]]


def front(results: Results | None, verdict: Verdict, title: str) -> dict[str, Any]:
    """Everything the templates show outside the notebook's narrative.

    Args:
        results: What the run recorded; without them only title and status are known.
        verdict: How the execution ended; overrules what the results say of themselves.
    """
    recorded = results is not None
    results = results or Results(notebook=title or "Report")
    data = results.data
    return {
        "recorded": recorded,
        "title": title or results.title or results.notebook,
        "synthetic": PHANTOM_LINE if data.synthetic else "",
        "smoke": SMOKE_LINE if results.parameters.get("profile") == "smoke" else "",
        "status": status_facts(verdict),
        "summary": results.summary,
        "headline": headline(results),
        "metrics": other_metrics(results),
        "data": data_facts(data),
        "splits": table(data.splits),
        "audit": audit_facts(results.audit),
        "model": _facts(results.model),
        "warnings": list(dict.fromkeys(results.warnings + data.warnings)),
        "checklist": checklist_facts(results),
        "environment": _facts(results.environment),
        "parameters": [
            {"name": name, "value": shown(value), "changed": name in results.changed}
            for name, value in results.parameters.items()
        ],
        "command": results.command,
        "run": run_facts(results),
        "excluded": table(data.excluded),
    }


def status_facts(verdict: Verdict) -> dict[str, Any]:
    """Badge and sentence for how the run ended."""
    where = f" in cell {verdict.cell}" if verdict.cell else ""
    note = STATUS_NOTES.get(verdict.status, "") + where
    return {"word": verdict.status, "good": verdict.status == "ok", "note": note, "error": verdict.error or ""}


def headline(results: Results) -> dict[str, Any] | None:
    """The first metric with the baselines of the same name beside it, ready to be drawn on one axis."""
    if not results.metrics:
        return None
    first = results.metrics[0]
    rivals = same_question(first, results.baselines)
    low, high = _axis([first, *rivals])
    named = [row for row in results.differences if row.name.removesuffix("_difference") == first.name]
    gaps = {row.baseline: row for row in reversed(named)}.values()  # the headline's own comparison is recorded first
    notes = [interval_method(first)]
    notes += [f"Paired difference to {row.baseline}: {row}." for row in reversed(list(gaps))]
    notes += [as_sentence(row.note) for row in (first, *rivals) if row.note and row.method != "exact"]
    return {
        "name": metric_name(first.name),
        "rows": [_drawn("this run", first, low, high), *(_drawn(row.baseline, row, low, high) for row in rivals)],
        "low": f"{low:g}",
        "high": f"{high:g}",
        "notes": list(dict.fromkeys(notes)),
        "split": first.split,
    }


def other_metrics(results: Results) -> list[dict[str, Any]]:
    """The metrics after the headline, each with its baselines in words."""
    return [
        _estimate(row)
        | {
            "name": metric_name(row.name),
            "beside": [f"{rival.baseline} {rival}" for rival in same_question(row, results.baselines)],
        }
        for row in results.metrics[1:]
    ]


def same_question(row: Estimate, others: Sequence[MethodEstimate]) -> list[MethodEstimate]:
    """The estimates of other methods for the same metric, unit and split."""
    return [one for one in others if (one.name, one.unit, one.split) == (row.name, row.unit, row.split)]


def _estimate(row: Estimate) -> dict[str, Any]:
    note = row.note if row.low is not None else ""  # the text says why where something is missing
    return {"cases": cases_of(row.n, row.unit), "split": row.split, "text": str(row), "note": note}


def _drawn(who: str, row: Estimate, low: float, high: float) -> dict[str, Any]:
    """A row of the headline table with its place on the axis (percent of the axis)."""
    numbers = {"value": row.value, "low": row.low, "high": row.high}
    place = {key: round(100 * (x - low) / (high - low), 1) for key, x in numbers.items() if x is not None}
    return {**_estimate(row), "who": who, "ours": who == "this run", "place": place}


def _axis(rows: Sequence[Estimate]) -> tuple[float, float]:
    """Round ends that hold every interval; 0 and 1 stay where the numbers are shares."""
    numbers = [number for row in rows for number in (row.value, row.low, row.high) if number is not None]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    if 0 <= low and high <= 1:
        return max(0.0, min(math.floor(low * 10) / 10, 0.9)), min(1.0, max(math.ceil(high * 10) / 10, 0.1))
    margin = 0.1 * (high - low) or abs(high) or 1.0
    return float(f"{low - margin:.2g}"), float(f"{high + margin:.2g}")


def data_facts(data: Data) -> Facts:
    """The data card as pairs of label and text."""
    if not data.fingerprint:
        return []
    classes = [f"{name}*" if name in data.abnormal else name for name in data.classes]
    known, pixel = data.patients_known, data.pixel_size_um
    facts = [
        ("Set", data.title or data.name),
        ("Source", data.source),
        ("Images", " of ".join(part for part in (shown(data.images), _size(data.shape)) if part)),
        (f"{data.group.capitalize()}s", shown(data.patients)) if known else ("Patients", "not known: each image alone"),
        ("Classes", ", ".join(classes) + (" (* abnormal)" if data.abnormal else "")),
        ("Pixel size", f"{pixel:g} µm" if pixel else ""),
        ("Left out", f"{len(data.excluded)} (listed below)" if data.excluded else ""),
        ("Converted", "; ".join(f"{what}: {number}" for what, number in data.conversions.items())),
        ("Licence", data.licence),
        ("Cite as", data.citation),
        ("Home page", data.homepage),
        ("Fingerprint", data.fingerprint[:16]),
    ]
    return [(label, text) for label, text in facts if text]


def _size(shape: list[int]) -> str:
    if len(shape) != 3:
        return ""
    return f"{shape[1]} × {shape[0]} px" + ("" if shape[2] == 3 else f", {shape[2]} channel{'s' * (shape[2] > 1)}")


def audit_facts(audit: AuditFacts) -> dict[str, Any]:
    """Verdict of the leakage audit and its findings as sentences."""
    said = [
        {"severity": str(row.get("severity", "")), "text": as_sentence(f"{row.get('finding', '')}: {row['message']}")}
        for row in audit.findings
        if row.get("message")
    ]
    good = "warn" if "warning" in audit.verdict else "good"
    tone = (good if audit.passed else "bad") if audit.verdict else "dull"
    return {"verdict": audit.verdict or "not run", "tone": tone, "said": said}


def checklist_facts(results: Results) -> dict[str, Any] | None:
    """What reporting guidelines ask and this run answers; what it cannot answer is named apart."""
    items = results.checklist
    if not items:
        return None
    names = dict.fromkeys(name for item in items for name in item.guidelines)
    letters = {name: name[:1] for name in names}
    asked = {item.question: " ".join(letters[name] for name in item.guidelines) for item in items}
    answers = [{"question": i.question, "asked by": asked[i.question], "answer": i.answer} for i in items if i.answered]
    return {
        "count": f"{len(answers)} of {len(items)} items answered by this run",
        "legend": f"Asked by {', '.join(f'{letter}: {name}' for name, letter in letters.items())}.",
        "answers": table(answers),
        "open": [item.question for item in items if not item.answered],
    }


def table(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A list of records as columns and rows of text, or None when there is nothing to show."""
    columns = list(dict.fromkeys(key for row in records for key in row))
    if not records:
        return None
    numeric = [all(isinstance(row.get(column), (int, float, type(None))) for row in records) for column in columns]
    return {
        "columns": [str(column).replace("_", " ") for column in columns],
        "numbers": " ".join(f"n{place}" for place, yes in enumerate(numeric, 1) if yes and 1 < place <= LAST),
        "rows": [[shown(row.get(column)) for column in columns] for row in records],
    }


def run_facts(results: Results) -> Facts:
    """When, how long, how much memory, which code."""
    facts = [
        ("Started", moment(results.started)),
        ("Took", duration(results.seconds)),
        ("Memory", memory(results.peak_memory_bytes)),
        ("Profile", str(results.parameters.get("profile") or "")),
        ("Commit", str(results.environment.get("commit") or "")),
    ]
    return [(label, text) for label, text in facts if text]


def _facts(values: Mapping[str, Any]) -> Facts:
    return [(key.replace("_", " "), shown(item)) for key, item in values.items()]
