"""Patch features: the coreset against a slow one, distances against scikit-learn, a planted anomaly, refusals."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.models.classifier import build_classifier
from medcore.studies.anomaly.patchcore import fit_patchcore, greedy_coreset, nearest_distances, patch_features
from medcore.studies.anomaly.scores import score_set


def textures(count, seed, blob=False):
    """Noise of one grain; a blob is a smooth spot on it."""
    generator = np.random.default_rng(seed)
    images = generator.integers(90, 160, (count, 48, 48, 3)).astype(np.uint8)
    if blob:
        images[:, 16:28, 24:36] = (120, 60, 40)
    return images


def as_set(images):
    return PatchSet.from_arrays(images, {"label": np.zeros(len(images), int)}, Card(name="t", title="t", classes=["a"]))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_classifier("small_cnn", 2).eval()


@pytest.fixture(scope="module")
def memory(model):
    return fit_patchcore(model, as_set(textures(20, 0)), levels=(0, 1), memory=100, candidates=2000)


def test_planted_anomalies_are_found_and_located(model, memory):
    mixed = np.concatenate([textures(6, 1), textures(6, 2, blob=True)])
    values = score_set(model, as_set(mixed), memory.as_score(), batch_size=5)
    assert values[6:].min() > values[:6].max()
    where = memory.error_map(torch.from_numpy(mixed[6:]).permute(0, 3, 1, 2) / 255)
    assert where.shape == (6, 48, 48)
    inside, outside = where[:, 18:26, 26:34].mean((1, 2)), where[:, :, :12].mean((1, 2))
    assert (inside > 1.5 * outside).all()


def test_the_score_is_the_mean_of_the_strangest_patches(model, memory):
    from dataclasses import replace

    images = torch.from_numpy(textures(2, 3, blob=True)).permute(0, 3, 1, 2) / 255
    distances = memory.distances(images).flatten(1).numpy()
    np.testing.assert_allclose(memory.score(images), distances.max(1), rtol=1e-5)
    np.testing.assert_allclose(replace(memory, top=1.0).score(images), distances.mean(1), rtol=1e-5)
    count = round(0.1 * distances.shape[1])
    np.testing.assert_allclose(
        replace(memory, top=0.1).score(images), np.sort(distances, 1)[:, -count:].mean(1), rtol=1e-5
    )


def test_coreset_against_a_slow_one():
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    chosen = greedy_coreset(features, 12, seed=3).tolist()
    slow = [chosen[0]]
    points = features.double().numpy()
    while len(slow) < 12:
        gaps = np.min([np.linalg.norm(points - points[k], axis=1) for k in slow], axis=0)
        slow.append(int(gaps.argmax()))
    assert chosen == slow and len(set(chosen)) == 12


def test_coreset_covers_better_than_chance_and_is_reproducible():
    generator = torch.Generator().manual_seed(1)
    features = torch.cat([torch.randn(500, 80, generator=generator), 20 + torch.randn(3, 80, generator=generator)])
    chosen = greedy_coreset(features, 40)
    assert torch.equal(chosen, greedy_coreset(features, 40)) and (chosen >= 500).any()
    assert len(greedy_coreset(features[:7], 40)) == 7


def test_distances_against_scikit_learn():
    queries, bank = torch.randn(50, 6), torch.randn(20, 6)
    expected = NearestNeighbors(n_neighbors=3).fit(bank.numpy()).kneighbors(queries.numpy())[0]
    np.testing.assert_allclose(nearest_distances(queries, bank, 3, chunk=7), expected.mean(1), rtol=1e-4)
    np.testing.assert_allclose(nearest_distances(queries, bank), expected[:, 0], rtol=1e-4, atol=1e-5)


def test_features_stand_side_by_side_at_the_finest_size(model):
    images = torch.rand(2, 3, 40, 40)
    levels = model.pyramid(images)
    features = patch_features(model, images, (1, 2))
    height, width = levels[1].shape[-2:]
    assert features.shape == (2, height, width, levels[1].shape[1] + levels[2].shape[1])
    smoothed = torch.nn.functional.avg_pool2d(levels[1], 3, 1, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(features[..., : levels[1].shape[1]], smoothed)


def test_the_same_seed_gives_the_same_memory(model):
    one, two = (fit_patchcore(model, as_set(textures(8, 0)), memory=30, candidates=500, seed=4) for _ in range(2))
    assert torch.equal(one.bank, two.bank) and one.bank.shape[0] == 30


@pytest.mark.parametrize(
    ("change", "word"),
    [({"levels": (7,)}, r"levels=\(7,\).*0 to 3"), ({"levels": ()}, "levels"), ({"memory": 0}, "memory=0"),
     ({"neighbours": 5, "memory": 3}, "neighbours=5"), ({"top": 2.0}, "top=2")],
)  # fmt: skip
def test_bad_arguments_are_named(model, change, word):
    with pytest.raises(MedcoreError, match=word):
        fit_patchcore(model, as_set(textures(2, 0)), **change)


def test_the_memory_belongs_to_its_model(memory):
    other = build_classifier("small_cnn", 2)
    with pytest.raises(MedcoreError, match="another model"):
        memory.as_score()(other, torch.rand(1, 3, 48, 48))
