"""Runs side by side: what differs, a paired test only on the same cases, and images on which they disagree."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_samples import estimate, sample_results

from medcore.data.patchset import Card, PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.intervals import paired_difference
from medcore.metrics.ranking import within_fold_auroc
from medcore.reporting.compare import compare_runs, in_order_of, labels, not_paired, paired_tests, read_runs
from medcore.reporting.results import write_results

CLASSES = ["tumour", "stroma"]
CASES = 60


def make_set(folder: Path) -> PatchSet:
    """A small set on disk: 100 images of 20 patients."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "label": rng.integers(0, 2, 100),
        "patient": [f"p{i // 5:02d}" for i in range(100)],
        "split": "test",
        "source": [f"{i}.png" for i in range(100)],
    })  # fmt: skip
    images = rng.integers(0, 255, (100, 16, 16, 3), dtype=np.uint8)
    PatchSet.from_arrays(images, table, Card("set", classes=CLASSES)).save(folder / "set.npz")
    return PatchSet.open(folder / "set.npz")


def make_run(folder: Path, ps: PatchSet, skill: float, *, seed: int, shuffled: bool = False, **more: Any) -> Path:
    """A run that answered for sixty cases of the set."""
    rng = np.random.default_rng(seed)
    rows = np.arange(CASES)
    if shuffled:
        rng.shuffle(rows)
    truth = ps.labels[rows]
    positive = 1 / (1 + np.exp(-(skill * (2 * truth - 1) + rng.normal(size=len(rows)))))
    folder.mkdir(parents=True)
    parameters = {"data": str(ps.path), "seed": 0, "epochs": more.pop("epochs", 3), "size": None}
    results = sample_results(parameters=parameters, metrics=[estimate("auroc", 0.9, 0.8, 0.95, unit="patch")], **more)
    results.data.classes = CLASSES
    write_results(folder, results)
    np.savez(
        folder / "predictions.npz",
        probabilities=np.stack([1 - positive, positive], 1),
        truth=truth,
        patient=ps.patients[rows],
        ids=ps.index[rows],
    )
    pd.DataFrame({"epoch": [1, 2], "val_loss": [1.0, 0.5], "val_auroc": [0.6, 0.8]}).to_csv(folder / "history.csv")
    return folder


@pytest.fixture
def ps(tmp_path: Path) -> PatchSet:
    return make_set(tmp_path)


def test_a_comparison_shows_everything_side_by_side(tmp_path: Path, ps: PatchSet) -> None:
    first = make_run(tmp_path / "a" / "06", ps, 0.3, seed=1)
    second = make_run(tmp_path / "b" / "06", ps, 3.0, seed=2, epochs=9, shuffled=True)
    page = compare_runs([first, second], tmp_path / "out").read_text(encoding="utf-8")
    assert "<th>epochs<td>3<td>9<" in page
    assert ">seed<" not in page, "what does not differ is not listed"
    assert "Better than the first, beyond what chance" in page
    assert "Curves over the epochs, one line for each of a, b" in page
    assert "Test images on which a and b disagree" in page
    assert 'href="../a/06/report.html"' not in page, "no link to a report that is not there"


def test_runs_for_choosing_are_compared_on_validation_data_alone(tmp_path: Path, ps: PatchSet) -> None:
    folders = []
    for name, seed in (("a", 1), ("b", 2)):
        measured = {"name": "val_auroc", "value": 0.61 + seed / 100, "mode": "max"}
        folders.append(make_run(tmp_path / name, ps, 1.0, seed=seed, validation=measured))
    asked, unasked = (compare_runs(folders, tmp_path / str(test), test=test).read_text() for test in (True, False))
    assert "<td>0.62" in unasked and "<td>0.63" in unasked
    printed = str(read_runs(folders)[0].results.metrics[0])
    assert printed in asked and printed not in unasked
    assert "paired" not in unasked.lower() and "disagree" not in unasked


def test_the_paired_test_is_that_of_the_same_cases_in_any_order(tmp_path: Path, ps: PatchSet) -> None:
    folders = [make_run(tmp_path / name, ps, skill, seed=seed, shuffled=name == "b")
               for name, skill, seed in (("a", 0.5, 1), ("b", 1.5, 2))]  # fmt: skip
    first, second = read_runs(folders)
    assert first.scores is not None and second.scores is not None
    order = {row: place for place, row in enumerate(second.scores.ids.tolist())}
    by_hand = second.scores.select([order[row] for row in first.scores.ids.tolist()])
    mine = in_order_of(first.scores, second.scores)
    assert np.array_equal(mine.score, by_hand.score) and np.array_equal(mine.ids, first.scores.ids)
    expected = paired_difference(by_hand, first.scores, "auroc")
    (test,) = paired_tests([first, second])
    assert str(expected) == test["text"]


def test_runs_over_folds_are_compared_within_folds(tmp_path: Path, ps: PatchSet) -> None:
    """Pooled over folds the second is worse; within every fold, which is what the headline counts, it is better."""
    folders = [make_run(tmp_path / name, ps, skill, seed=3) for name, skill in (("a", 0.5), ("b", 2.0))]
    fold = np.arange(CASES) // 12
    for folder in folders:
        path = folder / "predictions.npz"
        held = dict(np.load(path))
        score = held["probabilities"][:, 1]
        pooled = score if folder == folders[0] else np.random.default_rng(0).random(CASES)
        held |= {"folds_score": score[None], "folds_fold": fold[None]}
        np.savez(path, **held | {"probabilities": np.stack([1 - pooled, pooled], 1)})
    first, second = read_runs(folders)
    assert first.scores is not None and second.scores is not None
    both = [one.scores for one in (second, first)]
    expected = [within_fold_auroc(one.truth, one.folds.score[0], fold) for one in both if one and one.folds]
    found = paired_difference(second.scores, in_order_of(second.scores, first.scores), "auroc")
    assert found.value == pytest.approx(expected[0] - expected[1]) and found.value > 0.05
    assert str(found) == paired_tests([first, second])[0]["text"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ids": np.arange(CASES) + 7}, "the test cases are not the same"),
        ({"truth": np.zeros(CASES, np.int64)}, "the same rows hold other cases"),
        ({"patient": np.array(["x"] * CASES)}, "the same rows hold other cases"),
        ({"probabilities": np.full((CASES, 2), np.nan)}, "cannot be used"),
        ({"probabilities": np.full((CASES, 3), 0.3)}, "cannot be used"),
        ({"truth": np.array([None] * CASES)}, "cannot be used"),
    ],
)
def test_other_cases_are_never_paired(tmp_path: Path, ps: PatchSet, change: dict[str, np.ndarray], reason: str) -> None:
    folders = [make_run(tmp_path / name, ps, 1.0, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    with np.load(folders[1] / "predictions.npz") as file:
        held = {name: file[name] for name in file.files}
    np.savez(folders[1] / "predictions.npz", **{**held, **change})
    first, second = read_runs(folders)
    assert reason in not_paired(second, first)
    page = compare_runs(folders, tmp_path / "out").read_text(encoding="utf-8")
    assert "No paired test" in page and "Not shown" in page


def test_runs_without_answers_or_curves_say_so(tmp_path: Path, ps: PatchSet) -> None:
    folders = [make_run(tmp_path / name, ps, 1.0, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    (folders[0] / "predictions.npz").unlink()
    (folders[0] / "history.csv").write_text("")
    page = compare_runs(folders, tmp_path / "out").read_text(encoding="utf-8")
    assert "a: it left no predictions.npz" in page and "no curves to overlay" in page


def test_images_of_other_data_are_not_shown(tmp_path: Path, ps: PatchSet) -> None:
    folders = [make_run(tmp_path / name, ps, 0.5, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    table = ps.table.assign(label=1 - ps.labels)
    other = PatchSet.from_arrays(ps.take(), table, ps.card)
    assert ps.path is not None
    other.save(ps.path)
    page = compare_runs(folders, tmp_path / "out").read_text(encoding="utf-8")
    assert "other labels than when the run was made" in page and "Test images on which" not in page


def test_wrong_input_is_one_clear_error(tmp_path: Path, ps: PatchSet) -> None:
    one = make_run(tmp_path / "a", ps, 1.0, seed=1)
    with pytest.raises(MedcoreError, match="at least two"):
        compare_runs([one], tmp_path)
    with pytest.raises(MedcoreError, match="does not exist"):
        compare_runs([one, tmp_path / "none"], tmp_path)


def test_names_are_as_short_as_they_can_be() -> None:
    assert labels([Path("/r/x/06"), Path("/r/x/02")]) == ["06", "02"]
    assert labels([Path("/r/x/06"), Path("/r/y/06")]) == ["x", "y"]
    assert labels([Path("/a/x/06"), Path("/b/x/06")]) == ["/a/x/06", "/b/x/06"]
    assert labels([Path("/a/x/06"), Path("/a/x/06")]) == ["1 x", "2 x"]
