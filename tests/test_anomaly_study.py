"""The study of anomaly detection: who learns, who judges, what is refused; profiles and weights by slow references."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from sklearn.metrics import roc_auc_score

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.splits import patient_folds
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.intervals import interval
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import choose_threshold
from medcore.metrics.similarity import OPPONENT_NOISE, SCALES, central_weights
from medcore.models.autoencoder import ConvAutoencoder
from medcore.models.vae import VAE
from medcore.studies.anomaly import candidates
from medcore.studies.anomaly.candidates import (
    Blur,
    Judged,
    choose_kind,
    colour_distances,
    colours_from_labels,
    fit_linear,
    judge,
    oriented,
)
from medcore.studies.anomaly.detection import abnormal_scores, auroc_within, detection_sides, mistakes
from medcore.studies.anomaly.experiments import (
    Trial,
    balanced,
    even_colours,
    judged_in_folds,
    learning_table,
    patient_folds_auroc,
    table_loss,
    width_sweep,
)
from medcore.studies.anomaly.reconstructions import quality_table, reconstruction_quality
from medcore.studies.anomaly.scores import KINDS, TITLES, WeightedErrors, error_profile, score, score_set
from medcore.studies.anomaly.study import AnomalyChoices, AnomalyStudy
from medcore.training.config import TrainConfig
from medcore.training.objectives import Reconstruction

CLASSES = ["nv", "df", "mel"]


def make_set(count=120, side=16, channels=3, seed=0, **columns):
    """Smooth normal images; abnormal ones carry fine structure."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=[0.6, 0.15, 0.25])
    smooth = rng.uniform(60, 200, (count, 1, 1, channels)) + np.zeros((count, side, side, channels))
    noise = rng.normal(0, 1, smooth.shape) * np.where(labels == 2, 30, 4)[:, None, None, None]
    patients = rng.integers(0, count // 2, count)
    table = {
        "label": labels,
        "patient": patients,
        "split": np.array(["train", "val", "test", "train"])[patients % 4],
        **columns,
    }
    card = Card("derm", classes=CLASSES, abnormal=["mel"], group="lesion", patients_known=True)
    return PatchSet.from_arrays(np.clip(smooth + noise, 0, 255).astype(np.uint8), table, card)


@pytest.fixture(scope="module")
def patches():
    return make_set()


@pytest.fixture(scope="module")
def sides(patches):
    return detection_sides(patches)


def test_only_normal_images_of_training_patients_are_learnt_from(patches, sides):
    assert set(sides.train.label_names) == {"nv", "df"} and set(sides.train.splits) == {"train"}
    assert set(sides.monitor.label_names) == {"nv", "df"} and set(sides.monitor.splits) == {"val"}
    assert set(sides.validation.label_names) == set(CLASSES) == set(sides.test.label_names)
    assert not set(sides.train.patients) & (set(sides.validation.patients) | set(sides.test.patients))
    assert not sides.healthy_only and len(sides.test) == (patches.splits == "test").sum()
    assert set(detection_sides(patches, learn=["nv"]).train.label_names) == {"nv"}


def test_windows_of_infected_patients_are_not_learnt_from():
    infected = np.random.default_rng(0).random(200) < 0.5
    patients = np.arange(200) // 2
    patches = make_set(200, patient=patients, diagnosis=np.where(infected[patients], "ALTA", "NEGATIVA"))
    found = detection_sides(patches)
    assert found.healthy_only
    assert set(found.train.column("diagnosis")) == set(found.monitor.column("diagnosis")) == {"NEGATIVA"}
    assert set(found.validation.column("diagnosis")) == {"ALTA", "NEGATIVA"}
    nobody = make_set(200, patient=patients, diagnosis=np.full(200, "ALTA"))
    assert not detection_sides(nobody).healthy_only and len(detection_sides(nobody).train)


@pytest.mark.parametrize(
    ("side", "missing", "count"), [("val", "mel", "0 abnormal of"), ("val", "nv", ""), ("test", "mel", "0 abnormal of")]
)
def test_a_side_without_both_kinds_is_refused(patches, side, missing, count):
    gone = (patches.splits == side) & (np.isin(patches.label_names, ["mel"]) == (missing == "mel"))
    with pytest.raises(MedcoreError, match=count or "0 to watch the training"):
        detection_sides(patches.select(~gone))


def test_unknown_and_missing_classes_are_named(patches):
    with pytest.raises(MedcoreError, match="must be different classes of"):
        detection_sides(patches, ["melanoma"])
    with pytest.raises(MedcoreError, match="must be different classes of"):
        detection_sides(patches, ["mel"], learn=["mel"])
    silent = patches.with_card(Card("derm", classes=CLASSES))
    with pytest.raises(MedcoreError, match="does not say which classes are abnormal"):
        detection_sides(silent)


def test_the_score_is_chosen_on_validation_only(sides):
    judged = judge(Blur(), sides, ["mse", "structure"])
    kind, aurocs = choose_kind(judged.validation)
    by_hand = {name: roc_auc_score(one.truth, one.score) for name, one in judged.validation.items()}
    assert aurocs == pytest.approx(by_hand) and kind == max(by_hand, key=by_hand.get)
    with pytest.raises(TestDataRefused):
        choose_kind(judged.test)
    with pytest.raises(MedcoreError, match="no candidate"):
        choose_kind({})


def test_equal_scores_give_chance_and_no_threshold(sides):
    equal = abnormal_scores(sides.validation, np.ones(len(sides.validation)))
    assert interval(equal, "auroc").value == 0.5
    with pytest.raises(MedcoreError, match="equal|same"):
        choose_threshold(equal, "youden")


@pytest.mark.parametrize("kind", ["mse", "l1", "ssim", "ssim_centre", "structure", "structure_centre", "red", "dab"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_image_has_a_finite_score(kind, value):
    model = ConvAutoencoder(16, bottleneck=3).eval()
    images = torch.full((2, 3, 16, 16), value)
    assert score(model, images, kind).isfinite().all()
    assert error_profile(images, images).abs().max() < 5e-3


@pytest.mark.parametrize(("shape", "word"), [((1, 3, 20, 20), "20x20"), ((1, 1, 16, 16), "channel")])
def test_another_size_or_channel_count_is_refused(shape, word):
    with pytest.raises(MedcoreError, match=word):
        score(ConvAutoencoder(16, bottleneck=3), torch.rand(shape), "mse")


def test_kinds_that_do_not_fit_are_left_out_with_the_reason(sides):
    model = ConvAutoencoder(16, bottleneck=3)
    judged = judge(model, sides, ["mse", "kl", "latent_distance"])
    assert set(judged.test) == {"mse", "latent_distance"} and judged.left_out == {"kl": "needs a VAE"}
    grey = detection_sides(make_set(channels=1))
    judged = judge(VAE(16, in_channels=1, latent=4), grey, ["mse", "red", "kl", "elbo"])
    assert set(judged.test) == {"mse", "kl", "elbo"} and judged.left_out == {"red": "needs colour images"}
    with pytest.raises(MedcoreError, match="'sim' is unknown; choose from mse"):
        judge(model, sides, ["sim"])
    with pytest.raises(MedcoreError, match="no anomaly score is left"):
        judge(model, sides, ["kl"])


def test_judged_values_are_those_of_single_scores(sides):
    torch.manual_seed(0)
    model = ConvAutoencoder(16, bottleneck=3).eval()
    judged = judge(model, sides, ["mse", "structure_centre"])
    images = torch.from_numpy(sides.test.take()).permute(0, 3, 1, 2).float() / 255
    for kind, found in judged.test.items():
        with torch.no_grad():
            np.testing.assert_allclose(found.score, score(model, images, kind).numpy(), rtol=1e-4)
        assert set(found.split) == {"test"}


def slow_profile(one, two):
    """Scale by scale, colour by colour, in float64 with scipy."""
    red, green, blue = np.moveaxis(np.stack([one, two]).astype(np.float64), 1, 0)
    colours = [(red + green + blue) / 3, red - green, (red + green) / 2 - blue]
    middle = central_weights(*one.shape[1:]).numpy()
    rim = np.maximum(2 - middle, 0)
    values = []
    for sigma in SCALES:
        for (a, b), noise in zip(colours, OPPONENT_NOISE, strict=True):

            def blur(x, sigma=sigma):
                return ndimage.gaussian_filter(x, sigma, truncate=3.5, mode="mirror")

            cov = blur(a * b) - blur(a) * blur(b)
            var = blur(a * a) - blur(a) ** 2 + blur(b * b) - blur(b) ** 2
            lost = 1 - (2 * cov + noise) / (var + noise)
            values += [(lost * weights).sum() / weights.sum() for weights in (middle, rim)]
    return values


def test_error_profile_against_scipy():
    images, others = torch.rand(2, 3, 20, 24), torch.rand(2, 3, 20, 24)
    expected = [slow_profile(a.numpy(), b.numpy()) for a, b in zip(images, others, strict=True)]
    np.testing.assert_allclose(error_profile(images, others).numpy(), expected, atol=2e-4)
    assert error_profile(images[:, :1], others[:, :1]).shape == (2, 6)


def test_weights_never_see_the_patient_they_score():
    """Every patient has a feature of its own that tells the truth: useless for others."""
    rng = np.random.default_rng(0)
    patient, truth = np.repeat(np.arange(40), 3), np.repeat(np.arange(40) % 2, 3)
    own = np.eye(40)[patient] * (2 * truth - 1)[:, None]
    scores = Scores(truth, np.zeros(120), patient, np.full(120, "val"), ("normal", "abnormal"))
    fitted = WeightedErrors.fit(own + rng.normal(0, 0.01, own.shape), scores)
    assert roc_auc_score(truth, fitted(own)) > 0.99
    assert roc_auc_score(truth, fitted.out_of_fold) < 0.7
    useful = truth[:, None] + rng.normal(0, 0.3, (120, 2))
    assert roc_auc_score(truth, WeightedErrors.fit(useful, scores).out_of_fold) > 0.9


def test_weights_are_refused_where_they_cannot_be_fitted():
    truth = np.arange(20) % 2
    scores = Scores(truth, np.zeros(20), np.arange(20), np.full(20, "test"), ("normal", "abnormal"))
    with pytest.raises(TestDataRefused):
        WeightedErrors.fit(np.zeros((20, 3)), scores)
    few = Scores(np.arange(20) > 16, np.zeros(20), np.arange(20), np.full(20, "val"), ("normal", "abnormal"))
    with pytest.raises(MedcoreError, match="17 patients with normal and 3 with abnormal"):
        WeightedErrors.fit(np.zeros((20, 3)), few)
    with pytest.raises(MedcoreError, match="4 profiles for 20 cases"):
        WeightedErrors.fit(np.zeros((4, 3)), few)


def test_weighted_scores_are_out_of_fold_and_the_ladder_reads_test_cases(sides):
    judged = judge(Blur(), sides, ["structure", "weighted"])
    profiles = candidates.profiles(Blur(), sides.validation)
    fitted = WeightedErrors.fit(profiles, judged.validation["structure"])
    np.testing.assert_allclose(judged.validation["weighted"].score, fitted.out_of_fold)
    assert judged.choose()[0] == "structure"
    table = candidates.ingredients({"blur": judged}, ["mse", "structure", "weighted"])
    assert table.loc["blur", "mse"] == ""
    assert table.loc["blur", "structure"] == str(interval(judged.test["structure"], "auroc"))


def test_models_are_compared_image_by_image(sides):
    """PSNR by hand in float64; the difference has the interval of a paired t-test over patients of one image each."""
    normal = sides.test.select(np.isin(sides.test.label_names, ["nv", "df"]))
    _, first = np.unique(normal.patients, return_index=True)
    normal = normal.select(first)
    table = quality_table({"fine": Blur(1 / 32), "coarse": Blur(1 / 4)}, normal)
    pixels = torch.from_numpy(normal.take()).permute(0, 3, 1, 2) / 255
    by_hand = [
        -10 * (Blur(share)(pixels) - pixels).double().square().mean((1, 2, 3)).log10().numpy()
        for share in (1 / 32, 1 / 4)
    ]
    assert list(table.index) == ["fine", "coarse", "fine minus coarse"]
    assert [one.value for one in table.psnr[:2]] == pytest.approx([values.mean() for values in by_hand], rel=1e-4)
    gain, paired = table.psnr.iloc[-1], stats.ttest_rel(*by_hand).confidence_interval(0.95)
    assert (gain.low, gain.high) == pytest.approx((paired.low, paired.high), rel=1e-3)
    assert gain.name == "psnr_difference" and gain.split == "test" and gain.n == len(normal)
    assert (reconstruction_quality(Blur(1 / 32), normal)["ssim"] <= 1).all()


def test_mistakes_come_clearest_first():
    scores = Scores([1, 1, 0, 0, 1], [0.3, 0.1, 0.8, 0.9, 0.95], list("abcde"), ["test"] * 5, ("normal", "abnormal"))
    missed, alarms = mistakes(scores, (scores.score > 0.5).astype(int))
    assert missed.tolist() == [1, 0] and alarms.tolist() == [3, 2]


def test_colours_from_labels_find_colour():
    patches = make_set(300)
    images = patches.take()
    images[patches.label_names == "mel"] //= 4
    dark = detection_sides(PatchSet.from_arrays(images, patches.table, patches.card))
    found = colours_from_labels(dark)
    assert set(found.split) == {"test"} and interval(found, "auroc").value > 0.95


def test_auroc_within_groups_by_hand(sides):
    scores = abnormal_scores(sides.test, np.random.default_rng(0).random(len(sides.test)))
    groups = np.where(np.arange(len(scores)) % 2 == 0, "even", "").astype(object)
    groups[~scores.positive & (groups == "")] = "normal only"
    table = auroc_within(scores, groups)
    even = groups == "even"
    assert table.auroc["even"].value == pytest.approx(roc_auc_score(scores.truth[even], scores.score[even]))
    assert table.normal["even"] + table.abnormal["even"] == even.sum()
    assert table.auroc["normal only"].value is None and "(unknown)" in table.index
    with pytest.raises(MedcoreError, match="3 groups for"):
        auroc_within(scores, groups[:3])


def test_balanced_and_even_colours(sides):
    shares = np.bincount(balanced(sides.train).labels)
    assert shares[0] == shares[1]
    means = even_colours(sides.train).take().mean((1, 2))
    assert np.ptp(means, axis=0).max() < 6 < np.ptp(sides.train.take().mean((1, 2)), axis=0).min()


def test_without_a_network_everybody_is_judged_in_folds_by_ranks_among_other_patients():
    ps, choices = make_set(240), AnomalyChoices(scores=("mse", "red"))
    compared = judged_in_folds(ps, ps.label_names != "mel", ["mel"], replace(choices, scores=("mse",)), k=3)
    values, ranks = score_set(Blur(), ps, "mse").astype(float), np.zeros(len(ps))
    for fold in patient_folds(ps, 3, seed=0):
        inner = patient_folds(ps.select(fold.train), 3, seed=0)[0]
        others = np.sort(values[fold.train[inner.validation]])
        ranks[fold.validation] = np.interp(
            values[fold.validation], others, (np.arange(len(others)) + 0.5) / len(others)
        )
        assert not set(ps.patients[fold.train]) & set(ps.patients[fold.validation])
    plain = compared.baselines["blurred copy"][0]
    assert plain.value == pytest.approx(roc_auc_score(ps.label_names == "mel", ranks), abs=0.01)
    assert (plain.n, plain.split) == (240, "folds") and compared.reference == "blurred copy"
    (gap,) = compared.against_reference
    assert gap.value == pytest.approx(compared.metrics[0].value - plain.value)
    assert "of 3 folds" in compared.metrics[0].note
    grey = make_set(240, channels=1)
    one = judged_in_folds(grey, grey.label_names != "mel", ["mel"], choices, k=3)  # "red" needs colour
    assert "by mse" in one.metrics[0].note and "by red" not in one.metrics[0].note


@pytest.fixture
def trial(sides, tmp_data):
    config = TrainConfig(epochs=1, batch_size=16, device="cpu")
    return Trial(sides, ConvAutoencoder(16, bottleneck=3).spec, Reconstruction("mse"), config, "structure", most=40)


def test_short_trainings_answer_on_validation_cases(trial, patches, sides):
    sweep = width_sweep(trial, [2, 4])
    assert list(sweep) == ["bottleneck 2", "bottleneck 4"]
    assert {one.split for one in sweep.values()} == {"val"}
    table = learning_table(trial)
    assert len(table) == 4 and table.images.iloc[1] == (sides.train.label_names == "nv").sum()
    assert [isinstance(one, str) for one in table["minus the first"]] == [True, False, False, False]
    folds = patient_folds_auroc(trial, patches.where(split=["train", "val"]), k=2)
    assert [one.split for one in folds] == ["fold 1", "fold 2"]
    assert sum(one.n for one in folds) == (patches.splits != "test").sum()
    with pytest.raises(MedcoreError, match="test cases are among"):
        patient_folds_auroc(trial, patches)


def test_the_table_form_is_compared_on_the_same_cases(trial, patches):
    lost = table_loss(trial, patches, patches)["value"]
    assert lost["PSNR (dB)"] == "100.0" and lost["local structure that is left"] == "1.00"
    assert lost["paired difference"].value == 0


def test_what_learnt_from_labels_is_never_chosen():
    truth = np.tile([0, 1], 50)

    def scores(noise):
        values = truth + np.random.default_rng(0).normal(0, noise, 100)
        return Scores(truth, values, np.arange(100), np.full(100, "val"), ("normal", "abnormal"))

    good, bad = scores(0.5), scores(1.5)
    kind, aurocs = Judged({"mse": bad, "weighted": good}, {}).choose()
    assert kind == "mse" and list(aurocs) == ["mse"]
    with pytest.raises(MedcoreError, match="no candidate"):
        Judged({"weighted": good}, {}).choose()


def test_what_learnt_from_labels_stands_beside_colours_that_did(sides):
    models = {name: judge(Blur(), sides, ["mse", "weighted"]) for name in ("blur", "network")}
    found = candidates.with_labels(models, sides)
    assert list(found) == ["blur", "network", "colour histogram"]
    assert found["blur"] is models["blur"].test["weighted"]
    assert candidates.with_labels({"network": Judged({}, {}, {"weighted": "too few patients"})}, sides) == {}


# --- the study ----------------------------------------------------------------------------------------------------

SMALL = AnomalyChoices(scores=("mse", "structure"), bottleneck=3, epochs=1, short_epochs=1, short_images=40)


@pytest.fixture
def study(tmp_data):
    found = AnomalyStudy(make_set(160, split=[""] * 160), SMALL)
    torch.manual_seed(0)
    found.add("network", ConvAutoencoder(16, bottleneck=3).eval())
    return found


@pytest.mark.parametrize(("fewest", "leads"), [((20, 5), "test"), ((200, 5), "folds"), ((20, 99), "folds")])
def test_where_the_test_part_is_small_the_network_in_folds_leads(tmp_data, fewest, leads):
    choices = replace(SMALL, fewest_test_images=fewest[0], fewest_test_units=fewest[1])
    found = AnomalyStudy(make_set(160, split=[""] * 160), choices)
    trained = found.train(ConvAutoencoder(16, bottleneck=3).spec, Reconstruction("mse"))
    found.add("autoencoder", trained.model)
    names, (first, second) = zip(*found.results(2).items(), strict=True)
    assert found.test_is_small == (leads == "folds") and first.metrics[0].split == leads
    assert {first.metrics[0].n, second.metrics[0].n} == {160, len(found.sides.test)}
    assert ["autoencoder" in name for name in names] == [True, leads == "folds"]
    assert first.reference in first.baselines and (len(first.rivals) == 1) == (leads == "folds")
    assert (
        list(found.results(0))
        == list(found.results(99))
        == [next(n for n in names if "error of structure" in n or "squared error" in n)]
    )


def test_the_network_of_a_fold_learns_from_normal_images_of_other_patients_only(trial, monkeypatch):
    ps, asked, train = make_set(240), [], Trial.train
    monkeypatch.setattr(Trial, "train", lambda self, *sides: asked.append(sides) or train(self, *sides))
    compared = judged_in_folds(ps, ps.label_names != "mel", ["mel"], SMALL, k=3, trial=trial)
    for fold, sides in zip(patient_folds(ps, 3, seed=0), asked, strict=True):
        learnt, monitor = (set(side.patients) for side in sides)
        assert not (learnt | monitor) & set(ps.patients[fold.validation]) and not learnt & monitor
        assert all("mel" not in side.label_names for side in sides)
    assert compared.metrics[0].n == 240 and list(compared.rivals) == ["mean rank of three without a network"]
    alone = judged_in_folds(ps, ps.label_names != "mel", ["mel"], SMALL, k=3)
    assert next(iter(compared.rivals.values()))[0].value == alone.metrics[0].value


def test_a_small_test_part_counts_patients_of_either_kind():
    patients = np.r_[np.arange(60), np.zeros(20, int)]
    images = make_set(80, patient=patients, split=["train"] * 20 + ["val"] * 20 + ["test"] * 40)
    strange = np.isin(images.label_names, ["mel"]) & (images.splits == "test")
    units = {kind: set(images.patients[(images.splits == "test") & (strange == kind)]) for kind in (True, False)}
    assert detection_sides(images).fewest_test_units == min(map(len, units.values()))


def test_one_patient_with_most_images_does_not_fill_a_side():
    """Shares are counted in patients: 341 images of one patient leave three and four patients on other sides else."""
    patients = np.r_[np.zeros(340, int), np.repeat(np.arange(1, 61), 3)]
    images = make_set(520, patient=patients, split=[""] * 520)
    found = AnomalyStudy(images, SMALL)
    table = found.sides_table()["lesions"]
    assert table["chooses score and threshold"] >= 10 and table["is tested"] >= 10
    counted = [len(set(part.patients)) for part in (found.sides.validation, found.sides.test)]
    assert table[["chooses score and threshold", "is tested"]].tolist() == counted


def test_few_images_are_visited_more_often(study):
    for images, epochs in ((134, 60), (720, 42), (2000, 15), (9000, 10)):
        sized = replace(study.sides, train=study.sides.train.select(np.arange(images) % len(study.sides.train)))
        study.sides, study.choices = sized, AnomalyChoices(images_seen=30_000)
        study.__dict__.pop("config", None)
        assert study.config.epochs == epochs


def test_a_trivial_score_gets_its_sign_from_validation_cases():
    truth = np.tile([0, 1], 20)
    wrong = Scores(truth, -truth + 0.1 * np.arange(40) / 40, np.arange(40), ["val"] * 40, ("normal", "abnormal"))
    test = replace(wrong, split=np.full(40, "test"))
    name, (validation, turned) = oriented("red pixels", wrong, test)
    assert name == "red pixels (reversed)"
    assert roc_auc_score(truth, validation.score) == roc_auc_score(truth, turned.score) == 1.0
    assert oriented("red pixels", validation, turned)[0] == "red pixels"


def test_no_trivial_detector_is_worse_than_chance_where_its_sign_was_chosen(study):
    for name, (validation, test) in study.trivial.items():
        assert interval(validation, "auroc").value >= 0.5, name
        assert set(validation.split) == {"val"} and set(test.split) == {"test"}


def test_the_reference_of_the_headline_is_chosen_on_validation_cases(study):
    by_hand = {name: roc_auc_score(one.truth, one.score) for name, (one, _) in study.trivial.items()}
    assert study.comparison.reference == max(by_hand, key=by_hand.get)
    assert set(study.comparison.differences) == set(study.trivial)
    gap, found = study.comparison.against_reference[0], study.found
    other = study.trivial[study.comparison.reference][1]
    assert gap.value == pytest.approx(roc_auc_score(found.truth, found.score) - roc_auc_score(other.truth, other.score))


def test_a_rival_network_is_compared_on_the_same_cases(study):
    torch.manual_seed(1)
    study.add("rival", ConvAutoencoder(16, bottleneck=6).eval())
    name = f"rival, {TITLES[study.chosen['rival']]}"
    assert list(study.comparison.rivals) == [name]
    one, other = study.found, study.judged["rival"].test[study.chosen["rival"]]
    expected = roc_auc_score(one.truth, one.score) - roc_auc_score(other.truth, other.score)
    assert study.comparison.differences[name][0].value == pytest.approx(expected)
    assert study.method == "network"


def test_the_candidates_are_listed_with_the_reason_of_those_left_out(study):
    table = study.add("again", ConvAutoencoder(16, bottleneck=3).eval())
    assert (table["note"] == "chosen").sum() == 1
    study.choices = replace(SMALL, scores=("mse", "kl"))
    assert study.add("third", ConvAutoencoder(16, bottleneck=3).eval()).loc["kl", "note"] == "needs a VAE"


def test_the_tables_name_the_unit_of_the_set(study):
    assert "lesions" in study.by_class().columns and "lesions" in study.sides_table().columns
    assert study.operating().index.tolist() == ["youden", "specificity>=0.90"]
    counts = study.mistake_counts()
    assert counts.loc["missed", "of"] == study.found.positive.sum() and (counts["images"] <= counts["of"]).all()
    assert study.within().empty


def test_the_error_maps_of_mistakes_are_those_of_the_deciding_score(study):
    shown = study.mistakes(2)
    assert shown["error_label"] == study.kind_in_words != study.kind
    images = torch.from_numpy(shown["images"]).permute(0, 3, 1, 2).float() / 255
    expected = candidates.scores_of_kinds(study.models["network"], images, [study.kind])[:, 0]
    np.testing.assert_allclose(shown["errors"].mean((1, 2)), expected.numpy(), rtol=1e-3)


def test_what_learns_from_images_refuses_test_images(sides):
    for learn in (lambda: fit_linear(sides.test, 3), lambda: colour_distances(sides.test, sides.test)):
        with pytest.raises(TestDataRefused):
            learn()


def test_a_network_has_to_be_added_first(tmp_data):
    with pytest.raises(MedcoreError, match="call add"):
        _ = AnomalyStudy(make_set(160, split=[""] * 160), SMALL).kind


def test_every_score_has_a_title_in_words():
    assert {*KINDS, "weighted", "latent_distance"} == set(TITLES) and not any("_" in title for title in TITLES.values())
