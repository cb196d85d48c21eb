"""Objectives with one answer an image: a class, several findings, a grade, or a measured value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.metrics.confusion import (
    accuracy,
    balanced_accuracy,
    confusion_counts,
    macro_f1,
    median_grade,
    quadratic_kappa,
    within_one,
)
from medcore.metrics.measured import MOMENTS, mae, moments, r2, rmse
from medcore.metrics.ranking import SCORE_BINS, auroc_from_histogram, score_histogram
from medcore.models.classifier import grade_probabilities
from medcore.training import losses
from medcore.training.batches import Batch
from medcore.training.objectives.base import Objective, class_names, one_of


@dataclass
class Classification(Objective):
    """One label per image: cross-entropy; balanced accuracy, accuracy, macro F1 and AUROC.

    Args:
        classes: Class names, or how many there are.
        class_weights: None, ``"balanced"``, or one weight per class.
        label_smoothing: Share of the target spread over all classes, 0 to below 1.
    """

    classes: Sequence[str] | int
    class_weights: losses.Weights = None
    label_smoothing: float = 0.0

    task: ClassVar[str] = "classification"
    monitor: ClassVar[str] = "val_balanced_accuracy"
    mode: ClassVar[str] = "max"

    def __post_init__(self) -> None:
        """Refuse what cannot be a classification."""
        self.classes = class_names(self.classes)
        if len(self.classes) < 2:
            raise MedcoreError(f"Classification(classes={self.classes}): needs at least 2 classes")
        if not 0 <= self.label_smoothing < 1:
            raise MedcoreError(f"label_smoothing={self.label_smoothing!r}: must be from 0 to below 1")
        self._weights: Tensor | None = None

    def begin(self, train: PatchSet, device: torch.device) -> None:
        """Refuse unlabelled images and weigh the classes."""
        names = list(self.classes)  # type: ignore[arg-type]
        if (train.labels < 0).any():
            count = int((train.labels < 0).sum())
            raise MedcoreError(f"train: {count} of {len(train)} images have no label; leave them out with select()")
        if train.labels.max() >= len(names):
            raise MedcoreError(f"train: label {train.labels.max()} is outside of the {len(names)} classes {names}")
        weights = losses.class_weights(self.class_weights, np.bincount(train.labels, minlength=len(names)), names)
        self._weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)

    def compute(self, output: Tensor, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Cross-entropy. **Shape** output ``(B, K)`` logits."""
        return {"loss": losses.cross_entropy(output, batch.labels, self._weights, self.label_smoothing).mean()}

    def sums(self) -> dict[str, tuple[int, ...]]:
        """Confusion matrix and score histograms."""
        count = len(self.classes)  # type: ignore[arg-type]
        return {"confusion": (count, count), "scores": (count, 2, SCORE_BINS)}

    def count(self, sums: dict[str, Tensor], output: Tensor, batch: Batch) -> None:
        """See the base class."""
        sums["confusion"] += confusion_counts(batch.labels, output.argmax(1), output.shape[1])
        sums["scores"] += score_histogram(output.float().softmax(1), batch.labels)

    def metrics(self, sums: dict[str, np.ndarray], samples: float) -> dict[str, float]:
        """Balanced accuracy, accuracy, macro F1 and macro AUROC."""
        confusion = sums["confusion"]
        return {
            "balanced_accuracy": float(balanced_accuracy(confusion)),
            "accuracy": float(accuracy(confusion)),
            "f1": float(macro_f1(confusion)),
            "auroc": auroc_from_histogram(sums["scores"]),
        }

    def tables(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The confusion matrix, truth down. **Shape** ``(K, K)``."""
        return {"confusion": sums["confusion"].astype(np.int64)}


UNCERTAIN = {"ignore": -1, "present": 1, "absent": 0}


@dataclass
class Findings(Objective):
    """Several findings an image, each present or not: binary cross-entropy; mean AUROC.

    Args:
        classes: Names of the findings.
        uncertain: What an uncertain finding teaches: nothing (``ignore``), ``present`` or ``absent``. One that is not
            stated teaches nothing, and metrics never count either.

    **Reference** the policies: Irvin et al. 2019, arXiv:1901.07031.
    """

    classes: Sequence[str]
    uncertain: str = "ignore"

    task: ClassVar[str] = "findings"
    monitor: ClassVar[str] = "val_auroc"
    mode: ClassVar[str] = "max"

    def __post_init__(self) -> None:
        """Refuse an unknown policy."""
        one_of("Findings", "uncertain", self.uncertain, tuple(UNCERTAIN))
        self.classes = [str(name) for name in self.classes]

    def begin(self, train: PatchSet, device: torch.device) -> None:
        """Refuse other findings, and one that is never present or never absent."""
        if list(train.classes) != list(self.classes):
            raise MedcoreError(f"train: the findings {train.classes} are not the objective's {self.classes}")
        findings = self.taught(torch.from_numpy(train.findings)).numpy()
        for k, name in enumerate(self.classes):
            if not ((findings[:, k] == 1).any() and (findings[:, k] == 0).any()):
                raise MedcoreError(f"train: finding {name!r} is never present or never absent; leave it out")

    def taught(self, findings: Tensor) -> Tensor:
        """Findings with the uncertain ones as the policy says."""
        return torch.where(findings == -1, UNCERTAIN[self.uncertain], findings)

    def compute(self, output: Tensor, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Binary cross-entropy. **Shape** output ``(B, K)`` logits."""
        return {"loss": losses.findings_cross_entropy(output, self.taught(batch.labels)).mean()}

    def sums(self) -> dict[str, tuple[int, ...]]:
        """Score histograms."""
        return {"scores": (len(self.classes), 2, SCORE_BINS)}

    def count(self, sums: dict[str, Tensor], output: Tensor, batch: Batch) -> None:
        """See the base class."""
        sums["scores"] += score_histogram(output.float().sigmoid(), batch.labels)

    def metrics(self, sums: dict[str, np.ndarray], samples: float) -> dict[str, float]:
        """The mean AUROC of the findings that have both sides."""
        return {"auroc": auroc_from_histogram(sums["scores"])}


@dataclass
class Ordinal(Objective):
    """One of several ordered grades an image (CORN): is it above grade k, given that it is at least k?

    Args:
        classes: Names of the K grades, lowest first; the network has K - 1 outputs.

    **Reference** Shi, Cao, Raschka 2023, doi:10.1007/s10044-023-01181-9.
    """

    classes: Sequence[str]

    task: ClassVar[str] = "ordinal"
    monitor: ClassVar[str] = "val_quadratic_kappa"
    mode: ClassVar[str] = "max"

    def __post_init__(self) -> None:
        """Names as texts."""
        self.classes = [str(name) for name in self.classes]

    def begin(self, train: PatchSet, device: torch.device) -> None:
        """Refuse other grades, and images without one."""
        if list(train.classes) != list(self.classes):
            raise MedcoreError(f"train: the grades {train.classes} are not the objective's {self.classes}")
        if (train.labels < 0).any() or len(np.unique(train.labels)) < 2:
            raise MedcoreError("train: every image must have a grade, and there must be two different ones at least")

    def compute(self, output: Tensor, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The conditional loss. **Shape** output ``(B, K - 1)`` logits."""
        return {"loss": losses.corn(output, batch.labels).mean()}

    def sums(self) -> dict[str, tuple[int, ...]]:
        """Confusion matrix."""
        return {"confusion": (len(self.classes), len(self.classes))}

    def count(self, sums: dict[str, Tensor], output: Tensor, batch: Batch) -> None:
        """See the base class."""
        called = median_grade(grade_probabilities(output))
        sums["confusion"] += confusion_counts(batch.labels, called, len(self.classes))

    def metrics(self, sums: dict[str, np.ndarray], samples: float) -> dict[str, float]:
        """Quadratic-weighted kappa, share within one grade, accuracy."""
        counts = sums["confusion"]
        with np.errstate(invalid="ignore"):
            kappa = float(quadratic_kappa(counts))
        return {"quadratic_kappa": kappa, "within_one": float(within_one(counts)), "accuracy": float(accuracy(counts))}

    def tables(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The confusion matrix, truth down. **Shape** ``(K, K)``."""
        return {"confusion": sums["confusion"].astype(np.int64)}


@dataclass
class Regression(Objective):
    """A measured value an image: Huber's loss in units of the training values' spread; mean absolute error.

    Args:
        name: What is measured.
        centre: Mean of the training values; the network answers in spreads from it.
        spread: Their standard deviation.

    **Reference** Huber 1964, doi:10.1214/aoms/1177703732.
    """

    name: str
    centre: float
    spread: float

    task: ClassVar[str] = "regression"
    monitor: ClassVar[str] = "val_mae"

    def __post_init__(self) -> None:
        """Refuse a spread that is none."""
        if not self.spread > 0:
            raise MedcoreError(f"Regression(spread={self.spread!r}): must be above 0")

    @property
    def classes(self) -> list[str]:
        """The one name, for the manifest."""
        return [self.name]

    def begin(self, train: PatchSet, device: torch.device) -> None:
        """Refuse images without a value."""
        if not np.isfinite(train.values).all():
            raise MedcoreError(f"train: {int((~np.isfinite(train.values)).sum())} images have no value; leave them out")

    def compute(self, output: Tensor, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Huber's loss. **Shape** output ``(B, 1)``."""
        wanted = (batch.labels - self.centre) / self.spread
        return {"loss": F.smooth_l1_loss(output[:, 0].float(), wanted, reduction="none").mean()}

    def sums(self) -> dict[str, tuple[int, ...]]:
        """Sums of values, errors and their squares."""
        return {"moments": (MOMENTS,)}

    def count(self, sums: dict[str, Tensor], output: Tensor, batch: Batch) -> None:
        """See the base class."""
        exact = sums["moments"].dtype
        stated = output[:, 0].to(exact) * self.spread + self.centre
        sums["moments"] += moments(batch.labels.to(exact), stated).sum(0)

    def metrics(self, sums: dict[str, np.ndarray], samples: float) -> dict[str, float]:
        """Mean absolute error, root mean squared error and R², in units of the value."""
        found = sums["moments"].astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"mae": float(mae(found)), "rmse": float(rmse(found)), "r2": float(r2(found))}
