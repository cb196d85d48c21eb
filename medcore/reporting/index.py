"""``study.html``: the notebooks of one folder as one report, with one data section and one page of conclusions.

``index.html``: every run below a folder, newest first, with status, headline, data, commit, time and a picture.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat

from medcore.data.source import reports_home
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import metric_name
from medcore.reporting.body import Body, write_body
from medcore.reporting.figures import thumbnail_uri
from medcore.reporting.folders import LOCK, PARTIAL, PREVIOUS, REPLACED, SUFFIXES, write_page
from medcore.reporting.front import front, same_question, status_facts
from medcore.reporting.report import render
from medcore.reporting.results import FILE_NAME, REPORT, RUN_NOTEBOOK, Results, read_results
from medcore.reporting.sanitise import CHAPTER, Heading, Link
from medcore.reporting.status import Verdict
from medcore.reporting.wording import duration, moment

Chapter = dict[str, Any]


def write_study(out: Path) -> Path | None:
    """Write ``out/study.html`` over the runs in ``out``; None when there are fewer than two."""
    folders = [f for f in sorted(out.iterdir()) if (f / FILE_NAME).is_file() and not f.name.endswith(SUFFIXES)]
    chapters = [chapter for folder in folders if (chapter := read_chapter(folder, [f.name for f in folders]))]
    if len(chapters) < 2:
        return None
    return write_page(out / STUDY, study_page(chapters))


def read_chapter(folder: Path, names: list[str]) -> Chapter | None:
    """One run as a chapter; None when its files are unreadable.

    Args:
        names: The folders of all chapters; links between their notebooks become links within the page.
    """
    try:
        results = read_results(folder)
        notebook = nbformat.read(folder / RUN_NOTEBOOK, as_version=4)
    except (MedcoreError, OSError, ValueError, nbformat.reader.NotJSONError):
        return None
    number = f"c{names.index(folder.name) + 1}"
    body = write_body(notebook, prefix=f"{number}-s-", label=f"{folder.name}: ", top=3, unit=results.data.unit,
                      link=_links_between(names))  # fmt: skip
    facts = front(results, body.verdict, body.title or folder.name)
    return {
        "anchor": number,
        "name": folder.name,
        "front": facts,
        "body": body,
        "fingerprint": results.data.fingerprint,
    }


def _links_between(names: list[str]) -> Link:
    def link(url: str) -> str | None:
        stem = Path(url.split("#")[0]).stem
        if url.endswith(".ipynb") and stem in names:
            return f"{CHAPTER}c{names.index(stem) + 1}"
        return url if url.startswith("#") else None

    return link


def study_page(chapters: list[Chapter]) -> str:
    """The combined page."""
    sets: dict[str, Chapter] = {}
    for chapter in chapters:
        sets.setdefault(chapter["fingerprint"] or chapter["anchor"], chapter)
    shared = [{**chapter, "used_by": _users(chapters, key, chapter)} for key, chapter in sets.items()]
    synthetic = [chapter["front"]["synthetic"] for chapter in chapters]
    return render(
        "study.html.j2",
        chapters=chapters,
        sets=[chapter for chapter in shared if chapter["front"]["data"]],
        synthetic=synthetic[0] if all(synthetic) else "",
        mixed=any(synthetic) and not all(synthetic),
        failed=[chapter for chapter in chapters if not chapter["front"]["status"]["good"]],
        headings=study_contents(chapters),
    )


def _users(chapters: list[Chapter], key: str, first: Chapter) -> list[str]:
    return [c["front"]["title"] for c in chapters if c["fingerprint"] == key or c is first]


def study_contents(chapters: list[Chapter]) -> list[Heading]:
    """Entries of the table of contents: conclusions, data, each chapter with its sections."""
    entries = [Heading(2, "Conclusions", "conclusions"), Heading(2, "Data", "data")]
    for chapter in chapters:
        entries.append(Heading(2, chapter["front"]["title"], chapter["anchor"]))
        body: Body = chapter["body"]
        entries += [Heading(3, entry.text, entry.anchor) for entry in body.narrative.headings if entry.level == 3]
    return entries


INDEX, STUDY = "index.html", "study.html"
DEPTH = 4  # folders below the root in which runs are looked for
MOST_POINTS = 12  # latest runs of a trend
PICTURES = 80  # newest runs that are shown with a picture


def index_root(out: Path) -> Path:
    """Where the index over all runs stands: the reports folder when ``out`` is below it, else ``out`` itself."""
    home = reports_home().resolve()
    return home if home in out.resolve().parents else out


def write_index(root: Path) -> Path:
    """Write ``root/index.html`` over all runs below ``root``; returns its path."""
    rows = sorted((row_of(folder, root) for folder in run_folders(root)), key=lambda row: row["started"], reverse=True)
    for row in rows[:PICTURES]:
        row["picture"] = thumbnail_uri(row["path"])
    names = sorted({row["notebook"] for row in rows})
    for row in rows:
        row["number"] = names.index(row["notebook"])
    values = {"groups": _groups(rows, root), "count": len(rows), "names": names if len(names) > 1 else []}
    return write_page(root / INDEX, render("index.html.j2", trends=trends(rows), **values))


def trends(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The headline over the runs of one notebook on one set with one profile, oldest first, where there are several.

    Returns:
        Each with the places (percent of a common axis from the lowest to the highest) and texts of its runs.
    """

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return (row["notebook"], row["data"], row["profile"], row["headline"]["name"])

    told = [row for row in rows if row["headline"] and row["headline"]["value"] is not None and row["status"]["good"]]
    found = []
    for (notebook, data, profile, metric), runs in groupby(sorted(told, key=key), key=key):
        members = sorted(runs, key=lambda row: row["started"])[-MOST_POINTS:]
        values = [row["headline"]["value"] for row in members]
        low, high = min(values), max(values)
        points = [
            {
                "place": round(100 * (value - low) / (high - low or 1)),
                "text": row["headline"]["text"],
                "when": row["when"],
                "href": row["href"],
            }
            for value, row in zip(values, members, strict=True)
        ]
        if len(points) > 1:
            found.append({"name": notebook, "data": data, "profile": profile, "metric": metric, "points": points})
    return found


def run_folders(root: Path) -> Iterator[Path]:
    """Folders below ``root`` that hold a run, or the remains of one."""
    for place, folders, files in os.walk(root):
        depth = len(Path(place).relative_to(root).parts)
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(REPLACED)]
        if FILE_NAME in files or place.endswith(PARTIAL):
            folders.clear()
            yield Path(place)
        elif depth >= DEPTH:
            folders.clear()


def row_of(folder: Path, root: Path) -> dict[str, Any]:
    """What the index says of one run; a run whose results cannot be read is shown as such."""
    try:
        results, verdict = read_results(folder), None
    except MedcoreError as error:
        absent = not (folder / FILE_NAME).exists()
        results, verdict = Results(notebook=folder.name), None if absent else Verdict("unreadable", None, str(error))
    report = folder / REPORT
    return {
        "path": folder,
        "group": folder.parent,
        "title": results.title or results.notebook,
        "notebook": results.notebook,
        "name": folder.name,
        "kind": "last good run" if folder.name.endswith(PREVIOUS) else "",
        "href": quote(report.relative_to(root).as_posix()) if report.exists() else "",
        "status": status_facts(verdict or _verdict(folder, results)),
        "headline": _headline(results),
        "data": results.data.name,
        "synthetic": results.data.synthetic,
        "commit": str(results.environment.get("commit") or ""),
        "started": results.started,
        "when": moment(results.started),
        "took": duration(results.seconds),
        "profile": str(results.parameters.get("profile") or ""),
        "picture": "",
        "alt": results.picture.alt,
    }


def _verdict(folder: Path, results: Results) -> Verdict:
    if not folder.name.endswith(PARTIAL):
        return Verdict(results.status, results.cell, results.error)
    return Verdict("running") if _held(folder.parent) else Verdict("killed", None, "its runner ended before it did")


def _held(out: Path) -> bool:
    """Whether somebody is writing to an output folder."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(out / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _headline(results: Results) -> dict[str, Any] | None:
    """The main metric, and the best trivial baseline of the same name."""
    if not results.metrics:
        return None
    first = results.metrics[0]
    rivals = [row for row in same_question(first, results.baselines) if row.trivial]
    best = max(rivals, key=lambda row: -math.inf if row.value is None else row.value, default=None)
    beside = f"{best.baseline} {best}" if best else ""
    return {"name": metric_name(first.name), "text": str(first), "beside": beside, "value": first.value}


def _groups(rows: list[dict[str, Any]], root: Path) -> list[dict[str, Any]]:
    """Runs of one output folder together, the newest folder first."""
    newest = {row["group"]: index for index, row in reversed(list(enumerate(rows)))}
    ordered = sorted(rows, key=lambda row: (newest[row["group"]], row["name"]))
    groups = []
    for place, members in groupby(ordered, key=lambda row: row["group"]):
        study = place / STUDY
        href = quote(study.relative_to(root).as_posix()) if study.exists() else ""
        name = place.relative_to(root).as_posix() if place != root else "These runs"
        groups.append({"name": name, "study": href, "rows": list(members)})
    return groups
