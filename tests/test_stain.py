"""Stain separation against exact mixtures and a plain float64 reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcore.data import stain
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused

H, E = stain.HAEMATOXYLIN_EOSIN[:2]


def mixture(seed: int, vectors: np.ndarray, pixels: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Pixels with known concentrations: much of one stain, of the other, of both, of none."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(1.2, 0.5, (pixels, 2)) * (rng.random((pixels, 2)) < [0.7, 0.8])
    return np.rint(255 * np.exp(-amounts @ vectors)).clip(1, 255).astype(np.uint8), amounts


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def test_density_of_glass_half_light_and_black() -> None:
    pixels = np.array([[[255, 128, 0]]], dtype=np.uint8)
    expected = [0.0, np.log(255 / 128), np.log(255.0)]
    np.testing.assert_allclose(stain.optical_density(pixels)[0, 0], expected, rtol=1e-6, atol=1e-7)
    brighter = stain.optical_density(pixels, background=240.0)[0, 0, 1]
    assert brighter == pytest.approx(np.log(240 / 128), rel=1e-6)


@pytest.mark.parametrize("matrix", [stain.HAEMATOXYLIN_EOSIN, stain.HAEMATOXYLIN_DAB])
def test_matrices_have_unit_rows_and_an_orthogonal_residual(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(matrix[2] @ matrix[:2].T, 0, atol=1e-12)


def test_one_vector_is_normalised_and_not_completed() -> None:
    np.testing.assert_allclose(stain.stain_matrix((3.0, 0.0, 4.0)), [[0.6, 0.0, 0.8]])


def test_separation_equals_a_plain_float64_reference() -> None:
    images = np.random.default_rng(1).integers(1, 256, (2, 5, 7, 3), dtype=np.uint8)
    slow = np.empty((2, 5, 7, 3))
    for place in np.ndindex(2, 5, 7):
        slow[place] = np.linalg.solve(stain.HAEMATOXYLIN_DAB.T, -np.log(images[place] / 255.0))
    np.testing.assert_allclose(stain.separate_stains(images, stain.HAEMATOXYLIN_DAB), slow, atol=2e-5)


def test_separation_finds_the_amounts_that_were_mixed() -> None:
    pixels, amounts = mixture(2, stain.HAEMATOXYLIN_EOSIN[:2])
    faint = amounts.sum(axis=1) < 2.5  # very dark pixels are rounded to few grey levels
    found = stain.separate_stains(pixels[faint], stain.HAEMATOXYLIN_EOSIN)
    assert np.abs(found[:, :2] - amounts[faint]).mean() < 0.02
    assert np.abs(found[:, 2]).mean() < 0.02  # no residual in a mixture of the two


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([stain.HAEMATOXYLIN_EOSIN, stain.HAEMATOXYLIN_DAB]))
def test_separating_and_recombining_is_the_identity(seed: int, matrix: np.ndarray) -> None:
    images = np.random.default_rng(seed).integers(1, 256, (3, 4, 3), dtype=np.uint8)
    back = stain.recombine_stains(stain.separate_stains(images, matrix), matrix)
    assert np.abs(back.astype(int) - images).max() <= 1


@pytest.mark.parametrize("images", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8)])
def test_other_than_uint8_rgb_is_refused(images: np.ndarray) -> None:
    with pytest.raises(MedcoreError, match="uint8 RGB"):
        stain.optical_density(images)


@pytest.mark.parametrize("vectors", [np.stack([H, E]), stain.REFERENCE_STAINING.matrix])
def test_macenko_finds_the_vectors_haematoxylin_first(vectors: np.ndarray) -> None:
    pixels, amounts = mixture(3, vectors)
    found = stain.macenko(pixels)
    assert angle(found.matrix[0], vectors[0]) < 4
    assert angle(found.matrix[1], vectors[1]) < 4
    np.testing.assert_allclose(found.maxima, np.percentile(amounts, 99, axis=0), rtol=0.12)


def test_macenko_of_a_patient_does_not_depend_on_how_the_pixels_are_cut_into_images() -> None:
    pixels, _ = mixture(4, stain.REFERENCE_STAINING.matrix, 4000)
    one, many = stain.macenko(pixels), stain.macenko(pixels.reshape(10, 20, 20, 3))
    np.testing.assert_array_equal(one.matrix, many.matrix)


def test_macenko_refuses_glass_and_says_what_to_do() -> None:
    with pytest.raises(MedcoreError, match="whole slide or patient"):
        stain.macenko(np.full((64, 64, 3), 245, np.uint8))


def test_normalising_a_slide_makes_it_look_as_if_stained_like_the_target() -> None:
    source, target = np.stack([H, E]), stain.REFERENCE_STAINING
    pixels, amounts = mixture(5, source)
    wanted = 255 * np.exp(-(amounts * target.maxima / np.percentile(amounts, 99, axis=0)) @ target.matrix)
    clear = pixels.min(axis=1) > 8
    before = np.abs(pixels - wanted)[clear].mean()
    after = np.abs(stain.normalise_stains(pixels) - wanted)[clear].mean()
    assert after < 6 < before


def test_normalising_to_its_own_staining_changes_next_to_nothing() -> None:
    pixels, _ = mixture(6, stain.REFERENCE_STAINING.matrix)
    own = stain.macenko(pixels)
    same = stain.normalise_stains(pixels, own, target=own)
    clear = pixels.min(axis=1) > 8
    assert np.abs(same.astype(int) - pixels)[clear].mean() < 2


def test_a_typical_staining_is_the_middle_one_of_the_training_patients() -> None:
    rng = np.random.default_rng(0)
    images = np.concatenate([stained(rng, strength, 4) for strength in (0.5, 1.0, 4.0)])
    table = {"label": np.zeros(12, int), "patient": np.repeat(["a", "b", "c"], 4), "split": ["train"] * 12}
    train = PatchSet.from_arrays(images, table, Card("toy", classes=["x"]))
    middle = stain.macenko(images[4:8])
    found = stain.typical_staining(train)
    np.testing.assert_allclose(found.maxima, middle.maxima, rtol=0.2)
    assert len(found.as_list()) == 8 and np.linalg.norm(found.matrix, axis=1) == pytest.approx([1, 1])
    with pytest.raises(TestDataRefused):
        stain.typical_staining(train.with_split(["test"] * 12))
    blank = PatchSet.from_arrays(np.full_like(images, 255), table, train.card)
    with pytest.raises(MedcoreError, match="no patient has stained"):
        stain.typical_staining(blank)


def stained(rng: np.random.Generator, strength: float, count: int) -> np.ndarray:
    """Random mixtures of haematoxylin and eosin beside glass."""
    amounts = rng.gamma(1.0, strength * 0.4, (count, 40, 40, 2)) * (rng.random((count, 40, 40, 1)) < 0.8)
    density = amounts @ stain.HAEMATOXYLIN_EOSIN[:2]
    return (255 * np.exp(-density)).round().astype(np.uint8)
