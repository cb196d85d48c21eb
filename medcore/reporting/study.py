"""``study.html``: the notebooks of one folder as one report, with one data section and one page of conclusions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

from medcore.data.npzfile import atomic_path
from medcore.errors import MedcoreError
from medcore.reporting.body import Body, write_body
from medcore.reporting.folders import RUN_NOTEBOOK, SUFFIXES
from medcore.reporting.fragments import CHAPTER
from medcore.reporting.front import front
from medcore.reporting.index import STUDY
from medcore.reporting.narrative import Heading
from medcore.reporting.pages import render
from medcore.reporting.results import FILE_NAME, read_results
from medcore.reporting.sanitise import Link

Chapter = dict[str, Any]


def write_study(out: Path) -> Path | None:
    """Write ``out/study.html`` over the runs in ``out``; None when there are fewer than two."""
    folders = [f for f in sorted(out.iterdir()) if (f / FILE_NAME).is_file() and not f.name.endswith(SUFFIXES)]
    chapters = [chapter for folder in folders if (chapter := read_chapter(folder, [f.name for f in folders]))]
    if len(chapters) < 2:
        return None
    with atomic_path(out / STUDY) as temporary:
        temporary.write_text(study_page(chapters), encoding="utf-8")
    return out / STUDY


def read_chapter(folder: Path, names: list[str]) -> Chapter | None:
    """One run as a chapter; None when its files are unreadable.

    Args:
        folder: The run's folder.
        names: The folders of all chapters; links between their notebooks become links within the page.
    """
    try:
        results = read_results(folder)
        notebook = nbformat.read(folder / RUN_NOTEBOOK, as_version=4)
    except (MedcoreError, OSError, ValueError, nbformat.reader.NotJSONError):
        return None
    number = f"c{names.index(folder.name) + 1}"
    body = write_body(notebook, prefix=f"{number}-s-", label=f"{folder.name}: ", top=3, link=_links_between(names))
    facts = front(results, body.verdict, body.title or folder.name)
    return {"anchor": number, "name": folder.name, "front": facts, "body": body, "fingerprint": _fingerprint(results)}


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


def _fingerprint(results: dict[str, Any]) -> str:
    data = results.get("data")
    return str(data.get("fingerprint") or "") if isinstance(data, dict) else ""
