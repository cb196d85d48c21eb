"""One number with its interval, and the one printer of it: tables, figures, sentences and front pages all call it.

print(estimate)             # 0.832 (0.790–0.871), 57 of 60
print(f"{estimate:ci}")     # 0.832 (95 % CI 0.790–0.871), 57 of 60: where a reader meets the first interval
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
    "hd95_um": "HD95 (µm)", "hd95_pixels": "HD95 (pixels)", "foreground_hd95_um": "foreground HD95 (µm)",
    "foreground_hd95_pixels": "foreground HD95 (pixels)", "mse": "MSE", "mae": "MAE", "ssim": "SSIM", "psnr": "PSNR",
    "rmse": "RMSE", "r2": "R²", "quadratic_kappa": "quadratic-weighted kappa", "within_one": "share within one grade",
    "ece": "ECE", "elbo": "ELBO", "kl": "KL", "fpr": "FPR", "tpr": "TPR", "ppv": "PPV", "npv": "NPV",
    "brier": "Brier score", "aurc": "area under risk and coverage", "coverage": "coverage of conformal sets",
}  # fmt: skip


LOWER_IS_BETTER = ("hd95", "foreground_hd95", "brier", "calibration_error", "ece", "mse", "mae", "rmse")


def metric_name(name: str) -> str:
    """``balanced_accuracy`` as ``balanced accuracy``, acronyms in capitals."""
    words = str(name).split("_")
    return METRICS.get(str(name)) or " ".join(METRICS.get(word, word) for word in words)


def with_article(name: str) -> str:
    """``an AUROC``, ``a balanced accuracy``: the name of a metric behind its article."""
    return f"{'an' if name[:1] in 'AEIOaeio' else 'a'} {name}"


def cases_of(number: int, unit: str) -> str:
    """``32 patients``, ``1 lesion``, ``427 patches``; thin spaces between thousands from ten thousand on."""
    return f"{_thousands(number)} {unit if number == 1 else plural(unit)}"


def plural(unit: str) -> str:
    """``patients``, ``patches``."""
    return f"{unit}es" if unit.endswith(("ch", "s", "x")) else f"{unit}s"


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
        counted: Of a proportion of cases, how many of the ``n`` (57 of 60); None for other metrics.
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
    counted: int | None = None

    def __post_init__(self) -> None:
        """Refuse NaN, and a None that nobody explains."""
        for key in ("value", "low", "high"):
            number = getattr(self, key)
            if number is not None and not math.isfinite(number):
                raise MedcoreError(f"estimate {self.name!r}: {key} is {number}; give None and say why in `note`")
            object.__setattr__(self, key, None if number is None else float(number))
        object.__setattr__(self, "n", int(self.n))
        object.__setattr__(self, "counted", None if self.counted is None else int(self.counted))
        if None in (self.value, self.low, self.high) and not self.note:
            raise MedcoreError(f"estimate {self.name!r}: something is not estimable; say why in `note`")
        if self.unit not in UNITS:
            raise MedcoreError(f"estimate {self.name!r}: unit {self.unit!r} is none of {', '.join(UNITS)}")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        """As ``printed`` shows it."""
        return printed(**self.as_dict())

    def __format__(self, form: str) -> str:
        """``{estimate}``, or ``{estimate:ci}`` with the words "95 % CI" for the first one that a reader meets.

        Raises:
            MedcoreError: Another format.
        """
        if form not in ("", "ci"):
            raise MedcoreError(f"estimate {self.name!r}: format {form!r} is not known; use '' or 'ci'")
        return printed(**self.as_dict(), first=form == "ci")


def printed(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    name: str = "",
    method: str = "",
    note: str = "",
    level: float = 0.95,
    n: int | None = None,
    counted: int | None = None,
    first: bool = False,
    **_: object,
) -> str:
    """An estimate as a reader sees it, from its fields (also those of a row of ``results.json``).

    Digits match the width of the interval: ``0.83 (0.79–0.87)``, ``−0.04 (−0.10 to 0.03)``; shares have at least two,
    an AUROC from 0.95 on three; nothing but an exact 0 or 1 is printed as one.

    Args:
        value: None is not estimable.
        low: Lower end, None without interval.
        method: ``exact`` where nothing can vary.
        note: Says why there is no value or no interval.
        level: Confidence level, named at the first use.
        counted: How many of them, of a proportion.
        first: Whether it is the first interval that a reader meets: ``0.83 (95 % CI 0.79–0.87)``.
    """
    if value is None or not math.isfinite(value):
        return f"not estimable: {note}" if note else "not estimable"
    digits = printed_decimals(low, high, value=value, name=name)
    cases = "" if counted is None or n is None else f", {_thousands(counted)} of {_thousands(n)}"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"{_number(value, digits)} (no interval: {note}){cases}" if note else f"{_number(value, digits)}{cases}"
    if method == "exact":
        return f"{_number(value, digits)} (exact){cases}"
    shown = f"{level * 100:.3g} % CI " if first else ""
    limits = [_number(limit, digits) for limit in (low, high)]
    between = "–" if all(limit[0].isdigit() for limit in limits) else " to "  # not beside a sign
    return f"{_number(value, digits)} ({shown}{between.join(limits)}){cases}"


def printed_p(p: float) -> str:
    """A p value as journals print it: ``P < .001``, ``P = .004``, ``P = .03``, ``P > .99``."""
    if p < 0.001:
        return "P < .001"
    if p > 0.99:
        return "P > .99"
    return f"P = {p:.3f}".replace("0.", ".") if p < 0.01 else f"P = {p:.2f}".replace("0.", ".")


def gain_in_words(difference: Estimate) -> str:
    """What a paired difference shows: the interval decides, not the value; of distances and errors, less is a gain."""
    if difference.low is None or difference.high is None:
        return "not known to be a gain, there is no interval"
    below = difference.name.startswith(LOWER_IS_BETTER)
    if difference.low > 0:
        return "a loss" if below else "a gain"
    if difference.high < 0:
        return "a gain" if below else "a loss"
    return "no gain shown, the interval includes zero"


def printed_decimals(low: float | None, high: float | None, *, value: float | None = None, name: str = "") -> int:
    """How many decimals an interval deserves: the last digit is a twentieth to a fifth of its width.

    Shares (all numbers from -1 to 1) get at least two, an AUROC from 0.95 on three. Without an interval, or with one of
    no width, numbers below 10 get two, larger ones three digits.
    """
    known = [abs(number) for number in (value, low, high) if number is not None] or [0.0]
    largest, least = max(known), 0
    if largest <= 1:
        least = 3 if name.startswith("auroc") and value is not None and 0.95 <= value < 1 else 2
    if low is None or high is None or high - low < 1e-12:
        return max(least, 2 if largest < 10 else 1 if largest < 100 else 0)
    return max(least, min(6, math.ceil(-math.log10((high - low) / 5) - 1e-9)))


def _number(value: float, decimals: int) -> str:
    """With a real minus; more digits where a value that is not 0, 1 or -1 would be printed as such."""
    if abs(value) < 1e-12:
        return f"{0:.{decimals}f}"
    if abs(value) < 1 - 1e-12:
        most = max(4, decimals)
        while decimals < most and round(abs(value), decimals) in (0, 1):
            decimals += 1
        if round(abs(value), decimals) in (0, 1):
            end = f"{abs(round(abs(value)) - 10.0**-decimals):.{decimals}f}"
            return (">" if (abs(value) > 0.5) == (value > 0) else "<") + ("−" if value < 0 else "") + end
    return f"{value:.{decimals}f}".replace("-", "−")


def _thousands(number: int) -> str:
    """Thin spaces between thousands from ten thousand on."""
    return f"{number:,}".replace(",", "\u202f") if number >= 10_000 else str(number)


def not_estimable(
    name: str, why: str, *, n: int, unit: str, split: str, level: float = 0.95, value: float | None = None
) -> Estimate:
    """An estimate without interval (and mostly without value), explained by ``why``."""
    return Estimate(name, value, None, None, n, unit, split, level, "none", why)
