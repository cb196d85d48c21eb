"""Every notebook on a set whose classes, patients and files have hostile names: no output of it is active."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_hostile import HARMLESS, HOSTILE, Tags, rendered

from medcore.data.source import repository_root
from medcore.reporting.runner import run_notebooks

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("hostile notebooks")]
ROOT = repository_root() or Path()
# a name of a class is one line of text; what a table cannot hold at all is not a matter of the notebooks
NAMES = [" ".join(name.split()) for name in HOSTILE if name.isprintable()]
SHORT = {"variant_epochs": 0, "fold_epochs": 0}
# with these signs the reader asks whether several labels are meant
CLASSES = [name for name in NAMES if not set("[]|,;") & set(name)][:4]


def write_set(folder: Path, classes: list[str]) -> Path:
    """48 images of 24 patients; patients have hostile names, too, and so have the files where the system allows."""
    rng, rows = np.random.default_rng(0), []
    folder.mkdir()
    for number in range(48):
        patient = f"{number // 2} {NAMES[number // 2 % len(NAMES)]}"
        name = f"{number} {NAMES[number % len(NAMES)].replace('/', '').replace(chr(92), '')[:60]}.png"
        pixels = rng.integers(60, 200, (64, 64, 3), dtype=np.uint8)
        pixels[8:40, 8:40, number // 2 % 3] += 50
        Image.fromarray(pixels).save(folder / name)
        row = {
            "image": name,
            "label": classes[number // 2 % len(classes)],
            "patient": patient,
            "site": NAMES[number % 3],
        }
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder / "metadata.csv"


def with_masks(folder: Path) -> None:
    """A mask for every image, in place of its label."""
    disc = np.hypot(*(np.indices((64, 64)) - 30)) < 16
    Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "mask.png")
    table = pd.read_csv(folder / "metadata.csv").drop(columns="label").assign(mask="mask.png")
    table.to_csv(folder / "metadata.csv", index=False)


def with_diagnoses(folder: Path) -> None:
    """A diagnosis for every patient; windows of healthy ones are negative, and two classes of windows are left."""
    table = pd.read_csv(folder / "metadata.csv")
    level = table["patient"].str.split(" ").str[0].astype(int) % 3
    table["diagnosis"] = np.array(["NEGATIVA", "BAIXA", "ALTA"])[level]
    table["label"] = np.where(level == 0, CLASSES[0], np.array(CLASSES[:2])[np.arange(len(table)) % 2])
    table.to_csv(folder / "metadata.csv", index=False)


@pytest.mark.parametrize(
    ("stem", "parameters"),
    [
        ("00_first_network", {"epochs": 1, "size": 32}),
        ("04_patient_diagnosis", {"encoder": "", "attention_epochs": 0, "repeats": 1}),
        ("05_segmentation", {"ablation_epochs": 0}),
        ("01_preprocessing", {"demo_epochs": 0}),
        ("02_autoencoder", {"abnormal": CLASSES[1:2], "bottlenecks": [], "folds": 0, "peer": ""}),
        ("03_vae", {"abnormal": CLASSES[1:2]}),
        ("06_patch_classification", {"subgroups": ["site"], **SHORT}),
    ],
)
def test_no_output_of_a_notebook_is_active(stem: str, parameters: dict, tmp_path: Path, tmp_data: Path) -> None:
    data = write_set(tmp_path / "set", CLASSES)
    if change := {"04_patient_diagnosis": with_diagnoses, "05_segmentation": with_masks}.get(stem):
        change(tmp_path / "set")
    given = {"data": str(data), "profile": "smoke", "device": "cpu", **parameters}
    (outcome,) = run_notebooks({ROOT / "notebooks" / f"{stem}.ipynb": given}, out=tmp_path / "out", progress=False)
    assert outcome.status == "ok" and outcome.folder is not None, outcome
    notebook = nbformat.read(outcome.folder / "notebook.ipynb", as_version=4)
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    tables = [Tags(bundle["text/html"]) for bundle in shown if "text/html" in bundle]
    prose = [page for bundle in shown if "text/markdown" in bundle for page in rendered(bundle["text/markdown"])]
    assert prose and any(name in nbformat.writes(notebook) for name in (CLASSES[0], NAMES[0])), "names are shown at all"
    for page in tables + prose:
        assert page.tags <= HARMLESS | {"div", "style"}
        assert not [link for link in page.links if not link.startswith(("border=", "scope", "colspan=", "rowspan="))]
    assert not any(mime in bundle for bundle in shown for mime in ("application/javascript", "text/latex"))
