"""PatchSet: round trips, views, atomic writing, damage, and refusal of pickles."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medcore.data.card import Card
from medcore.data.patchset import PatchSet, PatchSetWriter
from medcore.errors import MedcoreError

CARD = Card(name="toy", title="a toy", classes=["a", "b", "c"])


def toy(count: int = 12, *, masks: bool = False) -> PatchSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    table = {
        "label": np.arange(count) % 3,
        "patient": [f"P{row // 2}" for row in range(count)],
        "split": (["train"] * 6 + ["val"] * 3 + ["test"] * count)[:count],
        "age": np.arange(count) / 2,
    }
    return PatchSet.from_arrays(
        images, table, CARD, rng.integers(0, 3, (count, 6, 5), dtype=np.uint8) if masks else None
    )


text = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=8).filter(lambda s: not s.endswith("\0"))


@settings(max_examples=30, deadline=None)
@given(
    images=hnp.arrays(
        np.uint8, st.tuples(st.integers(0, 5), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3]))
    ),
    names=st.lists(text, min_size=5, max_size=5),
    numbers=st.lists(st.floats(allow_nan=False, width=32), min_size=5, max_size=5),
)
def test_round_trip_keeps_everything(tmp_path_factory, images, names, numbers) -> None:
    count = len(images)
    path = tmp_path_factory.mktemp("sets") / "ä set.npz"
    table = {"label": np.zeros(count, int), "patient": names[:count], "weight": numbers[:count]}
    made = PatchSet.from_arrays(images, table, CARD)
    opened = made.save(path)
    assert np.array_equal(opened.take(), images)
    assert opened.patients.tolist() == names[:count]
    assert opened.column("weight").tolist() == numbers[:count]
    assert opened.fingerprint == made.fingerprint
    assert opened.card == CARD
    opened.verify()
    with np.load(path) as plain:  # anybody can read it
        assert np.array_equal(plain["images"], images)


def test_pixels_are_mapped_not_read(tmp_path: Path) -> None:
    opened = toy().save(tmp_path / "a.npz")
    assert isinstance(opened.store, np.memmap)
    assert opened.select([3, 1]).store is opened.store


def test_views_select_rows_by_split_label_patient_and_column() -> None:
    ps = toy()
    assert len(ps.where(split="train")) == 6
    assert set(ps.where(label=["a", "c"]).label_names) == {"a", "c"}
    assert ps.where(patient="P0").index.tolist() == [0, 1]
    assert ps.where(split="train").where(label="b").index.tolist() == [1, 4]
    assert ps.where(age=0.5).index.tolist() == [1]
    view = ps.select([7, 2, 2])
    assert np.array_equal(view.take(), ps.take()[[7, 2, 2]])
    assert view.table["patient"].tolist() == ["P3", "P1", "P1"]


def test_saving_a_view_writes_only_its_rows(tmp_path: Path) -> None:
    ps = toy(masks=True)
    view = ps.where(label="b")
    saved = view.save(tmp_path / "view.npz")
    assert len(saved.store) == 4
    assert np.array_equal(saved.take_masks(), view.take_masks())
    saved.verify()


def test_fingerprint_follows_pixels_table_and_classes() -> None:
    ps = toy()
    brighter = ps.take()
    brighter[0, 0, 0, 0] ^= 1
    others = [
        PatchSet.from_arrays(brighter, ps.table, CARD),
        ps.with_split(["test"] * 12),
        ps.select(np.arange(11)),
        ps.with_card(Card(name="toy", classes=["a", "b", "d"])),
    ]
    prints = [ps.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(prints)) == 5
    assert toy().fingerprint == ps.fingerprint


def test_writer_streams_to_the_same_file_as_save(tmp_path: Path) -> None:
    ps = toy(masks=True)
    with PatchSetWriter(tmp_path / "w.npz", shape=ps.shape, card=CARD, masks=True) as writer:
        for start in range(0, 12, 5):
            part = ps.select(np.arange(start, min(12, start + 5)))
            writer.add(part.take(), part.table.to_dict("records"), part.take_masks())
    ps.save(tmp_path / "s.npz")
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("w.npz", "s.npz")]
    assert digests[0] == digests[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.npz", "w.npz"]


def test_an_error_while_writing_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    old = toy(6).save(tmp_path / "a.npz").fingerprint
    with (
        pytest.raises(RuntimeError, match="stop"),
        PatchSetWriter(tmp_path / "a.npz", shape=(6, 5, 3), card=CARD) as writer,
    ):
        writer.add(toy().take(), toy().table.to_dict("records"))
        raise RuntimeError("stop")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert PatchSet.open(tmp_path / "a.npz").fingerprint == old


def test_a_writer_killed_in_the_middle_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import numpy as np, sys
        from medcore.data.card import Card
        from medcore.data.patchset import PatchSetWriter
        with PatchSetWriter({str(tmp_path / "k.npz")!r}, shape=(64, 64, 3), card=Card("k", classes=["a"])) as w:
            for n in range(10_000):
                w.add(np.zeros((64, 64, 64, 3), np.uint8), [{{"label": 0}}] * 64)
                print(n, flush=True)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "3":
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "k.npz").exists()


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    toy(4).save(path)
    whole = path.read_bytes()
    print_before = PatchSet.open(path).fingerprint
    rng = np.random.default_rng(1)
    for position in rng.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            opened = PatchSet.open(path)
            opened.verify()
            same = opened.fingerprint == print_before and opened.card == CARD
        except MedcoreError as error:
            assert "a.npz" in str(error)
            continue
        # Bytes that carry no content (timestamps, attributes in the zip directory) may change unseen.
        assert same and np.array_equal(opened.take(), toy(4).take()), position


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    toy().save(path)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(MedcoreError, match="a.npz"):
            PatchSet.open(path)


def test_a_pickle_inside_is_refused_and_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    toy().save(tmp_path / "a.npz")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("table/evil.npy", buffer.getvalue())
    with pytest.raises(MedcoreError, match="pickle"):
        PatchSet.open(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_other_files_are_named_errors(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="missing.npz does not exist"):
        PatchSet.open(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(MedcoreError, match="not a PatchSet"):
        PatchSet.open(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(MedcoreError, match="text.npz is not a readable"):
        PatchSet.open(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 4, 4, 3))}, "uint8"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, "1 or 3"),
        ({"table": {"label": [0, 3]}}, "3 classes"),
        ({"table": {"label": [0]}}, "1 rows for 2 images"),
        ({"table": {"label": [0.5, 1.0]}}, "whole numbers"),
        ({"table": {"label": [0, 1], "split": ["train", "valid"]}}, "valid"),
        ({"masks": np.zeros((2, 3, 4), np.uint8)}, "masks must be"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    arguments = {"images": np.zeros((2, 4, 4, 3), np.uint8), "table": {"label": [0, 1]}, "card": CARD} | change
    with pytest.raises(MedcoreError, match=message):
        PatchSet.from_arrays(**arguments)


def test_wrong_selection_names_what_was_asked() -> None:
    with pytest.raises(MedcoreError, match="'stage'"):
        toy().where(stage=3)
    with pytest.raises(MedcoreError, match="'mel'"):
        toy().where(label="mel")
    with pytest.raises(MedcoreError, match="length 3"):
        toy().select(np.array([True, False, True]))


def test_medmnist_export_is_read_back(tmp_path: Path) -> None:
    ps = toy()
    ps.export_medmnist(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as arrays:
        assert arrays["train_images"].shape == (6, 6, 5, 3)
        assert np.array_equal(arrays["val_labels"][:, 0], ps.where(split="val").labels)
        assert len(arrays["test_images"]) == 3


def test_repr_is_the_card() -> None:
    text = repr(toy())
    for fact in ("toy", "12 images", "6×5×3", "6 × patient", "a 4, b 4, c 4", "train 6, val 3, test 3"):
        assert fact in text


def test_table_is_a_data_frame_with_plain_types() -> None:
    table = PatchSet.from_arrays(
        np.zeros((2, 4, 4), np.uint8), pd.DataFrame({"label": [0, 1], "sex": ["f", None], "patient": [7, 8]}), CARD
    ).table
    assert table["sex"].tolist() == ["f", ""]
    assert table["patient"].tolist() == ["7", "8"]
