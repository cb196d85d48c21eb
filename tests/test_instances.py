"""Objects: GlaS's object F1 and object Dice by hand and by a slow loop; watershed on touching discs."""

import numpy as np
import pytest

from medcore.metrics.objects import label_objects, object_metrics, split_touching


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def slow_dice(true: np.ndarray, said: np.ndarray) -> float:
    """The formula of the GlaS paper, object by object."""

    def one_way(first: np.ndarray, second: np.ndarray) -> float:
        total = 0.0
        for i in range(1, first.max() + 1):
            region = first == i
            overlaps = [(region & (second == j)).sum() for j in range(1, second.max() + 1)]
            if overlaps and max(overlaps):
                partner = second == 1 + int(np.argmax(overlaps))
                total += region.sum() / (first > 0).sum() * 2 * max(overlaps) / (region.sum() + partner.sum())
        return total

    return 0.5 * (one_way(true, said) + one_way(said, true))


@pytest.mark.parametrize("seed", range(6))
def test_object_dice_is_the_papers_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, said = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    for mask in (true, said):
        for _ in range(6):
            mask |= disc((60, 60), tuple(rng.uniform(5, 55, 2)), rng.uniform(2, 7))
    expected = slow_dice(label_objects(true), label_objects(said))
    assert object_metrics(true, said)["object_dice"] == pytest.approx(expected)


def test_object_f1_by_hand() -> None:
    true, said = np.zeros((10, 60), bool), np.zeros((10, 60), bool)
    true[:, 0:10] = true[:, 20:30] = true[:, 40:50] = True  # three objects
    said[:, 0:10] = True  # the first, exactly
    said[:, 20:24] = True  # less than half of the second
    said[:, 55:58] = True  # nothing there
    found = object_metrics(true, said)["object_f1"]
    assert found == pytest.approx(2 * 1 / (3 + 3))


def test_one_true_object_is_found_once() -> None:
    true, said = np.zeros((10, 20), int), np.zeros((10, 20), int)
    true[:] = 1
    said[:, :10], said[:, 10:] = 1, 2  # both halves cover just half
    assert object_metrics(true, said)["object_f1"] == pytest.approx(2 / 3)


def test_merged_objects_cost_objects_but_not_pixels() -> None:
    true, said = np.zeros((20, 41), bool), np.ones((20, 41), bool)
    true[:, :20] = true[:, 21:] = True
    found = object_metrics(true, said)
    assert 2 * true.sum() / (true.sum() + said.sum()) > 0.98
    assert found["object_dice"] < 0.75 and found["object_f1"] < 0.7


def test_watershed_separates_touching_discs_and_keeps_single_ones() -> None:
    shape = (80, 160)
    pair = disc(shape, (40, 40), 20) | disc(shape, (40, 72), 20)
    single = disc(shape, (40, 130), 18)
    labels = split_touching(pair | single)
    assert labels.max() == 3
    assert np.array_equal(labels > 0, pair | single)
    assert labels[40, 40] != labels[40, 72]
    areas = np.bincount(labels.ravel())[1:]
    assert max(areas) < 1.4 * min(areas)


def test_an_oval_stays_in_one_piece_and_specks_go() -> None:
    y, x = np.mgrid[:80, :160]
    oval = ((y - 40) / 18) ** 2 + ((x - 80) / 60) ** 2 <= 1
    oval[2, 2] = True
    labels = split_touching(oval, smallest=10)
    assert labels.max() == 1 and labels[2, 2] == 0


def test_empty_masks() -> None:
    empty, full = np.zeros((6, 6), bool), np.ones((6, 6), bool)
    assert np.isnan(object_metrics(empty, empty)["object_f1"])
    assert object_metrics(empty, full) == object_metrics(full, empty) == {"object_f1": 0.0, "object_dice": 0.0}
    assert not split_touching(empty).any()
    assert label_objects(full, smallest=37).max() == 0
