"""Drawings as ``data:`` addresses, about half the size that matplotlib gives them; without matplotlib."""

from __future__ import annotations

import re
from itertools import count

PROLOGUE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata\b.*?</metadata>", re.DOTALL)
BETWEEN = re.compile(r">\s+<")
BREAK = re.compile(r"\s*\n\s*")
DECIMALS = re.compile(r"\b([1-9]\d*\.\d\d)\d+")  # small factors keep theirs: they scale whole glyphs
PATH = re.compile(r' d="([^"]*)"')
COMMAND = re.compile(r"\s*([A-Za-z])\s*")
STYLE = re.compile(r' style="([^"]*)"')
ID = re.compile(r' id="([^"]*)"')
USED = re.compile(r"#([\w.:-]+)")
REFERENCE = re.compile(r'(href="#|url\(#| id=")([\w.:-]+)')
ESCAPES = str.maketrans({"%": "%25", "#": "%23", "<": "%3C", ">": "%3E"})


def svg_uri(svg: str) -> str:
    """An SVG document as ``data:`` address."""
    if "xmlns=" not in svg[:1000]:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    drawing = compact(svg).translate(ESCAPES)
    return "data:image/svg+xml," + (drawing.replace('"', "%22") if "'" in drawing else drawing.replace('"', "'"))


def compact(svg: str) -> str:
    """The same drawing without comments, metadata, line breaks, unused names and decimals below a hundredth pixel."""
    svg = BREAK.sub(" ", BETWEEN.sub("><", PROLOGUE.sub("", svg)))
    svg = DECIMALS.sub(r"\1", svg).replace("xlink:href=", "href=").strip()
    svg = PATH.sub(lambda found: f' d="{COMMAND.sub(lambda letter: letter[1], found[1]).strip()}"', svg)
    svg = STYLE.sub(lambda found: f' style="{found[1].replace("; ", ";").replace(": ", ":")}"', svg)
    return _shorter_names(svg)


def _shorter_names(svg: str) -> str:
    """Names that nothing refers to are dropped; the others become short where only drawing elements use them."""
    used = set(USED.findall(svg))
    svg = ID.sub(lambda found: found[0] if found[1] in used else "", svg)
    if "#" in "".join(re.findall(r"<style\b.*?</style>", svg, re.DOTALL)):
        return svg  # a style sheet may use names in other ways
    numbers, short = count(), dict[str, str]()
    for name in ID.findall(svg):
        short.setdefault(name, f"i{next(numbers)}")
    return REFERENCE.sub(lambda found: found[1] + short.get(found[2], found[2]), svg)
