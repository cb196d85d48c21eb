"""The card of a set: everything a reader or a report must know about it besides pixels and table."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from medcore.errors import MedcoreError

Task = Literal["classification", "findings", "ordinal", "regression", "segmentation", "anomaly", "diagnosis"]
Group = Literal["patient", "lesion", "image"]
Case = Literal["image", "patch", "window"]


@dataclass(frozen=True)
class Card:
    """What a set is, where it comes from and how it was made; stored as ``meta.json`` inside the set.

    Attributes:
        name: Short name, as in ``phantom-crc``; also names the prepared file.
        title: One line for people.
        classes: Class names; a label is an index into this list. With the task ``findings`` an image may show
            several of them, or none: ``PatchSet.findings``. With ``ordinal`` they are grades, lowest first; with
            ``regression`` the one name says what is measured: ``PatchSet.values``.
        abnormal: The classes that count as abnormal (the positives of an anomaly detector).
        task: What the set is made for.
        licence: SPDX name or a sentence.
        citation: Reference with DOI.
        homepage: Where the set is published.
        pixel_size_um: Physical pixel size in micrometres, None when unknown.
        group: What the ``patient`` column holds: the unit that must not stand on two sides of a split.
        case: What one image of the set is: a whole image, a patch cut out of a slide, an IHC window.
        patients_known: False when no patient is known and each source image stands for itself.
        synthetic: True for phantoms.
        recipe: How it was made: reader, policy, size, seed, ...
        conversions: Decode conversions with their counts, as in ``{"EXIF rotation applied": 12}``.
        excluded: Images left out, each ``{"file": ..., "row": ..., "reason": ...}``.
        warnings: Sentences that every report must show.
        reading: Short lines on what was understood: which folders and columns are what, what was passed over and why.
    """

    name: str
    title: str = ""
    classes: list[str] = field(default_factory=list)
    abnormal: list[str] = field(default_factory=list)
    task: Task = "classification"
    licence: str = "unknown"
    citation: str = ""
    homepage: str = ""
    pixel_size_um: float | None = None
    group: Group = "patient"
    case: Case = "image"
    patients_known: bool = True
    synthetic: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)
    conversions: dict[str, int] = field(default_factory=dict)
    excluded: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reading: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse cards that contradict themselves."""
        if len(set(self.classes)) != len(self.classes):
            raise MedcoreError(f"card of {self.name!r}: a class name stands twice in {self.classes}")
        unknown = [name for name in self.abnormal if name not in self.classes]
        if unknown:
            raise MedcoreError(
                f"card of {self.name!r}: abnormal classes {unknown} are not among the classes {self.classes}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The card as plain JSON types."""
        return asdict(self)

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Card:
        """Build a card from JSON values; fields of a newer version are left out.

        Raises:
            MedcoreError: A value of the wrong type.
        """
        hints = get_type_hints(cls)
        known = {key: value for key, value in values.items() if key in hints}
        for key, value in known.items():
            if not _fits(value, hints[key]):
                raise MedcoreError(f"card: {key}={repr(value)[:80]} has the wrong type; make the set anew")
        if "name" not in known:
            raise MedcoreError("card: it has no name; make the set anew")
        return cls(**known)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of the type of a field."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if parts:  # X | None
        return any(_fits(value, part) for part in parts)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))
