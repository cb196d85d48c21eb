"""What ``medcore predict`` writes for a segmentation model: label images, and on request maps, overlays and objects.

    segment_files(load_segmenter("runs/a"), paths, "out", overlays=True, objects=True)

- ``NAME.png`` holds class indexes (a palette shows them in colour); ``.tif`` where the pixel size is known, with the
  resolution inside. Names come from the source; two equal ones get a number.
- ``summary.csv``: a row per image and class, with pixels, share, area and, with objects, their number.
- Images of more than 64 megapixels (TIFF or ``.npy``) stay on the disk, are cut, and written strip by strip to a tiled
  ``NAME.tif``, probabilities to ``NAME_probabilities.npy``; overlays and objects are not made of them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcore.data.images import DecodeOptions, as_channels, decode
from medcore.data.npzfile import atomic_path
from medcore.data.large import TIFF_SUFFIXES, mapped_tiff, tiff_pixels, write_tiled
from medcore.errors import MedcoreError
from medcore.evaluation.sliding import Window, at_scale, predict_image, predict_large
from medcore.metrics.objects import split_touching
from medcore.models.unet import SegmentationModel
from medcore.training import checkpoint

LARGE = 1 << 26  # pixels above which probabilities do not stay in memory
WHOLE = 1 << 20  # pixels, as the network sees them, up to which an image is not cut
COLUMNS = ("image", "class", "pixels", "share", "area_um2", "objects")


@dataclass(frozen=True)
class Segmenter:
    """A segmentation model out of a checkpoint.

    Attributes:
        model: In evaluation mode.
        classes: K class names, background first.
        window: How images are cut.
        factor: Size that the model sees, as a share of the image's.
        pixel_size_um: Of the images it was trained on, None when unknown.
        decoding: How deep pixels become 8 bit, as in training.
    """

    model: SegmentationModel
    classes: list[str]
    window: Window
    factor: float = 1.0
    pixel_size_um: float | None = None
    decoding: DecodeOptions | None = None


def load_segmenter(path: str | Path, *, device: str | None = None, turns: int | None = None) -> Segmenter:
    """A segmentation model ready to predict.

    Args:
        path: A run's folder or a checkpoint.
        device: As in ``medcore predict``.
        turns: 1, 2 or 8; None takes what the checkpoint was judged with.

    Raises:
        MedcoreError: Nothing is there, a byte changed, or it is no segmentation model.
    """
    loaded = checkpoint.load_checkpoint(Path(path))
    if not isinstance(loaded.model, SegmentationModel):
        family = loaded.manifest["architecture"]["family"]
        raise MedcoreError(
            f"{loaded.path} holds a {family}, not a segmentation model; use medcore.load for a classifier"
        )
    facts = loaded.manifest.get("extra", {}).get("segmentation", {})
    window = Window(tile=int(facts.get("tile", 256)), turns=turns or int(facts.get("turns", 1)), device=device)
    recipe = loaded.manifest["preprocessing"]
    given = {key: tuple(recipe[key]) for key in ("value_range", "window") if recipe.get(key)}
    decoding = DecodeOptions(value_range=given.get("value_range"), window=given.get("window"))  # type: ignore[arg-type]
    return Segmenter(
        loaded.model, list(loaded.manifest["classes"]), window, float(facts.get("factor", 1.0)),
        facts.get("pixel_size_um"),
        decoding,
    )  # fmt: skip


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
) -> list[tuple[str, str]]:
    """Segment image files into a folder.

    Args:
        segmenter: Of :func:`load_segmenter`.
        paths: Image files.
        out: The folder; it is made when missing. Files of the same name are replaced.
        probabilities: Also ``NAME_<class>.png``, 255 = certain.
        overlays: Also ``NAME_overlay.png``.
        objects: Also ``NAME_objects.png`` (16 bit): foreground cut into single objects by watershed, numbered.
        on_error: ``raise`` at an unreadable image, or ``skip`` it.
        pixel_size_um: Of these images; None takes the training set's.

    Returns:
        Files that were skipped, with the reason.

    Raises:
        MedcoreError: An image cannot be read (``on_error="raise"``).
    """
    if on_error not in ("raise", "skip"):
        raise MedcoreError(f"on_error={on_error!r}: must be 'raise' or 'skip'")
    segmenter = replace(segmenter, pixel_size_um=pixel_size_um or segmenter.pixel_size_um)
    folder, problems = Path(out), []
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "summary.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for path, name in named(paths):
            with ExitStack() as stack:
                try:
                    pixels = read_pixels(segmenter, path, stack, folder)
                except MedcoreError as error:
                    if on_error == "raise":
                        raise
                    problems.append((str(path), str(error)))
                    continue
                rows = segment_one(segmenter, pixels, folder / name, probabilities, overlays, objects)
                writer.writerows([_safe(str(path)), *row] for row in rows)
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
            for name, share in zip(segmenter.classes, found, strict=True):
                save_picture(
                    Image.fromarray(np.rint(255 * share).astype(np.uint8)), with_suffix(stem, f"_{file_word(name)}.png")
                )
        if overlays:
            save_picture(Image.fromarray(label_overlay(pixels, labels)), with_suffix(stem, "_overlay.png"))
        if objects:
            numbers = object_numbers(labels)
            save_picture(
                Image.fromarray(np.minimum(numbers, 65535).astype(np.uint16)), with_suffix(stem, "_objects.png")
            )
    counts = pixels_per_class(labels, len(segmenter.classes))
    for k, name in enumerate(segmenter.classes):
        area = "" if segmenter.pixel_size_um is None else f"{counts[k] * segmenter.pixel_size_um**2:.1f}"
        of_class = "" if numbers is None or k == 0 else len(np.unique(numbers[(labels == k) & (numbers > 0)]))
        yield [name, int(counts[k]), f"{counts[k] / counts.sum():.6f}", area, of_class]


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


def named(paths: Iterable[str | Path]) -> Iterator[tuple[Path, str]]:
    """Each file with a name for its results; equal stems get a number."""
    seen: dict[str, int] = {}
    for path in map(Path, paths):
        seen[path.stem] = seen.get(path.stem, 0) + 1
        yield path, path.stem if seen[path.stem] == 1 else f"{path.stem}-{seen[path.stem]}"


def with_suffix(stem: Path, suffix: str) -> Path:
    """The name with something behind it (a dot in the name stays)."""
    return stem.with_name(stem.name + suffix)


def file_word(name: str) -> str:
    """A class name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def _safe(text: str) -> str:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
