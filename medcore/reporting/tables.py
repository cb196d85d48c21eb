"""Tables from a notebook as a journal sets them: numbers to the right, words to the left, one line of headings."""

from __future__ import annotations

import html
import re

ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)
CELL = re.compile(r"<(t[hd])([^>]*)>(.*?)</\1>", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
NUMBER = re.compile(r"[−+\-±~<>≈]?\s*[\d.,\u202f ]*\d(\s?[%a-zµ]{0,3}|\s?\([^)]*\d[^)]*\)|e[+\-]?\d+)?")
NOTHING = {"", "–", "-", "nan", "none", "<na>", "nat", "..."}
INDEX_NAME = re.compile(
    r"<thead>\s*<tr>\s*<th></th>((?:(?!</tr>).)*)</tr>\s*<tr>\s*<th>([^<]+)</th>(?:\s*<th></th>)+\s*</tr>\s*</thead>",
    re.DOTALL,
)
LAST = 16  # the style sheet knows columns up to this one


def one_heading(fragment: str) -> str:
    """The name of a pandas index moves from a row of its own into the empty corner above it."""
    return INDEX_NAME.sub(r"<thead><tr><th>\2</th>\1</tr></thead>", fragment)


def column_classes(table: str) -> str:
    """Classes that set the columns of numbers to the right, such as ``n2 n3``; empty for a table with joined cells.

    Args:
        table: Sanitised HTML of one table.
    """
    rows = [CELL.findall(row) for row in ROW.findall(table)]
    joined = any("span" in attributes for row in rows for _, attributes, _ in row)
    if joined or table.count("<table") > 1 or len({len(row) for row in rows}) != 1:
        return ""
    columns = zip(*(row for row in rows if any(tag == "td" for tag, _, _ in row)), strict=True)
    numeric = [number for number, column in enumerate(columns, 1) if all(_is_number(text) for _, _, text in column)]
    return " ".join(f"n{number}" for number in numeric if 1 < number <= LAST)


def _is_number(cell: str) -> bool:
    text = html.unescape(TAG.sub("", cell)).strip()
    return text.lower() in NOTHING or bool(NUMBER.fullmatch(text))
