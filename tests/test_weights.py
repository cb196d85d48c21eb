"""Pretrained weights: what is loaded is said, what does not fit is refused, and nothing falls back silently."""

import hashlib
import os
import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from medcore.errors import MedcoreError
from medcore.models import build
from medcore.models.backbone import CLASSIFIER_NAMES, batch_norms
from medcore.models.classifier import build_classifier
from medcore.models.sealed import seal
from medcore.models.unet import build_unet
from medcore.models.weights import architecture_of


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(3)
    model = torchvision.models.mobilenet_v2(num_classes=7)
    model.train()(torch.rand(4, 3, 64, 64))  # statistics away from their start
    return model.eval()


@pytest.fixture
def weights_file(theirs, tmp_path):
    path = tmp_path / "mobilenet.pth"
    torch.save(theirs.state_dict(), path)
    return path


def fold(model):
    """Batch norm into the convolution before it, as the published half-precision file has it."""
    layers = list(model.modules())
    for conv, norm in zip(layers, layers[1:], strict=False):
        if isinstance(norm, torch.nn.BatchNorm2d):
            slope = norm.weight / (norm.running_var + norm.eps).sqrt()
            with torch.no_grad():
                conv.weight.mul_(slope.view(-1, 1, 1, 1))
                norm.bias.sub_(slope * norm.running_mean)
                norm.weight.fill_(1)
                norm.running_mean.zero_()
                norm.running_var.fill_(1)
    return model


def test_features_equal_torchvisions_and_head_is_reported_new(theirs, weights_file):
    model = build_classifier("mobilenet_v2", 3, weights=weights_file, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.feature_maps(images), theirs.features(images))
    report = model.weights_report
    assert report.new == ("head.weight", "head.bias") and "head is new" in str(report)
    assert report.sha256 == hashlib.sha256(weights_file.read_bytes()).hexdigest()
    assert not model.backbone.frozen_batch_norm


def test_head_is_kept_when_the_classes_agree(theirs, weights_file):
    model = build_classifier("mobilenet_v2", 7, weights=weights_file, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs(images))
    assert model.weights_report.new == ()


def test_half_precision_and_folded_batch_norm(theirs, tmp_path):
    theirs = fold(torchvision.models.mobilenet_v2(num_classes=2).eval())
    path = tmp_path / "folded.pth"
    torch.save({key: v.half() if v.is_floating_point() else v for key, v in theirs.state_dict().items()}, path)
    model = build_classifier("mobilenet_v2", 2, weights=path)
    assert model.head.weight.dtype == torch.float32
    assert model.backbone.frozen_batch_norm and "folded" in str(model.weights_report)
    assert not any(layer.training for layer in batch_norms(model.train()))


def test_grey_images_equal_rgb_images_with_equal_channels(weights_file):
    grey = build_classifier("mobilenet_v2", 7, in_channels=1, weights=weights_file).eval()
    rgb = build_classifier("mobilenet_v2", 7, weights=weights_file).eval()
    images = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(grey(images), rgb(images.expand(-1, 3, -1, -1)))
    assert "replicated" in str(grey.weights_report)


def test_four_channels_average_the_first_convolution(weights_file):
    model = build_classifier("mobilenet_v2", 7, in_channels=4, weights=weights_file).eval()
    rgb = build_classifier("mobilenet_v2", 7, weights=weights_file).eval()
    torch.testing.assert_close(model.backbone.stem.weight.sum(1), rgb.backbone.stem.weight.sum(1))
    assert "4 channels" in str(model.weights_report)


def test_wrong_architecture_is_refused_with_counts(weights_file):
    with pytest.raises(MedcoreError, match="tensors are missing.*matching architecture"):
        build_classifier("resnet18", 7, weights=weights_file)


@pytest.mark.parametrize("name", [name for name in CLASSIFIER_NAMES if name != "small_cnn"])
def test_the_architecture_is_known_from_the_names_of_the_tensors(name, tmp_path):
    with torch.device("meta"):
        names = torchvision.models.get_model(name).state_dict()
    torch.save({key: torch.zeros(1) for key in names if "num_batches" not in key}, tmp_path / "weights.pth")
    assert architecture_of(tmp_path / "weights.pth") == name


def test_weights_of_our_own_and_of_strangers(tmp_path):
    torch.save(build_classifier("small_cnn", 2).state_dict(), tmp_path / "ours.pth")
    assert architecture_of(tmp_path / "ours.pth") == "small_cnn"
    with torch.device("meta"):
        names = torchvision.models.resnet34().state_dict()
    torch.save({key: torch.zeros(1) for key in names}, tmp_path / "stranger.pth")
    with pytest.raises(MedcoreError, match="belong to no architecture that is known here .*resnet18"):
        architecture_of(tmp_path / "stranger.pth")


def test_truncated_state_dict_is_refused(theirs, tmp_path):
    state = theirs.state_dict()
    del state["features.3.conv.1.0.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(MedcoreError, match=r"backbone\.3\.conv\.1\.0\.weight"):
        build_classifier("mobilenet_v2", 7, weights=tmp_path / "short.pth")


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps(Evil()), pickle.dumps([1, 2])])
def test_unreadable_or_executable_files_are_refused(tmp_path, content, capsys):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(MedcoreError, match=r"bad\.pth"):
        build_classifier("mobilenet_v2", 7, weights=path)
    assert "executed" not in capsys.readouterr().out


def test_saved_pickle_with_code_is_refused(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(MedcoreError, match="never pickled code"):
        build_classifier("mobilenet_v2", 7, weights=tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


def test_missing_file_says_what_can_be_passed():
    with pytest.raises(MedcoreError, match=r"no such file.*weights=None"):
        build_classifier("resnet18", 7, weights="nowhere.pth")


@pytest.mark.parametrize("failure", [urllib.error.URLError("no route to host"), RuntimeError("invalid hash value")])
def test_failed_download_is_an_error_and_never_random_weights(monkeypatch, tmp_path, failure):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(MedcoreError, match=r"cannot be downloaded.*weights=None"):
        build_classifier("resnet18", 7, weights="imagenet")


def test_imagenet_for_a_network_without_any():
    with pytest.raises(MedcoreError, match="small_cnn"):
        build_classifier("small_cnn", 7, weights="imagenet")


def put_into_the_cache(monkeypatch, tmp_path, content: bytes) -> Path:
    """A file where torch's cache has the ImageNet weights of a resnet18; its name tells the hash of ``content``."""
    path = tmp_path / "hub" / "checkpoints" / f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    weights = torchvision.models.get_model_weights("resnet18").DEFAULT
    monkeypatch.setattr(type(weights), "url", property(lambda self: f"http://127.0.0.1:9/{path.name}"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return path


def test_imagenet_weights_come_out_of_the_cache(monkeypatch, tmp_path):
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    path = put_into_the_cache(monkeypatch, tmp_path, (tmp_path / "w.pth").read_bytes())
    model = build_classifier("resnet18", 7, weights="imagenet")
    assert torch.equal(model.backbone.conv1.weight, theirs.conv1.weight) and "ImageNet" in model.weights_report.source
    assert model.weights_report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


class Harmful:
    """Unpickling it leaves a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


def test_code_in_the_cache_never_runs_whatever_its_name_says(monkeypatch, tmp_path):
    mark = tmp_path / "ran"
    path = put_into_the_cache(monkeypatch, tmp_path, pickle.dumps(Harmful(str(mark))))  # the hash is right
    with pytest.raises(MedcoreError, match="resnet18"):
        build_classifier("resnet18", 7, weights="imagenet")
    path.write_bytes(pickle.dumps(Harmful(str(mark))) + b" ")  # the hash is wrong
    with pytest.raises(MedcoreError, match="sha256"):
        build_classifier("resnet18", 7, weights="imagenet")
    assert not mark.exists()


def checkpoint_folder(folder: Path) -> torch.nn.Module:
    source = build_classifier("small_cnn", 4, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    save_file(source.state_dict(), folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    count = sum(value.numel() for value in source.parameters())
    manifest = {"weights": count, "sha256": {"model.safetensors": digest}, "data": {"name": "somewhere"}}
    (folder / "manifest.json").write_bytes(seal(manifest))
    return source


@pytest.mark.parametrize("given", ["", "model.safetensors"])
@pytest.mark.parametrize("damaged", ["model.safetensors", "manifest.json"])
def test_a_checkpoint_is_verified_as_a_folder_and_as_its_file(tmp_path, given, damaged):
    source = checkpoint_folder(tmp_path)
    model = build_classifier("small_cnn", 9, weights=tmp_path / given)
    assert all(torch.equal(v, source.backbone.state_dict()[k]) for k, v in model.backbone.state_dict().items())
    assert model.normalise.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.weights_report.learnt_from == {"name": "somewhere"}
    content = (tmp_path / damaged).read_bytes()
    for place in range(5, len(content), max(1, len(content) // 40)):
        (tmp_path / damaged).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(MedcoreError, match=rf"{damaged}.*damaged"):
            build_classifier("small_cnn", 9, weights=tmp_path / given)


def test_weights_that_are_not_finite_are_refused(theirs, tmp_path):
    state = theirs.state_dict()
    torch.save(state | {"features.0.0.weight": state["features.0.0.weight"] * float("nan")}, tmp_path / "w.pth")
    with pytest.raises(MedcoreError, match="finite"):
        build_classifier("mobilenet_v2", 7, weights=tmp_path / "w.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_device_as_weights_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", Path("/dev/zero")):
        with pytest.raises(MedcoreError, match="regular"):
            build_classifier("small_cnn", 7, weights=path)


def test_encoder_weights_for_a_unet(theirs, weights_file):
    model = build_unet("mobilenet_v2", 2, weights=weights_file)
    assert torch.equal(model.backbone[0][0].weight, theirs.features[0][0].weight)
    assert model.weights_report.ignored == () and not model.backbone.frozen_batch_norm


def test_folded_encoder_keeps_its_batch_norm_frozen_but_not_the_decoders(tmp_path):
    torch.save(fold(torchvision.models.mobilenet_v2().eval()).state_dict(), tmp_path / "folded.pth")
    model = build_unet("mobilenet_v2", 2, weights=tmp_path / "folded.pth").train()
    assert not any(layer.training for layer in batch_norms(model.backbone))
    assert all(layer.training for layer in batch_norms(model.decoder))
    assert build(model.spec).backbone.frozen_batch_norm
