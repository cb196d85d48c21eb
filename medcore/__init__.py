"""medcore: rigorous medical-imaging studies as notebooks, on your images or on built-in phantoms.

    import medcore

    patches = medcore.assign_splits(medcore.read_set("phantom-crc"))
    train, validation, test = (patches.where(split=side) for side in ("train", "val", "test"))
    model = medcore.build_classifier("small_cnn", len(patches.classes))
    medcore.fit(model, medcore.Classification(patches.classes), train, validation, medcore.TrainConfig(epochs=3))
    scores = medcore.Scores.from_set(test, medcore.predict(model, test))
    print(medcore.interval(scores, "balanced_accuracy"))

These names are imported when they are first used, so that ``import medcore`` costs nothing. Everything else lives in
the rooms of the package, and data flows through them in one direction: ``data`` → ``metrics`` → ``models`` →
``training`` → ``evaluation`` → ``studies`` → ``plots`` → ``reporting`` → ``cli``.

For research and teaching; **not for clinical use**.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcore.data.audit.audit import audit
    from medcore.data.load import read_set
    from medcore.data.patchset import PatchSet
    from medcore.data.splits import assign_splits
    from medcore.evaluation.baselines import run_baselines
    from medcore.evaluation.intervals import interval, paired_difference
    from medcore.evaluation.predict import predict
    from medcore.evaluation.scores import Scores
    from medcore.models.autoencoder import ConvAutoencoder
    from medcore.models.classifier import build_classifier
    from medcore.models.unet import build_unet
    from medcore.models.vae import VAE
    from medcore.studies.validation.models import load
    from medcore.training.config import TrainConfig
    from medcore.training.fit import fit
    from medcore.training.objectives import ELBO, Classification, Reconstruction, Segmentation

__version__ = "0.1.0"

_HOMES = {
    "read_set": "data.load", "PatchSet": "data.patchset", "audit": "data.audit.audit", "assign_splits": "data.splits",
    "build_classifier": "models.classifier", "build_unet": "models.unet", "ConvAutoencoder": "models.autoencoder",
    "VAE": "models.vae", "Classification": "training.objectives", "Segmentation": "training.objectives",
    "Reconstruction": "training.objectives", "ELBO": "training.objectives", "TrainConfig": "training.config",
    "fit": "training.fit", "predict": "evaluation.predict", "run_baselines": "evaluation.baselines",
    "Scores": "evaluation.scores", "interval": "evaluation.intervals", "paired_difference": "evaluation.intervals",
    "load": "studies.validation.models",
}  # fmt: skip

__all__ = [
    "ELBO", "VAE", "Classification", "ConvAutoencoder", "PatchSet", "Reconstruction", "Scores", "Segmentation",
    "TrainConfig", "assign_splits", "audit", "build_classifier", "build_unet", "fit", "interval", "load",
    "paired_difference", "predict", "read_set", "run_baselines",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """One of the names above, from its room."""
    if name not in _HOMES:
        raise AttributeError(f"module 'medcore' has no attribute {name!r}")
    value = getattr(import_module(f"medcore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names offered here, for completion."""
    return sorted({*globals(), *__all__})
