"""Which questions of the reporting guidelines a run answers, filled from its results.

The items are those of CLAIM 2024, TRIPOD+AI and STARD-AI that a study of images has to answer, in our words, with the
numbers under which CLAIM and TRIPOD+AI publish them; STARD-AI is named without a number. What only the authors can
know (setting, eligibility, funding, ...) is listed as missing, so that nobody forgets it.

Reference: Tejani et al. 2024, doi:10.1148/ryai.240300 (CLAIM); Collins et al. 2024, doi:10.1136/bmj-2023-078378
(TRIPOD+AI); Sounderajah et al. 2025, doi:10.1038/s41591-025-03953-8 (STARD-AI).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from medcore.evaluation.estimate import metric_name
from medcore.reporting.results import Answer, Results, headline_text
from medcore.reporting.wording import limits_of

MISSING = "missing"
CLAIM, TRIPOD, STARD = "CLAIM 2024", "TRIPOD+AI", "STARD-AI"
CHARACTERISTICS = {"sex", "age", "site", "scanner", "localization", "grade", "diagnosis"}
SETTINGS = ("model", "loss", "epochs", "images_seen", "batch_size", "lr", "schedule", "augment", "seed")


class Question(NamedTuple):
    """One question, and how a run answers it (an empty answer means that it does not).

    ``claim`` and ``tripod`` are the numbers of the item there, ``stard`` says whether STARD-AI asks, too. ``where`` is
    the section of the report that proves the answer: an anchor of ours, or words of a heading with ``|`` between them.
    """

    text: str
    claim: str
    tripod: str
    stard: bool
    answer: Callable[[Results], str]
    where: str = ""

    @property
    def asked_by(self) -> dict[str, str]:
        """Guideline to the number of the item in it."""
        numbered = {CLAIM: self.claim, TRIPOD: self.tripod}
        return {name: number for name, number in numbered.items() if number} | ({STARD: ""} if self.stard else {})


def fill_checklist(results: Results) -> list[Answer]:
    """Answer every question from the results of a run; an unanswered one says that the authors must."""
    answers = [(question, question.answer(results)) for question in QUESTIONS]
    return [
        Answer(question=asked.text, guidelines=list(asked.asked_by), numbers=list(asked.asked_by.values()),
               answered=bool(text), answer=text or MISSING, where=asked.where if text else "")
        for asked, text in answers
    ]  # fmt: skip


def _nothing(_: Results) -> str:
    return ""


def _told(name: str, known: Callable[[Results], str] = _nothing) -> Callable[[Results], str]:
    """What the notebook answered with ``run.answer``, else what the run knows by itself."""
    return lambda results: results.answers.get(name) or known(results)


def _split(results: Results) -> str:
    how = results.data.recipe.get("split", {})
    given = "the parts that the set gives" if any(row.get("split") == "test" for row in results.data.splits) else ""
    told = how.get("how", "") if how else given
    return f"{told}; see the split table" if told else ""


def _size(results: Results) -> str:
    """What the chosen size means: how wide the interval of the headline is. How it was planned only authors know."""
    return results.answers.get("sample size", "")


def _participants(results: Results) -> str:
    return "flow diagram" if results.data.splits else ""


def _reference(results: Results) -> str:
    return "synthetic: the truth of every pixel is drawn, nobody annotated" if results.data.synthetic else ""


def _benefit(results: Results) -> str:
    return results.answers.get("net benefit", "")


def _deidentified(results: Results) -> str:
    return "no patients: synthetic images" if results.data.synthetic else ""


def _cross_table(results: Results) -> str:
    """Where a table of decisions against the truth stands, if the notebook named it."""
    return "confusion matrix" if "confusion" in results.answers.get("failures", "") else ""


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
    Question("What kind of AI method is studied?", "1", "1", True, _kind, "model"),
    Question("What is the question?", "4", "4", True, lambda r: r.title, "result"),
    Question("Which intended use and role in care?", "3", "3b", True, _nothing),
    Question("Prospective or retrospective?", "5", "5a", True, _nothing),
    Question("When and where were cases collected?", "7", "5b, 6a", True, _nothing),
    Question("Where do the data come from?", "7", "5a", True, lambda r: r.data.homepage or r.data.citation, "data"),
    Question("Who was eligible?", "8", "6b", True, _nothing),
    Question("How were images preprocessed?", "9", "7", True, _preprocessing, "data"),
    Question("Was any subset of the data selected?", "10", "", False, _told("subset", _subset), "flow"),
    Question("How were data de-identified?", "11", "", False, _deidentified, "data"),
    Question("How were missing data handled?", "12", "11", True, _told("missing data", _excluded), "flow"),
    Question("How were images acquired?", "13", "", True, _nothing),
    Question("What is the reference standard?", "14", "8a", True, _told("reference standard", _reference), "data"),
    Question("Why this reference standard?", "15", "", True, _nothing),
    Question("Who annotated it, with which qualification?", "16", "8b", True, _nothing),
    Question("How well do annotators agree?", "18", "", True, _nothing),
    Question("How were cases assigned to train, validation and test?", "19", "12a", True, _split, "split"),
    Question("At which level are the parts disjoint, and was that checked?", "20", "", True, _disjoint, "audit"),
    Question("How was the sample size determined?", "21", "10", True, _size),
    Question("What is the model, in detail?", "22", "12c, 22", True, _model, "model"),
    Question("Which software was used?", "23", "", False, lambda r: "listed" * bool(r.environment), "environment"),
    Question("How were the weights initialised?", "24", "", False, lambda r: str(r.model.get("initialisation", "")),
             "model"),
    Question("How was it trained (hyper-parameters, epochs, augmentation)?", "25", "12c", True,
             _told("training", _training), "parameters"),
    Question("How was the final model selected?", "26", "12c", False, _told("selection", _selection), "Training|choos"),
    Question("How was the decision threshold chosen?", "", "15", True, _told("threshold"), "threshold|operating"),
    Question("Which metrics were used?", "28", "12e", True, _metrics, "result"),
    Question("How uncertain are they?", "29", "23a", True, _intervals, "result"),
    Question("What does a simple baseline reach?", "", "", True,
             lambda r: ", ".join({m.baseline: 0 for m in r.baselines}), "result"),
    Question("How robust is it to changed images?", "30", "", False, _told("robustness"), "breaks|robust"),
    Question("How can its decisions be explained?", "31", "", False, _told("explanation"), "look at|explain"),
    Question("Is the model calibrated?", "", "12e, 23a", True, _told("calibration", _calibration),
             "unsure|calibrat|true"),
    Question("What is acting on it worth (net benefit)?", "", "12e", False, _benefit, "probabilities|benefit"),
    Question("Was it tested on internal data held out?", "32", "12a", True, _split, "split"),
    Question("Was it tested on external data?", "33", "12g", True, _told("external test"), "result"),
    Question("How do classes imbalance and prevalence enter?", "", "13", False,
             lambda r: "classes by part" * (len(r.data.classes) > 1 and bool(r.data.splits)), "split"),
    Question("How does it do in subgroups (fairness)?", "", "14, 23a", True,
             _told("subgroups", lambda r: ", ".join(r.parameters.get("subgroups") or [])), "Subgroups"),
    Question("How many cases were included, left out, and why?", "35", "20a", True, _participants, "flow"),
    Question("Which patient characteristics are known in each part?", "36", "20b", True, _demographics, "data"),
    Question("What is the performance, with its uncertainty?", "37", "23a", True, headline_text, "result"),
    Question("What does the table of decisions against the truth say?", "38", "", True, _cross_table,
             "confused|operating"),
    Question("Which cases does it get wrong?", "39", "", False, _told("failures"),
             "confused|wrong|worst|every patient"),
    Question("What are the limitations?", "40", "26", True, lambda r: f"{len(limits_of(r))} stated", "Limitations"),
    Question("What does it mean for practice?", "41", "25", True, _nothing),
    Question("Is there a study protocol?", "42", "18c", True, _nothing),
    Question("Is it registered?", "34", "18d", True, _nothing),
    Question("Is the code available, and in which version?", "43", "18f", True, _code, "environment"),
    Question("Are the data available, under which licence?", "43", "18e", True, lambda r: r.data.licence, "data"),
    Question("Can the run be repeated?", "43", "18f", False, lambda r: r.command, "command"),
    Question("Was there ethical approval?", "", "17", True, _nothing),
    Question("Who funded the work?", "44", "18a", True, _nothing),
)  # fmt: skip
