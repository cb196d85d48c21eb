"""DiagnosisStudy: patients diagnosed from their windows, by the method and by what it is read beside.

    study = DiagnosisStudy(patches, DiagnosisChoices(folds=5))
    study.final[OURS].table                # a row per patient: score, probability, decision
    study.comparison                       # AUROC …, the trivial rule, ABMIL, paired differences

With patients marked ``test`` (HoldOut), everything is chosen on the others and applied to these; without, in nested
folds. Models are trained when a result is first asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize
from medcore.evaluation.calibration import calibration_estimates
from medcore.evaluation.comparison import Comparison
from medcore.evaluation.estimate import Estimate, printed_p
from medcore.evaluation.intervals import interval, paired_difference
from medcore.evaluation.tables import prevalence_table
from medcore.metrics.confusion import confusion_matrix
from medcore.metrics.stain_scores import brown_map, brown_peak, red_share, redness, score_windows
from medcore.studies.diagnosis import results
from medcore.studies.diagnosis.choices import DEFAULT, PEAK, RED, DiagnosisChoices
from medcore.studies.diagnosis.cohort import LEVEL_NAMES, PATIENT_CLASSES, Cohort, contradictions
from medcore.studies.diagnosis.learner import ERRORS, FOREST, WindowLearner
from medcore.studies.diagnosis.methods import (
    ATTENTION,
    BAGS,
    COUNT,
    OURS,
    PROBE,
    RULE,
    diagnose_all,
    window_features,
)
from medcore.studies.diagnosis.nested import Diagnoses, diagnose_windows
from medcore.studies.diagnosis.reader import by_window_count, count_table, reader_table
from medcore.studies.diagnosis.specks import speck_features, thinner_than_a_rod
from medcore.studies.diagnosis.windows import (
    bystanders,
    diagnosis_windows,
    limit_patients,
    smaller,
    speaking_set,
    spread_over_patients,
    window_inventory,
)

OPERATING_RULES = ("youden", "sensitivity>=0.95", "specificity>=0.90", "cost 5:1")


class DiagnosisStudy:
    """What notebook 04 holds: windows, patients, choices, diagnoses and their results.

    Args:
        everything: Windows with ``patient`` and ``diagnosis``; HoldOut patients are marked ``test``.
        limit: Use at most this many patients of each diagnosis.
    """

    def __init__(self, everything: PatchSet, choices: DiagnosisChoices = DEFAULT, *, limit: int | None = None) -> None:
        self.choices = choices
        self.everything = limit_patients(everything, limit, seed=choices.seed)
        self.patches = diagnosis_windows(self.everything, choices)
        scores = {RED: score_windows(self.patches, red_share), PEAK: score_windows(self.patches, brown_peak)}
        self.cohort = Cohort.from_set(self.patches, scores)
        self.development = self.cohort.select(self.cohort.split != "test")
        self.has_hold_out = len(self.development) < len(self.cohort)

    # --- material -------------------------------------------------------------------------------------------------

    def inventory(self) -> pd.DataFrame:
        """Windows, patients and annotations of every kind of window and diagnosis."""
        return window_inventory(self.everything)

    def material(self) -> pd.DataFrame:
        """Who is diagnosed from what: a column for the patients in folds, and one for HoldOut."""
        kind, parts = speaking_set(self.everything, self.choices), {"in nested folds": self.development}
        if self.has_hold_out:
            parts["HoldOut"] = self.cohort.select(self.cohort.split == "test")
        rows = {
            name: {
                "patients": len(part),
                "infected": int(part.truth.sum()),
                "windows": int(part.counted.sum()),
                "fewest a patient": int(part.windows_per_patient.min()),
                "most a patient": int(part.windows_per_patient.max()),
                "kind of window": "HoldOut" if name == "HoldOut" and kind != "all" else kind,
                "healthy with a window annotated positive": ", ".join(contradictions(part)) or "none",
            }
            for name, part in parts.items()
        }
        return pd.DataFrame.from_dict(rows)

    def examples(self, per_kind: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Rows of some windows annotated negative, then positive, and their names."""
        generator, found = np.random.default_rng(self.choices.seed), []
        for kind in (0, 1):
            rows = generator.permutation(np.flatnonzero(self.patches.labels == kind))
            found.append(spread_over_patients(rows, self.patches.patients[rows], per_kind))
        rows = np.concatenate(found)
        return rows, self.patches.label_names[rows]

    # --- models ---------------------------------------------------------------------------------------------------

    @cached_property
    def learner(self) -> WindowLearner:
        """Scores windows of the development patients."""
        small, size = smaller(self.patches, self.choices.size), self.choices.size
        others = smaller(bystanders(self.everything, self.patches), size)
        specks = speck_features(self.patches)
        return WindowLearner(small, self.development, self.choices, specks=specks, bystanders=others)

    @cached_property
    def tester(self) -> WindowLearner:
        """Scores windows of all patients; HoldOut is among the excluded in every training."""
        if not self.has_hold_out:
            return self.learner
        whole = WindowLearner(self.learner.patches, self.cohort, self.choices, bystanders=self.learner.bystanders)
        whole.specks = speck_features(self.patches)[self.cohort.rows]
        return whole

    @cached_property
    def unseen(self) -> np.ndarray:
        """Development patients of the first fold. **Shape** ``(P,)`` bool."""
        return self.development.folds(self.choices.folds, seed=self.choices.seed) == 0

    @property
    def nobody(self) -> np.ndarray:
        """A mask that excludes no patient but HoldOut. **Shape** ``(P,)`` bool."""
        return self.cohort.split == "test"

    def reconstructions(self, count: int = 6) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The brownest windows of the first fold's patients, as reconstructed without them, and their annotations."""
        cohort = self.development
        windows = np.flatnonzero(self.unseen[cohort.owner])
        windows = windows[np.argsort(-cohort.score(PEAK)[windows], kind="stable")]
        rows = cohort.rows[spread_over_patients(windows, cohort.owner[windows], count)]
        names = [name or "not annotated" for name in self.patches.label_names[rows]]
        return self.learner.patches.take(rows), self.learner.reconstruct(rows, self.unseen), names

    def autoencoder_facts(self) -> pd.DataFrame:
        """From whom the autoencoder of the first fold has learnt, and whether it serves all folds."""
        parts = self.learner.healthy_parts(self.unseen)
        alone = self.learner.bystanders is not None
        rows = {name: [len(part), len(np.unique(part.patients))] for name, part in zip(("learns", "picks the epoch"),
                parts, strict=True)}  # fmt: skip
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["windows", "patients"])
        return table.assign(
            serves="all folds: patients who are not diagnosed" if alone else "one fold, or pair of folds"
        )

    # --- results --------------------------------------------------------------------------------------------------

    @cached_property
    def in_folds(self) -> dict[str, Diagnoses]:
        """The development patients by every method, in nested folds."""
        choices = replace(self.choices, repeats=1) if self.has_hold_out else self.choices
        return self._by_every_method(self.development, self.learner, choices)

    @cached_property
    def final(self) -> dict[str, Diagnoses]:
        """The patients of the headline by every method: HoldOut where there is one, else those in folds."""
        if not self.has_hold_out:
            return self.in_folds
        return self._by_every_method(self.cohort, self.tester, self.choices)

    def _by_every_method(
        self, cohort: Cohort, learner: WindowLearner, choices: DiagnosisChoices
    ) -> dict[str, Diagnoses]:
        return diagnose_all(cohort, learner, choices, self.features[cohort.rows] if choices.encoder else None)

    @cached_property
    def features(self) -> np.ndarray:
        """Features of the windows by the pretrained encoder. **Shape** ``(N, D)``."""
        return window_features(self.patches, self.choices)

    @property
    def development_diagnoses(self) -> Diagnoses:
        """The method's diagnoses of the development patients, of the first repeat alone."""
        return self.in_folds[OURS].repeats[0]

    def first_auroc(self) -> Estimate:
        """AUROC of ``development_diagnoses``."""
        return results.patient_auroc(self.development_diagnoses)

    @property
    def ours(self) -> Diagnoses:
        """The method's diagnoses of the patients of the headline."""
        return self.final[OURS]

    @cached_property
    def comparison(self) -> Comparison:
        """The method beside the trivial rule, the number of windows and ABMIL, on the same patients.

        The reference, the trivial rule, is fixed beforehand.
        """
        found = {name: results.patient_estimates(one, levels=len(self.cohort.levels))
                 for name, one in self.final.items()}  # fmt: skip
        metrics = [*found.pop(OURS), *calibration_estimates(self.ours.scores())]
        differences = {name: [results.compare_aurocs(self.ours, self.final[name])] for name in found}
        rivals = {name: found.pop(name) for name in (ATTENTION, BAGS, PROBE) if name in found}
        return Comparison(metrics, found, rivals, differences, RULE)

    def validation_auroc(self) -> float:
        """AUROC on training patients of inner folds, mean over the tested folds: what a search may choose by."""
        return float(np.mean([rule.auroc[rule.aggregation] for rule in self.ours.rules]))

    def chosen(self) -> pd.DataFrame:
        """What was chosen: a row per fold, or the one that was applied to HoldOut."""
        return results.chosen_rules(self.ours)

    def repeats(self) -> pd.DataFrame:
        """AUROC of every method in every repeat of the folds."""
        return results.repeats_table(self.final)

    def held_out(self) -> str:
        """How the patients of the headline were held out, for the checklist."""
        if not self.has_hold_out:
            return "no external data, and no hold-out: nested folds over patients"
        return (f"no external data: an internal hold-out of {len(self.ours.table)} patients of the same set, on whom "
                f"{len(self.final)} methods were applied under one threshold rule")  # fmt: skip

    def window_score(self) -> str:
        """The window score that most rules chose."""
        picked = [rule.window.score for rule in self.ours.rules]
        return max(dict.fromkeys(picked), key=picked.count)

    def decides(self) -> str:
        """Which scores the decisions come from, most frequent first."""
        chosen = Counter(f"{rule.window.score} → {rule.aggregation}" for rule in self.ours.rules)
        return "; ".join(f"{name} ({count} of {len(self.ours.rules)})" for name, count in chosen.most_common())

    def decisions(self) -> pd.DataFrame:
        """Who is right where the other is wrong (exact McNemar test), the method beside every other."""
        rows = {}
        for name in [name for name in self.final if name != OURS]:
            test = results.compare_decisions(self.ours, self.final[name])
            p = printed_p(test.p).removeprefix("P ").removeprefix("= ")
            rows[name] = {"right here only": test.first_only, "right there only": test.second_only, "P": p}
        return pd.DataFrame.from_dict(rows, orient="index")

    def windows(self) -> Comparison:
        """AUROC of the window score that most folds chose, beside every other, on annotated windows of unseen patients.

        They are those of the headline's patients, where these are annotated, else those in folds.
        """
        known = any((part.label == 0).any() and (part.label == 1).any() for part in self.ours.parts)
        found, chosen = self.ours if known else self.in_folds[OURS], self.window_score()
        scores = {name: found.window_scores(name) for name in found.parts[0].scores}
        ours = scores.pop(chosen)
        value = {name: [replace(interval(one, "auroc"), split=found.split)] for name, one in scores.items()}
        gain = {name: [paired_difference(ours, one, "auroc")] for name, one in scores.items()}
        simple = {RED: value.pop(RED)} if RED in value else {}
        return Comparison(
            [replace(interval(ours, "auroc"), split=found.split)], simple, value, gain, RED if simple else ""
        )

    def operating_points(self, rules: Sequence[str] = OPERATING_RULES) -> pd.DataFrame:
        """The development patients in folds under several threshold rules: HoldOut is not looked at for this.

        Returns:
            One row per rule with Estimates of ``sensitivity``, ``specificity`` and ``accuracy`` (Wilson).
        """
        rows, metrics = {}, ("sensitivity", "specificity", "accuracy")
        for name in rules:
            found = diagnose_windows(self.development, replace(self.choices, rule=name), learn=self.learner)
            decision = found.table["decision"].to_numpy()
            rows[name] = [replace(interval(found.scores(), metric, decision=decision), split="folds")
                          for metric in metrics]  # fmt: skip
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(metrics))

    def regret(self) -> pd.DataFrame | None:
        """``results.threshold_regret`` where a column ``bacteria`` tells the truth of every window, as in a phantom."""
        if "bacteria" not in self.patches.columns:
            return None
        return results.threshold_regret(self.ours, self.patches.column("bacteria") > 0)

    def decision_matrix(self) -> np.ndarray:
        """Confusion of decisions, truth in rows. **Shape** ``(2, 2)``."""
        return confusion_matrix(self.ours.table["truth"].to_numpy(), self.ours.table["decision"].to_numpy(), 2)

    def predictive(self) -> pd.DataFrame:
        """Predictive values of the decisions at stated prevalences."""
        return prevalence_table(self.ours.scores(), self.ours.table["decision"].to_numpy())

    def levels(self) -> list[str]:
        """The levels of density in words."""
        return [LEVEL_NAMES.get(name, name) for name in self.cohort.levels]

    def kappa(self) -> Estimate:
        """Quadratic-weighted kappa of the density levels."""
        return results.density_kappa(self.ours, len(self.cohort.levels))

    def density_matrix(self) -> np.ndarray:
        """Confusion of density levels, truth in rows. **Shape** ``(L, L)``."""
        table = self.ours.table
        return confusion_matrix(table["true_level"].to_numpy(), table["level"].to_numpy(), len(self.cohort.levels))

    def window_counts(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """What the bare number of windows says, and the results by number of windows."""
        return count_table(self.final, self.in_folds[OURS], COUNT, seed=self.choices.seed), _for_readers(
            by_window_count(self.ours)
        )

    def reader(self) -> pd.DataFrame:
        """What a reader of the annotations could know of the patients of the headline."""
        return reader_table(self.ours, self.in_folds[OURS])

    # --- every patient --------------------------------------------------------------------------------------------

    @cached_property
    def window_table(self) -> pd.DataFrame:
        """Every window of the patients of the headline, most suspicious first."""
        return results.window_table(self.ours)

    def wrong(self) -> pd.DataFrame:
        """The patients diagnosed wrongly, with what is known of their windows."""
        return results.wrong_patients(self.ours, self.window_table, few=self.choices.few_windows)

    def gallery(self, most: int = 24, *, count: int = 3, side: int = 96) -> dict[str, object]:
        """Wrong patients and some right ones with their most suspicious windows, for ``plots.patient_gallery``.

        Beside each window is the map of what its score looks at, by the model that has not seen the patient.
        """
        listed = results.patients_to_show(self.ours, most=most)
        rows = results.suspicious_rows(self.window_table, listed["patient"].tolist(), count)
        pictures = np.full((len(listed), count, side, side, 3), 255, np.uint8)
        maps = np.zeros((len(listed), count, side, side), np.float32)
        for rule, part in zip(self.ours.rules, self.ours.parts, strict=True):
            own = np.isin(listed["patient"].to_numpy(dtype=str), part.names)[:, None] & (rows >= 0)
            if own.any():
                excluded = np.isin(self.tester.cohort.names, part.names)
                found = self.deciding_maps(rows[own], excluded, rule.window.score)
                pictures[own] = resize(self.patches.take(rows[own]), (side, side), "bicubic")
                maps[own] = [resize(one, (side, side), "bicubic") for one in found]
        columns = {"decision": "decision", "truth": "truth"}
        words = {name: np.array(PATIENT_CLASSES)[listed[column]].tolist() for name, column in columns.items()}
        return {"windows": pictures, "maps": coloured_map(maps, rows >= 0), "patient": listed["patient"].tolist(),
                "score": listed["margin"].tolist(), **words}  # fmt: skip

    def deciding_maps(self, rows: np.ndarray, excluded: np.ndarray, score: str) -> np.ndarray:
        """Where a window score finds what it finds. **Shape** ``(n,)`` rows to ``(n, H, W)`` float32, at least 0."""
        for kind, name in ERRORS.items():
            if name == score:
                return self.tester.error_maps(rows, excluded, kind)
        images = self.patches.take(rows)
        if score == RED:
            return redness(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).numpy()
        brown = brown_map(images).clip(0)
        return np.stack([thinner_than_a_rod(one) for one in brown]) if score == FOREST else brown


def _for_readers(by_number: pd.DataFrame) -> pd.DataFrame:
    """``reader.by_window_count`` with words and few digits."""
    words = {"windows": "windows a patient", "auroc": "AUROC", "mean_score_healthy": "score of the healthy"}
    return by_number.rename(columns=words).set_index("windows a patient").round(2)


def coloured_map(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Values from white (none) over orange to black (the largest percentile). **Shape** ``(…)`` to ``(…, 3)`` uint8."""
    limit = float(np.quantile(values[there], 0.995)) or 1.0
    share = np.clip(values / limit, 0, 1)[..., None]
    low, middle, high = np.array([255, 255, 255]), np.array([230, 120, 0]), np.array([40, 0, 0])
    mixed = np.where(share < 0.5, low + 2 * share * (middle - low), middle + (2 * share - 1) * (high - middle))
    return mixed.round().astype(np.uint8)
