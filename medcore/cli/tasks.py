"""From a task's name and a set to a model, its objective and the parts to train on.

    task = make_task("classifier", patches, model="resnet18", seed=0)
    fit(task.model, task.objective, task.train, task.validation, config, out="runs/a")

The notebooks choose model and objective in the open; the command line chooses them here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from medcore.data.patchset import PatchSet
from medcore.data.stain import typical_staining
from medcore.errors import MedcoreError
from medcore.models.autoencoder import ConvAutoencoder, DenseAutoencoder
from medcore.models.classifier import CLASSIFIER_NAMES, build_classifier
from medcore.models.encoder import PREFIX
from medcore.models.unet import ENCODERS, SmallUNet, build_unet
from medcore.models.vae import VAE
from medcore.studies.heads import TUNED_SIDES, encoder_side, start_from_probe
from medcore.studies.targets.questions import QUESTIONS
from medcore.training.device import choose_device
from medcore.training.objectives import ELBO, Classification, Objective, Reconstruction, Segmentation

PROBED = "+probe"  # behind weights: the last layer starts as a linear probe
MODELS: dict[str, tuple[str, ...]] = {  # the first is the default: the small one for a CPU
    "classifier": ("small_cnn", *(name for name in CLASSIFIER_NAMES if name != "small_cnn")),
    "segmenter": ("small_unet", *ENCODERS),
    "autoencoder": ("conv", "dense"),
    "vae": ("vae",),
}


@dataclass(frozen=True)
class Task:
    """What ``fit`` needs.

    Attributes:
        model: With fresh or pretrained weights.
        validation: Images that pick the best epoch.
        test: Untouched images, None when the set has none.
    """

    model: nn.Module
    objective: Objective
    train: PatchSet
    validation: PatchSet
    test: PatchSet | None


def make_task(
    kind: str,
    patches: PatchSet,
    *,
    model: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    codes: int = 120,
    normal: Sequence[str] = (),
    class_weights: str | None = None,
    uncertain: str = "ignore",
    stain: str | None = None,
    loss: str | None = None,
    beta: float = 1.0,
    kl_warmup: float = 5.0,
    device: str = "cpu",
) -> Task:
    """Choose model, objective and parts for a task.

    Args:
        kind: ``classifier``, ``segmenter``, ``autoencoder`` or ``vae``.
        patches: A set with a split column (``assign_splits``).
        model: One of ``MODELS[kind]``; None takes the first.
        weights: ``imagenet``, a file, or None for random first weights; with ``+probe`` behind it, the last layer of a
            classifier starts as a linear probe on the training images.
        codes: Bottleneck of an autoencoder, latent size of a VAE.
        normal: Classes that an autoencoder or VAE learns; none named takes all that the card does not call abnormal.
        class_weights: ``balanced`` or None (classifier, segmenter).
        uncertain: Of several findings an image, what an uncertain one teaches; as in ``Findings``.
        stain: ``macenko`` repaints images in the typical staining of the training patients (classifier), or None.
        loss: As for the task's objective; None takes ``mse``, of a segmenter ``ce+dice``.
        beta: Weight of a VAE's KL term.
        kl_warmup: Epochs over which beta rises from 0.
        device: Where a probe's features are computed.

    Raises:
        MedcoreError: Something is unknown or does not fit the set.
    """
    model = model or MODELS.get(kind, ("",))[0]
    _refuse_what_does_not_fit(kind, model, weights, loss, stain)
    generative = kind in ("autoencoder", "vae")
    used = normal_only(patches, normal) if generative else labelled(patches, kind)
    train, validation, test = (used.where(split=side) for side in ("train", "val", "test"))
    if not len(train) or not len(validation):
        raise MedcoreError(f"set {patches.card.name!r}: {len(train)} images to train on, {len(validation)} to validate")
    torch.manual_seed(seed)
    if (weights or "").endswith(PROBED):
        network = _from_probe(kind, model, patches, train, weights or "", stain, class_weights, seed, device)
    else:
        staining = typical_staining(train).as_list() if stain else None
        network = _network(kind, model, train, weights, codes, staining)
    learnt: dict[str, Callable[[], Objective]] = {
        "classifier": lambda: _classification(train, class_weights, uncertain),
        "segmenter": lambda: Segmentation(patches.classes, loss=loss or "ce+dice", class_weights=class_weights),
        "vae": lambda: ELBO(beta, kl_warmup, loss or "mse"),
        "autoencoder": lambda: Reconstruction(loss or "mse"),
    }
    return Task(network, learnt[kind](), train, validation, test if len(test) else None)


def _refuse_what_does_not_fit(kind: str, model: str, weights: str | None, loss: str | None, stain: str | None) -> None:
    if kind not in MODELS:
        raise MedcoreError(f"task {kind!r} is unknown; choose one of {', '.join(MODELS)}")
    if model not in MODELS[kind] and not (kind == "classifier" and model.startswith(PREFIX)):
        raise MedcoreError(f"model={model!r}: unknown for a {kind}; choose one of {', '.join(MODELS[kind])}")
    if weights is not None and kind in ("autoencoder", "vae"):
        raise MedcoreError(f"weights={weights!r}: there are no pretrained weights for a {kind}; leave it out")
    if loss is not None and kind == "classifier":
        raise MedcoreError(f"loss={loss!r}: a classifier always learns by cross-entropy; leave it out")
    if stain is not None and kind != "classifier":
        raise MedcoreError(f"stain={stain!r}: a {kind} takes images as they are; leave it out")


def _classification(train: PatchSet, class_weights: str | None, uncertain: str) -> Objective:
    """One class an image, several findings, a grade, or a measured value."""
    task = train.card.task
    if task not in QUESTIONS:
        return Classification(train.classes, class_weights=class_weights)
    if class_weights is not None:
        raise MedcoreError(f"class_weights: {task} is not weighed, so that what is stated can be believed")
    return QUESTIONS[task].objective(train, **({"uncertain": uncertain} if task == "findings" else {}))


def _from_probe(
    kind: str, model: str, patches: PatchSet, train: PatchSet, weights: str, stain: str | None,
    class_weights: str | None, seed: int, device: str,
) -> nn.Module:  # fmt: skip
    """A classifier on all levels of a pretrained encoder, whose last layer is a linear probe on the training images."""
    before = weights.removesuffix(PROBED)
    if before in ("", "random") or kind != "classifier" or patches.card.task in QUESTIONS:
        raise MedcoreError(
            f"weights={weights!r}: a probe needs pretrained weights (as in imagenet{PROBED}), and is for a classifier "
            "of one class an image"
        )
    network = build_classifier(
        model, len(patches.classes), in_channels=patches.shape[2], weights=before, image_size=patches.shape[0],
        side=encoder_side(patches, TUNED_SIDES), levels=True,
        stain=typical_staining(train).as_list() if stain else None,
    )  # fmt: skip
    balanced = class_weights == "balanced"
    start_from_probe(network, train, balanced=balanced, seed=seed, device=choose_device(device))
    return network


def _network(
    kind: str, model: str, patches: PatchSet, weights: str | None, codes: int, stain: list[float] | None
) -> nn.Module:
    height, width, channels = patches.shape
    count = len(patches.classes)
    if kind == "classifier":
        side = (height + width) // 2
        return build_classifier(
            model, count, in_channels=channels, weights=weights, image_size=side, stain=stain,
            **(QUESTIONS[task].head(patches) if (task := patches.card.task) in QUESTIONS else {}),
        )  # fmt: skip
    if kind == "segmenter":
        if model == "small_unet":
            return SmallUNet(count, in_channels=channels)
        return build_unet(model, count, in_channels=channels, weights=weights)
    if kind == "vae":
        return VAE((height, width), channels, codes)
    maker = ConvAutoencoder if model == "conv" else DenseAutoencoder
    return maker((height, width), channels, codes)


def labelled(patches: PatchSet, kind: str) -> PatchSet:
    """The labelled images of a set with at least two classes; for a segmenter, one with masks.

    Raises:
        MedcoreError: There are no masks, or fewer than two classes.
    """
    if kind == "segmenter":
        if not patches.has_masks:
            raise MedcoreError(f"set {patches.card.name!r} has no masks; a segmenter needs a mask for every image")
        return patches
    if patches.card.task in QUESTIONS:
        return QUESTIONS[patches.card.task].labelled(patches)
    if len(patches.classes) < 2:
        raise MedcoreError(f"set {patches.card.name!r} has the classes {patches.classes}; a classifier needs two")
    return patches.select(patches.labels >= 0)


def normal_only(patches: PatchSet, normal: Sequence[str] = ()) -> PatchSet:
    """The images that count as normal: what a detector of anomalies is trained on.

    Args:
        normal: Class names; none takes all classes that the card does not list as abnormal.

    Raises:
        MedcoreError: Neither the card nor the caller says what is normal, or nothing is.
    """
    if not normal and not patches.card.abnormal:
        raise MedcoreError(
            f"set {patches.card.name!r} does not say which classes are abnormal; name the normal ones "
            f"(normal=…, --normal) out of {', '.join(patches.classes)}"
        )
    names = list(normal) or [name for name in patches.classes if name not in patches.card.abnormal]
    chosen = patches.where(label=names)
    if not len(chosen):
        raise MedcoreError(f"set {patches.card.name!r} has no image of the normal classes {', '.join(names)}")
    return chosen
