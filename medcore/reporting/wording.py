"""Numbers, names and times as a reader expects them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medcore.evaluation.estimate import Estimate, metric_name, printed

__all__ = [
    "count", "duration", "estimate_text", "memory", "metric_name", "moment", "shown",
]  # fmt: skip

STATUS_NOTES = {
    "ok": "ran to its end",
    "raised": "stopped by an error",
    "timed out": "stopped at its time limit",
    "killed": "its kernel was killed",
    "out of memory": "stopped for lack of memory",
    "interrupted": "stopped before its end",
    "running": "has not ended, or ended without telling",
}


def estimate_text(row: Mapping[str, Any]) -> str:
    """A row of ``metrics`` as ``evaluation.estimate`` prints it, its note left out."""
    return printed(**{"value": None, **row, "note": ""})


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def duration(seconds: Any) -> str:
    """Seconds as ``4 s``, ``3 min 12 s`` or ``2 h 05 min``."""
    if not _number(seconds) or seconds <= 0:
        return ""
    whole = round(float(seconds))
    if whole < 60:
        return f"{whole or 1} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(size: Any) -> str:
    """Bytes as GB or MB."""
    if not _number(size) or size <= 0:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def moment(text: Any) -> str:
    """An ISO 8601 time as ``2026-11-20 11:42 UTC``."""
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "")
    zone = " UTC" if parsed.utcoffset() is not None and not parsed.utcoffset() else ""
    return parsed.strftime("%Y-%m-%d %H:%M") + zone


def shown(value: Any) -> str:
    """Any value of ``results.json`` as one line of text."""
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {shown(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value)
    return str(value)


def count(number: Any) -> str:
    """A number of things, with thin spaces between thousands from ten thousand on."""
    if not isinstance(number, int) or isinstance(number, bool):
        return shown(number)
    return f"{number:,}".replace(",", "\u202f") if abs(number) >= 10_000 else str(number)


def shortcut_warning(headline: Estimate, name: str, baseline: Estimate, classes: int) -> str:
    """A sentence where a baseline alone goes more than half of the way from chance to the method; else empty."""
    chance = {"balanced_accuracy": 1 / max(1, classes), "auroc": 0.5}.get(headline.name)
    if chance is None or headline.value is None or baseline.value is None:
        return ""
    if baseline.value - chance <= 0.5 * (headline.value - chance):
        return ""
    return (
        f"A shortcut solves much of this set: {name} alone reaches a {metric_name(headline.name)} of "
        f"{baseline.value:.2f}; guessing gives {chance:.2f}."
    )
