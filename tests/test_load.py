"""``load``: sources, policies, the cache, and that nothing half-made looks whole."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medcore.data import prepare as prepare_module
from medcore.data import sizes
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.errors import MedcoreError


def folder(root: Path, extents: Sequence[tuple[int, int]] = ((8, 10),) * 4) -> Path:
    for number, extent in enumerate(extents):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*extent, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def test_the_second_time_comes_from_the_cache(tmp_path: Path, tmp_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "s")
    first = read_set(root, progress=False)
    monkeypatch.setattr(prepare_module, "decode", lambda *_, **__: pytest.fail("decoded twice"))
    again = read_set(root, progress=False)
    assert again.path == first.path and again.fingerprint == first.fingerprint
    assert first.path is not None and first.path.parent == tmp_data / "prepared"


def test_a_changed_file_option_or_row_is_prepared_anew(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s")
    variants = [{}, {"size": 4}, {"channels": 1}, {"card": {"licence": "CC0"}}]
    paths = {read_set(root, progress=False, **options).path for options in variants}
    file = root / "a/0.png"
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(file)
    os.utime(file, ns=(1, 1))
    changed = read_set(root, progress=False)
    assert len({*paths, changed.path}) == 5
    assert changed.take([0]).max() == 0
    assert any("1 images have one value in every pixel (a/0.png)" in text for text in changed.card.warnings)


def test_facts_about_your_own_set_reach_the_card(tmp_path: Path, tmp_data: Path) -> None:
    card = read_set(folder(tmp_path / "s"), progress=False, card={"licence": "CC0", "pixel_size_um": 0.5}).card
    assert (card.licence, card.pixel_size_um) == ("CC0", 0.5)
    halved = read_set(tmp_path / "s", progress=False, size=(4, 5), card={"pixel_size_um": 0.5}).card
    assert halved.pixel_size_um == pytest.approx(1.0)
    squashed = read_set(tmp_path / "s", progress=False, size=4, card={"pixel_size_um": 0.5}).card
    assert squashed.pixel_size_um is None  # no longer the same in both directions
    with pytest.raises(MedcoreError, match="a key of card must be one of"):
        read_set(tmp_path / "s", card={"lisence": "CC0"})


def test_resize_is_the_default_for_mixed_sizes_and_says_so(tmp_path: Path, tmp_data: Path) -> None:
    patches = read_set(folder(tmp_path / "s", [(8, 10), (30, 20)]), progress=False)
    assert patches.shape == (224, 224, 3)
    assert any("policy 'resize' made all of them 224×224" in text for text in patches.card.warnings)
    assert patches.column("source_height").tolist() == [8, 30] and patches.column("source_width").tolist() == [10, 20]
    recipe = patches.card.recipe
    assert (recipe["policy"], recipe["size"], recipe["source_size"]) == ("resize", [224, 224], [8, 10, 30, 20])
    assert recipe["scaled_or_cut"] and not read_set(folder(tmp_path / "t"), progress=False).card.recipe["scaled_or_cut"]


def test_policies(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s", [(8, 10), (30, 20)])
    raw = [np.asarray(Image.open(root / name)) for name in ("a/0.png", "b/1.png")]
    padded = read_set(root, progress=False, policy="pad")
    assert padded.shape == (30, 20, 3) and np.array_equal(padded.take([0])[0, :8, :10], raw[0])
    assert (padded.take([0])[0, 8:] == 255).all() and padded.column("height").tolist() == [8, 30]
    cropped = read_set(root, progress=False, policy="crop")
    assert cropped.shape == (8, 10, 3) and np.array_equal(cropped.take([1])[0], raw[1][11:19, 5:15])
    tiles = read_set(root, progress=False, policy="tile", size=8)
    assert len(tiles) == 2 + 4 * 3 and set(tiles.patients) == {"a/0.png", "b/1.png"}
    for row, tile in enumerate(tiles.take()):
        entry = tiles.table.iloc[row]
        source = raw[0] if entry["source"] == "a/0.png" else raw[1]
        assert np.array_equal(tile, source[entry.y : entry.y + 8, entry.x : entry.x + 8])
    fitted = read_set(root, progress=False, policy="fit", size=16)
    assert fitted.column("height").tolist() == [13, 16] and fitted.column("width").tolist() == [16, 11]


def test_policy_faults(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s", [(8, 10), (30, 20)])
    with pytest.raises(MedcoreError, match=r"policy must be one of 'resize', 'fit'.*not 'squash'"):
        read_set(root, policy="squash")
    with pytest.raises(MedcoreError, match=r"image 'a/0\.png' is 10×8, smaller than the crop 12×12"):
        read_set(root, progress=False, policy="crop", size=12)
    with pytest.raises(MedcoreError, match=r"image 'b/1\.png' is 20×30, larger than the padded size 25×25"):
        read_set(root, progress=False, policy="pad", size=25)
    assert len(read_set(root, progress=False, policy="pad", size=25, on_error="skip")) == 1
    for size in (0, -3, 2.5, "64", (1, 2, 3), True):
        with pytest.raises(MedcoreError, match="size must be"):
            read_set(root, size=size)
    with pytest.raises(MedcoreError, match="overlap must be 0 to 7"):
        read_set(root, progress=False, policy="tile", size=8, overlap=8)
    with pytest.raises(MedcoreError, match="channels must be one of"):
        read_set(root, channels=2)
    with pytest.raises(MedcoreError, match="on_error must be"):
        read_set(root, on_error="ignore")
    assert not list(tmp_data.rglob("*.part"))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), side=st.integers(1, 16), data=st.data())
def test_tiles_cover_every_pixel_once_known(height: int, width: int, side: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, side - 1))
    pixels = np.arange(height * width, dtype=np.int64).reshape(height, width, 1)
    image = (pixels % 251).astype(np.uint8)
    seen = np.zeros((height, width), int)
    for tile, _, place in sizes.pieces(image, None, "tile", (side, side), overlap):
        window = np.s_[place["y"] : place["y"] + place["height"], place["x"] : place["x"] + place["width"]]
        assert tile.shape == (side, side, 1)
        assert np.array_equal(tile[: place["height"], : place["width"]], image[window])
        seen[window] += 1
    assert (seen > 0).all()


def test_sixteen_bit_sets_that_look_dark_say_so(tmp_path: Path, tmp_data: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.fromarray((np.arange(64, dtype=np.uint16) * 60).reshape(8, 8)).save(tmp_path / "d" / name / "1.png")
    patches = read_set(tmp_path / "d", progress=False)
    assert patches.shape == (8, 8, 1) and patches.card.conversions == {"uint16 values 0..65535 scaled to 0..255": 2}
    assert any("no deep image has a value above 3780" in text for text in patches.card.warnings)
    ranged = read_set(tmp_path / "d", progress=False, value_range=(0, 4095))
    assert ranged.card.recipe["value_range"] == [0, 4095]
    assert ranged.take().max() == round(3780 * 255 / 4095) and not any("deep" in text for text in ranged.card.warnings)


def test_sources_that_do_not_exist(tmp_path: Path, tmp_data: Path) -> None:
    with pytest.raises(
        MedcoreError, match=r"'nowhere' is neither an existing file or folder nor a known set \(phantom-crc"
    ):
        read_set("nowhere")
    with pytest.raises(MedcoreError, match=r"'ham10000' is not on this machine.*medcore data fetch ham10000"):
        read_set("ham10000")
    with pytest.raises(MedcoreError, match=r"'glas' is not on this machine.*register at the homepage"):
        read_set("glas")
    with pytest.raises(MedcoreError, match="source is empty"):
        read_set("")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(MedcoreError, match=r"notes\.txt' is neither a folder, a \.csv nor a \.npz"):
        read_set(tmp_path / "notes.txt")
    with pytest.raises(MedcoreError, match=r"option 'sise' does not belong.*patient_pattern"):
        read_set(folder(tmp_path / "s"), sise=3)


def test_a_fetched_set_is_found_by_its_name(tmp_path: Path, tmp_data: Path) -> None:
    for name in ("CRC-VAL-HE-7K/ADI", "NCT-CRC-HE-100K/TUM"):
        folder(tmp_data / "nct-crc" / name, [(8, 8)])
        (tmp_data / "nct-crc" / name / "a/0.png").rename(tmp_data / "nct-crc" / name / "0.png")
    assert sorted(read_set("nct-crc", progress=False).splits) == ["test", "train"]


def test_a_phantom_is_made_once(tmp_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medcore.data import phantoms
    from medcore.data.card import Card

    calls = []

    def make(*, patients: int = 3, size: int = 8, seed: int = 0) -> PatchSet:
        calls.append((patients, size, seed))
        images = np.full((patients, size, size, 3), seed, np.uint8)
        return PatchSet.from_arrays(
            images, {"label": [0] * patients}, Card("phantom-crc", classes=["a"], synthetic=True)
        )

    monkeypatch.setitem(phantoms.PHANTOMS, "phantom-crc", make)
    assert read_set("phantom-crc", seed=4, size=6, patients=2).shape == (6, 6, 3)
    assert read_set("phantom-crc", seed=4, size=6, patients=2).path is not None
    read_set("phantom-crc")
    assert calls == [(2, 6, 4), (3, 8, 0)]
    with pytest.raises(
        MedcoreError, match="option 'patient' does not belong to phantom-crc; it takes patients, size, seed"
    ):
        read_set("phantom-crc", patient=2)


def test_every_phantom_of_the_cards_can_be_made_or_is_listed(tmp_data: Path) -> None:
    from medcore.data.datasets import CARDS
    from medcore.data.phantoms import PHANTOMS

    assert set(PHANTOMS) == {name for name, facts in CARDS.items() if facts.synthetic}


def test_a_failed_preparation_leaves_nothing_behind(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s", [(8, 10)] * 200)
    content = (root / "b/199.png").read_bytes()
    (root / "b/199.png").write_bytes(content[:-40])
    with pytest.raises(MedcoreError, match=r"199\.png"):
        read_set(root, progress=False)
    assert [path.suffix for path in (tmp_data / "prepared").rglob("*")] == [".lock"]
    (root / "b/199.png").write_bytes(content)
    assert len(read_set(root, progress=False)) == 200


def test_a_killed_preparation_is_made_again(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s", [(8, 10)] * 40)
    program = (
        "import os\nfrom medcore.data import prepare\n"
        "prepare._flush = lambda *_: os.kill(os.getpid(), 9)\n"
        f"from medcore.data.load import read_set\nread_set({str(root)!r}, progress=False)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], env={**os.environ, "MEDCORE_DATA": str(tmp_data)})
    assert killed.returncode == -9
    assert not list((tmp_data / "prepared").glob("*.npz"))
    assert len(read_set(root, progress=False)) == 40


def test_two_processes_that_need_one_set_share_it(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s", [(8, 10)] * 60)
    program = f"from medcore.data.load import read_set\nprint(read_set({str(root)!r}, progress=False).fingerprint)"
    environment = {**os.environ, "MEDCORE_DATA": str(tmp_data)}
    pair = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) for _ in range(2)
    ]
    prints = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0] and prints[0] == prints[1]
    assert len(list((tmp_data / "prepared").glob("*.npz"))) == 1


def test_a_full_disk_is_refused_before_work(tmp_path: Path, tmp_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "s")
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MedcoreError, match="0.0 GB are free; make room"):
        read_set(root, progress=False)


def test_order_does_not_depend_on_threads(tmp_path: Path, tmp_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "s", [(8, 10)] * 100)
    several = read_set(root, progress=False).fingerprint
    monkeypatch.setattr("medcore.data.parallel.available_cores", lambda: 1)
    assert read_set(root, progress=False, cache=False).fingerprint == several


def test_resize_is_pillows_antialiased_bilinear(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s", [(37, 50)] * 2)
    expected = np.asarray(Image.open(root / "a/0.png").resize((20, 11), Image.Resampling.BILINEAR))
    assert np.array_equal(read_set(root, progress=False, size=(11, 20)).take([0])[0], expected)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_pixel_bomb_in_a_folder_is_an_error_or_a_listed_exclusion(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s")
    Image.new("1", (10_000, 10_000)).save(root / "a/bomb.png")
    with pytest.raises(MedcoreError, match=r"bomb\.png' has 10000×10000 = 100 million pixels"):
        read_set(root, progress=False)
    card = read_set(root, progress=False, on_error="skip").card
    assert [entry["file"] for entry in card.excluded] == ["a/bomb.png"]


def test_a_damaged_cache_file_is_made_again(tmp_path: Path, tmp_data: Path) -> None:
    root = folder(tmp_path / "s")
    first = read_set(root, progress=False)
    assert first.path is not None
    expected = first.fingerprint
    first.path.write_bytes(first.path.read_bytes()[:-500])
    assert read_set(root, progress=False).fingerprint == expected


def test_arrays_follow_size_policy_and_channels(tmp_path: Path, tmp_data: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 9, 12), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(5) % 2)
    tiles = read_set(tmp_path / "x.npz", progress=False, size=6, policy="tile", channels=3)
    assert tiles.shape == (6, 6, 3) and len(tiles) == 5 * 4
    assert tiles.card.conversions == {"grey repeated to three channels": 5}
    assert np.array_equal(tiles.where(source="000003", x=6, y=3).take()[0, ..., 1], images[3, 3:9, 6:12])
    with pytest.raises(MedcoreError, match="holds arrays, not image files"):
        read_set(tmp_path / "x.npz", window=(40, 400))
