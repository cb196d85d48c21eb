"""The latent space against hand cases: distances by scipy, neighbours by brute force, samples that are memories."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.models.vae import VAE
from medcore.studies.anomaly import latent


@pytest.fixture(scope="module")
def model() -> VAE:
    torch.manual_seed(0)
    return VAE((16, 16), 3, 6, widths=(8, 16)).eval()


def some(count: int, seed: int = 0) -> PatchSet:
    images = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return PatchSet.from_arrays(images, {"label": np.zeros(count, int)}, Card("toy", classes=["a"]))


def test_mahalanobis_by_scipy(model: VAE) -> None:
    normal, others = some(40), some(9, 1)
    codes = latent.encode_set(model, normal)
    fitted = LedoitWolf().fit(codes)
    by_hand = cdist(latent.encode_set(model, others), fitted.location_[None], "mahalanobis", VI=fitted.precision_)[:, 0]
    assert np.allclose(latent.mahalanobis(model, normal, others), by_hand**2, rtol=1e-5)


def test_neighbours_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    codes, labels, patients = rng.normal(size=(60, 3)), rng.integers(0, 3, 60), rng.integers(0, 20, 60).astype(str)
    found = latent.nearest_neighbours(codes, labels, patients)
    distance = cdist(codes, codes)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(1)
    several = np.array([(patients == name).sum() > 1 for name in patients])
    known = (patients[nearest] == patients)[several].mean()
    assert found.loc["same patient", "nearest"] == pytest.approx(known, abs=1e-3)
    distance[patients[:, None] == patients] = np.inf
    assert found.loc["same class", "nearest"] == pytest.approx((labels[distance.argmin(1)] == labels).mean(), abs=1e-3)


def test_a_space_of_patients_is_exposed() -> None:
    """Codes that encode only who: the patient is always right, the class of other patients only by chance."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(30), 4)
    codes = rng.normal(size=(30, 5))[patients] * 10 + rng.normal(size=(120, 5)) * 0.01
    labels = rng.integers(0, 2, 30)[patients]
    found = latent.nearest_neighbours(codes, labels, patients, unit="lesion")
    assert found.loc["same lesion", "nearest"] == 1.0 and found.loc["same lesion", "by chance"] < 0.1
    assert found.loc["same class", "nearest"] < 0.75
    with pytest.raises(MedcoreError, match="one patient"):
        latent.nearest_neighbours(codes, labels, np.zeros(120))


def test_a_walk_changes_one_dimension(model: VAE) -> None:
    codes = latent.encode_set(model, some(30))
    axes, values, images = latent.traversal(model, codes, dimensions=2, steps=3)
    assert images.shape == (2, 3, 16, 16, 3) and values == [-2.5, 0.0, 2.5]
    assert np.allclose(images[0, 1], images[1, 1])  # the middle of every walk is the mean code
    assert axes[0] == int(codes.std(0).argmax())


def test_a_memory_lies_at_distance_zero(model: VAE) -> None:
    drawn, _, _ = latent.samples_and_neighbours(model, some(30), count=4, seed=3)
    memory = PatchSet.from_arrays(
        (drawn * 255).round().astype(np.uint8), {"label": np.zeros(4, int)}, Card("m", classes=["a"])
    )
    again, nearest, distance = latent.samples_and_neighbours(model, memory, count=4, seed=3)
    assert np.array_equal(drawn, again)
    assert distance.max() < 0.003
    assert np.array_equal(nearest, memory.take())
    table = latent.memory_table(distance, memory, some(40, 5))
    assert table["nearer than 5 % of the real"].tolist() == [4, 2] and table["images"].tolist() == [4, 40]
    assert table.loc["drawn", "median distance"] < 0.003 < table.loc["real", "median distance"]


def test_neighbours_stay_neighbours_in_the_map() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(60) % 3
    codes = rng.normal(0, 0.1, (60, 8)) + 10 * np.eye(3, 8)[group]
    points = latent.neighbour_map(codes, seed=1)
    nearest = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points)[1][:, 1]
    assert points.shape == (60, 2) and (group[nearest] == group).all()
    assert np.array_equal(points, latent.neighbour_map(codes, seed=1))
    assert np.array_equal(latent.neighbour_map(codes[:3]), np.zeros((3, 2)))
