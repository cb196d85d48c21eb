"""Every option of reading of ``data prepare`` and ``new`` reaches the reader, and a dry run writes nothing."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from medcore.cli import cli
from medcore.cli.reading import given_options, reading_options
from medcore.cli.train import read_split
from medcore.data import readers
from medcore.data.load import read_set
from medcore.data.options import DecodeOptions
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError

SAID: dict[str, dict[str, Any]] = {
    "": {},
    "--size 32 --policy pad": {"size": 32, "policy": "pad"},
    "--channels 1": {"channels": 1},
    "--on-error skip": {"on_error": "skip"},
    "--window 40 400": {"window": (40.0, 400.0)},
    "--value-range 0 4095": {"value_range": (0.0, 4095.0)},
    "--max-pixels 1000": {"max_pixels": 1000},
    "--slices middle": {"slices": "middle"},
    "--slices 3": {"slices": 3},
    "--keep-ids": {"keep_ids": True},
    "--layout class/*": {"layout": "class/*"},
    "--classes a,B,c": {"classes": ["a", "B", "c"]},
    "--patient-pattern (P\\d+)_": {"patient_pattern": "(P\\d+)_"},
    "--encoding cp1252": {"encoding": "cp1252"},
    "--column label=dx --column patient=pid": {"columns": {"label": "dx", "patient": "pid"}},
    "--images A --masks B": {"images": "A", "masks": "B"},
    "--mask-map 0=ground,#ff0000=gland": {"mask_map": {"0": "ground", "#ff0000": "gland"}},
    "--mask-threshold 128": {"mask_threshold": 128.0},
    "--mask-rule binary": {"mask_rule": "binary"},
}  # fmt: skip


@pytest.mark.parametrize("said", SAID)
def test_an_option_becomes_what_the_reader_takes(said: str) -> None:
    found: dict[str, Any] = {}

    @click.command()
    @reading_options
    def command(**values: Any) -> None:
        found.update(given_options(values))

    result = CliRunner().invoke(command, said.split())
    assert result.exit_code == 0 and found == SAID[said], result.output


def test_every_option_belongs_to_a_reader_to_decoding_or_to_the_set() -> None:
    makers = [value for name, value in vars(readers).items() if name.startswith("read_") and callable(value)]
    taken = {name for maker in [read_set, DecodeOptions, *makers] for name in inspect.signature(maker).parameters}
    assert {name for options in SAID.values() for name in options} <= taken


def options_of(*words: str) -> set[str]:
    """All options of a command."""
    command: Any = cli
    for word in words:
        command = command.get_command(click.Context(command), word)
    return {name for parameter in command.get_params(click.Context(command)) for name in parameter.opts}


@pytest.mark.parametrize("words", ["data prepare", "new", "reports", "audit", "train"])
def test_every_remedy_that_reading_names_is_an_option_of_the_command(words: str) -> None:
    """Messages of the room ``data`` are about files: whatever command reads them has the way out."""
    files = [*Path(readers.__file__).parents[1].glob("*.py"), *Path(readers.__file__).parent.glob("*.py")]
    files += Path(readers.__file__).parents[1].joinpath("formats").glob("*.py")
    named = {
        name for file in files for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", file.read_text(encoding="utf-8"))
    }
    assert {"--window", "--value-range", "--bands", "--encoding", "--classes"} <= named
    assert named - {"--out", "--fix", "--data"} <= options_of(*words.split()), words


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_every_remedy_of_decoding_is_an_option_where_a_model_reads(command: str) -> None:
    files = [Path(readers.__file__).parents[1] / "images.py"]
    files += Path(readers.__file__).parents[1].joinpath("formats").glob("*.py")
    named = {name for file in files for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", file.read_text("utf-8"))}
    assert {"--bands", "--max-pixels", "--value-range"} <= named <= options_of(command)


def test_audit_train_and_reports_read_as_told(tmp_path: Path, tmp_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, run = str(images(tmp_path / "set")), CliRunner()
    for words in (["audit", root], ["train", "classifier", "--data", root, "--out", str(tmp_path / "run")]):
        refused = run.invoke(cli, words)
        assert isinstance(refused.exception, MedcoreError) and "--encoding" in str(refused.exception)
    audited = run.invoke(cli, ["audit", root, "--encoding", "cp1252"])
    assert not isinstance(audited.exception, MedcoreError), audited.output
    patches = read_split(root, None, {"encoding": "cp1252", "size": 12}, seed=0)
    assert patches.classes == ["früh", "spät"] and patches.shape[:2] == (12, 12)
    read: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "medcore.reporting.runner.run_notebooks", lambda planned, **_: read.extend(planned.values()) or []
    )
    told = run.invoke(cli, ["reports", "06", "--data", root, "--encoding", "cp1252", "--size", "16"])
    assert told.exit_code == 0 and read[0]["size"] == 16, told.output
    assert PatchSet.open(read[0]["data"]).classes == ["früh", "spät"]
    assert run.invoke(cli, ["reports", "06", "--encoding", "cp1252"]).exit_code != 0


def test_pairs_need_an_equals_sign() -> None:
    result = CliRunner().invoke(cli, ["data", "prepare", "x", "--mask-map", "red"])
    assert result.exit_code == 2 and "NAME=VALUE" in result.output


def images(root: Path, count: int = 6) -> Path:
    rng = np.random.default_rng(0)
    for name in ("früh", "spät"):
        for k in range(count):
            path = root / "images" / f"{name}{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    rows = [f"{name}{k}.png,{name},{name}{k}" for name in ("früh", "spät") for k in range(count)]
    (root / "metadata.csv").write_text("image,label,patient\n" + "\n".join(rows) + "\n", encoding="cp1252")
    return root


def test_prepare_reads_as_told_and_a_dry_run_writes_nothing(tmp_path: Path, tmp_data: Path) -> None:
    root = str(images(tmp_path / "set"))
    run = CliRunner()
    refused = run.invoke(cli, ["data", "prepare", root])
    assert isinstance(refused.exception, MedcoreError) and "--encoding" in str(refused.exception)
    dry = run.invoke(cli, ["data", "prepare", root, "--encoding", "cp1252", "--dry-run"])
    assert dry.exit_code == 0 and "read as cp1252" in dry.output and not list(tmp_data.rglob("*.npz"))
    made = run.invoke(cli, ["data", "prepare", root, "--encoding", "cp1252", "--out", str(tmp_path / "set.npz")])
    assert made.exit_code == 0 and PatchSet.open(tmp_path / "set.npz").classes == ["früh", "spät"]


def test_a_new_study_keeps_what_was_said_and_refuses_too_few(tmp_path: Path, tmp_data: Path) -> None:
    root = images(tmp_path / "my: 'set' #1")
    run = CliRunner()
    made = run.invoke(cli, ["new", str(tmp_path / "study"), "--data", str(root), "--encoding", "cp1252"])
    assert made.exit_code in (0, 1) and made.exception is None or isinstance(made.exception, SystemExit), made.output
    parameters = yaml.safe_load((tmp_path / "study/parameters.yaml").read_text(encoding="utf-8"))
    assert PatchSet.open(parameters["data"]).classes == ["früh", "spät"] and parameters["seed"] == 0
    (root / "metadata.csv").write_text("image,label,patient\nfrüh0.png,a,1\nfrüh1.png,b,2\nfrüh2.png,c,3\n")
    refused = run.invoke(cli, ["new", str(tmp_path / "other"), "--data", str(root)])
    assert isinstance(refused.exception, MedcoreError) and "A class needs at least 3 patients" in str(refused.exception)
    assert not (tmp_path / "other").exists()


def test_what_was_left_out_is_said_last_and_escapes_in_names_are_shown(tmp_path: Path, tmp_data: Path) -> None:
    for name in ("a", "b\x1b[31m"):
        for k in range(3):
            path = tmp_path / "set" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 10 * k, np.uint8) + np.arange(8, dtype=np.uint8)).save(path)
    (tmp_path / "set/a/9.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    result = CliRunner().invoke(cli, ["data", "prepare", str(tmp_path / "set"), "--on-error", "skip"])
    assert result.exit_code == 0 and result.output.strip().splitlines()[-1].startswith("LEFT OUT: 1 of 7")
    assert "classes from folders: a, b\\x1b[31m" in result.output
