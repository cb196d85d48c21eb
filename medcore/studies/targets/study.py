"""One study of several findings, a grade or a measured value: its sides, baselines, thresholds and results.

    study = TargetStudy.read("phantom-xray")                     # or grade="isup", value="age"
    network = study.build("small_cnn")
    fit(network, study.objective, study.train, study.validation, study.config("xray", epochs=10))
    compared = study.judge(network)                              # test part: metrics, baselines, paired differences

Whatever chooses (the reference baseline, the thresholds of findings) sees validation data only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcore.data.audit.audit import Audit
from medcore.data.load import limit_images, read_set
from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits
from medcore.data.targets import bands, in_thirds
from medcore.errors import MedcoreError
from medcore.evaluation.baselines import run_baselines
from medcore.evaluation.comparison import Comparison, strongest
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.intervals import interval
from medcore.evaluation.predict import predict
from medcore.evaluation.predictor import equip
from medcore.evaluation.scores import Scores, Values, decided
from medcore.metrics.confusion import median_grade
from medcore.models.classifier import Classifier, build_classifier
from medcore.studies.choices import Choices, TrainsClassifiers
from medcore.studies.experiments import subgroup_table
from medcore.studies.targets.questions import Cases, question_of
from medcore.training.config import setting
from medcore.training.objectives import Objective


@dataclass(frozen=True)
class TargetChoices(Choices):
    """What the study fixes beside the parameters of its notebook."""

    uncertain: str = setting("ignore", "What an uncertain finding teaches: ignore, present or absent.")
    optimiser: str = setting("adamw", "Rule that turns gradients into steps.")
    schedule: str = setting("one-cycle", "How the learning rate changes over a training.")
    backbone_share: float = setting(0.2, "Learning rate of a pretrained backbone.", "share of the head's")


class TargetStudy(TrainsClassifiers):
    """The sides, baselines, cases and results of one study; see the top of this file."""

    def __init__(self, patches: PatchSet, choices: TargetChoices | None = None, *, seed: int = 0) -> None:
        """Keep the set with its splits and the choices."""
        self.question = question_of(patches)
        self.patches, self.seed, self.choices = patches, seed, choices or TargetChoices()
        self.train, self.validation, self.test = (patches.where(split=side) for side in ("train", "val", "test"))
        for side, part in {"train": self.train, "val": self.validation, "test": self.test}.items():
            if not len(part):
                raise MedcoreError(f"set {patches.card.name!r}: no image with {self.question.words} is in {side}")
        self._network: Classifier | None = None

    @classmethod
    def read(
        cls,
        source: str,
        *,
        limit: int | None = None,
        seed: int = 0,
        choices: TargetChoices | None = None,
        **options: Any,
    ) -> TargetStudy:
        """Read a set, leave images without an answer out, take at most ``limit`` images, split over patients.

        Args:
            source: As for ``read_set``, which takes ``options`` as well: ``findings``, ``grade`` or ``value``.
        """
        given = {name: value for name, value in options.items() if value not in ("", [], None)}
        patches = read_set(source, seed=seed, **given)
        patches = question_of(patches).labelled(patches)
        return cls(assign_splits(limit_images(patches, limit, seed=seed), seed=seed), choices, seed=seed)

    def grouped(self, part: PatchSet) -> PatchSet:
        """The images for pictures by class: of a measured value the lowest to the highest third."""
        return in_thirds(part) if self.question.task == "regression" else part

    # --- the network

    @cached_property
    def objective(self) -> Objective:
        """What a network learns by."""
        several = {"uncertain": self.choices.uncertain} if self.question.task == "findings" else {}
        return self.question.objective(self.train, **several)

    def build(self, model: str, weights: str | None = None) -> Classifier:
        """A fresh network for the training images; ``weights`` is ``imagenet``, a file or None."""
        side, _, channels = self.train.shape
        head = self.question.head(self.train)
        count = len(self.patches.classes)
        return build_classifier(model, count, weights=weights, in_channels=channels, image_size=side, **head)

    # --- the result

    def answers_of_baselines(self, held_out: PatchSet) -> dict[str, Cases]:
        """What trivial methods, trained on the training images, say of some images."""
        said = run_baselines(self.train, held_out, seed=self.seed)
        return {name: self.question.cases(held_out, answers) for name, answers in said.items()}

    @cached_property
    def reference(self) -> str:
        """The baseline that the result is set against: the strongest on validation data."""
        found = self.answers_of_baselines(self.validation)
        return strongest({name: self.question.leading(cases)[:1] for name, cases in found.items()})

    def judge(self, network: Classifier) -> Comparison:
        """A network on test data beside the baselines; the study keeps it and its answers."""
        self._network = network
        baselines = self.answers_of_baselines(self.test)
        return Comparison(
            self.question.estimates(self.cases, self.thresholds),
            {name: self.question.leading(cases) for name, cases in baselines.items()},
            differences={name: self.question.differences(self.cases, cases) for name, cases in baselines.items()},
            reference=self.reference,
        )

    @property
    def network(self) -> Classifier:
        """The network that was judged.

        Raises:
            MedcoreError: None was.
        """
        if self._network is None:
            raise MedcoreError("this study has no result yet: call study.judge(network) first")
        return self._network

    @cached_property
    def cases(self) -> Cases:
        """What it said of the test images."""
        return self.question.cases(self.test, predict(self.network, self.test))

    @cached_property
    def on_validation(self) -> Cases:
        """What it said of the validation images."""
        return self.question.cases(self.validation, predict(self.network, self.validation))

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """Of each finding, from which probability on it is called present: chosen on validation images."""
        return self.question.thresholds(self.on_validation)

    # --- behind the result

    def parts(self, metrics: Sequence[Estimate]) -> dict[str, Estimate]:
        """The headline metric of each finding; of other tasks the leading metrics by name."""
        if self.question.task != "findings":
            return {one.name: one for one in metrics[:3]}
        return {name: one for name in self.cases for one in metrics if one.name == f"auroc {name}"}

    def table(self) -> pd.DataFrame:
        """The test part by finding, by grade or by third of the truth, with intervals."""
        if self.question.task == "findings":
            rows = [self._finding_row(name, part) for name, part in self.cases.items() if isinstance(part, Scores)]
        else:
            rows = [row for part in self.cases.values() for row in self._rows_of_one(part)]
        return pd.DataFrame(rows).set_index(next(iter(rows[0])))

    def _finding_row(self, name: str, part: Scores) -> dict[str, Any]:
        calls = (part.positive_score >= self.thresholds[name]).astype(np.int64)
        ranked = {metric: interval(part, metric) for metric in ("auroc", "average_precision")}
        called = {metric: interval(part, metric, decision=calls) for metric in ("sensitivity", "specificity", "ppv")}
        counts = {"n": len(part), "present": int(part.positive.sum())}
        return {"finding": name, **counts, **ranked, "threshold": self.thresholds[name], **called}

    def _rows_of_one(self, part: Scores | Values) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        if isinstance(part, Scores):
            called = median_grade(part.score)
            for k in [k for k, _ in enumerate(part.classes) if (part.truth == k).any()]:
                own = part.select(part.truth == k)
                found = {metric: interval(own, metric, decision=called[part.truth == k])
                         for metric in ("accuracy", "within_one")}  # fmt: skip
                rows.append({"grade": part.classes[k], "n": len(own), "mean answer": called[part.truth == k].mean(),
                             **found})  # fmt: skip
            return rows
        third = bands(part.truth, 3)
        for k in [k for k in range(3) if (third == k).any()]:
            values, name = part.select(third == k), ("lowest third", "middle third", "highest third")[k]
            found = {metric: interval(values, metric) for metric in ("mae", "bias")}
            ends = {"from": values.truth.min(), "to": values.truth.max()}
            rows.append({"truth": name, "n": len(values), **ends, **found})
        return rows

    def calibration(self) -> list[Estimate]:
        """Whether what is stated is true, on the test part."""
        return self.question.calibration(self.cases)

    def subgroups(self, columns: Sequence[str]) -> pd.DataFrame:
        """Each group of some columns of the test part against all others: headline metric, gap and what lags.

        Of findings the AUROC of each, and the gap in sensitivity at its threshold.
        """
        tables = []
        for name, part in self.cases.items():
            if isinstance(part, Values):
                tables.append(subgroup_table(part, self.test, columns, metric="mae"))
            elif self.question.task == "ordinal":
                called = decided(part, median_grade(part.score))
                tables.append(subgroup_table(called, self.test, columns, metric="quadratic_kappa"))
            else:
                rows = np.flatnonzero(np.isin(self.test.index, np.asarray(part.ids)))
                calls = (part.positive_score >= self.thresholds[name]).astype(np.int64)
                found = subgroup_table(part, self.test.select(rows), columns, metric="auroc", decision=calls)
                found.insert(0, "finding", name)
                tables.append(found)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def known(self, columns: Sequence[str]) -> list[str]:
        """Those of some columns that the set has and that hold more than one value."""
        return [name for name in columns if name in self.patches.columns and len(set(self.test.column(name))) > 1]

    def lagging(self, table: pd.DataFrame, audited: Audit) -> dict[str, Estimate]:
        """Groups that lag behind all others by a gap whose interval leaves zero out (or is whole), the widest first.

        Returns:
            Name to gap, in sensitivity where there are decisions; a name says where the audit names the column, too.
        """
        worse = -1 if self.question.task == "regression" else 1  # of errors, more is worse
        told, found = {one.kind for one in audited.findings}, []
        for row in table.to_dict("records"):
            what = row.get("finding", "class" if worse > 0 else f"the third of {self.patches.classes[0]}")
            group = f"{row['column']} {row['group']}"
            name = f"{row['finding']}, {group}" if "finding" in row else group
            also = " (the audit names this column, too)" * (f"{what} told by column '{row['column']}'" in told)
            gap: Estimate = row["sensitivity gap"] if "sensitivity gap" in row else row["gap"]
            shown = gap.low is not None and gap.high is not None and gap.low * gap.high > 0
            all_or_none = gap.name.startswith("sensitivity") and gap.value == -1  # no patient differs: no interval
            if gap.value is not None and worse * gap.value < 0 and (shown or all_or_none):
                found.append((name + also, replace(gap, name=f"{gap.name} {name}")))
        return dict(sorted(found, key=lambda one: worse * float(one[1].value or 0)))

    def predictions(self) -> dict[str, Scores | Values]:
        """File name to the cases of the test part, as ``run.save_predictions`` takes them."""
        several = len(self.cases) > 1
        return {f"predictions_{n}" if several else "predictions": part for n, part in enumerate(self.cases.values())}

    def equip(self, folder: Path) -> None:
        """Write into the best checkpoint what prediction needs: thresholds, and which images look familiar."""
        facts = {"thresholds": self.thresholds} if self.thresholds else {}
        equip(folder, self.network, self.train, self.validation, **facts)
