"""Losses and metrics against torch, scipy, scikit-learn and values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F
from training_toys import toy_set

from medcore.errors import MedcoreError
from medcore.metrics import ranking
from medcore.models.vae import VAEOutput
from medcore.training import losses
from medcore.training.batches import Batch
from medcore.training.fit import Totals
from medcore.training.losses import class_weights
from medcore.training.objectives import ELBO, Classification, Objective, Reconstruction, Segmentation

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _torch_seed() -> None:
    torch.manual_seed(0)


def batch(images: Tensor | None = None, labels: Tensor | None = None, masks: Tensor | None = None) -> Batch:
    count = next(len(some) for some in (images, labels, masks) if some is not None)
    images = torch.rand(count, 3, 4, 4) if images is None else images
    labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    return Batch(images, labels, masks, torch.arange(count))


def test_an_objective_must_state_its_loss() -> None:
    class Nothing(Objective):
        pass

    with pytest.raises(TypeError, match="compute"):
        Nothing()


def epoch_of(objective: Objective, outputs: list, batches: list[Batch]) -> tuple[dict, dict]:
    sums = Totals(objective, CPU)
    for output, one in zip(outputs, batches, strict=True):
        sums.add(objective.compute(output, one, 1), output, one)
    return sums.result()


# ---- classification


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing: float) -> None:
    logits, labels = torch.randn(7, 4), torch.randint(0, 4, (7,))
    ours = losses.cross_entropy(logits, labels, smoothing=smoothing)
    assert torch.allclose(ours, F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing), atol=1e-6)


def test_weighted_cross_entropy_is_linear_in_samples() -> None:
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 0, 0, 0, 1, 2]), torch.tensor([0.5, 2.0, 2.0])
    ours = losses.cross_entropy(logits, labels, weights)
    assert torch.allclose(ours, F.cross_entropy(logits, labels, weights, reduction="none"), atol=1e-6)
    halves = torch.stack(
        [losses.cross_entropy(logits[part], labels[part], weights).mean() for part in ([0, 1, 2], [3, 4, 5])]
    )
    assert torch.allclose(halves.mean(), ours.mean())


def test_balanced_class_weights_are_scikit_learns() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    ours = class_weights("balanced", np.bincount(labels), ["a", "b", "c"])
    assert np.allclose(ours, compute_class_weight("balanced", classes=np.arange(3), y=labels))
    given = class_weights([1.0, 2.0, 4.0], np.bincount(labels), ["a", "b", "c"])
    assert np.average(given, weights=np.bincount(labels)) == pytest.approx(1.0)
    assert given[2] == pytest.approx(4 * given[0])


@pytest.mark.parametrize("choice", ["frequency", [1.0, 2.0], [1.0, 0.0, 1.0]])
def test_impossible_class_weights_are_refused(choice: object) -> None:
    with pytest.raises(MedcoreError, match="class_weights="):
        class_weights(choice, np.array([5, 5, 5]), ["a", "b", "c"])  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 4])
def test_classification_metrics_are_scikit_learns(classes: int) -> None:
    logits, labels = torch.randn(300, classes), torch.randint(0, classes, (300,))
    logits[torch.arange(300), labels] += 1
    parts = torch.split(torch.arange(300), 70)  # the last one is smaller
    objective = Classification(classes)
    values, tables = epoch_of(objective, [logits[p] for p in parts], [batch(labels=labels[p]) for p in parts])
    truth, predicted, scores = labels.numpy(), logits.argmax(1).numpy(), logits.softmax(1).numpy()
    assert values["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-6)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert values["f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    expected = np.mean([sk.roc_auc_score(truth == k, scores[:, k]) for k in range(classes)])
    assert values["auroc"] == pytest.approx(expected, abs=1e-3)
    assert np.array_equal(tables["confusion"], sk.confusion_matrix(truth, predicted))


def test_epoch_means_are_weighted_by_samples() -> None:
    logits, labels = torch.tensor([[2.0, 0], [2.0, 0], [2.0, 0]]), torch.tensor([0, 0, 1])
    values, _ = epoch_of(
        Classification(2), [logits[:2], logits[2:]], [batch(labels=labels[:2]), batch(labels=labels[2:])]
    )
    each = losses.cross_entropy(logits, labels)
    assert values["loss"] == pytest.approx(float(each.mean()))
    assert values["loss"] != pytest.approx(float((each[:2].mean() + each[2]) / 2))


def test_a_class_without_samples_does_not_spoil_the_means() -> None:
    logits, labels = torch.randn(20, 3), torch.randint(0, 2, (20,))
    values, _ = epoch_of(Classification(3), [logits], [batch(labels=labels)])
    assert all(np.isfinite(value) for value in values.values())


def test_ties_of_scores_count_half() -> None:
    histogram = ranking.score_histogram(torch.tensor([[0.5], [0.5], [0.2]]), torch.tensor([0, 1, 1])).numpy()
    assert ranking.auroc_from_histogram(histogram) == pytest.approx(0.75)
    assert np.isnan(ranking.auroc_from_histogram(np.zeros((2, 2, 5))))


def test_classification_refuses_sets_that_do_not_fit() -> None:
    patches = toy_set(classes=3)
    with pytest.raises(MedcoreError, match=r"label 2 is outside of the 2 classes"):
        Classification(["a", "b"]).begin(patches, CPU)
    unlabelled = patches.with_columns(label=np.where(np.arange(60) < 5, -1, patches.labels))
    with pytest.raises(MedcoreError, match="5 of 60 images have no label"):
        Classification(3).begin(unlabelled, CPU)
    with pytest.raises(MedcoreError, match="at least 2 classes"):
        Classification(["a"])
    with pytest.raises(MedcoreError, match=r"label_smoothing=1\.0"):
        Classification(2, label_smoothing=1.0)


# ---- reconstruction


def test_reconstruction_distances() -> None:
    first, second = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    distances = {kind: losses.reconstruction_error(kind, first, second) for kind in losses.DISTANCES}
    assert torch.allclose(distances["mse"].mean(), F.mse_loss(first, second))
    assert torch.allclose(distances["l1"].mean(), F.l1_loss(first, second))
    assert torch.allclose(distances["mixed"], 0.84 * distances["ssim"] + 0.16 * distances["l1"])
    for kind in losses.DISTANCES:
        values, _ = epoch_of(Reconstruction(kind), [first], [batch(second)])
        assert values["loss"] == pytest.approx(float(distances[kind].mean()), abs=1e-6)
        assert values["mse"] == pytest.approx(float(distances["mse"].mean()), abs=1e-6)
    with pytest.raises(MedcoreError, match="loss='huber'"):
        Reconstruction("huber")


# ---- ELBO


def test_elbo_adds_up_and_its_warm_up_leaves_the_monitor_alone() -> None:
    images = torch.rand(4, 3, 8, 8)
    output = VAEOutput(torch.rand(4, 3, 8, 8), torch.randn(4, 6), torch.randn(4, 6))
    objective = ELBO(beta=2.0, warmup_epochs=3)
    parts = {epoch: objective.compute(output, batch(images), epoch) for epoch in (1, 2, 4, 9)}
    assert [objective.beta_at(epoch) for epoch in (1, 2, 3, 4, 9)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    error = (output.reconstruction - images).square().sum((1, 2, 3)).mean()
    for epoch, part in parts.items():
        assert torch.allclose(part["reconstruction"], error)
        assert torch.allclose(part["loss"], (error + objective.beta_at(epoch) * part["kl"]) / 192)
        assert torch.allclose(part["elbo"], (error + 2.0 * part["kl"]) / 192)
    assert objective.monitor == "val_elbo"


def test_free_bits_give_nothing_for_less_information() -> None:
    mean = torch.zeros(4, 3, requires_grad=True)
    log_variance = torch.full((4, 3), 0.01, requires_grad=True)
    output = VAEOutput(torch.rand(4, 1, 2, 2), mean, log_variance)
    ELBO(free_bits=0.5).compute(output, batch(torch.rand(4, 1, 2, 2)), 1)["loss"].backward()
    assert mean.grad is not None and mean.grad.abs().sum() == 0
    with pytest.raises(MedcoreError, match="beta=-1"):
        ELBO(beta=-1)


# ---- segmentation


def masks_of(values: list[list[int]]) -> Tensor:
    return torch.tensor([values])


def test_dice_loss_by_hand() -> None:
    """Probabilities 0.5 everywhere on 2×2 pixels, one foreground pixel: 2·0.5/(2+1) and 2·1.5/(2+3), smoothed."""
    target, valid = losses.one_hot_pixels(masks_of([[1, 0], [0, 0]]), 2, 255)
    loss = losses.dice_loss(torch.zeros(1, 2, 2, 2), target, valid)
    foreground, background = (2 * 0.5 + 1) / (2 + 1 + 1), (2 * 1.5 + 1) / (2 + 3 + 1)
    assert loss.item() == pytest.approx(1 - (foreground + background) / 2)


def test_ignored_pixels_change_nothing() -> None:
    logits, truth = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    truth[:, 3:] = 255
    other = logits.clone()
    other[:, :, 3:] = 100 * torch.randn(2, 3, 3, 6)
    for loss in ("ce", "dice", "focal", "ce+dice", "focal+dice"):
        objective = Segmentation(3, loss=loss)
        first, second = (objective.compute(some, batch(masks=truth), 1)["loss"] for some in (logits, other))
        assert torch.allclose(first, second), loss
    expected = F.cross_entropy(logits, truth, ignore_index=255)  # both images have as many valid pixels
    assert torch.allclose(Segmentation(3, loss="ce").compute(logits, batch(masks=truth), 1)["loss"], expected)


def test_an_image_without_any_valid_pixel_costs_nothing_and_has_finite_gradients() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = Segmentation(2, loss="ce").compute(logits, batch(masks=torch.full((1, 4, 4), 255)), 1)["loss"]
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and logits.grad.abs().sum() == 0


def test_focal_loss_in_float64_by_hand() -> None:
    logits, truth = torch.randn(2, 3, 5, 5), torch.randint(0, 3, (2, 5, 5))
    target, valid = losses.one_hot_pixels(truth, 3, 255)
    ours = losses.pixel_cross_entropy(logits, target, valid, gamma=2.0)
    chosen = logits.double().softmax(1).gather(1, truth[:, None])[:, 0]
    assert torch.allclose(ours.double(), (-((1 - chosen) ** 2) * chosen.log()).mean((1, 2)), atol=1e-6)
    assert torch.allclose(
        losses.pixel_cross_entropy(logits, target, valid), F.cross_entropy(logits, truth, reduction="none").mean((1, 2))
    )


def test_focal_gradients_stay_finite_where_the_model_is_sure() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 0] = 60
    logits.requires_grad_()
    target, valid = losses.one_hot_pixels(torch.zeros(1, 2, 2, dtype=torch.int64), 2, 255)
    losses.pixel_cross_entropy(logits, target, valid, gamma=0.5).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_deep_supervision_weighs_its_outputs() -> None:
    truth = torch.randint(0, 2, (2, 4, 4))
    outputs = [torch.randn(2, 2, 4, 4) for _ in range(3)]
    single = [Segmentation(2).compute(output, batch(masks=truth), 1)["loss"] for output in outputs]
    default = Segmentation(2).compute(outputs, batch(masks=truth), 1)["loss"]
    assert torch.allclose(default, (single[0] + 0.5 * single[1] + 0.25 * single[2]) / 1.75)
    given = Segmentation(2, aux_weights=[1.0, 0.0]).compute(outputs, batch(masks=truth), 1)["loss"]
    assert torch.allclose(given, (single[0] + single[1]) / 2)
    with pytest.raises(MedcoreError, match="2 further outputs"):
        Segmentation(2, aux_weights=[1.0]).compute(outputs, batch(masks=truth), 1)


def test_segmentation_metrics_by_numpy() -> None:
    truth, logits = torch.randint(0, 3, (5, 6, 6)), torch.randn(5, 3, 6, 6)
    truth[0] = 0  # an image without classes 1 and 2
    logits[0, 0] = 100
    truth[:, 5] = 255
    values, tables = epoch_of(
        Segmentation(3), [logits[:2], logits[2:]], [batch(masks=truth[:2]), batch(masks=truth[2:])]
    )
    valid, predicted = truth.numpy() != 255, logits.argmax(1).numpy()
    dice, iou = [], []
    for k in (1, 2):
        t, p = (truth.numpy() == k) & valid, (predicted == k) & valid
        pairs = [(t[i], p[i]) for i in range(5) if t[i].any() or p[i].any()]
        dice.append(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))
        iou.append((t & p).sum() / (t | p).sum())
    assert values["dice"] == pytest.approx(np.mean(dice))
    assert values["iou"] == pytest.approx(np.mean(iou))
    assert values["pixel_accuracy"] == pytest.approx((truth.numpy() == predicted)[valid].mean())
    assert np.array_equal(tables["confusion"], sk.confusion_matrix(truth.numpy()[valid], predicted[valid]))


def test_segmentation_refuses_sets_that_do_not_fit() -> None:
    with pytest.raises(MedcoreError, match="has no masks"):
        Segmentation(2).begin(toy_set(), CPU)
    patches = toy_set(masks=True)
    assert patches.mask_store is not None
    patches.mask_store[0, 0, 0] = 7
    with pytest.raises(MedcoreError, match=r"masks hold the value 7, but there are 2 classes \(c0, c1\)"):
        Segmentation(["c0", "c1"]).begin(patches, CPU)
    for bad in ("tversky", "ce+", "dice,ce"):
        with pytest.raises(MedcoreError, match="Segmentation"):
            Segmentation(2, loss=bad)


def test_balanced_pixel_weights_count_pixels() -> None:
    patches = toy_set(masks=True)
    objective = Segmentation(2, class_weights="balanced")
    objective.begin(patches, CPU)
    counts = np.bincount(patches.take_masks().ravel())
    assert objective._weights is not None
    assert np.allclose(objective._weights.numpy(), counts.sum() / 2 / counts)


def test_descriptions_are_plain_json() -> None:
    import json

    for objective in (Classification(["a", "b"]), Reconstruction("ssim"), ELBO(), Segmentation(3)):
        described = objective.describe()
        assert described["name"] == type(objective).__name__
        assert json.loads(json.dumps(described)) == described
