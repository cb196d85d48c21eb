"""Every choice of the diagnosis of patients, with its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medcore.studies.choices import Choices
from medcore.training.config import setting

EVIDENCE = "evidence"
RED, PEAK = "red share", "brown peak"


@dataclass(frozen=True)
class DiagnosisChoices(Choices):
    """What is fixed before any patient is diagnosed; ``DiagnosisChoices().table()`` shows it."""

    seed: int = setting(0, "Of the folds, first weights and drawings.")
    folds: int = setting(5, "Outer folds over patients, and inner ones to choose in.", "folds")
    repeats: int = setting(1, "How often the patients are divided into folds, where there is no HoldOut.", "times")
    rule: str = setting("youden", "How thresholds are chosen, on training patients.")
    aggregations: tuple[str, ...] = setting(
        (EVIDENCE, "share", "mean", "top3", "noisy_or"),
        "Ways from windows to a patient's score; the first within `tolerance` of the best is taken.",
    )
    tolerance: float = setting(
        1.0, "A simpler score is preferred up to this distance from the best.", "standard errors"
    )
    baseline_score: str = setting(RED, "Window score of the trivial rule.")
    baseline_aggregation: str = setting("top3", "How the trivial rule scores a patient from the windows.")

    fewest_cropped: int = setting(
        10, "Cropped windows decide where so many healthy and so many infected patients have them, else Annotated.",
        "patients",
    )  # fmt: skip
    fewest_other_windows: int = setting(
        200, "One autoencoder serves all folds where healthy patients who are not diagnosed have so many,", "windows"
    )
    fewest_other_patients: int = setting(8, "and are so many; else one is trained for every fold.", "patients")
    fewest_healthy_windows: int = setting(8, "An autoencoder is not trained on fewer.", "windows")

    autoencoder: bool = setting(True, "Score windows also by what an autoencoder cannot reconstruct.")
    repeat_autoencoder: Literal["chosen", "always", "never"] = setting(
        "chosen", "Train autoencoders for further repeats: only where the first one chose their scores, always, never."
    )
    size: int = setting(64, "Side of the windows that autoencoders see.", "pixels")
    epochs: int = setting(15, "Visits of every healthy window.", "epochs")
    bottleneck: int = setting(64, "Numbers that describe a window.")
    batch_size: int = setting(16, "Windows per step.", "windows")
    learning_rate: float = setting(2e-3, "Largest of a one-cycle schedule.", "per step")
    most_windows: int = setting(500, "Healthy windows that are learnt from, drawn evenly over patients.", "windows")
    monitor_share: float = setting(1 / 8, "Healthy patients whose windows pick the epoch.", "share")
    attention_stages: int = setting(2, "Encoder stages whose strongest responses ABMIL sees.", "stages")
    attention_epochs: int = setting(100, "Visits of every patient by ABMIL.", "epochs")
    encoder: str = setting("", "Pretrained network whose features of windows are used, too; empty for none.")
    encoder_weights: str = setting("imagenet", "Its weights: imagenet, hub, or a file.")
    encoder_sides: tuple[int, int] = setting(
        (112, 224), "It sees windows at their own side, but within these limits.", "pixels"
    )
    few_windows: int = setting(3, "A patient with no more is said to have few.", "windows")
    device: str = setting("cpu", "Where autoencoders are trained.")
    retrain: bool = setting(False, "Train autoencoders anew instead of reusing equal ones.")


DEFAULT = DiagnosisChoices()
