"""Parameters are refused before a kernel starts: unknown names, wrong types, values out of range."""

from pathlib import Path
from typing import get_args

import nbformat
import pytest
import torch
import torchvision

from medcore.errors import MedcoreError
from medcore.reporting.parameters import SCHEMAS, read_literal, schema_for, validate

NOTEBOOK = "06_patch_classification"
PatchClassification = schema_for(NOTEBOOK)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"epochs": "three"}, "'three'"),
        ({"epochs": "3.5"}, "integer"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"lr": -1.0}, "greater than 0"),
        ({"seed": True}, "integer"),
        ({"profile": "quik"}, "'smoke', 'quick' or 'full'"),
        ({"x=__import__('os').system('true');y": 1}, "no parameter"),
    ],
)
def test_wrong_parameters_are_refused(raw: dict, message: str) -> None:
    with pytest.raises(MedcoreError, match=message.replace("(", r"\(")):
        validate(NOTEBOOK, raw)


@pytest.mark.parametrize(
    ("notebook", "name", "value"),
    [
        ("06", "architectures", ["foo"]),
        ("06", "model", "resnet"),
        ("06", "augment", "flip"),
        ("06", "weights", "/no/such/file.pth"),
        ("06", "device", "gpu"),
        ("06", "keep", "0"),
        ("02", "peer", "resnet34x"),
        ("02", "peer_weights", "imagenett"),
        ("02", "rule", "sensitivity>=95"),
        ("03", "rule", "best"),
        ("04", "rule", "cost 5"),
        ("05", "loss", "ce+focus"),
        ("05", "schedule", "onecycle"),
        ("05", "model", "small_cnn"),
        ("01", "device", "cuda:x"),
    ],
)
def test_values_that_cannot_work_are_refused_before_a_kernel(notebook: str, name: str, value: object) -> None:
    (stem,) = (stem for stem in SCHEMAS if stem.startswith(notebook))
    with pytest.raises(MedcoreError, match=name):
        validate(stem, {name: value})


def test_the_names_that_are_accepted_are_those_that_exist() -> None:
    from medcore.evaluation.thresholds import RULES
    from medcore.models.backbone import CLASSIFIER_NAMES
    from medcore.models.unet import ENCODERS
    from medcore.reporting.parameters import schemas
    from medcore.training.augment.recipe import PRESETS

    assert set(get_args(schemas.Classifier)) == set(CLASSIFIER_NAMES)
    assert set(get_args(schemas.Encoder)) == {*ENCODERS, "small"}
    assert set(get_args(schemas.Augmentation)) == set(PRESETS)
    for rule in RULES:
        assert validate("02_autoencoder", {"rule": rule}) == {"rule": rule}


def test_text_from_the_command_line_becomes_the_type() -> None:
    raw = {"epochs": "3", "lr": "1e-3", "weights": "none", "data": "123"}
    assert validate(NOTEBOOK, raw) == {"epochs": 3, "lr": 1e-3, "weights": None, "data": "123"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1e-3", 1e-3), ("[1, 2]", [1, 2]), ("a b", "a b"), ("None", None), ("'x", "'x")],
)
def test_literals(text: str, value: object) -> None:
    assert read_literal(text) == value


def test_a_profile_fills_only_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCORE_PROFILE", "full")
    resolved = PatchClassification(epochs=2).resolved()
    assert (resolved.epochs, resolved.model, resolved.profile) == (2, "efficientnet_b3", "full")
    assert PatchClassification(profile="smoke").resolved().model == "small_cnn"
    assert PatchClassification(epochs=2).changed() == ["epochs"]
    monkeypatch.setenv("MEDCORE_PROFILE", "fast")
    with pytest.raises(MedcoreError, match="fast"):
        PatchClassification().resolved()


def test_pretrained_weights_bring_their_model_and_are_fine_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDCORE_PROFILE", raising=False)
    file = tmp_path / "densenet.pth"
    torch.save(torchvision.models.densenet121().state_dict(), file)
    plain, tuned = PatchClassification().resolved(), PatchClassification(weights=str(file)).resolved()
    assert (plain.model, tuned.model) == ("small_cnn", "densenet121") and tuned.lr < plain.lr
    assert PatchClassification(weights=str(file), profile="full").resolved().model == "densenet121"
    assert PatchClassification(weights=str(file), model="resnet18", epochs=2).resolved().model == "resnet18"
    assert PatchClassification(weights="imagenet").resolved().model == "mobilenet_v2"
    assert PatchClassification(weights="random").resolved() == plain.model_copy(update={"weights": "random"})
    assert PatchClassification(profile="full").resolved().model == "efficientnet_b3"


def test_profiles_name_only_existing_parameters_and_valid_values() -> None:
    for schema in map(schema_for, SCHEMAS):
        for profile, values in schema.profiles.items():
            schema.model_validate({"profile": profile, **values})


def notebook_with(tmp_path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}) for source in sources]
    path = tmp_path / "my_study.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_notebook_of_your_own_gets_its_schema_from_its_cell(tmp_path: Path) -> None:
    path = notebook_with(tmp_path, 'data = "phantom-crc"  # set\ndepth = 3  # layers\nprofile = None\n')
    assert set(schema_for(path).model_fields) >= {"depth", "data", "seed"}
    assert validate(path, {"depth": "4"}) == {"depth": 4}
    with pytest.raises(MedcoreError, match="did you mean 'depth'"):
        validate(path, {"dept": 4})
    with pytest.raises(MedcoreError, match="'deep'"):
        validate(path, {"depth": "deep"})


def test_a_derived_value_in_the_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="line 2: only 'name = literal'"):
        schema_for(notebook_with(tmp_path, "depth = 3\nwidth = 2 * depth\n"))
    with pytest.raises(MedcoreError, match="2 cells tagged"):
        schema_for(notebook_with(tmp_path, "a = 1", "b = 2"))
    with pytest.raises(MedcoreError, match="does not exist"):
        schema_for(tmp_path / "none.ipynb")


def test_in_a_kernel_without_the_file_the_defaults_are_those_of_the_cell_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was installed without the notebooks folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medcore.reporting.parameters.checks.repository_root", lambda: None)
    history = ["", "import numpy", "x = 3", 'data = "phantom-derm"\nepochs = None\n', "run = Run.start(…)"]
    schema = schema_for(NOTEBOOK, history)
    assert schema.model_fields["data"].default == "phantom-derm"
    assert schema.model_validate({"epochs": 3, "data": "x"}).changed() == [
        "data",
        "epochs",
    ]
    with pytest.raises(MedcoreError, match="does not exist"):
        schema_for(NOTEBOOK)
