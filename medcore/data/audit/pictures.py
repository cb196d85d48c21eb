"""What an audit found, as files: a CSV table of every pair or doubtful label, and an HTML page with their pictures.

The page needs nothing else: no script, no request, pictures inside; every name from the data is escaped.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medcore.data.audit.audit import Audit
from medcore.data.audit.findings import KINDS, printable
from medcore.data.audit.hashing import SYMMETRIES, apply_symmetry
from medcore.data.npzfile import atomic_path
from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize
from medcore.errors import MedcoreError

SHOWN_PAIRS = 200  # on the page; the table holds all
THUMBNAIL = 160  # pixels
MARK = '<meta name="generator" content="medcore audit">'
FIRST_COLUMNS = "kind,across_split,same_group"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run such a cell
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color-scheme: light dark }
table { border-collapse: collapse }
td, th { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8885 }
.pairs { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)) }
figure { margin: 0 }
img { image-rendering: pixelated; max-width: 100% }
figcaption { font-size: .85em; overflow-wrap: anywhere }
"""


def write_findings(ps: PatchSet, audited: Audit, path: Path) -> Path:
    """Write every pair to a CSV file and the findings with pictures to an HTML page of the same name.

    Args:
        ps: the set that was audited.
        path: of the table, ending in ``.csv``.

    Returns:
        Where the page lies.

    Raises:
        MedcoreError: a file of another origin would be replaced.
    """
    table = audited.pair_table(ps)
    return _write(path, table, findings_page(ps, audited, table))


def write_doubts(ps: PatchSet, table: pd.DataFrame, path: Path) -> Path:
    """Write labels that are probably wrong to a CSV file for review, and a page with their pictures.

    Args:
        ps: The set.
        table: As from ``LabelCheck.table``, worst first; a review that is there already is not replaced.
        path: Of the table, ending in ``.csv``.

    Returns:
        Where the page lies.

    Raises:
        MedcoreError: A file would be replaced.
    """
    if path.exists():
        raise MedcoreError(f"{path} exists; it may hold a review: choose another name")
    place = {row: position for position, row in enumerate(ps.index.tolist())}
    shown = table.head(SHOWN_PAIRS)
    images = ps.take([place[row] for row in shown["row"]])
    figures = "".join(
        _pictured([image], f"{one['label']} → {one['suggested']}", [
            f"given <b>{_escaped(one['label'])}</b> ({one['p_label']:.2f}), suggested "
            f"<b>{_escaped(one['suggested'])}</b> ({one['p_suggested']:.2f})",
            _escaped(f"row {one['row']}, {one['source']}, {one['patient']}"),
        ])
        for image, one in zip(images, shown.to_dict("records"), strict=True)
    )  # fmt: skip
    more = f"<p>{len(table) - len(shown):,} further labels stand in the table.</p>" if len(table) > len(shown) else ""
    text = (
        f"<p>Worst first; in brackets the probabilities of models that never saw the patient. Write the right class "
        f"(or <i>unlabelled</i>) into the column <i>correct</i> of {_escaped(path.name)} where a label is wrong, and "
        f"leave it empty where it is right.</p>"
    )
    title = f"{ps.card.name}: {len(table):,} labels that may be wrong"
    return _write(path, table, _page(_escaped(title), f'{text}<div class="pairs">{figures}</div>{more}'))


def _write(path: Path, table: pd.DataFrame, text: str) -> Path:
    """Write the table, every cell safe for a spreadsheet, and the page beside it."""
    page = path.with_suffix(".html")
    for file, mark in ((path, FIRST_COLUMNS), (page, MARK)):
        if file.exists() and mark not in file.read_text(encoding="utf-8", errors="replace")[:400]:
            raise MedcoreError(f"{file} exists and is no earlier audit: choose another name for the findings")
    columns = table.select_dtypes(exclude=["number", "bool"]).columns
    safe = table.assign(**{name: [name_cell(str(value)) for value in table[name]] for name in columns})
    with atomic_path(path) as temporary:
        safe.to_csv(temporary, index=False)
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return page


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{MARK}<meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"><title>{title}</title>"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
    )


def findings_page(ps: PatchSet, audited: Audit, table: pd.DataFrame) -> str:
    """The page as text.

    Args:
        table: all pairs, as from ``Audit.pair_table``.
    """
    title = _escaped(f"Audit of {audited.set_name}: {audited.verdict}")
    rows = _rows(audited.table().itertuples(index=False))
    power = _rows((kind, f"{found} of {planted}") for kind, (found, planted) in audited.power.items())
    unseen = _escaped("; ".join(audited.unseen))
    figures = "".join(_figure(ps, pair) for pair in table.head(SHOWN_PAIRS).to_dict("records"))
    more = f"<p>{len(table) - SHOWN_PAIRS:,} further pairs stand in the table.</p>" if len(table) > SHOWN_PAIRS else ""
    return _page(
        title,
        f"<p>{audited.images:,} images.</p>"
        f"<table><tr><th>severity</th><th>finding</th><th>count</th><th>what it means</th></tr>{rows}</table>"
        f"<h2>What the audit would have found</h2><p>Copies planted into this set, and how many were recognised.</p>"
        f"<table>{power}</table><p>Not seen here or not looked for: {unseen}.</p>"
        f'<h2>{len(table):,} pairs</h2><div class="pairs">{figures}</div>{more}',
    )


def _rows(rows: Iterable[Iterable[object]]) -> str:
    return "".join(f"<tr>{''.join(f'<td>{_escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)


def _figure(ps: PatchSet, pair: dict) -> str:
    """Two images side by side, the second flipped or turned onto the first, and what they are."""
    first, second = ps.take([int(pair["row_a"]), int(pair["row_b"])])
    number = next((k for k, name in enumerate(SYMMETRIES) if pair["how"].startswith(name)), 0)
    if number < 4 or ps.shape[0] == ps.shape[1]:
        second = apply_symmetry(second, number)
    sides = [f"{pair[f'file_{end}']} ({pair[f'side_{end}'] or 'no side'}, {pair[f'group_{end}']})" for end in "ab"]
    kind = KINDS[pair["kind"]] + (" across the split" if pair["across_split"] else "")
    caption = [_escaped(text) for text in (f"{kind}: {pair['how']}", *sides)]
    return _pictured([first, second], f"{sides[0]} beside {sides[1]}", caption)


def _pictured(images: list[np.ndarray], alt: str, caption: list[str]) -> str:
    """Images side by side, each ``(H, W, C)``, with a caption of lines that are escaped already."""
    height = max(1, round(THUMBNAIL * images[0].shape[0] / images[0].shape[1]))
    small = [
        resize(np.ascontiguousarray(image), (height, THUMBNAIL)).reshape(height, THUMBNAIL, -1) for image in images
    ]
    both, buffer = np.concatenate(small, axis=1), io.BytesIO()
    Image.fromarray(both[..., 0] if both.shape[2] == 1 else both).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{_escaped(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{'<br>'.join(caption)}</figcaption></figure>"
    )


def _escaped(value: object) -> str:
    return html.escape(printable(str(value)))


def name_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula, on one line."""
    return ("'" if text.startswith(FORMULA) else "") + printable(text)
