"""A model folder of each task: anywhere it answers bit for bit the same, and one changed byte in any file is refused.

Labels of another cohort change no answer, and the card is whole.
"""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from training_toys import ended, toy_config, toy_set

import medcore
from medcore.data.phantoms import PHANTOMS
from medcore.errors import MedcoreError
from medcore.evaluation.intervals import interval
from medcore.evaluation.predict import place_model
from medcore.evaluation.predictor import equip
from medcore.evaluation.scores import Scores
from medcore.evaluation.selective import choose_rejection, fit_conformal
from medcore.models.autoencoder import ConvAutoencoder
from medcore.models.classifier import build_classifier
from medcore.models.unet import SmallUNet
from medcore.reporting.cards.model_card import hand_on
from medcore.reporting.results import Data, Results
from medcore.studies.anomaly.detector import write_detector
from medcore.studies.anomaly.study import AnomalyChoices, AnomalyStudy
from medcore.studies.diagnosis.choices import DiagnosisChoices
from medcore.studies.diagnosis.learner import ERRORS
from medcore.studies.diagnosis.model import DiagnosisModel, chain_of
from medcore.studies.diagnosis.study import DiagnosisStudy
from medcore.studies.validation.mix import describe_mix
from medcore.training import checkpoint
from medcore.training.fit import fit
from medcore.training.objectives import Classification, Reconstruction, Segmentation

TASKS = ("classification", "segmentation", "anomaly", "diagnosis")


def results_of(patches, estimates=()) -> Results:
    card = patches.card
    data = Data.model_validate(
        {"name": card.name, "title": card.title, "classes": card.classes, "group": card.group, "case": card.case,
         "fingerprint": patches.fingerprint, "patients": 3, "columns": patches.columns, "licence": "CC0-1.0"}
    )  # fmt: skip
    facts = {"notebook": "06_patch_classification", "title": "Which tissue?", "started": "2026-11-29T10:00:00+00:00"}
    environment = {"medcore": "0.1.0", "packages": {"torch": "2"}, "commit": "abc"}
    return Results(**facts, data=data, metrics=list(estimates), parameters={"seed": 0}, environment=environment)


def classification(folder: Path):
    patches = toy_set(90, side=16)
    train, validation, test = (patches.where(split=side) for side in ("train", "val", "test"))
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 2, image_size=16)
    fit(model, Classification(patches.classes), train, validation, toy_config(), out=folder, progress=False)
    said = Scores.from_set(validation, medcore.predict(model, validation))
    rules = {"rejection": {"the surest 80%": choose_rejection(said, coverage=0.8).as_dict()}}
    rules |= {"conformal": fit_conformal(said, coverage=0.9).as_dict()}
    equip(folder, model, train, validation, temperature=1.3, **rules)
    scores = Scores.from_set(test, medcore.predict(model, test))
    return patches, folder, [interval(scores, "balanced_accuracy"), interval(scores, "auroc")]


def segmentation(folder: Path):
    patches = toy_set(20, side=16, masks=True)
    train, validation = (patches.where(split=side) for side in ("train", "val"))
    torch.manual_seed(0)
    fit(SmallUNet(2), Segmentation(patches.classes), train, validation, toy_config(augment=None), out=folder,
        progress=False)  # fmt: skip
    checkpoint.annotate(folder, segmentation={"factor": 1.0, "tile": 16, "turns": 1, "tolerance": 2.0})
    return patches, folder, []


def anomaly(folder: Path):
    patches = PHANTOMS["phantom-derm"](patients=120, size=16)
    study = AnomalyStudy(patches, AnomalyChoices(scores=("mse",), epochs=2))
    network = ConvAutoencoder((16, 16), in_channels=3, bottleneck=4)
    trained = study.train(network.spec, Reconstruction("mse"))
    study.add("autoencoder", trained.model)
    return study.patches, write_detector(study, trained.folder, folder / "model"), [interval(study.found, "auroc")]


def diagnosis(folder: Path):
    patches = PHANTOMS["phantom-helico"](patients=60, windows_per_patient=6, size=32)
    choices = DiagnosisChoices(size=16, epochs=1, folds=3, attention_epochs=1, autoencoder=False)
    study = DiagnosisStudy(patches, choices)
    model, network = chain_of(study)
    return study.patches, model.save(folder / "model", network), []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By task: the set, and its model folder with a card."""
    home = tmp_path_factory.mktemp("models")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCORE_DATA", str(home / "data"))
        for task in TASKS:
            folder = home / task
            folder.mkdir()
            patches, path, estimates = globals()[task](folder)
            hand_on(path, folder / "model", results_of(patches, estimates), describe_mix(patches))
            found[task] = SimpleNamespace(patches=patches, folder=folder / "model")
    return found


def answers(model, patches) -> np.ndarray:
    if model.task == "diagnosis":
        return model.predict(patches)[["score", "probability", "decision"]].to_numpy(dtype=float)
    if model.task == "segmentation":
        return np.stack(model.masks(patches))
    return np.concatenate([batch.probabilities for batch in model.predict(patches)])


@pytest.mark.parametrize("task", TASKS)
def test_a_copy_elsewhere_answers_bit_for_bit_the_same(made, task, tmp_path):
    one = made[task]
    there = Path(shutil.copytree(one.folder, tmp_path / "another name" / "folder"))
    first, second = medcore.load(one.folder), medcore.load(there)
    assert first.task == task and first.development["estimates"] is not None
    assert np.array_equal(answers(first, one.patches), answers(second, one.patches))
    assert medcore.load(one.folder.parent).path == one.folder.resolve()  # the run's folder means its model


@pytest.mark.parametrize("task", TASKS)
def test_one_changed_byte_in_any_file_is_refused(made, task, tmp_path):
    rng = np.random.default_rng(0)
    files = [path for path in sorted(made[task].folder.rglob("*")) if path.is_file()]
    assert {"MODEL_CARD.md", "MODEL_CARD.html", "manifest.json", "model.safetensors"} <= {path.name for path in files}
    for path in files:
        for _ in range(3):
            there = tmp_path / "copy"
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(made[task].folder, there)
            target = there / path.relative_to(made[task].folder)
            payload = bytearray(target.read_bytes())
            payload[int(rng.integers(len(payload)))] ^= 1 << int(rng.integers(8))
            target.write_bytes(payload)
            with pytest.raises(MedcoreError, match=path.name):
                medcore.load(there)
    shutil.rmtree(there)
    shutil.copytree(made[task].folder, there)
    (there / "MODEL_CARD.md").unlink()
    with pytest.raises(MedcoreError, match="MODEL_CARD.md"):
        medcore.load(there)


@pytest.mark.parametrize("task", TASKS)
def test_permuted_labels_change_no_answer_and_no_threshold(made, task):
    one, model = made[task], medcore.load(made[task].folder)
    before = (model.folder if hasattr(model, "folder") else model.path).joinpath("manifest.json").read_bytes()
    rng = np.random.default_rng(3)
    other = one.patches.with_columns(label=rng.permutation(one.patches.labels))
    if "diagnosis" in other.columns:
        names, rows = np.unique(other.patients, return_inverse=True)
        said = dict(zip(other.patients, other.column("diagnosis"), strict=True))
        mixed = rng.permutation([said[name] for name in names])
        other = other.with_columns(diagnosis=mixed[rows])
    assert np.array_equal(answers(model, one.patches), answers(model, other))
    first, second = model.evaluate(one.patches), model.evaluate(other)
    if task != "segmentation":
        assert np.array_equal(np.sort(first.probability.score, axis=0), np.sort(second.probability.score, axis=0))
    assert model.path.joinpath("manifest.json").read_bytes() == before


def test_decisions_are_those_of_the_rule_applied_by_hand(made):
    model = medcore.load(made["diagnosis"].folder)
    rule, patches = model.chain.rule, made["diagnosis"].patches
    table = model.predict(patches).set_index("patient")
    windows = model.chain.window_scores(patches)
    for name in np.unique(patches.patients)[:10]:
        own = windows[patches.patients == name]
        level = np.where(own >= rule.window.threshold, 1 + (own >= rule.evidence.cut), 0)
        assert table.loc[name, "positive_windows"] == (level > 0).sum()
        top = patches.column("source")[patches.patients == name][np.argsort(-own, kind="stable")[:3]]
        assert table.loc[name, "suspicious"] == top.tolist()
    assert (table["decision"] == (table["score"] >= rule.patient.point.threshold)).all()
    stated = 1 / (1 + np.exp(-(rule.patient.probability.slope * table["score"] + rule.patient.probability.offset)))
    assert np.allclose(table["probability"], stated)


def test_a_network_that_decides_travels_in_the_chain_and_scores_as_in_the_study(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path / "data"))
    patches = PHANTOMS["phantom-helico"](patients=60, windows_per_patient=4, size=32)
    choices = DiagnosisChoices(size=16, epochs=1, folds=3, attention_epochs=1, fewest_other_windows=10**6)
    study = DiagnosisStudy(patches, choices)
    plain, _ = chain_of(study)
    window = replace(plain.rule.window, score=ERRORS["ssim"], threshold=0.3)
    trained = study.tester.autoencoder(study.nobody)
    model = replace(plain, rule=replace(plain.rule, window=window), forest=None, network=trained.model)
    model.manifest["precision"] = str(place_model(trained.model, None, "auto").precision)
    loaded = DiagnosisModel.load(model.save(tmp_path / "model", trained.folder))
    errors = study.tester.judged(study.nobody)[0][:, 0]
    assert np.allclose(loaded.window_scores(study.patches)[study.cohort.rows], errors, atol=2e-6)
    payload = bytearray((tmp_path / "model/network/model.safetensors").read_bytes())
    payload[-1] ^= 1
    (tmp_path / "model/network/model.safetensors").write_bytes(payload)
    with pytest.raises(MedcoreError, match="model.safetensors is damaged"):
        medcore.load(tmp_path / "model")


def test_a_detector_decides_by_its_threshold_and_evaluates_as_scikit_learn(made):
    model, patches = medcore.load(made["anomaly"].folder), made["anomaly"].patches
    score = model.scores(patches)
    truth = np.isin(patches.label_names, patches.card.abnormal)
    found = model.evaluate(patches)
    assert found.estimates[0].value == pytest.approx(roc_auc_score(truth, score), abs=1e-9)
    (batch,) = model.predict(patches.take())
    assert np.array_equal(np.array(batch.labels) == "abnormal", score >= model.point.threshold)
    strange = replace(patches.card, classes=[*patches.card.classes[:-1], "other"], abnormal=[])
    with pytest.raises(MedcoreError, match="unknown to the detector"):
        model.evaluate(patches.with_card(strange))


@pytest.mark.parametrize("task", TASKS)
def test_the_card_is_whole(made, task):
    text = (made[task].folder / "MODEL_CARD.md").read_text()
    page = (made[task].folder / "MODEL_CARD.html").read_text()
    headings = [
        "Model details", "Intended use", "Factors", "Metrics and decision rules", "Training and evaluation data",
        "Results", "Limitations, ethical considerations", "Reporting guidelines", "How to use and cite",
    ]  # fmt: skip
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == headings
    assert not re.search(r"TODO|TBD|XXX|\{|\}|\bNone\b|\bnan\b|missing:|lorem|<[a-z]", text)
    assert "<script" not in page and "http-equiv" in page and all(f">{name}<" in page for name in headings[:3])


def test_the_command_line_takes_every_task(made, tmp_path, capsys):
    shown = {}
    for task in TASKS:
        one, store = made[task], tmp_path / f"{task}.npz"
        one.patches.save(store)
        code, lines = ended(capsys, "evaluate", one.folder, "--data", store, "--split", "all", "--seen", "count")
        assert code == 0, lines
        shown[task] = " ".join(lines)
    assert "balanced accuracy" in shown["classification"] and "Dice" in shown["segmentation"]
    assert all("AUROC" in shown[task] for task in ("classification", "anomaly", "diagnosis"))
    assert "sensitivity" in shown["diagnosis"] and "calibration slope" in shown["diagnosis"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predict_writes_what_the_task_answers(made, tmp_path, capsys):
    for task in ("classification", "anomaly", "diagnosis"):
        made[task].patches.save(tmp_path / f"{task}.npz")
        out = tmp_path / f"{task}.csv"
        code, lines = ended(capsys, "predict", made[task].folder, tmp_path / f"{task}.npz", "--out", out)
        assert code == 0, lines
    rows = rows_of(tmp_path / "classification.csv")
    assert {"abstain", "set"} <= set(rows[0]) and {row["abstain"] for row in rows} <= {"yes", "no"}
    model = medcore.load(made["classification"].folder)
    shares = model.probabilities(made["classification"].patches)
    limit = model.manifest["extra"]["rejection"]["the surest 80%"]["threshold"]
    assert [row["abstain"] == "yes" for row in rows] == (shares.max(1) < limit).tolist()
    assert set(rows_of(tmp_path / "anomaly.csv")[0]) == {"image", "label", "score", "probability", "seen_in_training"}
    patients = rows_of(tmp_path / "diagnosis.csv")
    assert len(patients) == len(np.unique(made["diagnosis"].patches.patients))
    assert {"patient", "decision", "probability", "windows", "suspicious_3"} <= set(patients[0])
    code, lines = ended(capsys, "predict", made["diagnosis"].folder, tmp_path / "diagnosis.npz", "--seen", "refuse")
    assert code == 1 and "seen in training" in " ".join(lines)


def test_an_autoencoder_without_a_threshold_is_refused(tmp_path):
    patches = toy_set(40, side=16)
    train, validation = patches.where(split="train"), patches.where(split="val")
    network = ConvAutoencoder((16, 16), in_channels=3, bottleneck=4)
    fit(network, Reconstruction("mse"), train, validation, toy_config(augment=None), out=tmp_path, progress=False)
    with pytest.raises(MedcoreError, match="without a score and a threshold"):
        medcore.load(tmp_path)
