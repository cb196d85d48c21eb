"""Which device a run uses: GPU first, CPU always."""

from __future__ import annotations

import torch

from medcore.errors import MedcoreError


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        MedcoreError: The device does not exist on this machine.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MedcoreError(f"device {name!r} is unknown; use auto, cpu, cuda, cuda:1 or mps") from error
    if not available.get(device.type, False):
        raise MedcoreError(f"device {name!r} is not available here; use device='auto' or 'cpu'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MedcoreError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device
