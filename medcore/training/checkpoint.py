"""Checkpoints: safetensors and a JSON manifest, atomic, hash-verified, no pickle anywhere.

    checkpoints/epoch-0012/model.safetensors   the weights to use (their moving average when there is one)
                           state.safetensors   optimiser and, with a moving average, the raw weights
                           manifest.json       everything else, with the sha256 of both files and of itself
    checkpoints/best, checkpoints/last          relative links (copies where the file system has none)

A checkpoint is written to a temporary folder, flushed to the disk and renamed: it is whole or not there. A changed
byte in any of the three files is refused with the file's name, and so is a manifest that cannot be right.

    loaded = load_checkpoint("reports/run/06_patch_classification", which="best")
    loaded.model.eval()

A *model folder* (``model/`` of a run) is such a checkpoint made to be handed on: the best weights, no optimiser, and a
model card whose hash stands in the manifest, too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.models import build
from medcore.models.sealed import (
    ANOTHER,
    CARD,
    CARD_PAGE,
    HEADER,
    MANIFEST,
    MODEL,
    MOST_CARD,
    STATE,
    bytes_of,
    check_bytes,
    jsonable,
    put_weights,
    read_sealed,
    read_tensors,
    seal,
)
from medcore.training.manifest import FORMAT, check_manifest

PUBLISHED = "model"  # the folder of a run that is made to be handed on
MOST_STATE = 4  # times the bytes of the weights: two moments, the raw weights, a step per tensor


@dataclass
class Loaded:
    """A model out of a checkpoint.

    Attributes:
        model: In evaluation mode, on the CPU.
        manifest: Classes, normalisation, image shape, config, data, metrics, extra…
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
        weights: Weights to use, by name.
        state: Tensors that a resume needs besides.
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
    _write_synced(temporary / MANIFEST, seal({"format": FORMAT, **manifest, "sha256": hashes}))
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own hash and against what can be right.

    Raises:
        MedcoreError: The file is missing, damaged, of a newer format, or a field is wrong.
    """
    return check_manifest(read_sealed(folder), folder)


def read_checkpoint(folder: Path, name: str = MODEL) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of one file of a checkpoint and the manifest, both verified.

    Raises:
        MedcoreError: A file is missing or a byte changed.
    """
    manifest = read_manifest(folder)
    most = 8 * manifest["weights"] + HEADER  # bytes: float64 at most, and the buffers
    if name == STATE:
        most *= MOST_STATE
    return read_tensors(folder / name, manifest["sha256"][name], most), manifest


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint; returns its manifest.

    Raises:
        MedcoreError: A file is missing or a byte changed; the message names it.
    """
    read_checkpoint(folder, STATE)
    return read_checkpoint(folder)[1]


def annotate(path: str | Path, **extra: Any) -> None:
    """Add facts found after training (temperature, threshold, feature statistics) to a manifest, atomically.

    Args:
        path: A checkpoint, or a run's folder (its best one).
        **extra: Plain JSON types; found again under ``manifest["extra"]``.

    Raises:
        MedcoreError: A known fact (temperature, threshold, …) is out of range.
    """
    folder = find(path)
    manifest = read_manifest(folder)
    manifest["extra"] = jsonable({**manifest.get("extra", {}), **extra})
    check_manifest(manifest, folder)
    _replace_manifest(folder, manifest)


def publish(
    path: str | Path, target: Path, tensors: dict[str, Tensor] | None = None, data: dict[str, Any] | None = None,
    **extra: Any,
) -> Path:  # fmt: skip
    """Copy the weights of a checkpoint into a folder that can be handed on.

    Args:
        path: A checkpoint, or a run's folder (its best one).
        target: The new folder; an older one of this name is replaced.
        tensors: What prediction needs besides the weights; takes the place of the optimiser's state.
        data: One more training, as ``describe_sides`` gives it: images that something was chosen on.
        **extra: As for ``annotate``.
    """
    weights, manifest = read_checkpoint(find(path))
    kept = {name: value for name, value in manifest.items() if name not in ("format", "sha256", "manifest_sha256")}
    kept["extra"] = jsonable({**manifest.get("extra", {}), **extra})
    if data is not None:
        kept["data"] = {**manifest["data"], "earlier": [*manifest["data"].get("earlier", []), data]}
    written = write_checkpoint(target, weights, tensors or {}, kept)
    read_manifest(written)
    return written


def tell(folder: Path, **extra: Any) -> None:
    """Add facts to the manifest of a folder of any kind; ``annotate`` checks those of a checkpoint."""
    manifest = read_sealed(folder)
    manifest["extra"] = jsonable({**manifest.get("extra", {}), **extra})
    _replace_manifest(folder, manifest)


def write_card(folder: Path, markdown: str, page: str) -> None:
    """Write a model card beside a sealed manifest, and its hashes into the manifest."""
    manifest = read_sealed(folder)
    for name, text in ((CARD, markdown), (CARD_PAGE, page)):
        payload = text.encode("utf-8", "replace")
        _write_synced(folder / name, payload)
        manifest["sha256"][name] = hashlib.sha256(payload).hexdigest()
    _replace_manifest(folder, manifest)


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """See to it that the model card, where there is one, is unchanged.

    Raises:
        MedcoreError: A byte changed, or a file is missing.
    """
    for name in (CARD, CARD_PAGE):
        if name in manifest["sha256"]:
            check_bytes(folder / name, manifest["sha256"][name], MOST_CARD)


def _replace_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    _write_synced(temporary, seal(manifest))
    os.replace(temporary, folder / MANIFEST)


def load_checkpoint(path: str | Path, which: str | int = "best") -> Loaded:
    """The model of a checkpoint, ready to predict.

    Args:
        path: A run's folder, its ``checkpoints`` or ``model`` folder, one checkpoint, or its ``model.safetensors``.
        which: ``best`` (the ``model`` folder, where there is one), ``last``, an epoch as 12 or ``epoch=12``; unused
            when ``path`` is one checkpoint.

    Raises:
        MedcoreError: Nothing is there, a byte changed, or weights and architecture do not fit.
    """
    folder = find(path, which)
    manifest = read_manifest(folder)
    model = build_like(manifest, folder)
    weights, _ = read_checkpoint(folder)
    if CARD in manifest["sha256"]:  # made to be handed on: every file is looked at, the small state, too
        check_files(folder, manifest)
        read_checkpoint(folder, STATE)
    put_weights(model, weights, folder / MODEL)
    model.learnt_from = manifest["data"]  # type: ignore[assignment]
    return Loaded(model.eval(), manifest, folder)


def build_like(manifest: dict[str, Any], folder: Path) -> nn.Module:
    """The network of a manifest with random weights, once it is known to be as large as the file says.

    Raises:
        MedcoreError: There is no such network, or the file of weights has another size.
    """
    try:
        with torch.device("meta"):  # shapes without numbers: a lying size costs nothing
            planned = bytes_of(build(manifest["architecture"]).state_dict())
    except (MedcoreError, TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError) as error:
        raise MedcoreError(f"{folder / MANIFEST}: its architecture cannot be built ({error})") from error
    try:
        size = (folder / MODEL).stat().st_size
    except OSError as error:
        raise MedcoreError(f"{folder / MODEL} cannot be read ({error.strerror}); {ANOTHER}") from error
    if not planned <= size <= planned + HEADER:
        raise MedcoreError(f"{folder / MODEL} has {size:,} bytes, but this network's weights take {planned:,}")
    return build(manifest["architecture"])


def epoch_name(epoch: int) -> str:
    """Folder name of an epoch."""
    return f"epoch-{epoch:04d}"


def find(path: str | Path, which: str | int = "best") -> Path:
    """The folder of a checkpoint; see ``load``."""
    path = Path(path)
    path = path.parent if path.name in (MODEL, STATE, MANIFEST) else path
    if (path / MANIFEST).is_file():
        return path.resolve()
    if which == "best" and (path / PUBLISHED / MANIFEST).is_file():
        return (path / PUBLISHED).resolve()
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
