"""06 from a pretrained encoder: features once, heads from training images, the probe as a network and a checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_classification import CONFIG, two_cues

from medcore.evaluation.predict import predict
from medcore.studies.classification import ClassificationChoices, ClassificationStudy, PretrainedStart
from medcore.studies.classification.pretrained import rows_of_few
from medcore.studies.heads import LINEAR, SETTINGS
from medcore.training.checkpoint import load_checkpoint

FEW = ClassificationChoices(encoder_sides=(16, 16), few_patients=(1, 5, 500), few_draws=2)


@pytest.fixture
def start(tmp_path, monkeypatch: pytest.MonkeyPatch) -> PretrainedStart:
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path))
    torch.manual_seed(0)
    return PretrainedStart(ClassificationStudy(two_cues(), FEW), "small_cnn", "random")


def test_the_probe_is_a_network_that_answers_like_its_head(start: PretrainedStart) -> None:
    study = start.study
    ((name, network),) = start.networks.items()
    assert name == "linear probe on small_cnn"
    expected = start.heads[LINEAR].probabilities(start.of(study.test))
    np.testing.assert_allclose(predict(network, study.test), expected, atol=2e-3)
    compared = study.judge(network, {"untrained": study.build("small_cnn")})
    assert list(compared.rivals) == ["untrained"] and compared.metrics[0].split == "test"
    assert [e.name for e in compared.differences["untrained"]] == [f"{m}_difference" for m in study.choices.metrics]


def test_features_are_those_of_the_rows_asked_for(start: PretrainedStart) -> None:
    part = start.study.patches.select(np.array([7, 3, 100]))
    with torch.no_grad():
        images = torch.from_numpy(part.take()).permute(0, 3, 1, 2).float() / 255
        expected = start.network.eval().features(images).numpy()
    np.testing.assert_allclose(start.of(part), expected, atol=1e-4)
    assert "computed in" in start.cost()
    torch.manual_seed(0)
    again = PretrainedStart(start.study, "small_cnn", "random")
    assert "read from the store" in again.cost() and np.array_equal(again.of(part), start.of(part))


def test_features_of_few_images_without_up_and_down_are_means_over_turns(start: PretrainedStart) -> None:
    study = start.study
    assert start.turns and start.network.turns and "quarter turns" in start.cost()
    many = replace(FEW, turned_images=len(study.patches))
    assert not PretrainedStart(ClassificationStudy(study.patches, many), "small_cnn", "random").turns


def test_heads_learn_from_training_images_and_are_measured_on_validation_images(start: PretrainedStart) -> None:
    table = start.table()
    assert [name.removesuffix(" on small_cnn") for name in table.index] == list(SETTINGS)
    assert {one.split for one in table["validation"]} == {"val"} and {one.n for one in table["validation"]} == {80}
    assert all(head.estimator.named_steps["standardscaler"].n_samples_seen_ == 80 for head in start.heads.values())


def test_the_better_network_is_the_one_on_validation_images(start: PretrainedStart) -> None:
    networks = {"untrained": start.study.build("small_cnn")} | start.networks
    best, values = start.study.better(networks)
    assert best == start.name and values[best].value == max(one.value for one in values.values())
    assert {one.split for one in values.values()} == {"val"}


def test_cross_prediction_takes_the_probe_along(start: PretrainedStart) -> None:
    study = start.study
    crossed = study.cross_predict("small_cnn", None, CONFIG, k=2, epochs=1, limit=60, further=start.methods())
    assert list(crossed.scores) == ["small_cnn", start.name, study.histogram]
    _, folds, _ = study.results(start.name, study.judge(start.network), crossed)
    kept = np.isin(crossed.scores[start.name].split, ["train", "test"])
    assert 0 < folds.metrics[0].n == kept.sum() < len(kept), "validation images chose the network"
    assert list(folds.rivals) == ["small_cnn"] and list(folds.baselines) == [study.histogram]


def test_a_kept_probe_is_an_ordinary_checkpoint(start: PretrainedStart, tmp_path) -> None:
    start.keep(tmp_path / "run", CONFIG)
    folder = start.keep(tmp_path / "run", CONFIG)  # a notebook is run again
    loaded = load_checkpoint(folder)
    assert loaded.manifest["epoch"] == 1 and loaded.manifest["architecture"]["args"]["levels"]
    test = start.study.test
    np.testing.assert_allclose(predict(loaded.model, test), predict(start.network, test), atol=1e-5)


def test_fine_tuning_starts_from_the_probe_and_changes_the_trunk(start: PretrainedStart, tmp_path) -> None:
    study = start.study
    before = predict(start.network, study.test)
    (still,) = start.fine_tune("none", tmp_path, epochs=1, learning_rate=1e-12).values()
    np.testing.assert_allclose(predict(still, study.test), before, atol=1e-5)  # nothing is lost, no statistic follows
    ((name, network),) = start.fine_tune("flips", tmp_path, epochs=2, learning_rate=1e-3).items()
    assert name == "fine-tuned small_cnn" and list(start.networks) == [start.name, name]
    trunks = [dict(one.backbone.named_parameters()) for one in (start.network, network)]
    assert any(not torch.equal(trunks[0][key], trunks[1][key]) for key in trunks[0])
    np.testing.assert_allclose(predict(start.network, study.test), before, atol=1e-6)  # the probe itself stays
    folder = start.keep(tmp_path, CONFIG, name)
    np.testing.assert_allclose(
        predict(load_checkpoint(folder).model, study.test), predict(network, study.test), atol=1e-5
    )
    assert load_checkpoint(folder).manifest["config"]["epochs"] == 2


def test_fine_tuning_lasts_so_many_images_and_takes_part_in_folds_where_it_is_best(start, tmp_path) -> None:
    start.study.choices = replace(FEW, tuned_images=250, tuned_epochs=(1, 12))
    start.fine_tune("none", tmp_path, epochs=1)  # and again, as in a notebook that is run again
    (name,) = start.fine_tune("none", tmp_path)
    assert load_checkpoint(start.keep(tmp_path, CONFIG, name)).manifest["config"]["epochs"] == 3  # of 80 images
    assert list(start.methods()) == [start.name] and list(start.methods(start.name)) == [start.name]
    crossed = start.study.cross_predict("small_cnn", None, CONFIG, k=2, epochs=1, limit=60, further=start.methods(name))
    assert list(crossed.scores) == ["small_cnn", start.name, name, start.study.histogram]
    assert np.isfinite(crossed.scores[name].score).all()


def test_few_patients_of_each_class_are_drawn(start: PretrainedStart) -> None:
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array(["a", "a", "b", "c", "d", "d"])
    for seed in range(4):
        rows = rows_of_few(labels, groups, 1, np.random.default_rng(seed))
        assert [len(set(groups[rows][labels[rows] == k])) for k in (0, 1)] == [1, 1]
        assert all((groups == name).sum() == (groups[rows] == name).sum() for name in set(groups[rows]))
    found = start.few_shots()
    assert list(found) == ["1 patient a class", "5 patients a class", "all patients"]
    *few, everybody = found.values()
    assert all(one.low <= one.value <= one.high and one.split == "val" for one in few)
    assert everybody.low is None and everybody.value == start.table()["validation"].iloc[0].value


def test_patients_are_recognised_where_their_images_share_a_mark(start: PretrainedStart) -> None:
    study = start.study
    assert start.recognised() == {} and "cannot be said" in start.robustness()  # no patient gave two of a class
    start.study = study = ClassificationStudy(two_cues().with_columns(patient=np.arange(240) // 4), FEW)
    chance = start.recognised()["chance"]
    values = np.array(start.store.values)
    number = np.unique(study.patches.patients, return_inverse=True)[1]
    values += 100 * np.random.default_rng(0).normal(size=(60, values.shape[1]))[number]
    start.of = lambda part: values[part.index]  # type: ignore[method-assign]
    marked = start.recognised()
    assert marked["chance"] == chance < 0.05 and marked["found"] > 0.5
    assert "by chance" in start.robustness()


def test_without_an_encoder_nothing_is_computed() -> None:
    none = PretrainedStart(ClassificationStudy(two_cues(), FEW), "")
    assert none.networks == {} and none.methods() == {} and none.few_shots() == {} and none.table().empty
    assert "No pretrained encoder" in none.cost()
