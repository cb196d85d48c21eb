"""Attention-based multiple-instance learning: bags, attention, training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medcore.errors import MedcoreError
from medcore.models.mil import GatedABMIL
from medcore.training.mil import MILConfig, fit_mil, pad_bags, predict_mil


def toy_bags(patients: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bags of 1 to 12 windows; an infected bag holds one marked window. Returns features, owner, truth, marked."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 13, patients)
    truth = np.arange(patients) % 2
    owner = np.repeat(np.arange(patients), counts)
    features = generator.normal(size=(len(owner), 5))
    marked = np.zeros(len(owner), dtype=bool)
    for patient in np.flatnonzero(truth):
        marked[generator.choice(np.flatnonzero(owner == patient))] = True
    features[marked, 3] += 5
    return features, owner, truth, marked


def model_and_bag(seed: int = 0) -> tuple[GatedABMIL, torch.Tensor]:
    torch.manual_seed(seed)
    return GatedABMIL(6, hidden=8).eval(), torch.randn(1, 9, 6)


def test_forward_follows_the_paper():
    model, bag = model_and_bag()
    logits, attention = model(bag, torch.ones(1, 9, dtype=torch.bool))
    h = model.embed(bag[0]).double()
    double = {name: value.double() for name, value in model.state_dict().items()}
    tanh = torch.tanh(h @ double["content.weight"].T + double["content.bias"])
    gate = torch.sigmoid(h @ double["gate.weight"].T + double["gate.bias"])
    energy = torch.exp((tanh * gate) @ double["weigh.weight"][0] + double["weigh.bias"])
    expected = energy / energy.sum()
    assert torch.allclose(attention[0].double(), expected, atol=1e-6)
    z = (expected[:, None] * h).sum(0)
    assert logits.item() == pytest.approx((z @ double["head.weight"][0] + double["head.bias"]).item(), abs=1e-5)


def test_order_and_padding_do_not_matter():
    model, bag = model_and_bag()
    mask = torch.ones(1, 9, dtype=torch.bool)
    logits, attention = model(bag, mask)
    order = torch.randperm(9)
    assert torch.allclose(model(bag[:, order], mask)[0], logits, atol=1e-6)
    padded = torch.cat([bag, torch.full((1, 4, 6), 99.0)], 1)
    wider = torch.cat([mask, torch.zeros(1, 4, dtype=torch.bool)], 1)
    again, spread = model(padded, wider)
    assert torch.allclose(again, logits, atol=1e-6)
    assert torch.equal(spread[:, 9:], torch.zeros(1, 4))
    assert spread.sum().item() == pytest.approx(1, abs=1e-6)


def test_showing_every_window_twice_changes_nothing():
    model, bag = model_and_bag()
    one = model(bag, torch.ones(1, 9, dtype=torch.bool))[0]
    two = model(torch.cat([bag, bag], 1), torch.ones(1, 18, dtype=torch.bool))[0]
    assert torch.allclose(one, two, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 5))
def test_padding_keeps_every_window_in_its_bag(counts, seed):
    generator = np.random.default_rng(seed)
    owner = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    features = generator.normal(size=(len(owner), 3)).astype(np.float32)
    bags, mask = pad_bags(features, owner, len(counts))
    for bag in range(len(counts)):
        assert np.array_equal(bags[bag][mask[bag]].numpy(), features[owner == bag])


def test_it_finds_the_window_that_matters():
    features, owner, truth, _ = toy_bags(80, seed=0)
    model = fit_mil(features, owner, truth, MILConfig(epochs=150, most_windows=6))
    features, owner, truth, marked = toy_bags(60, seed=1)
    probability, attention = predict_mil(model, features, owner, 60)
    assert roc_auc_score(truth, probability) > 0.95
    assert np.bincount(owner, weights=attention) == pytest.approx(1, abs=1e-5)
    highest = [np.flatnonzero(owner == bag)[attention[owner == bag].argmax()] for bag in np.flatnonzero(truth)]
    assert marked[highest].mean() > 0.9


def test_labels_at_random_teach_nothing():
    features, owner, truth, _ = toy_bags(80, seed=0)
    shuffled = np.random.default_rng(3).permutation(truth)
    model = fit_mil(features, owner, shuffled, MILConfig(epochs=40))
    features, owner, truth, _ = toy_bags(200, seed=1)
    assert 0.2 < roc_auc_score(truth, predict_mil(model, features, owner, 200)[0]) < 0.8


def test_the_same_seed_gives_the_same_model_and_leaves_the_world_alone():
    features, owner, truth, _ = toy_bags(20, seed=0)
    before = torch.random.get_rng_state()
    first, second = (fit_mil(features, owner, truth, MILConfig(epochs=5, most_windows=3)) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_bad_bags_are_named():
    features, owner, truth, _ = toy_bags(6, seed=0)
    with pytest.raises(MedcoreError, match="one class"):
        fit_mil(features, owner, np.ones(6, int))
    with pytest.raises(MedcoreError, match="each of 7 bags needs a window"):
        fit_mil(features, owner, np.append(truth, 1))
    broken = features.copy()
    broken[4, 1] = np.nan
    with pytest.raises(MedcoreError, match="window 4 are not finite"):
        fit_mil(broken, owner, truth)
    with pytest.raises(MedcoreError, match="for 3 windows"):
        pad_bags(features, owner[:3], 6)
    model, bag = model_and_bag()
    with pytest.raises(MedcoreError, match="bag 0 has no window"):
        model(bag, torch.zeros(1, 9, dtype=torch.bool))
    with pytest.raises(MedcoreError, match="needed"):
        model(bag[..., :3], torch.ones(1, 9, dtype=torch.bool))
    with pytest.raises(MedcoreError, match="out of range"):
        GatedABMIL(0)
