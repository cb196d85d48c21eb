"""What a page knows while it is being written: headings, numbers of figures, what lacks a description."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


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
    """

    prefix: str = "s-"
    label: str = ""
    top: int = 2  # level of the body's largest heading; the page's title has level 1
    headings: list[Heading] = field(default_factory=list)
    figures: int = 0
    tables: int = 0
    formulas: int = 0  # those that may have to scroll
    undescribed: list[str] = field(default_factory=list)  # images without alt text, and where they are
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
        return self.headings[-1]

    def anchor(self, text: str) -> str:
        """The anchor that a heading with this text has; links to JupyterLab's ``#My-Heading`` find it too."""
        slug = re.sub(r"[^\w]+", "-", text.strip().lower()).strip("-_")[:24].strip("-_")
        return f"{self.prefix}{slug or 'section'}"

    def miss(self, what: str) -> None:
        """Remember an image without a description."""
        self.undescribed.append(f"cell {self.cell}: {what}")
