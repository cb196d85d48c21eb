"""A run that was killed and resumed gives the weights of the uninterrupted run, bit for bit."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from training_toys import final_tensors, in_child, run_toy, same_tensors, tiny

from medcore.errors import MedcoreError
from medcore.training import checkpoint


def campaign(folder: Path, kills: int, seed: int, **changes: object) -> tuple[list[str], str]:
    """Kill ``kills`` runs once each at a random step or moment of saving, and resume them.

    Returns:
        A verdict for each, and a line that sums them up.
    """
    count_file = folder / "events.txt"
    assert in_child(folder / "whole", count_file=count_file, **changes) == 0
    expected, events = final_tensors(folder / "whole"), count_file.read_text().splitlines()
    steps = [moment for moment, name in enumerate(events, 1) if name == "take_step"]
    saving = [moment for moment, name in enumerate(events, 1) if name != "take_step"]
    draw = random.Random(seed)
    moments = draw.sample(steps, kills // 2) + draw.sample(saving, kills - kills // 2)
    verdicts, checked = [], 0
    for number, moment in enumerate(moments):
        out = folder / f"killed-{number}"
        assert in_child(out, kill_at=moment, **changes) == -signal.SIGKILL
        for path in (out / "checkpoints").glob("epoch-*"):
            checkpoint.verify(path)  # a checkpoint that is there is whole
            checked += 1
        assert in_child(out, **changes) == 0
        same = same_tensors(final_tensors(out), expected)
        verdicts.append("identical" if same else f"differs at event {moment}, {events[moment - 1]}")
    places = f"{kills // 2} between steps, {kills - kills // 2} while saving"
    setting = ", ".join(f"{name}={value}" for name, value in changes.items())
    identical = f"{verdicts.count('identical')} of {kills} final states identical, bit for bit"
    return verdicts, f"{kills} kills ({places}; {setting}): {identical}; 0 of {checked} checkpoints unreadable"


@pytest.mark.parametrize(("loader", "kills"), [("memory", 3), ("stream", 2)])
def test_killed_runs_resume_bit_identical(tmp_path: Path, loader: str, kills: int) -> None:
    assert campaign(tmp_path, kills, seed=1, loader=loader)[0] == ["identical"] * kills


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimiser", "loader", "kills"), [("adamw", "memory", 20), ("adamw", "stream", 20), ("sgd", "stream", 10)]
)
def test_kill_campaign(tmp_path: Path, optimiser: str, loader: str, kills: int, record_property: Any) -> None:
    changes = {"loader": loader, "optimiser": optimiser, "ema_decay": 0.0 if optimiser == "sgd" else 0.5}
    verdicts, line = campaign(tmp_path, kills, seed=2, **changes)
    record_property("summary", line)
    assert verdicts == ["identical"] * kills


def test_two_kills_of_one_run(tmp_path: Path) -> None:
    assert in_child(tmp_path / "whole") == 0
    for moment in (9, 30):
        assert in_child(tmp_path / "killed", kill_at=moment) == -signal.SIGKILL
    assert in_child(tmp_path / "killed") == 0
    assert same_tensors(final_tensors(tmp_path / "killed"), final_tensors(tmp_path / "whole"))


def test_conventional_randomness_would_fail_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: an order drawn from process history gives other weights after a stop."""
    import torch

    from medcore.training import batches

    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(batches, "permutation", lambda ids, seed, epoch: torch.randperm(len(ids), generator=generator))
    run_toy(tmp_path / "whole")
    generator.manual_seed(0)
    run_toy(tmp_path / "cut", schedule="constant", epochs=1)
    generator.manual_seed(0)  # a new process begins anew
    run_toy(tmp_path / "whole-constant", schedule="constant")
    generator.manual_seed(0)
    run_toy(tmp_path / "cut", schedule="constant", resume=True)
    assert not same_tensors(final_tensors(tmp_path / "cut"), final_tensors(tmp_path / "whole-constant"))


def test_more_epochs_continue_as_if_never_stopped(tmp_path: Path) -> None:
    run_toy(tmp_path / "long", schedule="exponential", epochs=4)
    run_toy(tmp_path / "short", schedule="exponential", epochs=2)
    history = run_toy(tmp_path / "short", schedule="exponential", epochs=4, resume=True)
    assert history.table["epoch"].tolist() == [1, 2, 3, 4]
    assert same_tensors(final_tensors(tmp_path / "short"), final_tensors(tmp_path / "long"))
    first, second = ((tmp_path / name / "history.csv").read_text().splitlines() for name in ("long", "short"))
    assert len(first) == len(second) == 5


def test_a_stretched_schedule_is_said(tmp_path: Path) -> None:
    run_toy(tmp_path, schedule="cosine", epochs=2)
    with pytest.warns(UserWarning, match="resumed to 3 epochs instead of 2: the cosine schedule is stretched"):
        history = run_toy(tmp_path, schedule="cosine", epochs=3, resume=True)
    assert len(history.notes) == 1


def test_history_survives_a_resume_exactly(tmp_path: Path) -> None:
    whole = run_toy(tmp_path / "whole").table
    run_toy(tmp_path / "cut", schedule="constant", epochs=2)
    cut = run_toy(tmp_path / "cut", schedule="constant", resume=True).table
    whole = run_toy(tmp_path / "whole-constant", schedule="constant").table
    columns = [name for name in whole if name != "seconds"]
    assert cut[columns].equals(whole[columns])


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run_toy(tmp_path)
    before = final_tensors(tmp_path)
    model = tiny(seed=5)
    history = run_toy(tmp_path, resume=True, model=model)
    assert history.last_epoch == 3
    assert same_tensors(before, final_tensors(tmp_path))
    best = checkpoint.read_checkpoint(checkpoint.find(tmp_path, "best"))[0]
    assert same_tensors(model.state_dict(), best)


def test_resume_refuses_another_run_by_field(tmp_path: Path) -> None:
    run_toy(tmp_path, epochs=1)
    with pytest.raises(MedcoreError, match=r"config\.learning_rate \(0\.01 there, 0\.02 here\)"):
        run_toy(tmp_path, resume=True, learning_rate=0.02)
    with pytest.raises(MedcoreError, match=r"config\.augment"):
        run_toy(tmp_path, resume=True, augment=None)
    with pytest.raises(MedcoreError, match="architecture"):
        run_toy(tmp_path, resume=True, model=tiny(classes=3))


def test_resume_refuses_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import training_toys

    run_toy(tmp_path, epochs=1)
    other = training_toys.toy_set(seed=1)
    monkeypatch.setattr(training_toys, "toy_set", lambda: other)
    with pytest.raises(MedcoreError, match="train images .*validation images"):
        run_toy(tmp_path, resume=True)


def test_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    run_toy(tmp_path, epochs=1)
    with pytest.raises(MedcoreError, match="resume=True"):
        run_toy(tmp_path, epochs=1)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_resume_goes_on_from_the_last_whole_epoch_and_says_so(tmp_path: Path) -> None:
    options: dict[str, Any] = {"schedule": "exponential", "keep": "all"}
    run_toy(tmp_path / "whole", epochs=3, **options)
    run_toy(tmp_path / "cut", epochs=2, **options)
    damage(tmp_path / "cut" / "checkpoints" / "epoch-0002" / checkpoint.STATE)
    with pytest.warns(UserWarning, match=r"resumed from epoch 1.*epoch-0002/state.safetensors"):
        history = run_toy(tmp_path / "cut", epochs=3, resume=True, **options)
    assert "epoch-0002" in history.notes[0]
    assert same_tensors(final_tensors(tmp_path / "cut"), final_tensors(tmp_path / "whole"))
    for epoch in (1, 2, 3):
        damage(tmp_path / "cut" / "checkpoints" / f"epoch-000{epoch}" / checkpoint.MANIFEST)
    with pytest.raises(MedcoreError, match="epoch-0003/manifest.json"):
        run_toy(tmp_path / "cut", epochs=4, resume=True, **options)


def test_a_run_goes_on_with_its_own_number_of_threads(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        run_toy(tmp_path, epochs=1)
        torch.set_num_threads(2)
        run_toy(tmp_path, epochs=1, resume=True)
        assert torch.get_num_threads() == 2
        assert checkpoint.read_manifest(checkpoint.find(tmp_path, "last"))["threads"] == 1
        with pytest.raises(MedcoreError, match=r"config\.threads \(None there, 2 here\)"):
            run_toy(tmp_path, epochs=1, threads=2, resume=True)
    finally:
        torch.set_num_threads(before)


def test_a_run_of_another_version_goes_on_and_says_so(tmp_path: Path) -> None:
    run_toy(tmp_path, epochs=1)
    folder = checkpoint.find(tmp_path, "last")
    manifest = checkpoint.read_manifest(folder) | {"torch": "2.0.0"}
    (folder / checkpoint.MANIFEST).write_bytes(checkpoint.seal(manifest))
    with pytest.warns(UserWarning, match=r"torch 2\.0\.0"):
        history = run_toy(tmp_path, epochs=1, resume=True)
    assert len(history.notes) == 1


def test_resume_repeats_the_precision_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medcore.training import device as precision

    monkeypatch.setattr(precision, "capability_of", lambda device: "cpu-bf16")
    run_toy(tmp_path, epochs=1, precision="auto", schedule="constant")
    monkeypatch.setattr(precision, "capability_of", lambda device: "cpu")
    history = run_toy(tmp_path, epochs=2, precision="auto", schedule="constant", resume=True)
    assert (history.precision["dtype"], history.precision["layout"]) == ("bf16", "channels_last")


def test_manifest_holds_what_a_reader_needs(tmp_path: Path) -> None:
    run_toy(tmp_path)
    manifest = json.loads((tmp_path / "checkpoints" / "best" / "manifest.json").read_text())
    wanted = {"format", "architecture", "classes", "image_shape", "normalisation", "task", "config", "precision"}
    wanted |= {"data", "epoch", "metrics", "torch", "medcore", "created", "extra", "sha256", "manifest_sha256"}
    assert wanted <= manifest.keys()
    assert manifest["data"]["name"] == "toy"
    assert manifest["data"]["train"]["images"] == 36


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "sent", "given"),
    [
        ("05_segmentation", signal.SIGKILL, ["ablation_epochs=0"]),
        ("06_patch_classification", signal.SIGHUP, ["encoder=", "variant_epochs=0", "fold_epochs=0"]),
    ],
)
def test_the_training_of_a_notebook_goes_on_where_its_run_was_killed(
    stem: str, sent: signal.Signals, given: list[str], tmp_path: Path
) -> None:
    import psutil

    places = {"MEDCORE_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    options = [word for each in ["epochs=6", *given] for word in ("-p", each)]
    command = [sys.executable, "-m", "medcore", "reports", stem, "--profile", "smoke", "--out", str(tmp_path / "out")]
    begin = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); from medcore.cli import main; main()"
    command = [sys.executable, "-c", begin, *command[3:], *options]
    process = subprocess.Popen(command, env=os.environ | places, cwd=Path(__file__).parents[1])
    reached = tmp_path / "out" / f"{stem}.partial" / "checkpoints" / "epoch-0003"
    while not reached.exists():
        assert process.poll() is None, "it ended before its third epoch"
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    process.wait(120)
    psutil.wait_procs(family, timeout=60)
    (broken,) = [path for path in (tmp_path / "out").glob("*/checkpoints")]
    newest = max(broken.glob("epoch-*"))
    before = [row["seconds"] for row in json.loads((newest / "manifest.json").read_text())["history"]]
    assert 3 <= len(before) < 6, "it was killed in the middle of its training"
    done = subprocess.run(
        command, env=os.environ | places, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "out" / stem / "history.csv", newline="", encoding="utf-8") as file:
        after = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert len(after) == 6 and after[: len(before)] == pytest.approx(before, abs=1e-6), "the same epochs, not new ones"
