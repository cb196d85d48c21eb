"""``read_set``: from a set's name, a folder, a ``metadata.csv`` or a ``.npz`` to a PatchSet, prepared once and cached.

python -c "from medcore.data.load import read_set; print(read_set('phantom-crc'))"
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from medcore.data import readers, sizes
from medcore.data.card import Card
from medcore.data.integrity import age_of, clean_parts, content_hashes, open_checked, storage_error
from medcore.data.options import DecodeOptions
from medcore.data.patchset import PatchSet
from medcore.data.prepare import check_room, write_set
from medcore.data.readers.arrays import is_patchset
from medcore.data.readers.listing import ArrayRows, Listing, Problems
from medcore.data.remote import find_source
from medcore.data.shards import find_shards, stack
from medcore.data.source import data_home, is_phantom
from medcore.data.targets import Asked, strata
from medcore.errors import MedcoreError

_DECODING = ("value_range", "window", "max_pixels", "fast_jpeg", "bands", "slices")
_CODE = ("images", "options", "prepare", "sizes", "targets")
_CARD_FIELDS = ("title", "licence", "citation", "homepage", "pixel_size_um", "abnormal", "task")


def read_set(
    source: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    policy: str = "resize",
    on_error: str = "raise",
    seed: int = 0,
    progress: bool = True,
    channels: int | None = None,
    overlap: int = 0,
    card: dict[str, Any] | None = None,
    keep_ids: bool = False,
    cache: bool = True,
    **options: Any,
) -> PatchSet:
    """Open a data set; the first time, read and prepare it under ``data_home()/prepared``.

    Args:
        source: A set's name (``phantom-crc``), a folder, a ``metadata.csv``, a ``.npz``, shards, or their URL.
        size: Side in pixels, or (height, width), of all images. None keeps a common size; images of several sizes
            become 224×224 (or the largest for ``pad``, the smallest for ``crop``). Sets with masks are padded to
            the largest instead of resized when no size is given, so that nothing is scaled.
        policy: ``resize``, ``fit``, ``crop``, ``pad`` or ``tile``; see ``medcore.data.sizes``.
        on_error: ``raise`` at the first bad image, slide or row, or ``skip`` them: counted and listed in the card.
        channels: 1 or 3; None: 1 when every image is grey, else 3.
        overlap: Pixels that neighbouring tiles share (policy ``tile``, and whole slides).
        card: Facts for the card: title, licence, citation, homepage, pixel_size_um, abnormal, task.
        keep_ids: Let patient identifiers and file names of DICOM reach the set; else hashes stand in their place.
        cache: Reuse what was prepared before from the same contents; False makes it anew.
        **options: Decoding (the fields of ``medcore.data.options.DecodeOptions``), or options of the reader or
            the phantom (``encoding``, ``classes``, ``mask_map``, ``patients``, …; ``grade``, ``value``: see ``Asked``).

    Returns:
        The set, memory-mapped. Its card lists conversions, exclusions and warnings.

    Raises:
        MedcoreError: The source does not exist or is bad; the message names file, row and remedy.
    """
    options = {name: value for name, value in options.items() if value is not None}
    sizes.parse_size(size) if size is not None else None
    _check_choice("policy", policy, sizes.POLICIES)
    _check_choice("channels", channels, (None, 1, 3))
    problems, asked = Problems(on_error, keep_ids=keep_ids), Asked.pop(options)
    if is_phantom(source):
        return _asked_copy(_load_phantom(str(source), size, seed, options, cache), asked)
    path = _one_file(find_source(source), cache, progress)
    if _is_own(path):
        return _asked_copy(_open_own(path, size, policy, options), asked)
    listing, decoding = _list_with_card(path, problems, options, card, asked)
    how: dict[str, Any] = {"policy": policy, "size": size, "channels": channels, "overlap": overlap}
    settings = how | {"decoding": vars(decoding), "on_error": on_error, "options": options, "card": card,
                      "keep_ids": keep_ids}  # fmt: skip
    target = data_home() / "prepared" / f"{_safe(listing.card.name)}-{_key(listing, settings)}.npz"
    with _alone(target):
        cached = _cached(target) if cache else None
        if cached is not None:
            line = f"the prepared set {age_of(target)}, is reused (cache=False or --no-cache makes it anew)"
            return cached.with_card(replace(cached.card, reading=[line, *cached.card.reading]))
        write_set(listing, target, decoding=decoding, progress=progress, **how)
        return open_checked(target)


def report_reading(
    source: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    policy: str = "resize",
    on_error: str = "raise",
    channels: int | None = None,
    overlap: int = 0,
    keep_ids: bool = False,
    **options: Any,
) -> Card:
    """What :func:`read_set` would understand of files: everything is read and checked, nothing is written.

    Args: as in :func:`read_set`.

    Returns:
        The card: its ``reading``, ``warnings``, ``excluded`` and ``conversions`` say what was understood.

    Raises:
        MedcoreError: As :func:`read_set` would; also for a phantom or a prepared set, which are not read from files.
    """
    options = {name: value for name, value in options.items() if value is not None}
    path = None if is_phantom(source) else find_source(source)
    if path is not None and len(shards := find_shards(path)) > 1:
        return stack(shards).card
    if path is None or _is_own(path):
        raise MedcoreError(f"'{source}' is not read from files: there is nothing to try")
    asked = Asked.pop(options)
    listing, decoding = _list_with_card(path, Problems(on_error, keep_ids=keep_ids), options, None, asked)
    return write_set(listing, None, policy=policy, size=size, channels=channels, overlap=overlap, decoding=decoding,
                     progress=True)  # fmt: skip


def _list_with_card(
    path: Path, problems: Problems, options: dict[str, Any], facts: dict[str, Any] | None, asked: Asked | None
) -> tuple[Listing, DecodeOptions]:
    """The images of a source, and how to decode them; takes the options of decoding out of ``options``."""
    decoding = DecodeOptions(**{name: options.pop(name) for name in _DECODING if name in options})
    listing = readers.list_images(path, problems, options, None if asked is None else asked.column)
    listing = listing if asked is None else asked.of_listing(listing)
    if listing.rows is not None and decoding != DecodeOptions():
        raise MedcoreError(f"'{path}' holds arrays, not image files: {', '.join(_DECODING)} have no meaning for it")
    given: dict[str, Any] = {
        name: list(value) for name in ("value_range", "window") if (value := getattr(decoding, name))
    }
    given |= {"decoding": decoding.to_dict()} if decoding != DecodeOptions() else {}
    made = _with_facts(listing.card, facts)
    listing.card = replace(made, recipe={**made.recipe, **given})
    return listing, decoding


def _check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise MedcoreError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def _is_own(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and path.is_file() and is_patchset(path)


def _one_file(path: Path, cache: bool, progress: bool) -> Path:
    """The same path, or the one set that shards were joined to, streamed; the next time it is there already."""
    shards = find_shards(path)
    if len(shards) < 2:
        return shards[0] if shards else path
    joined = stack(shards)
    code = inspect.getsource(inspect.getmodule(stack) or stack)
    key = _digest([joined.card.as_dict(), joined.columns, code])  # the card names the fingerprint of every shard
    target = data_home() / "prepared" / f"{_safe(joined.card.name)}-{key}.npz"
    with _alone(target):
        if not cache or _cached(target) is None:
            if progress:
                print(f"medcore: {joined.card.reading[0]}, kept as {target}", file=sys.stderr)
            check_room(target.parent, sum(path.stat().st_size for path in shards))
            joined.save(target)
    return target


def own_set(source: str | os.PathLike[str]) -> Path | None:
    """The file of a source that was prepared before, with shards joined; None for what is read from files."""
    path = None if is_phantom(source) else _one_file(find_source(source), True, True)
    return path if path and _is_own(path) else None


def _open_own(path: Path, size: Any, policy: str, options: dict[str, Any]) -> PatchSet:
    patches = open_checked(path)
    if options:
        raise MedcoreError(f"option {next(iter(options))!r} has no meaning for the prepared set {path}")
    goal = patches.shape[:2] if size is None else sizes.parse_size(size)
    return patches if goal == patches.shape[:2] else _scaled_copy(patches, path, goal, policy)


def _asked_copy(patches: PatchSet, asked: Asked | None) -> PatchSet:
    """A made set with its grade or value in place of classes, in a file of its own."""
    if asked is None:
        return patches
    name = f"{_safe(patches.card.name)}-{_digest([patches.fingerprint, asked, _code_hash('readers')])}.npz"
    target = data_home() / "prepared" / name
    with _alone(target):
        return _cached(target) or asked.of_set(patches).save(target)


def _scaled_copy(patches: PatchSet, path: Path, goal: tuple[int, int], policy: str) -> PatchSet:
    """A prepared set at another size, cached; images that were not scaled before become what their files would.

    Raises:
        MedcoreError: It was scaled or cut before and would be enlarged, or its images are padded.
    """
    before = patches.card.recipe.get("scaled_or_cut", True)
    larger = goal[0] > patches.shape[0] or goal[1] > patches.shape[1]
    if "height" in patches.table or (before and larger):
        raise MedcoreError(
            f"{path} is a prepared set of {patches.shape[1]}×{patches.shape[0]}; prepare the original images "
            f"again with --size {goal[0]} (size={goal[0]}) instead of scaling it a second time"
        )
    problems = Problems("raise")
    problems.reading, problems.excluded = list(patches.card.reading), list(patches.card.excluded)
    if before:
        problems.warn(f"the images were scaled twice, the second time from {patches.shape[1]}×{patches.shape[0]}: some "
                      "detail is lost that one step would keep; --size sets the size in preparing")  # fmt: skip
    columns = {str(name): np.array(patches.table[name].tolist()) for name in patches.table}
    rows = ArrayRows(
        columns, patches.shape, lambda: _chunks(patches), patches.take_masks() if patches.has_masks else None
    )
    ratio = {patches.shape[k] / goal[k] for k in (0, 1)}
    known = patches.card.pixel_size_um
    said = [text for text in patches.card.warnings if not text.endswith("(listed in the card with their reasons)")]
    card = replace(
        patches.card, warnings=said, pixel_size_um=known * ratio.pop() if known and len(ratio) == 1 else None
    )
    target = data_home() / "prepared" / (
        f"{_safe(card.name)}-{_digest([patches.fingerprint, goal, policy, _code_hash('readers')])}.npz")  # fmt: skip
    with _alone(target):
        if (cached := _cached(target)) is None:
            listing = Listing(path, card, rows=rows, problems=problems)
            write_set(listing, target, policy=policy, size=goal, channels=None, overlap=0, decoding=DecodeOptions(),
                      progress=False)  # fmt: skip
        return cached or open_checked(target)


def _chunks(patches: PatchSet) -> Iterator[np.ndarray]:
    for start in range(0, len(patches), 256):
        yield patches.take(range(start, min(start + 256, len(patches))))


def _load_phantom(name: str, size: Any, seed: int, options: dict[str, Any], cache: bool) -> PatchSet:
    from medcore.data.phantoms import PHANTOMS

    if name not in PHANTOMS:
        raise MedcoreError(f"{name} are whole slides, not a set of tiles: notebook 08 draws and cuts them")
    maker = PHANTOMS[name]
    known = inspect.signature(maker).parameters
    wanted = {**options, "seed": seed} | ({} if size is None else {"size": size})
    for option in wanted:
        if option not in known:
            raise MedcoreError(f"option {option!r} does not belong to {name}; it takes {', '.join(known)}")
    key = _digest({"options": wanted, "code": _code_hash("phantoms")})
    target = data_home() / "prepared" / f"{name}-{key}.npz"
    with _alone(target):
        cached = _cached(target) if cache else None
        if cached is not None:
            return cached
        maker(**wanted).save(target)
        return open_checked(target)


def _cached(target: Path) -> PatchSet | None:
    """What was prepared before; a damaged file is dropped aloud, because it can be made anew."""
    try:
        return open_checked(target) if target.is_file() else None
    except MedcoreError as error:
        print(f"medcore: a prepared set was damaged and is made anew ({error})", file=sys.stderr)
        target.unlink()
        return None


def _with_facts(made: Any, facts: dict[str, Any] | None) -> Any:
    for name in facts or {}:
        _check_choice("a key of card", name, _CARD_FIELDS)
    return replace(made, **(facts or {}))


def _key(listing: Listing, settings: dict[str, Any]) -> str:
    """Names the content: every file by its hash, the tables, the settings and the code that reads."""
    files = [file for item in listing.items for file in item.files()]
    files += [listing.root] if listing.root.is_file() else []
    places = [os.path.relpath(file, listing.root) for file in files]
    contents = list(zip(places, content_hashes(listing.root, files), strict=True))
    rows = [item.columns for item in listing.items]
    asked = {name: value for name, value in settings["options"].items() if name != "run"}  # where, changes nothing
    tables = content_hashes(listing.root, listing.also)
    what = {"files": contents, "rows": rows, "tables": tables, "settings": {**settings, "options": asked},
            "card": listing.card.as_dict(),
            "rule": repr(listing.mask_rule), "code": _code_hash("readers")}  # fmt: skip
    return _digest(what)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


@cache
def _code_hash(folder: str) -> str:
    """A change of the reading (``readers``) or drawing (``phantoms``) code makes every cached set anew."""
    here = Path(__file__).parent
    sources = sorted((here / folder).glob("*.py"))
    if folder == "readers":
        sources += [path for inner in ("formats", "slides") for path in sorted((here / inner).glob("*.py"))]
        sources += [here / f"{name}.py" for name in _CODE]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Two notebooks that need the same set at once: the second waits and finds it made.

    What a killed run left of this set is removed; a folder or disk that takes nothing is one line.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            clean_parts(target.parent, target.name)
            yield
    except OSError as error:
        raise storage_error(error, target) from error


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "set"


def one_label(ps: PatchSet) -> PatchSet:
    """The set itself: for studies of one class an image.

    Raises:
        MedcoreError: Its images have several findings, a grade or a measured value.
    """
    other = {"findings": "several findings", "ordinal": "a grade", "regression": "a measured value"}.get(ps.card.task)
    if other:
        raise MedcoreError(
            f"set {ps.card.name!r} has {other} an image, and this study asks for one of several classes: notebook 09 "
            "is made for it (medcore reports 09 --data …). To ask for classes here, read a column of classes as the "
            "label (--column label=NAME)"
        )
    return ps


def limit_images(patches: PatchSet, limit: int | None, *, seed: int = 0) -> PatchSet:
    """At most ``limit`` images, with every split, class and patient cut in about the same proportion.

    Args:
        limit: Most images to keep; None keeps all.
        seed: The same seed keeps the same images.

    Returns:
        A view in the original order; its card says how many were kept.
    """
    import pandas as pd

    if limit is None or len(patches) <= limit:
        return patches
    rng = np.random.default_rng(seed)
    keys = pd.DataFrame({"split": patches.splits, "label": strata(patches), "patient": patches.patients})
    order = rng.permutation(len(patches))
    # Within each cell of the table the k-th drawn image gets the rank k / size: cutting at one rank cuts all alike.
    cells = keys.iloc[order].groupby(["split", "label"], sort=False)
    rank = (cells.cumcount() + rng.random(len(order))) / cells["patient"].transform("size")
    kept = np.sort(order[np.argsort(rank.to_numpy(), kind="stable")[:limit]])
    note = f"Only {limit:,} of {len(patches):,} images are used (parameter limit)."
    card = replace(patches.card, warnings=[*patches.card.warnings, note])
    return patches.select(kept).with_card(card)
