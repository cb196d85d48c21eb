"""Shards: cut by hand out of one set, they are that set again; what does not belong together is refused by name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from medcore.cli import cli
from medcore.data.audit.findings import patient_findings
from medcore.data.card import Card
from medcore.data.load import read_set, report_reading
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError
from medcore.evaluation.predictor import read_as_trained

CARD = Card("toy", title="a toy", classes=["a", "b"], recipe={"reader": "folder", "policy": "crop", "seed": 1})


def whole(count: int = 23, *, masks: bool = False, side: int = 6) -> PatchSet:
    rng = np.random.default_rng(3)
    table = {
        "label": np.arange(count) % 2,
        "patient": [f"P{row // 3:03d}" for row in range(count)],
        "source": [f"{row}{'x' * (row % 4)}.png" for row in range(count)],
        "split": ["train"] * (count - 8) + ["test"] * 8,
        "age": np.where(np.arange(count) == 20, np.nan, np.arange(count) / 2),
        "smoker": np.arange(count) % 3 == 0,
    }
    images = rng.integers(0, 256, (count, side, side + 1, 3), dtype=np.uint8)
    return PatchSet.from_arrays(
        images, table, CARD, rng.integers(0, 2, images.shape[:3], dtype=np.uint8) if masks else None
    )


def cut(patches: PatchSet, folder: Path, ends: tuple[int, ...] = (9, 9, 17, 23)) -> Path:
    folder.mkdir(parents=True)
    for number, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
        patches.select(np.arange(start, end)).save(folder / f"set-{number:05d}.npz")
    return folder


def change(path: Path, **facts: Any) -> None:
    part = PatchSet.open(path)
    part.with_card(replace(part.card, **facts)).save(path)


@pytest.mark.parametrize("masks", [False, True])
def test_shards_are_the_set_they_were_cut_from(tmp_path: Path, tmp_data: Path, masks: bool) -> None:
    one = whole(masks=masks)
    folder = cut(one, tmp_path / "cut")
    joined = read_set(folder, progress=False)
    assert joined.fingerprint == one.fingerprint and joined.store_hash == one.store_hash
    assert np.array_equal(joined.take(), one.take()) and joined.table[one.columns].equals(one.table)
    assert not masks or np.array_equal(joined.take_masks(), one.take_masks())
    assert [entry["images"] for entry in joined.card.recipe["shards"]] == [9, 0, 8, 6]
    assert "4 shards" in joined.card.reading[0] and joined.card.title == "a toy"
    assert joined.path is not None and joined.path.parent == tmp_data / "prepared"
    stamp = joined.path.stat().st_mtime_ns
    again = read_set(folder / "set-00000.npz", progress=False)  # the first shard means them all
    assert again.path == joined.path and joined.path.stat().st_mtime_ns == stamp
    assert len(read_set(folder / "set-00002.npz", progress=False)) == 8  # any other is a file of its own
    assert read_set(folder, size=3, progress=False).shape == (3, 3, 3)


def test_a_changed_shard_makes_the_set_anew(tmp_path: Path, tmp_data: Path) -> None:
    folder = cut(whole(), tmp_path / "cut")
    before = read_set(folder, progress=False)
    part = PatchSet.open(folder / "set-00003.npz")
    part.with_columns(label=1 - part.labels).save(part.path or "")
    after = read_set(folder, progress=False)
    assert after.labels.tolist() == [*before.labels[:17].tolist(), *(1 - before.labels[17:]).tolist()]


def test_what_happened_in_every_shard_is_on_the_card(tmp_path: Path, tmp_data: Path) -> None:
    folder = cut(whole(), tmp_path / "cut", (10, 23))
    made = {"policy": "crop", "scaled_or_cut": False, "source_size": [6, 7, 6, 7], "seed": 1}
    lost = {"file": "x.png", "row": None, "reason": "broken"}
    change(folder / "set-00000.npz", recipe=made, conversions={"palette": 2}, warnings=["w"])
    other = {**made, "scaled_or_cut": True, "source_size": [5, 9, 8, 30], "seed": 2}
    change(folder / "set-00001.npz", name="b", recipe=other, conversions={"palette": 1}, excluded=[lost])
    card = read_set(folder, progress=False).card
    assert (card.name, card.conversions, card.warnings) == ("set", {"palette": 3}, ["w"])
    assert card.excluded == [{**lost, "shard": "set-00001.npz"}]
    assert card.recipe["source_size"] == [5, 7, 8, 30] and card.recipe["scaled_or_cut"] and "seed" not in card.recipe
    assert [entry["seed"] for entry in card.recipe["shards"]] == [1, 2]


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"classes": ["b", "a"]}, "other classes"),
        ({"pixel_size_um": 0.5}, "other pixel_size_um"),
        ({"licence": "CC0"}, "other licence"),
        ({"recipe": {"policy": "resize"}}, "other policy"),
    ],
)
def test_cards_that_disagree_are_refused(tmp_path: Path, tmp_data: Path, facts: dict[str, Any], named: str) -> None:
    folder = cut(whole(), tmp_path / "cut")
    change(folder / "set-00002.npz", **facts)
    with pytest.raises(MedcoreError, match=rf"set-00002\.npz' has {named}"):
        read_set(folder, progress=False)


def test_arrays_that_disagree_are_refused(tmp_path: Path, tmp_data: Path) -> None:
    folder = cut(whole(), tmp_path / "cut")
    for other, named in (
        (whole(side=5), r"images of \(height, width, channels\)"),
        (whole(masks=True), "masks"),
        (whole().with_columns(stage=["x"] * 23), "columns"),
        (whole().with_columns(age=["old"] * 23), "columns"),
    ):
        other.save(folder / "set-00001.npz")
        with pytest.raises(MedcoreError, match=rf"set-00001\.npz' has other {named}"):
            read_set(folder, progress=False)
    np.savez(folder / "set-00001.npz", images=np.zeros((2, 6, 7, 3), np.uint8), labels=[0, 1])
    with pytest.raises(MedcoreError, match=r"set-00001\.npz is not a PatchSet"):
        read_set(folder, progress=False)


def test_gaps_and_other_sets_beside_them_are_refused(tmp_path: Path, tmp_data: Path) -> None:
    folder = cut(whole(), tmp_path / "cut")
    whole().save(folder / "test-00000.npz")
    with pytest.raises(MedcoreError, match=r"other sets \(test-00000\.npz\)"):
        read_set(folder, progress=False)
    assert len(read_set(folder / "set-00000.npz", progress=False)) == 23
    (folder / "test-00000.npz").unlink()
    for missing in ("set-00002.npz", "set-00000.npz"):
        (folder / missing).unlink()
        with pytest.raises(MedcoreError, match=rf"{missing.replace('.', '[.]')}.*is missing"):
            read_set(folder, progress=False)


def test_a_damaged_shard_is_named(tmp_path: Path, tmp_data: Path) -> None:
    folder = cut(whole(), tmp_path / "cut")
    content = bytearray((folder / "set-00002.npz").read_bytes())
    content[content.rindex(PatchSet.open(folder / "set-00002.npz").take([7]).tobytes())] ^= 1
    (folder / "set-00002.npz").write_bytes(content)
    with pytest.raises(MedcoreError, match=r"set-00002\.npz is damaged"):
        read_set(folder, progress=False)
    assert not list(tmp_data.rglob("*.npz"))


def test_names_in_several_shards_are_said(tmp_path: Path, tmp_data: Path) -> None:
    for number in range(2):
        PatchSet.from_arrays(np.full((3, 4, 4, 1), number, np.uint8), {"label": [0, 1, 0]}, CARD).save(
            tmp_path / "cut" / f"set-{number:05d}.npz"
        )
    assert any("3 names of images" in text for text in read_set(tmp_path / "cut", progress=False).card.warnings)


def test_a_patient_on_both_sides_is_found_by_the_audit(tmp_path: Path, tmp_data: Path) -> None:
    sides = whole().with_split(["train"] * 10 + ["test"] * 13)  # P003 is cut in two, as the first two shards are
    joined = read_set(cut(sides, tmp_path / "cut", (10, 23)), progress=False)
    assert [(found.kind, found.count, found.examples) for found in patient_findings(joined)] == [
        ("patient on two sides", 1, [{"patient": "P003", "sides": ["train", "test"]}])
    ]


def test_a_checkpoint_reads_shards_as_a_prepared_set(tmp_path: Path, tmp_data: Path) -> None:
    folder = cut(whole(), tmp_path / "cut")
    manifest = {"image_shape": (6, 7, 3), "preprocessing": {"policy": "resize", "window": [40, 400]}}
    assert read_as_trained(manifest, folder).fingerprint == whole().fingerprint
    with pytest.raises(MedcoreError, match="shape"):
        read_as_trained({**manifest, "image_shape": (5, 7, 3)}, folder)


def test_the_command_reads_shards_and_a_dry_run_writes_nothing(tmp_path: Path, tmp_data: Path) -> None:
    folder = cut(whole(), tmp_path / "cut")
    dry = CliRunner().invoke(cli, ["data", "prepare", str(folder), "--dry-run"])
    assert dry.exit_code == 0 and "4 shards" in dry.output and not list(tmp_data.rglob("*.npz"))
    assert report_reading(folder).reading[0] in dry.output
    made = CliRunner().invoke(cli, ["data", "prepare", str(folder), "--out", str(tmp_path / "one.npz")])
    assert made.exit_code == 0, made.output
    assert PatchSet.open(tmp_path / "one.npz").fingerprint == whole().fingerprint


def test_joining_takes_constant_memory(tmp_path: Path, tmp_data: Path) -> None:
    pixels = np.zeros((160, 512, 512, 3), np.uint8)  # 126 MB a shard
    for number in range(4):
        names = {"label": [0] * 160, "source": [f"{number}/{row}" for row in range(160)]}
        PatchSet.from_arrays(pixels, names, CARD).save(tmp_path / "cut" / f"set-{number:05d}.npz")
    program = (
        "import resource\nfrom medcore.data.load import read_set\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbefore = peak()\n"
        f"print(len(read_set({str(tmp_path / 'cut')!r}, progress=False)), (peak() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    count, megabytes = map(int, done.stdout.split())
    assert count == 640 and megabytes < 250  # of 503 MB of pixels
