"""Cases of a segmentation set: images at their original size, what a network says of them, and rules that need none.

    predicted = predict_cases(model, test, factor=0.5, window=Window(turns=8))    # a list of (h, w) uint8
    table = score_predictions(test, predicted)

- A set pads its images to one size; ``height`` and ``width`` keep each one's own. Only that part is predicted and
  judged.
- Baselines: everything is the foreground; Otsu's threshold on blurred haematoxylin (or darkness), one per image.

**Reference** Otsu 1979, doi:10.1109/TSMC.1979.4310076.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm.auto import tqdm

from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names, unit_of
from medcore.data.stain import HAEMATOXYLIN_EOSIN, separate_stains
from medcore.errors import MedcoreError
from medcore.evaluation.scores import refuse_test_data
from medcore.evaluation.sliding import Window, at_scale, predict_image
from medcore.models.normalise import channel_statistics
from medcore.models.unet import SegmentationModel
from medcore.studies.preprocessing import is_stained
from medcore.studies.segmentation.scoring import score_cases

BLUR = 0.006  # of the longer side: about half a nucleus in a field of a millimetre
IN_ONE = 2**20  # pixels up to which an image goes through the network in one piece


def valid_areas(ps: PatchSet) -> tuple[np.ndarray, np.ndarray]:
    """Height and width of each image without its padding. Each **Shape** ``(N,)``."""
    height, width = ps.shape[:2]
    sides = []
    for name, whole in (("height", height), ("width", width)):
        values = pd.to_numeric(pd.Series(ps.column(name))).to_numpy() if name in ps.columns else np.full(len(ps), whole)
        sides.append(values.astype(np.int64))
    return sides[0], sides[1]


def case_images(ps: PatchSet) -> Iterator[np.ndarray]:
    """Each image at its own size, one at a time. **Shape** ``(h, w, C)`` uint8."""
    for row, (height, width) in enumerate(zip(*valid_areas(ps), strict=True)):
        yield ps.take([row])[0, :height, :width]


def case_masks(ps: PatchSet) -> Iterator[np.ndarray]:
    """Each mask at its own size. **Shape** ``(h, w)`` uint8."""
    for row, (height, width) in enumerate(zip(*valid_areas(ps), strict=True)):
        yield ps.take_masks([row])[0, :height, :width]


def predict_cases(
    model: SegmentationModel,
    ps: PatchSet,
    *,
    factor: float = 1.0,
    window: Window | None = None,
    whole: bool | None = None,
    in_one_up_to: int = IN_ONE,
    progress: bool = False,
) -> list[np.ndarray]:
    """Classes of every image at its original size.

    Args:
        factor: Size that the network sees as a share of the original, as in training.
        window: How to cut, and how many turns.
        whole: Send images through in one piece; None does so up to ``in_one_up_to``.
        in_one_up_to: Pixels of an image as the network sees it.

    Returns:
        One per image, **Shape** ``(h, w)`` uint8.
    """
    window = window or Window()

    def answer(pixels: np.ndarray) -> np.ndarray:
        in_one = pixels.shape[0] * pixels.shape[1] <= in_one_up_to if whole is None else whole
        return predict_image(model, pixels, window, whole=in_one)

    images = tqdm(case_images(ps), total=len(ps), unit="image", leave=False, disable=not progress)
    return [at_scale(answer, image, factor).argmax(0).astype(np.uint8) for image in images]


def score_predictions(ps: PatchSet, predicted: list[np.ndarray], **options: object) -> pd.DataFrame:
    """``score_cases`` for a set: truth, names, patients, classes and pixel size come from it.

    Raises:
        MedcoreError: There is not one prediction per image.
    """
    if len(predicted) != len(ps):
        raise MedcoreError(f"score_predictions: {len(predicted)} predictions for {len(ps)} images")
    names = ps.column("image") if "image" in ps.columns else ps.column("source")
    cases = names if len(set(names)) == len(ps) else [f"{name} #{row}" for row, name in enumerate(names)]
    return score_cases(
        case_masks(ps), predicted, list(cases), list(group_names(ps)), classes=ps.classes,
        pixel_size_um=ps.card.pixel_size_um, group=unit_of(ps), **options,  # type: ignore[arg-type]
    )  # fmt: skip


def case_statistics(ps: PatchSet) -> tuple[list[float], list[float]]:
    """``channel_statistics`` of all pixels of training images that are no padding.

    Raises:
        TestDataRefused: An image is marked ``test``.
    """
    refuse_test_data(ps, "channel statistics")
    return channel_statistics(case_images(ps))


def class_table(ps: PatchSet) -> pd.DataFrame:
    """Pixels of each class in the masks, their share, and the weight that makes the classes count the same.

    The weight is all pixels / (classes × pixels of the class), the rule of ``Segmentation(class_weights="balanced")``.
    """
    counts = np.zeros(256, np.int64)
    for mask in case_masks(ps):
        counts += np.bincount(mask.ravel(), minlength=256)
    counts = counts[: len(ps.classes)]
    weights = counts.sum() / np.maximum(counts, 1) / max((counts > 0).sum(), 1)
    table = {"pixels": counts, "share": counts / max(counts.sum(), 1), "weight": np.where(counts > 0, weights, 1.0)}
    return pd.DataFrame(table, index=pd.Index(ps.classes, name="class")).round(3)


def all_foreground(train: PatchSet) -> Callable[[np.ndarray], np.ndarray]:
    """The rule that every pixel is the training masks' commonest class other than the background."""
    counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in case_masks(train))
    foreground = 1 + int(np.argmax(counts[1 : len(train.classes)]))  # type: ignore[index]
    return lambda image: np.full(image.shape[:2], foreground, np.uint8)


def otsu_rule(train: PatchSet, *, stained: bool, blur: float = BLUR) -> Callable[[np.ndarray], np.ndarray]:
    """The rule that what holds much haematoxylin (without a stain: what is dark) is the commonest foreground class.

    ``blur`` is the standard deviation of a Gaussian before the threshold, as a share of the longer side.

    **Reference** Otsu 1979, doi:10.1109/TSMC.1979.4310076.
    """
    from skimage.filters import threshold_otsu

    everywhere = all_foreground(train)

    def rule(image: np.ndarray) -> np.ndarray:
        amount = separate_stains(image, HAEMATOXYLIN_EOSIN)[..., 0] if stained else 255.0 - image.mean(axis=2)
        smooth = ndimage.gaussian_filter(amount, blur * max(image.shape[:2]))
        return np.where(smooth > threshold_otsu(smooth), everywhere(image), 0).astype(np.uint8)

    return rule


def baseline_cases(train: PatchSet, ps: PatchSet, *, blur: float = BLUR) -> dict[str, list[np.ndarray]]:
    """What the rules say of every image: name to one ``(h, w)`` uint8 per image."""
    stained = is_stained(train)
    otsu = "Otsu on haematoxylin" if stained else "Otsu on darkness"
    rules = {"everything is foreground": all_foreground(train), otsu: otsu_rule(train, stained=stained, blur=blur)}
    return {name: [rule(image) for image in case_images(ps)] for name, rule in rules.items()}


def check_trainable(train: PatchSet) -> None:
    """Refuses a set that nothing can be learnt from, before an hour is spent on it.

    Raises:
        MedcoreError: There are no masks, or the training masks hold one class only.
    """
    if not train.has_masks:
        raise MedcoreError(f"set {train.card.name!r} has no masks; notebook 05 needs a mask for every image")
    counts = np.zeros(256, np.int64)
    for mask in case_masks(train):
        counts += np.bincount(mask.ravel(), minlength=256)
    present = [name for name, count in zip(train.classes, counts, strict=False) if count]
    if len(present) < 2:
        raise MedcoreError(
            f"set {train.card.name!r}: the training masks hold only {', '.join(present) or 'ignored pixels'}; there is "
            "nothing to tell apart. Check that the masks are the right ones, or add images that show the other class"
        )


def without_foreground(ps: PatchSet) -> list[str]:
    """Names of the images whose mask holds nothing but background."""
    return [str(name) for name, mask in zip(ps.column("source"), case_masks(ps), strict=True)
            if not ((mask > 0) & (mask != 255)).any()]  # fmt: skip
