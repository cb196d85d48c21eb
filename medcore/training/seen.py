"""What a model has seen travels with it: hashes of the pixels and of the patients of both sides of its training.

    seen = Seen.of(manifest)                    # of a checkpoint
    overlap = seen.among(patches)               # which images or patients of a set the model knows
    print(overlap)                              # seen in training: 5 of 8 patients, 40 of 64 images
    patches = split_like(patches, seen)         # the sides of that training; what it never saw is divided anew

- Images are compared by the pixels that the network saw, patients by a salted hash of their id, never by names of sets
  or folders: a renamed copy is the same data, another set of the same name is not.
- An image without any variation (blank background) equals others by accident and is not compared.
- Weights that were fine-tuned know what the weights they started from had seen (``earlier``).
- Ids that are equal by chance in two hospitals look like one patient: ``among(..., by_patient=False)`` looks at pixels.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcore.data.patchset import PatchSet
from medcore.data.splits import assign_splits
from medcore.errors import MedcoreError, TestDataRefused

BYTES = 8  # of a hash: two of a million images collide with a chance of 1 in 10 million
BLANK = 0  # the hash of an image without variation, which is compared with nothing
WAYS = ("refuse", "count", "leave-out")


def pixel_hashes(images: Iterable[np.ndarray]) -> np.ndarray:
    """One number per image from its shape and pixels. **Shape** each ``(H, W, C)`` uint8 -> ``(N,)`` uint64."""
    return np.fromiter((_content(np.ascontiguousarray(image)) for image in images), dtype=np.uint64)


def _content(image: np.ndarray) -> int:
    if image.min() == image.max():
        return BLANK
    digest = hashlib.blake2b(image.data, digest_size=BYTES, person=f"{image.shape}".encode()[:16])
    return int.from_bytes(digest.digest(), "little")


def images_of(patches: PatchSet) -> Iterator[np.ndarray]:
    """Every image of a set, in order and in constant memory."""
    return (image for chunk in patches.chunks() for image in chunk)


def patient_hashes(names: Iterable[str], salt: str) -> np.ndarray:
    """One number per patient id; an empty id gives ``BLANK``. **Shape** ``(N,)`` uint64."""
    key = salt.encode()[:64]
    words = (str(name).strip() for name in names)
    hashed = (
        int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=BYTES, key=key).digest(), "little")
        if word else BLANK
        for word in words
    )  # fmt: skip
    return np.fromiter(hashed, dtype=np.uint64)


def describe_side(patches: PatchSet, salt: str) -> dict[str, Any]:
    """One side of a training for the manifest: sizes, identity, and the packed hashes of its images and patients."""
    patients = patient_hashes(np.unique(patches.patients), salt) if patches.card.patients_known else np.array([])
    return {
        "images": len(patches),
        "patients": len(set(patches.patients.tolist())),
        "fingerprint": patches.fingerprint,
        "rows_sha256": hashlib.sha256(patches.index.tobytes()).hexdigest(),
        "content_hashes": pack_hashes(pixel_hashes(images_of(patches))),
        "patient_hashes": pack_hashes(patients),
    }


def describe_sides(train: PatchSet, validation: PatchSet, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest says of the data of a training; ``earlier`` is the same of the weights it started from."""
    salt = hashlib.sha256(f"patients of {train.fingerprint}".encode()).hexdigest()[:32]
    return {
        "name": train.card.name,
        "salt": salt,
        "train": describe_side(train, salt),
        "validation": describe_side(validation, salt),
        "earlier": earlier,
    }


def pack_hashes(hashes: np.ndarray) -> str:
    """Sorted different hashes as base64 text, the ``BLANK`` one left out."""
    different = np.unique(hashes.astype("<u8"))
    return base64.b64encode(different[different != BLANK].tobytes()).decode("ascii")


def unpack_hashes(text: str) -> np.ndarray:
    """The inverse of :func:`pack_hashes`. **Shape** ``(N,)`` uint64, sorted.

    Raises:
        MedcoreError: The text is no such list.
    """
    try:
        return np.sort(np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8"))
    except (binascii.Error, ValueError) as error:
        raise MedcoreError(f"hashes {text[:20]!r}… are no base64 text of whole 8-byte numbers ({error})") from error


@dataclass(frozen=True)
class Overlap:
    """What a model knows of a set.

    Attributes:
        train: Images that the model learnt from, or whose patient it did. **Shape** ``(N,)`` bool.
        validation: The same of its validation images, which chose the epoch. **Shape** ``(N,)`` bool.
    """

    train: np.ndarray
    validation: np.ndarray
    patches: PatchSet

    @property
    def rows(self) -> np.ndarray:
        """Images that are known from either side. **Shape** ``(N,)`` bool."""
        return self.train | self.validation

    @property
    def patients(self) -> list[str]:
        """Ids of the patients that are known, sorted."""
        return sorted(set(self.patches.patients[self.rows].tolist()))

    def as_dict(self) -> dict[str, Any]:
        """Counts and names, for a result."""
        known, everyone = self.patients, len(set(self.patches.patients.tolist()))
        unit = self.patches.card.group
        named = {"patients": len(known), "of_patients": everyone, "names": known} if self._by_patient else {}
        return {"images": int(self.rows.sum()), "of_images": len(self.rows), "unit": unit, **named}

    @property
    def _by_patient(self) -> bool:
        return bool(self.patches.card.patients_known)

    def __str__(self) -> str:
        said = f"{int(self.rows.sum())} of {len(self.rows)} images"
        if self._by_patient:
            said = (
                f"{len(self.patients)} of {len(set(self.patches.patients.tolist()))} {self.patches.card.group}s, {said}"
            )
        return f"seen in training: {said}"


@dataclass(frozen=True)
class Seen:
    """What a model has seen: for its own training and each earlier one, (salt, train and validation hashes)."""

    trainings: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> Seen:
        """From the manifest of a checkpoint. One that was written before sides were kept knows nothing."""
        data = manifest["data"]
        return cls((data, *data.get("earlier", [])))

    @property
    def known(self) -> bool:
        """Whether the sides were kept at all."""
        return all("content_hashes" in data["train"] for data in self.trainings)

    def patients(self, patches: PatchSet, side: str = "") -> np.ndarray:
        """Which images belong to a patient that is known, from one side or from both. **Shape** ``(N,)`` bool."""
        rows = np.zeros(len(patches), bool)
        for data in self.trainings if patches.card.patients_known else ():
            hashes = patient_hashes(patches.patients, data.get("salt", ""))
            for name in (side,) if side else ("train", "validation"):
                rows |= np.isin(hashes, unpack_hashes(data[name].get("patient_hashes", "")))
        return rows

    def among(self, patches: PatchSet, *, by_patient: bool = True) -> Overlap:
        """Which images of a set are known, by pixels or by patient."""
        hashes = pixel_hashes(images_of(patches))
        train, validation = (
            self.contents(hashes, side) | (self.patients(patches, side) if by_patient else False)
            for side in ("train", "validation")
        )
        return Overlap(train, validation & ~train, patches)

    def contents(self, hashes: np.ndarray, side: str = "") -> np.ndarray:
        """Which of these content hashes are known, from one side or from both. **Shape** ``(N,)`` bool."""
        rows = np.zeros(len(hashes), bool)
        for data in self.trainings:
            for name in (side,) if side else ("train", "validation"):
                rows |= np.isin(hashes, unpack_hashes(data[name].get("content_hashes", "")))
        return rows


def earlier_trainings(model: Any) -> list[dict[str, Any]]:
    """What the weights that a model starts from had seen, as manifests say it; empty for random and foreign weights."""
    data = getattr(model, "learnt_from", None) or getattr(getattr(model, "weights_report", None), "learnt_from", None)
    return [] if data is None else [{k: v for k, v in data.items() if k != "earlier"}, *data.get("earlier", [])]


def refuse_seen(model: Any, validation: PatchSet, test: PatchSet | None, way: str) -> list[str]:
    """Check a training that starts from given weights: nothing that those learnt from may choose or test.

    Args:
        model: Carries what its weights had seen.
        validation: May hold what earlier validation chose on, not what was learnt from.

    Returns:
        One sentence for each side that holds seen images (``count``).

    Raises:
        TestDataRefused: There are some (``refuse``).
    """
    seen = Seen(tuple(earlier_trainings(model)))
    notes = []
    for name, patches in (("validation", validation), ("test", test)):
        if patches is None or not seen.trainings:
            continue
        overlap = seen.among(patches)
        if name == "validation":
            overlap = Overlap(overlap.train, np.zeros_like(overlap.train), patches)
        if not overlap.rows.any():
            continue
        said = f"{name} images were {overlap} of the weights that this model starts from"
        if way == "refuse":
            raise TestDataRefused(
                f"{said} (such as {overlap.patients[0]!r}); split as that training did "
                "(medcore.training.seen.split_like), leave them out, or set seen='count' to go on with a note"
            )
        notes.append(said)
    return notes


def split_like(patches: PatchSet, seen: Seen, *, seed: int = 0) -> PatchSet:
    """The set with the sides of a checkpoint's training.

    A split that the set brings along is kept as it is. What the training never saw becomes ``test`` where it knew at
    least half of the set (its own set again), and is divided anew otherwise (another set that shares some patients).
    """
    if np.isin(patches.splits, ("train", "val", "test")).all():
        return patches
    overlap = seen.among(patches)
    if not overlap.rows.any():
        return assign_splits(patches, seed=seed)
    sides = np.where(overlap.train, "train", "val").astype(object)
    fresh = np.flatnonzero(~overlap.rows)
    if len(fresh):
        own = 2 * len(fresh) <= len(patches)
        sides[fresh] = "test" if own else assign_splits(patches.select(fresh), seed=seed).splits
    return patches.with_split(sides.astype(str))


def unseen(patches: PatchSet, seen: Seen, way: str, *, by_patient: bool = True) -> tuple[PatchSet, Overlap]:
    """What of a set may be evaluated, and what the model knows of it.

    Args:
        patches: The images that were asked for.
        seen: What the model has seen.
        way: ``refuse``, ``count`` (all are kept) or ``leave-out``.
        by_patient: Also compare patients, not only pixels.

    Raises:
        TestDataRefused: The model knows some (``refuse``), or all (``leave-out``).
    """
    overlap = seen.among(patches, by_patient=by_patient)
    if way == "count" or not overlap.rows.any():
        return patches, overlap
    if way == "refuse":
        names = ", ".join(map(repr, overlap.patients[:3]))
        raise TestDataRefused(
            f"{overlap} ({names}…): what a model has seen does not test it. Evaluate the others (--seen leave-out), "
            "count them (--seen count), or say that equal patient ids are other people (--other-patients)"
        )
    if overlap.rows.all():
        raise TestDataRefused(f"{overlap}: nothing is left to evaluate")
    return patches.select(~overlap.rows), overlap
