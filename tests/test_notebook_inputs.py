"""Notebook 06 on a researcher's own CT slices: DICOM and grey PNG, their window, their splits, their subgroups."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medcore.data.load import read_set
from medcore.data.splits import assign_splits
from medcore.reporting.results import read_results
from medcore.reporting.runner import run_notebooks

pytest.importorskip("pydicom")
from test_dicom import write  # noqa: E402

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "06_patch_classification.ipynb"


def slices(root: Path, count: int = 90) -> pd.DataFrame:
    """CT slices of 30 patients, every third one a grey PNG: the ill have a bright square."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        ill, patient = number % 2, number // 3
        values = rng.integers(1000, 1100, (32, 32)).astype(np.uint16)
        values[8:20, 8:20] += 150 * ill
        name = f"img/{number:03d}.{'png' if number % 3 == 0 else 'dcm'}"
        (root / "img").mkdir(parents=True, exist_ok=True)
        if name.endswith("png"):
            Image.fromarray(((values - 900) / 2).clip(0, 255).astype(np.uint8)).save(root / name)
        else:
            write(root / name, values, PatientID=f"MRN {patient}")
        side = ("train", "train", "train", "val", "test", "test")[patient % 6]
        rows.append((name, ("well", "ill")[ill], f"p{patient}", f"site {patient % 2}", side))
    return pd.DataFrame(rows, columns=["image", "label", "patient", "site", "split"])


def test_given_splits_are_honoured_and_missing_ones_made_by_patient(tmp_path: Path, tmp_data: Path) -> None:
    table = slices(tmp_path / "ct")
    for name, columns in (("with", list(table)), ("without", list(table.columns[:4]))):
        table[columns].to_csv(tmp_path / "ct" / f"metadata-{name}.csv", index=False)
    given = assign_splits(read_set(tmp_path / "ct" / "metadata-with.csv", progress=False))
    assert given.splits.tolist() == table["split"].tolist() and given.shape == (32, 32, 1)
    made = assign_splits(read_set(tmp_path / "ct" / "metadata-without.csv", progress=False), seed=3)
    sides = pd.DataFrame({"patient": made.patients, "side": made.splits}).groupby("patient")["side"].nunique()
    assert set(made.splits) == {"train", "val", "test"} and (sides == 1).all() and len(sides) == 30


def test_notebook_06_states_window_split_and_subgroups(tmp_path: Path, tmp_data: Path) -> None:
    slices(tmp_path / "ct").to_csv(tmp_path / "ct" / "metadata.csv", index=False)
    parameters = {"data": str(tmp_path / "ct" / "metadata.csv"), "profile": "smoke", "window": [60, 300]}
    parameters |= {"subgroups": ["site"], "variant_epochs": 0, "fold_epochs": 0, "augment": "xray", "device": "cpu"}
    (outcome,) = run_notebooks({NOTEBOOK: parameters}, out=tmp_path / "out", progress=False)
    assert outcome.status == "ok", outcome
    folder = tmp_path / "out" / NOTEBOOK.stem
    page, results = (folder / "report.html").read_text(encoding="utf-8"), read_results(folder)
    assert results.metrics[0].n == 30  # the test images that the table names, ten patients
    words = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"DICOM window\s+60/300 \(given\):\s+60", words), "60 of the 90 slices took this window"
    for site in ("site 0", "site 1"):
        assert re.search(rf"{site}\s+15\s+5\s+\d\.\d+\s+\((\d|exact)", words), f"a row of {site}: n, patients, interval"
