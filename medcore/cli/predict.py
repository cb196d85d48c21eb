"""``medcore predict``: labels and confidences for new images, written whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from medcore.cli.reading import beside_each_other, decoding_options, given_options, overrule
from medcore.errors import MedcoreError, TestDataRefused

NO_HEATMAPS = {
    "anomaly": "a detector has no Grad-CAM; notebooks 02 and 03 show its error maps",
    **dict.fromkeys(("ordinal", "regression"), "Grad-CAM shows what speaks for a class, not for a grade or value"),
}
MANY_UNUSUAL = 0.1  # share of unusual images (1 % is expected) above which the whole set is called unlike


@click.command("predict")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), help="predictions.csv or .npz [default: print].")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Classes listed per image.")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), help="Images at a time [default: chosen by the image size].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--probabilities", is_flag=True, help="Segmenter: also write probability maps.")
@click.option("--overlays", is_flag=True, help="Segmenter: also write overlay pictures.")
@click.option("--objects", is_flag=True, help="Segmenter: also write numbered objects (watershed).")
@click.option("--heatmaps", type=click.Path(path_type=Path, file_okay=False), help="Folder for Grad-CAM overlays.")
@click.option(
    "--also",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Another classifier of the same classes: probabilities are averaged. A run of folds is one by itself.",
)
@click.option("--tta", is_flag=True, help="Average over the flips and quarter turns of the training.")
@decoding_options
@click.option("--overwrite", is_flag=True, help="Replace results that are there; an input is never replaced.")
@click.option("--mpp", type=click.FloatRange(0, min_open=True), help="Slides: microns per pixel [default: as trained].")
@click.option(
    "--tissue",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="Slides: least share of a tile that is tissue.",
)
@beside_each_other("Whole slides")
@click.option(
    "--seen", type=click.Choice(["count", "refuse"]), default="count", show_default=True,
    help="Images that the model was trained on: count and mark them, or stop there.",
)  # fmt: skip
def command(
    checkpoint: Path, images: tuple[str, ...], out: Path | None, top: int, on_error: str, batch_size: int | None,
    device: str, probabilities: bool, overlays: bool, objects: bool, heatmaps: Path | None, overwrite: bool,
    mpp: float | None, tissue: float, jobs: int, engine: str, seen: str, also: tuple[Path, ...], tta: bool,
    **decoding: Any,
) -> int:  # fmt: skip
    """Predict IMAGES (files, folders, globs, whole slides, or one PatchSet .npz) with CHECKPOINT."""
    from medcore.studies.ensemble import members_of
    from medcore.studies.validation.models import task_of
    from medcore.training import checkpoint as checkpoints

    task = task_of(checkpoints.find(members_of(checkpoint)[0]))
    if (also or tta) and task != "classification":
        raise click.UsageError(f"--also and --tta average classifiers of one class an image; this model is of {task}")
    if slides := slide_files(images):
        return _slides(checkpoint, task, slides, out, device, batch_size, overwrite, mpp, tissue, jobs, engine)
    if task == "segmentation":
        return _segment(
            checkpoint, images, out, on_error, device, probabilities, overlays, objects, overwrite, decoding
        )
    if task == "diagnosis":
        return _diagnose(checkpoint, images, out, on_error, overwrite, seen, decoding)
    if out is not None and out.suffix not in (".csv", ".npz"):
        raise click.UsageError(f"--out {out}: the name must end in .csv or .npz")
    from tqdm import tqdm

    from medcore.data.integrity import open_checked
    from medcore.evaluation.predict import for_terminal, refuse_overwriting
    from medcore.evaluation.predictor import find_images

    predictor = _predictor(task, (checkpoint, *also), tta, device)
    overrule(predictor.manifest, decoding)
    source: Any = find_images(images)
    outputs = [out] if out is not None else []
    if heatmaps is not None and task in NO_HEATMAPS:
        raise click.UsageError(f"--heatmaps: {NO_HEATMAPS[task]}")
    if heatmaps is not None:
        outputs += [heatmaps / heatmap_name(n, path) for n, path in enumerate(source)]
    refuse_overwriting(outputs, source, overwrite=overwrite)
    if len(images) == 1 and images[0].endswith(".npz"):
        source = open_checked(images[0])
    top = min(top, len(predictor.classes))
    tally = Tally(refuse_seen=seen == "refuse")
    batches = predictor.predict(source, on_error=on_error, batch_size=batch_size)
    with tqdm(total=len(source), unit="image", disable=None) as bar:
        stream = tally.watch(batches, bar)
        if heatmaps is not None:
            stream = with_heatmaps(predictor, stream, heatmaps)
        try:
            write(stream, out, top, predictor.classes)
        finally:
            for _, reason in tally.problems:
                click.echo(f"skipped: {for_terminal(reason)}", err=True)
    for line in tally.report(len(source)):
        click.echo(line, err=True)
    return 0


def _predictor(task: str, paths: tuple[Path, ...], tta: bool, device: str) -> Any:
    """What answers for images one by one."""
    from medcore.training.device import choose_device

    if task == "classification":  # the light way: of the studies only what averages is imported
        from medcore.studies.ensemble import load_ensemble

        return load_ensemble(paths, turned=tta, device=str(choose_device(device)))
    from medcore.studies.validation.models import load

    return load(paths[0], device=str(choose_device(device)))


def _diagnose(
    checkpoint: Path, images: tuple[str, ...], out: Path | None, on_error: str, overwrite: bool, seen: str,
    decoding: dict[str, Any],
) -> int:  # fmt: skip
    """A row for every patient of one set of windows."""
    from medcore.data.npzfile import atomic_path
    from medcore.evaluation.predict import for_terminal, refuse_overwriting, safe_cell
    from medcore.studies.validation.models import load

    if len(images) != 1:
        raise click.UsageError("this model diagnoses patients: name one set (a folder, a metadata.csv or a .npz)")
    if out is not None and out.suffix != ".csv":
        raise click.UsageError(f"--out {out}: the name must end in .csv")
    refuse_overwriting([out] if out is not None else [], [Path(images[0])], overwrite=overwrite)
    model: Any = load(checkpoint)
    overrule(model.manifest, decoding)
    table = model.predict(images[0], on_error=on_error)
    known = int(table["seen_in_training"].sum())
    if known and seen == "refuse":
        name = table.loc[table["seen_in_training"], "patient"].iloc[0]
        raise TestDataRefused(f"patient {name!r} was seen in training; leave it out, or mark it (--seen count)")
    rows = [PATIENT_COLUMNS, *map(_patient_row, table.to_dict("records"))]
    if out is None:
        for row in rows:
            click.echo("  ".join(for_terminal(value) for value in row))
    else:
        with atomic_path(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([safe_cell(value) for value in row] for row in rows)
    click.echo(f"{len(table)} patients diagnosed, {known} of them seen in training", err=True)
    return 0


PATIENT_COLUMNS = ["patient", "decision", "score", "probability", "level", "windows", "positive_windows",
                   "suspicious_1", "suspicious_2", "suspicious_3", "seen_in_training"]  # fmt: skip


def _patient_row(row: dict[str, Any]) -> list[str]:
    names = [*map(str, row["suspicious"]), "", "", ""][:3]
    numbers = [f"{row['score']:.6g}", f"{row['probability']:.4f}", str(row["level"])]
    counts = [str(row["windows"]), str(row["positive_windows"])]
    decision, seen = ("healthy", "infected")[row["decision"]], "yes" if row["seen_in_training"] else "no"
    return [str(row["patient"]), decision, *numbers, *counts, *names, seen]


def slide_files(images: tuple[str, ...]) -> list[Path]:
    """The whole slides that are named, folders looked through; [] where there is none.

    Raises:
        click.UsageError: There are slides and something else.
    """
    from medcore.data.slides.reader import find_slides

    found = [find_slides(Path(item)) if Path(item).exists() else [] for item in images]
    if any(found) and not all(found):
        other = next(item for item, slides in zip(images, found, strict=True) if not slides)
        raise click.UsageError(f"{other} is no whole slide, others are: predict them apart")
    return [path for slides in found for path in slides]


def _slides(
    checkpoint: Path, task: str, slides: list[Path], out: Path | None, device: str, batch_size: int | None,
    overwrite: bool, mpp: float | None, tissue: float, jobs: int, engine: str,
) -> int:  # fmt: skip
    """Predict whole slides; 1 where one was left out."""
    from medcore.evaluation.predict import for_terminal
    from medcore.evaluation.predictor import load_predictor
    from medcore.evaluation.segmenter import load_segmenter
    from medcore.studies.slides.predict import TileChoices, predict_slides
    from medcore.training.device import choose_device

    if out is None or out.suffix in (".csv", ".npz"):
        raise click.UsageError("whole slides: --out must name a folder for tables, overlays and GeoJSON")
    loaders: dict[str, Any] = {"segmentation": load_segmenter, "classification": load_predictor}
    if task not in loaders:
        raise click.UsageError(f"whole slides are predicted by classifiers and segmenters; this is a model of {task}")
    model = loaders[task](checkpoint, device=str(choose_device(device)))
    choices = TileChoices(mpp=mpp, tissue=tissue, batch_size=batch_size, overwrite=overwrite)
    tell = partial(click.echo, err=True)
    rows = predict_slides(
        model, slides, out, choices, tell=lambda line: tell(for_terminal(line)), jobs=jobs, engine=engine
    )
    left_out = sum(bool(row.get("problem")) for row in rows)
    click.echo(f"{len(rows) - left_out} of {len(rows)} slides predicted into {for_terminal(out)}", err=True)
    return int(left_out > 0)


def _segment(
    checkpoint: Path, images: tuple[str, ...], out: Path | None, on_error: str, device: str, probabilities: bool,
    overlays: bool, objects: bool, overwrite: bool, decoding: dict[str, Any],
) -> int:  # fmt: skip
    """Label images of a segmenter, one file each."""
    from medcore.data.options import DecodeOptions
    from medcore.evaluation.predict import for_terminal
    from medcore.evaluation.predictor import find_images
    from medcore.evaluation.segmenter import load_segmenter, segment_files
    from medcore.training.device import choose_device

    if out is None or out.suffix in (".csv", ".npz"):
        raise click.UsageError("this checkpoint is a segmenter: --out must name a folder for its label images")
    segmenter = load_segmenter(checkpoint, device=str(choose_device(device)))
    if given := given_options(decoding):
        segmenter = replace(segmenter, decoding=replace(segmenter.decoding or DecodeOptions(), **given))
    files = find_images(images)
    skipped = segment_files(
        segmenter, files, out, probabilities=probabilities, overlays=overlays, objects=objects, on_error=on_error,
        overwrite=overwrite,
    )  # fmt: skip
    for _, reason in skipped:
        click.echo(f"skipped: {for_terminal(reason)}", err=True)
    click.echo(f"{len(files) - len(skipped)} of {len(files)} images segmented into {for_terminal(out)}", err=True)
    if skipped:
        click.echo(f"SKIPPED: {len(skipped)} of {len(files)} images, listed above", err=True)
    return 0


class Tally:
    """What is said at the end: how many images, which could not be read, which look unlike the training set."""

    def __init__(self, *, refuse_seen: bool = False) -> None:
        self.done = self.unusual = self.seen = 0
        self.refuse_seen = refuse_seen
        self.problems: list[tuple[str, str]] = []

    def watch(self, batches: Iterator[Any], bar: Any) -> Iterator[Any]:
        """Pass batches on and count them."""
        for batch in batches:
            self.done += len(batch.images)
            self.unusual += int(batch.unusual.sum())
            self.seen += int(batch.seen.sum())
            if self.refuse_seen and batch.seen.any():
                name = batch.images[int(batch.seen.argmax())]
                raise TestDataRefused(f"{name!r} was seen in training; leave it out, or mark it (--seen count)")
            self.problems += batch.problems
            bar.update(len(batch.images) + len(batch.problems))
            yield batch

    def report(self, asked: int) -> list[str]:
        """Sentences for stderr."""
        lines = [f"{self.done} of {asked} images predicted"]
        if self.done and self.unusual > max(1, MANY_UNUSUAL * self.done):
            lines.append(
                f"warning: {self.unusual} of {self.done} images look unlike the training images (1 % would be usual); "
                "confidences mean little for them (column 'distance' above 1)"
            )
        if self.seen:
            lines.append(f"seen in training: {self.seen} of {self.done} images (column 'seen_in_training')")
        if self.problems:
            lines.append(f"SKIPPED: {len(self.problems)} of {asked} images, listed above")
        return lines


def write(batches: Iterator[Any], out: Path | None, top: int, classes: list[str]) -> None:
    """Print, or write a file that appears only when it is complete."""
    from medcore.data.npzfile import atomic_path
    from medcore.evaluation.predict import for_terminal, safe_cell, utf8

    if out is None:
        for batch in batches:
            for row in table_rows(batch, top):
                click.echo("  ".join(for_terminal(value) for value in row))
    elif out.suffix == ".csv":
        with atomic_path(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            some = False
            for batch in batches:
                if not some:
                    writer.writerow(header(top, batch))
                some = some or bool(batch.images)
                writer.writerows([safe_cell(value) for value in row] for row in table_rows(batch, top))
            refuse_nothing(some)
    else:
        names: list[str] = []
        shares, seen, kind = [], [], ""
        for batch in batches:  # their pixels are let go
            names += map(utf8, batch.images)
            shares.append(batch.probabilities)
            kind = "values" if getattr(batch, "task", "") == "regression" else "probabilities"
            seen.append(batch.seen)
        refuse_nothing(bool(names))
        with atomic_path(out) as temporary, open(temporary, "wb") as binary:
            np.savez(
                binary,
                images=np.array(names),
                **{kind: np.concatenate(shares)},  # type: ignore[arg-type]
                classes=np.array(classes),
                seen_in_training=np.concatenate(seen),
            )


def refuse_nothing(some: bool) -> None:
    """Raise where no image at all could be read: a table without rows would look like an answer."""
    if not some:
        raise MedcoreError("no image could be predicted; nothing is written")


def header(top: int, batch: Any) -> list[str]:
    """Column names of the CSV; ``abstain`` and ``set`` where the checkpoint has rules for them."""
    if hasattr(batch, "score"):
        return ["image", "label", "score", "probability", "seen_in_training"]
    if batch.task == "regression":
        return ["image", batch.classes[0], "distance", "seen_in_training"]
    if batch.task in ("findings", "ordinal"):
        first = "findings" if batch.task == "findings" else "grade"
        return ["image", first, *(f"p {name}" for name in batch.classes), "distance", "seen_in_training"]
    further = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("label", "confidence")]
    unsure = ["abstain"] * (batch.answered is not None) + ["set"] * (batch.plausible is not None)
    unsure += ["disagreement"] * hasattr(batch, "disagreement")
    return ["image", "label", "confidence", *further, *unsure, "distance", "seen_in_training"]


def table_rows(batch: Any, top: int) -> Iterator[list[Any]]:
    """One CSV row per image."""
    if hasattr(batch, "score"):  # of a detector
        for n, (name, label) in enumerate(zip(batch.images, batch.labels, strict=True)):
            share = f"{batch.probabilities[n, 1]:.4f}"
            yield [name, label, f"{batch.score[n]:.6g}", share, "yes" if batch.seen[n] else "no"]
        return
    if batch.task != "classification":
        for n, (name, label) in enumerate(zip(batch.images, batch.labels, strict=True)):
            shares = [] if batch.task == "regression" else [f"{share:.4f}" for share in batch.probabilities[n]]
            distance = "" if batch.distance is None else f"{batch.distance[n]:.3f}"
            yield [name, label, *shares, distance, "yes" if batch.seen[n] else "no"]
        return
    abstains, sets = batch.abstains, batch.sets
    for n, (name, best) in enumerate(zip(batch.images, batch.top(top), strict=True)):
        pairs = [value for label, share in best for value in (label, f"{share:.4f}")]
        distance = "" if batch.distance is None else f"{batch.distance[n]:.3f}"
        unsure = [] if abstains is None else ["yes" if abstains[n] else "no"]
        unsure += [] if sets is None else [" | ".join(sets[n])]
        unsure += [f"{batch.disagreement[n]:.4f}"] if hasattr(batch, "disagreement") else []
        yield [name, *pairs, *unsure, distance, "yes" if batch.seen[n] else "no"]


def heatmap_name(number: int, name: Any) -> str:
    """File of an image's heatmap; the number keeps images of equal names apart."""
    return f"{number:06d}_{Path(name).stem}.png"


def with_heatmaps(predictor: Any, batches: Iterator[Any], folder: Path) -> Iterator[Any]:
    """Write a Grad-CAM overlay beside each prediction."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for batch in batches:
        if len(batch.images):
            for name, picture in zip(batch.images, predictor.overlays(batch), strict=True):
                Image.fromarray(picture).save(folder / heatmap_name(number, name))
                number += 1
        yield batch
