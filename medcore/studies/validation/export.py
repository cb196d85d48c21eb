"""A frozen network as one file for other programs: ONNX, or a program of ``torch.export``.

    export(medcore.load(folder), "model.onnx")       # extra `onnx`; checked against PyTorch by onnxruntime
    export(medcore.load(folder), "model.pt2")

- Input ``images``: uint8 ``(B, H, W, C)``, any B, at the size of training; a segmenter's window has its tile's size.
- Inside: division by 255, normalisation, resizing where the network does it, temperature, softmax (of
  findings the sigmoid, of grades and values what they need).
- Output: ``probabilities`` ``(B, K)``; of a segmenter ``(B, K, H, W)`` of one window; of a detector ``score`` ``(B,)``.
- Not inside: reading files, tiling and turns, thresholds, abstention, familiarity, what was seen. They stand in the
  folder's manifest and card.
"""

from __future__ import annotations

import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.models.classifier import Classifier
from medcore.studies.anomaly.candidates import DISTANCE
from medcore.studies.anomaly.scores import scores_of_output
from medcore.studies.validation.frozen import Frozen, FrozenClassifier, FrozenDetector, FrozenSegmenter, FrozenTargets

OPSET = 20
CLOSE = 1e-4  # largest difference to PyTorch that is let through
TRIED = 3  # images of the check, another batch than that of the export


class Served(nn.Module):
    """A network from pixels to what is asked for.

    Args:
        network: Takes ``(B, C, H, W)`` in [0, 1].
        temperature: Logits are divided by it.
        kind: Anomaly score; empty for classes.
    """

    def __init__(self, network: nn.Module, temperature: float = 1.0, kind: str = "") -> None:
        super().__init__()
        self.network, self.temperature, self.kind = network, temperature, kind

    def forward(self, images: Tensor) -> Tensor:
        """**Shape** uint8 ``(B, H, W, C)`` to probabilities or scores."""
        pixels = images.permute(0, 3, 1, 2).float() / 255
        output = self.network(pixels)
        if self.kind:
            return scores_of_output(output, pixels, self.kind)
        logits = output[0] if isinstance(output, (list, tuple)) else output
        stated = logits.float() / self.temperature
        return self.network.squash(stated) if isinstance(self.network, Classifier) else stated.softmax(1)


def served(model: Frozen) -> tuple[Served, tuple[int, int, int], str]:
    """The network of a folder, the shape of its images and the name of what it answers.

    Raises:
        MedcoreError: The folder is no single network.
    """
    if isinstance(model, (FrozenClassifier, FrozenTargets)):
        height, width, channels = model.manifest["image_shape"]
        answer = "values" if model.task == "regression" else "probabilities"
        return Served(model.model, model.temperature), (height, width, channels), answer
    if isinstance(model, FrozenSegmenter):
        side = model.segmenter.window.tile
        channels = model.segmenter.model.spec["args"]["in_channels"]
        return Served(model.segmenter.model), (side, side, channels), "probabilities"
    if isinstance(model, FrozenDetector) and model.kind != DISTANCE:
        height, width, channels = model.manifest["image_shape"]
        return Served(model.model, kind=model.kind), (height, width, channels), "score"
    what = "a chain of rules" if model.task == "diagnosis" else "a detector by the distance of codes"
    raise MedcoreError(f"{model.path} holds {what}, which is no single network; use it by medcore predict")


def export(model: Frozen, target: str | Path) -> float:
    """Write ``.onnx`` or ``.pt2``, and compare it with PyTorch on random images.

    Returns:
        The largest difference that was seen.

    Raises:
        MedcoreError: Another ending, no single network, a package is missing, or the file answers differently.
    """
    target = Path(target)
    if target.suffix not in (".onnx", ".pt2"):
        raise MedcoreError(f"'{target}': the name must end in .onnx (ONNX) or .pt2 (torch.export)")
    network, shape, name = served(model)
    network.cpu().eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (TRIED, *shape), dtype=np.uint8))
    batch = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = network(images).numpy()  # first: what is kept between calls is then real, not a tracer's
        if target.suffix == ".pt2":
            program = torch.export.export(network, (images[:2],), dynamic_shapes=batch)
            torch.export.save(program, target)
            found = torch.export.load(target).module()(images).numpy()
        else:
            _write_onnx(network, images[:2], target, name, batch)
            found = _run_onnx(target, images.numpy())
    gap = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if found.shape != expected.shape or not gap <= CLOSE:
        target.unlink(missing_ok=True)
        raise MedcoreError(f"{target}: the exported file differs from PyTorch by {gap:.2g}; it was not kept")
    return gap


def _write_onnx(network: nn.Module, images: Tensor, target: Path, name: str, batch: Any) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MedcoreError(
            f"ONNX needs the extra 'onnx' ({error.name} is missing): pip install 'medcore[onnx]'"
        ) from None
    with redirect_stdout(StringIO()):
        torch.onnx.export(
            network, (images,), target, input_names=["images"], output_names=[name], opset_version=OPSET,
            dynamic_shapes=batch, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


def _run_onnx(target: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])
