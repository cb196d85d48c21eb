"""A model on whole slides: a table of tiles, an overlay, areas for QuPath, and a line per slide.

    predict_slides(load_predictor("runs/a"), [Path("a.svs")], Path("out"))

- ``NAME_tiles.csv``: a row per tile of tissue, ``x`` and ``y`` in level-0 pixels. It grows while the slide is read, so
  that a run that was killed goes on where it stopped; a slide that is done is not read again.
- ``NAME.geojson``: the tiles (a classifier) or outlines (a segmenter) in level-0 pixels, for QuPath.
- ``NAME_overlay.png``: the slide, tinted by class. ``NAME.json``: the line of the slide and what made it.
- ``slides.csv``: a row per slide; a broken one is named there and the others go on.
- Memory holds some tiles: they are read ahead by threads while the model computes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from medcore.data.npzfile import atomic_path
from medcore.data.slides.annotations import Shape, write_geojson
from medcore.data.slides.slide import Slide
from medcore.data.slides.tiles import TileRule, kept_tiles, read_tiles
from medcore.data.slides.tissue import Tissue, find_tissue
from medcore.errors import MedcoreError
from medcore.evaluation.predict import auto_batch_size, safe_cell
from medcore.evaluation.predictor import Predictor
from medcore.evaluation.segmenter import Segmenter, palette
from medcore.studies.slides.segment import segment_slide
from medcore.training.distributed import run_jobs

OPACITY = 0.45
TILES = ("x", "y", "width", "height", "label", "confidence", "distance", "seen_in_training", "tissue")
SUMMARY = ("slide", "model", "answer", "tiles", "tissue_mm2", "mpp", "seconds", "per_second", "unusual_tiles",
           "seen_tiles", "problem")  # fmt: skip


@dataclass(frozen=True)
class TileChoices:
    """How slides are predicted.

    Attributes:
        mpp: Microns per pixel of the model's tiles; None takes those of its training.
        overlap: Pixels that neighbouring tiles share (classifiers).
        tissue: Least share of a tile that is tissue.
        batch_size: Tiles at a time; None chooses.
        overwrite: Replace answers of another model or other choices.
    """

    mpp: float | None = None
    overlap: int = 0
    tissue: float = 0.25
    batch_size: int | None = None
    overwrite: bool = False


def predict_slides(
    model: Predictor | Segmenter, paths: Sequence[Path], out: Path, choices: TileChoices | None = None, *,
    tell: Callable[[str], None] = print, jobs: int = 1, engine: str = "loky",
) -> list[dict[str, Any]]:  # fmt: skip
    """Predict slides into a folder.

    Args:
        tell: Hears a line per slide.
        jobs: Slides side by side.
        engine: ``loky`` here, ``dask`` or ``ray`` on a cluster that sees the same folders.

    Returns:
        A row per slide, as in ``slides.csv``; ``problem`` says why one has no answer.

    Raises:
        MedcoreError: Two slides have one name, or answers of another model are there.
    """
    choices = choices or TileChoices()
    names = [path.stem.removesuffix(".ome") for path in paths]
    twice = sorted({name for name in names if [n.casefold() for n in names].count(name.casefold()) > 1})
    if twice:
        raise MedcoreError(f"two slides are called {twice[0]!r}; predict them into two folders")
    out.mkdir(parents=True, exist_ok=True)
    tasks = [
        SlideJob(model, path.resolve(), out.resolve() / name, choices) for path, name in zip(paths, names, strict=True)
    ]
    found: dict[int, dict[str, Any]] = {}
    for number, row in run_jobs(run_job, tasks, jobs=jobs, engine=engine):
        found[number] = row
        tell(_line(row))
    rows = [found[number] for number in range(len(tasks))]
    classes = model.classes
    with atomic_path(out / "slides.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, [*SUMMARY, *(f"share_{name}" for name in classes)], restval="", extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows({key: safe_cell(value) for key, value in row.items()} for row in rows)
    return rows


@dataclass(frozen=True)
class SlideJob:
    """One slide as it travels to another process."""

    model: Predictor | Segmenter
    path: Path
    stem: Path
    choices: TileChoices


def run_job(job: SlideJob) -> dict[str, Any]:
    """The row of a slide; a broken one is told in it."""
    try:
        return predict_slide(job.model, job.path, job.stem, job.choices)
    except MedcoreError as error:
        return {"slide": job.path.name, "problem": str(error)}


def _line(row: dict[str, Any]) -> str:
    if row.get("problem"):
        return f"{row['slide']}: LEFT OUT: {row['problem']}"
    again = " (done before, not read again)" if row.get("kept") else ""
    return (
        f"{row['slide']}: {row['answer']} largest; {row['tiles']} tiles, {row['tissue_mm2']:.2f} mm² of tissue, "
        f"{row['seconds']:.1f} s, {row['per_second']:.1f} tiles a second{again}"
    )


def predict_slide(model: Predictor | Segmenter, path: Path, stem: Path, choices: TileChoices) -> dict[str, Any]:
    """One slide; what is there already from the same model and choices is used.

    Raises:
        MedcoreError: The slide is broken or has no tissue, or other answers are there.
    """
    done = stem.with_name(f"{stem.name}.json")
    key = _key(model, path, choices)
    if done.is_file() and not choices.overwrite:
        found = json.loads(done.read_text(encoding="utf-8"))
        if found.get("key") == key:
            return {**found["row"], "kept": True}
        raise MedcoreError(
            f"{done} is the answer of another model, slide or choice; choose another --out, or --overwrite"
        )
    started = time.perf_counter()
    with Slide(path) as slide:
        found = find_tissue(slide)
        mpp = choices.mpp or _mpp_of(model)
        make = _classify if isinstance(model, Predictor) else _segment
        row = make(model, slide, found, mpp, stem, choices, key)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    row = {
        "slide": path.name, "model": _name_of(model), "tissue_mm2": found.quality()["tissue_mm2"], "mpp": mpp, **row,
        "seconds": round(seconds, 2), "per_second": round(row["tiles"] / seconds, 2),
    }  # fmt: skip
    with atomic_path(done) as temporary:
        temporary.write_text(json.dumps({"key": key, "row": row}, ensure_ascii=False, indent=1), encoding="utf-8")
    return row


def _name_of(model: Predictor | Segmenter) -> str:
    return str(model.manifest["architecture"]["family"]) if isinstance(model, Predictor) else type(model.model).__name__


def _mpp_of(model: Predictor | Segmenter) -> float:
    """Microns per pixel that a model sees.

    Raises:
        MedcoreError: Its checkpoint does not say.
    """
    if isinstance(model, Segmenter):
        size, factor = model.pixel_size_um, model.factor
    else:
        size, factor = model.manifest["preprocessing"].get("pixel_size_um"), 1.0
    if not size:
        raise MedcoreError("the checkpoint does not know how large the pixels of its training were; say --mpp")
    return float(size) / factor


def _key(model: Predictor | Segmenter, path: Path, choices: TileChoices) -> str:
    """Names slide (by size and time), weights and choices."""
    weights = hashlib.sha256()
    for name, value in model.model.state_dict().items():
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().numpy().tobytes())
    status = path.stat() if path.exists() else None
    stamp = [status.st_size, status.st_mtime_ns] if status else []
    what = [path.name, stamp, weights.hexdigest(), model.classes, choices.mpp, choices.overlap, choices.tissue]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _classify(
    model: Predictor, slide: Slide, found: Tissue, mpp: float, stem: Path, choices: TileChoices, key: str
) -> dict[str, Any]:
    height, width, channels = model.manifest["image_shape"]
    rule = TileRule((height, width), mpp, choices.overlap, choices.tissue)
    regions, tissue = kept_tiles(slide, rule, found)
    growing = stem.with_name(f".{stem.name}_tiles.{key}.part")
    table = stem.with_name(f"{stem.name}_tiles.csv")
    size = choices.batch_size or auto_batch_size((height, width, 3), model_device(model))
    start = _rows_done(growing, model.classes)
    with open(growing, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not start:
            file.truncate(0)
            writer.writerow([*TILES, *(f"p_{name}" for name in model.classes)])
        tiles = read_tiles(slide, regions[start:], (height, width))
        for batch in _batches(tiles, size):
            pixels = batch if channels == 3 else np.stack([_grey(tile) for tile in batch])
            answers = next(model.predict(pixels, batch_size=len(pixels)))
            distance = [
                "" if answers.distance is None else f"{value:.3f}" for value in _or_empty(answers.distance, pixels)
            ]
            for n, (label, sure) in enumerate(zip(answers.labels, answers.confidence, strict=True)):
                writer.writerow(
                    [*regions[start + n].tolist(), safe_cell(label), f"{sure:.4f}", distance[n],
                     "yes" if answers.seen[n] else "no", f"{tissue[start + n]:.4f}",
                     *(f"{share:.6f}" for share in answers.probabilities[n])]
                )  # fmt: skip
            start += len(pixels)
            file.flush()
    rows = tile_rows(growing)
    growing.replace(table)
    labels = np.array([[float(row[f"p_{name}"]) for name in model.classes] for row in rows]).argmax(1)
    write_geojson(stem.with_name(f"{stem.name}.geojson"), _tile_shapes(rows, model.classes), _colours(model.classes))
    save_overlay(found, tile_map(found, rows, labels), model.classes, stem.with_name(f"{stem.name}_overlay.png"))
    shares = {f"share_{name}": round(float((labels == k).mean()), 4) for k, name in enumerate(model.classes)}
    unusual = sum(bool(row["distance"]) and float(row["distance"]) > 1 for row in rows)
    seen = sum(row["seen_in_training"] == "yes" for row in rows)
    answer = model.classes[int(np.bincount(labels).argmax())]
    return {"answer": answer, "tiles": len(rows), "unusual_tiles": unusual, "seen_tiles": seen, **shares}


def _or_empty(distance: np.ndarray | None, pixels: np.ndarray) -> np.ndarray:
    return np.zeros(len(pixels)) if distance is None else distance


def model_device(model: Predictor) -> Any:
    """The device that a predictor computes on."""
    import torch

    return torch.device(model.device or "cpu")


def _batches(tiles: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    while batch := list(islice(tiles, size)):
        yield np.stack(batch)


def _grey(tile: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(tile).convert("L"))[..., None]


def tile_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table of tiles."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _rows_done(path: Path, classes: list[str]) -> int:
    """Whole rows of a growing table; half a row at its end is cut off."""
    if not path.is_file():
        return 0
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        path.write_bytes(whole)
    rows = tile_rows(path)
    return len(rows) if rows and len(rows[0]) == len(TILES) + len(classes) else 0


def _tile_shapes(rows: list[dict[str, str]], classes: list[str]) -> Iterator[Shape]:
    for row in rows:
        x, y, width, height = (float(row[name]) for name in TILES[:4])
        corners = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
        shares = np.array([float(row[f"p_{name}"]) for name in classes])
        yield Shape(
            classes[int(shares.argmax())], [corners], {f"p {n}": float(p) for n, p in zip(classes, shares, strict=True)}
        )


def _colours(classes: list[str]) -> dict[str, tuple[int, int, int]]:
    table = palette()[1 : len(classes) + 1].tolist()
    return {name: (red, green, blue) for name, (red, green, blue) in zip(classes, table, strict=True)}


def tile_map(found: Tissue, rows: list[dict[str, str]], values: np.ndarray, empty: int = -1) -> np.ndarray:
    """A value per tile on the overview, ``empty`` where there is no tile. **Shape** ``(h, w)`` of values' type."""
    canvas = np.full(found.tissue.shape, empty, values.dtype)
    for row, value in zip(rows, values, strict=True):
        x, y, width, height = (float(row[name]) for name in TILES[:4])
        left, right = (int(round(v / found.scale[0])) for v in (x, x + width))
        top, low = (int(round(v / found.scale[1])) for v in (y, y + height))
        canvas[top : max(low, top + 1), left : max(right, left + 1)] = value
    return canvas


def save_overlay(found: Tissue, labels: np.ndarray, classes: list[str], path: Path) -> None:
    """The slide tinted by class, with the colours' names below. ``labels`` **shape** ``(h, w)``, -1 for none."""
    colours = palette()[1 : len(classes) + 1].astype(np.float32)
    picture = found.overview.astype(np.float32)
    inside = labels >= 0
    picture[inside] = (1 - OPACITY) * picture[inside] + OPACITY * colours[labels[inside]]
    image = Image.fromarray(picture.astype(np.uint8))
    zoom = max(1, 900 // max(image.size))
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    shown = [k for k in range(len(classes)) if (labels == k).any()]
    canvas = Image.new("RGB", (max(image.width, 240), image.height + 18 * len(shown) + 8), "white")
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for place, k in enumerate(shown):
        top = image.height + 6 + 18 * place
        draw.rectangle((6, top, 20, top + 12), fill=tuple(int(c) for c in colours[k]))
        draw.text((28, top), "".join(c if c.isprintable() else "?" for c in classes[k]), fill="black")
    with atomic_path(path) as temporary:
        canvas.save(temporary, format="PNG")


def _segment(
    model: Segmenter, slide: Slide, found: Tissue, mpp: float, stem: Path, choices: TileChoices, key: str
) -> dict[str, Any]:
    answer = segment_slide(model, slide, found, mpp, stem)
    write_geojson(stem.with_name(f"{stem.name}.geojson"), answer.outlines(model.classes), _colours(model.classes))
    size = found.tissue.shape
    coarse = np.asarray(Image.fromarray(answer.coarse).resize((size[1], size[0]), Image.Resampling.NEAREST)).astype(int)
    save_overlay(found, np.where(coarse > 0, coarse, -1), model.classes, stem.with_name(f"{stem.name}_overlay.png"))
    of_tissue = answer.counts / max(1, answer.counts.sum())
    shares = {f"share_{name}": round(float(part), 6) for name, part in zip(model.classes, of_tissue, strict=True)}
    largest = int(answer.counts[1:].argmax()) + 1 if len(answer.counts) > 1 else 0
    return {"answer": model.classes[largest], "tiles": answer.tiles, **shares}
