"""Several findings an image: read, split, trained, predicted and judged; per finding equal to scikit-learn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score
from torch.nn import functional as F

from medcore.cli.evaluate import command as evaluate
from medcore.cli.predict import command as predict_images
from medcore.cli.train import command as train
from medcore.data.card import Card
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits, patient_folds
from medcore.data.targets import strata
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.scores import finding_scores
from medcore.metrics.ranking import auroc_from_histogram, score_histogram
from medcore.studies.classification import ClassificationStudy
from medcore.studies.preprocessing import read_and_split
from medcore.studies.targets.findings import finding_thresholds, findings_estimates
from medcore.studies.validation.models import load
from medcore.training.losses import findings_cross_entropy
from medcore.training.objectives import Findings

NAMES = ["red", "green", "blue"]


def shown(count: int = 200, seed: int = 0) -> PatchSet:
    """A channel is bright where its finding is present; some are uncertain or not stated; two images a patient."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, 3)) < [0.5, 0.3, 0.15]).astype(int)
    images = rng.integers(0, 90, (count, 16, 16, 3)) + 110 * truth[:, None, None]
    truth[rng.random(truth.shape) < 0.05] = -1
    truth[rng.random(truth.shape) < 0.05] = -2
    table = {f"finding_{k}": truth[:, k] for k in range(3)} | {"patient": [f"p{n // 2}" for n in range(count)]}
    return PatchSet.from_arrays(images.astype(np.uint8), table, Card("toy", classes=NAMES, task="findings"))


def test_a_set_says_what_it_shows_and_refuses_other_values(tmp_path: Path) -> None:
    patches = shown()
    again = PatchSet.open(patches.save(tmp_path / "set.npz").path)
    assert (again.findings == patches.findings).all() and again.card.task == "findings"
    assert f"red {int((patches.findings[:, 0] == 1).sum())}" in repr(again)
    with pytest.raises(MedcoreError, match="finding_1.*must hold 1, 0, -1"):
        patches.with_columns(finding_1=np.full(len(patches), 2))
    with pytest.raises(MedcoreError, match="one label an image"):
        _ = PatchSet.from_arrays(patches.take(), {}, Card("toy", classes=["a"])).findings


def test_splits_and_folds_keep_patients_whole_and_balance_the_rarest_finding() -> None:
    patches = assign_splits(shown(600), seed=1)
    shares = []
    for side in ("train", "val", "test"):
        part = patches.where(split=side)
        shares.append((part.findings == 1).mean(axis=0))
    assert all(len(set(patches.splits[patches.patients == p])) == 1 for p in np.unique(patches.patients))
    assert np.ptp(shares, axis=0)[2] < 0.06  # the rarest
    folds = patient_folds(patches, 3)
    assert np.ptp([(patches.findings[fold.validation, 2] == 1).mean() for fold in folds]) < 0.06
    first = (patches.findings == 1).any(axis=1)
    assert (strata(patches)[~first] == -1).all() and (patches.findings[first, strata(patches)[first]] == 1).all()


def test_loss_and_epoch_metric_count_known_findings_only() -> None:
    torch.manual_seed(0)
    logits, findings = torch.randn(40, 3), torch.from_numpy(shown(40).findings)
    by_hand = [
        sum(
            float(F.binary_cross_entropy_with_logits(logits[n, k], findings[n, k].float()))
            for k in range(3)
            if findings[n, k] >= 0
        )
        / 3
        for n in range(40)
    ]
    assert np.allclose(findings_cross_entropy(logits, findings), by_hand, atol=1e-6)
    stated = logits.sigmoid()
    histogram = score_histogram(stated, findings).numpy()
    assert histogram.sum() == int((findings >= 0).sum())
    known = [(findings[:, k] >= 0).numpy() for k in range(3)]
    expected = [roc_auc_score(findings[rows, k], stated[rows, k]) for k, rows in enumerate(known)]
    assert auroc_from_histogram(histogram) == pytest.approx(np.mean(expected), abs=2e-3)


@pytest.mark.parametrize(("policy", "target"), [("ignore", None), ("present", 1.0), ("absent", 0.0)])
def test_an_uncertain_finding_teaches_what_the_policy_says(policy: str, target: float | None) -> None:
    objective = Findings(NAMES, uncertain=policy)
    said = objective.taught(torch.tensor([[-1, -2, 1]]))
    assert said.tolist() == [[-1 if target is None else int(target), -2, 1]]
    with pytest.raises(MedcoreError, match="uncertain"):
        Findings(NAMES, uncertain="maybe")
    never = shown().with_columns(finding_1=np.zeros(200, int))
    with pytest.raises(MedcoreError, match="'green' is never present"):
        objective.begin(never, torch.device("cpu"))


def test_each_finding_equals_scikit_learn_and_the_means_are_of_the_estimable_ones() -> None:
    patches = shown(300, seed=3).with_split(["test"] * 300)
    rng = np.random.default_rng(0)
    stated = np.clip(0.3 * (patches.findings == 1) + 0.7 * rng.random((300, 3)), 0, 1)
    parts, limits = finding_scores(patches, stated), {"red": 0.5, "green": 0.6, "blue": 0.4}
    found = {one.name: one for one in findings_estimates(parts, limits)}
    truth, score = [], []
    for k, name in enumerate(NAMES):
        rows = patches.findings[:, k] >= 0
        y, s = patches.findings[rows, k], stated[rows, k]
        truth.append(y), score.append(s)
        assert found[f"auroc {name}"].value == pytest.approx(roc_auc_score(y, s)) and found[f"auroc {name}"].n == len(y)
        assert found[f"average_precision {name}"].value == pytest.approx(average_precision_score(y, s))
        assert found[f"sensitivity {name}"].value == pytest.approx(recall_score(y, s >= limits[name]))
        assert found[f"specificity {name}"].value == pytest.approx(recall_score(1 - y, s < limits[name]))
    each = [roc_auc_score(y, s) for y, s in zip(truth, score, strict=True)]
    macro = found["macro_auroc"]
    assert macro.value == pytest.approx(np.mean(each)) and macro.low < macro.value < macro.high
    assert found["micro_auroc"].value == pytest.approx(roc_auc_score(np.concatenate(truth), np.concatenate(score)))
    lacking = patches.with_columns(finding_2=np.zeros(300, int))
    found = {one.name: one for one in findings_estimates(finding_scores(lacking, stated), limits)}
    assert found["auroc blue"].value is None and "not blue" in found["macro_auroc"].note
    assert found["macro_auroc"].value == pytest.approx(np.mean(each[:2]))
    alike = findings_estimates(finding_scores(patches, np.full((300, 3), 0.2)), limits)
    constant = next(one for one in alike if one.name == "macro_auroc")  # whoever the patients are, it is a half
    assert constant.low == constant.value == constant.high == 0.5 and constant.method == "exact"


def test_thresholds_are_chosen_on_validation_images_and_never_on_test() -> None:
    patches = shown(200)
    stated = np.clip(0.4 * (patches.findings == 1) + 0.3, 0, 1).astype(float)
    chosen = finding_thresholds(finding_scores(patches.with_split(["val"] * 200), stated))
    assert all(0.3 < value <= 0.7 for value in chosen.values())
    with pytest.raises(TestDataRefused):
        finding_thresholds(finding_scores(patches.with_split(["test"] * 200), stated))


def done(command, *arguments: object) -> None:
    result = CliRunner().invoke(command, list(map(str, arguments)), standalone_mode=False)
    if result.exception is not None:
        raise result.exception


def test_train_predict_and_evaluate_speak_of_each_finding(tmp_path: Path) -> None:
    patches = assign_splits(shown(240))
    data, run = patches.save(tmp_path / "set.npz").path, tmp_path / "run"
    short = ("--profile", "smoke", "--epochs", "3", "--learning-rate", "0.01")
    done(train, "classifier", "--data", data, "--out", run, *short)
    done(predict_images, run, data, "--out", tmp_path / "p.csv")
    rows = list(csv.DictReader(open(tmp_path / "p.csv", encoding="utf-8")))
    model = load(run)
    stated = model.probabilities(patches)
    assert model.task == "findings" and not np.allclose(stated.sum(1), 1, atol=0.05)  # no softmax
    for n, row in enumerate(rows):
        assert [float(row[f"p {name}"]) for name in NAMES] == pytest.approx(stated[n], abs=1e-4)
        named = [name for k, name in enumerate(NAMES) if stated[n, k] >= model.thresholds[k]]
        assert row["findings"] == "|".join(named)
    done(evaluate, run, "--data", data, "--out", tmp_path / "e.json")
    told = {one["name"]: one for one in json.loads((tmp_path / "e.json").read_text())["metrics"]}
    test = patches.where(split="test")
    known = test.findings[:, 0] >= 0
    expected = roc_auc_score(test.findings[known, 0], model.probabilities(test)[known, 0])
    assert told["auroc red"]["value"] == pytest.approx(expected) and told["auroc red"]["n"] == int(known.sum())


def written(folder: Path, lines: list[str]) -> Path:
    for n in range(4):
        Image.fromarray(np.full((16, 16), 60 * n, np.uint8)).save(folder / f"{n}.png")
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "metadata.csv"


def test_columns_and_joined_cells_are_read_as_findings(tmp_path: Path, tmp_data: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    columns = ["image,patient,Effusion,Mass", "0.png,p,1.0,0", "1.png,q,-1,", "2.png,r,,1", "3.png,s,0,0"]
    cells = ["image,patient,label", "0.png,p,Mass|Effusion", "1.png,q,No Finding", "2.png,r,", "3.png,s,Mass"]
    first = read_set(written(tmp_path / "a", columns), findings=["Effusion", "Mass"])
    assert first.findings.tolist() == [[1, 0], [-1, -2], [-2, 1], [0, 0]] and first.classes == ["Effusion", "Mass"]
    second = read_set(written(tmp_path / "b", cells), findings=["Effusion", "Mass"])
    assert second.findings.tolist() == [[1, 1], [0, 0], [-2, -2], [0, 1]]
    assert any("findings Effusion, Mass" in line for line in second.card.reading)
    for source in ("a", "b"):  # nothing is guessed: without the names they are asked for
        with pytest.raises(MedcoreError, match="--findings"):
            read_set(tmp_path / source / "metadata.csv")


@pytest.mark.parametrize(
    ("findings", "cell", "message"),
    [
        (["Effusion", "Mass"], "Mass|Nodule", "row 2: finding 'Nodule' is none of Effusion, Mass"),
        (["Mass"], "Mass", "two or more"),
        (["patient", "Mass"], "Mass", "all of them columns"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, tmp_data: Path, findings, cell: str, message: str) -> None:
    lines = ["image,patient,label", f"0.png,p,{cell}", "1.png,q,Effusion", "2.png,r,Mass", "3.png,s,Mass"]
    with pytest.raises(MedcoreError, match=message):
        read_set(written(tmp_path, lines), findings=findings)


def test_medmnist_arrays_of_several_labels_are_findings(tmp_path: Path, tmp_data: Path) -> None:
    rng = np.random.default_rng(0)
    labels = {f"{side}_labels": rng.integers(0, 2, (6, 3)) for side in ("train", "val", "test")}
    images = {f"{side}_images": rng.integers(0, 255, (6, 28, 28), dtype=np.uint8) for side in ("train", "val", "test")}
    np.savez(tmp_path / "chest.npz", **labels, **images)
    patches = read_set(tmp_path / "chest.npz", classes=NAMES)
    assert patches.card.task == "findings" and patches.classes == NAMES
    for side in ("train", "val", "test"):
        assert (patches.where(split=side).findings == labels[f"{side}_labels"]).all()
    with pytest.raises(MedcoreError, match="3 findings an image, but 2 names"):
        read_set(tmp_path / "chest.npz", classes=["a", "b"])


def test_studies_of_one_class_an_image_refuse_findings_by_name(tmp_path: Path, tmp_data: Path) -> None:
    data = shown(60).save(tmp_path / "set.npz").path
    with pytest.raises(MedcoreError, match="several findings an image"):
        ClassificationStudy.read(str(data))
    with pytest.raises(MedcoreError, match="several findings an image"):
        read_and_split(str(data))
