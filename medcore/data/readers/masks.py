"""How the values of mask files become class indexes, by one stated rule for a whole set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.sizes import IGNORE
from medcore.errors import MedcoreError

BINARY = ("background", "foreground")
_RULES = {
    "binary": "0 is {0}, everything else is {1}",
    "index": "mask values are class indexes, 255 is ignored",
    "map": "mask values are looked up in mask_map; others are refused",
}


@dataclass(frozen=True)
class MaskRule:
    """Mask values to classes.

    Attributes:
        kind: ``binary`` (0 and anything else, also one number per object), ``index`` or ``map``; ``auto`` decides
            between binary and index by the values of the whole set.
        classes: Class names; for ``auto`` and ``index`` they may be left out and are then numbered.
        lookup: For ``map``: value, or colour ``(r, g, b)``, to class index.
    """

    kind: str = "auto"
    classes: tuple[str, ...] = ()
    lookup: dict[Any, int] = field(default_factory=dict)

    def describe(self) -> str:
        """The rule as a sentence for the card."""
        return _RULES[self.kind].format(*(*self.classes, *BINARY)[:2])


def rule_from_options(classes: list[str] | None, mask_map: dict[Any, str] | None) -> MaskRule:
    """The rule that the user's options ask for.

    Args:
        classes: Class names; two names without a map mean background and foreground.
        mask_map: ``{0: "background", 128: "benign", "#ff0000": "malignant", 255: "ignore"}``.

    Raises:
        MedcoreError: A key is neither a number nor a colour, or a class is not in ``classes``.
    """
    if not mask_map:
        return MaskRule("auto", tuple(classes or ()))
    named = [name for name in mask_map.values() if name != "ignore"]
    names = tuple(classes) if classes else tuple(dict.fromkeys(named))
    unknown = sorted(set(named) - set(names))
    if unknown:
        raise MedcoreError(f"mask_map names {unknown[0]!r}, which is not among the classes {', '.join(names)}")
    lookup = {_key(key): IGNORE if name == "ignore" else names.index(name) for key, name in mask_map.items()}
    return MaskRule("map", names, lookup)


def decide_rule(rule: MaskRule, values: set[int], name: str) -> MaskRule:
    """Decide an ``auto`` rule by all values that occur in a set's masks.

    Raises:
        MedcoreError: The values are neither binary nor indexes without gaps, or a class has no name.
    """
    if rule.kind != "auto":
        return rule
    indexes = sorted(values - {IGNORE})
    if values <= {0, 255}:
        return MaskRule("binary", rule.classes if len(rule.classes) == 2 else BINARY)
    count = max(len(rule.classes), indexes[-1] + 1)
    gaps = not rule.classes and indexes != list(range(count))
    if gaps or (rule.classes and indexes[-1] >= len(rule.classes)):
        fit = "are no class indexes without gaps" if gaps else f"do not fit {len(rule.classes)} classes"
        raise MedcoreError(
            f"{name}: masks hold the values {_some(indexes)}, which {fit}; say "
            "what they mean with mask_map, as in {0: 'background', 128: 'gland', 255: 'ignore'}"
        )
    names = rule.classes or (*BINARY,) if count == 2 else rule.classes or _numbered(count)
    return MaskRule("index", tuple(names))


def to_classes(rule: MaskRule, values: np.ndarray, path: Path, mask_label: int | None = None) -> np.ndarray:
    """Class indexes (255 = ignore) of one mask.

    Args:
        rule: A settled rule.
        values: As decoded. **Shape** ``(H, W)``, or ``(H, W, 3)`` for colours.
        path: For messages.
        mask_label: The class of every foreground pixel, for binary masks whose class is known per image.

    Raises:
        MedcoreError: A value or colour is not in the map.
    """
    values = values if rule.kind == "map" else grey_values(values, path)
    if rule.kind == "binary":
        return np.where(values > 0, 1 if mask_label is None else mask_label, 0).astype(np.uint8)
    if rule.kind == "index":
        _refuse_unknown(values, set(range(len(rule.classes))) | {IGNORE}, path)
        return values.astype(np.uint8)
    return _look_up(rule, values, path)


def grey_values(values: np.ndarray, path: Path) -> np.ndarray:
    """One channel of a mask that was saved with three equal ones; real colours are refused. **Shape** ``(H, W)``."""
    if values.ndim == 2:
        return values
    if not (values == values[..., :1]).all():
        raise MedcoreError(
            f"mask '{path}' is in colours; say what they mean with mask_map, as in {{'#000000': 'background', "
            "'#ff0000': 'gland'}"
        )
    return values[..., 0]


def _look_up(rule: MaskRule, values: np.ndarray, path: Path) -> np.ndarray:
    flat = values if values.ndim == 2 else values.astype(np.int64) @ np.array([65536, 256, 1])
    known = {}
    for key, index in rule.lookup.items():
        if values.ndim == 3:
            red, green, blue = key if isinstance(key, tuple) else (key, key, key)
            known[red * 65536 + green * 256 + blue] = index
        elif not isinstance(key, tuple):
            known[key] = index
        elif len(set(key)) == 1:
            known[key[0]] = index
    _refuse_unknown(flat, set(known), path)
    result = np.full(flat.shape, IGNORE, dtype=np.uint8)
    for value, index in known.items():
        result[flat == value] = index
    return result


def _refuse_unknown(values: np.ndarray, known: set[int], path: Path) -> None:
    unknown = sorted(set(np.unique(values).tolist()) - known)
    if unknown:
        shown = [f"#{value:06x}" if value > 65535 else str(value) for value in unknown]
        raise MedcoreError(
            f"mask '{path}' holds the value {_some(shown)}, which no class has; correct the mask, or name the value in "
            "mask_map"
        )


def _key(key: Any) -> Any:
    if isinstance(key, str) and key.startswith("#") and len(key) == 7:
        return tuple(int(key[k : k + 2], 16) for k in (1, 3, 5))
    if isinstance(key, (tuple, list)) and len(key) == 3:
        return tuple(int(part) for part in key)
    try:
        return int(key)
    except (TypeError, ValueError) as error:
        raise MedcoreError(
            f"mask_map key {key!r} is neither a mask value (0..65535) nor a colour such as '#ff0000'"
        ) from error


def _numbered(count: int) -> tuple[str, ...]:
    return ("background", *(f"class {k}" for k in range(1, count)))


def _some(values: list[Any]) -> str:
    return ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
