"""Checkpoints: safetensors and a JSON manifest, atomic, hash-verified, no pickle anywhere.

    checkpoints/epoch-0012/model.safetensors   the weights to use (their moving average when there is one)
                           state.safetensors   optimiser and, with a moving average, the raw weights
                           manifest.json       everything else, with the sha256 of both files and of itself
    checkpoints/best, checkpoints/last          relative links (copies where the file system has none)

A checkpoint is written to a temporary folder, flushed to the disk and renamed: it is whole or not there. A changed
byte in any of the three files is refused with the file's name.

    loaded = load("reports/run/06_patch_classification", which="best")
    loaded.model.eval()
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.models import build

FORMAT = 1
MODEL, STATE, MANIFEST = "model.safetensors", "state.safetensors", "manifest.json"
_BLANK = "0" * 64
_SELF_HASH = re.compile(rb'"manifest_sha256": "([0-9a-f]{64})"')


@dataclass
class Loaded:
    """A model out of a checkpoint.

    Attributes:
        model: In evaluation mode, on the CPU.
        manifest: Classes, normalisation, image shape, config, data, metrics, extra…
        path: The checkpoint's folder.
    """

    model: nn.Module
    manifest: dict[str, Any]
    path: Path

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""
        return list(self.manifest["classes"])


def save(
    folder: Path, epoch: int, weights: dict[str, Tensor], state: dict[str, Tensor], manifest: dict[str, Any]
) -> Path:
    """Write ``folder/epoch-NNNN`` atomically.

    Args:
        folder: The run's ``checkpoints`` folder.
        epoch: Epoch, counted from 1.
        weights: Weights to use, by name.
        state: Tensors that a resume needs besides.
        manifest: Plain JSON types.
    """
    return write_checkpoint(folder / epoch_name(epoch), weights, state, manifest)


def write_checkpoint(
    target: Path, weights: dict[str, Tensor], state: dict[str, Tensor], manifest: dict[str, Any]
) -> Path:
    """Write one checkpoint folder atomically, in place of an older one of the same name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".writing-{target.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    hashes = {}
    for name, tensors in ((MODEL, weights), (STATE, state)):
        payload = save_tensors({key: _plain(value) for key, value in tensors.items()})
        hashes[name] = hashlib.sha256(payload).hexdigest()
        _write_synced(temporary / name, payload)
    _write_synced(temporary / MANIFEST, manifest_bytes({"format": FORMAT, **manifest, "sha256": hashes}))
    _sync_folder(temporary)
    discard(target)
    os.rename(temporary, target)
    _sync_folder(target.parent)
    return target


def _plain(value: Tensor) -> Tensor:
    return value.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _write_synced(path: Path, payload: bytes) -> None:
    with open(path, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The manifest as JSON text that carries the sha256 of itself (taken with zeros in its place)."""
    body = {**{key: value for key, value in manifest.items() if key != "manifest_sha256"}, "manifest_sha256": _BLANK}
    text = json.dumps(_without_nan(body), indent=1, ensure_ascii=False, allow_nan=False).encode()
    digest = hashlib.sha256(text).hexdigest()
    return text.replace(f'"manifest_sha256": "{_BLANK}"'.encode(), f'"manifest_sha256": "{digest}"'.encode())


def jsonable(value: Any) -> Any:
    """A value as it comes back from JSON: tuples as lists, arrays as lists, NaN as None."""
    return json.loads(json.dumps(_without_nan(value)))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    if hasattr(value, "tolist"):
        return _without_nan(value.tolist())
    return str(value) if isinstance(value, Path) else value


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own hash.

    Raises:
        MedcoreError: The file is missing, damaged, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise MedcoreError(f"{path} cannot be read ({error.strerror}); is {folder} a checkpoint?") from error
    found = _SELF_HASH.findall(text)
    blank = _SELF_HASH.sub(f'"manifest_sha256": "{_BLANK}"'.encode(), text)
    if len(found) != 1 or hashlib.sha256(blank).hexdigest().encode() != found[0]:
        raise MedcoreError(f"{path} is damaged: it does not match its own sha256; use another epoch's checkpoint")
    manifest = json.loads(text)
    if manifest["format"] > FORMAT:
        raise MedcoreError(f"{path} has format {manifest['format']}; this medcore reads up to {FORMAT}: update it")
    return manifest


def read_checkpoint(folder: Path, name: str = MODEL) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of one file of a checkpoint and the manifest, both verified.

    Raises:
        MedcoreError: A file is missing or a byte changed.
    """
    manifest = read_manifest(folder)
    payload = _verified(folder / name, manifest["sha256"][name])
    return load_tensors(payload), manifest


def _verified(path: Path, expected: str) -> bytes:
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise MedcoreError(f"{path} cannot be read ({error.strerror}); use another epoch's checkpoint") from error
    if hashlib.sha256(payload).hexdigest() != expected:
        raise MedcoreError(f"{path} is damaged: its sha256 differs from the manifest's; use another epoch's checkpoint")
    return payload


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint; returns its manifest.

    Raises:
        MedcoreError: A file is missing or a byte changed; the message names it.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["sha256"].items():
        _verified(folder / name, expected)
    return manifest


def annotate(path: str | Path, **extra: Any) -> None:
    """Add facts found after training (temperature, threshold, feature statistics) to a manifest, atomically.

    Args:
        path: A checkpoint, or a run's folder (its best one).
        **extra: Plain JSON types; found again under ``manifest["extra"]``.
    """
    folder = find(path)
    manifest = read_manifest(folder)
    manifest["extra"] = {**manifest.get("extra", {}), **extra}
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    _write_synced(temporary, manifest_bytes(manifest))
    os.replace(temporary, folder / MANIFEST)


def load_checkpoint(path: str | Path, which: str | int = "best") -> Loaded:
    """The model of a checkpoint, ready to predict.

    Args:
        path: A run's folder, its ``checkpoints`` folder, one checkpoint, or its ``model.safetensors``.
        which: ``best``, ``last``, an epoch as 12 or ``epoch=12``; unused when ``path`` is one checkpoint.

    Raises:
        MedcoreError: Nothing is there, a byte changed, or weights and architecture do not fit.
    """
    folder = find(path, which)
    weights, manifest = read_checkpoint(folder)
    model = build(manifest["architecture"])
    put_weights(model, weights, folder / MODEL)
    return Loaded(model.eval(), manifest, folder)


def put_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights into a model that must fit them exactly."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise MedcoreError(f"{path} does not fit the model: {error}") from error


def epoch_name(epoch: int) -> str:
    """Folder name of an epoch."""
    return f"epoch-{epoch:04d}"


def find(path: str | Path, which: str | int = "best") -> Path:
    """The folder of a checkpoint; see ``load``."""
    path = Path(path)
    path = path.parent if path.name in (MODEL, STATE, MANIFEST) else path
    if (path / MANIFEST).is_file():
        return path.resolve()
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    name = epoch_name(int(str(which).removeprefix("epoch="))) if str(which).removeprefix("epoch=").isdigit() else which
    target = folder / str(name)
    if not path.exists():
        raise MedcoreError(f"checkpoint '{path}' does not exist")
    if not (target / MANIFEST).is_file():
        there = ", ".join(sorted(p.name for p in folder.glob("[!.]*"))) if folder.is_dir() else "nothing"
        raise MedcoreError(f"{path}: there is no checkpoint {str(which)!r}; found {there or 'nothing'}")
    return target.resolve()


def epochs_in(folder: Path) -> list[int]:
    """Epochs whose checkpoints are complete, ascending."""
    return sorted(int(path.name[6:]) for path in folder.glob("epoch-[0-9]*") if path.name[6:].isdigit())


def point(folder: Path, name: str, epoch: int) -> None:
    """Let ``best`` or ``last`` show an epoch's checkpoint."""
    link, target = folder / name, epoch_name(epoch)
    temporary = folder / f".link-{name}-{os.getpid()}"
    discard(temporary)
    try:
        os.symlink(target, temporary)
    except (OSError, NotImplementedError):  # a file system without links
        shutil.copytree(folder / target, temporary)
        discard(link)
    os.replace(temporary, link)


def discard(path: Path) -> None:
    """Remove a file, link or folder; a folder is renamed first, so that no half of it is ever seen."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        trash = path.with_name(f".discarded-{path.name}-{os.getpid()}")
        shutil.rmtree(trash, ignore_errors=True)
        os.rename(path, trash)
        shutil.rmtree(trash, ignore_errors=True)


def retain(folder: Path, keep: str, best: int) -> None:
    """Delete what the policy does not keep: ``all``, ``best+last``, or a number of latest epochs (and the best)."""
    if keep == "all":
        return
    latest = 1 if keep == "best+last" else int(keep)
    epochs = epochs_in(folder)
    for epoch in set(epochs) - set(epochs[-latest:]) - {best}:
        discard(folder / epoch_name(epoch))


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in folder.glob(".*"):
        if path.name.startswith((".writing-", ".discarded-", ".link-")):
            discard(path)
