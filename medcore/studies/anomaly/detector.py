"""A detector of what is not normal, out of a model folder: an autoencoder or VAE with its score and threshold.

write_detector(study, trained.folder, run.folder / "model")     # what notebooks 02 and 03 leave
detector = Detector(load_checkpoint(folder))
for batch in detector.predict("new_images/"):
batch.labels, batch.score
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.calibration import Logistic, fit_logistic
from medcore.evaluation.predictor import Predictions, Predictor
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import OperatingPoint
from medcore.studies.anomaly.candidates import DISTANCE, ENCODERS, WEIGHTED
from medcore.studies.anomaly.detection import KINDS as SIDES
from medcore.studies.anomaly.detection import abnormal_scores
from medcore.studies.anomaly.latent import encode_set
from medcore.studies.anomaly.scores import KINDS, score
from medcore.studies.anomaly.study import AnomalyStudy
from medcore.training import checkpoint
from medcore.training.seen import describe_sides, pixel_hashes

MEAN, PRECISION = "latent.mean", "latent.precision"


@dataclass
class Detections(Predictions):
    """Answers of a detector: ``probabilities`` of normal and abnormal, and

    Attributes:
        score: Higher = more unusual. **Shape** ``(n,)``.
        threshold: From it on an image is called abnormal.
    """  # noqa: D415

    score: np.ndarray = field(default_factory=lambda: np.zeros(0))
    threshold: float = 0.0

    @property
    def labels(self) -> list[str]:
        """``abnormal`` where the score reaches the threshold, else ``normal``."""
        return [SIDES[int(value >= self.threshold)] for value in self.score]


class Detector(Predictor):
    """An autoencoder or VAE with the score and the threshold that were chosen for it.

    Raises:
        MedcoreError: The checkpoint holds no such network, or no threshold.
    """

    def __init__(self, loaded: checkpoint.Loaded, device: str | None = None) -> None:
        super().__init__(loaded, device)
        facts = loaded.manifest["extra"]["detection"]
        self.kind, self.abnormal = str(facts["kind"]), list(facts["abnormal"])
        self.point, self.curve = OperatingPoint(**facts["point"]), Logistic(**facts["probability"])
        if self.kind not in (*KINDS, DISTANCE):
            raise MedcoreError(f"{loaded.path}: extra.detection.kind={self.kind!r} is no score that is known")
        self.reference = checkpoint.read_checkpoint(loaded.path, checkpoint.STATE)[0] if self.kind == DISTANCE else {}
        if self.kind == DISTANCE and {MEAN, PRECISION} - set(self.reference):
            raise MedcoreError(f"{loaded.path}: the codes of normal images are missing; copy the folder anew")

    def _accept(self, loaded: checkpoint.Loaded) -> None:
        family = loaded.manifest["architecture"]["family"]
        if not isinstance(loaded.model, ENCODERS) or not loaded.manifest.get("extra", {}).get("detection"):
            raise MedcoreError(
                f"{loaded.path} holds a {family} without a score and a threshold; notebooks 02 and 03 choose both and "
                "write a model folder"
            )

    @property
    def classes(self) -> list[str]:
        """``normal`` and ``abnormal``."""
        return list(SIDES)

    def scores(self, patches: PatchSet) -> np.ndarray:
        """The score of every image of a set. **Shape** ``(N,)``."""
        return np.concatenate([batch.score for batch in self.predict(patches)])  # type: ignore[attr-defined]

    def _answer(self, images: Tensor) -> Tensor:
        """The score. **Shape** ``(B, C, H, W) -> (B, 1)``."""
        if self.kind != DISTANCE:
            return score(self.model, images, self.kind)[:, None]
        network: Any = self.model
        found = network.encode(images)
        apart = (found[0] if isinstance(found, tuple) else found).double() - self.reference[MEAN].to(images.device)
        return ((apart @ self.reference[PRECISION].to(images.device)) * apart).sum(1, keepdim=True)

    def _predictions(
        self, names: list[str], values: np.ndarray, pixels: np.ndarray, problems: list[tuple[str, str]]
    ) -> Detections:
        found = values[:, 0].astype(np.float64) if len(names) else np.zeros(0)
        share = self.curve.apply(found)
        return Detections(
            names, np.stack([1 - share, share], axis=1), self.classes, None, problems, pixels,
            self.seen.contents(pixel_hashes(pixels)), score=found, threshold=self.point.threshold,
        )  # fmt: skip

    def cases(self, patches: PatchSet) -> tuple[PatchSet, Scores]:
        """The labelled images of a set and their scores as normal or abnormal.

        Raises:
            MedcoreError: The set has classes that nobody called normal or abnormal, or no abnormal one.
        """
        labelled = patches.select(patches.labels >= 0)
        present = np.unique(labelled.label_names).tolist()
        strange = [name for name in present if name not in self.manifest["classes"]]
        if strange and not patches.card.abnormal:
            raise MedcoreError(
                f"set {patches.card.name!r}: classes {', '.join(strange)} are unknown to the detector (abnormal: "
                f"{', '.join(self.abnormal)}), and the set's card does not say which are abnormal; rename the classes"
            )
        names = patches.card.abnormal if strange else [name for name in self.abnormal if name in patches.classes]
        return labelled, abnormal_scores(labelled, self.scores(labelled), abnormal=names)


def write_detector(study: AnomalyStudy, path: str | Path, target: Path) -> Path:
    """The method of a study as a model folder: its network, its score, its threshold, what was seen in choosing.

    Args:
        path: The checkpoint of the network, or the folder of its training.

    Raises:
        MedcoreError: The score cannot be had from the network alone.
    """
    from sklearn.covariance import LedoitWolf

    sides, kind, model = study.sides, study.kind, study.models[study.method]
    if kind == WEIGHTED or not isinstance(model, ENCODERS):
        raise MedcoreError(f"the detector {study.method!r} with the score {kind!r} is no network that can be stored")
    facts = {
        "kind": kind,
        "abnormal": list(sides.abnormal),
        "point": study.point.as_dict(),
        "probability": asdict(fit_logistic(study.validation)),
    }
    tensors = {}
    if kind == DISTANCE:
        fitted = LedoitWolf().fit(encode_set(model, sides.train))
        tensors = {MEAN: torch.from_numpy(fitted.location_).double(),
                   PRECISION: torch.from_numpy(fitted.precision_).double()}  # fmt: skip
    chosen = describe_sides(sides.train, sides.validation, [])
    data = {name: value for name, value in chosen.items() if name != "earlier"}
    return checkpoint.publish(path, target, tensors, data, detection=facts)
