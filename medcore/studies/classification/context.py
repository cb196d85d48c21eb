"""Patches judged beside the others of their patient: what is unusual for this patient, and what lies around.

    if has_neighbours(patches):
        method = in_context(features_of, ClassificationChoices())   # for cross_predict, beside the probe
        relative(features, patches, reach=150.0)                    # (N, 3D): what it learns from

A patch alone shows neither how strongly its patient was stained nor whether it lies inside a tumour. Labels of the
others are never used, only their pixels; so an answer holds for patches that come with the others of their patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names
from medcore.evaluation.baselines import colour_histogram
from medcore.studies.classification.choices import ClassificationChoices
from medcore.studies.experiments import TrainAndPredict, without_prior

CONTEXT = "patches beside their neighbours"
POSITION = ("x", "y")  # columns of the table, in pixels of the slide
FARTHEST = 4.0  # standard deviations: patches farther away weigh nothing


def has_neighbours(patches: PatchSet) -> bool:
    """Whether most patches have a position, and another of the same slide beside them."""
    return bool(np.isfinite(_nearest(patches)).mean() > 0.5)


def relative(values: np.ndarray, patches: PatchSet, reach: float) -> np.ndarray:
    """Features as they are, less their patient's mean, and those of the neighbours less the patient's mean.

    Neighbours are the others of the same slide, weighted by a Gaussian of their distance; a patch that has none
    within four standard deviations gets zeros there.

    Args:
        values: **Shape** ``(N, D)``.
        reach: Standard deviation of the weights, in pixels of the slide.

    Returns:
        **Shape** ``(N, 3D)``.
    """
    values = np.asarray(values, dtype=np.float32)
    own, around = np.zeros_like(values), np.zeros_like(values)
    for rows in _rows_of(group_names(patches)):
        own[rows] = values[rows] - values[rows].mean(0)
    for rows, where in _positions(patches):
        tree = cKDTree(where)
        found = tree.sparse_distance_matrix(tree, FARTHEST * reach, output_type="coo_matrix")
        weights = np.exp(-(found.data**2) / (2 * reach**2)) * (found.row != found.col)
        near = coo_matrix((weights, (found.row, found.col)), found.shape).tocsr()
        total = np.asarray(near.sum(1)).reshape(-1, 1)
        around[rows] = np.where(total > 0, near @ own[rows] / np.maximum(total, 1e-30), 0.0)
    return np.concatenate([values, own, around], axis=1)


def in_context(
    features_of: Callable[[PatchSet], np.ndarray], choices: ClassificationChoices, *, seed: int = 0
) -> TrainAndPredict:
    """Logistic regression and boosted trees, averaged, on features and colours relative to patient and neighbours.

    Principal components and every scale come from the training patches.

    Args:
        features_of: Features of some patches by a frozen encoder.

    **References** Bejnordi et al. 2017, doi:10.1001/jama.2017.14585, post-process maps of patches' probabilities;
    scikit-learn's ``VotingClassifier`` averages.
    """

    def train_and_predict(train: PatchSet, held_out: PatchSet) -> np.ndarray:
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        known = np.asarray(features_of(train))
        count = min(choices.context_components, *known.shape)
        reduced = make_pipeline(StandardScaler(), PCA(count, random_state=seed)).fit(known)
        nearest = _nearest(train)
        spacing = np.percentile(nearest[np.isfinite(nearest)], 5) if np.isfinite(nearest).any() else 1.0
        reach = choices.context_reach * float(spacing)

        def table(part: PatchSet) -> np.ndarray:
            both = np.concatenate([reduced.transform(features_of(part)), colour_histogram(part)], axis=1)
            return relative(both, part, reach)

        with threadpool_limits(1):
            model = _two_learners(seed).fit(table(train), train.labels)
            answers = np.zeros((len(held_out), len(train.classes)))
            answers[:, model.classes_] = model.predict_proba(table(held_out))
        return without_prior(answers, train) if choices.class_weights == "balanced" else answers

    return train_and_predict


def _two_learners(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=200, max_leaf_nodes=15, l2_regularization=1.0, early_stopping=False,
        random_state=seed,
    )  # fmt: skip
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return VotingClassifier([("linear", linear), ("trees", trees)], voting="soft")


def _slides(patches: PatchSet) -> np.ndarray:
    """What positions belong to: the slide or image of several patches, otherwise the patient. **Shape** ``(N,)``."""
    groups = group_names(patches).astype(object)
    for column in ("slide", "image"):
        if column in patches.table:
            inside = groups + "\n" + patches.table[column].astype(str).to_numpy()
            if len(np.unique(inside.astype(str))) < len(patches):  # else it names each patch, if only in its folder
                return inside
    return groups


def _rows_of(groups: np.ndarray) -> list[np.ndarray]:
    _, number = np.unique(groups.astype(str), return_inverse=True)
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def _positions(patches: PatchSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of each slide that have a position, and these positions. **Shape** ``(n,)`` and ``(n, 2)``."""
    if not set(POSITION) <= set(patches.table.columns):
        return
    places = patches.table[list(POSITION)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    for rows in _rows_of(_slides(patches)):
        known = rows[np.isfinite(places[rows]).all(axis=1)]
        if len(known) > 1:
            yield known, places[known]


def _nearest(patches: PatchSet) -> np.ndarray:
    """Distance of each patch to the next place of its slide; infinite where there is none. **Shape** ``(N,)``."""
    found = np.full(len(patches), np.inf)
    for rows, where in _positions(patches):
        places, place = np.unique(where, axis=0, return_inverse=True)  # copies of a patch lie on one
        if len(places) > 1:
            found[rows] = cKDTree(places).query(places, k=2)[0][place.ravel(), 1]
    return found
