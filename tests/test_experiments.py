"""Variants are judged on validation patients only; subgroups add up and agree with a hand count."""

import numpy as np
import pandas as pd
import pytest

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.intervals import Estimate
from medcore.evaluation.scores import Scores
from medcore.studies.experiments import compare_variants, spread, subgroup_table
from medcore.training.config import TrainConfig

CONFIG = TrainConfig(epochs=1, batch_size=16, precision="fp32", seed=1)


def patches() -> PatchSet:
    rng = np.random.default_rng(0)
    label = np.arange(72) % 2
    images = np.clip(rng.normal(100 + 60 * label[:, None, None, None], 20, (72, 16, 16, 3)), 0, 255).astype(np.uint8)
    patient = np.arange(72) // 4
    split = np.array(["train"] * 48 + ["val"] * 12 + ["test"] * 12)
    table = {
        "label": label,
        "patient": patient,
        "split": split,
        "age": np.arange(72) + 0.5,
        "sex": np.where(patient % 2, "f", "m"),
    }
    return PatchSet.from_arrays(images, table, Card("toy", classes=["dark", "light"]))


def test_variants_see_validation_only() -> None:
    ps = patches()
    train, validation, test = (ps.where(split=side) for side in ("train", "val", "test"))
    found = compare_variants(
        train, validation, CONFIG, {"plain": {}, "flips": {"augment": "flips"}, "seed 2": {"seed": 2}}
    )
    assert list(found) == ["plain", "flips", "seed 2"]
    assert {one.split for one in found.values()} == {"val"}
    again = compare_variants(train, validation, CONFIG, {"plain": {}})
    assert again["plain"] == found["plain"]
    with pytest.raises(TestDataRefused):
        compare_variants(train, test, CONFIG, {"plain": {}})
    with pytest.raises(MedcoreError, match="'epoch'"):
        compare_variants(train, validation, CONFIG, {"plain": {"epoch": 3}})


def test_spread_of_seeds_by_hand() -> None:
    values = {str(v): Estimate("accuracy", v, 0.0, 1.0, 10, "patch", "val") for v in (0.5, 0.7, 0.9)}
    assert spread(values) == pytest.approx((0.7, 0.2))


def test_subgroups_agree_with_a_hand_count() -> None:
    ps = patches().where(split="test")
    probability = np.stack([np.linspace(0, 1, 12), np.linspace(1, 0, 12)], 1)
    scores = Scores.from_set(ps, probability)
    table = subgroup_table(scores, ps, ["sex", "age"], metric="accuracy")
    right = pd.Series(scores.predicted == scores.truth).groupby(ps.column("sex")).mean()
    for row in table[table.column == "sex"].itertuples():
        assert row.estimate.value == pytest.approx(right[row.group])
    bands = table[table.column == "age"]
    assert len(bands) == 3 and bands["n"].sum() == 12
    with pytest.raises(MedcoreError, match="'scanner'"):
        subgroup_table(scores, ps, ["scanner"])
