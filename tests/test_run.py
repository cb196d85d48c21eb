"""Run: strict parameters, what is recorded, honest files; also as plain papermill would use it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medcore.data.audit.audit import audit
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.comparison import Comparison
from medcore.evaluation.intervals import Estimate, interval
from medcore.evaluation.scores import Scores
from medcore.reporting.checklist import QUESTIONS
from medcore.reporting.results import Results, read_results, write_results
from medcore.reporting.run import Run

NOTEBOOK = "06_patch_classification"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDCORE_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("MEDCORE_PROFILE", "smoke")
    return tmp_path / "run"


def patches() -> PatchSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 12, 12, 3), dtype=np.uint8)
    table = {
        "label": np.arange(30) % 2,
        "patient": np.arange(30) // 2,
        "split": ["train"] * 14 + ["val"] * 8 + ["test"] * 8,
    }
    return PatchSet.from_arrays(images, table, Card("toy", classes=["a", "b"], warnings=["a toy"], synthetic=True))


def test_a_whole_run_is_in_results_json(folder: Path) -> None:
    run = Run.start(NOTEBOOK, {"epochs": 3, "seed": 5, "other": object()}, title="A title")
    assert read_results(folder).status == "running"
    ps = run.use(patches())
    run.audited(audit(ps))
    scores = Scores.from_set(ps.where(split="test"), np.tile([0.3, 0.7], (8, 1)))
    run.record(interval(scores, "accuracy"))
    run.compare("majority", interval(scores, "accuracy"))
    run.validated("val_loss", 0.5, "min")
    run.answer(threshold="none")
    run.finish("Half are right.")
    found = json.loads((folder / "results.json").read_text())
    assert (found["status"], found["summary"], found["title"]) == ("ok", "Half are right.", "A title")
    assert found["changed"] == ["epochs", "seed"]
    assert found["parameters"]["epochs"] == 3 and found["parameters"]["batch_size"] == 32  # the profile's
    assert found["command"] == "medcore reports 06 -p seed=5 -p epochs=3"
    assert found["data"]["fingerprint"] == ps.fingerprint and found["data"]["patients"] == 15
    assert [row["split"] for row in found["data"]["splits"]][:3] == ["train", "val", "test"]
    assert found["metrics"][0]["value"] == 0.5 and found["metrics"][0]["low"] is not None
    assert found["baselines"][0]["baseline"] == "majority"
    assert found["data"]["synthetic"] and found["warnings"] == ["a toy"]
    assert found["peak_memory_bytes"] > 10_000_000 and found["seconds"] >= 0
    answered = {row["question"]: row["answered"] for row in found["checklist"]}
    assert answered["How was the decision threshold chosen?"] and not answered["Who was eligible?"]
    assert "Half are right" not in run.limits() and "synthetic" in run.limits()


@pytest.mark.parametrize(("colour", "warned"), [(0.8, True), (0.55, False)])
def test_a_comparison_is_recorded_in_one_call(folder: Path, colour: float, warned: bool) -> None:
    """Chance is 0.5 with two classes: 0.8 goes more than half of the way from there to 0.9, 0.55 does not."""

    def accuracy(value: float) -> Estimate:
        return Estimate("balanced_accuracy", value, 0.4, 1.0, 8, "patch", "test", method="by hand")

    run = Run.start(NOTEBOOK, {})
    run.use(patches())
    gain = Estimate("balanced_accuracy_difference", 0.1, 0.0, 0.2, 8, "patch", "test")
    compared = Comparison(
        [accuracy(0.9)], {"colour": [accuracy(colour)]}, {"peer": [accuracy(0.95)]}, {"colour": [gain]}, "colour"
    )
    assert run.result(compared) is compared
    run.validated("val_loss", 0.5, "min")
    found = run.finish("A sentence.")
    assert [row["value"] for row in found["metrics"]] == [0.9]
    assert [(row["baseline"], row["trivial"]) for row in found["baselines"]] == [("colour", True), ("peer", False)]
    assert [(row["baseline"], row["value"]) for row in found["differences"]] == [("colour", 0.1)]
    assert any("colour" in text for text in found["warnings"]) == warned
    answers = {row["question"]: row["answer"] for row in found["checklist"]}
    assert "val_loss" in answers["How was the final model selected?"]
    assert str(run.parameters.limit) in answers["Was any subset of the data selected?"]  # the limit of the profile


def test_saved_predictions_give_the_scores_back(folder: Path) -> None:
    run, ps = Run.start(NOTEBOOK, {}, title="A title"), patches()
    run.use(ps)
    said = np.random.default_rng(1).dirichlet([1, 1], 8)
    scores = Scores.from_set(ps.where(split="test"), said)
    assert run.save_predictions(scores) == folder / "predictions.npz"
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        assert np.array_equal(file["probabilities"], said)
        assert file["truth"].tolist() == [0, 1] * 4 and set(file["split"]) == {"test"}
        assert file["patient"].tolist() == scores.patient.tolist() and len(set(file["patient"])) == 4
        assert file["classes"].tolist() == ["a", "b"] and str(file["fingerprint"]) == ps.fingerprint


def test_a_run_without_data_or_metric_does_not_finish() -> None:
    run = Run.start(NOTEBOOK, {})
    with pytest.raises(MedcoreError, match="use\\(\\)"):
        run.finish("nothing")


def test_unknown_names_of_plain_papermill_are_refused() -> None:
    """papermill writes a cell that begins with '# Parameters'; IPython keeps it in In."""
    with pytest.raises(MedcoreError, match="did you mean 'epochs'"):
        Run.start(NOTEBOOK, {"In": ["", "# Parameters\nepoch = 3\n"]})
    with pytest.raises(MedcoreError, match="epochs"):
        Run.start(NOTEBOOK, {"epochs": 3.5})


def test_the_seed_decides_random_numbers() -> None:
    drawn = []
    for seed in (1, 1, 2):
        Run.start(NOTEBOOK, {"seed": seed})
        drawn.append((np.random.random(), torch.rand(1).item()))
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(MedcoreError, match="'tpu'"):
        Run.start(NOTEBOOK, {"device": "tpu"})


def test_nan_never_reaches_the_file(tmp_path: Path) -> None:
    facts = {"a": float("nan"), "b": [np.float64("inf"), np.int64(3)], "c": Path("d")}
    write_results(tmp_path, Results(notebook="x", model=facts))
    assert json.loads((tmp_path / "results.json").read_text())["model"] == {"a": None, "b": [None, 3], "c": "d"}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('{"schema": "other"}', "schema"),
        ('{"schema": "medcore.results/9", "notebook": "x"}', "another version"),
        ('{"schema": "medcore.results/2", "notebook": "x", "metrics": {"a": 1}}', "metrics"),
        ('{"schema": "medcore.results/2", "notebook": "x", "seconds": NaN}', "seconds"),
        ("[" * 100_000, "not readable"),
        ("{ broken", "not readable"),
        ("[]", "not a results.json"),
    ],
)
def test_other_shapes_are_refused_in_one_line(tmp_path: Path, content: str, names: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(MedcoreError, match=names) as refused:
        read_results(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="nowhere.*does not exist"):
        read_results(tmp_path / "nowhere")


def test_results_of_the_first_version_are_read(tmp_path: Path) -> None:
    """Written by medcore 0.1: no differences, empty objects where nothing was recorded."""
    old = {"schema": "medcore.results/1", "notebook": "x", "status": "ok", "data": {}, "audit": {}, "validation": {}}
    (tmp_path / "results.json").write_text(json.dumps(old))
    found = read_results(tmp_path)
    assert (found.notebook, found.differences, found.data.unit) == ("x", [], "image")


def without_descriptions(schema: object) -> object:
    if isinstance(schema, dict):
        return {key: without_descriptions(item) for key, item in schema.items() if key != "description"}
    return [without_descriptions(item) for item in schema] if isinstance(schema, list) else schema


def test_the_published_schema_is_that_of_the_model() -> None:
    published = json.loads((Path(__file__).parents[1] / "reports" / "results.schema.json").read_text())
    assert without_descriptions(published) == without_descriptions(Results.model_json_schema(by_alias=True)), (
        "python -m medcore.reporting.results > reports/results.schema.json"
    )


def test_the_kind_of_method_is_what_decides() -> None:
    """A network may be described that is one candidate of several, and not the one that was chosen."""
    item = next(item for item in QUESTIONS if item.text == "What kind of AI method is studied?")
    network = {"spec": {"family": "conv_autoencoder"}}
    assert item.answer(Results(notebook="x", model=network)) == "conv_autoencoder"
    assert item.answer(Results(notebook="x", model=network | {"decides": "brown peak"})) == "brown peak"


def test_a_search_can_not_be_pointed_at_test_data() -> None:
    run = Run.start(NOTEBOOK, {})
    run.validated("val_auroc", 0.8, "max")
    with pytest.raises(TestDataRefused, match="test_auroc"):
        run.validated("test_auroc", 0.9, "max")
    assert run.results.validation.name == "val_auroc"


def test_many_metrics_of_few_methods_stand_side_by_side() -> None:
    run = Run.start(NOTEBOOK, {})
    run.record(
        Estimate("auroc", 0.9, 0.8, 0.95, 20, "patch", "test"), Estimate("hd95_um", 3.0, 1.0, 5.0, 1, "patient", "test")
    )
    run.compare("colour", Estimate("auroc", 0.7, 0.6, 0.8, 20, "patch", "test"), trivial=False)
    table = run.headline(across=True)
    assert table.columns.tolist() == ["cases", "this model", "colour"]
    assert table.loc["AUROC"].tolist() == ["20\u00a0patches,\u00a0test", "0.90 (0.80–0.95)", "0.70 (0.60–0.80)"]
    assert table.loc["HD95 (µm)"].tolist() == ["1\u00a0patient,\u00a0test", "3.0 (1.0–5.0)", ""]
    assert run.headline()["metric"].tolist() == ["AUROC", "HD95 (µm)", "AUROC"]
    assert [row.trivial for row in run.results.baselines] == [False]


def test_the_table_of_the_headline_is_marked_as_one_that_a_report_shows_already(monkeypatch) -> None:
    sent = []
    monkeypatch.setattr("medcore.reporting.run.front_end", lambda: lambda bundle, **more: sent.append(more["metadata"]))
    run = Run.start(NOTEBOOK, {})
    run.record(Estimate("auroc", 0.9, 0.8, 0.95, 20, "patch", "test"))
    for table in (run.headline(), run.headline(across=True), run.headline(across=True).loc[["AUROC"]]):
        run.table(table, "Every metric")
    run.table(pd.DataFrame({"a": [1]}), "Another")
    assert [bool(metadata) for metadata in sent] == [True, True, True, False]


def test_a_second_model_takes_nothing_over_from_the_first() -> None:
    run = Run.start(NOTEBOOK, {})
    run.describe_model(torch.nn.Linear(2, 1), name="small", initialisation="random")
    run.describe_model(made="today")
    run.describe_model(torch.nn.Linear(2, 1), name="small", folder="a")
    assert run.results.model["initialisation"] == "random" and run.results.model["made"] == "today"
    run.describe_model(torch.nn.Linear(3, 1), name="probe on an encoder")
    assert "initialisation" not in run.results.model and run.results.model["weights"] == 4


def test_intervals_speak_of_what_the_set_has() -> None:
    said = {}
    for group, known in (("lesion", True), ("patient", True), ("patient", False)):
        run = Run.start(NOTEBOOK, {})
        ps = patches()
        card = replace(ps.card, group=group, patients_known=known)
        ps = run.use(PatchSet.from_arrays(ps.take(), ps.table, card))
        scores = Scores.from_set(ps.where(split="test"), np.tile([0.3, 0.7], (8, 1)))
        run.record(
            interval(scores, "balanced_accuracy"),
            Estimate("auroc", None, None, None, 1, "image", "test", note="one patient only"),
        )
        said[group, known] = run.results.metrics[0].method + run.results.metrics[1].note
    assert "patient" not in said["lesion", True] and "lesion" in said["lesion", True]
    assert "one patient only" in said["patient", True]
    assert "one image only" in said["patient", False]


def test_a_table_is_shown_with_its_title_and_counts_name_the_sets_own_units(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.start(NOTEBOOK, {})
    ps = run.use(patches())
    assert run.on(ps) == "30 images of 15 patients"
    assert run.on(Scores.from_set(ps.where(split="test"), np.tile([0.3, 0.7], (8, 1)))) == "8 images of 4 patients"
    capsys.readouterr()
    run.table(None, "Nothing")
    assert capsys.readouterr().out == ""
    run.table(ps.table["label"].head(2), "Two labels")
    assert capsys.readouterr().out.startswith("Two labels\n")
