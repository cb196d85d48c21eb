"""The first screen of a report, from its results: what came out, how sure that is, on which data."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from medcore.data.datasets import title_of
from medcore.evaluation.estimate import Estimate, cases_of, metric_name
from medcore.reporting.results import Answer, AuditFacts, Data, MethodEstimate, Results
from medcore.reporting.sanitise import LAST
from medcore.reporting.status import Verdict
from medcore.reporting.wording import (
    FEW_GROUPS,
    PHANTOM_LINE,
    SMOKE_LINE,
    STATUS_NOTES,
    answer_in_words,
    as_sentence,
    duration,
    interval_method,
    limits_of,
    memory,
    moment,
    shown,
)

Facts = list[tuple[str, str]]
CALIBRATION = ("ece", "brier", "calibration")  # how names of metrics of calibration begin
IDEAL = {"calibration_slope": 1.0, "calibration_intercept": 0.0}
LIMITED = re.compile(r"Only [\d,]+ of ([\d,]+) images are used \(parameter limit\)")  # as `limit_images` says it
PARTS = {
    "train": "training: learn",
    "val": "validation: choose",
    "test": "test: judge once",
    "unassigned": "no part: in folds",
}


def front(results: Results | None, verdict: Verdict, title: str) -> dict[str, Any]:
    """Everything the templates show outside the notebook's narrative.

    Args:
        results: What the run recorded; without them only title and status are known.
        verdict: How the execution ended; overrules what the results say of themselves.
    """
    recorded = results is not None
    results = results or Results(notebook=title or "Report")
    data, smoke = results.data, results.parameters.get("profile") == "smoke"
    return {
        "recorded": recorded,
        "title": title or results.title or results.notebook,
        "synthetic": PHANTOM_LINE if data.synthetic else "",
        "smoke": SMOKE_LINE if smoke else "",
        "status": status_facts(verdict),
        "answer": "" if smoke or verdict.status != "ok" else results.answer or answer_in_words(results),
        "summary": results.summary,
        "cards": cards(results) if recorded else [],
        "flow": flow(data),
        "letter": iter("ABCDEFGHIJ").__next__,  # of the next table outside the narrative
        "headline": headline(results),
        "metrics": other_metrics(results),
        "data": data_facts(data),
        "splits": table(with_unlabelled(data)),
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
    told = {row.baseline: str(row) for row in gaps}
    notes = [interval_method(first)]
    notes += [as_sentence(row.note) for row in (first, *rivals) if row.note and row.method != "exact"]
    return {
        "name": metric_name(first.name),
        "gaps": any(row.baseline in told for row in rivals),
        "rows": [_drawn("this run", first, low, high)]
        + [_drawn(row.baseline, row, low, high) | {"gap": told.get(row.baseline, "")} for row in rivals],
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
    return {**_estimate(row), "who": who, "ours": who == "this run", "place": place, "gap": ""}


def _axis(rows: Sequence[Estimate]) -> tuple[float, float]:
    """Round ends that hold every interval; 0 and 1 stay where the numbers are shares."""
    numbers = [number for row in rows for number in (row.value, row.low, row.high) if number is not None]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    if 0 <= low and high <= 1:
        return max(0.0, min(math.floor(low * 10) / 10, 0.9)), min(1.0, max(math.ceil(high * 10) / 10, 0.1))
    margin = 0.1 * (high - low) or abs(high) or 1.0
    return float(f"{low - margin:.2g}"), float(f"{high + margin:.2g}")


def cards(results: Results) -> list[dict[str, str]]:
    """What decides whether the result can be believed, each with a tone and the section that shows it."""
    data, sides = results.data, {str(row.get("split")): row for row in results.data.splits}
    held, count = sides.get("test"), cases_of(results.data.images, results.data.case)
    groups = int(held.get(f"{data.group}s", 0)) if held else 0
    judged = f"test part: {cases_of(int(held['images']), data.case)}" if held else "no test part: cross-validated"
    of_whom = f" of {cases_of(groups, data.unit)}" if groups and data.unit != "image" else ""
    known = data.patients_known and (groups >= FEW_GROUPS or not held)
    limits = limits_of(results)
    calibration, calibrated = calibration_of(results)
    return [
        _card("Data", f"{count} of {cases_of(data.patients, data.unit)}" if data.unit != "image" else count, "data",
              "warn" if data.synthetic else "good", "synthetic" if data.synthetic else ""),
        _card("Split", judged + of_whom, "split", "good" if known else "warn",
              "" if data.patients_known else "patients not known"),
        _card("Audit", results.audit.verdict or "not run", "audit", audit_facts(results.audit)["tone"]),
        _card("Calibration", calibration, "metrics", "good" if calibrated else "warn"),
        _card("Limitations", f"{len(limits)} stated", "s-limitations", "warn" if limits else "good"),
    ]  # fmt: skip


def calibration_of(results: Results) -> tuple[str, bool]:
    """What is said of calibration, and whether it passes: slope compatible with 1, not 0; intercept with 0.

    Of several findings each is judged, and those that do not pass are named.
    """
    rows = {row.name: row for row in reversed(results.metrics) if row.value is not None}
    parts = list(dict.fromkeys(name.partition(" ")[2] for name in rows if name.partition(" ")[0] in IDEAL))
    if not parts:
        words = [row for name, row in rows.items() if name.split("_")[0] in CALIBRATION][:2]
        text = ", ".join(f"{metric_name(row.name)} {row}" for row in words) or results.answers.get("calibration", "")
        return (f"{text}; slope and intercept not assessed" if text else "not assessed"), False
    asked = {part: {base: rows.get(f"{base} {part}".strip()) for base in IDEAL} for part in parts}
    doubts = {part: doubt for part in parts if (doubt := _doubt_of(asked[part]))}
    if len(parts) == 1:
        words = [row for row in asked[parts[0]].values() if row is not None]
        text = ", ".join(f"{metric_name(row.name)} {row}" for row in words)
        return "; ".join([text, *doubts.values()]), not doubts
    text = f"slope and intercept of {len(parts) - len(doubts)} of {len(parts)} fit"
    return "; ".join([text, *(f"{part}: {doubt}" for part, doubt in doubts.items())]), not doubts


def _doubt_of(rows: dict[str, Estimate | None]) -> str:
    """Why a slope and an intercept do not pass; empty where they do."""
    known = [(metric_name(name), row, IDEAL[name]) for name, row in rows.items() if row is not None]
    if off := [name for name, row, ideal in known if row.low is not None and not _holds(row, ideal)]:
        return f"{' and '.join(off)} off"
    if any(row.low is None or (ideal and _holds(row, 0.0)) for _, row, ideal in known):
        return "too few cases to tell"
    return next((f"{metric_name(name)} not assessed" for name, row in rows.items() if row is None), "")


def _holds(row: Estimate, number: float) -> bool:
    return row.low is not None and row.high is not None and row.low <= number <= row.high


def _card(title: str, text: str, anchor: str, tone: str, more: str = "") -> dict[str, str]:
    return {"title": title, "text": f"{text} ({more})" if more else text, "anchor": anchor, "tone": tone,
            "mark": {"good": "✓", "bad": "✕"}.get(tone, "!")}  # fmt: skip


def flow(data: Data) -> dict[str, Any] | None:
    """The cases of a study from what was found to who is judged, as in the STARD diagram; None without a split."""
    sides = [row for row in data.splits if row.get("split") != "all"]
    if not sides or not data.images:
        return None
    reasons = Counter(str(row.get("reason", "no reason recorded")) for row in data.excluded)
    limited = next(filter(None, map(LIMITED.match, data.warnings)), None)
    read = int(limited[1].replace(",", "")) if limited else data.images
    reasons |= {"parameter limit": read - data.images} if limited else {}
    found = read + len(data.excluded)
    return {
        "found": f"{cases_of(found, data.case)} found",
        "left_out": [f"{cases_of(number, data.case)}: {reason}" for reason, number in reasons.most_common(4)],
        "used": f"{cases_of(data.images, data.case)} of {cases_of(data.patients, data.unit)} used"
        if data.unit != "image"
        else f"{cases_of(data.images, data.case)} used",
        "sides": [_side(row, data) for row in sides],
    }


def _side(row: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """One part of the split: its name, its size, and what it is for."""
    name, groups = str(row["split"]), row.get(f"{data.group}s")
    of_whom = f" of {cases_of(int(groups), data.unit)}" if groups and data.unit != "image" else ""
    return {
        "name": PARTS.get(name, name),
        "text": f"{cases_of(int(row['images']), data.case)}{of_whom}",
    }


def with_unlabelled(data: Data) -> list[dict[str, Any]]:
    """The split table; where some cases have no known class, with a column for them: a 0 would say too little."""
    rest = [_number(row, "images") - sum(_number(row, name) for name in data.classes) for row in data.splits]
    if data.task not in ("classification", "anomaly", "diagnosis") or not any(number > 0 for number in rest):
        return data.splits
    return [row | {"not labelled": number} for row, number in zip(data.splits, rest, strict=True)]


def _number(row: Mapping[str, Any], column: str) -> int:
    value = row.get(column)
    return value if isinstance(value, int) else 0


def data_facts(data: Data) -> Facts:
    """The data card as pairs of label and text."""
    if not data.fingerprint:
        return []
    words = {name: f" ({title_of(name)})" if title_of(name) else "" for name in data.classes}
    classes = [f"{name}{'*' * (name in data.abnormal)}{words[name]}" for name in data.classes]
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
    guidelines = dict.fromkeys(name for item in items for name in item.guidelines)
    rows: list[dict[str, Any]] = [
        {"question": i.question, "items": asked_by(i, list(guidelines)), "answer": i.answer or "missing",
         "answered": i.answered, "where": i.where}
        for i in items
    ]  # fmt: skip
    counts = {name: [item for item in items if name in item.guidelines] for name in guidelines}
    missing = {name: sum(not item.answered for item in asked) for name, asked in counts.items()}
    return {
        "count": f"{sum(item.answered for item in items)} of {len(items)} questions are answered by this run",
        "missing": "; ".join(f"{name}: {number} of {len(counts[name])} missing" for name, number in missing.items()),
        "rows": rows,
        "guidelines": list(guidelines),
        "saved": [["Question", *guidelines, "Answer"], *([r["question"], *r["items"], r["answer"]] for r in rows)],
    }


def asked_by(item: Answer, guidelines: list[str]) -> list[str]:
    """The number of a question in each guideline, ``✓`` where one asks it that we do not know the number of."""
    numbers = dict(zip_longest(item.guidelines, item.numbers, fillvalue=""))
    return [numbers[name] or "✓" if name in numbers else "" for name in guidelines]


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
