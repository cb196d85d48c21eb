"""Who learns, who chooses and who is tested in a study of anomaly detection, and what needs no network.

sides = detection_sides(patches)                 # normal images to learn from; all labelled ones to judge
kind, aurocs = choose_kind(candidates)           # by AUROC on validation cases; test data is refused
trivial = trivial_scores(sides.train, sides.test, components=64)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from medcore.data.datasets import HELICO_DENSITIES
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval, mean_interval
from medcore.evaluation.predict import stream
from medcore.evaluation.scores import Scores, refuse_test_data
from medcore.metrics.similarity import psnr, ssim
from medcore.metrics.stain_scores import red_share
from medcore.models.vae import VAEOutput
from medcore.studies.anomaly.detection import abnormal_scores
from medcore.studies.anomaly.reference import pca_reconstruction
from medcore.studies.anomaly.scores import error_map, reconstruct
from medcore.training.augment.apply import to_float

QUALITIES = ("psnr", "ssim")


@dataclass(frozen=True)
class Sides:
    """Who learns, who chooses, who is tested.

    Attributes:
        train: Normal images of the training patients.
        monitor: Normal images of the validation patients: pick the epoch.
        validation: All labelled images of the validation patients: choose score and threshold.
        test: All labelled images of the test patients.
        abnormal: Names of the abnormal classes.
        healthy_only: Whether ``train`` and ``monitor`` hold windows of patients without the disease only.
    """

    train: PatchSet
    monitor: PatchSet
    validation: PatchSet
    test: PatchSet
    abnormal: tuple[str, ...]
    healthy_only: bool = False


def detection_sides(patches: PatchSet, abnormal: Sequence[str] = (), *, learn: Sequence[str] = ()) -> Sides:
    """Cut a split set for anomaly detection.

    Where patients have a diagnosis, only windows of the healthy ones are learnt from: an infected patient's window
    without a sign may still differ from a healthy patient's.

    Args:
        patches: A set with a split column.
        abnormal: Abnormal classes; by default those of the card.
        learn: Normal classes to learn from; by default all that are not abnormal.

    Raises:
        MedcoreError: Nothing says what is abnormal, or a side lacks normal or abnormal images.
    """
    names = tuple(abnormal) or tuple(patches.card.abnormal)
    if not names:
        raise MedcoreError(
            f"set {patches.card.name!r} does not say which classes are abnormal; name them, as in "
            f"-p 'abnormal=[\"{patches.classes[-1]}\"]' out of {', '.join(patches.classes)}"
        )
    wrong = [name for name in (*names, *learn) if name not in patches.classes]
    if wrong or set(names) & set(learn):
        raise MedcoreError(
            f"abnormal={list(names)}, learn={list(learn)}: must be different classes of {patches.classes}"
        )
    known = patches.select(patches.labels >= 0)
    is_abnormal = np.isin(known.label_names, names)
    learnt = ~is_abnormal if not learn else np.isin(known.label_names, learn)
    parts = {side: known.splits == side for side in ("train", "val", "test")}
    healthy = learnt & healthy_patients(known)
    healthy_only = bool(0 < healthy.sum() < learnt.sum() and all((healthy & parts[s]).any() for s in ("train", "val")))
    learnt = healthy if healthy_only else learnt
    sides = Sides(
        train=known.select(parts["train"] & learnt), monitor=known.select(parts["val"] & learnt),
        validation=known.select(parts["val"]), test=known.select(parts["test"]), abnormal=names,
        healthy_only=healthy_only,
    )  # fmt: skip
    _check(sides, {side: is_abnormal[rows] for side, rows in parts.items()})
    return sides


def epochs_for(images_seen: int | None, images: int) -> int:
    """Epochs that show about as many images altogether: few images are visited more often.

    Args:
        images_seen: Images shown altogether; None for 30,000.
        images: Of the training side.

    Returns:
        ``images_seen / images``, at least 10 and at most 60: a small set would be learnt by heart, and a large one has
        to be seen more than once.
    """
    return int(np.clip(round((images_seen or 30_000) / max(images, 1)), 10, 60))


def healthy_patients(ps: PatchSet) -> np.ndarray:
    """Whether the patient of each image is diagnosed healthy; True for all where nobody has a diagnosis.

    **Shape** ``(N,)`` bool.
    """
    if "diagnosis" not in ps.columns or not np.isin(ps.column("diagnosis"), HELICO_DENSITIES).any():
        return np.ones(len(ps), dtype=bool)
    return ps.column("diagnosis") == HELICO_DENSITIES[0]


def _check(sides: Sides, is_abnormal: Mapping[str, np.ndarray]) -> None:
    if not len(sides.train) or not len(sides.monitor):
        raise MedcoreError(
            f"anomaly detection: {len(sides.train)} normal images to learn from and {len(sides.monitor)} to watch the "
            "training with; both are needed"
        )
    for side in ("val", "test"):
        count, found = len(is_abnormal[side]), int(is_abnormal[side].sum())
        if not 0 < found < count:
            raise MedcoreError(
                f"anomaly detection: split {side!r} has {found} abnormal of {count} labelled images; no threshold can "
                "be chosen or judged without both kinds. Use another seed, or a set with more patients"
            )


def choose_kind(candidates: Mapping[str, Scores]) -> tuple[str, dict[str, float]]:
    """The score with the highest AUROC on validation cases.

    Args:
        candidates: Name of a score to its validation Scores.

    Returns:
        The name, and the AUROC of each.

    Raises:
        TestDataRefused: A case is marked ``test``.
        MedcoreError: There is nothing to choose from.
    """
    if not candidates:
        raise MedcoreError("choose_kind: no candidate scores")
    aurocs = {}
    for name, scores in candidates.items():
        refuse_test_data(scores, "an anomaly score")
        aurocs[name] = interval(scores, "auroc").value or 0.0
    return max(aurocs, key=lambda name: aurocs[name]), aurocs


def trivial_scores(train: PatchSet, held_out: PatchSet, *, components: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Anomaly scores that need no network, higher = stranger.

    Args:
        train: Normal images.
        held_out: Images to score.
        components: Of the PCA: as many numbers as the model's bottleneck.
        seed: Of the PCA's randomised solver.

    Returns:
        ``PCA``, ``mean colour`` and ``colour histogram`` (distance from the normal mean, in normal spreads), and in
        colour ``red pixels``. Each **Shape** ``(N,)``.
    """
    from medcore.evaluation.baselines import colour_histogram, mean_colour

    components = min(components, len(train))
    found = {f"PCA, {components} components": pca_reconstruction(train, held_out, components=components, seed=seed)}
    for name, features in (("mean colour", mean_colour), ("colour histogram", colour_histogram)):
        normal, values = features(train), features(held_out)
        found[name] = (((values - normal.mean(0)) / (normal.std(0) + 1e-3)) ** 2).mean(1)
    if held_out.shape[2] == 3:
        found["red pixels"] = np.concatenate([red_share(chunk) for chunk in held_out.chunks()])
    return found


def colours_from_labels(sides: Sides) -> Scores:
    """Test scores of colours alone, by a method that was given the labels of the validation cases.

    The comparison for anomaly scores that were weighted on the same labels: ridge logistic regression on the square
    roots of the colour histogram's shares.
    """
    from medcore.evaluation.baselines import colour_histogram

    asked = abnormal_scores(sides.validation, np.zeros(len(sides.validation)), abnormal=sides.abnormal)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(np.sqrt(colour_histogram(sides.validation)), asked.truth)
    values = model.decision_function(np.sqrt(colour_histogram(sides.test)))
    return abnormal_scores(sides.test, values, abnormal=sides.abnormal)


def mistakes(scores: Scores, decision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the abnormal cases that were missed, least suspicious first, and of false alarms, loudest first."""
    order = np.argsort(scores.score, kind="stable")
    missed = order[scores.positive[order] & (decision[order] == 0)]
    alarms = order[::-1][~scores.positive[order[::-1]] & (decision[order[::-1]] == 1)]
    return missed, alarms


def error_maps(model: nn.Module, pixels: np.ndarray, kind: str) -> np.ndarray:
    """Where a model fails to paint some images. **Shape** ``(n, H, W, C)`` uint8 -> ``(n, H, W)`` float32."""
    images = to_float(torch.from_numpy(np.ascontiguousarray(pixels))).to(next(model.parameters()).device)
    return error_map(model, images, kind).cpu().numpy()


def paint(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """What a model paints in place of some images. **Shape** ``(n, H, W, C)`` uint8 -> the same, float32 in [0, 1]."""
    images = to_float(torch.from_numpy(np.ascontiguousarray(pixels))).to(next(model.parameters()).device)
    output = reconstruct(model, images)
    picture = output.reconstruction if isinstance(output, VAEOutput) else output
    return picture.float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def reconstruction_quality(model: nn.Module, ps: PatchSet) -> dict[str, np.ndarray]:
    """How well each image of a set is painted: ``psnr`` (dB) and ``ssim``, each **shape** ``(N,)``."""

    def both(images: torch.Tensor) -> torch.Tensor:
        output = reconstruct(model, images)
        picture = (output.reconstruction if isinstance(output, VAEOutput) else output).float().clamp(0, 1)
        alike = ssim(images.float(), picture)
        return torch.stack([psnr(images.float(), picture), alike], dim=1)

    return dict(zip(QUALITIES, stream(both, ps, model=model).T, strict=True))


def quality_table(painters: Mapping[str, nn.Module], ps: PatchSet) -> pd.DataFrame:
    """How well two painters paint the same images: mean PSNR (dB) and SSIM with patient-level intervals.

    Args:
        painters: Name to painter, of two.
        ps: Images of one side.

    Returns:
        Estimates in the columns ``psnr`` and ``ssim``: a row per painter, and one for what the first adds to the
        second, image by image.
    """
    quality = {name: reconstruction_quality(painter, ps) for name, painter in painters.items()}
    first, second = quality
    split = "+".join(np.unique(ps.splits))

    def mean(values: np.ndarray, name: str) -> Estimate:
        return mean_interval(values, ps.patients, name=name, unit="image", split=split, bounds=None)

    added = f"{first} minus {second}"
    table = {
        kind: {name: mean(values[kind], kind) for name, values in quality.items()}
        | {added: mean(quality[first][kind] - quality[second][kind], f"{kind}_difference")}
        for kind in QUALITIES
    }
    return pd.DataFrame(table).rename_axis("painter")
