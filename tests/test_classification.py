"""One classification study: choices on validation data, fair baselines, the figure that leads, spread over seeds."""

import numpy as np
import pytest

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.stain import typical_staining
from medcore.errors import MedcoreError
from medcore.evaluation.intervals import interval
from medcore.studies.classification import ClassificationChoices, ClassificationStudy
from medcore.studies.classification.robustness import fitting_corruptions
from medcore.studies.preprocessing import select_classes
from medcore.training.config import TrainConfig

CONFIG = TrainConfig(epochs=1, batch_size=32, seed=0, device="cpu")


def two_cues(count: int = 240, test: int = 80, **facts: object) -> PatchSet:
    """Two classes told by colour on training and validation images, by brightness too on test images."""
    rng = np.random.default_rng(0)
    label = np.arange(count) % 2
    split = np.array(["train"] * (count - test - 80) + ["val"] * 80 + ["test"] * test)
    images = rng.integers(60, 140, (count, 16, 16, 3)).astype(int)
    images[..., 0] += np.where(split == "test", 8, 40)[:, None, None] * label[:, None, None]
    table = {"label": label, "patient": np.arange(count) // 2, "split": split}
    card = Card("toy", classes=["a", "b"], **facts)  # type: ignore[arg-type]
    return PatchSet.from_arrays(images.clip(0, 255).astype(np.uint8), table, card)


@pytest.fixture(scope="module")
def judged() -> tuple[ClassificationStudy, object]:
    study = ClassificationStudy(two_cues())
    return study, study.judge(study.build("small_cnn"))


def test_the_reference_is_the_strongest_baseline_of_the_validation_images(judged) -> None:
    study, compared = judged
    found = study.answers_of_baselines(study.validation)
    values = {name: interval(scores, "balanced_accuracy").value for name, scores in found.items()}
    assert compared.reference == study.reference and values[study.reference] == max(values.values())
    assert [e.name for e in compared.against_reference] == [f"{m}_difference" for m in study.choices.metrics]
    assert {e.split for e in compared.metrics} == {"test"}


def test_a_calibration_is_chosen_on_validation_images_and_changes_no_answer(judged) -> None:
    study, _ = judged
    mended = study.calibrate()
    assert (mended.scores.predicted == study.scores.predicted).all() and set(mended.scores.split) == {"test"}
    before, after = (((s.score - np.eye(2)[s.truth]) ** 2)[:, 1].mean() for s in (study.scores, mended.scores))
    assert mended.change.value == pytest.approx(after - before)


def test_other_seeds_give_a_spread_on_the_same_test_images(judged) -> None:
    study, compared = judged
    spread = study.repeat("small_cnn", None, CONFIG, 2)
    assert spread.low <= spread.value <= spread.high and spread.n == len(study.test)
    assert spread.name == "balanced_accuracy_over_seeds" and f"{compared.metrics[0].value:.3f}" in spread.note


@pytest.mark.parametrize(("test", "leads"), [(80, "test"), (30, "folds")])
def test_where_the_test_part_is_small_the_cross_validated_figure_leads(test: int, leads: str) -> None:
    study = ClassificationStudy(two_cues(test=test))
    compared = study.judge(study.build("small_cnn"))
    crossed = study.cross_predict("small_cnn", None, CONFIG, k=2, epochs=1, limit=60)
    first, *others = study.results("small_cnn", compared, crossed)
    assert first.metrics[0].split == leads and len(others) == 2
    assert len(crossed.fold) == (240 if leads == "folds" else 60)
    assert study.results("small_cnn", compared, None) == [compared]


def test_few_patients_are_a_small_test_part_however_many_images_they_gave() -> None:
    ps = two_cues()
    crowd = ps.with_columns(patient=np.where(ps.splits == "test", "one", ps.patients))
    assert ClassificationStudy(crowd).test_is_small and not ClassificationStudy(ps).test_is_small
    choices = ClassificationChoices(fewest_test_units=1)
    assert not ClassificationStudy(crowd, choices).test_is_small


def test_a_result_is_asked_for_after_a_network_was_judged() -> None:
    with pytest.raises(MedcoreError, match="judge"):
        ClassificationStudy(two_cues()).explain()


def test_a_staining_is_that_of_the_training_images_given_and_a_variant_tries_it() -> None:
    ps = two_cues()
    study = ClassificationStudy(ps, ClassificationChoices(stain="macenko"))
    few = study.train.select(np.arange(40))
    for part in (study.train, few):
        args = study.build("small_cnn", like=part).spec["args"]
        assert args["stain"] == pytest.approx(typical_staining(part).as_list())
    assert not study.choices.may_repaint(study.train)
    plain = ClassificationStudy(ps)
    assert plain.build("small_cnn").spec["args"]["stain"] is None
    tried = plain.variants("small_cnn", None, CONFIG, limit=40)
    assert list(tried.estimates)[:2] == ["as above", "Macenko staining"]
    assert {one.split for one in tried.estimates.values()} == {"val"}
    glass = PatchSet.from_arrays(ps.take() // 64 + 250, ps.table, ps.card)
    assert not ClassificationChoices().may_repaint(glass.where(split="train"))


def test_grey_images_have_no_hue_and_photographs_no_stain() -> None:
    ps = two_cues()
    grey = PatchSet.from_arrays(ps.take().mean(3).astype(np.uint8), ps.table, ps.card)
    stored = PatchSet.from_arrays(np.repeat(grey.take(), 3, axis=3), ps.table, ps.card)
    for images in (grey, stored):
        assert {"hue", "stain shift"}.isdisjoint(fitting_corruptions(images))
        assert ClassificationStudy(images).histogram == "grey-level histogram"
    assert "stain shift" in fitting_corruptions(ps)
    photographs = fitting_corruptions(two_cues(group="lesion"))
    assert "hue" in photographs and "stain shift" not in photographs


def test_some_classes_are_labelled_anew_and_a_number_takes_the_commonest() -> None:
    label = np.repeat([0, 1, 2], [5, 9, 7])
    table = {"label": label, "patient": np.arange(21)}
    images = np.zeros((21, 4, 4, 3), np.uint8)
    ps = PatchSet.from_arrays(images, table, Card("toy", classes=["x", "y", "z"], abnormal=["x", "z"]))
    pair = select_classes(ps, ["z", "x"])
    assert pair.classes == ["z", "x"] and np.bincount(pair.labels).tolist() == [7, 5]
    assert pair.card.abnormal == ["x", "z"] and (pair.label_names == np.array(["x", "y", "z"])[label[label != 1]]).all()
    assert select_classes(ps, 2).classes == ["y", "z"]
    with pytest.raises(MedcoreError, match="'w'"):
        select_classes(ps, ["x", "w"])
