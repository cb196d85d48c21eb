"""Segmentation metrics against scikit-learn, brute-force distances and cases done by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from medcore.errors import MedcoreError
from medcore.metrics.overlap import border, border_metrics, overlap_metrics, pixel_confusion
from medcore.studies.segmentation.scoring import (
    absent_but_drawn,
    case_estimates,
    class_estimates,
    compare_cases,
    per_case,
    score_case,
    score_cases,
)


def blobs(seed: int, classes: int = 3, side: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (side // 8, side // 8))
    return np.kron(coarse, np.ones((8, 8), int)).astype(np.uint8)


def noisy(mask: np.ndarray, seed: int, share: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(mask.shape) < share, rng.integers(0, mask.max() + 1, mask.shape), mask).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_overlap_equals_scikit_learn(seed: int) -> None:
    truth = blobs(seed)
    predicted = noisy(truth, seed)
    truth[:5] = 255
    keep = truth != 255
    y, p = truth[keep], predicted[keep]
    confusion = pixel_confusion(truth, predicted, 3)
    assert np.array_equal(confusion, confusion_matrix(y, p, labels=[0, 1, 2]))
    ours = overlap_metrics(confusion)
    oracles = {"dice": f1_score, "iou": jaccard_score, "precision": precision_score, "recall": recall_score}
    for name, oracle in oracles.items():
        expected = oracle(y, p, labels=[0, 1, 2], average=None, zero_division=0)
        np.testing.assert_allclose(ours[name], expected, atol=1e-12)


def test_absent_classes_follow_the_stated_rule() -> None:
    empty, full = np.zeros((9, 12), np.uint8), np.ones((9, 12), np.uint8)
    neither = score_case(empty, empty, ["b", "g"])[1]
    for name in ("dice", "iou", "nsd", "hd95", "object_f1", "object_dice"):
        assert np.isnan(neither[name]), name
    for truth, predicted in ((empty, full), (full, empty)):
        one = score_case(truth, predicted, ["b", "g"])[1]
        for name in ("dice", "iou", "nsd", "object_f1", "object_dice"):
            assert one[name] == 0, name
        assert one["hd95"] == pytest.approx(15.0)  # the diagonal of 9 × 12
    same = score_case(full, full, ["b", "g"])[1]
    assert (same["dice"], same["nsd"], same["hd95"], same["object_f1"]) == (1, 1, 0, 1)


def brute_force(true: np.ndarray, said: np.ndarray, tolerance: float) -> tuple[float, float]:
    """All pairs of border pixels, in float64."""

    def outline(region: np.ndarray) -> np.ndarray:
        points = []
        for y, x in np.argwhere(region):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(b, a) for b, a in around if 0 <= b < region.shape[0] and 0 <= a < region.shape[1]]
            if any(not region[place] for place in inside):
                points.append((y, x))
        return np.array(points, float)

    first, second = outline(true), outline(said)
    distance = np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1))
    forth, back = distance.min(1), distance.min(0)
    nsd = ((forth <= tolerance).sum() + (back <= tolerance).sum()) / (len(forth) + len(back))
    return nsd, max(np.percentile(forth, 95), np.percentile(back, 95))


@pytest.mark.parametrize("seed", range(6))
def test_border_metrics_equal_brute_force(seed: int) -> None:
    true = blobs(seed, classes=2) == 1
    said = np.roll(true, (seed, 2 * seed), (0, 1))
    said[3:9, 4:11] ^= True
    found = border_metrics(true, said, tolerance=2)
    nsd, hd95 = brute_force(true, said, 2)
    assert found["nsd"] == pytest.approx(nsd) and found["hd95"] == pytest.approx(hd95)


def test_distances_by_hand() -> None:
    true = np.zeros((30, 30), bool)
    true[10:20, 10:20] = True
    moved = np.roll(true, 3, axis=1)
    assert border(true).sum() == 36
    assert border_metrics(true, moved, tolerance=3) == {"nsd": 1.0, "hd95": 3.0}
    assert border_metrics(true, true, tolerance=0) == {"nsd": 1.0, "hd95": 0.0}


def test_ignored_pixels_count_nowhere() -> None:
    rng = np.random.default_rng(0)
    truth = blobs(1, classes=2)
    truth[:, 24:] = 255
    first = rng.integers(0, 2, truth.shape).astype(np.uint8)
    second = first.copy()
    second[:, 24:] = 1 - second[:, 24:]
    assert score_case(truth, first, ["b", "g"]) == score_case(truth, second, ["b", "g"])
    padded = np.pad(truth[:, :24], ((0, 7), (0, 9)), constant_values=255)
    said = np.pad(first[:, :24], ((0, 7), (0, 9)), constant_values=1)
    cropped = score_case(truth[:, :24], first[:, :24], ["b", "g"])[1]
    again = score_case(padded, said, ["b", "g"])[1]
    for name in ("dice", "iou", "nsd", "object_f1", "object_dice"):
        assert cropped[name] == pytest.approx(again[name]), name


def test_patients_are_averaged_after_their_cases() -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[:, 5:] = 1
    good, bad = truth, 1 - truth
    table = score_cases(
        [truth] * 4, [good, good, good, bad], ["a", "b", "c", "d"], ["p", "p", "p", "q"], classes=["b", "g"]
    )
    dice = next(e for e in case_estimates(table, split="test") if e.name == "dice")
    assert dice.value == pytest.approx(0.5)  # not 0.75: patient p counts once
    assert (dice.n, dice.unit) == (2, "patient")
    assert per_case(table, "dice").tolist() == [1, 1, 1, 0]


def test_estimates_name_every_quantity_and_pool_by_scikit_learn() -> None:
    truths = [blobs(seed) for seed in range(6)]
    predictions = [noisy(mask, 9 + seed) for seed, mask in enumerate(truths)]
    patients = ["a", "a", "b", "b", "c", "d"]
    table = score_cases(truths, predictions, list("uvwxyz"), patients, classes=["b", "x", "y"], pixel_size_um=0.5)
    found = {e.name: e for e in case_estimates(table, split="val")}
    assert {"dice", "iou", "miou", "miou_pooled", "nsd", "hd95_um", "object_f1", "pixel_accuracy"} <= set(found)
    y, p = np.concatenate([m.ravel() for m in truths]), np.concatenate([m.ravel() for m in predictions])
    assert found["miou_pooled"].value == pytest.approx(jaccard_score(y, p, average="macro"))
    means = {}
    for truth, predicted, patient in zip(truths, predictions, patients, strict=True):
        means.setdefault(patient, []).append(accuracy_score(truth.ravel(), predicted.ravel()))
    expected = np.mean([np.mean(values) for values in means.values()])
    assert found["pixel_accuracy"].value == pytest.approx(expected)
    assert all(e.low is not None and e.low <= e.value <= e.high for e in found.values())
    for metric in ("dice", "nsd", "hd95"):  # a distance may lie above one, and its interval holds it
        of_class = class_estimates(table, metric, split="val")
        assert set(of_class) == {"x", "y"}
        assert all(e.low is not None and e.low <= e.value <= e.high for e in of_class.values()), metric


def test_the_foreground_is_judged_whatever_class_is_written_into_it() -> None:
    truths = [blobs(seed) for seed in range(4)]
    predictions = [noisy(mask, 9 + seed) for seed, mask in enumerate(truths)]
    table = score_cases(truths, predictions, list("uvwx"), list("abcd"), classes=["b", "x", "y"])
    dice = next(e for e in case_estimates(table, split="val") if e.name == "foreground_dice")
    pairs = zip(truths, predictions, strict=True)
    assert dice.value == pytest.approx(np.mean([f1_score(t.ravel() > 0, p.ravel() > 0) for t, p in pairs]))


def test_a_class_drawn_where_there_is_none_of_it_is_named_with_its_share() -> None:
    """By hand: one of 100 pixels is called y in a case without y, which halves the case's Dice."""
    truth = np.zeros((10, 10), np.uint8)
    truth[:, 5:] = 1
    strays = truth.copy()
    strays[0, 0] = 2
    table = score_cases([truth, truth], [truth, strays], ["fine", "strays"], ["p", "q"], classes=["b", "x", "y"])
    assert absent_but_drawn(table).to_dict() == {"strays": 0.01}
    assert per_case(table, "dice").tolist() == [1, 0.5]


def test_micrometres_scale_distance_and_tolerance_together() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    moved = np.roll(truth, 4, axis=1)
    pixels = score_cases([truth], [moved], ["a"], ["p"], classes=["b", "g"], tolerance=3)
    micro = score_cases([truth], [moved], ["a"], ["p"], classes=["b", "g"], tolerance=1.5, pixel_size_um=0.5)
    assert pixels["hd95"].max() == 4 and micro["hd95"].max() == 2
    assert pixels["nsd"].max() == micro["nsd"].max()


def test_a_mean_distance_says_what_its_interval_cannot_hold() -> None:
    masks = [blobs(n, classes=2, side=24) for n in range(4)]
    table = score_cases(masks, masks[::-1], list("abcd"), list("pqrs"), classes=["b", "g"])
    found = {one.name: one for one in case_estimates(table, split="test")}
    assert "diagonal" in found["hd95_pixels"].note and "jackknife" in found["hd95_pixels"].method
    assert "diagonal" not in found["dice"].note and "half a patient" in found["dice"].method
    other = score_cases(masks, masks, list("abcd"), list("pqrs"), classes=["b", "g"])
    gaps = {one.name: one for one in compare_cases(table, {"truth": other}, split="test").differences["truth"]}
    assert "diagonal" in gaps["hd95_pixels_difference"].note and "jackknife" in gaps["hd95_pixels_difference"].method
    assert "half a patient" in gaps["dice_difference"].method and "diagonal" not in gaps["dice_difference"].note
    assert gaps["dice_difference"].low >= -1 and gaps["dice_difference"].value == pytest.approx(found["dice"].value - 1)


def test_a_case_without_the_class_is_left_out_and_counted() -> None:
    empty, some = np.zeros((8, 8), np.uint8), blobs(0, classes=2, side=8)
    some[:] = 1
    table = score_cases([empty, some, some], [empty, some, some], list("abc"), list("pqr"), classes=["b", "g"])
    dice = next(e for e in case_estimates(table, split="test") if e.name == "dice")
    assert dice.value == 1 and "1 of 3 cases" in dice.note


@pytest.mark.parametrize(
    ("truth", "predicted", "words"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), "differ in size"),
        (np.full((4, 4), 7, np.uint8), np.zeros((4, 4), np.uint8), "truth holds the value 7"),
        (np.zeros((4, 4), np.uint8), np.full((4, 4), 2, np.uint8), "prediction holds the value 2"),
    ],
)
def test_what_does_not_fit_is_named(truth: np.ndarray, predicted: np.ndarray, words: str) -> None:
    with pytest.raises(MedcoreError, match=words):
        pixel_confusion(truth, predicted, 2)


def test_a_missing_prediction_is_refused() -> None:
    with pytest.raises(MedcoreError, match="not one truth"):
        score_cases([np.zeros((4, 4))], [], ["a"], ["p"], classes=["b", "g"])


def test_the_foreground_leads_and_stray_pixels_of_an_absent_class_do_not_halve_it() -> None:
    """Ten of 400 pixels are called y where there is no y: the class mean halves, the foreground is judged as it is."""
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 1
    said = truth.copy()
    said[:10, 10] = 2
    table = score_cases([truth] * 3, [said] * 3, list("uvw"), list("abc"), classes=["b", "x", "y"])
    found = [(e.name, e.value) for e in case_estimates(table, split="test")]
    expected = [("foreground_dice", 1.0), ("foreground_nsd", 1.0), ("foreground_hd95_pixels", 0.0)]
    assert found[:3] == [(name, pytest.approx(value)) for name, value in expected]
    assert dict(found)["dice"] == pytest.approx(f1_score(truth.ravel() == 1, said.ravel() == 1) / 2)


def test_differences_are_paired_by_case_and_a_larger_distance_is_a_loss() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    shifts = [(1, 3), (2, 5), (1, 4), (3, 6)] * 10  # of four patients, one failure could outweigh a Dice of a tenth
    names = [f"{n}" for n in range(40)]
    tables = [
        score_cases([truth] * 40, [np.roll(truth, shift[side], 1) for shift in shifts], names, names,
                    classes=["b", "g"], tolerance=2)
        for side in (0, 1)
    ]  # fmt: skip
    found = compare_cases(tables[0], {"moved more": tables[1]}, split="test")
    hand = np.mean([a - b for a, b in shifts])
    gap = {e.name: e for e in found.against_reference}["hd95_pixels_difference"]
    assert gap.value == pytest.approx(hand) and found.verdict()["hd95_pixels"] == "gain"
    back = compare_cases(tables[1], {"moved less": tables[0]}, split="test")
    assert back.verdict()["hd95_pixels"] == back.verdict()["dice"] == "loss"
    with pytest.raises(MedcoreError, match="same cases"):
        compare_cases(tables[0], {"other": tables[1].iloc[2:]}, split="test")
