"""fit(): same seed same weights, validation alone chooses, and each promise of the config."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from training_toys import EVERYTHING, TinyNet, same_tensors, tiny, toy_config, toy_set

from medcore.errors import MedcoreError, TestDataRefused
from medcore.models.autoencoder import ConvAutoencoder
from medcore.models.classifier import build_classifier
from medcore.models.sealed import jsonable
from medcore.models.unet import SmallUNet
from medcore.models.vae import VAE
from medcore.training import checkpoint
from medcore.training import fit as module
from medcore.training.config import TrainConfig
from medcore.training.device import RULES, choose_precision, family_of, parse
from medcore.training.fit import fit
from medcore.training.history import History
from medcore.training.objectives import ELBO, Classification, Objective, Reconstruction, Segmentation
from medcore.training.optim import Ema, Watch, make_optimiser, schedule_factor
from medcore.training.state import direction


def train(
    model: nn.Module | None = None, objective: Objective | None = None, **options: Any
) -> tuple[nn.Module, History]:
    """One small run; options of fit() by name, the rest are fields of the config."""
    patches = options.pop("patches", None) or toy_set()
    model = tiny() if model is None else model
    named = {name: options.pop(name) for name in ("test", "out", "resume") if name in options}
    config = toy_config(**options)
    sides = patches.where(split="train"), patches.where(split="val")
    objective = objective or Classification(patches.classes)
    return model, fit(model, objective, *sides, config, progress=False, **named)


def plain(**changes: Any) -> dict[str, Any]:
    """A run without anything that draws or smooths."""
    return {"augment": None, "ema_decay": 0.0, "clip_norm": None, "schedule": "constant"} | changes


# ---- same seed, same weights


def test_same_seed_same_weights_and_another_seed_other_weights() -> None:
    first, second, other = (train(seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert same_tensors(first, second) and not same_tensors(first, other)


@pytest.mark.parametrize("options", [{"loader": "stream"}, {"loader": "stream", "loader_threads": 3}])
def test_loader_mode_and_threads_do_not_change_the_weights(tmp_path: Path, options: dict[str, Any]) -> None:
    patches = toy_set().save(tmp_path / "set.npz")
    expected = train(patches=patches, loader="memory")[0].state_dict()
    assert same_tensors(train(patches=patches, **options)[0].state_dict(), expected)


def test_what_the_caller_drew_before_does_not_matter_and_is_left_alone() -> None:
    expected = train()[0].state_dict()
    model = tiny()
    torch.manual_seed(99)
    before = torch.rand(3)
    torch.manual_seed(99)
    train(model)
    assert torch.equal(torch.rand(3), before) and same_tensors(model.state_dict(), expected)


def test_a_test_set_changes_nothing_but_the_curve(tmp_path: Path) -> None:
    patches = toy_set()
    without, alone = train()
    model, history = train(test=patches.where(split="test"), out=tmp_path)
    assert same_tensors(model.state_dict(), without.state_dict())
    assert history.best_epoch == alone.best_epoch
    assert {"test_loss", "test_accuracy", "test_auroc"} <= set(history.table)
    assert "test_loss" in pd.read_csv(tmp_path / "history.csv")
    assert not [name for name in history.tables if "test" in name]


def test_pieces_give_the_step_of_the_whole_batch() -> None:
    options = plain(optimiser="sgd", epochs=2)
    whole = train(tiny(dropout=0.0, norm=False), **options)[0].state_dict()
    pieces = train(tiny(dropout=0.0, norm=False), pieces=3, **options)[0].state_dict()
    assert all(torch.allclose(whole[name], pieces[name], atol=1e-6) for name in whole)


# ---- validation alone chooses


def test_test_images_are_refused_where_they_could_choose() -> None:
    patches = toy_set()
    sides = {side: patches.where(split=side) for side in ("train", "val", "test")}
    for train_side, validation in (("test", "val"), ("train", "test")):
        with pytest.raises(TestDataRefused, match="12 images are marked 'test'"):
            fit(tiny(), Classification(2), sides[train_side], sides[validation], toy_config(), progress=False)


@pytest.mark.parametrize("monitor", ["test_loss", "test_accuracy", "train_loss", "testing"])
def test_only_validation_columns_may_pick_the_epoch(monitor: str) -> None:
    with pytest.raises(TestDataRefused, match=monitor):
        train(monitor=monitor, test=toy_set().where(split="test"))


def test_an_unknown_monitor_names_the_columns() -> None:
    with pytest.raises(MedcoreError, match=r"monitor='val_dice'.*val_loss, val_balanced_accuracy"):
        train(monitor="val_dice")


def test_patients_on_both_sides_are_said() -> None:
    patches = toy_set().with_columns(patient=np.repeat("p", 60))
    with pytest.warns(UserWarning, match=r"1 patient\(s\) are in train and in validation"):
        train(patches=patches, epochs=1)


class Scripted(Objective):
    """An objective whose validation metric follows a script."""

    parts = ("loss",)
    monitor, mode = "val_score", "max"

    def __init__(self, script: list[float]) -> None:
        self.script, self.calls = script, 0

    def compute(self, output: Tensor, batch: Any, epoch: float) -> dict[str, Tensor]:
        return {"loss": output.square().mean()}

    def metrics(self, sums: dict[str, np.ndarray], samples: float) -> dict[str, float]:
        self.calls += 1  # training first, then validation
        return {"score": self.script[(self.calls - 1) // 2]}


def test_the_best_epoch_is_kept_and_put_back(tmp_path: Path) -> None:
    for out in (None, tmp_path):
        model, history = train(objective=Scripted([0.1, 0.7, 0.3, 0.7, 0.2]), epochs=5, out=out, keep="all")
        assert history.best_epoch in (2, 4)  # a tie goes to the lower validation loss
        losses = history.table.set_index("epoch")["val_loss"]
        assert history.best_epoch == (2 if losses[2] <= losses[4] else 4)
    expected = checkpoint.read_checkpoint(checkpoint.find(tmp_path, history.best_epoch))[0]
    assert same_tensors(model.state_dict(), expected)
    assert checkpoint.find(tmp_path, "best").name == checkpoint.epoch_name(history.best_epoch)
    assert checkpoint.find(tmp_path, "last").name == "epoch-0005"


def test_another_monitor_brings_its_own_direction() -> None:
    """A classifier picks by balanced accuracy, the larger the better; told to go by the loss, it takes the lowest."""
    _, history = train(monitor="val_loss", epochs=4)
    losses = history.table.set_index("epoch")["val_loss"]
    assert losses.nunique() > 1 and history.best_epoch == losses.idxmin()
    classifier = Classification(2)
    ways = {name: direction(name, classifier) for name in ("val_balanced_accuracy", "val_loss", "val_f1")}
    assert ways == {"val_balanced_accuracy": "max", "val_loss": "min", "val_f1": "max"}
    assert (direction("val_kl", ELBO()), direction("val_mse", Reconstruction())) == ("min", "min")


def test_early_stopping_counts_epochs_without_gain() -> None:
    _, history = train(objective=Scripted([0.1, 0.5, 0.4, 0.3, 0.9]), epochs=5, patience=2)
    assert history.table["epoch"].tolist() == [1, 2, 3, 4] and history.best_epoch == 2
    assert "stopped after epoch 4" in history.stopped


def test_a_metric_that_cannot_be_computed_is_never_best() -> None:
    _, history = train(objective=Scripted([math.nan, 0.2, math.nan]), epochs=3)
    assert history.best_epoch == 2


# ---- what the config promises


def test_augmentation_runs_from_and_until_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcore.training import batches

    seen: list[int] = []
    real = batches.choose

    def watched(*chosen: Any, **options: Any) -> Any:
        seen.append(options["epoch"])
        return real(*chosen, **options)

    monkeypatch.setattr(batches, "choose", watched)
    train(epochs=5, augment_from=2, augment_until=4)
    assert set(seen) == {2, 3}
    monkeypatch.setattr(batches, "choose", real)
    assert same_tensors(train(epochs=1, augment_from=2)[0].state_dict(), train(epochs=1, augment=None)[0].state_dict())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("exponential", [1, 0.5**0.5, 0.5, 0.5**1.5]),
        ("cosine", [1 / 3, 2 / 3, 1]),
    ],
)
def test_schedules_begin_as_stated(schedule: str, expected: list[float]) -> None:
    config = TrainConfig(epochs=10, schedule=schedule, decay=0.5, warmup_epochs=1)
    assert [schedule_factor(config, step, 2) for step in range(len(expected))] == pytest.approx(expected)


def test_schedules_are_torchs() -> None:
    total = 40
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total - 1, eta_min=0.01)
    config = TrainConfig(epochs=10, schedule="cosine")
    for step in range(total):
        assert schedule_factor(config, step, 4) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-6)
        optimiser.step()
        theirs.step()
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([weight], lr=1.0, momentum=0.9), 1.0, total, div_factor=25, final_div_factor=4, pct_start=0.3
    )
    config = TrainConfig(epochs=10, schedule="one-cycle", final_share=0.01)
    rates = []
    for _ in range(total):
        rates.append(cycle.get_last_lr()[0])
        cycle.optimizer.step()
        cycle.step()
    ours = [schedule_factor(config, step, 4) for step in range(total)]
    assert np.abs(np.array(ours) - rates).max() < 0.06  # torch counts its peak a step earlier
    assert max(ours) == pytest.approx(1.0, abs=0.01) and ours[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimisers_step_as_torchs_plain_ones(name: str) -> None:
    ours, theirs = tiny(), tiny()
    config = TrainConfig(optimiser=name, learning_rate=0.01, weight_decay=0.0)
    optimiser = make_optimiser(ours, config)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    options = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {"weight_decay": 0.0}
    plain_one = kind(theirs.parameters(), 0.01, foreach=False, **options)
    for seed in range(4):
        for model, steps in ((ours, optimiser), (theirs, plain_one)):
            torch.manual_seed(seed)
            steps.zero_grad()
            model(torch.rand(4, 3, 8, 8)).square().sum().backward()
            steps.step()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_weight_decay_leaves_biases_and_norms_alone() -> None:
    groups = make_optimiser(tiny(), TrainConfig(weight_decay=0.1)).param_groups
    assert {weight.ndim > 1 for weight in groups[0]["params"]} == {True} and groups[0]["weight_decay"] == 0.1
    assert {weight.ndim > 1 for weight in groups[1]["params"]} == {False} and groups[1]["weight_decay"] == 0.0


def test_gradients_are_clipped_to_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    real = torch.optim.AdamW.step

    def watched(self: Any, *rest: Any) -> Any:
        grads = [w.grad for group in self.param_groups for w in group["params"] if w.grad is not None]
        lengths.append(float(torch.linalg.vector_norm(torch.stack([grad.norm() for grad in grads]))))
        return real(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train(**plain(clip_norm=0.01))
    assert max(lengths) <= 0.01 * 1.001
    lengths.clear()
    train(**plain())
    assert max(lengths) > 0.01


def test_moving_average_is_the_average() -> None:
    model = nn.Linear(2, 1)
    ema = Ema(model, decay=0.9)
    expected = [weight.detach().clone() for weight in model.parameters()]
    for step in range(1, 30):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight))
        ema.update(step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = [
            keep * old + (1 - keep) * new.detach() for old, new in zip(expected, model.parameters(), strict=True)
        ]
    live = [weight.detach().clone() for weight in model.parameters()]
    with ema.in_place():
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(model.parameters(), expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), live, strict=True))


def test_a_frozen_backbone_stays_and_then_learns_with_its_share() -> None:
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2, image_size=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, **plain(epochs=1, frozen_epochs=1))
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("head", "norm")) for name in changed)
    train(model, **plain(epochs=2, frozen_epochs=1))
    assert not torch.equal(model.state_dict()["backbone.0.0.weight"], before["backbone.0.0.weight"])
    groups = make_optimiser(model, TrainConfig(learning_rate=0.1, backbone_share=0.1)).param_groups
    assert sorted({group["lr"] for group in groups}) == pytest.approx([0.01, 0.1])
    with pytest.raises(MedcoreError, match="TinyNet has no backbone"):
        train(frozen_epochs=1)


def test_unlabelled_images_are_refused_for_a_classifier() -> None:
    patches = toy_set()
    with pytest.raises(MedcoreError, match="have no label"):
        train(patches=patches.with_columns(label=np.full(60, -1)), objective=Classification(2))


def test_history_table_and_csv_agree(tmp_path: Path) -> None:
    _, history = train(out=tmp_path)
    saved = pd.read_csv(tmp_path / "history.csv")
    assert list(saved)[:2] == ["epoch", "train_loss"] and {"val_loss", "val_auroc", "lr", "seconds"} <= set(saved)
    assert np.allclose(saved.to_numpy(float), history.table.to_numpy(float), equal_nan=True)
    assert history.tables["confusion"].sum() == 12
    assert f"best is {history.best_epoch}" in repr(history)


def test_progress_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    patches = toy_set()
    sides = patches.where(split="train"), patches.where(split="val")
    fit(tiny(), Classification(2), *sides, toy_config(epochs=2))
    shown = capsys.readouterr().out
    number = r"\d\.\d{4}"
    line = rf"epoch \d/2  train_loss {number}  val_loss {number}  val_balanced_accuracy {number}  \d+\.\d s"
    assert len(re.findall(line, shown)) == 2  # losses and what picks the epoch; the rest is in history.csv
    assert shown.isascii() and "\x1b" not in shown
    fit(tiny(), Classification(2), *sides, toy_config(epochs=1), progress=False)
    assert capsys.readouterr().out == ""


# ---- every task through the same loop


@pytest.mark.parametrize("precision", ["fp32", "bf16+channels_last"])
@pytest.mark.parametrize("task", ["autoencoder", "vae", "segmenter", "classifier"])
def test_every_task_learns(task: str, precision: str) -> None:
    torch.manual_seed(0)
    patches = toy_set(count=60, side=16, masks=True)
    models: dict[str, tuple[nn.Module, Objective]] = {
        "autoencoder": (ConvAutoencoder(16, 3, 8), Reconstruction("mse")),
        "vae": (VAE(16, 3, 4), ELBO(beta=0.1, warmup_epochs=2)),
        "segmenter": (SmallUNet(2), Segmentation(2)),
        "classifier": (build_classifier("small_cnn", 2, image_size=16), Classification(2)),
    }
    model, objective = models[task]
    options = plain(epochs=3, learning_rate=3e-3, precision=precision, augment="flips", schedule="cosine")
    _, history = train(model, objective, patches=patches, **options)
    column = "train_reconstruction" if task == "vae" else "train_loss"
    assert history.table[column].iloc[-1] < history.table[column].iloc[0]
    validated = [name for name in history.table if name.startswith("val_")]
    assert history.monitor in validated[:2] and history.best_epoch >= 1  # beside the loss, what the curves show


def test_crops_train_and_whole_images_validate() -> None:
    patches = toy_set(count=40, side=24, masks=True)
    sizes: list[tuple[int, int]] = []

    class Watched(SmallUNet):
        def forward(self, images: Tensor) -> Any:
            sizes.append((images.shape[0], images.shape[-1]))
            return super().forward(images)

    from medcore.training.augment.recipe import Augment

    train(Watched(2), Segmentation(2), patches=patches, epochs=1, batch_size=8, augment=Augment(crop=16), ema_decay=0.0)
    assert {side for _, side in sizes} == {16, 24}
    assert max(count for count, side in sizes if side == 24) <= 8 * 16**2 // 24**2


# ---- when it goes wrong


class Poisoned(TinyNet):
    """Gives NaN from its ``bad``-th training forward on."""

    def __init__(self, bad: int) -> None:
        super().__init__(dropout=0.0)
        self.bad, self.calls = bad, 0
        self.before: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == self.bad and self.training:
            self.before = {name: value.clone() for name, value in self.named_parameters()}
        return super().forward(images) * (math.nan if self.training and self.calls >= self.bad else 1)


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd"])
def test_a_nan_loss_stops_with_step_images_and_saved_state(tmp_path: Path, optimiser: str) -> None:
    model = Poisoned(bad=6)  # the second batch of the second epoch
    with pytest.raises(MedcoreError, match=r"NaN or infinite in epoch 2, batch 2 of the epoch") as caught:
        train(model, out=tmp_path, **plain(optimiser=optimiser))
    ids = [int(word) for word in re.search(r"rows \[([\d, ]+)\]", str(caught.value)).group(1).split(",")]  # type: ignore[union-attr]
    assert len(ids) == 9 and set(ids) <= set(range(36))
    saved, manifest = checkpoint.read_checkpoint(tmp_path / "checkpoints" / "failed-epoch-0002")
    assert manifest["failed"] == {"epoch": 2, "batch": 2, "ids": ids}
    assert all(torch.equal(saved[name], value) for name, value in model.before.items())  # nothing was stepped
    assert checkpoint.epochs_in(tmp_path / "checkpoints") == [1]


def test_an_infinite_gradient_is_noticed_when_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    model.head.weight.register_hook(lambda grad: grad * math.inf)
    with pytest.raises(MedcoreError, match="epoch 1, batch 1"):
        train(model)


def test_the_watch_remembers_the_first_bad_batch() -> None:
    watch = Watch(torch.device("cpu"))
    for number, value in enumerate([1.0, math.inf, 2.0, math.nan]):
        watch.look(torch.tensor(value), torch.tensor([number]))
    assert watch.first_bad() == 1
    watch.start()
    watch.look(torch.tensor(1.0), torch.tensor([0]))
    assert watch.first_bad() is None


class Hungry(TinyNet):
    """Runs out of memory with more than ``most`` images."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__(norm=False)
        self.most, self.error = most, error

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.most:
            raise self.error
        return super().forward(images)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_largest_batch_that_fits(error: Exception) -> None:
    with pytest.raises(MedcoreError, match=r"9 images at once on cpu.*largest number that fits is 5: set pieces=2"):
        train(Hungry(5, error))
    with pytest.raises(MedcoreError, match="Not even one image fits"):
        train(Hungry(0, error))
    train(Hungry(5, error), pieces=2)


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        train(Hungry(0, RuntimeError("shape mismatch")))


# ---- config and precision


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"optimiser": "lion"}, "optimiser='lion'): must be 'adam' or 'adamw' or 'sgd'"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"batch_size": 2.5}, "batch_size=2.5): must be int"),
        ({"batch_size": True}, "batch_size=True"),
        ({"ema_decay": 1.5}, "ema_decay=1.5"),
        ({"pieces": 99}, "pieces=99): a batch of 64"),
        ({"keep": "some"}, "keep='some'"),
        ({"augment": "wild"}, "augment='wild'"),
        ({"deterministic": "yes"}, "deterministic='yes'"),
    ],
)
def test_impossible_configs_are_refused_by_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MedcoreError, match=re.escape(message)):
        TrainConfig(**changes)


def test_config_goes_through_json_and_describes_every_field() -> None:
    config = toy_config()
    assert TrainConfig.from_dict(jsonable(config.to_dict())) == config
    table = TrainConfig.describe()
    assert list(table.index) == [f.name for f in dataclasses.fields(TrainConfig)]
    assert all(text.endswith((".", "none.", "'")) or len(text) > 10 for text in table["meaning"])
    with pytest.raises(MedcoreError, match="no field 'lr'"):
        TrainConfig.from_dict({"lr": 1})


def test_precision_follows_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcore.training import device as precision

    cpu = torch.device("cpu")
    for capability in ("cpu-bf16-amx", "cpu-bf16", "cpu", "cuda-bf16", "cuda", "mps"):
        monkeypatch.setattr(precision, "capability_of", lambda device, capability=capability: capability)
        for model in (tiny(), build_classifier("small_cnn", 2)):
            first = choose_precision("auto", cpu, model)
            assert first == choose_precision("auto", cpu, model) and capability in first.reason
            assert any(str(first) == str(parse(rule, "")) for _, _, rule in RULES)
            if capability in ("cpu", "cuda", "mps"):
                assert first.dtype == "fp32"
    assert str(choose_precision("bf16+channels_last", cpu, tiny())) == "bf16+channels_last"
    assert family_of(build_classifier("small_cnn", 2)) == "small_cnn"
    with pytest.raises(MedcoreError, match="'fp16' is unknown"):
        choose_precision("fp16", cpu, tiny())


@pytest.mark.parametrize(
    ("flags", "capability", "choices"),
    [
        ({"avx2"}, "cpu", {"resnet18": "fp32+channels_last", "efficientnet_b0": "fp32+channels_last"}),
        ({"avx512_bf16"}, "cpu-bf16", {"resnet18": "bf16+channels_last", "mobilenet_v2": "fp32+channels_last"}),
        (
            {"avx512_bf16", "amx_bf16"},
            "cpu-bf16-amx",
            {"unet": "bf16+channels_last", "efficientnet_b3": "fp32+channels_last"},
        ),
    ],
)
def test_bfloat16_is_for_processors_that_have_it_and_not_for_families_that_it_slows(
    flags: set, capability: str, choices: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medcore.training import device as precision

    monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset(flags))
    cpu, model = torch.device("cpu"), tiny()
    assert precision.capability_of(cpu) == capability
    for family, choice in choices.items():
        model.spec = {"args": {"name": family}}
        assert str(choose_precision("auto", cpu, model)) == choice


def test_the_loop_can_be_read_in_a_sitting() -> None:
    source = Path(module.__file__).read_text().splitlines()
    assert len(source) <= 250
    for word in ("segment", "reconstruct", "vae", "elbo", "classif"):
        body = [line for line in source[20:] if word in line.lower() and not line.strip().startswith(("#", '"'))]
        assert not body, word


def test_augmentation_recipe_is_everything() -> None:
    assert EVERYTHING.noise and EVERYTHING.turns  # what the resume tests stand on


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("loader", ["memory", "stream"])
def test_gpu_same_seed_same_weights(tmp_path: Path, loader: str) -> None:
    patches = toy_set().save(tmp_path / "set.npz")
    options = {"patches": patches, "device": "cuda", "loader": loader, "precision": "bf16+channels_last"}
    assert same_tensors(train(**options)[0].state_dict(), train(**options)[0].state_dict())
