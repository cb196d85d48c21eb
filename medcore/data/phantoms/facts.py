"""What the four makers share besides drawing: the card, the names of images, the check of parameters."""

from __future__ import annotations

from typing import Any

from medcore.data import info
from medcore.data.card import Card
from medcore.errors import MedcoreError

LICENCE = "CC0-1.0, synthetic"


def phantom_card(name: str, *, pixel_size_um: float, recipe: dict[str, Any]) -> Card:
    """The card of a made set, from the facts in ``info`` and the parameters it was made with."""
    facts = info.card(name)
    return Card(
        name=name,
        title=facts.title,
        classes=list(facts.classes),
        abnormal=list(facts.abnormal),
        task=facts.task,
        licence=LICENCE,
        pixel_size_um=pixel_size_um,
        group=facts.group,
        synthetic=True,
        recipe={"reader": "phantom", **recipe},
    )


def names(unit: str, stem: str) -> dict[str, str]:
    """Patient (or lesion), image and source of one image."""
    return {"patient": unit, "image": stem, "source": f"{unit}/{stem}.png"}


def check_range(maker: str, **ranges: tuple[float, float, float]) -> None:
    """Raise a ``MedcoreError`` unless every (value, least, most) is in order."""
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise MedcoreError(f"{maker}: {name}={value!r} is out of range; choose {least} to {most}")
