"""Which questions of the reporting guidelines a run answers, filled from its results.

The items are those of CLAIM 2024, TRIPOD+AI and STARD-AI that software can answer from a run; the wording is ours,
and the guidelines' own numbering is left out because it differs between them. What only the authors can know
(setting, eligibility, funding, ...) is listed as missing, so that nobody forgets it.

Reference: Tejani et al. 2024, doi:10.1148/ryai.240300 (CLAIM); Collins et al. 2024, doi:10.1136/bmj-2023-078378
(TRIPOD+AI); Sounderajah et al. 2025, doi:10.1038/s41591-025-03953-8 (STARD-AI).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from medcore.evaluation.estimate import metric_name
from medcore.reporting.results import Answer, Results
from medcore.reporting.wording import limits_of

MISSING = "missing: not recorded by this run, to be stated by the authors"
CLAIM, TRIPOD, STARD = "CLAIM 2024", "TRIPOD+AI", "STARD-AI"
ALL = (CLAIM, TRIPOD, STARD)
CHARACTERISTICS = {"sex", "age", "site", "scanner", "localization", "grade", "diagnosis"}
SETTINGS = ("model", "loss", "epochs", "images_seen", "batch_size", "lr", "schedule", "augment", "seed")


class Question(NamedTuple):
    """One question: who asks it, and how a run answers it (an empty answer means that it does not)."""

    text: str
    guidelines: tuple[str, ...]
    answer: Callable[[Results], str]


def fill_checklist(results: Results) -> list[Answer]:
    """Answer every question from the results of a run; an unanswered one says that the authors must."""
    answers = [(question, question.answer(results)) for question in QUESTIONS]
    return [
        Answer(question=asked.text, guidelines=list(asked.guidelines), answered=bool(text), answer=text or MISSING)
        for asked, text in answers
    ]


def _nothing(_: Results) -> str:
    return ""


def _told(name: str, known: Callable[[Results], str] = _nothing) -> Callable[[Results], str]:
    """What the notebook answered with ``run.answer``, else what the run knows by itself."""
    return lambda results: results.answers.get(name) or known(results)


def _split(results: Results) -> str:
    how = results.data.recipe.get("split", {})
    return f"{how.get('how', '')}; see the split table" if how else ""


def _disjoint(results: Results) -> str:
    data = results.data
    known = f"{data.group}; {data.patients} of them" if data.patients_known else "no patients known: each image alone"
    return f"audit verdict: {results.audit.verdict}; unit: {known}" if results.audit.verdict else ""


def _excluded(results: Results) -> str:
    reasons = sorted({str(row.get("reason", "")) for row in results.data.excluded})
    told = f" ({'; '.join(reasons[:3])})" if reasons else ""
    return f"{len(results.data.excluded)} excluded{told}" if results.data.fingerprint else ""


def _preprocessing(results: Results) -> str:
    recipe = {key: value for key, value in results.data.recipe.items() if key != "split"}
    return ", ".join(f"{key} {value}" for key, value in list(recipe.items())[:6])


def _subset(results: Results) -> str:
    limit = results.parameters.get("limit")
    return f"at most {limit} images (parameter limit)" if limit else ""


def _training(results: Results) -> str:
    given = {name: results.parameters.get(name) for name in SETTINGS}
    trained = results.model and given["epochs"]
    return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None) if trained else ""


def _selection(results: Results) -> str:
    return f"{results.validation.mode}imum of {results.validation.name}" if results.validation.name else ""


def _calibration(results: Results) -> str:
    rows = [row for row in results.metrics if row.name.startswith(("ece", "brier", "calibration"))]
    return ", ".join(f"{metric_name(row.name)} {row.value:.3f}" for row in rows if row.value is not None)


def _metrics(results: Results) -> str:
    return ", ".join(dict.fromkeys(metric_name(row.name) for row in results.metrics))


def _intervals(results: Results) -> str:
    methods = dict.fromkeys(row.method for row in results.metrics if row.low is not None)
    return f"95 % intervals: {', '.join(methods)}" if methods else ""


def _demographics(results: Results) -> str:
    known = [name for name in results.data.columns if name in CHARACTERISTICS]
    return f"columns at hand: {', '.join(known)}" if known else ""


def _code(results: Results) -> str:
    commit = results.environment.get("commit")
    return f"medcore {results.environment.get('medcore')}" + (f", commit {commit}" if commit else "")


def _model(results: Results) -> str:
    spec = results.model.get("spec") or {}
    return f"{spec.get('family', 'model')}, every argument listed under Model" if spec else ""


def _kind(results: Results) -> str:
    """What decides, where a notebook says so: the network that is described may only be one candidate."""
    return str(results.model.get("decides") or results.model.get("spec", {}).get("family", ""))


QUESTIONS = (
    Question("What kind of AI method is studied?", ALL, _kind),
    Question("What is the question?", ALL, lambda r: r.title),
    Question("Which intended use and role in care?", ALL, _nothing),
    Question("Prospective or retrospective; when and where were cases collected?", ALL, _nothing),
    Question("Where do the data come from?", ALL, lambda r: r.data.homepage or r.data.citation),
    Question("Under which licence?", (CLAIM, STARD), lambda r: r.data.licence),
    Question("Who was eligible?", ALL, _nothing),
    Question("How many cases were left out, and why?", ALL, _excluded),
    Question("How were images preprocessed?", ALL, _preprocessing),
    Question("Was any subset of the data selected?", (CLAIM,), _told("subset", _subset)),
    Question("How were missing data handled?", ALL, _told("missing data", _excluded)),
    Question("How were images acquired?", (CLAIM, STARD), _nothing),
    Question("What is the reference standard and who annotated it?", ALL, _nothing),
    Question("How well do annotators agree?", (CLAIM, STARD), _nothing),
    Question("How were cases assigned to train, validation and test?", ALL, _split),
    Question("At which level are the parts disjoint, and was that checked?", ALL, _disjoint),
    Question("How was the sample size determined?", ALL, _nothing),
    Question("How many cases and patients are in each part?", ALL, lambda r: "split table" * bool(r.data.splits)),
    Question("Which patient characteristics are known in each part?", ALL, _demographics),
    Question("What is the model, in detail?", ALL, _model),
    Question("How were the weights initialised?", (CLAIM, TRIPOD), lambda r: str(r.model.get("initialisation", ""))),
    Question("How was it trained (hyper-parameters, epochs, augmentation)?", ALL, _told("training", _training)),
    Question("How was the final model selected?", ALL, _told("selection", _selection)),
    Question("How was the decision threshold chosen?", ALL, _told("threshold")),
    Question("Which software was used?", ALL, lambda r: "listed under Environment" * bool(r.environment)),
    Question("Which metrics were used?", ALL, _metrics),
    Question("How uncertain are they?", ALL, _intervals),
    Question(
        "What does a simple baseline reach?", (CLAIM, TRIPOD), lambda r: ", ".join({m.baseline: 0 for m in r.baselines})
    ),
    Question("Is the model calibrated?", (TRIPOD, STARD), _told("calibration", _calibration)),
    Question("How robust is it to changed images?", (CLAIM, STARD), _told("robustness")),
    Question("How can its decisions be explained?", (CLAIM,), _told("explanation")),
    Question(
        "How does it do in subgroups (fairness)?", (TRIPOD, STARD),
        _told("subgroups", lambda r: ", ".join(r.parameters.get("subgroups") or [])),
    ),
    Question("Was it tested on external data?", ALL, _told("external test")),
    Question("Which cases does it get wrong?", (CLAIM, STARD), _told("failures")),
    Question("What are the limitations?", ALL, lambda r: f"{len(limits_of(r))} stated"),
    Question("Are code and model available?", ALL, _code),
    Question("Can the run be repeated?", ALL, lambda r: r.command),
    Question("Is there a protocol or registration; who funded the work?", ALL, _nothing),
)  # fmt: skip
