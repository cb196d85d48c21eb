"""A small model of the first phantom hospital, for who has none yet: what notebook 07 starts from by default."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from medcore.evaluation.calibration import calibration_estimates, fit_temperature
from medcore.evaluation.features import Familiarity
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.studies.classification import ClassificationStudy
from medcore.studies.validation.mix import describe_mix
from medcore.training import checkpoint
from medcore.training.fit import fit

HOME = "phantom-crc"


def example_model(
    folder: Path, *, augment: str, epochs: int, size: int, limit: int | None, seed: int = 0, device: str = "cpu"
) -> Path:
    """Train a small classifier on ``phantom-crc`` and leave it as a model folder.

    Args:
        folder: Where the training writes; the model stands in ``folder / "model"``.
        augment: Recipe of the augmentation, as ``tissue`` (stain varies) or ``flips`` (it does not).
        size: Side of the images, pixels.
        limit: Images of the set, at most.
    """
    for earlier in (checkpoint.PUBLISHED, "checkpoints"):  # of a run of the same cells in JupyterLab
        shutil.rmtree(folder / earlier, ignore_errors=True)
    study = ClassificationStudy.read(HOME, limit=limit, seed=seed, size=size)
    torch.manual_seed(seed)
    network = study.build("small_cnn")
    config = study.config(augment, pretrained=False, epochs=epochs, learning_rate=2e-3, device=device)
    fit(network, study.objective, study.train, study.validation, config, out=folder, progress=False, resume=True)
    network = checkpoint.load_checkpoint(folder).model  # type: ignore[assignment]
    said = study.score(network, study.validation)
    logs = Scores.from_set(study.validation, np.log(np.maximum(said.score, 1e-12)))
    temperature = fit_temperature(logs).value
    scores = study.score(network, study.test, temperature=temperature)
    estimates = [interval(scores, name) for name in study.choices.metrics] + calibration_estimates(scores)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"notebook": "07_external_validation", "started": now, "data": HOME, "mix": describe_mix(study.patches),
            "estimates": [one.as_dict() for one in estimates]}  # fmt: skip
    familiar = Familiarity.learn(network, study.train, study.validation).as_dict()
    target = folder / checkpoint.PUBLISHED
    return checkpoint.publish(folder, target, temperature=temperature, familiarity=familiar, development=told)
