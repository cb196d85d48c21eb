"""Go on from a checkpoint with other classes: everything but the head is kept, and it is said what was replaced."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from medcore.errors import MedcoreError
from medcore.models import build
from medcore.training import checkpoint

HEADS = ("head", "heads")  # what the models of medcore call their last layers


def fine_tune(path: str | Path, classes: Sequence[str], *, which: str | int = "best") -> tuple[nn.Module, str]:
    """A model for new classes that starts from the weights of a checkpoint.

    Args:
        path: A run's folder or a checkpoint.
        classes: The new class names, in the order of the new labels.
        which: ``best``, ``last`` or an epoch.

    Returns:
        The model, in evaluation mode, and a sentence that says what was kept and what starts anew. With the very
        classes of the checkpoint the head is kept as well.

    Raises:
        MedcoreError: The checkpoint cannot be read, or its model has no classes.
    """
    folder = checkpoint.find(path, which)
    weights, manifest = checkpoint.read_checkpoint(folder)
    old, new = list(manifest["classes"]), [str(name) for name in classes]
    spec = copy.deepcopy(manifest["architecture"])
    if "classes" not in spec["args"]:
        raise MedcoreError(f"{folder}: a {spec['family']} has no classes to replace; load() it and train on")
    if old == new:
        loaded = checkpoint.load(folder)
        return loaded.model, f"all weights come from {folder}: the classes are the same ({', '.join(new)})"
    spec["args"]["classes"] = len(new)
    model = build(spec)
    state = model.state_dict()
    kept = {name: value for name, value in weights.items() if name.split(".")[0] not in HEADS}
    anew = sorted(set(state) - set(kept))
    checkpoint.put_weights(model, {**{name: state[name] for name in anew}, **kept}, folder / checkpoint.MODEL)
    note = (
        f"{len(kept)} tensors come from {folder}; the head was replaced and starts at random ({', '.join(anew)}): "
        f"{len(old)} classes ({', '.join(old)}) became {len(new)} ({', '.join(new)})"
    )
    return model.eval(), note
