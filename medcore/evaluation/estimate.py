"""What metrics and cases are called where people read them: in tables, on axes, in sentences.

One number with its interval, as every table, figure and ``results.json`` shows it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, get_args

from medcore.data.card import Group
from medcore.errors import MedcoreError

METRICS = {
    "auroc": "AUROC", "auc": "AUC", "ap": "average precision", "auprc": "AUPRC", "f1": "F1", "macro_f1": "macro F1",
    "mcc": "MCC", "iou": "IoU", "miou": "mIoU", "dice": "Dice", "mean_dice": "mean Dice", "nsd": "NSD", "hd95": "HD95",
    "hd95_um": "HD95 (µm)", "hd95_pixels": "HD95 (pixels)", "mse": "MSE", "mae": "MAE", "ssim": "SSIM", "psnr": "PSNR",
    "ece": "ECE", "elbo": "ELBO", "kl": "KL", "fpr": "FPR", "tpr": "TPR", "ppv": "PPV", "npv": "NPV",
}  # fmt: skip


def metric_name(name: str) -> str:
    """``balanced_accuracy`` as ``balanced accuracy``, acronyms in capitals."""
    words = str(name).split("_")
    return METRICS.get(str(name)) or " ".join(METRICS.get(word, word) for word in words)


def cases_of(number: int, unit: str) -> str:
    """``32 patients``, ``1 lesion``, ``427 patches``; thin spaces between thousands from ten thousand on."""
    plural = "" if number == 1 else "es" if unit.endswith(("ch", "s", "x")) else "s"
    shown = f"{number:,}".replace(",", "\u202f") if number >= 10_000 else str(number)
    return f"{shown} {unit}{plural}"


UNITS = ("patch", "image", "window", "pixel", "case", *(unit for unit in get_args(Group) if unit != "image"))


@dataclass(frozen=True)
class Estimate:
    """A metric with its confidence interval; what cannot be estimated is None with the reason, never NaN.

    Attributes:
        name: Such as ``auroc``, ``balanced_accuracy``, ``dice``.
        value: The point estimate, None when not estimable.
        low: Lower end of the interval, None when not estimable.
        high: Upper end of the interval, None when not estimable.
        n: How many units the value was computed from.
        unit: What was counted: ``patch``, ``image``, ``patient``, ``lesion``, ``pixel`` or ``case``.
        split: ``train``, ``val``, ``test``, or how the cases were held out (``folds``).
        level: Confidence level, 0 to 1.
        method: How the interval was made, for the reader.
        note: What the reader must know; says why where something is None.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    split: str
    level: float = 0.95
    method: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse NaN, and a None that nobody explains."""
        for key in ("value", "low", "high"):
            number = getattr(self, key)
            if number is not None and not math.isfinite(number):
                raise MedcoreError(f"estimate {self.name!r}: {key} is {number}; give None and say why in `note`")
            object.__setattr__(self, key, None if number is None else float(number))
        object.__setattr__(self, "n", int(self.n))
        if None in (self.value, self.low, self.high) and not self.note:
            raise MedcoreError(f"estimate {self.name!r}: something is not estimable; say why in `note`")
        if self.unit not in UNITS:
            raise MedcoreError(f"estimate {self.name!r}: unit {self.unit!r} is none of {', '.join(UNITS)}")

    def as_dict(self) -> dict[str, Any]:
        """The ten fields as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        """Digits match the width of the interval: ``0.83 (0.79–0.87)``; ``0.50 (exact)`` where nothing can vary."""
        if self.value is None:
            return f"not estimable: {self.note}"
        digits = printed_decimals(self.low, self.high)
        if self.low is None or self.high is None:
            return f"{_number(self.value, digits)} (no interval: {self.note})"
        if self.method == "exact":
            return f"{_number(self.value, digits)} (exact)"
        low, high = _number(self.low, digits), _number(self.high, digits)
        return f"{_number(self.value, digits)} ({low}{' to ' if self.low < 0 else '–'}{high})"


def gain_in_words(difference: Estimate) -> str:
    """What a paired difference shows: the interval decides, not the value."""
    if difference.low is None or difference.high is None:
        return "not known to be a gain, there is no interval"
    if difference.low > 0:
        return "a gain"
    return "a loss" if difference.high < 0 else "no gain shown, the interval includes zero"


def printed_decimals(low: float | None, high: float | None) -> int:
    """How many decimals an interval deserves: the last digit is a twentieth to a fifth of its width.

    Without an interval, or with one of no width, it is two.
    """
    if low is None or high is None or high <= low:
        return 2
    return min(6, max(0, math.ceil(-math.log10((high - low) / 5) - 1e-9)))


def _number(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def not_estimable(
    name: str, why: str, *, n: int, unit: str, split: str, level: float = 0.95, value: float | None = None
) -> Estimate:
    """An estimate without interval (and mostly without value), explained by ``why``."""
    return Estimate(name, value, None, None, n, unit, split, level, "none", why)
