"""``medcore plan``: how many patients a validation needs, from a finished run or from what is expected."""

from __future__ import annotations

from pathlib import Path

import click

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command("plan")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--half-width", type=SHARE, default=0.05, show_default=True, help="Half the width of the wanted 95 % CI.")
@click.option("--prevalence", type=SHARE, help="Share of patients with the condition.")
@click.option("--expected", type=SHARE, help="Sensitivity that is expected.")
@click.option("--show", "least", type=SHARE, help="Sensitivity that the lower end of the 95 % CI shall exceed.")
@click.option("--power", type=SHARE, default=0.8, show_default=True, help="Probability of showing it.")
@click.option("--auroc", type=SHARE, help="Expected AUROC: patients for an external validation of calibration.")
def command(
    run: Path | None, half_width: float, prevalence: float | None, expected: float | None, least: float | None,
    power: float, auroc: float | None,
) -> int:  # fmt: skip
    """Patients for a validation: of the metrics of a finished RUN, or by --prevalence with --expected or --auroc."""
    import pandas as pd

    from medcore.studies.validation import planning

    plans = [] if run is None else plans_of_run(run, half_width)
    if expected is not None:
        share = prevalence or 1.0
        if least is not None:
            plans.append(planning.patients_to_prove(least, expected=expected, power=power, prevalence=share))
        plans.append(planning.patients_for_proportion(expected, half_width=half_width, prevalence=share))
    if auroc is not None:
        if prevalence is None:
            raise click.UsageError("--auroc needs --prevalence, as in --prevalence 0.3")
        plans += planning.patients_for_calibration(prevalence=prevalence, auroc=auroc)
    if not plans:
        raise click.UsageError("name a finished run, or give --expected, or --auroc with --prevalence")
    table = pd.DataFrame(plans).fillna({"patients": "more than ten million", "cases": ""})
    table["patients"] = [f"{n:,}" if isinstance(n, int) else n for n in table["patients"]]
    click.echo(table.rename(columns={"cases": "of them with the condition"}).to_string(index=False))
    return 0


def plans_of_run(run: Path, half_width: float) -> list:  # type: ignore[type-arg]
    """A plan for every metric of a run that is a proportion with an interval over patients."""
    from dataclasses import replace

    from medcore.reporting.results import read_results
    from medcore.studies.validation.planning import patients_for_width

    results = read_results(run)
    sides = {row["split"]: row.get("patients") for row in results.data.splits}
    plans = []
    for row in (metric.as_dict() for metric in results.metrics):
        patients = row["n"] if row["unit"] == "patient" else sides.get(row["split"])
        fits = None not in (row["value"], row["low"], row["high"]) and 0 <= row["low"] < row["value"] < row["high"] <= 1
        if fits and patients and patients > 1:
            plan = patients_for_width(row["value"], row["low"], row["high"], int(patients), half_width)
            plans.append(replace(plan, question=f"{row['name']} {row['value']:.2f}: {plan.question}"))
    return plans
