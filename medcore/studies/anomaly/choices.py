"""Every choice of a study of anomaly detection, with its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medcore.studies.choices import Choices
from medcore.training.config import setting


@dataclass(frozen=True)
class AnomalyChoices(Choices):
    """What is fixed before any image is judged; ``AnomalyChoices().table()`` shows it."""

    seed: int = setting(0, "Of the split, the first weights and the order.")
    scores: Sequence[str] = setting(("mse", "ssim"), "Candidate scores; one is chosen on validation cases.")
    rule: str = setting("youden", "How the threshold is chosen, on validation cases.")
    strict_rule: str = setting("specificity>=0.90", "A second threshold rule that is shown beside it.")
    bottleneck: int = setting(32, "Numbers that an image is squeezed through; also components of the PCA.")
    epochs: int | None = setting(None, "Visits of every normal image; None follows from images_seen.", "epochs")
    images_seen: int = setting(30_000, "Images shown in training altogether, where epochs is None;", "images")
    fewest_epochs: int = setting(
        10, "but at least so many visits: a large set has to be seen more than once,", "epochs"
    )
    most_epochs: int = setting(60, "and at most so many: a small one would be memorised.", "epochs")
    batch_size: int = setting(16, "Images per optimiser step.", "images")
    lr: float = setting(2e-3, "Largest learning rate.", "per step")
    clip_norm: float = setting(1.0, "Longest gradient that is let through.", "L2 norm")
    augment: str | None = setting(None, "What is changed at random in training images.")
    blur_share: float = setting(1 / 16, "Standard deviation of the blurred copy.", "share of the shorter side")
    few_components: int = setting(8, "Components of the PCA that is judged in folds of everybody.")
    short_epochs: int = setting(4, "Length of the short trainings that compare choices.", "epochs")
    short_images: int = setting(400, "Normal images that a short training uses at most.", "images")
    peer: str = setting("", "Pretrained network whose features are the peer; empty leaves it out.")
    peer_weights: str | None = setting(None, "Its weights: imagenet, hub, a file, or None for random ones.")
    peer_sides: tuple[int, int] = setting(
        (112, 224), "It sees images at their own side, but within these limits.", "pixels"
    )
    peer_memory: int = setting(1000, "Patches that PatchCore remembers, out of", "patches")
    peer_candidates: int = setting(20_000, "so many, drawn evenly from the normal images.", "patches")
    peer_share: float = setting(0.5, "Strangest patches whose mean distance is PatchCore's score.", "share")
    fewest_test_images: int = setting(50, "With fewer test images the cross-validated figure leads,", "images")
    fewest_test_units: int = setting(5, "or with fewer test patients (lesions, …) of either kind, normal or abnormal.")
    device: str = setting("cpu", "Where networks are trained.")
    retrain: bool = setting(False, "Train anew instead of reusing an equal model.")
