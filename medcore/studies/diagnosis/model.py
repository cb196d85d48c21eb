"""The whole chain of a diagnosis as one model folder: windows → window score → patient score → decision.

    model = chain_of(study)                      # everything chosen on the development patients
    model.save(run.folder / "model")
    model = DiagnosisModel.load(folder)          # hash-verified, no pickle, no code
    model.diagnose(windows)                      # a row per patient

The folder holds ``manifest.json`` (rule, levels, how files become pixels, what was seen), ``model.safetensors`` (the
forest, where one decides) and ``network/`` (the autoencoder as an ordinary checkpoint, where one decides). No truth of
a patient is looked at: a cohort is scored as if everybody were healthy, and is joined with its diagnoses afterwards.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from sys import float_info
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from safetensors.torch import save as save_tensors
from torch import nn

import medcore
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.predict import place_model, stream
from medcore.metrics.stain_scores import brown_peak, red_share, score_windows
from medcore.models.sealed import MANIFEST, MODEL, jsonable, read_sealed, read_tensors, seal
from medcore.studies.anomaly.scores import PIXEL_MAPS
from medcore.studies.diagnosis.aggregation import AGGREGATIONS
from medcore.studies.diagnosis.choices import EVIDENCE, PEAK, RED
from medcore.studies.diagnosis.cohort import Cohort
from medcore.studies.diagnosis.forest import Forest
from medcore.studies.diagnosis.learner import ERRORS, FOREST
from medcore.studies.diagnosis.rule import DiagnosisRule, choose_diagnosis
from medcore.studies.diagnosis.specks import fit_forest, speck_features
from medcore.studies.diagnosis.study import DiagnosisStudy
from medcore.studies.diagnosis.windows import smaller, speaking_set
from medcore.training import checkpoint
from medcore.training.manifest import FORMAT, Hash, Strict, TrainingData, preprocessing_of
from medcore.training.seen import describe_sides

TASK, NETWORK = "diagnosis", "network"
MOST_NODES = 1 << 28  # bytes of a forest
KNOWN = (RED, PEAK, FOREST, *ERRORS.values())
SUSPICIOUS = 3  # windows that are named for each patient


class ChainFiles(Strict):
    """The sha256 of every file of the folder."""

    model: Hash = Field(alias="model.safetensors")
    network: Hash | None = Field(default=None, alias="network/manifest.json")
    card: Hash | None = Field(default=None, alias="MODEL_CARD.md")
    page: Hash | None = Field(default=None, alias="MODEL_CARD.html")


class ChainManifest(Strict):
    """``manifest.json`` of a diagnosis; ``rule`` is checked by its own types."""

    format: Annotated[int, Field(ge=1, le=FORMAT)]
    medcore: str
    task: Literal["diagnosis"]
    classes: list[str]
    levels: Annotated[list[str], Field(min_length=2, max_length=20)]
    image_shape: Annotated[list[Annotated[int, Field(ge=1, le=65536)]], Field(min_length=3, max_length=3)]
    preprocessing: dict[str, JsonValue]
    windows: Literal["all", "Annotated", "Cropped"]
    size: Annotated[int, Field(ge=8, le=4096)]
    precision: str
    estimate: str
    rule: dict[str, JsonValue]
    data: TrainingData
    extra: dict[str, JsonValue] = {}
    sha256: ChainFiles
    manifest_sha256: Hash


@dataclass(frozen=True)
class DiagnosisModel:
    """A chain that never changes when it is applied.

    Attributes:
        rule: Window threshold, aggregation, patient threshold, probability, density cuts.
        manifest: Everything else the folder says of itself.
        forest: Where the shape of brown specks decides.
        network: Where an autoencoder's error decides, in evaluation mode.
        path: The folder it came from.
    """

    rule: DiagnosisRule
    manifest: dict[str, Any]
    forest: Forest | None = None
    network: nn.Module | None = None
    path: Path = Path()

    # --- applied --------------------------------------------------------------------------------------------------

    def window_scores(self, patches: PatchSet) -> np.ndarray:
        """The score that decides, of every window. **Shape** ``(N,)`` float64."""
        name = self.rule.window.score
        if name in (RED, PEAK):
            return score_windows(patches, red_share if name == RED else brown_peak)
        if self.forest is not None:
            return self.forest.probability(speck_features(patches))
        model: Any = self.network
        kind = next(kind for kind, title in ERRORS.items() if title == name)

        def error(pictures: torch.Tensor) -> torch.Tensor:
            return PIXEL_MAPS[kind](pictures.float(), model(pictures).float()).mean((1, 2))

        small = smaller(patches, int(self.manifest["size"]))
        return stream(error, small, model=model, precision=self.manifest["precision"]).astype(np.float64)

    def cohort(self, patches: PatchSet) -> Cohort:
        """The counted windows with their score; every patient stands as healthy, whatever is known of them."""
        windows = counted_windows(patches, self.manifest["windows"])
        names = np.unique(windows.patients)
        healthy = dict.fromkeys(names.tolist(), self.manifest["levels"][0])
        scores = {self.rule.window.score: self.window_scores(windows)}
        return Cohort.from_set(windows, scores, diagnoses=healthy, levels=self.manifest["levels"])

    def diagnose(self, patches: PatchSet) -> pd.DataFrame:
        """Every patient of a set.

        Returns:
            Columns ``patient, windows, positive_windows, score, probability, decision`` (0 or 1), ``margin, level``,
            and ``suspicious``: source files of the three windows with the highest score.

        Raises:
            MedcoreError: There is no window, or the images have another shape.
        """
        if list(patches.shape) != list(self.manifest["image_shape"]):
            raise MedcoreError(
                f"windows have the shape {patches.shape}, but the chain was made for "
                f"{tuple(self.manifest['image_shape'])}; prepare the set with that size"
            )
        windows = counted_windows(patches, self.manifest["windows"])
        cohort = self.cohort(patches)
        table = self.rule.diagnose(cohort).drop(columns=["diagnosis", "true_level", "truth"])
        source, score = windows.column("source"), cohort.score(self.rule.window.score)
        order = np.lexsort((np.arange(len(score)), -score, cohort.owner))
        first = np.searchsorted(cohort.owner[order], np.arange(len(cohort) + 1))
        named = [source[cohort.rows[order[start : min(stop, start + SUSPICIOUS)]]].tolist()
                 for start, stop in zip(first[:-1], first[1:], strict=True)]  # fmt: skip
        return table.assign(suspicious=named)

    # --- the folder -----------------------------------------------------------------------------------------------

    def save(self, target: Path, network: Path | None = None) -> Path:
        """Write the folder; an older one of this name is replaced.

        Args:
            network: The checkpoint of ``network``.
        """
        temporary = target.with_name(f".writing-{target.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        payload = save_tensors({} if self.forest is None else self.forest.tensors())
        (temporary / MODEL).write_bytes(payload)
        hashes = {MODEL: hashlib.sha256(payload).hexdigest()}
        if network is not None:
            inner = checkpoint.publish(network, temporary / NETWORK)
            hashes[f"{NETWORK}/{MANIFEST}"] = _digest(inner / MANIFEST)
        facts = {"format": FORMAT, "medcore": medcore.__version__, "task": TASK, **self.manifest,
                 "rule": plain_rule(self.rule), "sha256": hashes}  # fmt: skip
        (temporary / MANIFEST).write_bytes(seal(facts))
        checkpoint.discard(target)
        temporary.rename(target)
        return target

    @classmethod
    def load(cls, folder: Path) -> DiagnosisModel:
        """The chain of a folder, every file of it verified.

        Raises:
            MedcoreError: A file is missing or damaged, or a value cannot be right.
        """
        manifest = read_sealed(folder)
        rule = check_chain(manifest, folder)
        hashes = manifest["sha256"]
        tensors = read_tensors(folder / MODEL, hashes[MODEL], MOST_NODES)
        checkpoint.check_files(folder, manifest)
        network = None
        if f"{NETWORK}/{MANIFEST}" in hashes:
            if _digest(folder / NETWORK / MANIFEST) != hashes[f"{NETWORK}/{MANIFEST}"]:
                raise MedcoreError(
                    f"{folder / NETWORK / MANIFEST} is damaged: its sha256 differs; copy the folder anew"
                )
            network = checkpoint.load_checkpoint(folder / NETWORK).model
            checkpoint.verify(folder / NETWORK)
        forest = Forest.from_tensors(tensors) if rule.window.score == FOREST else None
        if (network is not None) != (rule.window.score in ERRORS.values()):
            raise MedcoreError(f"{folder}: window score {rule.window.score!r} and the networks in it do not fit")
        return cls(rule, manifest, forest, network, folder)


def check_chain(manifest: Mapping[str, Any], folder: Path) -> DiagnosisRule:
    """The rule of a manifest that is known to be right.

    Raises:
        MedcoreError: A field is missing, unknown, of the wrong type or out of range.
    """
    path = folder / MANIFEST
    try:
        ChainManifest.model_validate(manifest)
        rule = TypeAdapter(DiagnosisRule).validate_json(json.dumps(manifest["rule"]), strict=True)
    except (ValidationError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, first["loc"])) or "its fields"
        raise MedcoreError(
            f"{path}: {where}: {first['msg']}; it was not written by this version, or was edited"
        ) from None
    known = rule.window.score in KNOWN and rule.aggregation in (EVIDENCE, *AGGREGATIONS)
    if plain_rule(rule) != manifest["rule"] or not known or len(rule.patient.cuts) != len(manifest["levels"]) - 1:
        raise MedcoreError(f"{path}: rule: unknown names or numbers that are not finite; it was edited")
    return rule


def plain_rule(rule: DiagnosisRule) -> dict[str, Any]:
    """The rule as JSON types; a cut that no score reaches is the largest number instead of infinity."""
    facts = asdict(rule)
    facts["evidence"]["cut"] = min(rule.evidence.cut, float_info.max)
    return dict(jsonable(facts))


def counted_windows(patches: PatchSet, kind: str) -> PatchSet:
    """The windows that speak for patients: those of the kind that the rule was made for, and HoldOut.

    A set without a ``set`` column, or without this kind, is taken whole. The answer depends on no diagnosis.
    """
    if kind == "all" or "set" not in patches.columns:
        return patches
    kinds = patches.column("set")
    counted = (kinds == kind) | (kinds == "HoldOut")
    if kind == "Cropped":  # a patient without Cropped windows speaks by the annotated ones
        counted |= (kinds == "Annotated") & ~np.isin(patches.patients, patches.patients[counted])
    return patches.select(counted) if counted.any() else patches


def chain_of(study: DiagnosisStudy) -> tuple[DiagnosisModel, Path | None]:
    """The chain of a study, and the checkpoint of its network where one decides.

    With HoldOut patients it is the very rule that was applied to them. Without, the same choice is made once more on
    all patients, each scored by models without its own fold; the estimate that belongs to it is the nested one.

    Raises:
        MedcoreError: The window score that was chosen is none that a folder can hold.
    """
    tested, development = study.cohort.split == "test", study.development
    if study.has_hold_out:
        rule, estimate = study.ours.rules[0], "the rule as applied to the HoldOut patients"
    else:
        rule, estimate = _rule_of_all(study), "nested folds: the same choice, made in each fold without its patients"
    name, learner = rule.window.score, study.tester
    if name not in KNOWN:
        raise MedcoreError(f"the window score {name!r} cannot be stored; a folder holds one of {', '.join(KNOWN)}")
    forest = network = trained = None
    if name == FOREST:
        assert learner.specks is not None
        taught = ~tested[study.cohort.owner] & (study.cohort.label >= 0)
        forest = Forest.of(fit_forest(learner.specks[taught], study.cohort.label[taught], seed=study.choices.seed))
    if name in ERRORS.values():
        found = learner.autoencoder(tested)
        network, trained = found.model, found.folder
    precision = "fp32" if network is None else str(place_model(network, None, "auto").precision)
    known = study.everything.select(np.isin(study.everything.patients, development.names))
    others = [] if learner.bystanders is None else _bystanders(study)
    facts = {
        "classes": ["healthy", "infected"],
        "levels": list(study.cohort.levels),
        "image_shape": list(study.patches.shape),
        "preprocessing": preprocessing_of(study.patches),
        "windows": speaking_set(study.everything, study.choices),
        "size": study.choices.size,
        "precision": precision.split(" ")[0],
        "estimate": estimate,
        "data": describe_sides(known, known.select([]), others),
        "extra": {},
    }
    return DiagnosisModel(rule, jsonable(facts), forest, network), trained


def _bystanders(study: DiagnosisStudy) -> list[dict[str, Any]]:
    """What the autoencoder learnt from: healthy patients who are not diagnosed."""
    bystanders = study.tester.bystanders
    assert bystanders is not None
    others = study.everything.select(np.isin(study.everything.patients, bystanders.patients))
    sides = describe_sides(others, others.select([]), [])
    return [{key: value for key, value in sides.items() if key != "earlier"}]


def _rule_of_all(study: DiagnosisStudy) -> DiagnosisRule:
    """Everything chosen on all patients, each scored by models that have not seen its fold."""
    cohort, choices = study.development, study.choices
    side = cohort.folds(choices.folds, seed=choices.seed)
    scores: dict[str, np.ndarray] = {}
    for fold in range(choices.folds):
        own = side[cohort.owner] == fold
        for name, values in study.learner(side == fold).items():
            scores.setdefault(name, np.zeros(len(own)))[own] = np.asarray(values)[own]
    return choose_diagnosis(cohort.with_scores(scores), choices)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MedcoreError(f"{path} cannot be read ({error.strerror}); copy the folder anew") from error
