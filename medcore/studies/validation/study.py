"""ExternalStudy: a frozen model on another cohort, once; what notebook 07 holds.

    study = ExternalStudy(medcore.load(folder), cohort, seen="leave-out")
    study.beside()            # development and this cohort, each with its interval, and their difference
    study.spent               # recalibrated and re-thresholded, shown apart, nested

Nothing of the model changes: permuting the labels of the cohort changes no answer and no threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from medcore.data.load import one_label
from medcore.data.patchset import PatchSet
from medcore.data.splits import group_names
from medcore.errors import MedcoreError
from medcore.evaluation.calibration import stated_and_observed
from medcore.evaluation.curves import DecisionCurve, decision_curve
from medcore.evaluation.estimate import Estimate, metric_name, printed, with_article
from medcore.evaluation.intervals import interval, mean_interval
from medcore.evaluation.scores import Scores
from medcore.evaluation.tables import classification_table
from medcore.studies.diagnosis.cohort import PATIENT_CLASSES
from medcore.studies.diagnosis.model import counted_windows
from medcore.studies.experiments import subgroup_table
from medcore.studies.validation.difference import in_words, independent_difference, stored_estimates
from medcore.studies.validation.frozen import Frozen, Judgement
from medcore.studies.validation.mix import TOLD, describe_mix, mix_table
from medcore.studies.validation.planning import patients_for_width
from medcore.studies.validation.spent import Spent, spend
from medcore.training.seen import unseen

EXTERNAL = "external"
FEW = 5  # patients of a class below which nothing is chosen in folds


class ExternalStudy:
    """A frozen model, a cohort, and what the one says of the other.

    Args:
        model: Of ``medcore.load``.
        cohort: Read by ``model.read``.
        seen: What is done with images and patients of the model's training: ``leave-out``, ``refuse`` or ``count``.
        by_patient: Also compare patients, not only pixels; equal ids of two hospitals may be other people.
        positive: The classes that decision curve and predictive values speak of; by default the card's abnormal ones.
        rule: Of the threshold that is chosen on this cohort, shown apart.
    """

    def __init__(
        self,
        model: Frozen,
        cohort: PatchSet,
        *,
        seen: str = "leave-out",
        by_patient: bool = True,
        positive: Sequence[str] = (),
        rule: str = "youden",
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.model, self.rule, self.folds, self.seed = model, rule, folds, seed
        kept, self.overlap = unseen(one_label(cohort), model.seen, seen, by_patient=by_patient)
        self.patches = kept.with_split(["test"] * len(kept))  # no chooser takes them
        self.labelled = model.labelled(self.patches)
        self.positive = tuple(positive)
        unknown = [name for name in positive if name not in model.classes]  # type: ignore[attr-defined]
        if unknown:
            raise MedcoreError(f"positive={unknown[0]!r} is none of {', '.join(model.classes)}")  # type: ignore[attr-defined]

    @property
    def task(self) -> str:
        """``classification``, ``anomaly``, ``segmentation`` or ``diagnosis``."""
        return self.model.task

    @property
    def has_labels(self) -> bool:
        """Whether anything can be judged."""
        return len(self.labelled) > 0

    @property
    def has_scores(self) -> bool:
        """Whether cases have a score of a class: all tasks but segmentation, where labels are known."""
        return self.has_labels and self.outcome.scores is not None

    def facts(self) -> pd.DataFrame:
        """Where the model comes from and what of the cohort it knows."""
        told = self.model.development
        rows = {
            "task": self.task,
            "developed by": f"{told.get('notebook', 'not told')}, {str(told.get('started', ''))[:10]}",
            "developed on": str(told.get("data", self.model.manifest["data"]["name"])),
            "weights sha256": str(self.model.manifest["sha256"]["model.safetensors"])[:16],
            "seen before": str(self.overlap),
            "cases that are judged": f"{len(self.labelled)} of {len(self.patches)} images have a truth",
        }
        return pd.DataFrame({"value": rows})

    # --- results --------------------------------------------------------------------------------------------------

    @cached_property
    def outcome(self) -> Judgement:
        """The one evaluation."""
        found = self.model.evaluate(self.labelled)
        return replace(found, estimates=[replace(one, split=EXTERNAL) for one in found.estimates])

    @cached_property
    def development(self) -> dict[str, Estimate]:
        """The estimates that the folder brings along, by name."""
        return stored_estimates(self.model.development.get("estimates", []))

    @cached_property
    def differences(self) -> dict[str, Estimate]:
        """This cohort minus development, by name of the metric."""
        shared = [one for one in self.outcome.estimates if one.name in self.development]
        return {one.name: independent_difference(one, self.development[one.name]) for one in shared}

    def beside(self) -> pd.DataFrame:
        """A row per metric: development, this cohort, their difference, and what its interval shows."""
        rows = {}
        for one in self.outcome.estimates:
            before, gap = self.development.get(one.name), self.differences.get(one.name)
            rows[metric_name(one.name)] = {
                "development": "not told" if before is None else _short(before),
                "this cohort": _short(one),
                "difference": "" if gap is None else _short(gap),
                "": "" if gap is None else in_words(gap),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def shares_that_differ(self) -> dict[str, Estimate]:
        """The differences that fit on one axis from -1 to 1, by the metric's name in words."""
        ends = {name: (gap.low, gap.high) for name, gap in self.differences.items()}
        small = [name for name, pair in ends.items() if None not in pair and max(map(abs, pair)) <= 1]  # type: ignore[arg-type]
        return {metric_name(name): self.differences[name] for name in small}

    def held(self) -> str:
        """Whether the headline holds, in a sentence."""
        first = self.outcome.estimates[0]
        before, gap = self.development.get(first.name), self.differences.get(first.name)
        name = metric_name(first.name)
        if before is None or gap is None:
            return f"The frozen model reaches {with_article(name)} of {first}; the folder tells no development result."
        inside = (
            before.low is not None and first.value is not None and before.low <= first.value <= (before.high or 1.0)
        )
        words = "lies within" if inside else "lies outside"
        return (
            f"The frozen model reaches {with_article(name)} of {first:ci} here; development: {before}; difference "
            f"{gap}, {in_words(gap)}. The value found here {words} the interval of the development."
        )

    @cached_property
    def two_way(self) -> tuple[Scores, np.ndarray]:
        """The question with two answers that decision curve and predictive values ask, and the frozen decisions.

        Several classes are joined: the positive ones against the others, with the sum of their probabilities.
        """
        stated, decision = self.outcome.probability, self.outcome.decision
        assert stated is not None and decision is not None
        if len(stated.classes) == 2 and not self.positive:
            values = stated.score if stated.score.ndim == 1 else stated.score[:, 1]
            return replace(stated, score=values), decision
        names = self.positive or tuple(self.labelled.card.abnormal) or (stated.classes[-1],)
        chosen = np.isin(stated.classes, names)
        values = stated.score if stated.score.ndim == 2 else np.stack([1 - stated.score, stated.score], axis=1)
        joined = ("other", " + ".join(np.array(stated.classes)[chosen]))
        truth = chosen[stated.truth].astype(np.int64)
        scores = replace(stated, truth=truth, score=np.clip(values[:, chosen].sum(1), 0, 1), classes=joined)
        return scores, chosen[decision].astype(np.int64)

    def stated(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stated probability, whether it was so, and the patient, for a reliability diagram."""
        assert self.outcome.probability is not None
        probability, observed = stated_and_observed(self.outcome.probability)
        return probability, observed, self.outcome.probability.patient

    def operating(self) -> pd.DataFrame:
        """The frozen decisions: sensitivity, specificity, and predictive values at both prevalences."""
        scores, decision = self.two_way
        here = float(scores.positive.mean())
        found = {name: interval(scores, name, decision=decision) for name in ("sensitivity", "specificity")}
        shares = {"this cohort": here}
        before = self.development_prevalence()
        if before is not None:
            shares["development"] = before
        for where, share in shares.items():
            if 0 < share < 1:
                for name in ("ppv", "npv"):
                    title = f"{name.upper()} at the prevalence of {where} ({100 * share:.1f} %)"
                    found[title] = interval(scores, f"{name}@{share:.4f}", decision=decision)
        return pd.DataFrame({f"positive: {scores.classes[1]}": found})

    def development_prevalence(self) -> float | None:
        """Share of positive cases in the development, where the folder tells it."""
        mix = self.model.development.get("mix", {})
        if self.task == "diagnosis":
            levels, told = self.model.manifest["levels"], mix.get("columns", {}).get("diagnosis", {})
            return 1 - told[levels[0]] if levels[0] in told else None
        names = set(self.two_way[0].classes[1].split(" + ")) if self.task == "classification" else set(
            getattr(self.model, "abnormal", []))  # fmt: skip
        told = mix.get("classes", {})
        return sum(told[name] for name in names) if names and names <= set(told) else None

    def per_class(self) -> pd.DataFrame | None:
        """Sensitivity, specificity, PPV, NPV and F1 of each class; None with two."""
        scores = self.outcome.scores
        if scores is None or len(scores.classes) < 3:
            return None
        return classification_table(scores).drop(columns=["patients"], errors="ignore")

    def net_benefit(self) -> dict[str, DecisionCurve]:
        """The decision curve of the stated probabilities."""
        return {"frozen model": decision_curve(self.two_way[0])}

    @cached_property
    def spent(self) -> Spent | None:
        """What labels of this cohort could mend; None where too few patients have one of the classes."""
        scores, decision = self.two_way if len(self._stated.classes) == 2 else (self._stated, self.outcome.decision)
        assert decision is not None
        counts = [len(np.unique(scores.patient[scores.truth == k])) for k in np.unique(scores.truth)]
        if len(counts) < 2 or min(counts) < FEW:
            return None
        return spend(scores, decision, rule=self.rule, folds=self.folds, seed=self.seed)

    @property
    def _stated(self) -> Scores:
        assert self.outcome.probability is not None
        return self.outcome.probability

    def plan(self, half_width: float = 0.05) -> pd.DataFrame | None:
        """Patients for a 95 % CI of ± ``half_width``, by the intervals found here; None where there is none."""
        patients = len(set(group_names(self.labelled).tolist()))
        plans = {}
        for one in self.outcome.estimates:
            known = one.low is not None and one.value is not None and one.high is not None
            if known and 0 <= one.low < one.value < one.high <= 1 and patients > 1:  # type: ignore[operator]
                found = patients_for_width(one.value, one.low, one.high, patients, half_width)  # type: ignore[arg-type]
                plans[metric_name(one.name)] = {
                    "here": _short(one),
                    "patients here": patients,
                    "patients": found.patients,
                }
        return pd.DataFrame.from_dict(plans, orient="index") if plans else None

    # --- who they are ---------------------------------------------------------------------------------------------

    def mix(self) -> pd.DataFrame:
        """Development and this cohort side by side."""
        return mix_table(self.model.development.get("mix", {}), describe_mix(self.patches))

    @cached_property
    def distance(self) -> np.ndarray | None:
        """How far each image lies from the training images, 1 = the reach of usual ones; None where not known."""
        if self.task != "classification":
            return None
        parts = [distance for _, distance in self._answered]
        return None if parts[0] is None else np.concatenate(parts)

    @cached_property
    def _answered(self) -> list[tuple[list[str], Any]]:
        """Answers and distances of all images, a batch at a time, in one pass."""
        model: Any = self.model
        return [(batch.labels, batch.distance) for batch in model.predict(self.patches)]

    def unfamiliar(self) -> Estimate | None:
        """Share of images unlike the training images; one in a hundred would be usual."""
        if self.distance is None:
            return None
        return mean_interval(
            (self.distance > 1).astype(float), group_names(self.patches), name="unfamiliar_share",
            unit=self.patches.card.case, split=EXTERNAL,
        )  # fmt: skip

    def by_familiarity(self) -> pd.DataFrame | None:
        """The headline among familiar and among unfamiliar images; None where it is not known."""
        if self.distance is None or not self.has_labels:
            return None
        known = self.distance[self.patches.labels >= 0]
        marked = self.outcome.patches.with_columns(familiar=np.where(known > 1, "unfamiliar", "familiar"))
        assert self.outcome.scores is not None
        return self._subgroups(marked, ["familiar"])

    def subgroups(self, columns: Sequence[str] = ()) -> pd.DataFrame | None:
        """The headline in each group of the columns that say who the patients are; None where there is none."""
        if self.task == "diagnosis" or self.outcome.scores is None:
            return None
        named = [name for name in (columns or TOLD) if name in self.outcome.patches.columns]
        return self._subgroups(self.outcome.patches, named) if named else None

    def _subgroups(self, patches: PatchSet, columns: Sequence[str]) -> pd.DataFrame:
        assert self.outcome.scores is not None
        metric = self.outcome.estimates[0].name
        return subgroup_table(self.outcome.scores, patches, columns, metric=metric).set_index(["column", "group"])

    def worst(self, most: int = 12) -> pd.DataFrame:
        """The cases that went most clearly wrong, worst first."""
        found = self.outcome
        if self.task == "segmentation":
            return found.table.sort_values("dice").head(most).set_index("case").round(3)
        if self.task == "diagnosis":
            table = found.table[found.table["decision"] != found.table["truth"]]
            order = (table["probability"] - 0.5).abs().sort_values(ascending=False).index
            shown = table.loc[order, ["patient", "diagnosis", "probability", "windows", "positive_windows"]]
            decisions = np.array(PATIENT_CLASSES)[table.loc[order, "decision"]]
            return shown.assign(decision=decisions).head(most).set_index("patient").round({"probability": 2})
        rows = self.worst_rows(most)
        columns = [
            name for name in ("source", "patient", "answer", "confidence", "score", "decision") if name in found.table
        ]
        names = found.patches.label_names[rows]
        return found.table.iloc[rows][columns].assign(truth=names).set_index("source").round(3)

    def worst_rows(self, most: int = 12) -> np.ndarray:
        """Rows of the wrong answers, the surest first, of images. **Shape** ``(n,)``."""
        found = self.outcome
        assert found.scores is not None and found.decision is not None and found.probability is not None
        wrong = np.flatnonzero(found.decision != found.scores.truth)
        stated = found.probability.score
        sure = stated.max(1) if stated.ndim == 2 else np.abs(stated - 0.5)
        return wrong[np.argsort(-sure[wrong], kind="stable")][:most]

    def mistakes(self, most: int = 12) -> dict[str, Any] | None:
        """The surest wrong answers as arguments of ``plots.worst_mistakes``; None where images are not the cases."""
        found, rows = (
            self.outcome,
            self.worst_rows(most) if self.task in ("classification", "anomaly") else np.zeros(0, int),
        )
        if not len(rows) or found.scores is None or found.decision is None:
            return None
        stated = self._stated.score
        sure = stated.max(1) if stated.ndim == 2 else np.maximum(stated, 1 - stated)
        names = np.array(found.scores.classes)
        truth, said = (names[which[rows]].tolist() for which in (found.scores.truth, found.decision))
        images = found.patches.take(rows)
        return {"images": images, "classes": list(names), "confidence": sure[rows], "truth": truth, "predicted": said}

    # --- without labels -------------------------------------------------------------------------------------------

    def answers(self) -> pd.DataFrame:
        """How often each answer is given, with intervals over patients; no truth is looked at."""
        names, values, groups = self._said()
        unit = "patient" if self.task == "diagnosis" else self.patches.card.case
        rows = {
            name: mean_interval(values[:, k], groups, name="answered", unit=unit, split=EXTERNAL)
            for k, name in enumerate(names)
        }
        return pd.DataFrame({"share": rows})

    def _said(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        model: Any = self.model
        if self.task == "diagnosis":
            table = model.predict(counted_windows(self.patches, model.manifest["windows"]))
            return list(PATIENT_CLASSES), np.eye(2)[table["decision"].to_numpy()], table["patient"].to_numpy(dtype=str)
        if self.task == "segmentation":
            shares = [
                np.bincount(mask.ravel(), minlength=len(model.classes)) / mask.size
                for mask in model.masks(self.patches)
            ]
            return list(model.classes), np.array(shares), group_names(self.patches)
        labels = [label for said, _ in self._answered for label in said]
        return list(model.classes), np.array(labels)[:, None] == np.array(model.classes), group_names(self.patches)

    def cannot_say(self) -> list[str]:
        """What a cohort without truth leaves open, and what a warning it can still give."""
        said = ["Without a truth nothing here says how often the answers are right."]
        share = self.unfamiliar()
        if share is not None and share.value is not None:
            more = "many more than the one in a hundred that would be usual" if (share.low or 0) > 0.01 else "as usual"
            said.append(f"Images unlike the training images: {share}: {more}.")
        return said


def _short(estimate: Estimate) -> str:
    """An estimate for a wide table: without its note and counts."""
    return printed(**{**estimate.as_dict(), "note": "", "counted": None})
