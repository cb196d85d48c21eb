"""Every figure, one file per family, offered here by name: ``plots.roc_curves(…)``, ``plots.forest(…)``.

A plot takes its data first and its options by keyword, draws into ``ax`` (or new Axes) and returns the Axes.
``plots.show(axes, alt="…")`` puts it into a notebook with alt text and closes it; ``plots.explore`` adds controls in
JupyterLab. A family is imported when one of its figures is first drawn.
"""

from importlib import import_module
from typing import Any

FAMILIES = {
    "architecture": ("autoencoder_diagram", "network_diagram", "network_text", "unet_diagram"),
    "calibration": ("calibration_before_after", "decision_curves", "reliability_diagram"),
    "confusion": ("confusion_heatmap", "operating_point", "present"),
    "curves": (
        "fold_roc_curves", "learning_curve", "learning_curves", "risk_coverage_curves", "robustness_curves",
        "roc_curves",
    ),
    "data": ("class_counts", "copies_found", "images_per_patient"),
    "diagnosis": ("fold_results", "patient_gallery", "sorted_patient_scores"),
    "display": ("show",),
    "distributions": ("colour_by_class", "score_histograms", "stain_by_patient"),
    "embedding": (
        "latent_by_group", "latent_scatter", "latent_space", "latent_step", "latent_traversal",
        "samples_with_neighbours",
    ),
    "images": (
        "class_examples", "image_grid", "image_pairs", "processing_steps", "varied_rows", "worst_mistakes",
    ),
    "interactive": ("Choice", "Slider", "explore"),
    "intervals": ("forest",),
    "maps": ("errors_above", "heat_overlays", "reconstruction_rows"),
    "segmentation": (
        "dice_per_case", "mask_overlay", "mask_overlays", "masked_examples", "segmentation_rows", "signed_error",
        "tiling_artefacts",
    ),
    "slides": ("slide_maps",),
    "targets": ("stated_and_true", "truth_and_answer"),
}  # fmt: skip
_HOMES = {name: family for family, names in FAMILIES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A figure by its name, from its family."""
    if name not in _HOMES:
        raise AttributeError(f"module 'medcore.plots' has no attribute {name!r}")
    return getattr(import_module(f"medcore.plots.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The figures and their families, for completion."""
    return sorted({*globals(), *_HOMES, *FAMILIES})
