"""Several classifiers, or several views of an image, as one predictor whose probabilities are the mean.

    predictor = load_ensemble(["runs/seed-0", "runs/seed-1"], turned=True)    # or one run of folds
    for batch in predictor.predict("new_images/"):
        batch.labels, batch.disagreement
    ensemble_gain(predictor, first, patches)            # beside the first network alone, on the same cases

- Each member's probabilities are calibrated by its own temperature before the mean; the mean is less confident, so the
  rules for not answering and the sets that one network brings along do not hold for it and are left out.
- Views are the flips and quarter turns that the training showed the network, no others.
- An image counts as seen where any member saw it: networks of folds have together seen every patient.

**Reference** Lakshminarayanan, Pritzel & Blundell 2017, arXiv:1612.01474 (deep ensembles); Depeweg et al. 2018,
arXiv:1710.07283 (mutual information).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.predict import place_model
from medcore.evaluation.predictor import Predictions, Predictor, load_predictor
from medcore.training.augment.recipe import as_augment
from medcore.training.seen import Seen

if TYPE_CHECKING:
    from medcore.evaluation.estimate import Estimate
    from medcore.evaluation.scores import Scores


@dataclass
class JointPredictions(Predictions):
    """Answers of several networks or views.

    Attributes:
        disagreement: Mutual information of answer and member in nats: 0 where all say the same, at most log K.
            **Shape** ``(n,)``.
    """

    disagreement: np.ndarray = field(default_factory=lambda: np.zeros(0))


class Ensemble(Predictor):
    """A predictor that answers with the mean over members and views.

    Args:
        members: Classifiers of the same classes for images of the same kind; the first says how unlike images are.
        turned: Also take the mean over the flips and quarter turns of the first one's training.

    Raises:
        MedcoreError: Members do not fit together, or were trained without flips and turns.
    """

    def __init__(self, members: Sequence[Predictor], *, turned: bool = False) -> None:
        first = members[0]
        vars(self).update(vars(first))
        for name in ("classes", "image_shape", "preprocessing", "task"):
            for other in members[1:]:
                if other.manifest.get(name) != first.manifest.get(name):
                    raise MedcoreError(
                        f"{other.path} and {first.path} differ in {name} ({other.manifest.get(name)} and "
                        f"{first.manifest.get(name)}): their answers cannot be averaged"
                    )
        self.members = list(members)
        self.seen = Seen(tuple(training for one in members for training in one.seen.trainings))
        self.views = views_of(first.manifest) if turned else [0]
        if turned and len(self.views) == 1:
            raise MedcoreError(f"{first.path} was trained without flips or turns: there are no views to average over")
        for other in self.members[1:]:
            place_model(other.model, self.device, self._precision)

    def _answer(self, images: Tensor) -> Tensor:
        """Mean probabilities, the first one's distance, disagreement. **Shape** ``(B, C, H, W) -> (B, K + 2)``."""
        from medcore.evaluation.sliding import turn  # brings the segmentation networks

        said = torch.stack([one._answer(turn(images, view)) for one in self.members for view in self.views])
        mean = said[..., :-1].mean(dim=0)
        entropy = torch.special.entr(said[..., :-1]).sum(dim=-1).mean(dim=0)
        apart = (torch.special.entr(mean).sum(dim=-1) - entropy).clamp_min(0)
        return torch.cat([mean, said[0, :, -1:], apart[:, None]], dim=1)

    def _predictions(
        self, names: list[str], values: np.ndarray, pixels: np.ndarray, problems: list[tuple[str, str]]
    ) -> JointPredictions:
        values = values if len(names) else np.zeros((0, len(self.classes) + 2), np.float32)
        found = replace(super()._predictions(names, values[:, :-1], pixels, problems), answered=None, plausible=None)
        return JointPredictions(**vars(found), disagreement=values[:, -1])


def views_of(manifest: dict[str, Any]) -> list[int]:
    """The symmetries of a square that a training showed its network, as numbers of ``sliding.turn``; 0 is none."""
    recipe = as_augment(manifest["config"].get("augment"))
    if recipe is None:
        return [0]
    height, width, _ = manifest["image_shape"]
    flips = {0} | ({4} if recipe.flip_horizontal else set()) | ({6} if recipe.flip_vertical else set())
    turns = set(range(4) if height == width else (0, 2)) if recipe.turns else {0}
    turns |= {2} if recipe.flip_horizontal and recipe.flip_vertical else set()
    return sorted({4 * (flip // 4) + (flip + quarter) % 4 for flip in flips for quarter in turns})


def load_ensemble(
    paths: Sequence[str | PathLike[str]], *, turned: bool = False, device: str | None = None
) -> Predictor:
    """The classifiers of some folders as one predictor; a run of folds stands for its networks.

    Args:
        paths: Runs, model folders or checkpoints.
        turned: Also average over flips and quarter turns.
        device: ``cpu``, ``cuda``, ``mps``; None stays on the CPU.

    Raises:
        MedcoreError: Nothing is there, or it is no classifier of one class an image, or members do not fit together.
    """
    members = [load_predictor(folder, device=device) for path in paths for folder in members_of(path)]
    odd = [one for one in members if one.manifest.get("task", "classification") != "classification"]
    if odd and (len(members) > 1 or turned):
        raise MedcoreError(f"{odd[0].path} answers {odd[0].manifest['task']}: only single classes are averaged")
    return Ensemble(members, turned=turned) if len(members) > 1 or turned else members[0]


def members_of(path: str | PathLike[str]) -> list[Path]:
    """The folders of the networks that a path means: those of a run of ``--folds``, else the path itself."""
    return sorted(Path(path).glob("fold-[0-9]*"), key=lambda one: (len(one.name), one.name)) or [Path(path)]


def ensemble_gain(
    ensemble: Predictor, first: Scores, patches: PatchSet, metrics: Sequence[str] = ("balanced_accuracy", "auroc")
) -> list[tuple[Estimate, Estimate]]:
    """Each metric of an ensemble, and its gain over the first network alone, paired over the same patients.

    Args:
        first: What that network says of the same labelled images.
    """
    from medcore.evaluation.intervals import interval, paired_difference  # not needed to predict
    from medcore.evaluation.scores import Scores

    both = Scores.from_set(patches, ensemble.probabilities(patches))
    return [(interval(both, name), paired_difference(both, first, name)) for name in metrics]
