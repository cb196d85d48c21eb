"""The model card of a folder that is handed on: Markdown and HTML, every word computed from the run.

The fields are those of Mitchell et al. 2019, doi:10.1145/3287560.3287596; below them stand the items of CLAIM 2024 and
TRIPOD+AI that the run answers, and the names of those that only the authors can answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcore.evaluation.estimate import cases_of, metric_name, plural
from medcore.models.sealed import read_sealed
from medcore.reporting.results import Results, json_types
from medcore.reporting.wording import limits_of, shown, without_active_parts
from medcore.training import checkpoint

USES = {
    "classification": "answers which class an image shows, with a probability for each class",
    "findings": "says of each finding how probable it is that an image shows it, and whether that reaches a threshold",
    "ordinal": "answers which of some ordered grades an image shows, with a probability for each",
    "regression": "states a measured value for an image",
    "anomaly": "says how unlike normal images an image is, and whether that reaches a threshold",
    "segmentation": "gives every pixel of an image a class",
    "diagnosis": "says from the windows of a patient whether the patient is infected, and how densely",
}
FIXED = ("temperature", "threshold", "thresholds", "familiarity", "segmentation", "rejection", "conformal", "detection")


def card_markdown(results: Results, manifest: dict[str, Any], task: str) -> str:
    """The card as Markdown.

    Args:
        results: Of the run that leaves the model.
        manifest: Of the folder.
        task: ``classification``, ``anomaly``, ``segmentation`` or ``diagnosis``.
    """
    sections = {
        "Model details": _details(results, manifest, task),
        "Intended use": _intended(results, manifest, task),
        "Factors": _factors(results),
        "Metrics and decision rules": _rules(results, manifest, task),
        "Training and evaluation data": _data(results, manifest),
        "Results": _results(results, manifest),
        "Limitations, ethical considerations": _limits(results),
        "Reporting guidelines": _guidelines(results),
        "How to use and cite": _use(results),
    }
    parts = [f"# Model card: {_plain(results.title or results.notebook)}", ""]
    for heading, lines in sections.items():
        parts += [f"## {heading}", "", *lines, ""]
    return "\n".join(parts)


def card_page(markdown: str) -> str:
    """The card as one page without scripts and requests, through the sanitiser of the reports."""
    from medcore.reporting.body import markdown_fragment
    from medcore.reporting.report import render
    from medcore.reporting.sanitise import Narrative

    title = markdown.splitlines()[0].removeprefix("# ")
    return render("card.html.j2", title=title, text=markdown_fragment(markdown, Narrative(top=1)))


def hand_on(path: Path, target: Path, results: Results, mix: dict[str, Any]) -> Path:
    """Make a checkpoint, or a folder that a study wrote, the model folder of a run, with its card.

    Args:
        path: A checkpoint, the folder of a training, or ``target`` itself.
        target: ``model`` of the run.
        mix: Of the data, as ``describe_mix`` gives it.
    """
    from medcore.studies.validation.models import task_of

    if path.resolve() != target.resolve():
        checkpoint.publish(checkpoint.find(path / "checkpoints" if (path / "checkpoints").is_dir() else path), target)
    told = {"notebook": results.notebook, "started": results.started, "data": results.data.name,
            "fingerprint": results.data.fingerprint, "mix": mix,
            "estimates": [row.as_dict() for row in results.metrics]}  # fmt: skip
    checkpoint.tell(target, development=json_types(told))
    manifest = read_sealed(target)
    text = card_markdown(results, manifest, task_of(target))
    checkpoint.write_card(target, text, card_page(text))
    return target


def _details(results: Results, manifest: dict[str, Any], task: str) -> list[str]:
    env = results.environment
    torch = env.get("packages", {}).get("torch", "unknown")
    spec = manifest.get("architecture") or {}
    what = f"{spec['family']} ({spec['args'].get('name', spec['family'])})" if spec else "a chain of rules"
    weights, origin = "Weights start at random", manifest.get("weights_from")
    if origin:
        weights = f"Weights start from {origin['source']} (sha256 {str(origin['sha256'])[:12]})"
    if task == "diagnosis":
        rule = manifest["rule"]
        what = f"window score “{rule['window']['score']}”, aggregated by “{rule['aggregation']}”"
        weights = "Everything that is learnt starts anew"
    lines = [
        f"- **What it is**: {what}; it {USES[task]}.",
        f"- **Made by**: notebook {results.notebook}, medcore {manifest['medcore']}, {results.started[:10]}.",
        f"- **Code**: commit {env.get('commit') or 'unknown'}; torch {torch}.",
        f"- **Licence**: code MIT. {weights}; the licence of the training data applies to what was learnt: "
        f"{_plain(results.data.licence)}.",
    ]
    return lines + [f"- **Seed**: {results.parameters.get('seed')}; every parameter stands in the report of the run."]


def _intended(results: Results, manifest: dict[str, Any], task: str) -> list[str]:
    height, width, channels = manifest["image_shape"]
    case = results.data.case
    return [
        f"- **Use**: research and teaching, on {plural(case)} like those it was trained on ({width}×{height} pixels, "
        f"{channels} channel{'s' * (channels > 1)}), prepared alike; `medcore predict` does so.",
        f"- **Classes**: {', '.join(map(_plain, manifest['classes']))}.",
        "- **Out of scope**: clinical use of any kind; other stains, devices or diseases without an "
        "external validation (notebook 07).",
    ]


def _factors(results: Results) -> list[str]:
    known = [
        name for name in ("sex", "age", "site", "scanner", "localization", "grade") if name in results.data.columns
    ]
    missing = [name for name in ("sex", "age", "site", "scanner") if name not in known]
    lines = [f"- Known of the cases: {', '.join(known) or 'none of sex, age, site or scanner'}."]
    return lines + [f"- Not known, so not checked: {', '.join(missing)}."] * bool(missing)


def _rules(results: Results, manifest: dict[str, Any], task: str) -> list[str]:
    extra = manifest.get("extra", {})
    lines = [f"- **Metrics**: {', '.join(dict.fromkeys(metric_name(row.name) for row in results.metrics))}."]
    if task == "diagnosis":
        rule = manifest["rule"]
        point = rule["patient"]["point"]
        lines += [
            f"- **Window threshold**: {rule['window']['threshold']:.4g} of “{rule['window']['score']}”.",
            f"- **Patient threshold**: {point['threshold']:.4g} by rule {point['rule']}, chosen on "
            f"{point['n']} patients.",
            f"- **Estimate that belongs to the rule**: {manifest['estimate']}.",
        ]
    if "detection" in extra:
        point = extra["detection"]["point"]
        lines.append(
            f"- **Score and threshold**: {extra['detection']['kind']}, {point['threshold']:.4g} by rule "
            f"{point['rule']}, chosen on {point['n']} validation images of {point['patients']} patients."
        )
    if "temperature" in extra:
        lines.append(f"- **Temperature**: {extra['temperature']:.3f}, chosen on validation images.")
    for name, limit in (extra.get("thresholds") or {}).items():
        lines.append(
            f"- **Present** ({_plain(name)}): from a probability of {limit:.3f} on, chosen on validation images."
        )
    for name, rule in extra.get("rejection", {}).items():
        lines.append(f"- **No answer** ({name}): below a probability of {rule['threshold']:.3f}.")
    if "conformal" in extra:
        lines.append(
            f"- **Sets**: made to hold the truth in {100 * extra['conformal']['coverage']:.0f} % of new cases."
        )
    if "segmentation" in extra:
        facts = extra["segmentation"]
        lines.append(
            f"- **Images are seen** at {facts['factor']:.3g} of their size, in tiles of {facts['tile']} pixels."
        )
    fixed = [name for name in FIXED if name in extra]
    return lines + [f"- **Fixed in the folder**: {', '.join(fixed) or 'weights and rule'}; nothing is chosen in use."]


def _data(results: Results, manifest: dict[str, Any]) -> list[str]:
    data, seen = results.data, manifest["data"]
    trained = f"{cases_of(seen['train']['images'], data.case)} of {cases_of(seen['train']['patients'], data.unit)}"
    lines = [
        f"- **Set**: {_plain(data.name)}: {_plain(data.title or data.name)}"
        + (" (synthetic phantoms, no patients)" if data.synthetic else "") + ".",
        f"- **Learnt from**: {trained}; hashes of images and {data.unit}s stand in the manifest, so that seen ones are "
        "recognised.",
    ]  # fmt: skip
    lines += [f"- **Source**: {_plain(data.citation or data.homepage)}"] * bool(data.citation or data.homepage)
    return lines + [f"- **Audit of the split**: {results.audit.verdict}."] * bool(results.audit.verdict)


def _results(results: Results, manifest: dict[str, Any]) -> list[str]:
    rows = ["| metric | value (95 % CI) | cases |", "|---|---|---|"]
    rows += [
        f"| {metric_name(row.name)} | {str(row).replace('|', '/')} | {cases_of(row.n, row.unit)}, {row.split} |"
        for row in results.metrics
    ]
    beside = [f"{_plain(row.baseline)}: {metric_name(row.name)} {row}" for row in results.baselines
              if results.metrics and row.name == results.metrics[0].name]  # fmt: skip
    return rows + ["", *[f"Beside it: {'; '.join(beside[:6])}."] * bool(beside)]


def _limits(results: Results) -> list[str]:
    lines = [f"- {_plain(sentence)}" for sentence in limits_of(results)]
    return [
        *lines,
        "- A wrong answer may come with a high probability; people decide, and know what it was not tested on.",
        "- Salted hashes of patient ids travel in the manifest: whoever guesses an id can test it against them.",
    ]


def _guidelines(results: Results) -> list[str]:
    from medcore.reporting.checklist import fill_checklist

    answers = fill_checklist(results)
    lines = [f"- {one.question} {_plain(shown(one.answer))}" for one in answers if one.answered]
    open_ones = [one.question for one in answers if not one.answered]
    return [*lines, "", f"Only the authors can answer: {' '.join(open_ones)}"] if open_ones else lines


def _use(results: Results) -> list[str]:
    return [
        "    medcore predict FOLDER IMAGES --out predictions.csv",
        "    medcore reports 07 -p model=FOLDER --data COHORT",
        "",
        f"Cite medcore (CITATION.cff of its repository, version {results.environment.get('medcore')}), this card "
        f"with the date {results.started[:10]}, and the data: "
        f"{_plain(results.data.citation or results.data.name)}.",
    ]


def _plain(value: object) -> str:
    """A name or sentence on one line, in which nothing but emphasis keeps a meaning."""
    return without_active_parts(" ".join(str(value).split())).replace("|", "/")
