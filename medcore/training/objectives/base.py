"""What every objective is, and how it refuses what it cannot be."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.training.batches import Batch


class Objective(ABC):
    """Base of all objectives; a new task states ``compute``, and ``sums``, ``count``, ``metrics`` for its metrics.

    Attributes:
        task: Name for manifests and reports.
        monitor: The validation column that picks the best epoch.
        mode: ``"min"`` or ``"max"``: which way that column is better.
        parts: Names of what ``compute`` returns; ``"loss"`` is minimised.
    """

    task: ClassVar[str] = ""
    monitor: ClassVar[str] = "val_loss"
    mode: ClassVar[str] = "min"
    parts: ClassVar[tuple[str, ...]] = ("loss",)

    def begin(self, train: PatchSet, device: torch.device) -> None:  # noqa: B027 (a reconstruction looks at nothing)
        """Look at the training set once (to refuse it, or to weigh its classes)."""

    @abstractmethod
    def compute(self, output: Any, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Loss parts, each a mean over the samples of the batch.

        Args:
            output: What the model returned for ``batch.images``.
            batch: Images, labels and masks on the device.
        """

    def sums(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the sums that ``count`` fills."""
        return {}

    def count(self, sums: dict[str, Tensor], output: Any, batch: Batch) -> None:  # noqa: B027 (nothing beyond the loss)
        """Add a batch to the sums, in place, without waiting for the device."""

    def metrics(self, sums: dict[str, np.ndarray], samples: float) -> dict[str, float]:
        """Metrics of an epoch from its sums; the one that ``monitor`` names comes first, and is the one drawn."""
        return {}

    def tables(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Tables of an epoch (such as ``confusion``) for trackers and the history."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Name and arguments as plain JSON types, for the manifest."""
        values: dict[str, Any] = dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}  # type: ignore[arg-type]
        return {"name": type(self).__name__, **values}


def class_names(classes: Sequence[str] | int) -> list[str]:
    """Names as texts; of a number of classes their places."""
    return [str(index) for index in range(classes)] if isinstance(classes, int) else [str(name) for name in classes]


def one_of(where: str, name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not allowed.

    Raises:
        MedcoreError: It is none of them.
    """
    if value not in allowed:
        raise MedcoreError(f"{where}({name}={value!r}): must be {', '.join(allowed)}")
