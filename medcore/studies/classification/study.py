"""One classification study: its sides, its baselines, its scores and its results, on one object.

    study = ClassificationStudy.read("phantom-crc", limit=2000)
    compared = study.judge(network)              # test patients: metrics, baselines, paired differences

- Whatever chooses (the reference baseline, the temperature, variants) sees validation data only.
- Every method answers under the same prior: where the loss weighs classes equally, the baselines' class shares are
  divided out as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit
from torch import nn

from medcore.data.load import limit_images, one_label, read_set
from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits, check_enough, group_names, patient_folds, unit_of
from medcore.errors import MedcoreError
from medcore.evaluation import calibration
from medcore.evaluation.baselines import baseline_names, run_baselines
from medcore.evaluation.comparison import Comparison, compare_methods, strongest
from medcore.evaluation.estimate import Estimate
from medcore.evaluation.explain import grad_cam, randomisation_check
from medcore.evaluation.intervals import interval
from medcore.evaluation.predict import predict
from medcore.evaluation.predictor import equip
from medcore.evaluation.scores import Scores
from medcore.evaluation.tables import classification_table
from medcore.metrics.confusion import confusion_matrix
from medcore.models.classifier import Classifier, build_classifier
from medcore.studies.choices import TrainsClassifiers
from medcore.studies.classification.abstention import Abstention, judge_abstention
from medcore.studies.classification.choices import ClassificationChoices, variant_changes
from medcore.studies.classification.encoded import Encoded
from medcore.studies.classification.results import (
    Calibrated,
    Explained,
    JudgedNetwork,
    commonest_of,
    surest_mistakes,
)
from medcore.studies.classification.robustness import falls_of, robustness_table
from medcore.studies.experiments import (
    CrossPrediction,
    TrainAndPredict,
    Variants,
    baseline_method,
    compare_variants,
    cross_predict,
    network_method,
    subgroup_table,
    without_prior,
)
from medcore.studies.preprocessing import select_classes
from medcore.training.batches import suitable_size
from medcore.training.checkpoint import load_checkpoint
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification
from medcore.training.reuse import fine_tune


class ClassificationStudy(TrainsClassifiers):
    """The sides, baselines, scores and results of one study; see the top of this file."""

    def __init__(self, patches: PatchSet, choices: ClassificationChoices | None = None, *, seed: int = 0) -> None:
        """Keep the set with its splits and the choices."""
        self.patches, self.seed = patches, seed
        self.choices = choices or ClassificationChoices()
        self.train, self.validation, self.test = (patches.where(split=side) for side in ("train", "val", "test"))
        self.objective = Classification(patches.classes, class_weights=self.choices.class_weights)
        self.histogram = baseline_names(patches)[-1]
        self.encoded = Encoded()
        self._judged: JudgedNetwork | None = None

    @classmethod
    def read(
        cls,
        source: str,
        *,
        limit: int | None = None,
        classes: Sequence[str] | int | None = None,
        seed: int = 0,
        choices: ClassificationChoices | None = None,
        **options: Any,
    ) -> ClassificationStudy:
        """Read a set, leave unlabelled images out, take at most ``limit`` images, split over patients.

        Args:
            source: As for ``read_set``, which takes ``options`` as well.
            classes: Only these classes, or so many of the commonest; None takes all.
        """
        patches = one_label(read_set(source, seed=seed, **options))
        patches = patches.select(patches.labels >= 0)
        patches = limit_images(patches if classes is None else select_classes(patches, classes), limit, seed=seed)
        patches = assign_splits(patches, seed=seed)
        notes = [*patches.card.warnings, *check_enough(patches)]  # in milliseconds, not after the training
        return cls(patches.with_card(replace(patches.card, warnings=notes)), choices, seed=seed)

    @property
    def case(self) -> str:
        """What one image of the set is: ``image``, ``patch`` or ``window``."""
        return self.patches.card.case

    @property
    def chance(self) -> float:
        """Balanced accuracy of guessing."""
        return 1 / len(self.patches.classes)

    # --- before the network

    @cached_property
    def baselines(self) -> dict[str, Scores]:
        """Trivial methods trained on the training images, on the test images."""
        return self.answers_of_baselines(self.test)

    @cached_property
    def reference(self) -> str:
        """The baseline that the result is set against: the strongest on validation data."""
        first = self.choices.metrics[0]
        found = self.answers_of_baselines(self.validation)
        return strongest({name: [interval(scores, first)] for name, scores in found.items()})

    def answers_of_baselines(self, held_out: PatchSet) -> dict[str, Scores]:
        """The baselines' scores of some images, under the same prior as the network."""
        answers = run_baselines(self.train, held_out, seed=self.seed)
        return {name: Scores.from_set(held_out, self._fair(name, said)) for name, said in answers.items()}

    def _fair(self, name: str, answers: np.ndarray) -> np.ndarray:
        balanced = self.choices.class_weights == "balanced" and name != "majority"
        return without_prior(answers, self.train) if balanced else answers

    def tensors(self, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """All images of a side, **Shape** ``(B, C, H, W)`` from 0 to 1, and their labels ``(B,)``: for small sets."""
        part = self.patches.where(split=side)
        images = torch.from_numpy(np.ascontiguousarray(part.take().transpose(0, 3, 1, 2)))
        return images.float() / 255, torch.from_numpy(part.labels.astype(np.int64))

    def build(self, model: str, weights: str | None = None, *, like: PatchSet | None = None) -> Classifier:
        """A fresh classifier for images like those of the training; ``weights`` is ``imagenet``, a file or None."""
        train = self.train if like is None else like
        (side, _, channels), stain = train.shape, self.choices.staining(train)
        options: dict[str, Any] = {"in_channels": channels, "image_size": side, "stain": stain}
        return build_classifier(model, len(self.patches.classes), weights=weights, **options)

    def config(self, recipe: str, *, pretrained: bool = False, **settings: Any) -> TrainConfig:
        """A training's settings: those given and the study's choices."""
        frozen = self.choices.frozen_epochs if pretrained else 0
        return super().config(recipe, pretrained=pretrained, frozen_epochs=frozen, **settings)

    # --- the result

    def validation_by_epoch(self, folder: Path, which: Sequence[str | int]) -> dict[str, Estimate]:
        """The headline metric on validation data of stored epochs: ``best``, ``last`` or a number."""
        return {
            str(name): interval(
                self.score(load_checkpoint(folder, name).model, self.validation), self.choices.metrics[0]
            )
            for name in which
        }

    def score(self, network: nn.Module, ps: PatchSet, *, temperature: float = 1.0) -> Scores:
        """What a network says of some images."""
        if isinstance(network, Classifier):
            return Scores.from_set(ps, self.encoded.probabilities(network, ps, temperature))
        return Scores.from_set(ps, predict(network, ps, temperature=temperature))

    def better(self, networks: Mapping[str, Classifier]) -> tuple[str, dict[str, Estimate]]:
        """The network with the highest headline metric on validation data (the first of equals), and the metrics."""
        part, metric = self.validation, self.choices.metrics[0]
        found = {name: interval(self.score(one, part), metric) for name, one in networks.items()}
        return strongest({name: [value] for name, value in found.items()}), found

    def judge(self, network: Classifier, rivals: Mapping[str, Classifier] | None = None) -> Comparison:
        """A network on test data beside the baselines and other networks; the study keeps it and its scores."""
        self._judged = JudgedNetwork(network, self.score(network, self.test), self.score(network, self.validation))
        others = {name: self.score(one, self.test) for name, one in (rivals or {}).items()}
        metrics, reference = self.choices.metrics, self.reference
        return compare_methods(self.scores, self.baselines, metrics=metrics, rivals=others, reference=reference)

    @property
    def judged(self) -> JudgedNetwork:
        """The network that was judged and what it said.

        Raises:
            MedcoreError: None was.
        """
        if self._judged is None:
            raise MedcoreError("this study has no result yet: call study.judge(network) first")
        return self._judged

    @property
    def network(self) -> Classifier:
        """The network that was judged."""
        return self.judged.network

    @property
    def scores(self) -> Scores:
        """What it said of the test images."""
        return self.judged.scores

    @property
    def on_validation(self) -> Scores:
        """What it said of the validation images."""
        return self.judged.on_validation

    @property
    def test_is_small(self) -> bool:
        """Whether the test part is too small for its figure to lead."""
        units = len(set(group_names(self.test)))
        return len(self.test) < self.choices.fewest_test_images or units < self.choices.fewest_test_units

    def cross_predict(
        self,
        model: str,
        weights: str | None,
        config: TrainConfig,
        *,
        k: int,
        epochs: int,
        limit: int | None = None,
        further: Mapping[str, TrainAndPredict] | None = None,
    ) -> CrossPrediction:
        """Every image predicted by a network, ``further`` methods and the histogram, that never saw its patient.

        ``epochs`` and ``limit`` keep it short. Where the test part is small its figure leads: then all images take part
        and the networks train as long as ``config`` says.
        """
        pool = limit_images(self.patches, None if self.test_is_small else limit, seed=self.seed)
        epochs = config.epochs if self.test_is_small else epochs
        config = replace(config, epochs=epochs, batch_size=suitable_size(len(pool)), augment_until=None)
        even = self.choices.class_weights == "balanced"
        methods = {
            model: network_method(lambda train: self.build(model, weights, like=train), self.objective, config),
            **(further or {}),
            self.histogram: baseline_method(self.histogram, seed=config.seed, balanced=even),
        }
        return cross_predict(pool, methods, patient_folds(pool, k, seed=config.seed))

    def results(self, method: str, compared: Comparison, crossed: CrossPrediction | None) -> list[Comparison]:
        """The leading figure first: the test part's, or that of folds where it is small, without images that chose."""
        if not crossed:
            return [compared]
        unused = ("train", "test") if len(crossed.scores) > 2 else ()
        settings: dict[str, Any] = {"metrics": [name for name in self.choices.metrics if name != "auroc"]}
        settings["trivial"] = [self.histogram]
        folds = [crossed.compare(method, *sides, **settings) for sides in (unused, ("test",))]
        return [folds[0], compared, folds[1]] if self.test_is_small else [compared, *folds]

    def repeat(self, model: str, weights: str | None, config: TrainConfig, repeats: int) -> Estimate:
        """The headline metric of this and of ``repeats`` further trainings from other seeds, on the same test data.

        Returns:
            The mean, with the limits of Student's t over the trainings: test data held fixed.
        """
        metric = self.choices.metrics[0]
        scores = [self.scores]
        for number in range(1, repeats + 1):
            again = replace(config, seed=config.seed + number)
            scores.append(self._trained(model, weights, self.train, again, self.test))
        values = np.array([interval(found, metric).value for found in scores], dtype=float)
        half = float(stdtrit(repeats, 0.975) * values.std(ddof=1) / np.sqrt(repeats + 1))
        mean, n = float(values.mean()), len(self.scores)
        return Estimate(
            f"{metric}_over_seeds", mean, max(0.0, mean - half), min(1.0, mean + half), n, self.case, "test",
            method=f"Student's t over {repeats + 1} trainings, test data fixed",
            note=f"single trainings: {', '.join(f'{value:.3f}' for value in values)}; SD {values.std(ddof=1):.3f}",
        )  # fmt: skip

    def _trained(
        self, model: str, weights: str | None, train: PatchSet, config: TrainConfig, judged: PatchSet
    ) -> Scores:
        torch.manual_seed(config.seed)
        network = self.build(model, weights, like=train)
        fit(network, self.objective, train, self.validation, config, progress=False)
        return self.score(network, judged)

    # --- behind the result

    def beside(self, scores: Scores, others: Sequence[str]) -> Comparison:
        """Any method's scores of the test images beside some baselines; the first of them is the reference."""
        baselines = {name: self.baselines[name] for name in others}
        return compare_methods(scores, baselines, metrics=self.choices.metrics, reference=others[0])

    def confusion(self, scores: Scores | None = None) -> np.ndarray:
        """Test cases by truth (rows) and answer, the judged network's by default. **Shape** ``(K, K)``."""
        scores = self.scores if scores is None else scores
        return confusion_matrix(scores.truth, scores.predicted, len(self.patches.classes))

    def commonest_confusion(self) -> tuple[str, str, int, int]:
        """True class, answer, how often, and of how many of the true class."""
        return commonest_of(self.confusion(), self.patches.classes)

    def per_class(self) -> pd.DataFrame:
        """Sensitivity, specificity, PPV, NPV and F1 of each class on test data."""
        return classification_table(self.scores).rename(columns={"patients": f"{unit_of(self.patches)}s"})

    def class_aurocs(self) -> dict[str, str]:
        """AUROC of each class that has test cases against the rest, printed with its interval."""
        present = [name for k, name in enumerate(self.patches.classes) if (self.scores.truth == k).any()]
        return {name: str(interval(self.scores, "auroc", positive=name)) for name in present}

    def mistakes(self) -> dict[str, Any]:
        """The surest wrong answers, as arguments of ``plots.worst_mistakes``."""
        return surest_mistakes(self.scores, self.test, self.choices.mistakes)

    def calibrate(self) -> Calibrated:
        """Choose a temperature on validation data and look what it does on test data."""
        logits = np.log(np.maximum(self.on_validation.score, 1e-12))
        fitted = calibration.fit_temperature(replace(self.on_validation, score=logits))
        calibrated = self.score(self.network, self.test, temperature=fitted.value)
        before, right = calibration.stated_and_observed(self.scores)
        after, _ = calibration.stated_and_observed(calibrated)
        return Calibrated(fitted.value, self.scores, calibrated, before, after, right)

    def abstain(self, temperature: float) -> Abstention:
        """Rules for not answering, chosen on validation data, and what they do to test data."""
        validation, test = (
            self.score(self.network, ps, temperature=temperature) for ps in (self.validation, self.test)
        )
        methods = {"network": test, self.histogram: self.baselines[self.histogram]}
        return judge_abstention(validation, methods, shares=self.choices.answered, promises=self.choices.promises)

    def explain(self) -> Explained:
        """Where the network looks on some test images, and whether that depends on what it learnt."""
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(self.test))[: self.choices.maps])
        pixels, answers = self.test.take(rows), self.scores.predicted[rows]
        likeness, _ = randomisation_check(self.network, pixels, answers)
        maps = grad_cam(self.network, pixels, answers)
        names = [self.patches.classes[k] for k in answers]
        return Explained(pixels, maps, names, likeness, likeness < self.choices.maps_alike)

    def robustness(self, limit: int) -> pd.DataFrame:
        """The headline metric under corruptions that fit these images, on at most ``limit`` test images."""
        return robustness_table(self.network, self.test, metric=self.choices.metrics[0], limit=limit, seed=self.seed)

    def falls(self, table: pd.DataFrame) -> pd.DataFrame:
        """How much each corruption costs at its strongest setting, deepest first."""
        return falls_of(table)

    def subgroups(self, columns: Sequence[str]) -> pd.DataFrame:
        """The headline metric in each group of some columns."""
        return subgroup_table(self.scores, self.test, columns, metric=self.choices.metrics[0])

    def variants(
        self,
        model: str,
        weights: str | None,
        config: TrainConfig,
        *,
        limit: int | None = None,
        architectures: Sequence[str] = (),
    ) -> Variants:
        """Short trainings on at most ``limit`` images, judged on validation data."""
        few = limit_images(self.train, limit, seed=self.seed)
        short = replace(config, batch_size=suitable_size(len(few)), augment_until=None)
        stained = self.choices.may_repaint(few)
        changes = variant_changes(weights, architectures, seed=self.seed, stained=stained)

        def train_one(
            model: str = model, weights: str | None = weights, stain: str = self.choices.stain, **changed: Any
        ) -> Estimate:
            study = ClassificationStudy(self.patches, replace(self.choices, stain=stain), seed=self.seed)
            scores = study._trained(model, weights, few, replace(short, **changed), self.validation)
            return interval(scores, self.choices.metrics[0])

        return compare_variants(changes, train_one, seeds=["seed 1", "seed 2"])

    def equip(self, folder: Path, *, temperature: float, abstention: Abstention) -> None:
        """Write into the best checkpoint what prediction needs: temperature, familiarity, rules for not answering."""
        facts = {
            "rejection": {name: rule.as_dict() for name, rule in abstention.rejection.items()},
            "conformal": abstention.conformal.as_dict(),
        }
        known = partial(self.encoded.features, self.network)
        equip(folder, self.network, self.train, self.validation, known, temperature=temperature, **facts)

    def fine_tune(self, folder: Path, classes: Sequence[str]) -> tuple[Classifier, str]:
        """A network for other classes that starts from this study's weights, and what was kept."""
        return fine_tune(folder, classes)  # type: ignore[return-value]
