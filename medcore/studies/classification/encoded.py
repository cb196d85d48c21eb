"""What networks make of a study's images, computed once: a network is asked for the same images many times.

The result on validation and on test images, other temperatures, rules for not answering and what is familiar all stand
on the same features. A network that has learnt since is another one: its weights' hash is looked at each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch

from medcore.data.patchset import PatchSet
from medcore.evaluation.features import weights_hash
from medcore.evaluation.predict import auto_batch_size, place_model, stream
from medcore.models.classifier import Classifier

PRECISION = "fp32+channels_last"  # as of predict
FeaturesOf = Callable[[PatchSet], np.ndarray]


class Encoded:
    """Features by network and images; heads are computed anew each time."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], np.ndarray] = {}
        self._given: dict[str, tuple[PatchSet, FeaturesOf]] = {}

    def give(self, network: Classifier, patches: PatchSet, features_of: FeaturesOf) -> None:
        """Features of any of these images under this network, whatever its head, are known already."""
        self._given[_name(network)] = patches, features_of

    def features(self, network: Classifier, ps: PatchSet) -> np.ndarray:
        """What the network's head sees of the images. **Shape** ``(N, D)``."""
        name = _name(network)
        patches, features_of = self._given.get(name, (None, None))
        if patches is not None and features_of is not None and _within(ps, patches):
            return features_of(ps)
        key = name, ps.fingerprint
        if key not in self._made:
            self._made[key] = stream(network.features, ps, model=network, precision=PRECISION)
        return self._made[key]

    def probabilities(self, network: Classifier, ps: PatchSet, temperature: float = 1.0) -> np.ndarray:
        """The same as ``predict``. **Shape** ``(N, K)``."""
        values, device = torch.from_numpy(self.features(network, ps)), place_model(network, None, PRECISION).device
        parts = values.split(auto_batch_size(ps.shape, device))  # as predict: sums are then rounded alike
        with torch.no_grad():
            said = [network.squash(network.head(part.to(device)).float() / temperature).cpu() for part in parts]
        return torch.cat(said).numpy()


def _within(part: PatchSet, whole: PatchSet) -> bool:
    return part.store is whole.store and bool(np.isin(part.index, whole.index).all())


def _name(network: Classifier) -> str:
    """Of everything but the head."""
    facts = {name: value for name, value in network.spec["args"].items() if name != "classes"}
    return weights_hash(network) + json.dumps(facts, sort_keys=True)
