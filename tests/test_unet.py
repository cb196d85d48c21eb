"""The U-Nets: any size, deep supervision, padding, learning, rebuilding."""

import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models import build
from medcore.models.unet import ENCODERS, SmallUNet, UNet, build_unet, pad_to_multiple


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_gives_every_pixel_a_class_and_learns(encoder):
    model = UNet(encoder, classes=3, in_channels=1)
    outputs = model.train()(torch.rand(2, 1, 45, 70))
    assert [tuple(o.shape) for o in outputs] == [(2, 3, 45, 70)] * 3
    sum(o.square().mean() for o in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(torch.rand(1, 1, 45, 70)).shape == (1, 3, 45, 70)


@pytest.mark.parametrize("size", [(28, 28), (64, 96), (33, 131), (7, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_unet_takes_any_size(size, channels):
    model = SmallUNet(2, in_channels=channels)
    outputs = model.train()(torch.rand(2, channels, *size))
    assert [tuple(o.shape) for o in outputs] == [(2, 2, *size)] * 3
    assert model.eval()(torch.rand(1, channels, *size)).shape == (1, 2, *size)


def test_small_unet_has_about_a_million_weights():
    assert 0.5e6 < sum(p.numel() for p in SmallUNet(3).parameters()) < 1.5e6


@pytest.mark.parametrize(
    "make", [lambda: UNet("resnet18", deep_supervision=False), lambda: SmallUNet(deep_supervision=False)]
)
def test_without_deep_supervision_training_gives_one_map(make):
    model = make().train()
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 2, 64, 64)


def test_auxiliary_heads_change_nothing_in_evaluation():
    model = SmallUNet(2).eval()
    images = torch.rand(1, 3, 64, 64)
    before = model(images)
    torch.nn.init.normal_(model.heads[1].weight)
    assert torch.equal(before, model(images))


@pytest.mark.parametrize("model", [UNet("resnet18", 3), SmallUNet(3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))])
def test_rebuilds_from_its_spec(model):
    copy = build(model.spec).eval()
    copy.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 40, 40)
    assert torch.equal(model.eval()(images), copy(images))


def test_padding_repeats_the_edge_and_is_cropped():
    padded = pad_to_multiple(torch.arange(6.0).reshape(1, 1, 2, 3), 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    model = SmallUNet(2).eval()
    images = torch.rand(1, 3, 50, 60)
    whole = model(pad_to_multiple(images, model.stride))
    assert torch.equal(model(images), whole[..., :50, :60])


def test_learns_to_outline_a_disc():
    torch.manual_seed(0)
    grid = torch.arange(32.0)
    centres = torch.rand(16, 2) * 16 + 8
    squares = (grid - centres[:, :1]).square().unsqueeze(1) + (grid - centres[:, 1:]).square().unsqueeze(2)
    masks = (squares < 49).long()
    images = masks.unsqueeze(1) * 0.3 + 0.3 + 0.1 * torch.randn(16, 1, 32, 32)
    model = SmallUNet(2, in_channels=1, widths=(8, 16, 32))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        loss = sum(torch.nn.functional.cross_entropy(o, masks) for o in model.train()(images))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = model.eval()(images).argmax(1)
    dice = 2 * (found * masks).sum() / (found.sum() + masks.sum())
    assert dice > 0.9


def test_encoder_has_its_own_learning_rate_and_can_be_frozen():
    model = UNet("resnet18")
    encoder, rest = model.parameter_groups(1e-3, backbone_factor=0.5)
    assert encoder["lr"] == 5e-4 and rest["lr"] == 1e-3
    ids = [id(p) for group in (encoder, rest) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    model.freeze_backbone()
    model.train()
    before = model.backbone[1].running_mean.clone()
    sum(o.mean() for o in model(torch.rand(2, 3, 64, 64))).backward()
    assert torch.equal(before, model.backbone[1].running_mean) and model.backbone[0].weight.grad is None


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: UNet("vgg16"), "vgg16"),
        (lambda: UNet("resnet18", classes=1), "classes=1"),
        (lambda: SmallUNet(classes=0), "classes=0"),
        (lambda: SmallUNet(widths=(8, 16)), "widths"),
        (lambda: build_unet("small", 2, weights="imagenet"), "weights='imagenet'"),
        (lambda: UNet("resnet18")(torch.rand(1, 1, 64, 64)), r"\(1, 1, 64, 64\)"),
    ],
)
def test_bad_arguments_are_named(call, word):
    with pytest.raises(MedcoreError, match=word):
        call()
