"""Run: what a notebook says of itself while it runs, and ``results.json`` when it ends.

    run = Run.start("06_patch_classification", globals())   # checks parameters, seeds, chooses the device
    run.use(patches)                                        # data card, fingerprint, split table
    run.record(estimate)                                    # a metric with its interval; the first is the headline
    run.compare("colour histogram", estimate)               # a baseline beside it
    run.finish("…one computed sentence…")                   # writes results.json

- The folder comes from ``MEDCORE_RUN_DIR`` (set by ``medcore reports``), else ``reports/interactive/<notebook>``.
- An unknown name that papermill injected is refused here too, so plain papermill is as strict as ``medcore reports``.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medcore.data.audit.audit import Audit
from medcore.data.npzfile import atomic_path
from medcore.data.parallel import thread_share
from medcore.data.patchset import PatchSet
from medcore.data.source import reports_home
from medcore.data.splits import split_table
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.comparison import Comparison, strongest
from medcore.evaluation.estimate import cases_of, metric_name
from medcore.evaluation.intervals import Estimate
from medcore.evaluation.scores import Scores
from medcore.plots import style
from medcore.plots.display import front_end
from medcore.reporting import environment
from medcore.reporting.checklist import fill_checklist
from medcore.reporting.folders import MARK, PARTIAL, TRAINING
from medcore.reporting.parameters import Parameters, did_you_mean, literals, schema_for, validate
from medcore.reporting.results import AuditFacts, Data, MethodEstimate, Results, Validation, json_types, write_results
from medcore.reporting.wording import (
    CONTROL,
    REPEATED,
    SMOKE_LINE,
    comparison_sentence,
    escape_markdown,
    limits_of,
    shortcut_warning,
    table_html,
    without_active_parts,
)
from medcore.training.checkpoint import PUBLISHED
from medcore.training.device import choose_device

RESULTS_TYPE = "application/vnd.medcore.results+json"
RUN_FOLDER_VARIABLE = "MEDCORE_RUN_DIR"
INJECTED = "# Parameters\n"  # how papermill begins the cell that it adds


class Run:
    """One execution of one notebook.

    Attributes:
        notebook: Stem of the notebook.
        parameters: The validated parameters with the profile filled in.
        device: Where models and pixels live.
        folder: Where everything of this run is written.
        results: The growing content of ``results.json``.
    """

    def __init__(self, notebook: str, given: Parameters, device: torch.device, folder: Path, title: str) -> None:
        self.notebook, self.device, self.folder = notebook, device, folder
        self.parameters = given.resolved()
        self._started = time.monotonic()
        changed = {name: getattr(given, name) for name in given.changed()}
        self.results = Results(
            notebook=notebook,
            title=title or notebook,
            parameters=json_types(self.parameters.model_dump()),
            changed=sorted(changed),
            environment=environment.describe_machine(device),
            command=environment.command_for(notebook, changed),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def start(cls, notebook: str, namespace: Mapping[str, Any], *, title: str = "") -> Run:
        """Check the parameters, seed everything, choose the device and the folder, and say so.

        Args:
            notebook: Stem (or path) of the notebook.
            namespace: ``globals()`` of the notebook: holds its parameters by name.

        Raises:
            MedcoreError: A parameter is unknown, of the wrong type or out of range; the device does not exist.
        """
        history = [str(source) for source in namespace.get("In", [])]
        schema = schema_for(notebook, [source for source in history if not source.startswith(INJECTED)])
        _refuse_unknown(history, schema)
        given = {name: namespace[name] for name in schema.model_fields if name in namespace}
        parameters = schema.model_validate(validate(notebook, given, schema))
        device = choose_device(parameters.device)
        stem = Path(notebook).stem
        folder = Path(os.environ.get(RUN_FOLDER_VARIABLE) or reports_home() / "interactive" / stem)
        folder.mkdir(parents=True, exist_ok=True)
        seed_everything(parameters.seed)
        torch.set_num_threads(thread_share())  # here as in `medcore reports`: the same seed, the same weights
        style.use()
        pd.set_option("display.max_colwidth", None)
        pd.set_option("display.html.use_mathjax", False)  # a name in a table is no formula
        run = cls(stem, parameters, device, folder, title)
        write_results(folder, run.results)
        print(run)
        return run

    def __repr__(self) -> str:
        env = self.results.environment
        return (
            f"medcore {env['medcore']} · {self.notebook} · profile {self.parameters.profile} · seed "
            f"{self.parameters.seed} · {env['device']} ({env['threads']} threads) · torch {env['packages']['torch']}\n"
            f"Research and teaching only: not for clinical use."
        ) + (f"\n{SMOKE_LINE}" if self.parameters.profile == "smoke" else "")

    def use(self, patches: PatchSet) -> PatchSet:
        """Record the set that the run stands on, with its split table; returns it."""
        card = patches.card
        facts = card.as_dict() | {
            "fingerprint": patches.fingerprint,
            "images": len(patches),
            "shape": patches.shape,
            "columns": patches.columns,
            "patients": len(np.unique(patches.patients)),
            "source": str(self.parameters.data),
            "splits": split_table(patches).reset_index().to_dict("records"),
        }
        self.results.data = Data.model_validate(json_types(facts))
        self._patches = patches
        for text in card.warnings:
            self.warn(text)
        return patches

    def save_model(self, path: Path) -> Path:
        """Leave ``model`` with its card, once all is recorded; ``path`` is a training's folder or ``model`` itself."""
        from medcore.reporting.cards.model_card import hand_on
        from medcore.studies.validation.mix import describe_mix

        target = hand_on(path, self.model_folder, self.results, describe_mix(self._patches))
        self.describe_model(folder=f"{self.folder.name.removesuffix(PARTIAL)}/{target.name}")
        return target

    @property
    def model_folder(self) -> Path:
        """Where the model of this run is handed on from."""
        return self.folder / PUBLISHED

    def audited(self, audit: Audit) -> Audit:
        """Record the verdict of the leakage audit; returns it."""
        self.results.audit = AuditFacts.model_validate(json_types(audit.as_dict()))
        return audit

    def describe_model(self, model: torch.nn.Module | None = None, **facts: Any) -> None:
        """Record which model was used: its specification, weights and where it came from."""
        if model is not None:
            facts = {"spec": getattr(model, "spec", {}), "weights": sum(p.numel() for p in model.parameters())} | facts
            if facts.get("name") != self.results.model.get("name"):
                self.results.model = {}  # another model: what was said of the first holds no more
        self.results.model |= json_types(facts)

    def record(self, *estimates: Estimate) -> None:
        """Record metrics in order of importance; the first of a run is its headline."""
        self.results.metrics += [self._in_units_of_the_set(estimate) for estimate in estimates]

    def compare(
        self, baseline: str, *estimates: Estimate, differences: Iterable[Estimate] = (), trivial: bool = True
    ) -> None:
        """Record what another method reaches on the same cases.

        Args:
            differences: Of the run minus that method.
            trivial: Whether it is a baseline that any model has to beat; False for a rival, or for a way of measuring
                that flatters.
        """
        self.results.baselines += [self._beside(estimate, baseline, trivial) for estimate in estimates]
        self.results.differences += [self._beside(difference, baseline) for difference in differences]

    def result(self, comparison: Comparison, *further: Comparison) -> Comparison:
        """Record a method, its baselines and rivals, the differences to the reference and the rivals, and what to fear.

        A warning is recorded where the strongest baseline alone goes more than half of the way from chance to the
        method. ``further`` results (of folds, of another part) follow the leading one, which is returned.
        """
        self._record_comparison(comparison)
        best = strongest(comparison.baselines)
        if best:
            classes = len(self.results.data.classes)
            warning = shortcut_warning(comparison.metrics[0], best, comparison.baselines[best][0], classes)
            self.results.warnings += [warning] * bool(warning)
        for one in further:
            self._record_comparison(one)
        return comparison

    def _record_comparison(self, comparison: Comparison) -> None:
        self.record(*comparison.metrics)
        for methods, trivial in ((comparison.baselines, True), (comparison.rivals, False)):
            for name, estimates in methods.items():
                told = comparison.differences.get(name, []) if name == comparison.reference or not trivial else []
                self.compare(name, *estimates, differences=told, trivial=trivial)

    def sentence(self, comparison: Comparison, method: str = "The method") -> str:
        """A method beside its reference and its rivals, for a reader; it names the set's own unit."""
        return re.sub(r"\bpatient(s?)\b", rf"{self.unit}\1", comparison_sentence(comparison, method))

    def _in_units_of_the_set(self, estimate: Estimate) -> Estimate:
        """The estimate in words that fit: intervals speak of patients, and this set may have lesions or bare images."""
        if not self.results.data.fingerprint:
            return estimate
        method, note = (
            re.sub(r"\bpatient(s?)\b", rf"{self.unit}\1", text) for text in (estimate.method, estimate.note)
        )
        return replace(estimate, method=method, note=note)

    def _beside(self, estimate: Estimate, method: str, trivial: bool = True) -> MethodEstimate:
        return MethodEstimate(**self._in_units_of_the_set(estimate).as_dict(), baseline=method, trivial=trivial)

    def validated(self, name: str, value: float, mode: str) -> None:
        """Record the metric that choices may be based on, from validation data: what ``medcore sweep`` searches by.

        Raises:
            TestDataRefused: The name says that it was measured on test data.
        """
        if name.startswith("test"):
            raise TestDataRefused(f"validated({name!r}): a search would then choose by test data; give a val_… metric")
        self.results.validation = Validation.model_validate({"name": name, "value": float(value), "mode": mode})

    def warn(self, text: str) -> None:
        """Record a sentence that every reader of the report must see."""
        if text not in self.results.warnings:
            self.results.warnings.append(text)

    def answer(self, **answers: str) -> None:
        """Answer questions of the reporting guidelines, as in ``answer(threshold="Youden on validation")``.

        Known names: subset, missing_data, training, selection, threshold, calibration, robustness, explanation,
        subgroups, external_test, failures. All but threshold, robustness, explanation, external_test and failures are
        filled from parameters, validation and metrics where nothing is said here.
        """
        self.results.answers |= {name.replace("_", " "): text for name, text in answers.items()}

    def say(self, text: str, **names: object) -> None:
        """Show Markdown with computed values in the notebook (printed where there is no notebook).

        Emphasis, lists and code work; HTML, links, pictures and formulas do not, because a value may be a name from a
        file that somebody else wrote. Such a name shows its very characters where it is given as ``{name}`` by name:
        ``say("Most often **{worst}**.", worst=patches.classes[3])``.
        """
        shown, plain = without_active_parts(text), CONTROL.sub("", text)
        for name, value in names.items():
            shown = shown.replace(f"{{{name}}}", escape_markdown(value))
            plain = plain.replace(f"{{{name}}}", str(value))
        _display({"text/markdown": shown, "text/plain": plain}, plain)

    def table(self, content: pd.DataFrame | pd.Series | None, title: str) -> None:
        """Show a table with its title, which a report numbers; nothing where there is no table."""
        if content is not None:
            shown, plain = table_html(pd.DataFrame(content), title), f"{title}\n{content}"
            known = {REPEATED: True} if content.attrs.get(REPEATED) else {}
            _display({"text/html": shown, "text/plain": plain}, plain, **known)

    def on(self, part: PatchSet | Scores) -> str:
        """How many cases of how many patients, for captions: ``427 patches of 57 patients``."""
        groups = len(np.unique(part.patients if isinstance(part, PatchSet) else part.patient))
        images = cases_of(len(part), self.results.data.case if isinstance(part, PatchSet) else part.unit)
        return images if groups == len(part) else f"{images} of {cases_of(groups, self.unit)}"

    @property
    def unit(self) -> str:
        """What the patients of the set are: ``patient``, ``lesion``, or ``image`` where none is known."""
        return self.results.data.unit

    @property
    def cases(self) -> str:
        """What the images of the set are, in the plural: ``images``, ``patches`` or ``windows``."""
        return cases_of(2, self.results.data.case).removeprefix("2 ")

    def training_folder(self) -> Path:
        """Where ``fit`` writes, without the history and checkpoints of another run.

        Those of the same run that was broken off stay under ``medcore reports``: ``fit(…, resume=True)`` goes on there.
        """
        if not (self.folder / MARK).exists():
            shutil.rmtree(self.folder / TRAINING[0], ignore_errors=True)
            shutil.rmtree(self.model_folder, ignore_errors=True)
            (self.folder / TRAINING[1]).unlink(missing_ok=True)
        return self.folder

    def save_predictions(self, scores: Scores, name: str = "predictions") -> Path:
        """Write ``NAME.npz``: truth, score, patient, split, classes, ids and repeats of folds of every case.

        ``out_of_fold`` is the name that ``medcore audit --labels`` looks for.
        """
        path = self.folder / f"{name}.npz"
        folds: dict[str, Any] = {}
        if scores.folds is not None:
            folds = {"folds_score": scores.folds.score, "folds_fold": scores.folds.fold}
        ids = np.arange(len(scores)) if scores.ids is None else scores.ids
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, truth=scores.truth, probabilities=scores.score, patient=scores.patient, split=scores.split,
                classes=np.array(scores.classes), ids=ids, fingerprint=np.array(self.results.data.fingerprint),
                **folds,
            )  # fmt: skip
        return path

    def limits(self) -> str:
        """What the result does not show, as Markdown built from the facts of the run."""
        return "\n".join(f"- {sentence}" for sentence in limits_of(self.results))

    def headline(self, *, across: bool = False) -> pd.DataFrame:
        """Metrics and baselines in one table.

        Args:
            across: A row per metric and a column per method, for many metrics of few methods; else a row per value with
                its method.
        """
        value = "value (95 % CI)"
        rows = [("this model", row) for row in self.results.metrics] + [(b.baseline, b) for b in self.results.baselines]
        table = pd.DataFrame([
            {
                "model": model,
                "metric": metric_name(row.name),
                value: str(row),
                "cases": f"{cases_of(row.n, row.unit)}, {row.split}".replace(" ", "\u00a0"),
                "method": row.method,
            }
            for model, row in rows
        ])  # fmt: skip
        table.attrs[REPEATED] = True
        if not across:
            return table.set_index("model")
        wide = table.pivot_table(value, index=["metric", "cases"], columns="model", aggfunc="first")
        order = list(dict.fromkeys(zip(table["metric"], table["cases"], strict=True)))
        wide = wide.loc[order, list(dict.fromkeys(table["model"]))].fillna("").reset_index("cases")
        wide.attrs[REPEATED] = True
        return wide.rename_axis(columns=None)

    def finish(self, summary: str = "", *, answer: str = "") -> dict[str, Any]:
        """Write ``results.json`` with status ``ok``; returns its content.

        Args:
            summary: One sentence with the main result, rendered from computed values.
            answer: One plain sentence that answers the title; by default it is built from the headline.

        Raises:
            MedcoreError: The run recorded no metric or no data: a report without a result would look whole.
        """
        results = self.results
        if not results.metrics or not results.data.fingerprint:
            raise MedcoreError(
                f"run {self.notebook}: record data with use() and a metric with record() before finish()"
            )
        results.status, results.summary, results.answer = "ok", summary, answer
        results.seconds = round(time.monotonic() - self._started, 2)
        results.peak_memory_bytes = environment.peak_memory_bytes()
        results.checklist = fill_checklist(results)
        write_results(self.folder, results)
        text = f"results: {self.folder / 'results.json'} after {results.seconds:.0f} s"
        # The results also travel inside the notebook, for `papermill` and `nbconvert --to medcore` without a runner.
        content = results.as_dict()
        _display({RESULTS_TYPE: content, "text/plain": text}, text)
        return content


def _display(bundle: dict[str, Any], text: str, **metadata: Any) -> None:
    """Show something in the notebook, or print its text where there is none."""
    if send := front_end():
        send(bundle, metadata=metadata, raw=True)
    else:
        print(text)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch; training draws from counter-based seeds of its own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _refuse_unknown(history: list[str], schema: type[Parameters]) -> None:
    """Names that papermill injected but nobody declared; papermill itself only warns."""
    for source in history:
        for name in literals(source, "parameters") if source.startswith(INJECTED) else {}:
            if name not in schema.model_fields:
                raise MedcoreError(f"no parameter {name!r}{did_you_mean(name, list(schema.model_fields))}")
