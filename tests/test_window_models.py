"""What learns to score windows, and that it never sees who it scores; models found again or trained anew."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cohort_toys import LEVELS
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.metrics.stain_scores import brown_peak, red_share, score_windows
from medcore.models.autoencoder import ConvAutoencoder
from medcore.studies.anomaly.scores import score_set
from medcore.studies.diagnosis.choices import DiagnosisChoices
from medcore.studies.diagnosis.cohort import Cohort
from medcore.studies.diagnosis.learner import FOREST, WindowLearner, encode_with_peaks, evenly
from medcore.studies.diagnosis.methods import (
    ATTENTION,
    BAGS,
    OURS,
    PENALTIES,
    PROBE,
    RULE,
    diagnose_all,
    pooled_probe,
)  # fmt: skip
from medcore.studies.diagnosis.nested import diagnose_patients, diagnose_windows
from medcore.studies.diagnosis.results import patient_auroc
from medcore.studies.diagnosis.specks import speck_features
from medcore.studies.diagnosis.windows import smaller
from medcore.training.config import TrainConfig
from medcore.training.mil import MILConfig
from medcore.training.objectives import Reconstruction
from medcore.training.reuse import fit_or_reuse, model_key

PLAN = DiagnosisChoices(folds=3, epochs=1, bottleneck=4, batch_size=16, attention_epochs=2)


def windows(patients: int = 12, each: int = 6, side: int = 32) -> PatchSet:
    """Grey-blue windows; the infected half of the patients has brown dots in half of its windows."""
    generator = np.random.default_rng(0)
    count = patients * each
    images = np.clip(generator.normal((205, 205, 225), 6, (count, side, side, 3)), 0, 255).astype(np.uint8)
    owner = np.repeat(np.arange(patients), each)
    positive = (owner % 2 == 1) & (np.arange(count) % 2 == 0)
    for row in np.flatnonzero(positive):
        y, x = generator.integers(4, side - 8, 2)
        images[row, y : y + 3, x : x + 3] = (150, 95, 60)
    table = {
        "label": positive.astype(int),
        "patient": [f"P{number:02d}" for number in owner],
        "diagnosis": [LEVELS[2 * (number % 2)] for number in owner],
        "source": [f"{row}.png" for row in range(count)],
    }
    return PatchSet.from_arrays(images, table, Card("toy", "toy", ["negative", "positive"]))


@pytest.fixture
def learner(tmp_data) -> WindowLearner:
    patches = windows()
    rules = {"red share": red_share, "brown peak": brown_peak}
    cohort = Cohort.from_set(patches, {name: score_windows(patches, score) for name, score in rules.items()})
    return WindowLearner(patches, cohort, PLAN, specks=speck_features(patches))


def excluding(learner: WindowLearner, *patients: int) -> np.ndarray:
    return np.isin(np.arange(len(learner.cohort)), patients)


def test_all_scores_come_for_all_windows(learner):
    scores = learner(excluding(learner, 0, 1))
    assert list(scores) == ["red share", "brown peak", FOREST, "autoencoder: 1 − SSIM", "autoencoder: lost brown"]
    assert all(values.shape == (72,) and np.isfinite(values).all() for values in scores.values())


def test_an_autoencoder_learns_healthy_windows_of_the_others_only(learner):
    excluded = excluding(learner, 0, 1, 2)
    train, validation = learner.healthy_parts(excluded)
    seen = set(train.patients) | set(validation.patients)
    assert not seen & {"P00", "P01", "P02"}
    assert not set(train.patients) & set(validation.patients)
    assert not (train.labels == 1).any() and not (validation.labels == 1).any()
    assert seen == {f"P{number:02d}" for number in range(3, 12)}


def test_hold_out_windows_are_never_learnt(learner):
    split = np.where(np.isin(learner.patches.patients, ["P04", "P05"]), "test", "")
    patches = learner.patches.with_split(split)
    again = WindowLearner(patches, learner.cohort, PLAN)
    train, validation = again.healthy_parts(np.zeros(12, dtype=bool))
    assert not {"P04", "P05"} & (set(train.patients) | set(validation.patients))


def test_the_pixels_and_labels_of_the_excluded_change_nothing(learner):
    excluded = excluding(learner, 3, 4)
    hidden = excluded[learner.cohort.owner]
    images, labels = learner.patches.take(), learner.cohort.label.copy()
    images[hidden], labels[hidden] = 255 - images[hidden], 1 - labels[hidden]
    patches = PatchSet.from_arrays(images, learner.patches.table.assign(label=labels), learner.patches.card)
    cohort = Cohort.from_set(patches, learner.cohort.scores)
    specks = learner.specks.copy()
    specks[hidden] = 7
    other = WindowLearner(patches, cohort, PLAN, specks=specks)
    first, second = learner(excluded), other(excluded)
    for name in first:
        assert np.allclose(first[name][~hidden], second[name][~hidden], atol=1e-6), name


def test_each_model_is_trained_once(learner):
    learner.specks = None
    diagnose_windows(learner.cohort, DiagnosisChoices(folds=3), learn=learner)
    assert len(learner.trained) == 3 * 4 // 2
    before = dict(learner.trained)
    diagnose_windows(learner.cohort, DiagnosisChoices(folds=3), learn=learner)
    assert learner.trained == before


def test_two_folds_are_too_few_to_learn_in(learner):
    with pytest.raises(MedcoreError, match="at least 3 folds"):
        diagnose_windows(learner.cohort, DiagnosisChoices(folds=2), learn=learner)


def test_brown_dots_are_found_by_every_way(learner):
    assert patient_auroc(diagnose_windows(learner.cohort, DiagnosisChoices(folds=3), learn=learner)).value > 0.9
    attention = learner.attention(MILConfig(epochs=40, hidden=16), features=learner.specks)
    assert patient_auroc(diagnose_patients(learner.cohort, attention, DiagnosisChoices(folds=3))).value > 0.9


def test_attention_over_the_peaks_of_the_right_encoder(learner):
    excluded = excluding(learner, 0, 1)
    errors, peaks = learner.judged(excluded)
    model = learner.autoencoder(excluded).model
    images, seen = torch.from_numpy(learner.patches.take()).permute(0, 3, 1, 2) / 255, []
    hooks = [stage.register_forward_hook(lambda module, given, maps: seen.append(maps.amax((2, 3))))
             for stage in model.encoder.stages[:2]]  # fmt: skip
    codes = model.encode(images).detach()
    exact = torch.cat(seen, 1).detach().numpy()
    for hook in hooks:
        hook.remove()
    assert peaks.shape == exact.shape and np.abs(peaks - exact).max() < 0.03 * np.abs(exact).max()  # perhaps bfloat16
    assert torch.allclose(encode_with_peaks(model, images, 2)[0], codes, atol=1e-5)
    for number, kind in enumerate(("ssim", "dab")):
        assert np.allclose(errors[:, number], score_set(model, learner.patches, kind, precision="auto"), atol=1e-6)
    assert learner.attention(MILConfig(epochs=2))(excluded).shape == (12,)
    assert len(learner.trained) == 1


def healthy_strangers(patients: int) -> PatchSet:
    others = windows(2 * patients, each=30)
    others = others.select(others.column("diagnosis") == LEVELS[0])
    return others.with_columns(patient=np.char.add("S", others.patients))


def test_one_autoencoder_of_bystanders_serves_every_fold(learner):
    others = healthy_strangers(8)
    again = WindowLearner(learner.patches, learner.cohort, PLAN, bystanders=others)
    diagnose_windows(learner.cohort, DiagnosisChoices(folds=3), learn=again)
    assert len(again.trained) == 1 and again.bystanders is others
    train, validation = again.healthy_parts(excluding(learner, 0))
    assert set(train.patients) | set(validation.patients) == set(others.patients)
    few = WindowLearner(learner.patches, learner.cohort, PLAN, bystanders=healthy_strangers(6))
    assert few.bystanders is None


def test_bystanders_who_are_diagnosed_are_refused(learner):
    for wrong in (healthy_strangers(8).with_columns(patient=["P00", "S1"] * 120),
                  healthy_strangers(8).with_split(["test"] * 240)):  # fmt: skip
        wrong = wrong.with_columns(patient=np.where(np.arange(240) < 9, wrong.patients, healthy_strangers(8).patients))
        with pytest.raises(MedcoreError, match="must not learn from whom it scores"):
            WindowLearner(learner.patches, learner.cohort, PLAN, bystanders=wrong)


def test_too_few_healthy_windows_are_named(learner):
    with pytest.raises(MedcoreError, match="healthy windows of 1 patients are left"):
        learner.healthy_parts(np.arange(12) > 0)
    with pytest.raises(MedcoreError, match="5 descriptions of specks for 72 windows"):
        WindowLearner(learner.patches, learner.cohort, specks=learner.specks[:5])


def test_windows_are_drawn_evenly_over_patients():
    patient = np.repeat(["a", "b", "c"], [100, 10, 3])
    rows = evenly(np.arange(113), patient, 30, np.random.default_rng(0))
    counts = {name: int((patient[rows] == name).sum()) for name in "abc"}
    assert counts["c"] == 3 and counts["b"] == 10 and counts["a"] == 17
    assert np.array_equal(evenly(np.arange(5), patient[:5], 9, np.random.default_rng(0)), np.arange(5))


# --- models found again -------------------------------------------------------------------------------------------


def parts() -> tuple[PatchSet, PatchSet]:
    patches = windows(4)
    return tuple(patches.select(rows).with_split([side] * len(rows))
                 for side, rows in (("train", np.arange(12)), ("val", np.arange(12, 24))))  # fmt: skip


def run(train, validation, **options):
    config = TrainConfig(epochs=options.pop("epochs", 1), batch_size=8, device="cpu")
    spec = ConvAutoencoder(32, 3, options.pop("bottleneck", 4)).spec
    return fit_or_reuse(spec, Reconstruction("mse"), train, validation, config, **options)


def test_an_equal_training_is_found_and_another_is_not(tmp_data):
    train, validation = parts()
    first, again = run(train, validation), run(train, validation)
    assert not first.reused and again.reused
    assert first.sha256 == again.sha256 and first.sha256[:12] in str(again)
    assert "reused" in str(again) and "trained now" in str(first)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(first.model(images), again.model(images))
    for other in ({"epochs": 2}, {"bottleneck": 5}):
        assert not run(train, validation, **other).reused
    assert not run(train.select(np.arange(11)), validation).reused


def test_what_another_notebook_trained_on_the_same_windows_is_found(learner):
    """Notebook 02 trains through ``fit_or_reuse``, too: equal images and settings are one model, whoever asks."""
    excluded = excluding(learner, 0, 1)
    train, validation = learner.healthy_parts(excluded)
    config = TrainConfig(epochs=1, batch_size=16, learning_rate=2e-3, schedule="one-cycle", device="cpu")
    there = fit_or_reuse(ConvAutoencoder(32, 3, 4).spec, Reconstruction("mse"), train, validation, config)
    found = learner.autoencoder(excluded)
    assert found.reused and found.sha256 == there.sha256
    assert not learner.autoencoder(excluding(learner, 0, 2)).reused


def test_retrain_trains_anew_to_the_same_weights(tmp_data):
    train, validation = parts()
    first, anew = run(train, validation), run(train, validation, retrain=True)
    assert not anew.reused and anew.sha256 == first.sha256


def test_a_killed_training_goes_on(tmp_data):
    train, validation = parts()
    first = run(train, validation, epochs=2)
    (first.folder / "complete").unlink()
    again = run(train, validation, epochs=2)
    assert not again.reused and again.sha256 == first.sha256


def test_a_damaged_model_is_refused(tmp_data):
    train, validation = parts()
    weights = next(run(train, validation).folder.glob("checkpoints/epoch-*/model.safetensors"))
    payload = bytearray(weights.read_bytes())
    payload[-1] ^= 1
    weights.write_bytes(payload)
    with pytest.raises(MedcoreError, match="damaged"):
        run(train, validation)
    assert not run(train, validation, retrain=True).reused


def test_the_key_does_not_depend_on_the_device_or_the_loader(tmp_data):
    train, validation = parts()
    spec, objective = ConvAutoencoder(32, 3, 4).spec, Reconstruction("mse")
    keys = {model_key(spec, objective, train, validation, TrainConfig(device=d, loader=mode))
            for d in ("cpu", "auto") for mode in ("auto", "stream")}  # fmt: skip
    assert len(keys) == 1
    assert model_key(spec, objective, train, validation, TrainConfig(seed=1)) not in keys


def test_pictures_and_errors_of_some_windows(learner):
    excluded, rows = excluding(learner, 0, 1), np.array([5, 0, 70])
    reconstructed = learner.reconstruct(rows, excluded)
    assert reconstructed.shape == (3, 32, 32, 3) and reconstructed.dtype == np.uint8
    errors = learner.error_maps(rows, excluded, "l1")
    expected = np.abs(learner.patches.take(rows) / 255 - reconstructed / 255.0).mean(-1)
    assert errors == pytest.approx(expected, abs=0.01)


def test_smaller_pictures_of_the_same_rows(learner):
    half = smaller(learner.patches, 16)
    assert half.shape == (16, 16, 3) and half.patients.tolist() == learner.patches.patients.tolist()
    means = half.take().mean((1, 2)), learner.patches.take().mean((1, 2))
    assert np.allclose(*means, atol=1.0)
    assert smaller(learner.patches, 64) is learner.patches


def test_all_methods_diagnose_the_same_patients(learner):
    found = diagnose_all(learner.cohort, learner, PLAN)
    assert list(found) == [OURS, RULE, ATTENTION]  # all have equally many windows
    patients = [one.table["patient"].tolist() for one in found.values()]
    assert all(names == patients[0] for names in patients)
    assert {one.split for one in found.values()} == {"folds"}


def test_features_of_an_encoder_add_attention_and_a_probe_on_the_same_patients(learner):
    values = np.random.default_rng(0).normal(size=(len(learner.cohort.owner), 5))
    values[:, 1] += 3 * learner.cohort.truth[learner.cohort.owner]
    found = diagnose_all(learner.cohort, learner, PLAN, values)
    assert list(found) == [OURS, RULE, ATTENTION, BAGS, PROBE]
    assert found[PROBE].table["patient"].tolist() == found[OURS].table["patient"].tolist()
    assert patient_auroc(found[PROBE]).value > 0.9


def test_a_pooled_probe_is_scikit_learns_and_learns_from_nobody_excluded(learner):
    cohort = learner.cohort
    values = np.random.default_rng(0).normal(size=(len(cohort.owner), 4)) + cohort.truth[cohort.owner][:, None]
    bags = np.stack([np.r_[values[cohort.owner == k].mean(0), values[cohort.owner == k].max(0)] for k in range(12)])
    excluded = np.arange(12) % 4 == 0
    known = StandardScaler().fit(bags[~excluded])
    candidates = [
        LogisticRegression(C=c, class_weight="balanced", max_iter=200)
        .fit(known.transform(bags[~excluded]), cohort.truth[~excluded])
        .predict_proba(known.transform(bags))[:, 1]
        for c in PENALTIES
    ]
    found = pooled_probe(cohort, values)(excluded)
    assert any(np.allclose(found, candidate, atol=1e-4) for candidate in candidates)
    turned = replace(cohort, level=np.where(excluded, 1 - cohort.truth, cohort.level))
    assert np.array_equal(pooled_probe(turned, values)(excluded), found)


def test_all_methods_on_hold_out(learner):
    split = np.where(np.arange(12) >= 8, "test", "val")
    cohort = replace(learner.cohort, scores=learner.cohort.scores | {"red share": np.arange(72.0)}, split=split)
    found = diagnose_all(cohort, WindowLearner(learner.patches, cohort, PLAN), PLAN)
    assert all(one.split == "test" and len(one.table) == 4 for one in found.values())
