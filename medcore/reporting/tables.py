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
    rows = [CELL.findall(row) for row in ROW.findall(table)]
    joined = any("span" in attributes for row in rows for _, attributes, _ in row)
    if joined or table.count("<table") > 1 or len({len(row) for row in rows}) != 1:
        return ""
    body = [CELL.findall(row) for row in ROW.findall(table[max(table.find("<tbody"), 0) :])]
    columns = list(zip(*(row for row in body if any(tag == "td" for tag, _, _ in row)), strict=True))
    texts = [[html.unescape(TAG.sub("", text)).strip() for _, _, text in column] for column in columns]
    numbers, sentences = [], []
    for place, column in enumerate(texts, 1):
        if 1 < place <= LAST and all(map(_is_number, column)):
            numbers.append(f"n{place}")
        elif place <= LAST_WIDE and max(map(len, column)) > WIDE:
            sentences.append(f"w{place}")
    return " ".join(numbers + sentences)


def _is_number(text: str) -> bool:
    return text.lower() in NOTHING or bool(NUMBER.fullmatch(text))
