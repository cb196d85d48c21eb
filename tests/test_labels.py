"""Wrong labels: confident learning as the paper says, planted ones are found, and a review is read back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from medcore.cli.audit import command
from medcore.data.audit.fix import correct_labels
from medcore.data.card import Card
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores
from medcore.metrics.label_noise import class_thresholds, confident_joint, noise_matrix, probable_classes
from medcore.studies.labels import OUT_OF_FOLD, check_labels, out_of_fold, positions, read_out_of_fold

CLASSES = ["=SUM", "two\nlines", "c"]


def answers(count: int = 300, kinds: int = 3, *, noise: float = 0.1, seed: int = 0):
    """Truth, given labels and probabilities of a fairly good model that errs on its own."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, kinds, count)
    given = np.where(rng.random(count) < noise, (truth + rng.integers(1, kinds, count)) % kinds, truth)
    logits = rng.normal(0, 1.2, (count, kinds)) + 3 * np.eye(kinds)[truth]
    shares = np.exp(logits)
    return truth, given, shares / shares.sum(1, keepdims=True)


def plainly(labels, probability):
    """Northcutt 2021, section 3, word by word."""
    kinds = probability.shape[1]
    threshold = [np.mean([p[k] for p, y in zip(probability, labels, strict=True) if y == k]) for k in range(kinds)]
    counts, confident = np.zeros((kinds, kinds), int), []
    for p, given in zip(probability, labels, strict=True):
        able = [k for k in range(kinds) if p[k] >= threshold[k]]
        best = max(able, key=lambda k: p[k]) if able else -1
        confident.append(best)
        if able:
            counts[given, best] += 1
    joint = np.zeros((kinds, kinds))
    for i in range(kinds):
        for j in range(kinds):
            joint[i, j] = counts[i, j] / counts[i].sum() * np.sum(np.asarray(labels) == i)
    return counts, confident, joint


@pytest.mark.parametrize("seed", range(3))
def test_the_confident_joint_equals_the_paper(seed: int) -> None:
    _, given, probability = answers(seed=seed, kinds=4)
    counts, confident, joint = plainly(given, probability)
    found = confident_joint(given, probability)
    assert (found.counts == counts).all() and (found.confident == confident).all()
    assert np.allclose(noise_matrix(found.counts, given), joint)
    assert noise_matrix(found.counts, given).sum() == pytest.approx(len(given))
    named = {}  # pruning by noise rate: of each pair, as many as expected, by the largest lead
    for i in range(4):
        for j in range(4):
            leads = sorted(((p[j] - p[i], n) for n, p in enumerate(probability) if given[n] == i), reverse=True)
            for lead, n in leads[: round(joint[i, j])] if i != j else []:
                if lead > max(0, named.get(n, (0, 0))[0]):
                    named[n] = (lead, j)
    suggested = probable_classes(given, probability, joint)
    assert len(named) > 10 and {n: j for n, (_, j) in named.items()} == {
        int(n): int(suggested[n]) for n in np.flatnonzero(suggested >= 0)
    }


def test_a_class_without_labels_is_never_confident_and_a_label_without_confidence_stays() -> None:
    probability = np.array([[0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.2, 0.2, 0.6]])
    assert class_thresholds(np.array([0, 0, 1]), probability).tolist() == [0.75, 0.2, np.inf]
    found = confident_joint(np.array([0, 0, 1]), probability)
    assert found.confident.tolist() == [1, 0, 1]  # the first is sure of class 1 by that class's standard
    assert noise_matrix(np.zeros((2, 2)), np.array([0, 0, 1])).tolist() == [[2, 0], [0, 1]]
    with pytest.raises(MedcoreError, match="labels run from 0 to 3"):
        confident_joint(np.array([0, 3, 1]), probability)
    with pytest.raises(MedcoreError, match="do not fit"):
        confident_joint(np.array([0]), probability)


def reviewed(count: int = 300) -> tuple[PatchSet, Scores, np.ndarray]:
    """A set whose names are hostile, out-of-fold answers in another order, and the truth."""
    truth, given, probability = answers(count)
    table = {
        "label": given, "patient": [f"P{n // 10}" for n in range(count)], "split": ["train"] * count,
        "source": [f"@img/{n}.png" for n in range(count)], "annotator": np.where(np.arange(count) % 3, "A", "B"),
    }  # fmt: skip
    images = np.random.default_rng(1).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    patches = PatchSet.from_arrays(images, table, Card("toy", classes=CLASSES))
    order = np.random.default_rng(2).permutation(count)[: count - 20]
    return patches, Scores.from_set(patches.select(order), probability[order]), truth


def test_the_table_names_images_worst_first_and_noise_adds_up() -> None:
    patches, scores, truth = reviewed()
    check = check_labels(scores)
    table = check.table(patches)
    rows = table["row"].to_numpy()
    assert (patches.column("source")[rows] == table["source"]).all() and (table["correct"] == "").all()
    assert (patches.label_names[rows] == table["label"]).all() and (table["label"] != table["suggested"]).all()
    assert table["p_label"].is_monotonic_increasing and (table["p_suggested"] >= table["p_label"]).all()
    wrong = np.flatnonzero(truth != patches.labels)
    assert np.isin(rows, wrong).mean() > 0.8 and np.isin(np.intersect1d(wrong, scores.ids), rows).mean() > 0.6
    assert check.share.value == pytest.approx(len(table) / len(scores)) and check.share.low < check.share.value
    noise = check.noise()
    assert noise["expected"].sum() / len(scores) == pytest.approx(np.mean(truth != patches.labels), abs=0.04)
    by = check.by(patches.column("annotator")[positions(patches, scores)], "annotator")
    assert by["suspicious"].sum() == len(table) and by["images"].sum() == len(scores)
    shown = check.pictures(patches, 3)
    assert (shown["images"] == patches.take(rows[:3])).all() and shown["predicted"] == list(table["suggested"][:3])


def saved_run(folder, scores: Scores):
    np.savez(
        folder / OUT_OF_FOLD, truth=scores.truth, probabilities=scores.score, patient=scores.patient,
        split=scores.split, classes=np.array(scores.classes), ids=scores.ids,
    )  # fmt: skip
    return folder


def run(*arguments: object):
    return CliRunner().invoke(command, list(map(str, arguments)), standalone_mode=False)


def test_a_run_becomes_a_review_and_a_review_a_corrected_set(tmp_path) -> None:
    patches, scores, truth = reviewed()
    data, review, fixed = tmp_path / "set.npz", tmp_path / "review.csv", tmp_path / "fixed.npz"
    patches.save(data)
    listed = run(data, "--labels", saved_run(tmp_path, scores), "--out", review)
    assert listed.exception is None and listed.return_value == 0
    assert "may be wrong" in listed.output and "annotator" in listed.output
    page = review.with_suffix(".html").read_text()
    assert "default-src 'none'" in page and "<script" not in page and "two\\nlines" in page and "two\nlines" not in page
    table = pd.read_csv(review, dtype=str, keep_default_na=False)
    assert not table.stack().str.startswith(("=", "@")).any()
    cells = {k: ("'=SUM", "two\\nlines", "c")[k] for k in range(3)}
    rows = table["row"].astype(int).to_numpy()
    table["correct"] = [cells[truth[row]] for row in rows]  # a reviewer who knows
    table.loc[0, "correct"] = "unlabelled"
    table.to_csv(review, index=False)
    done = run(data, "--labels", review, "--out", fixed)
    assert done.exception is None, done.exception
    corrected = PatchSet.open(fixed)
    expected = patches.labels.copy()
    expected[rows] = truth[rows]
    expected[rows[0]] = -1
    assert (corrected.labels == expected).all() and len(corrected) == len(patches)
    (facts,) = corrected.card.recipe["labels"]
    assert facts["looked_at"] == len(rows) and facts["changed"] == (expected != patches.labels).sum()
    assert sum(facts["from_to"].values()) == facts["changed"] and len(facts["sha256"]) == 64
    assert corrected.card.warnings[-1].startswith("Labels were corrected by review")
    assert corrected.fingerprint != patches.fingerprint
    again = run(fixed, "--labels", tmp_path)
    assert isinstance(again.exception, MedcoreError) and "Run the notebook on this set again" in str(again.exception)
    twice = run(data, "--labels", tmp_path, "--out", review)
    assert isinstance(twice.exception, MedcoreError) and "may hold a review" in str(twice.exception)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["row,label", "0,c"], "no column 'correct'"),
        (["row,label,correct", "999,c,"], "row 2: row '999' is not in the set"),
        (["row,label,correct", "0,{0},", "0,{0},"], "row 3: row '0' stands twice"),
        (["row,label,correct", "0,{0},tumour"], "correct='tumour' must be empty or one of"),
        (["row,label,correct", "0,nonsense,c"], "another state of the set"),
    ],
)
def test_a_review_that_does_not_fit_is_refused_by_row(tmp_path, lines: list[str], message: str) -> None:
    patches, _, _ = reviewed()
    name = ["'=SUM", "two\\nlines", "c"][patches.labels[0]]
    (tmp_path / "r.csv").write_text("\n".join(lines).format(name))
    with pytest.raises(MedcoreError, match=message):
        correct_labels(patches, tmp_path / "r.csv")


def test_options_that_do_not_fit_and_a_folder_without_folds_are_refused(tmp_path) -> None:
    patches, _, _ = reviewed()
    patches.save(tmp_path / "set.npz")
    for arguments in (("--fix",), ("--out", tmp_path / "x.npz")):
        assert "Usage" in type(run(tmp_path / "set.npz", "--labels", tmp_path, *arguments).exception).__name__
    with pytest.raises(MedcoreError, match="run of notebook 01"):
        read_out_of_fold(tmp_path)


def planted(patches: PatchSet, seed: int) -> tuple[PatchSet, np.ndarray]:
    """The set with five of a hundred labels wrong, and which."""
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(patches), round(0.05 * len(patches)), replace=False)
    labels = patches.labels.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, len(patches.classes), len(wrong))) % len(patches.classes)
    return patches.with_columns(label=labels), wrong


def test_out_of_fold_answers_never_saw_the_patient() -> None:
    """Each patient has a colour of its own and a random label: who saw the patient knows it, nobody else can."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(8), 10)
    label = rng.permutation(np.arange(8) % 2)[patient]
    colour = rng.integers(40, 215, (8, 3))[patient]
    images = np.clip(colour[:, None, None] + rng.normal(0, 3, (80, 16, 16, 3)), 0, 255).astype(np.uint8)
    table = {"label": label, "patient": [f"P{n}" for n in patient], "split": ["test"] * 80}
    patches = PatchSet.from_arrays(images, table, Card("toy", classes=["a", "b"]))
    scores = out_of_fold(patches, folds=4, side=32)
    assert np.allclose(scores.score.sum(1), 1) and (scores.split == "test").all()
    honest = (scores.predicted == label).mean()
    by_image = patches.with_columns(patient=[f"I{n}" for n in range(80)])
    assert honest < 0.75 and (out_of_fold(by_image, folds=4, side=32).predicted == label).mean() > honest + 0.1
    rare = patches.with_card(Card("toy", classes=["a", "b", "c"])).with_columns(label=np.where(patient == 0, 2, label))
    judged = out_of_fold(rare, folds=4, side=32)  # nobody else shows class c: its images cannot be judged
    assert len(judged) == 70 and 2 not in judged.truth and set(judged.patient) == {f"P{n}" for n in range(1, 8)}


@pytest.mark.slow
def test_planted_wrong_labels_are_found_on_the_phantom() -> None:
    """The mean of four plantings; a single one finds between three and four fifths or more."""
    patches, recall, precision = read_set("phantom-crc"), [], []
    for seed in (11, 12, 13, 14):
        noisy, wrong = planted(patches, seed)
        check = check_labels(out_of_fold(noisy, seed=seed))
        hits = np.isin(np.flatnonzero(check.suspicious), wrong).sum()
        recall.append(hits / len(wrong))
        precision.append(hits / check.suspicious.sum())
        print(f"{len(wrong)} wrong labels planted: recall {recall[-1]:.2f}, precision {precision[-1]:.2f}")
    assert np.mean(recall) >= 0.8 and np.mean(precision) >= 0.5
