"""An exported network answers as PyTorch does at any batch size: normalisation, temperature, softmax are inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models.autoencoder import ConvAutoencoder
from medcore.models.classifier import CLASSIFIER_NAMES, build_classifier
from medcore.models.unet import SMALL_UNET_WIDTHS, SmallUNet, build_unet
from medcore.models.vae import VAE
from medcore.studies.validation import export as exporting
from medcore.studies.validation.export import Served

onnxruntime = pytest.importorskip("onnxruntime")
SIDE = 64
EVERY = [
    *(name for name in CLASSIFIER_NAMES),
    "timm:tf_efficientnet_lite0",
    "small_unet",
    "narrow_unet",
    "unet resnet18",
    "ssim",
    "kl",
]
QUICK = ("small_cnn", "narrow_unet", "ssim")


def network_of(name: str) -> Served:
    torch.manual_seed(0)
    if name.endswith("_unet"):
        return Served(SmallUNet(3, widths=SMALL_UNET_WIDTHS if name == "small_unet" else (4, 8, 16)))
    if name.startswith("unet "):
        return Served(build_unet(name.split()[1], 2))
    if name == "ssim":
        return Served(ConvAutoencoder((SIDE, SIDE), 3, 8), kind="ssim")
    if name == "kl":
        return Served(VAE((SIDE, SIDE), 3, 8), kind="kl")
    return Served(build_classifier(name, 3, image_size=SIDE), temperature=1.7)


@dataclass
class Model:
    """What ``served`` is asked of."""

    network: Served
    task = "toy"
    path = Path("toy")


@pytest.fixture(autouse=True)
def as_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "served", lambda model: (model.network, (SIDE, SIDE, 3), "answer"))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_onnx_equals_pytorch_at_other_batch_sizes(name, tmp_path):
    network = network_of(name).eval()
    assert exporting.export(Model(network), tmp_path / "m.onnx") <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        (found,) = session.run(None, {"images": images})
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        assert found.shape == expected.shape and np.allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_torch_export_and_what_is_refused(tmp_path, monkeypatch):
    network = network_of("small_cnn").eval()
    assert exporting.export(Model(network), tmp_path / "m.pt2") <= 1e-4
    with pytest.raises(MedcoreError, match="must end in"):
        exporting.export(Model(network), tmp_path / "m.bin")
    monkeypatch.setattr(exporting, "_run_onnx", lambda target, images: np.zeros((3, 3)))
    with pytest.raises(MedcoreError, match="differs from PyTorch"):
        exporting.export(Model(network), tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()
