"""What a result does not show, in sentences built from the facts of the run."""

from __future__ import annotations

from typing import Any

from medcore.evaluation.names import metric_name

FEW = 30  # units below which an interval is wide whatever the model does


def limits_of(results: dict[str, Any]) -> list[str]:
    """Sentences on sample size, prevalence, missing metadata, split and data that bound the result.

    Args:
        results: As ``results.json``, with data and metrics recorded.
    """
    data, metrics = results["data"], results["metrics"]
    sentences = list(results["warnings"])
    sentences += _size(data) + _classes(data) + _intervals(metrics)
    if "test" not in {str(row.get("split")) for row in data.get("splits", [])}:
        sentences.append("There is no test part: the figures come from cross-validation or validation data.")
    sentences.append(
        "All images come from one set: nothing here says how the method does at another hospital or scanner."
    )
    columns = set(data.get("columns", []))
    missing = [name for name in ("sex", "age", "site") if name not in columns]
    if missing:
        sentences.append(f"Unknown for every case: {', '.join(missing)}; no subgroup can be checked for them.")
    return list(dict.fromkeys(sentences))


def _size(data: dict[str, Any]) -> list[str]:
    sides = {str(row.get("split")): row for row in data.get("splits", [])}
    units = next(
        (
            value
            for key, value in sides.get("test", {}).items()
            if key in (f"{data.get('group')}s", "patients", "groups")
        ),
        None,
    )
    if units is None or int(units) >= FEW:
        return []
    return [
        f"The test part holds {int(units)} {data.get('group')}s only: another {int(units)} may give another result."
    ]


def _classes(data: dict[str, Any]) -> list[str]:
    if data.get("task") == "segmentation":  # classes are those of pixels, and images carry no label
        return []
    test: dict[str, Any] = next((row for row in data.get("splits", []) if row.get("split") == "test"), {})
    counts = {name: int(test[name]) for name in data.get("classes", []) if name in test}
    if data.get("task") == "diagnosis" and not any(counts.values()):  # patients are judged, windows carry no label
        return []
    rare = [f"{name} ({count})" for name, count in counts.items() if count < 10]
    return [f"Too few test images to say much about: {', '.join(rare)}."] if rare else []


def _intervals(metrics: list[dict[str, Any]]) -> list[str]:
    wide = [row for row in metrics if row.get("low") is not None and row["high"] - row["low"] > 0.2]
    unknown = [row for row in metrics if row.get("value") is None or row.get("low") is None]
    names = " and ".join(dict.fromkeys(metric_name(row["name"]) for row in wide[:3]))
    sentences = [f"Wider than 20 points, so little is known of it: the interval of {names}."] if wide else []
    return sentences + [f"{metric_name(row['name'])}: {row['note']}." for row in unknown[:3]]
