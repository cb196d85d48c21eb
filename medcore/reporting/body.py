"""A notebook's cells as the narrative of a report: text, figures and results in order, code folded away."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

from medcore.reporting.highlight import highlight
from medcore.reporting.markdown import markdown_fragment
from medcore.reporting.narrative import Narrative
from medcore.reporting.outputs import outputs_fragment
from medcore.reporting.sanitise import Link, only_anchors
from medcore.reporting.status import Verdict, source_of, verdict_of

TITLE = re.compile(r"\A\s*#\s+(.+?)\s*#*\s*$", re.MULTILINE)
IN_PAGE = re.compile(r'<a href="#([^"]*)">')
LEFT_OUT = {"remove-cell", "remove_cell", "papermill-error-cell-tag"}
MARKS = re.compile(r"[*_`$]|\[([^\]]*)\]\([^)]*\)")


@dataclass
class Body:
    """One notebook, ready to stand in a page."""

    title: str
    html: str
    narrative: Narrative
    verdict: Verdict


def write_body(
    notebook: dict[str, Any], *, prefix: str = "s-", label: str = "", top: int = 2, link: Link = only_anchors
) -> Body:
    """Write the narrative of an executed notebook.

    Args:
        notebook: The notebook as nbformat reads it.
        prefix: Kept before every anchor, for several notebooks in one page.
        label: Kept before the names of tables and formulas, for the same reason.
        top: Level of the largest heading in the body.
        link: Maps relative links, see ``sanitise.clean``.
    """
    narrative, verdict = Narrative(prefix, label, top), verdict_of(notebook)
    title, parts = "", []
    for number, cell in enumerate(notebook["cells"], start=1):
        narrative.cell = number
        if LEFT_OUT & set(cell.get("metadata", {}).get("tags", [])):
            continue
        if cell["cell_type"] == "markdown":
            source = source_of(cell)
            if not title and (found := TITLE.match(source)):
                title, source = plain(found[1]), source[found.end() :]
            parts.append(markdown_fragment(source, narrative, cell.get("attachments"), link))
        elif cell["cell_type"] == "code":
            parts.append(_code_cell(cell, number, narrative, verdict, link))
    return Body(title, without_dead_links("".join(parts), narrative), narrative, verdict)


def without_dead_links(body: str, narrative: Narrative) -> str:
    """Links to a section that is not there (a notebook that stopped early) become plain text."""
    known = {html.escape(heading.anchor) for heading in narrative.headings}

    def kept(found: re.Match[str]) -> str:
        return "<a>" if found[1].startswith(narrative.prefix) and found[1] not in known else found[0]

    return IN_PAGE.sub(kept, body)


def plain(markdown: str) -> str:
    """A heading's text without its marks."""
    return html.unescape(MARKS.sub(lambda found: found[1] or "", markdown)).strip()


def _code_cell(cell: dict[str, Any], number: int, narrative: Narrative, verdict: Verdict, link: Link) -> str:
    source = source_of(cell).strip()
    if not source:
        return ""
    tags = set(cell.get("metadata", {}).get("tags", []))
    reached = verdict.cell is None or number <= verdict.cell
    code = "" if tags & {"remove-input", "remove_input"} else _folded(source, cell, tags, reached)
    hidden = tags & {"remove-output", "remove_output"}
    shown = "" if hidden else outputs_fragment(cell, narrative, link)
    stop = _stop(verdict, cell, narrative.prefix) if verdict.cell == number else ""
    return code + shown + stop


def _folded(source: str, cell: dict[str, Any], tags: set[str], reached: bool) -> str:
    lines = source.count("\n") + 1
    name = "Parameters given" if "injected-parameters" in tags else "Parameters" if "parameters" in tags else "Code"
    count = cell.get("execution_count")
    state = f"{lines} line{'s' if lines > 1 else ''}" if reached else "not run"
    label = f"{name} {f'[{count}] ' if count and reached else ''}· {state}"
    return f"<details><summary>{label}</summary><pre>{highlight(source)}</pre></details>"


def _stop(verdict: Verdict, cell: dict[str, Any], prefix: str) -> str:
    """Where the run ended, in the place where it ended."""
    raised = any(output.get("output_type") == "error" for output in cell.get("outputs", []))
    why = "" if raised else f" {html.escape(verdict.error or '')}."
    return (
        f'<div class="failure stop" id="{prefix}stopped--here"><p>'
        f"<b>The run stopped here ({html.escape(verdict.status)}).</b>{why} Nothing below this line was run.</p></div>"
    )
