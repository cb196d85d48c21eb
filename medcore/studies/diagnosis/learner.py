"""Window scores that are learnt, and always without the patients who are scored by them.

    learner = WindowLearner(patches, cohort, choices, specks=speck_features(patches))
    diagnose_windows(cohort, choices, learn=learner)             # trains what each fold needs
    diagnose_patients(cohort, learner.attention(), choices)      # ABMIL over features of the autoencoder's encoder

- An autoencoder learns healthy windows, and what it cannot reconstruct is suspicious. Where there are enough healthy
  patients who are not diagnosed, it learns from these alone, and one serves every fold. Else it learns from the windows
  of healthy patients and those annotated negative, anew for whomever it must not see.
- A forest learns from the annotated windows which brown specks are bacteria.
- Scores that learn nothing (``brown_peak``) are passed through, so that they stand to choose, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.predict import stream
from medcore.models.autoencoder import ConvAutoencoder
from medcore.studies.anomaly.scores import PIXEL_MAPS, error_map
from medcore.studies.diagnosis.choices import DEFAULT, DiagnosisChoices
from medcore.studies.diagnosis.cohort import Cohort
from medcore.studies.diagnosis.nested import LearnPatients
from medcore.studies.diagnosis.specks import fit_forest
from medcore.training.config import TrainConfig
from medcore.training.mil import MILConfig, fit_mil, predict_mil
from medcore.training.objectives import Reconstruction
from medcore.training.reuse import Trained, fit_or_reuse

FOREST = "shape of brown specks"
ERRORS = {"ssim": "autoencoder: 1 − SSIM", "dab": "autoencoder: lost brown"}


class WindowLearner:
    """Scores and features of a cohort's windows by models that have not seen the excluded patients; each trained once.

    Args:
        patches: The set that the cohort was made from, with a ``diagnosis`` column; smaller pictures of the same rows
            serve as well, and train faster.
        cohort: Windows to score; ``cohort.rows`` are rows of ``patches``. Its own scores are passed through.
        choices: How autoencoders are trained, and whether.
        specks: Descriptions of all windows of ``patches`` (``specks.speck_features``) for the forest; None for no
            forest. **Shape** ``(len(patches), F)``.
        bystanders: Windows of healthy patients who are not diagnosed (``windows.bystanders``), of the same shape;
            when they are enough, autoencoders learn from them alone.
    """

    def __init__(
        self,
        patches: PatchSet,
        cohort: Cohort,
        choices: DiagnosisChoices = DEFAULT,
        *,
        specks: np.ndarray | None = None,
        bystanders: PatchSet | None = None,
        progress: bool = False,
    ) -> None:
        if specks is not None and len(specks) != len(patches):
            raise MedcoreError(f"WindowLearner: {len(specks)} descriptions of specks for {len(patches)} windows")
        self.patches, self.cohort, self.choices, self.progress = patches, cohort, choices, progress
        self.specks = None if specks is None else specks[cohort.rows]
        enough = bystanders is not None and (
            len(bystanders) >= choices.fewest_other_windows
            and len(np.unique(bystanders.patients)) >= choices.fewest_other_patients
        )
        self.bystanders = bystanders if enough else None
        if self.bystanders is not None:
            _refuse_diagnosed(self.bystanders, cohort)
        self.trained: dict[bytes, Trained] = {}
        self.known: dict[bytes, Mapping[str, np.ndarray]] = {}
        self.passed: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def without_autoencoder(self) -> WindowLearner:
        """The same learner with the scores that are learnt in no time."""
        light = copy(self)
        light.choices, light.known = replace(self.choices, autoencoder=False), {}
        return light

    def __call__(self, excluded: np.ndarray) -> Mapping[str, np.ndarray]:
        """Scores of all windows by name. **Shape** ``excluded`` ``(P,)`` bool to each ``(N,)``."""
        key = np.packbits(excluded).tobytes()
        if key not in self.known:
            scores = dict(self.cohort.scores)
            if self.specks is not None:
                scores[FOREST] = self.forest_scores(excluded)
            if self.choices.autoencoder:
                errors, _ = self.judged(excluded)
                scores |= {name: errors[:, number] for number, name in enumerate(ERRORS.values())}
            self.known[key] = scores
        return self.known[key]

    def judged(self, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Errors of the autoencoder on every window of the cohort and its encoder's peaks, in one pass.

        **Shape** ``(P,)`` bool to ``(N, 2)`` float64 in the order of ``ERRORS`` and ``(N, D)`` float32.
        """
        key = self._whom(excluded)
        if key not in self.passed:
            model: Any = self.autoencoder(excluded).model
            stages = self.choices.attention_stages

            def judge(pictures: torch.Tensor) -> torch.Tensor:
                codes, peaks = encode_with_peaks(model, pictures, stages)
                reconstructed = model.decode(codes).float()
                errors = [PIXEL_MAPS[kind](pictures.float(), reconstructed).mean((1, 2)) for kind in ERRORS]
                return torch.cat([torch.stack(errors, 1), peaks.float()], 1)

            found = stream(judge, self.patches.select(self.cohort.rows), model=model, precision="auto")
            self.passed[key] = found[:, : len(ERRORS)].astype(np.float64), found[:, len(ERRORS) :]
        return self.passed[key]

    def forest_scores(self, excluded: np.ndarray) -> np.ndarray:
        """Probability that a window is positive, by a forest of the other patients' annotated windows. ``(N,)``."""
        assert self.specks is not None
        taught = ~excluded[self.cohort.owner] & (self.cohort.label >= 0)
        forest = fit_forest(self.specks[taught], self.cohort.label[taught], seed=self.choices.seed)
        return forest.predict_proba(self.specks)[:, 1]

    def autoencoder(self, excluded: np.ndarray) -> Trained:
        """The autoencoder of the healthy windows of the other patients, trained now or found.

        Raises:
            MedcoreError: There are too few healthy windows, or of one patient only.
        """
        key, choices = self._whom(excluded), self.choices
        if key not in self.trained:
            train, validation = self.healthy_parts(excluded)
            spec = ConvAutoencoder(self.patches.shape[:2], self.patches.shape[2], choices.bottleneck).spec
            config = TrainConfig(
                epochs=choices.epochs, batch_size=min(choices.batch_size, len(train)), schedule="one-cycle",
                learning_rate=choices.learning_rate, seed=choices.seed, device=choices.device,
            )  # fmt: skip
            self.trained[key] = fit_or_reuse(
                spec, Reconstruction("mse"), train, validation, config, retrain=choices.retrain, progress=self.progress
            )
        return self.trained[key]

    def _whom(self, excluded: np.ndarray) -> bytes:
        """A key of whom the autoencoder must not see; bystanders' autoencoders have seen nobody in any case."""
        return b"" if self.bystanders is not None else np.packbits(excluded).tobytes()

    def healthy_parts(self, excluded: np.ndarray) -> tuple[PatchSet, PatchSet]:
        """Healthy windows to learn from, and those of some patients to pick the epoch.

        None is of an excluded or of a HoldOut patient.
        """
        healthy = self.bystanders if self.bystanders is not None else self._healthy(excluded)
        generator = np.random.default_rng(self.choices.seed)
        names = np.unique(healthy.patients)
        rows = evenly(np.arange(len(healthy)), healthy.patients, self.choices.most_windows, generator)
        chosen = healthy.select(rows)
        watched = max(1, int(len(names) * self.choices.monitor_share))
        held = np.isin(chosen.patients, generator.permutation(names)[:watched])
        parts = chosen.select(~held), chosen.select(held)
        return parts[0].with_split(["train"] * len(parts[0])), parts[1].with_split(["val"] * len(parts[1]))

    def _healthy(self, excluded: np.ndarray) -> PatchSet:
        patches, forbidden = self.patches, self.cohort.names[excluded]
        allowed = ~np.isin(patches.patients, forbidden) & (patches.splits != "test")
        well = patches.column("diagnosis") == self.cohort.levels[0]
        healthy = patches.select(allowed & (patches.labels != 1) & (well | (patches.labels == 0)))
        names = np.unique(healthy.patients)
        if len(healthy) < self.choices.fewest_healthy_windows or len(names) < 2:
            raise MedcoreError(
                f"autoencoder: {len(healthy)} healthy windows of {len(names)} patients are left to learn from; at "
                f"least {self.choices.fewest_healthy_windows} of 2 patients are needed: use fewer folds, or add "
                "windows of healthy patients"
            )
        return healthy

    def error_maps(self, rows: np.ndarray, excluded: np.ndarray, kind: str = "ssim") -> np.ndarray:
        """What the autoencoder without the excluded patients cannot reconstruct in some windows of ``patches``.

        **Shape** ``(n,)`` and ``(P,)`` bool to ``(n, H, W)`` float32; ``kind`` as for ``anomaly.scores.error_map``.
        """
        model = self.autoencoder(excluded).model
        return stream(lambda images: error_map(model, images, kind), self.patches.select(rows), model=model)

    def reconstruct(self, rows: np.ndarray, excluded: np.ndarray) -> np.ndarray:
        """Some windows of ``patches`` as the autoencoder without the excluded patients reconstructs them.

        **Shape** ``(n,)`` and ``(P,)`` bool to ``(n, H, W, C)`` uint8.
        """
        model = self.autoencoder(excluded).model
        pictures = stream(model, self.patches.select(rows), model=model)
        return (pictures.transpose(0, 2, 3, 1) * 255 + 0.5).astype(np.uint8)

    def attention(self, config: MILConfig | None = None, *, features: np.ndarray | None = None) -> LearnPatients:
        """Patient scores by ABMIL, for ``diagnose_patients``.

        Args:
            config: Of the training; by default with the epochs of ``choices``.
            features: Fixed features of the windows, for instance of a pretrained network; None takes the peaks of the
                encoder that has not seen the excluded patients (``encode_with_peaks``). **Shape** ``(N, D)``.
        """
        chosen = replace(config or MILConfig(epochs=self.choices.attention_epochs), seed=self.choices.seed)

        def learn(excluded: np.ndarray) -> np.ndarray:
            known = self.judged(excluded)[1] if features is None else features
            taught, counted = self.cohort.select(~excluded), self.cohort.counted
            shown = known[counted & ~excluded[self.cohort.owner]]
            model = fit_mil(shown, taught.owner[taught.counted], taught.truth, chosen)
            return predict_mil(model, known[counted], self.cohort.owner[counted], len(self.cohort))[0]

        return learn


def encode_with_peaks(model: Any, pictures: torch.Tensor, stages: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of a ``ConvAutoencoder``, and the strongest response anywhere of each filter of its first stages.

    A bacterium covers a few pixels: what sees it is early in the encoder, and it never reaches the bottleneck.

    **Shape** ``(B, C, H, W)`` in 0 to 1 to ``(B, Z)`` and ``(B, D)``.
    """
    maps, peaks = model.encoder.normalise(pictures), []
    for number, stage in enumerate(model.encoder.stages):
        maps = stage(maps)
        if number < stages:
            peaks.append(maps.amax((2, 3)))
    return model.to_codes(maps.flatten(1)), torch.cat(peaks, 1)


def _refuse_diagnosed(bystanders: PatchSet, cohort: Cohort) -> None:
    both = np.intersect1d(bystanders.patients, cohort.names)
    if len(both) or (bystanders.splits == "test").any():
        raise MedcoreError(
            f"bystanders: {len(both)} of the patients are diagnosed, too ({', '.join(both[:3])}), or HoldOut; an "
            "autoencoder must not learn from whom it scores: use windows.bystanders"
        )


def evenly(rows: np.ndarray, patient: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """At most ``most`` rows, sorted, so that patients with few windows keep them all and the others give like many."""
    if len(rows) <= most:
        return rows
    order = generator.permutation(len(rows))
    turn = np.empty(len(rows), dtype=np.int64)  # a row's rank among the windows of its patient
    for name in np.unique(patient):
        own = order[patient[order] == name]
        turn[own] = np.arange(len(own))
    return np.sort(rows[np.lexsort((np.argsort(order), turn))[:most]])
