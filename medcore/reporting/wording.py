"""Every computed sentence of a report; numbers, names and times as a reader expects them; tables to be saved."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from medcore.evaluation.estimate import (
    LOWER_IS_BETTER,
    Estimate,
    cases_of,
    gain_in_words,
    metric_name,
    with_article,
)
from medcore.reporting.results import Data, MethodEstimate, Results

if TYPE_CHECKING:
    import pandas as pd

    from medcore.evaluation.comparison import Comparison

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # what steers a terminal
REPEATED = "on the first screen"  # of a table of the notebook whose values a report shows there, too
IN_ADDRESS = re.compile(r"[%#\"&<>\\\x00-\x1f]")  # what a data: address between double quotes must escape
FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.,]+\s*(\(.*\))?\Z)")
CODE_SPAN = re.compile(r"(?<![`\\])(`[^`\n]+`)(?!`)")
PHANTOM_LINE = "Made on synthetic phantoms: procedural images with known truth, no patients."
SMOKE_LINE = "Profile smoke: a check that the code runs, on few images and epochs. Ignore the numbers."
FEW_GROUPS, FEW_IMAGES, WIDE = 30, 10, 0.2  # patients of a test part; images of a class; width of an interval
STATUS_NOTES = {
    "ok": "ran to its end",
    "raised": "stopped by an error",
    "timed out": "stopped at its time limit",
    "killed": "its kernel was killed",
    "out of memory": "stopped for lack of memory",
    "interrupted": "stopped before its end",
    "running": "has not ended, or ended without telling",
}


def limits_of(results: Results) -> list[str]:
    """Sentences on sample size, prevalence, missing metadata, split and data that bound the result."""
    data = results.data
    sides = {str(row.get("split")): row for row in data.splits}
    sentences = [PHANTOM_LINE] * data.synthetic + results.warnings
    sentences += _few(data, sides.get("test", {})) + _uncertain(results.metrics)
    if not results.model.get("developed_on"):  # else another cohort was judged than the model was made on
        if "test" not in sides:
            sentences.append("There is no test part: the figures come from cross-validation or validation data.")
        sentences.append(
            "All images come from one set: nothing here says how the method does at another hospital or scanner."
        )
    missing = [name for name in ("sex", "age", "site") if name not in data.columns]
    if missing:
        sentences.append(f"Unknown for every case: {', '.join(missing)}; no subgroup can be checked for them.")
    return list(dict.fromkeys(sentences))


def _few(data: Data, test: dict[str, Any]) -> list[str]:
    """Too few patients, or images of a class, in the test part; segmentation has no class of an image."""
    sentences = []
    groups = test.get(f"{data.group}s", FEW_GROUPS)
    if groups < FEW_GROUPS:
        sentences.append(f"The test part holds {groups} {data.group}s only: another {groups} may give another result.")
    counts = {} if data.task == "segmentation" else {name: test[name] for name in data.classes if name in test}
    if data.task == "diagnosis" and not any(counts.values()):  # patients are judged, windows carry no label
        return sentences
    rare = [f"{name} ({number})" for name, number in counts.items() if number < FEW_IMAGES]
    return sentences + [f"Too few test images to say much about: {', '.join(rare)}."] * bool(rare)


def _uncertain(metrics: list[Estimate]) -> list[str]:
    """Intervals that are wide on a scale from 0 to 1, and metrics without one."""
    wide = [
        metric_name(m.name) for m in metrics if m.low is not None and m.high is not None and m.high - m.low > WIDE
        and -1 <= m.low and m.high <= 1
    ]  # fmt: skip
    sentences = [f"Wider than 20 points, so little is known of it: the interval of {' and '.join(wide[:3])}."]
    unknown = [m for m in metrics if m.low is None]
    return sentences * bool(wide) + [f"{metric_name(m.name)}: {m.note}." for m in unknown[:3]]


def shortcut_warning(headline: Estimate, name: str, baseline: Estimate, classes: int) -> str:
    """A sentence where a baseline alone goes more than half of the way from chance to the method; else empty."""
    chance = {"balanced_accuracy": 1 / max(1, classes), "auroc": 0.5, "macro_auroc": 0.5}.get(headline.name)
    if chance is None or headline.value is None or baseline.value is None:
        return ""
    if baseline.value - chance <= 0.5 * (headline.value - chance):
        return ""
    return (
        f"A shortcut solves much of this set: {name} alone reaches {with_article(metric_name(headline.name))} of "
        f"{baseline.value:.2f}; guessing gives {chance:.2f}."
    )


def comparison_sentence(comparison: Comparison, method: str) -> str:
    """The first metric of a method, its reference and its rivals, and every paired difference to them, in words."""
    first, others = comparison.metrics[0], {**comparison.baselines, **comparison.rivals}
    parts = [f"{method}: {metric_name(first.name)} {first:ci} on {cases_of(first.n, first.unit)}, {first.split}"]
    for name in dict.fromkeys([comparison.reference, *comparison.rivals]):
        if name:
            gap, *further = comparison.differences[name]
            parts.append(f"{name} {others[name][0]}, paired difference {gap}, {gain_in_words(gap)}")
            parts += [
                f"difference in {metric_name(one.name.removesuffix('_difference'))} {one}, {gain_in_words(one)}"
                for one in further
            ]
    return "; ".join(parts) + "."


def answer_in_words(results: Results) -> str:
    """What a run found, in plain words: its first metric, and whether that is more than the reference reaches.

    Empty where nothing was measured, or there is nothing that it is set against.
    """
    first = results.metrics[0] if results.metrics else None
    named = [row for row in results.differences if first and row.name.removesuffix("_difference") == first.name]
    if first is None or first.value is None or not named:
        return ""
    gap, metric = named[0], metric_name(first.name)
    verdict = "shown to do" if gain_in_words(gap).startswith(("a gain", "a loss")) else "not shown to do"
    return as_sentence(
        f"On {cases_of(first.n, first.unit)} ({PART_NAMES.get(first.split, first.split)}), the method is {verdict} "
        f"{_direction(gap)} “{gap.baseline}”: {metric} {first:ci}, paired difference {gap}{_rival(results, named[1:])}"
    )


def _direction(gap: Estimate) -> str:
    return "worse than" if gain_in_words(gap) == "a loss" else "better than"


def _rival(results: Results, gaps: Sequence[MethodEstimate]) -> str:
    """What is said of the strongest of the other methods that are set against the run; empty where there is none."""
    first = results.metrics[0]
    paired = {gap.baseline: gap for gap in reversed(gaps)}  # the headline's own comparison is recorded first
    sign = -1 if first.name.startswith(LOWER_IS_BETTER) else 1
    others = [
        row for row in results.baselines if (row.name, row.unit, row.split) == (first.name, first.unit, first.split)
    ]
    known = [row for row in others if row.baseline in paired and row.value is not None]
    if not known:
        return ""
    best = max(known, key=lambda row: sign * (row.value or 0.0))
    gap = paired[best.baseline]
    shown = "" if gain_in_words(gap) in ("a gain", "a loss") else "not shown to be "
    return f"; {shown}{_direction(gap)} “{best.baseline}”, {best}, difference {gap}"


PART_NAMES = {"test": "test part", "val": "validation part", "folds": "cross-validated"}


def interval_method(estimate: Estimate) -> str:
    """How an interval was made, as a sentence."""
    if estimate.low is None or estimate.method in ("", "none"):
        return "No interval."
    if estimate.method == "exact":
        return "Exact: nothing in it can vary."
    return f"{100 * estimate.level:g} % CI: {estimate.method}."


def as_sentence(text: str) -> str:
    """A capital at its beginning, one full stop at its end."""
    words = text.strip().rstrip(".")
    return f"{words[:1].upper()}{words[1:]}."


def without_active_parts(markdown: str) -> str:
    """Markdown in which nothing but emphasis, lists and code keeps a meaning: no HTML, link, picture, formula, entity.

    A name from a file may stand anywhere in it. Backticks stay only where every renderer pairs them alike.
    """
    parts = CODE_SPAN.split(CONTROL.sub("", markdown))
    return "".join(part if place % 2 else _inert(part) for place, part in enumerate(parts))


def _inert(text: str) -> str:
    text = re.sub(r"[&<$\[\\`]", lambda found: f"&#{ord(found[0])};", text)
    return re.sub(
        r"(?i)\b(https?|ftp|javascript|data):|\bwww\.", lambda found: f"{found[0][:-1]}&#{ord(found[0][-1])};", text
    )


def escape_markdown(value: object) -> str:
    """A name as Markdown that shows its very characters; as HTML, too."""
    words = " ".join(CONTROL.sub("", str(value)).split())
    return re.sub(r"[^\w ]", lambda found: f"&#{ord(found[0])};", words)


def duration(seconds: float) -> str:
    """Seconds as ``4 s``, ``3 min 12 s`` or ``2 h 05 min``; empty for none."""
    whole = round(seconds) or 1
    if seconds <= 0:
        return ""
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(size: int) -> str:
    """Bytes as GB or MB; empty for none."""
    if size <= 0:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def moment(text: str) -> str:
    """An ISO 8601 time as ``2026-11-20 11:42 UTC``; anything else as it is."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = " UTC" if parsed.utcoffset() is not None and not parsed.utcoffset() else ""
    return parsed.strftime("%Y-%m-%d %H:%M") + zone


def shown(value: Any) -> str:
    """Any value of ``results.json`` as one line of text; thin spaces between thousands from ten thousand on."""
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−") if math.isfinite(value) else "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {shown(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value)
    return str(value)


def number_format(column: Iterable[Any]) -> Callable[[Any], str]:
    """How the numbers of a table's column are printed: shares with two or three decimals, others as they are."""
    numbers = [float(x) for x in column if isinstance(x, (float, np.floating)) and math.isfinite(x)]
    shares = any(x % 1 for x in numbers) and all(x == 0 or 1e-3 <= abs(x) <= 1 for x in numbers)
    form = ("{:.2f}" if all(round(x, 3) == round(x, 2) for x in numbers) else "{:.3f}") if shares else "{:.4g}"
    return lambda value: form.format(value) if isinstance(value, (float, np.floating)) else str(value)


def table_html(table: pd.DataFrame, title: str) -> str:
    """A table with its title, in HTML; the numbers of a column are printed alike."""
    formats = [number_format(table.iloc[:, place]) for place in range(table.shape[1])]
    caption = f"<caption>{html.escape(CONTROL.sub('', title))}</caption>"
    return table.to_html(border=0, formatters=formats).replace(">", ">" + caption, 1)


def saved_csv(rows: Iterable[Sequence[str]], name: str) -> str:
    """A link that saves rows as CSV: they stand in the link itself, and no cell is a formula to a spreadsheet.

    The mark at the beginning says UTF-8 to whatever opens the file.
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([[_no_formula(cell) for cell in row] for row in rows])
    named = html.escape(f"{name.lower().replace(' ', '-')}.csv", quote=True)
    address = IN_ADDRESS.sub(lambda found: quote(found[0]), "\ufeff" + file.getvalue())
    return f'<a class="csv" download="{named}" href="data:text/csv,{address}">CSV</a>'


def _no_formula(cell: str) -> str:
    """A cell that would begin a formula, behind an apostrophe; a signed number stays one."""
    return f"'{cell}" if FORMULA.match(cell) else cell
