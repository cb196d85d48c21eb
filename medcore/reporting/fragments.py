"""Sanitised HTML made fit for a page: outline, tables that scroll on a phone, images with real descriptions."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from urllib.parse import unquote

from medcore.reporting.narrative import Narrative
from medcore.reporting.sanitise import Link, as_attributes, clean, only_anchors
from medcore.reporting.tables import column_classes, one_heading

MISSING = '<span class="missing">This image carries no description.</span>'
DISPLAYED_MATH = re.compile(r"(<p>\s*)?(<math display=\"block\">.*?</math>)(\s*</p>)?", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
CHAPTER = "#/"  # begins a link to another chapter of the page, whose anchor follows
LONG_FORMULA = 30  # visible characters beyond which a displayed formula may be wider than a phone
EMPTY = {"None", "NaN", "nan", "NaT"}  # what pandas prints in a cell that holds nothing
NOT_EMBEDDED = '<span class="missing">[image that is not part of this file]</span>'


def page_fragment(fragment: str, narrative: Narrative, link: Link = only_anchors) -> str:
    """Clean HTML from a notebook and fit it into the page that ``narrative`` describes."""
    writer = _Writer(narrative)
    cleaned = one_heading(clean(fragment, link))
    writer.feed(DISPLAYED_MATH.sub(lambda found: _displayed(found, narrative), cleaned))
    writer.close()
    return "".join(writer.parts)


def _displayed(found: re.Match[str], narrative: Narrative) -> str:
    """A formula of its own; a long one scrolls on a narrow screen instead of widening the page."""
    alone = bool(found[1]) == bool(found[3])
    if not alone or len(TAG.sub("", found[2])) <= LONG_FORMULA:
        return found[0]
    narrative.formulas += 1
    return f"{scroll_open(f'{narrative.label}formula {narrative.formulas}')}{found[2]}</section>"


class _Writer(HTMLParser):
    """Rewrites what nh3 returned. Tags it does not know leave as they came, so nothing is unescaped on the way."""

    def __init__(self, narrative: Narrative) -> None:
        super().__init__(convert_charrefs=False)
        self.narrative = narrative
        self.parts: list[str] = []
        self.heading: int | None = None  # where in ``parts`` the open heading begins
        self.heading_text: list[str] = []
        self.tables: list[int] = []  # where in ``parts`` the open tables begin
        self.in_table = 0  # depth of tables; the space between their cells only weighs

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        source = self.get_starttag_text() or ""
        if _level(tag):
            self.heading, self.heading_text = len(self.parts), []
            self.parts.append("")
        elif tag == "table":
            self.narrative.tables += 1
            self.in_table += 1
            self.tables.append(len(self.parts))
            self.parts.append(scroll_open(f"{self.narrative.label}table {self.narrative.tables}") + source)
        elif tag == "details":
            self.parts.append(source.replace("<details", '<details class="fold"', 1))
        elif tag == "img":
            self.parts.append(self._image(dict(attrs), source))
        elif tag == "a":
            self.parts.append(self._link(dict(attrs), source))
        else:
            self.parts.append(source)

    def handle_endtag(self, tag: str) -> None:
        if _level(tag) and self.heading is not None:
            text = html.unescape("".join(self.heading_text)).strip()
            entry = self.narrative.add_heading(_level(tag) + self.narrative.top - 2, text)
            self.parts[self.heading] = f'<h{entry.level} id="{html.escape(entry.anchor)}">'
            self.parts.append(f"</h{entry.level}>")
            self.heading = None
        elif tag == "th" and self.parts and self.parts[-1].startswith("<th"):
            self.parts[-1] = "<td>"  # an empty header cell names nothing
            self.parts.append("</td>")
        elif tag == "table":
            self.in_table -= 1
            self.parts.append("</table></section>")
            if self.tables:
                self._align(self.tables.pop())
        else:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not (self.in_table and data.isspace()):
            empty = data.strip() in EMPTY and self.parts and self.parts[-1].startswith("<td")
            self._text("–" if empty else data)

    def handle_entityref(self, name: str) -> None:
        self._text(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._text(f"&#{name};")

    def _text(self, escaped: str) -> None:
        if self.heading is not None:
            self.heading_text.append(escaped)
        self.parts.append(escaped)

    def _align(self, begin: int) -> None:
        classes = column_classes("".join(self.parts[begin:]))
        if classes:
            self.parts[begin] = self.parts[begin].replace("<table", f'<table class="{classes}"', 1)

    def _image(self, attrs: dict[str, str | None], source: str) -> str:
        if not attrs.get("src"):
            self.narrative.miss("an image that is not part of the notebook")
            return NOT_EMBEDDED
        if (attrs.get("alt") or "").strip():
            return source
        self.narrative.miss("an image in text or HTML")
        return f"<img{as_attributes(**{**attrs, 'alt': ''})}>{MISSING}"

    def _link(self, attrs: dict[str, str | None], source: str) -> str:
        target = attrs.get("href") or ""
        if not target.startswith("#"):
            return source
        if target.startswith(CHAPTER):
            return f'<a href="#{html.escape(target.removeprefix(CHAPTER))}">'
        return f'<a href="#{html.escape(self.narrative.anchor(unquote(target[1:])))}">'


def _level(tag: str) -> int:
    return int(tag[1]) if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit() else 0


def scroll_open(label: str) -> str:
    """Start of a box that scrolls sideways on a narrow screen and can be reached by the keyboard."""
    return f'<section tabindex="0" aria-label="{html.escape(label)}">'
