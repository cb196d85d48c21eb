"""Every notebook on a set whose classes, patients and files have hostile names: no output of it is active.

Where there is a Chromium, JupyterLab opens each executed notebook, trusted: nothing runs, nothing is asked for.
"""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_hostile import HARMLESS, HOSTILE, Tags, rendered
from test_hostile_lab import browser, open_trusted, served_lab

from medcore.cli import main
from medcore.data.phantoms.slides import make_slides
from medcore.data.source import repository_root
from medcore.reporting.report import find_browser
from medcore.reporting.runner import run_notebooks

pytestmark = pytest.mark.slow
ROOT = repository_root() or Path()
# a name of a class is one line of text; what a table cannot hold at all is not a matter of the notebooks
NAMES = [" ".join(name.split()) for name in HOSTILE if name.isprintable()]
SHORT = {"variant_epochs": 0, "fold_epochs": 0}
# with these signs the reader asks whether several labels are meant
CLASSES = [name for name in NAMES if not set("[]|,;") & set(name)][:4]


def write_set(folder: Path, classes: list[str], images: int = 48) -> Path:
    """Images, two of each patient; patients have hostile names, too, and so have the files where the system allows."""
    rng, rows = np.random.default_rng(0), []
    folder.mkdir()
    for number in range(images):
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


def with_a_model(folder: Path) -> None:
    """A classifier of these classes, as 07 applies it."""
    given = ["train", "classifier", "--data", str(folder / "metadata.csv"), "--out", str(folder.parent / "model")]
    with pytest.raises(SystemExit) as ended:
        main([*given, "--profile", "smoke", "--size", "32", "--epochs", "1"])
    assert not ended.value.code


def write_slides(folder: Path) -> Path:
    """Eight whole slides whose files, patients, labels and drawn classes have hostile names."""
    drawn = folder.with_name("drawn")
    make_slides(drawn, slides=8, side=1024)
    with open(drawn / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    folder.mkdir()
    labels = sorted({row["label"] for row in rows})
    kinds: dict[str, str] = {}
    for number, row in enumerate(rows):
        name = f"{number} {NAMES[number].replace('/', '').replace(chr(92), '')[:60]}"
        path = next(path for path in drawn.glob("*.tif*") if row["slide"] in (path.name, path.stem))
        told = json.loads(path.with_suffix(".geojson").read_text(encoding="utf-8"))
        for feature in told["features"]:
            kind = feature["properties"]["classification"]
            kind["name"] = kinds.setdefault(kind["name"], NAMES[len(kinds)])
        (folder / f"{name}.geojson").write_text(json.dumps(told), encoding="utf-8")
        shutil.copy(path, folder / f"{name}{path.suffix}")
        row |= {"slide": name + path.suffix, "label": CLASSES[labels.index(row["label"])]}
        row["patient"] = f"{number} {NAMES[-number]}"
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser, and the folder and address of a JupyterLab; None without a Chromium."""
    if find_browser() is None:
        yield None
        return
    with browser() as tab, served_lab(tmp_path_factory.mktemp("lab")) as (folder, address):
        yield tab, folder, address


@pytest.mark.parametrize(
    ("stem", "parameters"),
    [
        ("00_first_network", {"epochs": 1, "size": 32}),
        ("04_patient_diagnosis", {"encoder": "", "attention_epochs": 1, "repeats": 1, "limit": 99}),
        ("05_segmentation", {"ablation_epochs": 0}),
        ("01_preprocessing", {"demo_epochs": 0}),
        ("02_autoencoder", {"abnormal": CLASSES[1:2], "bottlenecks": [], "folds": 0, "peer": ""}),
        ("03_vae", {"abnormal": CLASSES[1:2]}),
        ("06_patch_classification", {"subgroups": ["site"], **SHORT}),
        ("07_external_validation", {"seen": "count", "model": "model", "subgroups": ["site"]}),
        ("08_whole_slides", {}),
        ("09_findings_and_grades", {"grade": "label", "classes": CLASSES, "subgroups": ["site"]}),
    ],
)
def test_no_output_of_a_notebook_is_active(
    stem: str, parameters: dict, tmp_path: Path, tmp_data: Path, lab: Any
) -> None:
    slides = stem.startswith("08")
    data = (
        write_slides(tmp_path / "set")
        if slides
        else write_set(tmp_path / "set", CLASSES, 144 if stem.startswith("04") else 48)
    )
    changes = {"04": with_diagnoses, "05": with_masks, "07": with_a_model}
    if change := changes.get(stem[:2]):
        change(tmp_path / "set")
    if "model" in parameters:
        parameters = parameters | {"model": str(tmp_path / parameters["model"])}
    given = {"data": str(data), "profile": "smoke", "device": "cpu", **parameters}
    (outcome,) = run_notebooks({ROOT / "notebooks" / f"{stem}.ipynb": given}, out=tmp_path / "out", progress=False)
    assert outcome.status == "ok" and outcome.folder is not None, outcome
    notebook = nbformat.read(outcome.folder / "notebook.ipynb", as_version=4)
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    tables = [Tags(bundle["text/html"]) for bundle in shown if "text/html" in bundle]
    prose = [page for bundle in shown if "text/markdown" in bundle for page in rendered(bundle["text/markdown"])]
    names = stem.startswith(("00", "05")) or any(name in nbformat.writes(notebook) for name in (CLASSES[0], NAMES[0]))
    assert prose and names, "names are shown at all, but where two classes or masks have none"
    for page in tables + prose:
        assert page.tags <= HARMLESS | {"div", "style", "caption"}
        assert not [
            link for link in page.links if not link.startswith(("border=", "scope", "colspan=", "rowspan=", "valign="))
        ]
    assert not any(mime in bundle for bundle in shown for mime in ("application/javascript", "text/latex"))
    if lab is not None:
        tab, folder, address = lab
        shutil.copy(outcome.folder / "notebook.ipynb", folder / f"{stem}.ipynb")
        assert open_trusted(tab, folder, address, f"{stem}.ipynb") == []
        assert tab.evaluate("window.pwned") is None
