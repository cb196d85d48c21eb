"""Ensembles and views of classifiers: equal to plain averaging, refused where they cannot be, from CLI and Python."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import entropy
from sklearn.metrics import balanced_accuracy_score
from test_predictor import stripes, write_images

from medcore.cli import cli
from medcore.errors import MedcoreError
from medcore.evaluation.predictor import equip, load_predictor
from medcore.models.classifier import build_classifier
from medcore.studies.ensemble import JointPredictions, load_ensemble, views_of
from medcore.training.augment.apply import augment_images
from medcore.training.augment.recipe import PRESETS, Augment
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("seeds")
    train, validation = stripes(48, 0).with_split(["train"] * 48), stripes(24, 1).with_split(["val"] * 24)
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = build_classifier("small_cnn", 2, image_size=32)
        settings = {
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "precision": "fp32",
            "augment": Augment(flip_horizontal=0.5),
        }
        config = TrainConfig(seed=seed, **settings)
        fit(model, Classification(train.classes), train, validation, config, out=place / f"fold-{seed}", progress=False)
        equip(place / f"fold-{seed}", model, train, validation, temperature=0.2 * seed)
    return [place / "fold-1", place / "fold-2"]


def test_an_ensemble_is_the_mean_of_its_members_and_disagreement_the_entropy_between_them(runs: list[Path]) -> None:
    pixels = stripes(20, 3).take()
    single = [next(load_predictor(run).predict(pixels)) for run in runs]
    (joint,) = load_ensemble(runs).predict(pixels)
    each = np.stack([one.probabilities for one in single])
    np.testing.assert_allclose(joint.probabilities, each.mean(axis=0), atol=1e-6)
    expected = entropy(each.mean(axis=0), axis=1) - entropy(each, axis=2).mean(axis=0)
    assert isinstance(joint, JointPredictions) and expected.max() > 1e-4
    np.testing.assert_allclose(joint.disagreement, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(joint.distance, single[0].distance, rtol=1e-3)
    (of_folds,) = load_ensemble([runs[0].parent]).predict(pixels)
    np.testing.assert_array_equal(of_folds.probabilities, joint.probabilities)


def test_views_are_averaged_as_if_each_had_been_asked(runs: list[Path]) -> None:
    pixels, plain = stripes(12, 4).take(), load_predictor(runs[0])
    (joint,) = load_ensemble(runs[:1], turned=True).predict(pixels)
    views = [next(plain.predict(np.ascontiguousarray(view))).probabilities for view in (pixels, pixels[:, :, ::-1])]
    np.testing.assert_allclose(joint.probabilities, np.mean(views, axis=0), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (6, 8)])
@pytest.mark.parametrize("flips", [(0.5, 0), (0, 0.5), (0.5, 0.5), (0, 0)])
@pytest.mark.parametrize("turns", [True, False])
def test_views_are_exactly_what_the_training_showed(
    shape: tuple[int, int], flips: tuple[float, float], turns: bool
) -> None:
    recipe = Augment(flip_horizontal=flips[0], flip_vertical=flips[1], turns=turns)
    image = torch.arange(shape[0] * shape[1], dtype=torch.uint8).reshape(1, *shape, 1)
    many = image.expand(200, -1, -1, -1).contiguous()
    shown, _ = augment_images(recipe, many, None, torch.arange(200), seed=0, epoch=0)
    seen = {one.numpy().tobytes() for one in torch.round(shown * 255).to(torch.uint8)[:, 0]}
    plain = image[0, :, :, 0].numpy()
    manifest = {"config": {"augment": vars(recipe)}, "image_shape": [*shape, 1]}
    views = views_of(manifest)
    ours = [np.rot90(plain[:, ::-1] if k >= 4 else plain, k % 4) for k in views]
    assert {np.ascontiguousarray(one).tobytes() for one in ours} == seen and len(views) == len(seen)
    assert views_of({"config": {"augment": None}, "image_shape": [8, 8, 1]}) == [0]
    assert PRESETS["xray"] is not None and not (PRESETS["xray"].flip_horizontal or PRESETS["xray"].turns)


def test_what_cannot_be_averaged_is_refused_by_name(runs: list[Path], tmp_path: Path) -> None:
    other = stripes(24, 0)
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2, image_size=32)
    config = TrainConfig(epochs=1, batch_size=16, precision="fp32")
    renamed = other.with_card(type(other.card)("stripes", classes=["down", "across"]))
    sides = renamed.with_split(["train"] * 24), renamed.with_split(["val"] * 24)
    fit(model, Classification(renamed.classes), *sides, config, out=tmp_path / "other", progress=False)
    with pytest.raises(MedcoreError, match=r"other.*differ in classes"):
        load_ensemble([runs[0], tmp_path / "other"])
    with pytest.raises(MedcoreError, match="without flips or turns"):
        load_ensemble([tmp_path / "other"], turned=True)


def test_from_the_command_line_with_gain_and_disagreement(runs: list[Path], tmp_path: Path) -> None:
    test = stripes(30, 5)
    test = test.with_columns(patient=[f"new {name}" for name in test.patients])
    paths = write_images(tmp_path / "new", test.take())
    out = tmp_path / "answers.csv"
    arguments = ["predict", str(runs[0]), *map(str, paths), "--also", str(runs[1]), "--tta", "--out", str(out)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    predictor = load_ensemble(runs, turned=True)
    (joint,) = predictor.predict(test.take())
    np.testing.assert_allclose([float(row["disagreement"]) for row in rows], joint.disagreement, atol=6e-5)
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], joint.confidence, atol=6e-5)
    test.save(tmp_path / "test.npz")
    said = ["evaluate", str(runs[0].parent), "--data", str(tmp_path / "test.npz"), "--split", "all"]
    judged = CliRunner().invoke(cli, said)
    assert judged.exit_code == 0, judged.output
    lines = [line for line in judged.output.splitlines() if "averaged" in line]
    joint_of_folds, first = load_ensemble(runs).probabilities(test), load_predictor(runs[0]).probabilities(test)
    value, alone = (balanced_accuracy_score(test.labels, one.argmax(axis=1)) for one in (joint_of_folds, first))
    assert len(lines) == 2 and f"{value:.2f}" in lines[0] and f"alone {value - alone:.2f}"[:9] in lines[0]


def test_an_image_counts_as_seen_where_any_member_saw_it(runs: list[Path], tmp_path: Path) -> None:
    foreign = stripes(24, 9)
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2, image_size=32)
    sides = foreign.with_split(["train"] * 24), stripes(24, 10).with_split(["val"] * 24)
    config = TrainConfig(epochs=1, batch_size=16, precision="fp32")
    fit(model, Classification(foreign.classes), *sides, config, out=tmp_path / "c", progress=False)
    (alone,), (joint,) = (
        one.predict(foreign.take()) for one in (load_predictor(runs[0]), load_ensemble([runs[0], tmp_path / "c"]))
    )
    assert not alone.seen.any() and joint.seen.all()
