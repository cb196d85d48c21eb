"""How the values of mask files become class indexes, by one stated rule for a whole set.

Every file is looked at before the rule is chosen: 0/1 beside 0/255, soft edges, numbered objects and palettes in
another order are read rightly, or refused with the option that decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.images import Decoded
from medcore.data.readers.listing import Problems
from medcore.data.sizes import IGNORE
from medcore.errors import MedcoreError

BINARY = ("background", "foreground")
MOST_CLASSES = 32  # more numbered values than this are objects or soft edges unless the user says otherwise
_MANY_OBJECTS = 3  # different numbers of objects among the files of a set
_RULES = {
    "binary": "0 is {0}, everything else is {1}",
    "threshold": "values of {threshold:g} and more are {1}, lower ones {0}",
    "index": "mask values are class indexes, 255 is ignored",
    "map": "mask values are looked up in mask_map; others are refused",
}


@dataclass(frozen=True)
class MaskRule:
    """Mask values to classes.

    Attributes:
        kind: ``binary`` (0 and anything else, also one number per object), ``threshold``, ``index`` or ``map``;
            ``auto`` decides between binary and index by the values of the whole set.
        classes: Class names; for ``auto`` and ``index`` they may be left out and are then numbered.
        lookup: For ``map``: value, or colour ``(r, g, b)``, to class index.
        threshold: For ``threshold``: the lowest value of the foreground.
        by_colour: Files with a palette are read as their colours, not as their indexes.
    """

    kind: str = "auto"
    classes: tuple[str, ...] = ()
    lookup: dict[Any, int] = field(default_factory=dict)
    threshold: float = 0
    by_colour: bool = False

    def describe(self) -> str:
        """The rule as a sentence for the card."""
        names = (*self.classes, *BINARY)[:2]
        return _RULES[self.kind].format(*names, threshold=self.threshold) + (
            "; palettes by their colours" if self.by_colour and self.kind != "map" else "")  # fmt: skip


@dataclass(frozen=True)
class MaskLook:
    """What one mask file holds: its values, whether they number objects 1…n, and the colours of its palette."""

    values: frozenset[int]
    numbered: bool = False
    palette: tuple[tuple[int, tuple[int, int, int]], ...] = ()


def rule_from_options(
    classes: list[str] | None,
    mask_map: dict[Any, str] | None = None,
    mask_threshold: float | None = None,
    mask_rule: str | None = None,
) -> MaskRule:
    """The rule that the user's options ask for.

    Args:
        classes: Class names; two names without a map mean background and foreground.
        mask_map: ``{0: "background", 128: "benign", "#ff0000": "malignant", 255: "ignore"}``.
        mask_threshold: The lowest value of the foreground, for soft masks.
        mask_rule: ``binary`` (everything but 0 is foreground) or ``index`` (values are class indexes).

    Raises:
        MedcoreError: A key is neither a number nor a colour, or a class is not in ``classes``.
    """
    if mask_rule not in (None, "binary", "index"):
        raise MedcoreError(f"mask_rule must be 'binary' or 'index', not {mask_rule!r}")
    if sum(option is not None for option in (mask_map or None, mask_threshold, mask_rule)) > 1:
        raise MedcoreError("mask_map, mask_threshold and mask_rule exclude each other; give one of them")
    two = tuple(classes) if classes and len(classes) == 2 else BINARY
    if mask_threshold is not None:
        return MaskRule("threshold", two, threshold=float(mask_threshold))
    if mask_rule == "binary":
        return MaskRule("binary", two)
    if not mask_map:
        return MaskRule("auto" if mask_rule is None else "index", tuple(classes or ()))
    named = [name for name in mask_map.values() if name != "ignore"]
    # class 0 is what all metrics leave out: the background, wherever the map names it
    first = sorted(dict.fromkeys(named), key=lambda name: name.casefold() != "background")
    names = tuple(classes) if classes else tuple(first)
    unknown = sorted(set(named) - set(names))
    if unknown:
        raise MedcoreError(f"mask_map names {unknown[0]!r}, which is not among the classes {', '.join(names)}")
    lookup = {_key(key): IGNORE if name == "ignore" else names.index(name) for key, name in mask_map.items()}
    return MaskRule("map", names, lookup, by_colour=any(isinstance(key, tuple) for key in lookup))


def look_at(path: Path, decoded: Decoded) -> MaskLook:
    """What a decoded mask holds; colours are refused."""
    grey = grey_values(decoded.pixels, path)
    found = np.unique(grey)
    colours = decoded.palette
    used = [] if colours is None else [k for k in found.tolist() if k < len(colours)]
    palette = tuple((k, (int(r), int(g), int(b))) for k in used for r, g, b in [colours[k]])  # type: ignore[index]
    return MaskLook(frozenset(found.tolist()), _numbers_objects(grey, found), palette)


def _numbers_objects(values: np.ndarray, found: np.ndarray) -> bool:
    """Whether the values are 1…n without a gap and each is one piece."""
    from scipy import ndimage

    objects = found[found > 0]
    if len(objects) == 0 or not np.array_equal(objects, np.arange(1, len(objects) + 1)):
        return False
    boxes = ndimage.find_objects(values.astype(np.int32))
    whole = [ndimage.label(values[box] == number)[1] == 1 for number, box in enumerate(boxes, 1) if box is not None]
    return sum(whole) >= 0.9 * len(whole)


def palettes_differ(looks: Sequence[MaskLook], name: str) -> bool:
    """Whether one index means several colours in a set, so that its palettes must be read by colour.

    Raises:
        MedcoreError: They differ, and the colours are not grey.
    """
    colours: dict[int, set[tuple[int, int, int]]] = {}
    for look in looks:
        for index, colour in look.palette:
            colours.setdefault(index, set()).add(colour)
    if all(len(group) == 1 for group in colours.values()):
        return False
    used = sorted({colour for group in colours.values() for colour in group})
    if any(len(set(colour)) > 1 for colour in used):
        shown = ",".join(f"#{r:02x}{g:02x}{b:02x}=NAME" for r, g, b in used[:4])
        raise MedcoreError(
            f"{name}: the palettes of the masks differ: one index means several colours; say what each colour means: "
            f"--mask-map '{shown}' (in Python mask_map={{...}})"
        )
    return True


def decide_rule(rule: MaskRule, looks: Sequence[MaskLook], name: str, problems: Problems) -> MaskRule:
    """Decide an ``auto`` rule by what every mask of a set holds.

    Raises:
        MedcoreError: Values may mean several things (soft edges, numbered objects, indexes with gaps), or a class has
            no name; the message says the option that decides.
    """
    if rule.kind not in ("auto", "index"):
        return rule
    values = frozenset().union(*(look.values for look in looks)) if looks else frozenset()
    fronts = {look.values - {0} for look in looks if look.values - {0}}
    binary = rule.classes if len(rule.classes) == 2 else BINARY
    if rule.kind == "auto" and all(len(front) == 1 for front in fronts):  # no file holds more than one value beside 0
        single = {value for front in fronts for value in front}
        if len(single) <= 1 or single == {1, IGNORE}:
            if len(single) > 1:
                problems.warn(
                    "some masks hold 0 and 1, others 0 and 255: everything but 0 is foreground in all of them"
                )
            elif single - {1, IGNORE}:
                problems.warn(f"masks hold 0 and {min(single)} only: {min(single)} is foreground")
            return replace(rule, kind="binary", classes=binary)
    indexes = sorted(values - {IGNORE})
    count = max(len(rule.classes), indexes[-1] + 1)
    if rule.kind == "auto":
        _refuse_objects(rule, looks, name)
    gaps = not rule.classes and (indexes != list(range(count)) or (count > MOST_CLASSES and rule.kind == "auto"))
    if gaps or (rule.classes and indexes[-1] >= len(rule.classes)):
        fit = "are no class indexes without gaps" if gaps else f"do not fit {len(rule.classes)} classes"
        if gaps and indexes == list(range(count)):
            fit = f"would make {count} classes"
        raise MedcoreError(
            f"{name}: masks hold the values {_some(indexes)}, which {fit}; for masks with soft edges say where the "
            "foreground begins (--mask-threshold 128); for classes what each value means (--mask-map "
            "0=background,128=tumour,255=ignore; in Python mask_map={0: 'background', ...})"
        )
    _weigh_ignored(looks, name, problems)
    names = rule.classes or (*BINARY,) if count == 2 else rule.classes or _numbered(count)
    return replace(rule, kind="index", classes=tuple(names))


def _refuse_objects(rule: MaskRule, looks: Sequence[MaskLook], name: str) -> None:
    counts = {len(look.values - {0}) for look in looks if look.values - {0}}
    numbered = all(look.numbered for look in looks if look.values - {0})
    if not rule.classes and numbered and (len(counts) >= _MANY_OBJECTS or max(counts, default=0) > MOST_CLASSES):
        raise MedcoreError(
            f"{name}: the masks number pieces 1, 2, … {max(counts)}, another count in each file: objects of one "
            f"class, or "
            "classes? --mask-rule binary makes all of them foreground, --mask-rule index makes each number a class"
        )


def _weigh_ignored(looks: Sequence[MaskLook], name: str, problems: Problems) -> None:
    """255 is 'ignore' where it stands beside classes; files that hold nothing but 0 and 255 may mean something else."""
    bare = [look for look in looks if IGNORE in look.values and look.values <= {0, IGNORE}]
    if len(bare) > 0.1 * len(looks):
        raise MedcoreError(
            f"{name}: {len(bare)} masks hold only 0 and 255, others classes and 255: is 255 foreground or 'ignore'? "
            f"Say what "
            "each value means: --mask-map 0=background,1=NAME,255=ignore"
        )
    if bare:
        problems.warn(f"255 is ignored in all masks; {len(bare)} of them hold nothing else but 0")


def to_classes(rule: MaskRule, values: np.ndarray, path: Path, mask_label: int | None = None) -> np.ndarray:
    """Class indexes (255 = ignore) of one mask.

    Args:
        values: As decoded. **Shape** ``(H, W)``, or ``(H, W, 3)`` for colours.
        mask_label: The class of every foreground pixel, for binary masks whose class is known per image.

    Raises:
        MedcoreError: A value or colour is not in the map.
    """
    if rule.kind == "threshold":
        level = values if values.ndim == 2 else values @ np.array([0.299, 0.587, 0.114])
        return (level >= rule.threshold).astype(np.uint8)
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
        found = np.unique(values.reshape(-1, 3), axis=0)
        shown = ",".join(f"#{r:02x}{g:02x}{b:02x}=NAME" for r, g, b in found[:4].tolist())
        raise MedcoreError(
            f"mask '{path}' is in colours ({len(found)}); say what they mean with mask_map: --mask-map '{shown}"
            + (",...'" if len(found) > 4 else "'")
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
