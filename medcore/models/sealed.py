"""Folders of tensors sealed by a manifest: read whole and unchanged, or refused in one line.

    text = seal({"classes": ["a", "b"], "sha256": {MODEL: "…"}})      # JSON that carries the sha256 of itself
    manifest = read_sealed(folder)                                   # refused where one byte changed
    tensors = read_tensors(folder / MODEL, manifest["sha256"][MODEL], most=10_000_000)

Nothing is trusted before it was looked at: only regular files of a bounded size are opened, so that a link to a device
or a pipe neither hangs nor fills the memory, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from medcore.errors import MedcoreError

MODEL, STATE, MANIFEST = "model.safetensors", "state.safetensors", "manifest.json"
CARD, CARD_PAGE = "MODEL_CARD.md", "MODEL_CARD.html"  # only in a folder that is handed on
MOST_CARD = 1 << 26  # bytes of a model card
MOST_JSON = 1 << 28  # bytes of a manifest: hashes of ten million images
HEADER = 1 << 20  # bytes that a safetensors file may hold beside its numbers
ANOTHER = "use another epoch's checkpoint"
_BLANK = "0" * 64
_SELF_HASH = re.compile(rb'"manifest_sha256": "([0-9a-f]{64})"')


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes.

    Raises:
        MedcoreError: It cannot be read, is no regular file (a folder, device, pipe), or is larger.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise MedcoreError(f"{path} is no regular file; a checkpoint holds regular files only")
        if status.st_size > most:
            raise MedcoreError(f"{path} has {status.st_size:,} bytes where at most {most:,} can be right; {ANOTHER}")
        with open(path, "rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise MedcoreError(f"{path} cannot be read ({error.strerror}); {ANOTHER}") from error


def seal(manifest: dict[str, Any]) -> bytes:
    """A manifest as JSON text that carries the sha256 of itself (taken with zeros in its place)."""
    body = {**{key: value for key, value in manifest.items() if key != "manifest_sha256"}, "manifest_sha256": _BLANK}
    text = json.dumps(_json_types(body), indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    digest = hashlib.sha256(text).hexdigest()
    return text.replace(f'"manifest_sha256": "{_BLANK}"'.encode(), f'"manifest_sha256": "{digest}"'.encode())


def jsonable(value: Any) -> Any:
    """A value as it comes back from JSON: tuples as lists, arrays as lists, NaN as None."""
    return json.loads(json.dumps(_json_types(value)))


def _json_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_types(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    if hasattr(value, "tolist"):
        return _json_types(value.tolist())
    return str(value) if isinstance(value, Path) else value


def read_sealed(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own sha256; its content is not judged here.

    Raises:
        MedcoreError: It is missing, damaged, or no JSON object.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise MedcoreError(f"{path} does not exist; is {folder} a checkpoint?")
    text = read_regular(path, MOST_JSON)
    found = _SELF_HASH.findall(text)
    blank = _SELF_HASH.sub(f'"manifest_sha256": "{_BLANK}"'.encode(), text)
    if len(found) != 1 or hashlib.sha256(blank).hexdigest().encode() != found[0]:
        raise MedcoreError(f"{path} is damaged: it does not match its own sha256; {ANOTHER}")
    try:
        manifest = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MedcoreError(f"{path} is no JSON that can be read ({error}); {ANOTHER}") from error
    if not isinstance(manifest, dict):
        raise MedcoreError(f"{path} holds no JSON object; {ANOTHER}")
    return manifest


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def read_tensors(path: Path, sha256: str, most: int) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose hash is known.

    Args:
        sha256: What it must hash to, hex.
        most: Bytes of its numbers, at most.

    Raises:
        MedcoreError: It cannot be read, is larger, a byte changed, or it holds no tensors.
    """
    payload = read_regular(path, most + HEADER)
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise MedcoreError(f"{path} is damaged: its sha256 differs from the manifest's; {ANOTHER}")
    try:
        return load_tensors(payload)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise MedcoreError(f"{path} holds no safetensors ({error}); {ANOTHER}") from error


def check_bytes(path: Path, sha256: str, most: int) -> None:
    """See to it that a file is unchanged.

    Raises:
        MedcoreError: It cannot be read, is larger, or a byte changed.
    """
    if hashlib.sha256(read_regular(path, most)).hexdigest() != sha256:
        raise MedcoreError(f"{path} is damaged: its sha256 differs from the manifest's; copy the folder anew")


def bytes_of(state: dict[str, Tensor]) -> int:
    """Bytes of the numbers of a state dict."""
    return sum(value.numel() * value.element_size() for value in state.values())


def put_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights into a model that must fit them exactly.

    Raises:
        MedcoreError: Names or shapes differ, or a number is NaN or infinite.
    """
    bad = [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise MedcoreError(f"{path}: {len(bad)} tensors hold NaN or infinite numbers (such as {bad[0]}); {ANOTHER}")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise MedcoreError(f"{path} does not fit the model: {lines[:300]}") from error
