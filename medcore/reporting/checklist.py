"""Which questions of the reporting guidelines a run answers, filled from its results.

The items are those of CLAIM 2024, TRIPOD+AI and STARD-AI that software can answer from a run; the wording is ours,
and the guidelines' own numbering is left out because it differs between them. What only the authors can know
(setting, eligibility, funding, ...) is listed as missing, so that nobody forgets it.

Reference: Tejani et al. 2024, doi:10.1148/ryai.240300 (CLAIM); Collins et al. 2024, doi:10.1136/bmj-2023-078378
(TRIPOD+AI); Sounderajah et al. 2025, doi:10.1038/s41591-025-03953-8 (STARD-AI).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]

CLAIM, TRIPOD, STARD = "CLAIM 2024", "TRIPOD+AI", "STARD-AI"
ALL = (CLAIM, TRIPOD, STARD)


@dataclass(frozen=True)
class Item:
    """One question: who asks it, and how a run answers it (an empty answer means that it does not)."""

    question: str
    guidelines: tuple[str, ...]
    answer: Callable[[Results], str]


def fill_checklist(results: Results) -> list[dict[str, Any]]:
    """Answer every item from the results of a run.

    Returns:
        A list of ``{question, guidelines, answered, answer}``; an unanswered item says that the authors must add it.
    """
    rows = []
    for item in ITEMS:
        answer = item.answer(results)
        rows.append(
            {
                "question": item.question,
                "guidelines": list(item.guidelines),
                "answered": bool(answer),
                "answer": answer or "missing: not recorded by this run, to be stated by the authors",
            }
        )
    return rows


def coverage(checklist: list[dict[str, Any]]) -> str:
    """``"19 of 33 items answered by this run"``."""
    return f"{sum(row['answered'] for row in checklist)} of {len(checklist)} items answered by this run"


def _data(key: str) -> Callable[[Results], str]:
    return lambda results: str(results["data"].get(key) or "")


def _nothing(_: Results) -> str:
    return ""


def _unit(results: Results) -> str:
    data = results["data"]
    if not data:
        return ""
    known = data.get("patients_known")
    return (
        f"{data.get('group')}; {data.get('patients')} of them" if known else "no patients known: each image by itself"
    )


def _split(results: Results) -> str:
    how = results["data"].get("recipe", {}).get("split", {})
    return f"{how.get('how', '')}; see the split table" if how else ""


def _disjoint(results: Results) -> str:
    verdict = results["audit"].get("verdict")
    return f"audit verdict: {verdict}; unit: {_unit(results)}" if verdict else ""


def _excluded(results: Results) -> str:
    if not results["data"]:
        return ""
    excluded = results["data"].get("excluded", [])
    reasons = sorted({str(row.get("reason", "")) for row in excluded})
    return f"{len(excluded)} excluded" + (f" ({'; '.join(reasons[:3])})" if reasons else "")


def _preprocessing(results: Results) -> str:
    recipe = {key: value for key, value in results["data"].get("recipe", {}).items() if key != "split"}
    return ", ".join(f"{key} {value}" for key, value in list(recipe.items())[:6])


def _metrics(results: Results) -> str:
    return ", ".join(dict.fromkeys(str(row["name"]).replace("_", " ") for row in results["metrics"]))


def _intervals(results: Results) -> str:
    methods = dict.fromkeys(str(row.get("method")) for row in results["metrics"] if row.get("low") is not None)
    return f"95 % intervals: {', '.join(methods)}" if methods else ""


def _demographics(results: Results) -> str:
    columns = results["data"].get("columns", [])
    known = [
        name for name in columns if name in {"sex", "age", "site", "scanner", "localization", "grade", "diagnosis"}
    ]
    return f"columns at hand: {', '.join(known)}" if known else ""


def _baselines(results: Results) -> str:
    return ", ".join(dict.fromkeys(str(row["baseline"]) for row in results["baselines"]))


def _section(key: str) -> Callable[[Results], str]:
    """What the notebook answered with ``run.answer``, else what the run knows by itself."""
    return lambda results: str(results["answers"].get(key) or KNOWN.get(key, _nothing)(results))


def _subset(results: Results) -> str:
    limit = results["parameters"].get("limit")
    return f"at most {limit} images (parameter limit)" if limit else ""


def _training(results: Results) -> str:
    names = ("model", "loss", "epochs", "images_seen", "batch_size", "lr", "schedule", "augment", "seed")
    given = {name: results["parameters"].get(name) for name in names}
    named = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
    return named if results["model"] and given["epochs"] else ""


def _selection(results: Results) -> str:
    validation = results["validation"]
    return f"{validation['mode']}imum of {validation['name']}" if validation else ""


def _calibration(results: Results) -> str:
    rows = [row for row in results["metrics"] if row["name"].startswith(("ece", "brier", "calibration"))]
    return ", ".join(f"{row['name'].replace('_', ' ')} {row['value']:.3f}" for row in rows if row["value"] is not None)


KNOWN: dict[str, Callable[[Results], str]] = {
    "subset": _subset,
    "missing data": lambda results: _excluded(results),
    "training": _training,
    "selection": _selection,
    "calibration": _calibration,
    "subgroups": lambda results: ", ".join(results["parameters"].get("subgroups") or []),
}


def _software(results: Results) -> str:
    return "listed under Environment" if results["environment"].get("packages") else ""


def _code(results: Results) -> str:
    commit = results["environment"].get("commit")
    return f"medcore {results['environment'].get('medcore')}" + (f", commit {commit}" if commit else "")


def _model(results: Results) -> str:
    spec = results["model"].get("spec") or {}
    return f"{spec.get('family', 'model')}, every argument listed under Model" if spec else ""


def _kind(results: Results) -> str:
    """What decides, where a notebook says so: the network that is described may only be one candidate."""
    model = results["model"]
    return str(model.get("decides") or model.get("spec", {}).get("family", ""))


ITEMS = (
    Item("What kind of AI method is studied?", ALL, _kind),
    Item("What is the question?", ALL, lambda r: r["title"]),
    Item("Which intended use and role in care?", ALL, _nothing),
    Item("Prospective or retrospective; when and where were cases collected?", ALL, _nothing),
    Item("Where do the data come from?", ALL, lambda r: _data("homepage")(r) or _data("citation")(r)),
    Item("Under which licence?", (CLAIM, STARD), _data("licence")),
    Item("Who was eligible?", ALL, _nothing),
    Item("How many cases were left out, and why?", ALL, _excluded),
    Item("How were images preprocessed?", ALL, _preprocessing),
    Item("Was any subset of the data selected?", (CLAIM,), _section("subset")),
    Item("How were missing data handled?", ALL, _section("missing data")),
    Item("How were images acquired?", (CLAIM, STARD), _nothing),
    Item("What is the reference standard and who annotated it?", ALL, _nothing),
    Item("How well do annotators agree?", (CLAIM, STARD), _nothing),
    Item("How were cases assigned to train, validation and test?", ALL, _split),
    Item("At which level are the parts disjoint, and was that checked?", ALL, _disjoint),
    Item("How was the sample size determined?", ALL, _nothing),
    Item("How many cases and patients are in each part?", ALL, lambda r: "split table" * bool(r["data"].get("splits"))),
    Item("Which patient characteristics are known in each part?", ALL, _demographics),
    Item("What is the model, in detail?", ALL, _model),
    Item("How were the weights initialised?", (CLAIM, TRIPOD), lambda r: str(r["model"].get("initialisation", ""))),
    Item("How was it trained (hyper-parameters, epochs, augmentation)?", ALL, lambda r: _section("training")(r)),
    Item("How was the final model selected?", ALL, _section("selection")),
    Item("How was the decision threshold chosen?", ALL, _section("threshold")),
    Item("Which software was used?", ALL, _software),
    Item("Which metrics were used?", ALL, _metrics),
    Item("How uncertain are they?", ALL, _intervals),
    Item("What does a simple baseline reach?", (CLAIM, TRIPOD), _baselines),
    Item("Is the model calibrated?", (TRIPOD, STARD), _section("calibration")),
    Item("How robust is it to changed images?", (CLAIM, STARD), _section("robustness")),
    Item("How can its decisions be explained?", (CLAIM,), _section("explanation")),
    Item("How does it do in subgroups (fairness)?", (TRIPOD, STARD), _section("subgroups")),
    Item("Was it tested on external data?", ALL, _section("external test")),
    Item("Which cases does it get wrong?", (CLAIM, STARD), _section("failures")),
    Item("What are the limitations?", ALL, lambda r: f"{len(r['warnings'])} stated" if r["warnings"] else ""),
    Item("Are code and model available?", ALL, _code),
    Item("Can the run be repeated?", ALL, lambda r: r["command"]),
    Item("Is there a protocol or registration; who funded the work?", ALL, _nothing),
)  # fmt: skip
