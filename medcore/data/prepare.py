"""From a listing to a PatchSet file: decode in parallel, fit to one size, write in constant memory."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medcore.data import sizes
from medcore.data.card import Card
from medcore.data.images import Decoded, DecodeOptions, Header, as_channels, decode, probe
from medcore.data.npzfile import PatchSetWriter
from medcore.data.parallel import attempt, map_threads
from medcore.data.readers import masks as mask_rules
from medcore.data.readers.joined import chosen_files, decode_channels, join_masks
from medcore.data.readers.listing import ImageRow, Listing, listed
from medcore.data.readers.mask_files import decode_mask
from medcore.data.readers.series import arrange, hide_file_names
from medcore.data.slides.reader import SlideListing, prepare_slides
from medcore.errors import MedcoreError

_BATCH = 64  # images written at once


@dataclass(frozen=True)
class Plan:
    """How images become one size: policy, (height, width), channels (1 or 3) and the overlap of tiles in pixels."""

    policy: str
    size: tuple[int, int]
    channels: int
    overlap: int = 0


def write_set(
    listing: Listing,
    target: Path | None,
    *,
    policy: str,
    size: Any,
    channels: int | None,
    overlap: int,
    decoding: DecodeOptions,
    progress: bool,
) -> Card:
    """Decode everything in a listing into ``target``; None does all of it but the writing.

    Returns:
        The card, with conversions, exclusions, warnings and the report of the reading.

    Raises:
        MedcoreError: An image is bad (and ``on_error`` is ``raise``), nothing is left, or the disk is too small.
    """
    if isinstance(listing, SlideListing):
        how = {"size": size, "channels": channels or 3, "overlap": overlap}
        return prepare_slides(listing, target, policy, complete_card, progress=progress, **how)
    if listing.rows is not None:
        return _prepare_arrays(listing, target, policy, size, channels, progress)
    hide_file_names(listing)
    headers = arrange(listing, _probe_all(listing, decoding, progress), decoding)
    for item, header in zip(listing.items, headers, strict=True):
        item.bytes_needed = header.height * header.width * (2 + 2 * header.channels)
    policy = "pad" if listing.mask_rule is not None and policy == "resize" and size is None else policy
    extents = np.array([(header.height, header.width) for header in headers])
    plan = Plan(policy, sizes.target_size(extents, policy, size), channels or max(h.channels for h in headers), overlap)
    _note_sizes(listing, extents, plan, size, headers)
    if listing.mask_rule is not None:
        listing.mask_rule = _settle_masks(listing, decoding, progress)
    if target is not None:
        _check_disk(target.parent, len(headers), plan, masks=listing.mask_rule is not None)
    return _write(listing, target, plan, decoding, progress, varied=bool((extents != extents[0]).any()))


def _probe_all(listing: Listing, decoding: DecodeOptions, progress: bool) -> list[Header]:
    """Headers of all images; items with unreadable headers are dropped from the listing."""
    results = map_threads(attempt(lambda item: _probe(item, decoding)), listing.items)
    items, headers = [], []
    bar = tqdm(results, f"{listing.card.name}: headers", len(listing.items), disable=not progress, leave=False)
    for item, header in zip(listing.items, bar, strict=True):
        if isinstance(header, MedcoreError):
            _report(listing, item, header)
        else:
            items.append(item)
            headers.append(header)
    listing.items = items
    if not items:
        reasons = listing.problems.excluded
        raise MedcoreError(
            f"'{listing.root}': no image could be read"
            + (f"; the first reason: {reasons[0]['reason']}" if reasons else "")
        )
    return headers


def _probe(item: ImageRow, decoding: DecodeOptions) -> Header:
    if not item.channels:
        return probe(item.file, decoding)
    header = probe(item.file, replace(decoding, bands=None))
    return replace(header, channels=1 if len(chosen_files(item.channels, decoding)) == 1 else 3)


def _report(listing: Listing, item: ImageRow, error: MedcoreError) -> None:
    prefix = f"{item.place}: " if item.place else ""
    row = int(item.place.rsplit(" ", 1)[1]) if item.place else None
    message, source = f"{prefix}{error}", str(item.columns["source"])
    if listing.problems.on_error == "skip" and not source.endswith(item.file.name):  # the name is hidden in the set
        message = message.replace(str(item.file), source)
    listing.problems.bad(message, file=source, row=row)


def _note_sizes(listing: Listing, extents: np.ndarray, plan: Plan, size: Any, headers: list[Header]) -> None:
    low, high = extents.min(axis=0), extents.max(axis=0)
    recipe = {
        "policy": plan.policy,
        "scaled_or_cut": bool((extents != plan.size).any()),
        "size": list(plan.size),
        "channels": plan.channels,
        "source_size": [*low.tolist(), *high.tolist()],
    }
    if plan.policy == "tile":
        recipe["overlap"] = plan.overlap
    pixel_size = listing.card.pixel_size_um
    spacings = {header.pixel_size_um for header in headers}
    if pixel_size is None and len(spacings) == 1:
        pixel_size = spacings.pop()
    if plan.policy in ("resize", "fit") and (extents != plan.size).any():
        pixel_size = _scaled(pixel_size, extents, plan)
    listing.card = replace(listing.card, recipe={**listing.card.recipe, **recipe}, pixel_size_um=pixel_size)
    if size is None and plan.policy in ("resize", "fit", "crop") and (low != high).any():
        listing.problems.warn(
            f"image sizes differ (height {low[0]} to {high[0]}, width {low[1]} to {high[1]} pixels) and no size was "
            f"asked for: policy {plan.policy!r} made all of them {plan.size[1]}×{plan.size[0]}"
        )


def _scaled(pixel_size: float | None, extents: np.ndarray, plan: Plan) -> float | None:
    """Pixel size after scaling; None unless every image is scaled alike in both directions."""
    factors = extents / np.array(plan.size)
    uniform = pixel_size is not None and np.allclose(factors, factors[0, 0], rtol=1e-3)
    return float(pixel_size * factors[0, 0]) if uniform and pixel_size is not None else None


def _settle_masks(listing: Listing, decoding: DecodeOptions, progress: bool) -> mask_rules.MaskRule:
    """The mask rule, decided by what all masks hold when it is automatic; and the class names of the card."""
    rule, name = listing.mask_rule, listing.card.name
    if rule.kind in ("auto", "index") and not (rule.kind == "index" and rule.classes):
        looks = _look_at_masks(listing, decoding, progress, by_colour=False)
        if mask_rules.palettes_differ(looks, name):
            listing.problems.warn("the palettes of the masks differ: they are read by their colours")
            rule = replace(rule, by_colour=True)
            looks = _look_at_masks(listing, decoding, progress, by_colour=True)
        rule = mask_rules.decide_rule(rule, looks, name, listing.problems)
    recipe = {**listing.card.recipe, "mask_rule": rule.describe()}
    classes = listing.card.classes or list(rule.classes)
    listing.card = replace(listing.card, classes=classes, recipe=recipe)
    listing.problems.note(f"masks: {rule.describe()}")
    return rule


def _look_at_masks(
    listing: Listing, decoding: DecodeOptions, progress: bool, *, by_colour: bool
) -> list[mask_rules.MaskLook]:
    """What each mask holds; items whose mask is bad are dropped from the listing."""

    def look(item: ImageRow) -> mask_rules.MaskLook:
        if item.mask is None:
            raise MedcoreError(f"image '{item.columns['source']}' has no mask")
        return mask_rules.look_at(item.mask, decode_mask(item.mask, decoding, by_colour=by_colour))

    results = map_threads(attempt(look), listing.items, weight=lambda item: item.bytes_needed)
    bar = tqdm(results, f"{listing.card.name}: masks", len(listing.items), disable=not progress, leave=False)
    usable, looks = [], []
    for item, found in zip(listing.items, bar, strict=True):
        if isinstance(found, MedcoreError):
            _report(listing, item, found)
        else:
            usable.append(item)
            looks.append(found)
    listing.items = usable
    return looks


def _check_disk(folder: Path, count: int, plan: Plan, *, masks: bool) -> None:
    check_room(folder, 2 * count * plan.size[0] * plan.size[1] * (plan.channels + masks))  # spooled, then written


def check_room(folder: Path, need: int) -> None:
    """Raise a ``MedcoreError`` unless so many bytes are free in a folder, which is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise MedcoreError(
            f"preparing needs about {need / 1e9:.1f} GB in '{folder}', where {free / 1e9:.1f} GB are free; make room, "
            "choose a smaller size, or set MEDCORE_DATA to another disk"
        )


def _write(
    listing: Listing, target: Path | None, plan: Plan, decoding: DecodeOptions, progress: bool, *, varied: bool
) -> Card:
    masked = listing.mask_rule is not None
    counts: Counter[str] = Counter()
    notes = _Notes()
    writer = _writer(listing, target, (*plan.size, plan.channels), masks=masked)

    def load(item: ImageRow) -> tuple[Decoded, list[sizes.Piece]]:
        return _load_item(item, listing.mask_rule, plan, decoding, varied)

    results = map_threads(attempt(load), listing.items, weight=lambda item: item.bytes_needed)
    bar = tqdm(results, f"{listing.card.name}: images", len(listing.items), disable=not progress)
    with writer:
        batch: list[sizes.Piece] = []
        for item, result in zip(listing.items, bar, strict=True):
            if isinstance(result, MedcoreError):
                _report(listing, item, result)
                continue
            decoded, parts = result
            counts.update(decoded.conversions)
            notes.look(item, decoded, parts)
            batch += [(pixels, mask, {**item.columns, **columns}) for pixels, mask, columns in parts]
            if len(batch) >= _BATCH:
                _flush(writer, batch)
        _flush(writer, batch)
        notes.add_to(listing, masked)
        writer.card = complete_card(listing, counts)
    return writer.card


def _load_item(
    item: ImageRow, rule: mask_rules.MaskRule | None, plan: Plan, decoding: DecodeOptions, varied: bool
) -> tuple[Decoded, list[sizes.Piece]]:
    """What was decoded, with only its lowest and highest value as pixels, and the images made of it."""
    at_least = plan.size if plan.policy == "resize" else None
    read = decode_channels(item.channels, decoding) if item.channels else decode(
        item.file, decoding, at_least=at_least, frame=item.frame, shared=item.grey)  # fmt: skip
    decoded = as_channels(read, plan.channels)
    mask = None
    if rule is not None:
        mask = _load_mask(item, rule, decoded.size, decoding)
        if mask.shape != decoded.pixels.shape[:2]:  # the JPEG came at a reduced size
            mask = sizes.resize_mask(mask, decoded.pixels.shape[:2])
    try:
        parts = list(sizes.pieces(decoded.pixels, mask, plan.policy, plan.size, plan.overlap))
    except MedcoreError as error:
        raise MedcoreError(f"image '{item.columns['source']}' {error}") from error
    if varied and plan.policy in ("resize", "crop"):  # the original size may give the class away: keep it for the audit
        extent = {"source_height": decoded.size[0], "source_width": decoded.size[1]}
        parts = [(pixels, part_mask, {**columns, **extent}) for pixels, part_mask, columns in parts]
    if plan.policy == "crop":  # a view would keep the whole image
        parts = [(pixels.copy(), None if mask is None else mask.copy(), columns) for pixels, mask, columns in parts]
    ends = np.array([decoded.pixels.min(), decoded.pixels.max()])
    return replace(decoded, pixels=ends), parts


def _load_mask(item: ImageRow, rule: mask_rules.MaskRule, size: tuple[int, int], decoding: DecodeOptions) -> np.ndarray:
    if item.mask is None:
        raise MedcoreError(f"image '{item.columns['source']}' has no mask")
    values = join_masks(item.parts, rule, decoding) if item.parts else decode_mask(
        item.mask, decoding, by_colour=rule.by_colour).pixels  # fmt: skip
    if values.shape[:2] != size:
        raise MedcoreError(
            f"mask '{item.mask}' is {values.shape[1]}×{values.shape[0]}, but its image is {size[1]}×{size[0]}; "
            "export the mask at the size of the image"
        )
    return values if item.parts else mask_rules.to_classes(rule, values, item.mask, item.mask_label)


class _Nowhere:
    """Takes what a writer takes and keeps nothing: for a dry run."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *_: object) -> None: ...

    def add(self, images: np.ndarray, rows: object, masks: np.ndarray | None = None) -> None:
        """Drop a batch."""


def _writer(
    listing: Listing, target: Path | None, shape: tuple[int, int, int], *, masks: bool
) -> PatchSetWriter | _Nowhere:
    return PatchSetWriter(target, shape=shape, card=listing.card, masks=masks) if target else _Nowhere(listing.card)


def _flush(writer: PatchSetWriter | _Nowhere, batch: list[sizes.Piece]) -> None:
    if not batch:
        return
    masks = None if batch[0][1] is None else np.stack([mask for _, mask, _ in batch if mask is not None])
    writer.add(np.stack([pixels for pixels, _, _ in batch]), [columns for _, _, columns in batch], masks)
    batch.clear()


def complete_card(listing: Listing, counts: Counter[str]) -> Card:
    """The card with what happened on the way: conversions, exclusions, warnings."""
    excluded, warnings = listing.problems.excluded, list(listing.problems.warnings)
    if excluded:
        warnings.append(f"{len(excluded)} images or rows were left out (listed in the card with their reasons)")
    return replace(
        listing.card,
        conversions=dict(sorted(counts.items())),
        excluded=excluded,
        warnings=[*listing.card.warnings, *warnings],
        reading=[
            *listing.problems.reading,
            *(f"converted: {what} ({n})" for what, n in sorted(counts.items())),
        ],
    )


class _Notes:
    """What only shows once pixels are there: constant images, unused range, masks without foreground."""

    def __init__(self) -> None:
        self.constant: list[str] = []
        self.bare: list[str] = []
        self.masks = self.framed = 0  # masks, and those whose whole border is foreground around some background
        self.highest: list[float] = []
        self.classes: set[int] = set()

    def look(self, item: ImageRow, decoded: Decoded, parts: list[sizes.Piece]) -> None:
        source = item.columns["source"]
        if decoded.pixels.min() == decoded.pixels.max():
            self.constant.append(source)
        if decoded.highest is not None:
            self.highest.append(decoded.highest)
        seen = {int(value) for _, mask, _ in parts if mask is not None for value in np.unique(mask)} - {sizes.IGNORE}
        self.classes |= seen
        if parts and (mask := parts[0][1]) is not None:
            self.bare += [source] * (not seen - {0})
            border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            self.masks, self.framed = self.masks + 1, self.framed + bool(border.all() and not mask.all())

    def add_to(self, listing: Listing, masked: bool) -> None:
        problems = listing.problems
        if self.constant:
            problems.warn(f"{len(self.constant)} images have one value in every pixel ({listed(self.constant)})")
        if self.highest and max(self.highest) < 65535 / 8 and max(self.highest) > 255:
            problems.warn(
                f"no deep image has a value above {max(self.highest):g}, so they look dark at the full 16-bit range; "
                "say which value is white with --value-range 0 HIGH"
            )
        if self.bare:
            problems.warn(f"{len(self.bare)} images have no foreground in their mask ({listed(self.bare)})")
        if len(self.classes) == 2 and self.framed > 0.9 * self.masks:
            problems.warn(
                f"in {self.framed} of {self.masks} masks the foreground is all around the border and the background "
                "inside: if that is the wrong way round, say so with --mask-map 0=foreground,255=background"
            )
        if masked and len(self.classes) < 2:
            raise MedcoreError(
                f"'{listing.root}': all masks together hold only one class; nothing can be learnt. Check that "
                "masks and mask_map belong together"
            )


def _prepare_arrays(
    listing: Listing, target: Path | None, policy: str, size: Any, channels: int | None, progress: bool
) -> Card:
    rows = listing.rows
    assert rows is not None
    goal = rows.shape[:2] if size is None else sizes.parse_size(size)
    depth = channels or rows.shape[2]
    recipe = {
        "policy": policy,
        "scaled_or_cut": goal != rows.shape[:2],
        "size": list(goal),
        "channels": depth,
        "source_size": [*rows.shape[:2], *rows.shape[:2]],
    }
    listing.card = replace(listing.card, recipe={**listing.card.recipe, **recipe})
    count, done = len(rows.columns["label"]), 0
    counts: Counter[str] = Counter()
    writer = _writer(listing, target, (*goal, depth), masks=rows.masks is not None)
    with writer, tqdm(total=count, desc=f"{listing.card.name}: images", disable=not progress) as bar:
        for chunk in rows.chunks():
            batch: list[sizes.Piece] = []
            for pixels in chunk[: count - done]:
                row = {name: values[done].item() for name, values in rows.columns.items()}
                mask = None if rows.masks is None else rows.masks[done]
                image = as_channels(Decoded(pixels), depth)
                counts.update(image.conversions)
                for part, part_mask, more in sizes.pieces(image.pixels, mask, policy, goal):
                    batch.append((part, part_mask, {**row, **more}))
                done += 1
            _flush(writer, batch)
            bar.update(len(chunk))
        if done != count:
            raise MedcoreError(f"'{listing.root}' holds {done} images for {count} rows of its table")
        writer.card = complete_card(listing, counts)
    return writer.card
