"""Models that never change, one class a task: how a cohort is read, predicted and judged by what the folder fixes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from medcore.data.images import as_channels, decode
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.calibration import calibration_estimates
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.predictor import Predictor, find_images, read_as_trained
from medcore.evaluation.scores import Scores
from medcore.evaluation.segmenter import load_segmenter
from medcore.evaluation.sliding import at_scale, predict_image
from medcore.studies.anomaly.detection import detector_estimates
from medcore.studies.anomaly.detector import Detector
from medcore.studies.diagnosis.cohort import PATIENT_CLASSES
from medcore.studies.diagnosis.model import DiagnosisModel
from medcore.studies.diagnosis.nested import Diagnoses
from medcore.studies.diagnosis.results import patient_estimates
from medcore.studies.segmentation.cases import IN_ONE, predict_cases, score_predictions
from medcore.studies.segmentation.scoring import case_estimates, foreground_rows
from medcore.studies.targets.questions import QUESTIONS
from medcore.training import checkpoint
from medcore.training.manifest import decode_options
from medcore.training.seen import Seen

METRICS = ("balanced_accuracy", "accuracy", "auroc")


@dataclass(frozen=True)
class Judgement:
    """What a frozen model says of a labelled cohort.

    Attributes:
        estimates: Headline first, with intervals over patients.
        patches: The images that were judged.
        scores: One case each: images, or patients of a diagnosis; None for segmentation.
        decision: Class of each case, by the frozen rule. **Shape** ``(N,)`` int64.
        probability: The same cases with probabilities, where the score is none.
        table: A row per case (image, patient) with what was said of it.
        predicted: Masks, of a segmentation.
    """

    estimates: list[Estimate]
    patches: PatchSet
    scores: Scores | None = None
    decision: np.ndarray | None = None
    probability: Scores | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    predicted: list[np.ndarray] = field(default_factory=list)


class Frozen(ABC):
    """What all tasks share; see the subclasses.

    Attributes:
        path: The folder.
        manifest: Everything it says of itself.
        seen: What the model was trained and chosen on.
    """

    task: ClassVar[str]
    path: Path
    manifest: dict[str, Any]
    seen: Seen

    @property
    def development(self) -> dict[str, Any]:
        """The results, the data and the case mix of the study that the folder comes from; empty where none is told."""
        return dict(self.manifest.get("extra", {}).get("development", {}))

    def read(self, source: str, *, on_error: str = "raise") -> PatchSet:
        """A cohort whose files become pixels as those of the training did."""
        return read_as_trained(self.manifest, source, on_error=on_error)

    @abstractmethod
    def labelled(self, patches: PatchSet) -> PatchSet:
        """The images of a cohort whose truth is known, perhaps none.

        Raises:
            MedcoreError: Its classes are not those of the model.
        """

    @abstractmethod
    def evaluate(self, patches: PatchSet) -> Judgement:
        """The model on the labelled images of a cohort; nothing is chosen on them.

        Raises:
            MedcoreError: Nothing is labelled, or the classes differ.
        """

    def _checked(self, patches: PatchSet) -> PatchSet:
        known = self.labelled(patches)
        if not len(known):
            raise MedcoreError(f"set {patches.card.name!r} has nothing labelled; medcore predict needs no labels")
        return known


def same_classes(patches: PatchSet, classes: Sequence[str]) -> None:
    """Refuse a set of other classes.

    Raises:
        MedcoreError: They differ.
    """
    if list(patches.classes) != list(classes):
        if patches.card.task == "regression":
            raise MedcoreError(
                f"the set holds {patches.classes[0]!r}, and the model answers {classes[0]!r}: if that is the same "
                f"measure in the same unit, rename the column of the table to {classes[0]!r}"
            )
        raise MedcoreError(
            f"the set's classes {', '.join(patches.classes)} are not the checkpoint's {', '.join(classes)}; "
            "rename the folders or labels, or fine-tune the model on the new classes"
        )


def in_order(patches: PatchSet, classes: Sequence[str]) -> PatchSet:
    """A set with its labels numbered as a model numbers its classes; some of these may have no image.

    Raises:
        MedcoreError: The set has a class that the model does not know.
    """
    if list(patches.classes) == list(classes):
        return patches
    present = np.unique(patches.label_names).tolist()
    if set(present) - set(classes):
        same_classes(patches, classes)
    place = np.array([list(classes).index(name) for name in patches.label_names], dtype=np.int64)
    abnormal = [name for name in patches.card.abnormal if name in classes]
    card = replace(patches.card, classes=list(classes), abnormal=abnormal)
    return patches.with_card(card).with_columns(label=place)


class FrozenClassifier(Predictor, Frozen):
    """A classifier: calibrated probabilities, abstention rule, conformal sets."""

    task = "classification"

    def __init__(self, folder: Path, device: str | None = None) -> None:
        super().__init__(checkpoint.load_checkpoint(folder), device)

    def labelled(self, patches: PatchSet) -> PatchSet:
        """See ``Frozen``."""
        known = patches.select(patches.labels >= 0)
        return in_order(known, self.classes) if len(known) else known

    def evaluate(self, patches: PatchSet) -> Judgement:
        """See ``Frozen``; accuracy, AUROC and calibration of the calibrated probabilities."""
        known = self._checked(patches)
        scores = Scores.from_set(known, self.probabilities(known))
        names = [*METRICS, "f1"] if len(scores.classes) == 2 else METRICS
        estimates = [interval(scores, name) for name in names] + calibration_estimates(scores)
        said = np.array(self.classes)[scores.predicted]
        table = known.table.assign(answer=said, confidence=scores.score.max(1))
        return Judgement(estimates, known, scores, scores.predicted, scores, table)


class FrozenTargets(Predictor, Frozen):
    """A network for several findings, a grade or a measured value an image."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        super().__init__(checkpoint.load_checkpoint(folder), device)

    def labelled(self, patches: PatchSet) -> PatchSet:
        """See ``Frozen``; an image counts where its answer is known, of several findings at least one."""
        if patches.card.task != self.task:
            raise MedcoreError(f"set {patches.card.name!r} is made for {patches.card.task}, the model for {self.task}")
        same_classes(patches, self.classes)
        return QUESTIONS[self.task].labelled(patches)

    def evaluate(self, patches: PatchSet) -> Judgement:
        """See ``Frozen``; the metrics of the task, of findings with the decisions at their thresholds."""
        known, question = self._checked(patches), QUESTIONS[self.task]
        said = self.probabilities(known)
        limits = {} if self.thresholds is None else dict(zip(self.classes, self.thresholds.tolist(), strict=True))
        cases = question.cases(known, said)
        estimates = [*question.estimates(cases, limits), *question.calibration(cases)]
        columns = {f"p {name}" if question.stated else f"stated {name}": said[:, k] for k, name in
                   enumerate(self.classes)}  # fmt: skip
        return Judgement(estimates, known, table=known.table.assign(**columns))


class FrozenFindings(FrozenTargets):
    """A classifier of several findings an image."""

    task = "findings"


class FrozenGrades(FrozenTargets):
    """A classifier of ordered grades."""

    task = "ordinal"


class FrozenValues(FrozenTargets):
    """A network that states a measured value."""

    task = "regression"


class FrozenDetector(Detector, Frozen):
    """An autoencoder or VAE as a detector: its score, its threshold, its probability."""

    task = "anomaly"

    def __init__(self, folder: Path, device: str | None = None) -> None:
        super().__init__(checkpoint.load_checkpoint(folder), device)

    def labelled(self, patches: PatchSet) -> PatchSet:
        """See ``Frozen``."""
        return patches.select(patches.labels >= 0)

    def evaluate(self, patches: PatchSet) -> Judgement:
        """See ``Frozen``; AUROC, the decisions at the frozen threshold, and calibration."""
        known, scores = self.cases(self._checked(patches))
        decision, stated = self.point.apply(scores), replace(scores, score=self.curve.apply(scores.score))
        estimates = [*detector_estimates(scores, self.point), *calibration_estimates(stated)]
        table = known.table.assign(score=scores.score, probability=stated.score, decision=decision)
        return Judgement(estimates, known, scores, decision, stated, table)


class FrozenSegmenter(Frozen):
    """A segmentation network with its size, tiles and turns."""

    task = "segmentation"

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.segmenter = load_segmenter(folder, device=device)
        self.path, self.manifest = folder, checkpoint.read_manifest(folder)
        self.seen = Seen.of(self.manifest)

    @property
    def classes(self) -> list[str]:
        """Class names, background first."""
        return self.segmenter.classes

    def read(self, source: str, *, on_error: str = "raise") -> PatchSet:
        """A cohort at its own size, decoded as in training: images of several sizes are padded, nothing is scaled."""
        return read_set(source, on_error=on_error, **decode_options(self.manifest["preprocessing"]).to_dict())

    def labelled(self, patches: PatchSet) -> PatchSet:
        """See ``Frozen``."""
        if not patches.has_masks:
            return patches.select([])
        same_classes(patches, self.classes)
        return patches

    def factor(self, pixel_size_um: float | None) -> float:
        """Size that the network sees as a share of images with this pixel size: it sees micrometres alike."""
        trained = self.segmenter.pixel_size_um
        return self.segmenter.factor * (pixel_size_um / trained if pixel_size_um and trained else 1.0)

    def masks(self, patches: PatchSet) -> list[np.ndarray]:
        """Classes of every image of a set at its own size, each **Shape** ``(h, w)`` uint8."""
        factor, window = self.factor(patches.card.pixel_size_um), self.segmenter.window
        return predict_cases(self.segmenter.model, patches, factor=factor, window=window)

    def predict(self, images: PatchSet | np.ndarray | str | Path | Sequence[str | Path]) -> Iterator[np.ndarray]:
        """The classes of every pixel of a set, of arrays ``(N, H, W, C)`` or of files, an image at a time."""
        segmenter = self.segmenter
        if isinstance(images, PatchSet):
            yield from self.masks(images)
            return
        channels = segmenter.model.spec["args"]["in_channels"]
        pixels = images if isinstance(images, np.ndarray) else (
            as_channels(decode(path, decode_options(self.manifest["preprocessing"])), channels).pixels
            for path in find_images(images)
        )  # fmt: skip
        for one in pixels:
            found = at_scale(
                lambda seen: predict_image(
                    segmenter.model, seen, segmenter.window, whole=seen.shape[0] * seen.shape[1] <= IN_ONE
                ),
                one, segmenter.factor,
            )  # fmt: skip
            yield found.argmax(0).astype(np.uint8)

    def evaluate(self, patches: PatchSet) -> Judgement:
        """See ``Frozen``; Dice, NSD, HD95 … of every case, means over patients."""
        known = self._checked(patches)
        predicted = self.masks(known)
        facts = self.manifest["extra"].get("segmentation", {})
        alike = bool(known.card.pixel_size_um) == bool(facts.get("pixel_size_um"))
        table = score_predictions(known, predicted, tolerance=facts.get("tolerance") if alike else None)
        estimates = case_estimates(table, split="+".join(np.unique(known.splits)) or "unmarked")
        rows = foreground_rows(table)[["case", "patient", "dice", "nsd"]].reset_index(drop=True)
        return Judgement(estimates, known, table=rows, predicted=predicted)


class FrozenDiagnosis(Frozen):
    """The whole chain from windows to patients."""

    task = "diagnosis"

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.chain = DiagnosisModel.load(folder)
        self.path, self.manifest = folder, self.chain.manifest
        self.seen = Seen.of(self.manifest)

    @property
    def classes(self) -> list[str]:
        """``healthy`` and ``infected``."""
        return list(PATIENT_CLASSES)

    def predict(self, images: PatchSet | str | Path, *, on_error: str = "raise") -> pd.DataFrame:
        """A row per patient; see ``DiagnosisModel.diagnose``. No diagnosis is looked at."""
        patches = images if isinstance(images, PatchSet) else self.read(str(images), on_error=on_error)
        known = self.seen.patients(patches)
        seen = np.unique(patches.patients[known])
        table = self.chain.diagnose(patches)
        return table.assign(seen_in_training=np.isin(table["patient"].to_numpy(dtype=str), seen))

    def labelled(self, patches: PatchSet) -> PatchSet:
        """The windows of patients with a diagnosis."""
        if "diagnosis" not in patches.columns:
            return patches.select([])
        named = patches.column("diagnosis").astype(str)
        strange = sorted(set(named.tolist()) - {"", "nan", *self.manifest["levels"]})
        if strange:
            raise MedcoreError(
                f"set {patches.card.name!r}: diagnosis {strange[0]!r} is none of {', '.join(self.manifest['levels'])}; "
                "rename it, or leave it empty where it is not known"
            )
        return patches.select(np.isin(named, self.manifest["levels"]))

    def evaluate(self, patches: PatchSet) -> Judgement:
        """See ``Frozen``; AUROC, the decisions at the frozen threshold, density and calibration of patients."""
        known, levels = self._checked(patches), list(self.manifest["levels"])
        table = self.chain.diagnose(known)
        twice = known.table[["patient", "diagnosis"]].drop_duplicates()
        if twice["patient"].duplicated().any():
            name = twice.loc[twice["patient"].duplicated(), "patient"].iloc[0]
            raise MedcoreError(f"patient {name!r} has two diagnoses; correct the table")
        said = dict(zip(twice["patient"], twice["diagnosis"], strict=True))
        level = np.array([levels.index(said[name]) for name in table["patient"]])
        table.insert(1, "diagnosis", np.array(levels)[level])
        table = table.assign(true_level=level, truth=(level > 0).astype(np.int64))
        found = Diagnoses(table, (self.chain.rule,), "test")
        stated = found.scores()
        estimates = [*patient_estimates(found, levels=len(levels)), *calibration_estimates(stated)]
        return Judgement(estimates, known, found.scores("score"), table["decision"].to_numpy(), stated, table)


KINDS: dict[str, Any] = {
    kind.task: kind
    for kind in (
        FrozenClassifier,
        FrozenFindings,
        FrozenGrades,
        FrozenValues,
        FrozenDetector,
        FrozenSegmenter,
        FrozenDiagnosis,
    )
}
