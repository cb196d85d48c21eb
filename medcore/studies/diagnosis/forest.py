"""A fitted forest as plain arrays: it is stored without pickle, and answers as scikit-learn does, bit for bit.

forest = Forest.of(fitted)                  # an ExtraTreesClassifier of two classes
forest.probability(features)                # equals fitted.predict_proba(features)[:, 1]
Forest.from_tensors(forest.tensors())       # out of a safetensors file
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medcore.errors import MedcoreError

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesClassifier

LEAF = -1
DTYPES = {"root": np.int64, "left": np.int64, "right": np.int64, "feature": np.int64, "threshold": np.float64,
          "share": np.float64}  # fmt: skip


@dataclass(frozen=True)
class Forest:
    """Nodes of T trees, one after the other.

    Attributes:
        root: First node of each tree. **Shape** ``(T,)`` int64.
        left: Where a feature at most the threshold leads, -1 in a leaf. **Shape** ``(M,)`` int64.
        right: Where a larger one leads. **Shape** ``(M,)`` int64.
        feature: Which feature is looked at. **Shape** ``(M,)`` int64.
        threshold: **Shape** ``(M,)`` float64.
        share: Share of the second class among the training windows of the node. **Shape** ``(M,)`` float64.
    """

    root: np.ndarray
    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    share: np.ndarray

    def __post_init__(self) -> None:
        """Refuse arrays that are no forest: answering them could hang or read elsewhere.

        Raises:
            MedcoreError: They do not fit together.
        """
        nodes, parts = len(self.left), [getattr(self, name) for name in DTYPES]
        lengths = {len(part) for part in parts[1:]}
        inner = self.left != LEAF
        place = np.arange(nodes)
        right = (
            len(self.root) > 0 and lengths == {nodes} and all(part.ndim == 1 for part in parts)
            and bool((self.root >= 0).all() and (self.root < nodes).all())
            # children come after their node: no circle
            and all(bool((side[inner] > place[inner]).all() and (side[inner] < nodes).all())
                    for side in (self.left, self.right))
            and bool((self.feature[inner] >= 0).all() and np.isfinite(self.threshold[inner]).all())
            and bool((self.share >= 0).all() and (self.share <= 1).all())
        )  # fmt: skip
        if not right:
            raise MedcoreError("forest: these arrays are no forest of two classes; take a fresh copy of the model")

    @classmethod
    def of(cls, fitted: ExtraTreesClassifier) -> Forest:
        """The arrays of a fitted forest of two classes."""
        trees = [one.tree_ for one in fitted.estimators_]
        root = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]

        def joined(name: str, shift: bool = False) -> np.ndarray:
            parts = [getattr(tree, name) for tree in trees]
            return np.concatenate([np.where(part == LEAF, LEAF, part + first) if shift else part
                                   for part, first in zip(parts, root, strict=True)])  # fmt: skip

        share = np.concatenate([tree.value[:, 0, 1] for tree in trees])
        parts = (root, joined("children_left", True), joined("children_right", True), joined("feature"))
        first, left, right, feature = (part.astype(np.int64) for part in parts)
        return cls(first, left, right, feature, joined("threshold"), share)

    def probability(self, features: np.ndarray) -> np.ndarray:
        """Probability of the second class. **Shape** ``(N, F)`` to ``(N,)`` float64.

        Raises:
            MedcoreError: There are fewer features than the forest looks at.
        """
        seen = np.asarray(features, dtype=np.float32)  # as scikit-learn compares
        if seen.ndim != 2 or seen.shape[1] <= self.feature.max(initial=0):
            raise MedcoreError(f"forest: features of the shape {seen.shape}, but it looks at {self.feature.max() + 1}")
        total = np.zeros(len(seen))
        for first in self.root.tolist():
            node = np.full(len(seen), first)
            moving = np.flatnonzero(self.left[node] != LEAF)
            while len(moving):
                here = node[moving]
                low = seen[moving, self.feature[here]] <= self.threshold[here]
                node[moving] = np.where(low, self.left[here], self.right[here])
                moving = moving[self.left[node[moving]] != LEAF]
            total += self.share[node]
        return total / len(self.root)

    def tensors(self) -> dict[str, Tensor]:
        """The arrays for a safetensors file."""
        return {f"forest.{one.name}": torch.from_numpy(getattr(self, one.name).copy()) for one in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Forest:
        """The inverse of ``tensors``.

        Raises:
            MedcoreError: One is missing, or of another type.
        """
        found = {name: tensors[f"forest.{name}"].numpy() for name in DTYPES if f"forest.{name}" in tensors}
        if any(name not in found or found[name].dtype != kind for name, kind in DTYPES.items()):
            raise MedcoreError(f"forest: arrays {sorted(tensors)} are not those of a forest")
        return cls(**found)
