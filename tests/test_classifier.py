"""The classifiers: shapes, normalisation, freezing, learning-rate groups, rebuilding from the spec."""

import numpy as np
import pytest
import torch

from medcore.data.stain import HAEMATOXYLIN_EOSIN, REFERENCE_STAINING, normalise_stains
from medcore.errors import MedcoreError
from medcore.models import build
from medcore.models.backbone import Backbone, batch_norms
from medcore.models.classifier import CLASSIFIER_NAMES, build_classifier
from medcore.models.normalise import Normalise, channel_statistics
from medcore.models.weights import our_key


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_every_name_trains_a_step_and_rebuilds(name):
    model = build_classifier(name, 5, in_channels=1, image_size=32, dropout=0.1)
    images = torch.rand(2, 1, 32, 32)
    loss = torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 4]))
    loss.backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    copy = build(model.spec)
    copy.load_state_dict(model.state_dict())
    model.eval(), copy.eval()
    assert torch.equal(model(images), copy(images))


def test_with_turns_features_are_means_over_quarter_turns():
    torch.manual_seed(0)
    model = build_classifier("small_cnn", 3, side=32, levels=True, turns=True).eval()
    plain = build_classifier("small_cnn", 3, side=32, levels=True).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        expected = torch.stack([plain.features(torch.rot90(images, k, (2, 3))) for k in range(4)]).mean(0)
        torch.testing.assert_close(model.features(images), expected)
        torch.testing.assert_close(model(images.rot90(1, (2, 3))), model(images), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(plain.features(images), expected, atol=1e-4)
    assert build(model.spec).turns


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_maps_pool_to_features_and_features_to_logits(name):
    model = build_classifier(name, 3).eval()
    images = torch.rand(2, 3, 65, 70)  # no multiple of anything
    with torch.no_grad():
        maps = model.feature_maps(images)
        features = model.features(images)
        assert features.shape == (2, model.head.in_features) == (2, maps.shape[1])
        torch.testing.assert_close(model.head(features), model(images))
        torch.testing.assert_close(model.classify_maps(maps), model(images))
        pyramid = model.pyramid(images)
    assert [level.shape[1] for level in pyramid] == list(model.backbone.widths)
    assert torch.equal(pyramid[-1], maps)


def test_matches_torchvision_when_given_its_weights():
    torchvision = pytest.importorskip("torchvision")
    for name in ("resnet18", "densenet121", "mobilenet_v2", "convnext_tiny"):
        theirs = getattr(torchvision.models, name)(num_classes=4).eval()
        ours = build_classifier(name, 4, mean=(0.0,) * 3, std=(1.0,) * 3)
        state = {our_key(key, ours.backbone): value for key, value in theirs.state_dict().items()}
        missing, unexpected = ours.load_state_dict(state, strict=False)
        assert set(missing) <= {"normalise.mean", "normalise.std"} and not unexpected
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(images), theirs(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [28, 50, 64, 96, 256])
def test_small_cnn_takes_lesson_sizes_and_stays_small(size):
    model = build_classifier("small_cnn", 9, image_size=size)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert min(model.feature_maps(torch.rand(2, 3, size, size)).shape[2:]) >= 4


def test_small_images_keep_resolution():
    for name in CLASSIFIER_NAMES:
        plain, fine = Backbone(name), Backbone(name, image_size=28)
        x = torch.rand(1, 3, 32, 32)
        assert fine.eval()(x).shape[-1] > plain.eval()(x).shape[-1]
        assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in fine.state_dict().items()}


def test_normalisation_by_hand_and_grey_replication():
    layer = Normalise((0.5, 0.25, 0.0), (0.5, 0.25, 2.0), in_channels=1)
    out = layer(torch.full((1, 1, 2, 2), 0.75))
    assert out.shape == (1, 3, 2, 2)
    assert out[0, :, 0, 0].tolist() == [0.5, 2.0, 0.375]


def test_channel_statistics_against_numpy():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)
    images[..., 2] = 51
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, atol=1e-12)
    np.testing.assert_allclose(std[:2], images[..., :2].std((0, 1, 2)) / 255, atol=1e-12)
    assert mean[2] == pytest.approx(0.2) and std[2] == 1.0


def test_frozen_backbone_neither_learns_nor_moves_its_statistics():
    model = build_classifier("small_cnn", 2).train()
    model.freeze_backbone()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameter_groups(0.1), lr=0.1)
    head = model.head.weight.clone()
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimiser.step()
    assert all(torch.equal(before[key], value) for key, value in model.backbone.state_dict().items())
    assert not torch.equal(head, model.head.weight)
    model.unfreeze_backbone()
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    assert not torch.equal(before["0.1.running_mean"], model.backbone.state_dict()["0.1.running_mean"])
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_frozen_batch_norm_trains_weights_but_keeps_statistics():
    model = build_classifier("small_cnn", 2)
    model.freeze_batch_norm()
    model.train()
    assert model.training and not any(layer.training for layer in batch_norms(model))
    assert torch.nn.Sequential(model).train() and not any(layer.training for layer in batch_norms(model))  # as DDP does
    means = [layer.running_mean.clone() for layer in batch_norms(model)]
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(torch.equal(a, layer.running_mean) for a, layer in zip(means, batch_norms(model), strict=True))
    assert build(model.spec).train().backbone.frozen_batch_norm
    model.freeze_batch_norm(False)
    assert all(layer.training for layer in batch_norms(model))


def test_parameter_groups_hold_each_weight_once_at_its_rate():
    for name in ("small_cnn", "convnext_tiny"):
        model = build_classifier(name, 3)
        trunk, head = model.parameter_groups(1e-3, backbone_factor=0.2)
        assert trunk["lr"] == pytest.approx(2e-4) and head["lr"] == 1e-3
        ids = [id(p) for group in (trunk, head) for p in group["params"]]
        assert sorted(ids) == sorted(id(p) for p in model.parameters())


def test_new_class_list_replaces_the_head_only():
    model = build_classifier("small_cnn", 3).eval()
    images = torch.rand(2, 3, 32, 32)
    features = model.features(images)
    model.replace_head(7)
    assert model(images).shape == (2, 7) and torch.equal(features, model.features(images))
    assert build(model.spec)(images).shape == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet1818", "classes": 2}, ["resnet1818", "resnet18"]),
        ({"name": "small_cnn", "classes": 1}, ["classes=1"]),
        ({"name": "small_cnn", "classes": 2, "dropout": 1.0}, ["dropout=1.0"]),
        ({"name": "small_cnn", "classes": 2, "in_channels": 0}, ["in_channels=0"]),
        ({"name": "small_cnn", "classes": 2, "mean": (0.5,), "std": (0.5,)}, ["mean=(0.5,)"]),
        ({"name": "small_cnn", "classes": 2, "mean": (0.5,) * 3, "std": (0.0,) * 3}, ["std"]),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(MedcoreError) as error:
        build_classifier(**arguments)
    assert all(word in str(error.value) for word in words)


def test_wrong_images_are_named():
    model = build_classifier("small_cnn", 2)
    with pytest.raises(MedcoreError, match=r"\(1, 1, 8, 8\).*\(B, 3, H, W\)"):
        model(torch.rand(1, 1, 8, 8))
    with pytest.raises(MedcoreError, match="uint8"):
        model(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_unknown_spec_is_named():
    with pytest.raises(MedcoreError, match="'gan'"):
        build({"family": "gan", "args": {}})
    with pytest.raises(MedcoreError, match="do not fit"):
        build({"family": "classifier", "args": {"name": "small_cnn", "classes": 2, "wings": 2}})


@pytest.mark.parametrize("name", ["mobilenet_v2", "timm:resnet10t"])
def test_a_head_on_all_levels_sees_their_means_and_spreads_of_the_resized_image(name: str) -> None:
    torch.manual_seed(0)
    model = build_classifier(name, 3, side=96, levels=True).eval()
    plain = build_classifier(name, 3, image_size=96).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head.")}, strict=False)
    images = torch.rand(2, 3, 40, 40)
    larger = torch.nn.functional.interpolate(images, (96, 96), mode="bilinear", antialias=True)
    with torch.no_grad():
        maps = [maps.flatten(2) for maps in plain.pyramid(larger)]
        expected = torch.cat([value for m in maps for value in (m.mean(2), m.std(2, unbiased=False))], 1)
        torch.testing.assert_close(model.features(images), expected, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(model(images), model.head(expected), atol=2e-4, rtol=1e-4)
        again = build(model.spec).eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(images), model(images))


def test_grad_cam_of_a_head_on_all_levels_is_the_gradient_at_the_last_one() -> None:
    torch.manual_seed(0)
    model = build_classifier("mobilenet_v2", 3, side=96, levels=True).eval()
    *others, last = [maps.detach() for maps in model.pyramid(torch.rand(2, 3, 40, 40))]
    last.requires_grad_(True)
    parts = [maps.flatten(2) for maps in [*others, last]]
    spreads = [(m.var(2, unbiased=False) + 1e-8).sqrt() for m in parts]
    whole = model.head(torch.cat([v for m, s in zip(parts, spreads, strict=True) for v in (m.mean(2), s)], 1))
    (expected,) = torch.autograd.grad(whole[:, 1].sum(), last)
    (found,) = torch.autograd.grad(model.classify_maps(last)[:, 1].sum(), last)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_a_network_repaints_each_image_as_macenko_does() -> None:
    rng = np.random.default_rng(0)
    amounts = rng.gamma(1.0, 0.5, (3, 40, 40, 2)) * (rng.random((3, 40, 40, 1)) < 0.8)
    images = (255 * np.exp(-amounts @ HAEMATOXYLIN_EOSIN[:2])).round().astype(np.uint8)
    images[2] = 255  # glass alone
    target = REFERENCE_STAINING
    model = build_classifier("small_cnn", 2, image_size=40, stain=target.as_list()).eval()
    given = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    found = model.repaint(given).permute(0, 2, 3, 1).numpy() * 255
    for image, repainted in zip(images[:2], found, strict=False):
        np.testing.assert_allclose(repainted, normalise_stains(image, target=target), atol=1.0)
    np.testing.assert_allclose(found[2], 255)
    again = build(model.spec).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(given), model(given))
    plain = build_classifier("small_cnn", 2, image_size=40).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(given), plain(model.repaint(given)))
    with pytest.raises(MedcoreError, match="8 numbers"):
        build_classifier("small_cnn", 2, stain=[1.0])
