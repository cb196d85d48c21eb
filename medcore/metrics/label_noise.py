"""Confident learning: how often one class was written where another is true, from probabilities of unseen images.

    joint = confident_joint(labels, probability)       # counts (K, K): given label down, probable class across
    noise = noise_matrix(joint.counts, labels)         # expected images (K, K)
    suggested = probable_classes(labels, probability, noise)   # -1 where the label stands

A class is *confident* for an image where its probability is at least the mean probability that images with that label
get: a model that is unsure of a class throughout does not make all of its labels suspicious.

**Reference** Northcutt, Jiang, Chuang 2021, doi:10.1613/jair.1.12125.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medcore.errors import MedcoreError

TIE = 1e-6  # probabilities of float32 that are meant to be equal


class ConfidentJoint(NamedTuple):
    """Images by given label (rows) and confident class (columns), **Shape** ``(K, K)``; that class of each image.

    ``confident`` is -1 where no class reaches its threshold. **Shape** ``(N,)``.
    """

    counts: np.ndarray
    confident: np.ndarray


def class_thresholds(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The mean probability of each class over the images that carry its label; infinite where none does.

    **Shapes** ``(N,)`` and ``(N, K)`` -> ``(K,)``.
    """
    kinds = probability.shape[1]
    counts = np.bincount(labels, minlength=kinds)
    own = np.bincount(labels, probability[np.arange(len(labels)), labels], minlength=kinds)
    return np.where(counts > 0, own / np.maximum(counts, 1), np.inf)


def confident_joint(labels: np.ndarray, probability: np.ndarray) -> ConfidentJoint:
    """Count images by their label and by the most probable of the classes that reach their threshold.

    Args:
        labels: Class indexes as given. **Shape** ``(N,)``.
        probability: Of models that saw neither the image nor its patient. **Shape** ``(N, K)``.

    Raises:
        MedcoreError: Lengths differ, or a label is no class index.
    """
    labels, probability = np.asarray(labels, dtype=np.int64), np.asarray(probability, dtype=float)
    if probability.ndim != 2 or len(labels) != len(probability):
        raise MedcoreError(f"confident_joint: {labels.shape} labels and {probability.shape} probabilities do not fit")
    kinds = probability.shape[1]
    if len(labels) and not 0 <= labels.min() <= labels.max() < kinds:
        raise MedcoreError(f"confident_joint: labels run from {labels.min()} to {labels.max()} of {kinds} classes")
    reached = probability >= class_thresholds(labels, probability) - TIE
    confident = np.where(reached.any(axis=1), np.where(reached, probability, -1.0).argmax(axis=1), -1)
    known = confident >= 0
    counts = np.bincount(labels[known] * kinds + confident[known], minlength=kinds * kinds)
    return ConfidentJoint(counts.reshape(kinds, kinds), confident)


def noise_matrix(counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Expected images of each given label (rows) that truly are of each class (columns).

    Rows sum to the images of the label. A label without any confident image is taken for right.
    **Shapes** ``(K, K)`` and ``(N,)`` -> ``(K, K)``.
    """
    images = np.bincount(labels, minlength=len(counts)).astype(float)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, counts / np.maximum(total, 1), np.eye(len(counts)))
    return np.asarray(shares * images[:, None])


def probable_classes(labels: np.ndarray, probability: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The class that an image more probably shows than its label says, -1 where the label stands.

    Of the images of each label, as many are named for another class as the noise lets expect: those by which that class
    beats the label most (pruning by noise rate). No image is named whose label is more probable.

    Args:
        noise: As from :func:`noise_matrix`. **Shape** ``(K, K)``.

    **Shapes** ``(N,)`` and ``(N, K)`` -> ``(N,)``.
    """
    suggested, largest = np.full(len(labels), -1), np.full(len(labels), TIE)
    for given, other in np.argwhere(np.round(noise) > 0):
        if given == other:
            continue
        rows = np.flatnonzero(labels == given)
        lead = probability[rows, other] - probability[rows, given]
        first = np.argsort(-lead, kind="stable")[: round(noise[given, other])]
        first = first[lead[first] > largest[rows[first]]]
        suggested[rows[first]], largest[rows[first]] = other, lead[first]
    return suggested
