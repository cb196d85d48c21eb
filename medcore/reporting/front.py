"""What a result does not show, in sentences built from the facts of the run.

The first screen of a report, from ``results.json``: what came out, how sure that is, on which data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medcore.evaluation.estimate import cases_of, metric_name
from medcore.reporting.sanitise import LAST
from medcore.reporting.status import Verdict
from medcore.reporting.wording import STATUS_NOTES, count, duration, estimate_text, memory, moment, shown

FEW = 30  # units below which an interval is wide whatever the model does


def limits_of(results: dict[str, Any]) -> list[str]:
    """Sentences on sample size, prevalence, missing metadata, split and data that bound the result.

    Args:
        results: As ``results.json``, with data and metrics recorded.
    """
    data, metrics = results["data"], results["metrics"]
    sentences = list(results["warnings"])
    sentences += _few_patients(data) + _classes(data) + _intervals(metrics)
    if "test" not in {str(row.get("split")) for row in data.get("splits", [])}:
        sentences.append("There is no test part: the figures come from cross-validation or validation data.")
    sentences.append(
        "All images come from one set: nothing here says how the method does at another hospital or scanner."
    )
    columns = set(data.get("columns", []))
    missing = [name for name in ("sex", "age", "site") if name not in columns]
    if missing:
        sentences.append(f"Unknown for every case: {', '.join(missing)}; no subgroup can be checked for them.")
    return list(dict.fromkeys(sentences))


def _few_patients(data: dict[str, Any]) -> list[str]:
    sides = {str(row.get("split")): row for row in data.get("splits", [])}
    units = next(
        (
            value
            for key, value in sides.get("test", {}).items()
            if key in (f"{data.get('group')}s", "patients", "groups")
        ),
        None,
    )
    if units is None or int(units) >= FEW:
        return []
    return [
        f"The test part holds {int(units)} {data.get('group')}s only: another {int(units)} may give another result."
    ]


def _classes(data: dict[str, Any]) -> list[str]:
    if data.get("task") == "segmentation":  # classes are those of pixels, and images carry no label
        return []
    test: dict[str, Any] = next((row for row in data.get("splits", []) if row.get("split") == "test"), {})
    counts = {name: int(test[name]) for name in data.get("classes", []) if name in test}
    if data.get("task") == "diagnosis" and not any(counts.values()):  # patients are judged, windows carry no label
        return []
    rare = [f"{name} ({count})" for name, count in counts.items() if count < 10]
    return [f"Too few test images to say much about: {', '.join(rare)}."] if rare else []


def _intervals(metrics: list[dict[str, Any]]) -> list[str]:
    wide = [row for row in metrics if row.get("low") is not None and row["high"] - row["low"] > 0.2]
    unknown = [row for row in metrics if row.get("value") is None or row.get("low") is None]
    names = " and ".join(dict.fromkeys(metric_name(row["name"]) for row in wide[:3]))
    sentences = [f"Wider than 20 points, so little is known of it: the interval of {names}."] if wide else []
    return sentences + [f"{metric_name(row['name'])}: {row['note']}." for row in unknown[:3]]


PHANTOM_LINE = "Made on synthetic phantoms: procedural images with known truth, no patients."
Facts = list[tuple[str, str]]


def front(results: Mapping[str, Any], verdict: Verdict, title: str) -> dict[str, Any]:
    """Everything the templates show outside the notebook's narrative.

    Args:
        results: Content of ``results.json``; may be empty, then only title and status are known.
        verdict: How the execution ended; overrules what the results say of themselves.
        title: Title of the notebook.
    """
    data = _mapping(results.get("data"))
    return {
        "title": title or str(results.get("title") or results.get("notebook") or "Report"),
        "synthetic": PHANTOM_LINE if data.get("synthetic") else "",
        "status": status_facts(verdict),
        "summary": str(results.get("summary") or ""),
        "headline": headline(results),
        "metrics": other_metrics(results),
        "data": data_facts(data),
        "splits": table(data.get("splits")),
        "audit": audit_facts(results.get("audit")),
        "model": _facts(results.get("model")),
        "warnings": _warnings(results, data),
        "checklist": checklist_facts(results.get("checklist")),
        "environment": _facts(results.get("environment")),
        "parameters": parameter_rows(results),
        "command": str(results.get("command") or ""),
        "run": run_facts(results),
        "excluded": table(data.get("excluded")),
    }


def status_facts(verdict: Verdict) -> dict[str, Any]:
    """Badge and sentence for how the run ended."""
    where = f" in cell {verdict.cell}" if verdict.cell else ""
    return {
        "word": verdict.status,
        "good": verdict.status == "ok",
        "note": STATUS_NOTES.get(verdict.status, "") + where,
        "error": verdict.error or "",
    }


def headline(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first metric with the baselines of the same name beside it, ready to be drawn on one axis."""
    metrics = rows_of(results.get("metrics"))
    if not metrics:
        return None
    first = metrics[0]
    rivals = [row for row in rows_of(results.get("baselines")) if _same_question(row, first)]
    rows = [{"who": "this run", "ours": True, **first}] + [{"who": shown(row.get("baseline")), **row} for row in rivals]
    low, high = _axis(rows)
    return {
        "name": metric_name(first.get("name", "")),
        "rows": [_drawn(row, low, high) for row in rows],
        "low": f"{low:g}",
        "high": f"{high:g}",
        "notes": list(dict.fromkeys([_method(first), *(_sentence(row["note"]) for row in rows if _explains(row))])),
        "split": shown(first.get("split")),
    }


def other_metrics(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics after the headline, each with its baselines in words."""
    baselines = rows_of(results.get("baselines"))
    rows = []
    for row in rows_of(results.get("metrics"))[1:]:
        rivals = [rival for rival in baselines if _same_question(rival, row)]
        beside = [f"{shown(rival.get('baseline'))} {estimate_text(rival)}" for rival in rivals]
        rows.append({**_estimate(row), "name": metric_name(row.get("name", "")), "beside": beside})
    return rows


def _same_question(rival: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return all(rival.get(key) == row.get(key) for key in ("name", "unit", "split"))


def _estimate(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: shown(row.get(key)) for key in ("split", "method")}
    n, unit = row.get("n"), str(row.get("unit") or "case")
    cases = cases_of(n, unit) if isinstance(n, int) else f"{shown(n)} {unit}"
    return {**facts, "cases": cases, "text": estimate_text(row), "note": str(row.get("note") or "")}


def _drawn(row: Mapping[str, Any], low: float, high: float) -> dict[str, Any]:
    """A row of the headline table with its place on the axis (percent of the axis)."""
    place = {}
    for key in ("value", "low", "high"):
        number = row.get(key)
        if isinstance(number, (int, float)):
            place[key] = round(100 * (number - low) / (high - low), 1)
    return {**_estimate(row), "who": row["who"], "ours": bool(row.get("ours")), "place": place}


def _axis(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Round ends that hold every interval; 0 and 1 stay where the numbers are shares."""
    keys = ("value", "low", "high")
    numbers = [float(row[key]) for row in rows for key in keys if isinstance(row.get(key), (int, float))]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    if 0 <= low and high <= 1:
        return max(0.0, min(math.floor(low * 10) / 10, 0.9)), min(1.0, max(math.ceil(high * 10) / 10, 0.1))
    margin = 0.1 * (high - low) or abs(high) or 1.0
    return float(f"{low - margin:.2g}"), float(f"{high + margin:.2g}")


def _explains(row: Mapping[str, Any]) -> bool:
    """Whether a row has a note that a reader of the whole table needs; what is exact says so itself."""
    return bool(row.get("note")) and row.get("method") != "exact"


def _method(row: Mapping[str, Any]) -> str:
    """How the interval was made, as a sentence."""
    level, method = row.get("level"), str(row.get("method") or "")
    if row.get("low") is None or method in ("", "none"):
        return "No interval."
    percent = f"{100 * level:g} % interval" if isinstance(level, (int, float)) else "Interval"
    return f"{percent}: {method}."


def _sentence(text: Any) -> str:
    words = str(text).strip().rstrip(".")
    return f"{words[:1].upper()}{words[1:]}."


def data_facts(data: Mapping[str, Any]) -> Facts:
    """The data card as pairs of label and text."""
    if not data:
        return []
    group = str(data.get("group") or "patient")
    known = data.get("patients_known", True)
    patients = count(data.get("patients")) if known else "not known: every image stands for itself"
    pixel = data.get("pixel_size_um")
    abnormal = data.get("abnormal") or []
    classes = [f"{name}*" if name in abnormal else str(name) for name in data.get("classes") or []]
    facts = [
        ("Set", str(data.get("title") or data.get("name") or "")),
        ("Source", str(data.get("source") or "")),
        ("Images", " of ".join(part for part in (count(data.get("images")), _size(data.get("shape"))) if part)),
        ("Patients" if not known else f"{group.capitalize()}s", patients),
        ("Classes", ", ".join(classes) + (" (* abnormal)" if abnormal else "")),
        ("Pixel size", f"{pixel:g} µm" if isinstance(pixel, (int, float)) else ""),
        ("Left out", f"{len(data['excluded'])} (listed below)" if data.get("excluded") else ""),
        ("Converted", "; ".join(f"{what}: {number}" for what, number in _mapping(data.get("conversions")).items())),
        ("Licence", str(data.get("licence") or "")),
        ("Cite as", str(data.get("citation") or "")),
        ("Home page", str(data.get("homepage") or "")),
        ("Fingerprint", str(data.get("fingerprint") or "")[:16]),
    ]
    return [(label, text) for label, text in facts if text and text != "–"]


def _size(shape: Any) -> str:
    if not isinstance(shape, (list, tuple)) or len(shape) != 3:
        return ""
    return f"{shape[1]} × {shape[0]} px" + ("" if shape[2] == 3 else f", {shape[2]} channel{'s' * (shape[2] > 1)}")


def audit_facts(audit: Any) -> dict[str, Any]:
    """Verdict of the leakage audit and its findings, as sentences where they are sentences."""
    audit = _mapping(audit)
    verdict = str(audit.get("verdict") or audit.get("status") or "")
    findings = rows_of(audit.get("findings"))
    said = [{"severity": shown(row.get("severity")), "text": _finding(row)} for row in findings if row.get("message")]
    rest = table([row for row in findings if not row.get("message")])
    passed = _passed(audit, verdict)
    tone = "warn" if passed and "warning" in verdict else "good" if passed else "bad" if verdict else "dull"
    return {"verdict": verdict or "not run", "tone": tone, "said": said, "findings": rest}


def _finding(row: Mapping[str, Any]) -> str:
    what = str(row.get("finding") or "")
    return f"{what[:1].upper()}{what[1:]}: {row['message']}" if what else str(row["message"])


def _passed(audit: Mapping[str, Any], verdict: str) -> bool:
    flags = [audit[key] for key in ("passed", "ok", "clean") if isinstance(audit.get(key), bool)]
    return flags[0] if flags else verdict.lower() in ("pass", "passed", "clean", "ok", "no leakage found")


def checklist_facts(checklist: Any) -> dict[str, Any] | None:
    """What a reporting guideline asks and this run answers; what it cannot answer is named apart."""
    items = rows_of(checklist)
    if not items:
        return None
    if not all("answered" in item for item in items):
        return {"count": "", "legend": "", "answers": table(items), "open": []}
    asked = [_names(item.get("guidelines")) for item in items]
    letters = _letters(list(dict.fromkeys(sum(asked, []))))
    rows = [
        {**item, "guidelines": " ".join(letters[name] for name in by)} for item, by in zip(items, asked, strict=True)
    ]
    answers = [row for row in rows if row["answered"]]
    return {
        "count": f"{len(answers)} of {len(items)} items answered by this run",
        "legend": f"Asked by {', '.join(f'{letter}: {name}' for name, letter in letters.items())}." if letters else "",
        "answers": table([{key: row.get(key) for key in row if key != "answered"} for row in answers]),
        "open": [(shown(row.get("question")), row["guidelines"]) for row in rows if not row["answered"]],
    }


def _names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _letters(names: list[str]) -> dict[str, str]:
    """Guidelines by their first letter where that tells them apart, else by their name."""
    letters = [name[:1].upper() for name in names]
    return dict(zip(names, letters if len(set(letters)) == len(names) else names, strict=True))


def table(rows: Any) -> dict[str, Any] | None:
    """A list of records as columns and rows of text, or None when there is nothing to show."""
    records = [row if isinstance(row, Mapping) else {"": row} for row in rows or []] if isinstance(rows, list) else []
    columns = list(dict.fromkeys(key for row in records for key in row))
    if not records:
        return None
    numeric = [all(isinstance(row.get(column), (int, float, type(None))) for row in records) for column in columns]
    return {
        "columns": [str(column).replace("_", " ") for column in columns],
        "numbers": " ".join(f"n{place}" for place, yes in enumerate(numeric, 1) if yes and 1 < place <= LAST),
        "rows": [[shown(row.get(column)) for column in columns] for row in records],
    }


def parameter_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every parameter with its value, the changed ones marked."""
    changed = set(results.get("changed") or [])
    values = _mapping(results.get("parameters"))
    return [{"name": name, "value": shown(value), "changed": name in changed} for name, value in values.items()]


def run_facts(results: Mapping[str, Any]) -> Facts:
    """When, how long, how much memory, which code."""
    environment = _mapping(results.get("environment"))
    facts = [
        ("Started", moment(results.get("started"))),
        ("Took", duration(results.get("seconds"))),
        ("Memory", memory(results.get("peak_memory_bytes"))),
        ("Profile", str(_mapping(results.get("parameters")).get("profile") or "")),
        ("Commit", str(environment.get("commit") or "")),
    ]
    return [(label, text) for label, text in facts if text]


def _warnings(results: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Warnings once each, without the line that already heads the page."""
    texts = [str(text) for text in [*(results.get("warnings") or []), *(data.get("warnings") or [])]]
    synthetic = bool(data.get("synthetic"))
    return [t for t in dict.fromkeys(texts) if not (synthetic and t.lower().startswith("made on synthetic"))]


def _facts(value: Any) -> Facts:
    pairs: Facts = []
    for key, item in _mapping(value).items():
        pairs.append((str(key).replace("_", " "), count(item)))
    return pairs


def rows_of(value: Any) -> list[Mapping[str, Any]]:
    """A list of records, whatever stands in the file."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
