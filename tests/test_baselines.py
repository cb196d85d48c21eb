"""Baselines see colour and size, nothing else, and do so the same way every time."""

import numpy as np
import pytest

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation import baselines as bl


def make(labels, images, classes="ab", **columns):
    table = {"label": np.asarray(labels), "patient": [f"p{i}" for i in range(len(labels))], **columns}
    return PatchSet.from_arrays(np.asarray(images, dtype=np.uint8), table, Card("demo", classes=list(classes)))


def noise(n, seed=0, side=16, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), dtype=np.uint8)


def by_recipe(image):
    """The histogram of the published baseline, image by image."""
    parts = [np.histogram(image[..., c], 8, (0, 256), density=True)[0] * 256 / 8 for c in range(3)]
    coarse = image.reshape(-1, 3) // 64
    cell = coarse[:, 0] * 16 + coarse[:, 1] * 4 + coarse[:, 2]
    return np.concatenate([*parts, np.bincount(cell, minlength=64) / len(cell)])


def test_the_histogram_is_that_of_the_recipe(monkeypatch):
    monkeypatch.setattr(bl, "CHUNK", 3)
    ps = make([0] * 7, noise(7))
    assert bl.colour_histogram(ps) == pytest.approx(np.array([by_recipe(image) for image in ps.take()]), abs=1e-12)


def test_grey_images_have_64_levels():
    found = bl.colour_histogram(make([0, 1], noise(2, channels=1)))
    assert found.shape == (2, 8 + 64) and found.sum(axis=1) == pytest.approx([2, 2])


def test_mean_and_brightness_by_numpy():
    ps = make([0, 1], noise(2))
    assert bl.mean_colour(ps) == pytest.approx(ps.take().mean(axis=(1, 2)))
    grey = ps.take().mean(axis=3).reshape(2, -1)
    assert bl.size_and_brightness(ps)[:, :2] == pytest.approx(np.stack([grey.mean(1), grey.std(1)], 1), rel=1e-5)


def test_padding_is_not_seen_but_the_size_is():
    images = np.full((4, 20, 20, 3), 255)
    for row, side in enumerate((20, 10, 10, 20)):
        images[row, :side, :side] = 50 + row % 2
    extent = [20, 10, 10, 20]
    ps = make([0, 1, 0, 1], images, height=extent, width=extent)
    assert bl.mean_colour(ps)[:, 0].tolist() == [50, 51, 50, 51]
    assert bl.colour_histogram(ps)[0] == pytest.approx(bl.colour_histogram(ps)[2])
    assert bl.size_and_brightness(ps)[:, 4:].tolist() == [[20, 20], [10, 10], [10, 10], [20, 20]]


@pytest.fixture(scope="module")
def coloured():
    """Class b is a little redder, class c a little brighter; shapes say nothing."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    shift = np.array([[0, 0, 0], [60, 0, 0], [40, 40, 40]])[labels][:, None, None, :]
    images = np.clip(rng.integers(40, 160, (300, 12, 12, 3)) + shift, 0, 255)
    whole = make(labels, images, "abc")
    return whole.select(np.arange(200)), whole.select(np.arange(200, 300))


def test_test_images_are_refused_as_training_images(coloured):
    train, held_out = coloured
    marked = train.with_columns(split=np.where(np.arange(len(train)) == 3, "test", "train"))
    with pytest.raises(TestDataRefused, match="1 .test."):
        bl.run_baselines(marked, held_out)


def test_they_learn_colour_and_repeat_exactly(coloured):
    train, held_out = coloured
    found = bl.run_baselines(train, held_out)
    assert list(found) == ["majority", "mean colour", "size and brightness", "colour histogram"]
    for name, probabilities in found.items():
        assert probabilities.shape == (100, 3) and probabilities.sum(axis=1) == pytest.approx(np.ones(100))
        right = (probabilities.argmax(axis=1) == held_out.labels).mean()
        assert right < 0.6 if name == "majority" else right > 0.6, name
    again = bl.run_baselines(train, held_out)
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_a_class_missing_in_training_gets_no_probability(coloured):
    train, held_out = coloured
    found = bl.run_baselines(train.select(train.labels != 1), held_out)
    assert all((probabilities[:, 1] == 0).all() and probabilities.shape == (100, 3) for probabilities in found.values())


def test_large_sets_are_sampled(coloured, monkeypatch):
    seen = []
    monkeypatch.setattr(bl, "MOST_TRAINING_IMAGES", 50)
    monkeypatch.setitem(bl.BASELINES, "mean colour", lambda ps: (seen.append(len(ps)), bl.mean_colour(ps))[1])
    bl.run_baselines(*coloured, names=["mean colour"])
    assert seen == [50, 100]


def test_an_empty_side_gives_empty_probabilities(coloured):
    found = bl.run_baselines(coloured[0], coloured[1].select([]))
    assert all(probabilities.shape == (0, 3) for probabilities in found.values())


def test_wrong_names_and_single_classes_are_named(coloured):
    with pytest.raises(MedcoreError, match="'histogram' is none of majority"):
        bl.run_baselines(*coloured, names=["histogram"])
    with pytest.raises(MedcoreError, match="of one class"):
        bl.run_baselines(coloured[0].select(coloured[0].labels == 0), coloured[1])
