"""How a classifier's result falls as images get worse: stated corruptions in stated steps.

Severity 0 is the untouched image; the steps of each corruption stand in ``CORRUPTIONS`` with their unit. After
Hendrycks & Dietterich 2019, arXiv:1903.12261, with the changes that happen in a pathology or radiology workflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from medcore.data import stain
from medcore.data.images import compress_jpeg
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.baselines import is_grey
from medcore.evaluation.intervals import interval
from medcore.evaluation.predict import predict
from medcore.evaluation.scores import Scores
from medcore.models.classifier import Classifier
from medcore.studies.preprocessing import is_stained

Corruption = Callable[[np.ndarray, float], np.ndarray]


def dim(images: np.ndarray, factor: float) -> np.ndarray:
    """Multiply all values. ``factor`` 1 changes nothing."""
    return np.clip(images * np.float32(factor), 0, 255).round().astype(np.uint8)


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of ``sigma`` pixels."""
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest")


def hue(images: np.ndarray, turn: float) -> np.ndarray:
    """Turn the colour circle by ``turn`` degrees."""
    shift = round(turn / 360 * 256)
    turned = []
    for image in images:
        values = np.array(Image.fromarray(image).convert("HSV"))
        values[..., 0] = (values[..., 0].astype(int) + shift) % 256
        turned.append(np.asarray(Image.fromarray(values, "HSV").convert("RGB")))
    return np.stack(turned)


def jpeg(images: np.ndarray, quality: float) -> np.ndarray:
    """Compress as JPEG of ``quality`` 1 to 95."""
    return np.stack([compress_jpeg(image, int(quality)) for image in images])


def stain_shift(images: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the haematoxylin by ``factor`` and divide the eosin by it."""
    amounts = stain.separate_stains(images)
    amounts[..., 0] *= factor
    amounts[..., 1] /= factor
    return stain.recombine_stains(amounts)


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...], str]] = {
    "brightness": (dim, (0.9, 0.75, 0.6, 0.45), "factor"),
    "blur": (blur, (0.5, 1.0, 1.5, 2.5), "sigma, pixels"),
    "hue": (hue, (5, 10, 20, 40), "degrees"),
    "JPEG": (jpeg, (80, 50, 25, 10), "quality"),
    "stain shift": (stain_shift, (1.1, 1.25, 1.5, 1.8), "factor"),
}
COLOUR_ONLY = ("hue", "stain shift")


def fitting_corruptions(ps: PatchSet) -> list[str]:
    """The corruptions that mean something for a set: grey images have no hue, photographs no stain."""
    if is_grey(ps):
        return [name for name in CORRUPTIONS if name not in COLOUR_ONLY]
    return [name for name in CORRUPTIONS if name != "stain shift" or is_stained(ps)]


def robustness_table(
    model: Classifier,
    ps: PatchSet,
    *,
    names: Sequence[str] | None = None,
    metric: str = "balanced_accuracy",
    limit: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """A metric under each corruption and severity, always on the same images.

    Args:
        names: Which corruptions; by default all that fit the images.
        limit: At most this many images are used.

    Returns:
        Columns ``corruption, severity, setting, unit, value, low, high, n``; severity 0 is untouched.

    Raises:
        MedcoreError: A corruption is unknown, needs colour or a stain.
    """
    fitting = fitting_corruptions(ps)
    chosen = fitting if names is None else list(names)
    wrong = [name for name in chosen if name not in fitting]
    if wrong:
        raise MedcoreError(f"corruption {wrong[0]!r} is none of {', '.join(fitting)} (for these images)")
    rows = np.random.default_rng(seed).permutation(len(ps))[:limit]
    ps = ps.select(np.sort(rows))
    pixels = ps.take()
    untouched = _measured(model, ps, pixels, metric)
    table = []
    for name in chosen:
        change, settings, unit = CORRUPTIONS[name]
        table.append({"corruption": name, "severity": 0, "setting": "none", "unit": unit, **untouched})
        for severity, setting in enumerate(settings, start=1):
            values = _measured(model, ps, change(pixels, setting), metric)
            table.append({"corruption": name, "severity": severity, "setting": str(setting), "unit": unit, **values})
    return pd.DataFrame(table).astype({"value": float, "low": float, "high": float})  # None becomes a gap


def falls_of(table: pd.DataFrame) -> pd.DataFrame:
    """How much each corruption of a ``robustness_table`` costs at its strongest setting, deepest first."""
    groups = table.groupby("corruption", sort=False)["value"]
    found = pd.DataFrame({"untouched": groups.first(), "at its strongest": groups.last()})
    found["fall"] = found["untouched"] - found["at its strongest"]
    return found.sort_values("fall", ascending=False).round(3)


def _measured(model: Classifier, ps: PatchSet, pixels: np.ndarray, metric: str) -> dict[str, float | int | None]:
    changed = PatchSet.from_arrays(pixels, ps.table, ps.card)
    one = interval(Scores.from_set(changed, predict(model, changed)), metric)
    return {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
