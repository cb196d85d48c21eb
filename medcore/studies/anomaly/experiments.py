"""Short trainings that answer one question each: how wide, which images, which colours, which patients?

    trial = study.trial(Reconstruction("mse"))
    estimates = width_sweep(trial, [4, 16, 64])                  # validation patients
    table = learning_table(trial)                                # which normal images to learn from
    estimates = patient_folds_auroc(trial, patches, k=3)         # every fold's patients judged by a network of its own
    compared = judged_in_folds(patches, normal, ["mel"], choices, k=3)       # everybody, beside a blurred copy

All of them use at most ``most`` normal images and a short budget, so they compare choices with each other; their
values lie below what the whole training reaches. Test cases are never touched, but by ``judged_in_folds``, in which
nothing is chosen on the cases that it judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from medcore.data.load import limit_images
from medcore.data.patchset import PatchSet
from medcore.data.splits import patient_folds
from medcore.errors import MedcoreError
from medcore.evaluation.comparison import Comparison, compare_methods
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.predict import stream
from medcore.evaluation.scores import Scores
from medcore.metrics.similarity import psnr, structure_map
from medcore.models.autoencoder import choose_widths
from medcore.studies.anomaly.candidates import Blur, fit_linear, why_not
from medcore.studies.anomaly.choices import AnomalyChoices
from medcore.studies.anomaly.detection import Sides, abnormal_scores, detection_sides, healthy_patients
from medcore.studies.anomaly.scores import PIXEL_MAPS, RankEnsemble, score_set, scores_of_kinds
from medcore.training.augment.apply import to_float
from medcore.training.config import TrainConfig
from medcore.training.objectives import Objective
from medcore.training.reuse import fit_or_reuse

BLURRED, MEAN_RANK, NETWORK = "blurred copy", "mean rank of three without a network", "network"


@dataclass(frozen=True)
class Trial:
    """What all short trainings of a study share.

    Attributes:
        sides: Who learns and who is judged.
        spec: Of the network.
        objective: What it minimises.
        config: Of the short training.
        kind: The anomaly score, one that needs no labels.
        most: Most normal images that a short training uses.
    """

    sides: Sides
    spec: Mapping[str, Any]
    objective: Objective
    config: TrainConfig
    kind: str
    most: int = 400

    def train(self, train: PatchSet, monitor: PatchSet, **changed: Any) -> nn.Module:
        """A network after the short training; ``changed`` arguments of the architecture differ from ``spec``."""
        spec = {**self.spec, "args": {**self.spec["args"], **changed}}
        few = limit_images(train, self.most, seed=self.config.seed)
        watched = limit_images(monitor, self.most // 4, seed=self.config.seed)
        return fit_or_reuse(spec, self.objective, few, watched, self.config).model

    def judge(self, model: nn.Module, ps: PatchSet | None = None) -> Scores:
        """Its anomaly scores of validation (or other) cases."""
        ps = self.sides.validation if ps is None else ps
        return abnormal_scores(ps, score_set(model, ps, self.kind), abnormal=self.sides.abnormal)


def width_sweep(trial: Trial, widths: Sequence[int], name: str = "bottleneck") -> dict[str, Estimate]:
    """AUROC on validation cases for several widths of the bottleneck."""
    sides = trial.sides
    return {
        f"{name} {width}": interval(trial.judge(trial.train(sides.train, sides.monitor, **{name: width})), "auroc")
        for width in widths
    }


def learning_table(trial: Trial) -> pd.DataFrame:
    """Which normal images to learn from, and whether to even out their colours first.

    Returns:
        One row per way of learning; ``images``, ``auroc`` (Estimate, validation cases), ``minus the first`` (paired),
        and where there are several normal classes ``auroc, frequent normal`` and ``auroc, rare normal``: abnormal
        cases against normal ones of the most frequent class and of all others.
    """
    sides, judged = trial.sides, {}
    rare = sides.train.labels != frequent_class(sides.train)
    ways = {"all normal images": sides.train}
    if rare.any():
        ways["the most frequent normal class only"] = sides.train.select(~rare)
        ways["rare normal classes as often as the frequent one"] = balanced(sides.train, seed=trial.config.seed)
    for name, train in ways.items():
        judged[name] = len(train), trial.judge(trial.train(train, sides.monitor))
    if sides.train.shape[2] == 3:
        train, monitor, validation = (even_colours(part) for part in (sides.train, sides.monitor, sides.validation))
        found = trial.judge(trial.train(train, monitor), validation)
        judged["all, every image brought to one mean colour"] = len(train), found
    first = next(iter(judged.values()))[1]
    frequent = sides.validation.labels == frequent_class(sides.train)
    rows = {}
    for name, (images, scores) in judged.items():
        rows[name] = {"images": images, "auroc": interval(scores, "auroc"), "minus the first": ""}
        if scores is not first:
            rows[name]["minus the first"] = paired_difference(scores, first, "auroc")
        if rare.any():
            rows[name]["auroc, frequent normal"] = interval(scores.select(scores.positive | frequent), "auroc")
            rows[name]["auroc, rare normal"] = interval(scores.select(scores.positive | ~frequent), "auroc")
    return pd.DataFrame.from_dict(rows, orient="index")


def frequent_class(ps: PatchSet) -> int:
    """The class with most images."""
    return int(np.bincount(ps.labels).argmax())


def balanced(ps: PatchSet, *, seed: int = 0) -> PatchSet:
    """As many images in all, every class as often as any other: rare ones repeat, of frequent ones some are left out.

    **Shape** a view of N images -> a view of about N.
    """
    rng, classes = np.random.default_rng(seed), np.unique(ps.labels)
    share = len(ps) // len(classes)
    rows = [rng.permutation(np.resize(np.flatnonzero(ps.labels == label), share)) for label in classes]
    return ps.select(np.sort(np.concatenate(rows)))


def even_colours(ps: PatchSet) -> PatchSet:
    """Every channel of every image scaled to the mean that the set has (grey-world colour constancy). In memory.

    **Reference**: Buchsbaum 1980, doi:10.1016/0016-0032(80)90058-7.
    """
    images = ps.take()
    means = images.mean(axis=(1, 2), dtype=np.float64)
    scale = (means.mean(axis=0) / np.maximum(means, 1.0)).astype(np.float32)
    even = np.stack([np.clip(image * factor + 0.5, 0, 255).astype(np.uint8) for image, factor in
                     zip(images, scale, strict=True)])  # fmt: skip
    return PatchSet.from_arrays(even, ps.table, ps.card)


def patient_folds_auroc(trial: Trial, patches: PatchSet, *, k: int = 3, learn: Sequence[str] = ()) -> list[Estimate]:
    """AUROC of each fold's patients under a network that learnt from the normal images of the other folds.

    Args:
        trial: What the trainings share; its sides name the abnormal classes.
        patches: Labelled images without test cases.
        learn: Normal classes to learn from, as for ``detection_sides``.

    Raises:
        MedcoreError: Test cases are among them, or a fold lacks normal or abnormal images.
    """
    if (patches.splits == "test").any():
        raise MedcoreError("patient_folds_auroc: test cases are among the images; pass patches.where(split=[...])")
    normal = learnt_from(patches, trial.sides, learn)
    estimates = []
    for number, fold in enumerate(patient_folds(patches, k, seed=trial.config.seed)):
        held_out = patches.select(fold.validation)
        train, monitor = (patches.select(rows[normal[rows]]) for rows in (fold.train, fold.validation))
        found = interval(trial.judge(trial.train(train, monitor), held_out), "auroc")
        estimates.append(replace(found, split=f"fold {number + 1}"))
    return estimates


def learnt_from(patches: PatchSet, sides: Sides, learn: Sequence[str] = ()) -> np.ndarray:
    """Which images a detector may learn from, as ``detection_sides`` has it. **Shape** ``(N,)`` bool."""
    normal = ~np.isin(patches.label_names, sides.abnormal)
    if learn:
        normal &= np.isin(patches.label_names, learn)
    return normal & healthy_patients(patches) if sides.healthy_only else normal


def judged_in_folds(
    patches: PatchSet, normal: np.ndarray, abnormal: Sequence[str], choices: AnomalyChoices, *, k: int,
    trial: Trial | None = None,
) -> Comparison:  # fmt: skip
    """The mean rank of three detectors that need no network, in folds over all patients, set against one of them.

    The three are a blurred copy, one blurred twice as much, and few principal components. In each fold the components
    learn from normal images of two thirds of the other patients, and the remaining third chooses the score, for the
    mean and for the blurred copy alone; held-out cases get their ranks among those of the third, so that folds can be
    pooled. A network learns from the two thirds as well, the third picks its epoch and score; the mean is its rival.

    Args:
        normal: Which images may be learnt from. **Shape** ``(N,)`` bool.
        trial: How a network is trained that is judged in the first place; None trains none.

    Raises:
        MedcoreError: There are too few patients or normal images.
    """
    kinds = [kind for kind in choices.scores if kind in PIXEL_MAPS and not why_not(kind, Blur(), patches.shape[2])]
    kinds = kinds or ["mse"]
    blurs = {BLURRED: Blur(choices.blur_share), "blurred twice as much": Blur(2 * choices.blur_share)}
    fixed = {name: _by_kind(model, patches, kinds) for name, model in blurs.items()}
    methods = [NETWORK] * (trial is not None) + [MEAN_RANK, BLURRED]
    values, chosen = {name: np.zeros(len(patches)) for name in methods}, []
    for fold in patient_folds(patches, k, seed=choices.seed):
        inner = patient_folds(patches.select(fold.train), 3, seed=choices.seed)[0]
        rows = fold.train[inner.train]
        learnt = patches.select(rows[normal[rows]])
        learnt = learnt.with_split(["train"] * len(learnt))
        components = fit_linear(learnt, min(choices.few_components, len(learnt)), seed=choices.seed)
        judging = fold.train[inner.validation], fold.validation
        sides = [patches.select(part).with_split(["val"] * len(part)) for part in judging]
        judged = [{name: table[part] for name, table in fixed.items()} for part in judging]
        for side, found in zip(sides, judged, strict=True):
            found[f"PCA, {len(components.get_buffer('components'))} components"] = _by_kind(components, side, kinds)
        if trial is not None:
            network = trial.train(learnt, sides[0].select(normal[judging[0]]))
            for side, found in zip(sides, judged, strict=True):
                found[NETWORK] = _by_kind(network, side, kinds)
        ranks = _ranks(judged, sides[0], kinds, abnormal)
        aurocs = {name: interval(found, "auroc").value or 0.0 for name, (found, _) in ranks.items()}
        for detector in values:
            best = max((name for name in aurocs if name[0] == detector), key=lambda name: aurocs[name])
            values[detector][fold.validation] = ranks[best][1]
            chosen += [best[1]] * (detector == methods[0])
    own, *rivals, blurred = (abnormal_scores(patches, values[name], abnormal=abnormal) for name in methods)
    others = dict(zip([MEAN_RANK], rivals, strict=False))
    compared = compare_methods(own, {BLURRED: blurred}, metrics=("auroc",), rivals=others, reference=BLURRED)
    note = f"by {', '.join(f'{kind} ({chosen.count(kind)} of {k} folds)' for kind in dict.fromkeys(chosen))}"
    noted = [replace(one, note="; ".join(text for text in (note, one.note) if text)) for one in compared.metrics]
    return replace(compared, metrics=noted).labelled("folds")


def _by_kind(model: nn.Module, ps: PatchSet, kinds: Sequence[str]) -> np.ndarray:
    return stream(lambda images: scores_of_kinds(model, images, kinds), ps, model=model)


def _ranks(
    judged: Sequence[Mapping[str, np.ndarray]], validation: PatchSet, kinds: Sequence[str], abnormal: Sequence[str]
) -> dict[tuple[str, str], tuple[Scores, np.ndarray]]:
    """Validation cases, and ranks of held-out ones among them, by detector and score."""
    found = {}
    for place, kind in enumerate(kinds):
        own, others = ({name: table[:, place] for name, table in side.items()} for side in judged)
        reference = {name: abnormal_scores(validation, one, abnormal=abnormal) for name, one in own.items()}
        if any(np.ptp(one.score) == 0 for one in reference.values()):
            continue  # such as red pixels where nothing is red
        alone = [name for name in (BLURRED, NETWORK) if name in reference]
        together = [name for name in reference if name != NETWORK]
        for detector, names in ((MEAN_RANK, together), *((name, [name]) for name in alone)):
            ensemble = RankEnsemble({name: reference[name] for name in names})
            inside, outside = (ensemble({name: side[name] for name in names}) for side in (own, others))
            found[detector, kind] = replace(reference[names[0]], score=inside), outside
    return found


def table_loss(trial: Trial, table: PatchSet, enlarged: PatchSet, *, learn: Sequence[str] = ()) -> pd.DataFrame:
    """What the tabular form loses: detail, and with it the detector's AUROC.

    Args:
        table: The same images with the same split in the tabular form.
        enlarged: The table's images at the size of the images.
        learn: Normal classes to learn from, as for ``detection_sides``.

    Returns:
        ``value`` by name: PSNR (dB) and the share of the local structure that is left (1 = all), means over the
        validation images; the AUROC of a short training on each form, and their paired difference.
    """
    sides, small = trial.sides, detection_sides(table, trial.sides.abnormal, learn=learn)
    shown = detection_sides(enlarged, trial.sides.abnormal, learn=learn).validation
    kept = [_kept(a, b) for a, b in zip(sides.validation.chunks(64), shown.chunks(64), strict=True)]
    shape = {**trial.spec, "args": _for_size(trial.spec["args"], table.shape)}
    other = replace(trial, sides=small, spec=shape)
    ours = trial.judge(trial.train(sides.train, sides.monitor))
    theirs = other.judge(other.train(small.train, small.monitor))
    rows = {
        "PSNR (dB)": f"{np.concatenate([quality[0] for quality in kept]).mean():.1f}",
        "local structure that is left": f"{np.concatenate([quality[1] for quality in kept]).mean():.2f}",
        "AUROC from the images": interval(ours, "auroc"),
        "AUROC from the table": interval(theirs, "auroc"),
        "paired difference": paired_difference(ours, theirs, "auroc"),
    }
    return pd.DataFrame({"value": rows})


def _kept(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, two = (to_float(torch.from_numpy(np.ascontiguousarray(pixels))) for pixels in (images, others))
    return psnr(one, two).numpy(), structure_map(one, two).mean((1, 2)).numpy()


def _for_size(arguments: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
    size = list(shape[:2])
    return {**arguments, "image_size": size, "widths": list(choose_widths(size, None))}
