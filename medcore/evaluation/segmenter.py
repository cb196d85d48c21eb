"""What ``medcore predict`` writes for a segmentation model: label images, and on request maps, overlays and objects.

    segment_files(load_segmenter("runs/a"), paths, "out", overlays=True, objects=True)

- ``NAME.png`` holds class indexes (a palette shows them in colour); ``.tif`` where the pixel size is known, with the
  resolution inside. Names come from the source; two equal ones get a number, and no result replaces an image.
- ``summary.csv``: a row per image and class, with the label file's name, pixels, share, area and, with objects, their
  number, and whether the model was trained on that very image.
- Images of more than 64 megapixels (TIFF or ``.npy``) stay on the disk, are cut, and written strip by strip to a tiled
  ``NAME.tif``, probabilities to ``NAME_probabilities.npy``; overlays and objects are not made of them.
"""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcore.data.formats.large import TIFF_SUFFIXES, mapped_tiff, tiff_pixels, write_tiled
from medcore.data.images import DecodeOptions, as_channels, decode
from medcore.data.npzfile import atomic_path
from medcore.data.sizes import pieces
from medcore.errors import MedcoreError
from medcore.evaluation.predict import refuse_overwriting, safe_cell
from medcore.evaluation.sliding import Window, at_scale, predict_image, predict_large
from medcore.metrics.objects import split_touching
from medcore.models.unet import SegmentationModel
from medcore.training import checkpoint
from medcore.training.manifest import decode_options
from medcore.training.seen import Seen, pixel_hashes

LARGE = 1 << 26  # pixels above which probabilities do not stay in memory
WHOLE = 1 << 20  # pixels, as the network sees them, up to which an image is not cut
COLUMNS = ("image", "output", "class", "pixels", "share", "area_um2", "objects", "seen_in_training")
SUMMARY = "summary.csv"


@dataclass(frozen=True)
class Segmenter:
    """A segmentation model out of a checkpoint.

    Attributes:
        classes: K class names, background first.
        window: How images are cut.
        factor: Size that the model sees, as a share of the image's.
        pixel_size_um: Of the images it was trained on, None when unknown.
        decoding: How deep pixels become 8 bit, as in training.
        seen: What it was trained on.
        policy: How images came to the size of training.
        trained_size: Height and width of the images of training.
    """

    model: SegmentationModel
    classes: list[str]
    window: Window
    factor: float = 1.0
    pixel_size_um: float | None = None
    decoding: DecodeOptions | None = None
    seen: Seen | None = None
    policy: str = "resize"
    trained_size: tuple[int, int] | None = None


def load_segmenter(path: str | Path, *, device: str | None = None, turns: int | None = None) -> Segmenter:
    """A segmentation model ready to predict.

    Args:
        path: A run's folder or a checkpoint.
        turns: 1, 2 or 8; None takes what the checkpoint was judged with.

    Raises:
        MedcoreError: Nothing is there, a byte changed, or it is no segmentation model.
    """
    loaded = checkpoint.load_checkpoint(Path(path))
    manifest = loaded.manifest
    if not isinstance(loaded.model, SegmentationModel):
        raise MedcoreError(
            f"{loaded.path} holds a {manifest['architecture']['family']}, not a segmentation model; "
            "a classifier is used with medcore.load_predictor"
        )
    facts = manifest["extra"].get("segmentation", {})
    window = Window(tile=facts.get("tile", 256), turns=turns or facts.get("turns", 1), device=device)
    return Segmenter(
        loaded.model,
        list(manifest["classes"]),
        window,
        float(facts.get("factor", 1.0)),
        facts.get("pixel_size_um"),
        decode_options(manifest["preprocessing"]),
        Seen.of(manifest),
        manifest["preprocessing"].get("policy", "resize"),
        tuple(manifest["image_shape"][:2]),  # type: ignore[arg-type]
    )


def segment_files(
    segmenter: Segmenter,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    probabilities: bool = False,
    overlays: bool = False,
    objects: bool = False,
    on_error: str = "raise",
    pixel_size_um: float | None = None,
    overwrite: bool = False,
) -> list[tuple[str, str]]:
    """Segment image files into a folder.

    Args:
        out: The folder; it is made when missing.
        probabilities: Also ``NAME_<class>.png``, 255 = certain.
        objects: Also ``NAME_objects.png`` (16 bit): foreground cut into single objects by watershed, numbered.
        on_error: ``raise`` at an unreadable image, or ``skip`` it.
        pixel_size_um: Of these images; None takes the training set's.
        overwrite: Replace results that are there; an input is never replaced.

    Returns:
        Files that were skipped, with the reason.

    Raises:
        MedcoreError: An image cannot be read (``on_error="raise"``), or a result would replace a file.
    """
    if on_error not in ("raise", "skip"):
        raise MedcoreError(f"on_error={on_error!r}: must be 'raise' or 'skip'")
    segmenter = replace(segmenter, pixel_size_um=pixel_size_um or segmenter.pixel_size_um)
    folder, problems = Path(out), []
    files = named(segmenter, list(map(Path, paths)), probabilities, overlays, objects)
    names = (name for _, stem in files for name in outputs_of(segmenter, stem, probabilities, overlays, objects))
    targets = [folder / name for name in (SUMMARY, *names)]
    refuse_overwriting(targets, (path for path, _ in files), overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / SUMMARY) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for path, stem in files:
            with ExitStack() as stack:
                try:
                    pixels = read_pixels(segmenter, path, stack, folder)
                except MedcoreError as error:
                    if on_error == "raise":
                        raise
                    problems.append((str(path), str(error)))
                    continue
                rows = segment_one(segmenter, pixels, folder / stem, probabilities, overlays, objects)
                writer.writerows([safe_cell(value) for value in (str(path), *row)] for row in rows)
        if len(problems) == len(files):
            raise MedcoreError(f"no image could be segmented; nothing is written; the first reason: {problems[0][1]}")
    return problems


def segment_one(
    segmenter: Segmenter, pixels: np.ndarray, stem: Path, probabilities: bool, overlays: bool, objects: bool
) -> Iterator[list[Any]]:
    """Write what was asked for of one image; yields its summary rows without the name."""
    numbers: np.ndarray | None = None
    if pixels.shape[0] * pixels.shape[1] > LARGE:
        labels = segment_large(segmenter, pixels, stem, probabilities, extras=overlays or objects)
    else:
        found = at_scale(lambda image: _probabilities(segmenter, image), pixels, segmenter.factor)
        labels = found.argmax(0).astype(np.uint8)
        save_labels(labels, stem, segmenter.pixel_size_um)
        if probabilities:
            for name, share in zip(file_words(segmenter.classes), found, strict=True):
                save_picture(Image.fromarray(np.rint(255 * share).astype(np.uint8)), with_suffix(stem, f"_{name}.png"))
        if overlays:
            save_picture(Image.fromarray(label_overlay(pixels, labels)), with_suffix(stem, "_overlay.png"))
        if objects:
            numbers = object_numbers(labels)
            save_picture(
                Image.fromarray(np.minimum(numbers, 65535).astype(np.uint16)), with_suffix(stem, "_objects.png")
            )
    large = pixels.shape[0] * pixels.shape[1] > LARGE
    written = with_suffix(stem, ".tif" if large or segmenter.pixel_size_um is not None else ".png").name
    seen = "" if segmenter.seen is None else _seen(segmenter, pixels)
    counts = pixels_per_class(labels, len(segmenter.classes))
    for k, name in enumerate(segmenter.classes):
        area = "" if segmenter.pixel_size_um is None else f"{counts[k] * segmenter.pixel_size_um**2:.1f}"
        of_class = "" if numbers is None or k == 0 else len(np.unique(numbers[(labels == k) & (numbers > 0)]))
        yield [written, name, int(counts[k]), f"{counts[k] / counts.sum():.6f}", area, of_class, seen]


def segment_large(
    segmenter: Segmenter, pixels: np.ndarray, stem: Path, probabilities: bool, *, extras: bool = False
) -> np.ndarray:
    """Label an image that does not fit into memory, strip by strip, into a tiled TIFF. **Shape** ``(H, W)`` uint8."""
    if extras or segmenter.factor != 1:
        what = "overlays and objects are" if extras else f"a model for {1 / segmenter.factor:g} times smaller images is"
        raise MedcoreError(
            f"{stem.name}: {what} for images up to {LARGE >> 20} megapixels, this one has "
            f"{pixels.shape[0] * pixels.shape[1] >> 20}; cut it into regions, or leave the option out"
        )
    shares = with_suffix(stem, "_probabilities.npy") if probabilities else None
    strips = with_suffix(stem, ".npy")
    labels = predict_large(segmenter.model, pixels, strips, segmenter.window, probabilities=shares)
    write_tiled(with_suffix(stem, ".tif"), labels, segmenter.pixel_size_um)
    strips.unlink()  # what is mapped stays readable until the last reader is gone
    return labels


def pixels_per_class(labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each class, row block by row block, so that labels on the disk stay there. ``(H, W)`` -> ``(K,)``."""
    blocks = (labels[top : top + 512] for top in range(0, len(labels), 512))
    return np.sum([np.bincount(block.ravel(), minlength=classes) for block in blocks], axis=0)


def _probabilities(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    return predict_image(segmenter.model, image, segmenter.window, whole=image.shape[0] * image.shape[1] <= WHOLE)


def read_pixels(segmenter: Segmenter, path: Path, stack: ExitStack, scratch: Path) -> np.ndarray:
    """An image with the model's channels; ``.npy`` and large TIFF stay on the disk. **Shape** ``(H, W, C)`` uint8."""
    if path.suffix.lower() in TIFF_SUFFIXES and tiff_pixels(path) > LARGE:
        return stack.enter_context(mapped_tiff(path, scratch))
    if path.suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise MedcoreError(f"image '{path}' cannot be read ({error})") from error
    return as_channels(decode(path, segmenter.decoding), segmenter.model.spec["args"]["in_channels"]).pixels


def object_numbers(labels: np.ndarray) -> np.ndarray:
    """Single objects of every class but the background, numbered through. **Shape** ``(H, W)`` int32."""
    numbers = np.zeros(labels.shape, np.int32)
    for k in range(1, int(labels.max()) + 1):
        own = split_touching(labels == k)
        numbers += np.where(own > 0, own + numbers.max(), 0).astype(np.int32)
    return numbers


def label_overlay(pixels: np.ndarray, labels: np.ndarray, opacity: float = 0.35) -> np.ndarray:
    """The image with each class but the background tinted. **Shape** ``(H, W, C)`` uint8 -> ``(H, W, 3)`` uint8."""
    shown = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels.copy()
    tints = palette()
    for k in range(1, int(labels.max()) + 1):
        inside = labels == k
        shown[inside] = ((1 - opacity) * shown[inside] + opacity * tints[k]).astype(np.uint8)
    return shown


def palette() -> np.ndarray:
    """Colours of class indexes: a black background, then colour-blind-safe ones. **Shape** ``(256, 3)`` uint8."""
    colours = np.array([[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]])
    table = colours[np.arange(-1, 255) % len(colours)]
    table[0] = 0
    return table.astype(np.uint8)


def save_labels(labels: np.ndarray, stem: Path, pixel_size_um: float | None) -> None:
    """``stem.png`` with a palette, or ``stem.tif`` with the resolution where the pixel size is known."""
    picture = Image.fromarray(labels)
    if pixel_size_um is None:
        picture.putpalette(palette().ravel().tolist())
        save_picture(picture, with_suffix(stem, ".png"))
    else:
        per_cm = 1e4 / pixel_size_um
        save_picture(picture, with_suffix(stem, ".tif"), resolution_unit=3, x_resolution=per_cm, y_resolution=per_cm,
             compression="tiff_adobe_deflate")  # fmt: skip


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture whole or not at all."""
    with atomic_path(path) as temporary:
        picture.save(temporary, format={".png": "PNG", ".tif": "TIFF"}[path.suffix], **options)


def outputs_of(segmenter: Segmenter, stem: str, probabilities: bool, overlays: bool, objects: bool) -> list[str]:
    """Names of all files that an image may leave, whatever its size."""
    endings = [".png", ".tif", ".npy"]
    if probabilities:
        endings += ["_probabilities.npy", *(f"_{name}.png" for name in file_words(segmenter.classes))]
    endings += ["_overlay.png"] * overlays + ["_objects.png"] * objects
    return [stem + ending for ending in endings]


def named(
    segmenter: Segmenter, paths: list[Path], probabilities: bool, overlays: bool, objects: bool
) -> list[tuple[Path, str]]:
    """Each file with a stem for its results, so that no two images share an output, on any file system.

    The first file of a stem keeps it; a later one gets the first free number.
    """
    first = {path.stem.casefold(): path for path in reversed(paths)}
    taken: set[str] = set()
    found: dict[int, str] = {}
    for keeps in (True, False):  # those that keep their stem go first
        for place, path in enumerate(paths):
            if (first[path.stem.casefold()] is path) != keeps:
                continue
            stems = itertools.chain([path.stem] * keeps, (f"{path.stem}-{n}" for n in itertools.count(2)))
            for stem in stems:
                names = {name.casefold() for name in outputs_of(segmenter, stem, probabilities, overlays, objects)}
                if not names & taken:
                    break
            taken |= names
            found[place] = stem
    return [(path, found[place]) for place, path in enumerate(paths)]


def with_suffix(stem: Path, suffix: str) -> Path:
    """The name with something behind it (a dot in the name stays)."""
    return stem.with_name(stem.name + suffix)


def file_words(names: Sequence[str]) -> list[str]:
    """Class names as parts of file names; where two would be equal, the class's number follows."""
    words = ["".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80] for name in names]
    twice = {word for word, count in Counter(map(str.casefold, words)).items() if count > 1}
    return [f"{word}-{k}" if word.casefold() in twice else word for k, word in enumerate(words)]


def _seen(segmenter: Segmenter, pixels: np.ndarray) -> str:
    """Whether an image was trained on, brought to the pixels of training first; empty where that cannot be told."""
    height, width = segmenter.trained_size or pixels.shape[:2]
    large = pixels.shape[0] * pixels.shape[1] > LARGE
    if segmenter.seen is None or segmenter.factor != 1 or segmenter.policy == "tile" or large:
        return ""
    try:
        as_trained, _, _ = next(iter(pieces(pixels, None, segmenter.policy, (height, width))))
    except MedcoreError:  # larger than what was padded in training: it was not among these
        return "no"
    return "yes" if segmenter.seen.contents(pixel_hashes([as_trained]))[0] else "no"
