"""The one door for HTML that comes from a notebook, a file name, a label or a patient: an allow-list.

Whatever a cell printed or a Markdown cell holds passes through ``clean`` before it enters a page. Nothing that runs,
loads or floats over the page survives: no script, style, form, frame, inline SVG, event handler, id or class of ours.

What a page knows while it is being written: headings, numbers of figures, what lacks a description.

Tables from a notebook as a journal sets them: numbers to the right, words to the left, one line of headings.

Sanitised HTML made fit for a page: outline, tables that scroll on a phone, images with real descriptions.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

from medcore.plots.svg import svg_uri
from medcore.reporting.wording import saved_csv

TEXT = """a abbr b blockquote br caption code col colgroup dd del details dfn div dl dt em figcaption figure h1 h2 h3
h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead
time tr u ul var wbr"""
MATH = """math mrow mi mn mo ms mtext mspace mfrac msqrt mroot mstyle merror mpadded mphantom msub msup msubsup munder
mover munderover mmultiscripts mprescripts mtable mtr mtd"""
DROPPED = """script style svg iframe object embed noscript template textarea title select button form noembed noframes
xmp plaintext audio video canvas annotation-xml annotation maction"""
CELL = {"rowspan", "colspan", "scope"}
ATTRIBUTES: dict[str, set[str]] = {
    "*": set(),
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": CELL,
    "th": CELL,
    "ol": {"start"},
    "details": {"open"},
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"stretchy", "fence", "separator", "lspace", "rspace", "minsize", "maxsize", "movablelimits", "accent"},
    "mspace": {"width"},
    "mfrac": {"linethickness"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtable": {"columnalign", "rowspacing", "columnspacing"},
    "mtd": {"columnalign"},
    "mover": {"accent"},
    "munder": {"accentunder"},
}
IMAGE_DATA = re.compile(
    r"data:image/((png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]+|svg\+xml,[^<>\"#]+)\Z"  # inert in an <img>
)
INLINE_SVG = re.compile(r"<svg\b.*?</svg\s*>", re.DOTALL | re.IGNORECASE)
SVG_LABEL = re.compile(r"<title[^>]*>([^<]*)</title>|aria-label=\"([^\"]*)\"", re.IGNORECASE)
Link = Callable[[str], str | None]


def only_anchors(url: str) -> str | None:
    """Keep links within the page; a report is one file, so other relative links lead nowhere."""
    return url if url.startswith("#") else None


def clean(fragment: str, link: Link = only_anchors) -> str:
    """Well-formed HTML with nothing but allowed tags and attributes.

    Args:
        link: Maps a relative link to what stands in the page, None to drop it.
    """
    import nh3

    return nh3.clean(
        INLINE_SVG.sub(_svg_as_image, fragment),
        tags=set(f"{TEXT} {MATH}".split()),
        clean_content_tags=set(DROPPED.split()),
        attributes=ATTRIBUTES,
        attribute_filter=_checked,
        url_schemes={"http", "https", "mailto", "data"},
        url_relative=link,
    )


def _checked(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "src":
        return value if IMAGE_DATA.match(value) else None
    if attribute == "href" and value.strip().lower().startswith("data:"):
        return None
    return value


def _svg_as_image(found: re.Match[str]) -> str:
    """Inline SVG becomes an image, in which a browser neither runs nor loads anything."""
    label = SVG_LABEL.search(found[0])
    alt = html.escape(html.unescape((label[1] or label[2] or "") if label else ""))
    return f'<img src="{svg_uri(found[0])}" alt="{alt}">'


def as_attributes(**values: Any) -> str:
    """Escaped attributes for a tag of ours; None leaves one out. Apostrophes may stand in double quotes as they are."""
    escaped = {
        key: html.escape(str(value)).replace("&#x27;", "'") for key, value in values.items() if value is not None
    }
    return "".join(f' {key}="{value}"' for key, value in escaped.items())


@dataclass
class Heading:
    """One entry of the table of contents."""

    level: int
    text: str
    anchor: str


@dataclass
class Narrative:
    """Counters of one notebook's body.

    ``prefix`` keeps its anchors apart from those of the page and of other notebooks, ``label`` its tables' names.
    ``unit`` is what the patients of the set are, ``listed`` whether the page shows the results elsewhere.
    """

    prefix: str = "s-"
    label: str = ""
    top: int = 2  # level of the body's largest heading; the page's title has level 1
    unit: str = "patient"
    listed: bool = False
    headings: list[Heading] = field(default_factory=list)
    figures: int = 0
    tables: int = 0
    formulas: int = 0  # those that may have to scroll
    before: tuple[int, int] = (0, 0)  # figures and tables before the section being written
    undescribed: list[str] = field(default_factory=list)  # images without alt text, and where they are
    untitled: list[str] = field(default_factory=list)  # figures and tables without a caption, and where they are
    cell: int = 0  # number of the cell being written, from 1

    def add_heading(self, level: int, text: str) -> Heading:
        """Number a heading into the outline: no level is skipped, no anchor is used twice."""
        previous = self.headings[-1].level if self.headings else self.top - 1
        level = max(self.top, min(level, previous + 1, 6))
        anchor = self.anchor(text)
        taken = {heading.anchor for heading in self.headings}
        number = 2
        unique = anchor
        while unique in taken:
            unique, number = f"{anchor}-{number}", number + 1
        self.headings.append(Heading(level, text, unique))
        self.before = (self.figures, self.tables)
        return self.headings[-1]

    def anchor(self, text: str) -> str:
        """The anchor that a heading with this text has; links to JupyterLab's ``#My-Heading`` find it too."""
        slug = re.sub(r"[^\w]+", "-", text.strip().lower()).strip("-_")[:16].strip("-_")
        return f"{self.prefix}{slug or 'section'}"

    def miss(self, what: str) -> None:
        """Remember an image without a description."""
        self.undescribed.append(f"cell {self.cell}: {what}")


ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)
TABLE_CELL = re.compile(r"<(t[hd])([^>]*)>(.*?)</\1>", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
NUMBER = re.compile(r"[−+\-±~<>≈]?\s*[\d.,\u202f ]*\d(\s?[%a-zµ]{0,3}|\s?\([^)]*\d[^)]*\)|e[+\-]?\d+)?")
CAPTION = re.compile(r"<caption>(.*?)</caption>", re.DOTALL)
INTERVALS = re.compile(r">([^<>]*\([^<>]*\)[^<>]*)<")
INTERVAL = re.compile(r"\([^()]*\d[^()]*\)")  # kept on one line
NOTHING = {"", "–", "-", "nan", "none", "<na>", "nat", "..."}
INDEX_NAME = re.compile(
    r"<thead>\s*<tr>\s*<th></th>((?:(?!</tr>).)*)</tr>\s*<tr>\s*<th>([^<]+)</th>(?:\s*<th></th>)+\s*</tr>\s*</thead>",
    re.DOTALL,
)
MANY = 6  # columns beyond which an interval may stand below its value
LAST = 12  # the style sheet knows columns of numbers up to this one
WIDE, LAST_WIDE = 30, 9  # characters of a cell whose column must not shrink to single words; columns it knows


def one_heading(fragment: str) -> str:
    """The name of a pandas index moves from a row of its own into the empty corner above it."""
    return INDEX_NAME.sub(r"<thead><tr><th>\2</th>\1</tr></thead>", fragment)


def column_classes(table: str) -> str:
    """Classes of a table: ``n2 n3`` set columns of numbers to the right, ``w4`` keeps one of sentences wide.

    Tables with joined cells have none.

    Args:
        table: Sanitised HTML of one table.
    """
    rows = [TABLE_CELL.findall(row) for row in ROW.findall(table)]
    joined = any("span" in attributes for row in rows for _, attributes, _ in row)
    if joined or table.count("<table") > 1 or len({len(row) for row in rows}) != 1:
        return ""
    body = [TABLE_CELL.findall(row) for row in ROW.findall(table[max(table.find("<tbody"), 0) :])]
    columns = list(zip(*(row for row in body if any(tag == "td" for tag, _, _ in row)), strict=True))
    texts = [[html.unescape(TAG.sub("", text)).strip() for _, _, text in column] for column in columns]
    numbers, sentences = [], []
    for place, column in enumerate(texts, 1):
        stacked = len(texts) > MANY and any("(" in text for text in column)
        if 1 < place <= LAST and not stacked and all(map(_is_number, column)):
            numbers.append(f"n{place}")
        elif place <= LAST_WIDE and max(map(len, column)) > WIDE:
            sentences.append(f"w{place}")
    return " ".join(numbers + sentences)


def _is_number(text: str) -> bool:
    return text.lower() in NOTHING or bool(NUMBER.fullmatch(text))


MISSING = '<span class="missing">This image carries no description.</span>'
DISPLAYED_MATH = re.compile(r"(<p>\s*)?(<math display=\"block\">.*?</math>)(\s*</p>)?", re.DOTALL)
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
        self.named = ""  # what the open link adds to its words: the number of a figure or table

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        source = self.get_starttag_text() or ""
        if _level(tag):
            self.heading, self.heading_text = len(self.parts), []
            self.parts.append("")
        elif tag == "table":
            self.narrative.tables += 1
            self.in_table += 1
            self.tables.append(len(self.parts))
            self.parts.append(source)
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
        elif tag == "a":
            self.parts.append(f"{self.named}</a>")
            self.named = ""
        elif tag == "table":
            self.in_table -= 1
            self.parts.append("</table>")
            if self.tables:
                self._finish_table(self.tables.pop())
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

    def _finish_table(self, begin: int) -> None:
        """Number it and let it scroll; a table within another stays as it is."""
        if not self.in_table:
            self.parts[begin:] = [numbered_table("".join(self.parts[begin:]), self.narrative)]

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
        if target in ("#figure-above", "#table-above"):
            return self._reference(figure="figure" in target)
        if target.startswith(CHAPTER):
            return f'<a href="#{html.escape(target.removeprefix(CHAPTER))}">'
        return f'<a href="#{html.escape(self.narrative.anchor(unquote(target[1:])))}">'

    def _reference(self, *, figure: bool) -> str:
        """A link to the last figure or table of the section, which names its number; nothing where there is none."""
        page = self.narrative
        number, before = (page.figures, page.before[0]) if figure else (page.tables, page.before[1])
        if number == before:
            return "<a>"
        self.named = f" ({'Fig.' if figure else 'Table'}\u00a0{number})"
        place = f"figure--{number}-place" if figure else f"table--{number}"
        return f'<a href="#{html.escape(page.prefix)}{place}">'


def _level(tag: str) -> int:
    return int(tag[1]) if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit() else 0


def scroll_open(label: str, anchor: str = "") -> str:
    """Start of a box that scrolls sideways on a narrow screen and can be reached by the keyboard."""
    place = f' id="{html.escape(anchor)}"' if anchor else ""
    return f'<section{place} tabindex="0" aria-label="{html.escape(label)}">'


def numbered_table(table: str, page: Narrative) -> str:
    """A sanitised table with number, title and columns set, in a box that scrolls, with a link to it as CSV."""
    found, number = CAPTION.search(table), f"Table {page.tables}"
    title = found[1].strip() if found else ""
    page.untitled += [] if title else [f"cell {page.cell}: {number}"]
    table = CAPTION.sub("", table, count=1)
    rows = [[html.unescape(TAG.sub("", cell[2])).strip() for cell in TABLE_CELL.findall(r)] for r in ROW.findall(table)]
    caption = f"<caption><b>{number}{'.' * bool(title)}</b> {title} {saved_csv(rows, page.label + number)}</caption>"
    classes = column_classes(table)
    opened = f'<table class="{classes}">' if classes else "<table>"
    shown = re.sub(r"<table[^>]*>", lambda _: opened + caption, INTERVALS.sub(_unbroken, table), count=1)
    return f"{scroll_open(page.label + number.lower(), f'{page.prefix}table--{page.tables}')}{shown}</section>"


def _unbroken(cell: re.Match[str]) -> str:
    """A cell whose values stay on one line with their intervals."""
    return ">" + INTERVAL.sub(r"<nobr>\g<0></nobr>", cell[1]) + "<"
