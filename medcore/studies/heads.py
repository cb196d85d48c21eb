"""Small methods on the features of a frozen network: a linear probe, nearest neighbours, a small perceptron.

    head = fit_head("linear probe", features, train)     # its setting is chosen in folds over the training patients
    head.probabilities(others)                           # (N, K), as if every class were equally common
    head.put_into(network)                               # a linear probe is a network's own last layer
    start_from_probe(network, train)                     # and so a start for fine-tuning the whole network

Features are scaled by the training images' mean and spread. Every method is scikit-learn's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from medcore.data.patchset import PatchSet
from medcore.data.splits import patient_folds
from medcore.errors import MedcoreError
from medcore.evaluation.features import features as features_of
from medcore.evaluation.scores import refuse_test_data
from medcore.models.classifier import Classifier
from medcore.studies.experiments import without_prior

LINEAR, NEIGHBOURS, PERCEPTRON = "linear probe", "nearest neighbours", "small perceptron"
SETTINGS: dict[str, tuple[float, ...]] = {
    LINEAR: (1e-4, 1e-3, 1e-2, 1e-1),  # inverse strength of the L2 penalty, strongest first
    NEIGHBOURS: (5, 15, 45),  # how many
    PERCEPTRON: (1e-2, 1.0),  # L2 penalty of 64 hidden units
}
INNER = 3  # folds over training patients in which a setting is chosen
FINE_TUNING: dict[str, Any] = {  # settings of TrainConfig for training on from a probe
    "epochs": 3, "batch_size": 32, "learning_rate": 5e-4, "warmup_epochs": 0.3,
}  # fmt: skip
SIDES = (112, 224)  # pixels: an encoder sees images at their own side, but within these limits
TUNED_SIDES = (64, 224)  # in fine-tuning, which costs ten times as much for each image
LEAST = 1e-6  # a probability of zero would cost infinitely much


@dataclass(frozen=True)
class Head:
    """A fitted method.

    Attributes:
        setting: The chosen one of ``SETTINGS[kind]``.
        losses: Cross-entropy on unseen training patients by setting, every class weighing the same.
        estimator: scikit-learn's pipeline, fitted on all training images.
        train: Whose class shares are divided out of the answers; None keeps them as they come.
    """

    kind: str
    setting: float
    losses: dict[float, float]
    estimator: Any
    classes: int
    train: PatchSet | None

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """**Shape** ``(N, D)`` to ``(N, K)``."""
        found = np.zeros((len(features), self.classes))
        with threadpool_limits(1):
            found[:, self.estimator.classes_] = self.estimator.predict_proba(features)
        return found if self.train is None else without_prior(found, self.train)

    def put_into(self, network: Classifier) -> None:
        """Make a linear probe the network's last layer, the scaling of the features included.

        Raises:
            MedcoreError: It is no linear probe, or of other features.
        """
        if self.kind != LINEAR or self.estimator.n_features_in_ != network.head.in_features:
            raise MedcoreError(
                f"put_into: a {self.kind} on {self.estimator.n_features_in_} features is no last layer for "
                f"{network.head.in_features}"
            )
        scale, model = self.estimator[0], self.estimator[-1]
        weight, offset = np.zeros((self.classes, network.head.in_features)), np.full(self.classes, -50.0)
        slopes, offsets = model.coef_, model.intercept_
        if len(slopes) == 1:  # of two classes: one sigmoid is the softmax of both halves
            slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
        weight[model.classes_] = slopes / scale.scale_
        offset[model.classes_] = offsets - (slopes / scale.scale_) @ scale.mean_
        network.head.weight.data = torch.from_numpy(weight).to(network.head.weight)
        network.head.bias.data = torch.from_numpy(offset).to(network.head.bias)


def encoder_side(patches: PatchSet, limits: tuple[int, int] = SIDES) -> int:
    """Pixels that a pretrained encoder sees a set's images at: their own shorter side, but within limits."""
    return int(np.clip(min(patches.shape[:2]), *limits))


def start_from_probe(
    network: Classifier, train: PatchSet, values: np.ndarray | None = None, *, balanced: bool = True, seed: int = 0,
    device: str | torch.device = "cpu",
) -> Head:  # fmt: skip
    """Make a linear probe on a pretrained network's own features its last layer: a start for fine-tuning.

    A network whose last layer starts at random distorts its features in the first steps; one that starts from the
    probe has little left to correct. Batch norm stays at its stored statistics, on which the probe was fitted.

    Args:
        network: Is changed in place; train it on with a low learning rate, see ``FINE_TUNING``.
        values: Its features of the training images, where they are known. **Shape** ``(N, D)``.
        device: Where features are computed otherwise.

    Raises:
        TestDataRefused: A training image is marked ``test``.
        MedcoreError: There are fewer than two classes.

    **Reference** Kumar et al. 2022, arXiv:2202.10054.
    """
    refuse_test_data(train, "a linear probe")
    values = features_of(train, network, device=device).values if values is None else values
    head = fit_head(LINEAR, values, train, balanced=balanced, seed=seed)
    head.put_into(network)
    network.freeze_batch_norm()
    return head


def fit_head(
    kind: str,
    features: np.ndarray,
    train: PatchSet,
    *,
    balanced: bool = True,
    settings: tuple[float, ...] | None = None,
    seed: int = 0,
) -> Head:
    """Choose a method's setting in folds over the training patients, and fit it on all training images.

    Args:
        kind: ``linear probe``, ``nearest neighbours`` or ``small perceptron``.
        features: Of the training images. **Shape** ``(N, D)``.
        balanced: Answer as if every class were equally common.
        settings: What to choose from; a single one is taken as it is.
        seed: Of the folds and of a perceptron's first weights.

    Raises:
        TestDataRefused: A training image is marked ``test``.
        MedcoreError: Unknown kind, lengths that differ, or one class only.
    """
    refuse_test_data(train, f"a {kind}")
    if kind not in SETTINGS:
        raise MedcoreError(f"head {kind!r}: must be one of {', '.join(SETTINGS)}")
    if len(features) != len(train) or len(np.unique(train.labels)) < 2:
        raise MedcoreError(
            f"{kind}: {len(features)} rows of features for {len(train)} images of {len(np.unique(train.labels))} "
            "classes; one row an image and two classes are needed"
        )
    settings = SETTINGS[kind] if settings is None else settings
    features = np.asarray(features, dtype=np.float32)
    losses = _losses(kind, settings, features, train, balanced, seed) if len(settings) > 1 else {}
    chosen = min(losses, key=lambda setting: losses[setting]) if losses else settings[0]
    return _fit(kind, chosen, features, train, balanced, seed, losses)


def _losses(
    kind: str, settings: tuple[float, ...], features: np.ndarray, train: PatchSet, balanced: bool, seed: int
) -> dict[float, float]:
    totals = dict.fromkeys(settings, 0.0)
    for fold in patient_folds(train, INNER, seed=seed):
        inside, outside = train.select(fold.train), train.select(fold.validation)
        if len(np.unique(inside.labels)) < 2:
            continue
        for setting in settings:
            head = _fit(kind, setting, features[fold.train], inside, balanced, seed, {})
            found = head.probabilities(features[fold.validation])
            costs = -np.log(np.maximum(found[np.arange(len(outside)), outside.labels], LEAST))
            totals[setting] += float(np.mean([costs[outside.labels == k].mean() for k in np.unique(outside.labels)]))
    return {setting: total / INNER for setting, total in totals.items()}


def _fit(
    kind: str, setting: float, features: np.ndarray, train: PatchSet, balanced: bool, seed: int,
    losses: dict[float, float],
) -> Head:  # fmt: skip
    estimator = _MAKERS[kind](setting, len(train), balanced, seed)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged to the last digit: the inner folds judge what came out
        estimator.fit(features, train.labels)
    corrected = train if balanced and kind != LINEAR else None  # the probe's loss weighs the classes itself
    return Head(kind, setting, losses, estimator, len(train.classes), corrected)


def linear_probe(setting: float = 1.0, *, balanced: bool = True) -> Any:
    """A penalised logistic regression on scaled features, not fitted: scikit-learn's pipeline.

    Args:
        setting: Inverse strength of the L2 penalty.
        balanced: Weigh classes by their rarity.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weights = "balanced" if balanced else None
    return make_pipeline(StandardScaler(), LogisticRegression(C=setting, class_weight=weights, max_iter=200, tol=1e-3))


def _neighbours(setting: float, count: int, balanced: bool, seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    nearest = KNeighborsClassifier(min(int(setting), count), weights="distance")
    return make_pipeline(StandardScaler(), Normalizer(), nearest)  # Euclidean on unit vectors: the cosine's order


def _perceptron(setting: float, count: int, balanced: bool, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPClassifier((64,), alpha=setting, max_iter=20, learning_rate_init=1e-3, random_state=seed)
    return make_pipeline(StandardScaler(), network)


_MAKERS: dict[str, Callable[[float, int, bool, int], Any]] = {
    LINEAR: lambda setting, count, balanced, seed: linear_probe(setting, balanced=balanced),
    NEIGHBOURS: _neighbours,
    PERCEPTRON: _perceptron,
}
