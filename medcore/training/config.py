"""TrainConfig: every choice of a training run, with a sentence, a unit and a default each.

config = TrainConfig(epochs=30, learning_rate=3e-4)
print(TrainConfig.describe())     # the table of all fields; the command line makes its options from it

And whether a run may be resumed: nothing that can change a weight may differ.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from medcore.errors import MedcoreError
from medcore.models.sealed import jsonable
from medcore.training.augment.recipe import Augment, as_augment

if TYPE_CHECKING:
    import pandas as pd

# fields that cannot change a weight: a run may be resumed with other values of these
WITHOUT_EFFECT = frozenset({"epochs", "loader", "loader_threads", "memory_share", "keep", "device", "seen"})


def setting(default: Any, text: str, unit: str = "") -> Any:
    """A field with its sentence and unit."""
    return field(default=default, metadata={"help": text, "unit": unit})


def settings_table(settings: Any) -> pd.DataFrame:
    """The fields of an instance made with :func:`setting` as a table to show: value, unit, meaning."""
    import pandas as pd

    rows = {
        f.name: [str(getattr(settings, f.name)), f.metadata["unit"], f.metadata["help"]]
        for f in dataclasses.fields(settings)
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "unit", "meaning"])
    return table.rename_axis("choice")


@dataclass(frozen=True)
class TrainConfig:
    """What a training run does. ``TrainConfig.describe()`` prints the sentence and unit of every field."""

    epochs: int = setting(20, "How often the training images are visited.", "epochs")
    batch_size: int = setting(64, "Images per optimiser step, over all pieces and processes together.", "images")
    pieces: int = setting(1, "Parts a batch is computed in to save memory (gradient accumulation).", "parts per step")
    seed: int = setting(0, "Fixes order, augmentation and dropout; the model's first weights are the caller's.")

    optimiser: Literal["adam", "adamw", "sgd"] = setting("adamw", "Rule that turns gradients into steps.")
    learning_rate: float = setting(1e-3, "Largest learning rate of the schedule.", "per step")
    weight_decay: float = setting(1e-4, "Pull of the weights towards zero (decoupled for adamw).", "per step")
    momentum: float = setting(0.9, "Momentum of sgd (Nesterov).")
    schedule: Literal["constant", "exponential", "cosine", "one-cycle"] = setting(
        "cosine", "How the learning rate changes over the run."
    )
    warmup_epochs: float = setting(0.0, "Linear rise of the learning rate before a cosine schedule.", "epochs")
    decay: float = setting(0.95, "Factor per epoch of the exponential schedule.", "per epoch")
    final_share: float = setting(0.01, "Learning rate at the end of cosine and one-cycle.", "share of the largest")
    clip_norm: float | None = setting(None, "Longest gradient that is let through; None lets all through.", "L2 norm")
    ema_decay: float = setting(0.0, "Moving average of the weights, used for validation; 0 turns it off.", "per step")

    backbone_share: float = setting(1.0, "Learning rate of a pretrained backbone.", "share of learning_rate")
    frozen_epochs: int = setting(0, "Epochs in which only the head of a pretrained model learns.", "epochs")

    augment: Augment | None = setting(None, "What is changed at random in training images; a name or an Augment.")
    augment_from: int = setting(1, "First epoch with augmentation.", "epoch, from 1")
    augment_until: int | None = setting(None, "First epoch without augmentation again; None for never.", "epoch")

    monitor: str = setting("", "Validation column that picks the best epoch; empty takes the objective's own.")
    patience: int | None = setting(None, "Stop after this many epochs without a better monitor; None never.", "epochs")
    keep: str = setting("best+last", "Checkpoints to keep: 'all', 'best+last', or how many of the latest as a number.")

    device: str = setting("auto", "auto, cpu, cuda, cuda:1 or mps.")
    precision: str = setting("auto", "auto, or as in 'bf16+channels_last+compile' and 'fp32'.")
    deterministic: bool = setting(True, "Same seed, same weights, also on a GPU, at some cost in speed there.")
    threads: int | None = setting(
        None,
        "Threads of torch's kernels, which decide roundings; None: those of the process.",
        "CPU threads",
    )
    seen: Literal["refuse", "count"] = setting(
        "refuse", "What is done with validation and test images that the first weights were trained on."
    )
    loader: Literal["auto", "memory", "stream"] = setting("auto", "Pixels on the device, or streamed from the file.")
    loader_threads: int = setting(1, "Threads that make the next batches, where a step leaves cores idle.", "threads")
    memory_share: float = setting(0.5, "Share of free memory that pixels may take under loader='auto'.", "0 to 1")

    def __post_init__(self) -> None:
        """Refuse values that cannot work, by name."""
        object.__setattr__(self, "augment", as_augment(self.augment))
        object.__setattr__(self, "keep", str(self.keep))
        _check_types(self)
        _check_ranges(self)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The config of a manifest or parameter file.

        Raises:
            MedcoreError: A name is unknown or a value is out of range.
        """
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise MedcoreError(f"TrainConfig has no field {unknown[0]!r}; print(TrainConfig.describe()) lists them")
        return cls(**values)

    @classmethod
    def describe(cls) -> pd.DataFrame:
        """One row per field: name, default, unit, meaning."""
        import pandas as pd

        rows = [
            {"field": f.name, "default": f.default, "unit": f.metadata["unit"], "meaning": f.metadata["help"]}
            for f in dataclasses.fields(cls)
        ]
        return pd.DataFrame(rows).set_index("field")

    def augment_at(self, epoch: int) -> Augment | None:
        """The augmentation of an epoch (counted from 1), None outside ``[augment_from, augment_until)``."""
        inside = self.augment_from <= epoch and (self.augment_until is None or epoch < self.augment_until)
        return self.augment if inside else None


def _check_types(config: TrainConfig) -> None:
    hints = get_type_hints(TrainConfig)
    for name, value in vars(config).items():
        allowed = get_args(hints[name]) or (hints[name],)
        kinds = tuple(kind for kind in allowed if isinstance(kind, type))
        number = isinstance(value, int) and not isinstance(value, bool) and float in kinds
        fits = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
        if value not in [kind for kind in allowed if isinstance(kind, str)] and not number and not fits:
            names = " or ".join(kind.__name__ if isinstance(kind, type) else repr(kind) for kind in allowed)
            raise MedcoreError(f"TrainConfig({name}={value!r}): must be {names}")


_AT_LEAST = {
    "epochs": 1, "batch_size": 1, "pieces": 1, "seed": 0, "frozen_epochs": 0, "augment_from": 1, "augment_until": 1,
    "patience": 1, "loader_threads": 1, "threads": 1, "weight_decay": 0, "warmup_epochs": 0,
}  # fmt: skip
_UP_TO_ONE = ("ema_decay", "decay", "final_share", "momentum", "memory_share", "backbone_share")


def _check_ranges(config: TrainConfig) -> None:
    for name, low in _AT_LEAST.items():
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise MedcoreError(f"TrainConfig({name}={value!r}): must be at least {low}")
    for name in _UP_TO_ONE:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise MedcoreError(f"TrainConfig({name}={value!r}): must be from 0 to 1")
    for name in ("learning_rate", "clip_norm"):
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise MedcoreError(f"TrainConfig({name}={value!r}): must be above 0")
    if config.pieces > config.batch_size:
        raise MedcoreError(f"TrainConfig(pieces={config.pieces}): a batch of {config.batch_size} has fewer images")
    if config.keep not in ("all", "best+last") and not (config.keep.isdigit() and int(config.keep) > 0):
        raise MedcoreError(f"TrainConfig(keep={config.keep!r}): must be 'all', 'best+last' or a number above 0")


def refuse_other_run(manifest: dict[str, Any], facts: dict[str, Any], folder: Path) -> None:
    """Raise unless a checkpoint belongs to this very run, but for fields that cannot change a weight."""
    differing = []
    for field_name in ("architecture", "objective", "precision"):
        if manifest[field_name] != jsonable(facts[field_name]):
            differing.append(f"{field_name} ({manifest[field_name]} there, {facts[field_name]} here)")
    for name in ("train", "validation"):
        there, here = manifest["data"][name], facts["data"][name]
        if there["fingerprint"] != here["fingerprint"]:
            differing.append(f"{name} images ({there['images']} there, {here['images']} here, other fingerprint)")
    mine = jsonable(facts["config"])
    for name, value in manifest["config"].items():
        if name not in WITHOUT_EFFECT and mine.get(name) != value:
            differing.append(f"config.{name} ({value!r} there, {mine.get(name)!r} here)")
    if differing:
        raise MedcoreError(
            f"resume: {folder} belongs to another run. Different: {'; '.join(differing)}. "
            "Set them back, or choose another folder for a new run"
        )


def other_conditions(manifest: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """What may change a rounding, and with it the last digits of the weights: one sentence, said aloud, or none.

    Threads of another process are no such thing: the run goes on with its own number of them.
    """
    differing = [
        f"{name} {manifest[name]} became {facts[name]}"
        for name in ("medcore", "torch")
        if manifest[name] != facts[name]
    ]
    if not differing:
        return []
    note = f"resumed under other versions ({', '.join(differing)}): the last digits of the weights may differ"
    warnings.warn(note, stacklevel=2)
    return [note]
