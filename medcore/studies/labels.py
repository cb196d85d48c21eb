"""Which labels of a set are probably wrong, told by models that never saw the image's patient.

    check = check_labels(out_of_fold(patches))           # probabilities of a probe that never saw the patient
    check.table(patches)                                 # worst first, to be looked at by a person
    check.noise()                                        # expected wrong labels for each pair of classes

A suspicion is no verdict: a model that confuses two classes raises it for right labels as well. Labels are changed by
a person only, in the table's last column, and read back by ``medcore.data.audit.fix.correct_labels``.

    medcore audit DATA --labels reports/RUN/01_preprocessing --out review.csv
    medcore audit DATA --labels review.csv --out corrected.npz
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medcore.data.npzfile import open_zip, read_array
from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names, patient_folds
from medcore.errors import MedcoreError
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.features import features
from medcore.evaluation.intervals import mean_interval
from medcore.evaluation.scores import Scores
from medcore.metrics.label_noise import confident_joint, noise_matrix, probable_classes
from medcore.models.classifier import build_classifier
from medcore.studies.heads import LINEAR, fit_head

ENCODER, SIDES = "timm:tf_efficientnet_lite0", (112, 224)  # pixels
PENALTY = 1e-2  # inverse strength: a probe that follows every wrong label would not find it
OUT_OF_FOLD = "out_of_fold.npz"
MOST_BYTES = 1 << 30  # of one array of a run


@dataclass(frozen=True)
class LabelCheck:
    """What out-of-fold probabilities say of the given labels.

    Attributes:
        scores: Probabilities ``(N, K)`` with the given labels as truth.
        expected: Images of each label (rows) that truly are of each class (columns), as estimated.
            **Shape** ``(K, K)``.
        suggested: The class that an image more probably shows; -1 where the label stands. **Shape** ``(N,)``.
    """

    scores: Scores
    expected: np.ndarray
    suggested: np.ndarray

    @property
    def suspicious(self) -> np.ndarray:
        """Whether another class is suggested. **Shape** ``(N,)`` bool."""
        return np.asarray(self.suggested >= 0)

    @property
    def worst(self) -> np.ndarray:
        """Positions of the suspicious images, the least probable label first. **Shape** ``(n,)``."""
        rows = np.flatnonzero(self.suspicious)
        return rows[np.argsort(self.scores.score[rows, self.scores.truth[rows]], kind="stable")]

    @property
    def share(self) -> Estimate:
        """Share of suspicious labels, with an interval over patients."""
        scores = self.scores
        return mean_interval(
            self.suspicious.astype(float), scores.patient, name="suspicious_labels", unit=scores.unit, split=scores.side
        )

    def noise(self) -> pd.DataFrame:
        """One row per pair of classes with suspicious labels: ``label, probably, expected, share``, most first.

        ``expected`` counts images of the label that truly are of the other class, as the confident ones let expect;
        ``share`` is their part of the label's images.
        """
        matrix, names = self.expected, self.scores.classes
        totals = matrix.sum(axis=1)
        rows = [
            {"label": names[i], "probably": names[j], "expected": matrix[i, j], "share": matrix[i, j] / totals[i]}
            for i, j in np.argwhere(matrix > 0)
            if i != j
        ]
        table = pd.DataFrame(rows, columns=["label", "probably", "expected", "share"])
        return table.sort_values("expected", ascending=False, kind="stable", ignore_index=True)

    def by(self, values: np.ndarray, name: str) -> pd.DataFrame:
        """Suspicious labels for each value of a column (a patient, an annotator): ``name, images, suspicious, share``.

        Args:
            values: One a case. **Shape** ``(N,)``.
        """
        names, group = np.unique(np.asarray(values).astype(str), return_inverse=True)
        images, doubts = np.bincount(group), np.bincount(group, self.suspicious).astype(int)
        table = pd.DataFrame({name: names, "images": images, "suspicious": doubts, "share": doubts / images})
        return table.sort_values(["suspicious", "share"], ascending=False, kind="stable", ignore_index=True)

    def table(self, patches: PatchSet) -> pd.DataFrame:
        """The suspicious labels for review, worst first; a person fills the column ``correct``.

        Columns: ``row`` (of the set's store), ``source, patient, split, label, suggested, p_label, p_suggested,
        correct``.
        """
        worst, scores, names = self.worst, self.scores, np.array(self.scores.classes)
        part = patches.select(positions(patches, scores)[worst])
        given, other = scores.truth[worst], self.suggested[worst]
        return pd.DataFrame({
            "row": part.index, "source": part.column("source").astype(str), "patient": part.patients,
            "split": part.splits, "label": names[given], "suggested": names[other],
            "p_label": scores.score[worst, given].round(4), "p_suggested": scores.score[worst, other].round(4),
            "correct": "",
        })  # fmt: skip

    def pictures(self, patches: PatchSet, count: int = 12) -> dict[str, Any]:
        """The worst labels as arguments of ``plots.worst_mistakes``: given label, then the suggested one."""
        worst, scores, names = self.worst[:count], self.scores, self.scores.classes
        return {
            "images": patches.take(positions(patches, scores)[worst]),
            "classes": names,
            "confidence": scores.score[worst, self.suggested[worst]],
            "truth": [names[k] for k in scores.truth[worst]],
            "predicted": [names[k] for k in self.suggested[worst]],
        }


def check_labels(scores: Scores) -> LabelCheck:
    """Judge given labels by confident learning.

    Args:
        scores: Probabilities ``(N, K)`` from models that saw neither an image nor its patient.

    Raises:
        MedcoreError: There is one score a case only.
    """
    if scores.score.ndim != 2:
        raise MedcoreError("check_labels needs a probability for each class (N, K), out of fold")
    expected = noise_matrix(confident_joint(scores.truth, scores.score).counts, scores.truth)
    return LabelCheck(scores, expected, probable_classes(scores.truth, scores.score, expected))


def out_of_fold(
    patches: PatchSet, *, folds: int = 5, side: int | None = None, seed: int = 0, device: str | torch.device = "cpu"
) -> Scores:
    """What a linear probe on a pretrained encoder says of each image after learning from other patients' images.

    Images of a class that no other patient shows cannot be judged and are left out.

    Args:
        patches: Labelled images.
        folds: Over patients; as many as there are patients where these are fewer.
        side: Pixels that the encoder sees images at; None takes their own within ``SIDES``.
        device: Where features are computed.

    Raises:
        MedcoreError: There are fewer than two patients, or than two classes to learn from.
    """
    shape, whole = patches.shape, patches.with_split(["train"] * len(patches))  # nothing is measured here
    encoder = build_classifier(
        ENCODER, len(patches.classes), in_channels=shape[2], weights="imagenet", image_size=shape[0],
        side=side or int(np.clip(min(shape[:2]), *SIDES)), levels=True,
    ).to(device)  # fmt: skip
    values = np.asarray(features(patches, encoder).values)
    answers, judged = np.zeros((len(patches), len(patches.classes))), np.zeros(len(patches), bool)
    for fold in patient_folds(whole, min(folds, len(set(group_names(patches)))), seed=seed):
        head = fit_head(LINEAR, values[fold.train], whole.select(fold.train), balanced=False, settings=(PENALTY,))
        answers[fold.validation] = head.probabilities(values[fold.validation])
        judged[fold.validation] = np.isin(patches.labels[fold.validation], patches.labels[fold.train])
    return Scores.from_set(patches, answers).select(judged)


def positions(patches: PatchSet, scores: Scores) -> np.ndarray:
    """Where the cases stand in a set that holds them all. **Shape** ``(N,)``.

    Raises:
        MedcoreError: A case is not in the set, or has another label there.
    """
    place = pd.Series(np.arange(len(patches)), index=patches.index)
    found = place.reindex(np.arange(len(scores)) if scores.ids is None else scores.ids)
    if found.isna().any():
        raise MedcoreError(f"{int(found.isna().sum())} of {len(scores)} cases are not in set {patches.card.name!r}")
    rows = found.to_numpy(dtype=np.int64)
    names, given = patches.label_names[rows], np.array(scores.classes)[scores.truth]
    if (names != given).any():
        n = int((names != given).argmax())
        raise MedcoreError(
            f"{int((names != given).sum())} of {len(scores)} labels of the run are not those of set "
            f"{patches.card.name!r} (row {patches.index[rows[n]]}: {given[n]!r} there, {names[n]!r} here); "
            "was it read or corrected differently? Run the notebook on this set again"
        )
    return rows


def read_out_of_fold(run: Path) -> Scores:
    """The out-of-fold probabilities that a run of notebook 01 left.

    Raises:
        MedcoreError: There are none, or they cannot be read.
    """
    path = run / OUT_OF_FOLD
    if not path.is_file():
        raise MedcoreError(
            f"{path} does not exist: name the folder of a run of notebook 01, such as reports/RUN/01_preprocessing"
        )
    names = ("truth", "probabilities", "patient", "split", "classes", "ids")
    with open_zip(path) as archive:
        held = {name: read_array(archive, f"{name}.npy", MOST_BYTES, f"{path}, {name}") for name in names}
    return Scores(
        held["truth"], held["probabilities"], held["patient"], held["split"], tuple(held["classes"]), held["ids"],
        "image",
    )  # fmt: skip
