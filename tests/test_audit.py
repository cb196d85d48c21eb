"""The audit finds planted leakage, says nothing about unrelated images, and its corrections drop nothing."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import roc_auc_score

from medcore.data.audit import hashing, shortcuts
from medcore.data.audit.audit import audit
from medcore.data.audit.fix import audit_main, fix_splits
from medcore.data.audit.links import linked_groups, named_pairs
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.phantoms import make_xray
from medcore.errors import MedcoreError

SIDE = 64


def textures(count: int, seed: int = 0, *, side: int = SIDE, channels: int = 3) -> np.ndarray:
    """Unrelated tissue-like pictures: smooth colour fields of several scales with sensor noise."""
    rng = np.random.default_rng(seed)
    images = np.empty((count, side, side, channels), np.uint8)
    for number in range(count):
        field = sum(
            weight * gaussian_filter(rng.normal(size=(side, side)), scale, mode="wrap") * scale
            for scale, weight in ((1.5, 1.0), (4, rng.uniform(0.3, 1.5)), (10, rng.uniform(0, 2)))
        )
        field = field / field.std() * rng.uniform(12, 35) + rng.uniform(110, 190)
        tint = rng.normal(0, 12, channels)
        images[number] = np.clip(field[..., None] + tint + rng.normal(0, 2, (side, side, 1)), 0, 255)
    return images


def make_set(images, *, patient=None, split="", label=None, source=None, known=True, **columns) -> PatchSet:
    count = len(images)
    table = pd.DataFrame(
        {
            "label": np.arange(count) % 2 if label is None else np.asarray(label),
            "patient": [f"P{n}" for n in range(count)] if patient is None else patient,
            "split": [split] * count if isinstance(split, str) else split,
            "source": [f"img/{n}.png" for n in range(count)] if source is None else source,
            **columns,
        }
    )
    card = Card(name="toy", classes=["a", "b"], patients_known=known)
    return PatchSet.from_arrays(np.asarray(images), table, card)


def sides(count: int) -> list[str]:
    return ["train"] * (count // 2) + ["test"] * (count - count // 2)


def kinds(result) -> dict[str, int]:
    return {finding.kind: finding.count for finding in result.findings}


# --- the frequencies -------------------------------------------------------------------------------------------


def test_frequencies_equal_scipys_cosine_transform():
    images = textures(3, side=40)
    reference = dctn(hashing.grey_levels(images).astype(float), axes=(1, 2), norm="ortho") / 40
    assert np.allclose(hashing.low_frequencies(images, 9), reference[:, :9, :9], atol=1e-3)


@pytest.mark.parametrize("number", range(8))
def test_turning_frequencies_equals_turning_pixels(number):
    images = textures(2, side=32)
    turned = np.stack([hashing.apply_symmetry(image, number) for image in images])
    expected = hashing.low_frequencies(turned, 8)
    assert np.allclose(hashing.transform_frequencies(hashing.low_frequencies(images, 8), number), expected, atol=1e-3)


def test_symmetry_names_mean_what_they_say():
    image = np.arange(12).reshape(3, 4, 1)
    named = dict(zip(hashing.SYMMETRIES, range(8), strict=True))
    for name, expected in {
        "mirrored left-right": np.fliplr(image),
        "mirrored top-bottom": np.flipud(image),
        "turned 180°": np.rot90(image, 2),
        "turned 90° left": np.rot90(image),
        "turned 90° right": np.rot90(image, -1),
    }.items():
        assert np.array_equal(hashing.apply_symmetry(image, named[name]), expected)


# --- the gate, small -------------------------------------------------------------------------------------------


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(image: np.ndarray, factor: float, how: Image.Resampling) -> np.ndarray:
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((round(width * factor), round(height * factor)), how)
    return np.asarray(small.resize((width, height), how))


COPIES = {
    "exact": lambda image: image,
    "flip": np.fliplr,
    "flop": np.flipud,
    "turn": np.rot90,
    "half turn": lambda image: np.rot90(image, 2),
    "diagonal": lambda image: image.swapaxes(0, 1),
    "jpeg 30": lambda image: jpeg(image, 30),
    "jpeg 60": lambda image: jpeg(image, 60),
    "jpeg 95": lambda image: jpeg(image, 95),
    "half, bilinear": lambda image: resized(image, 0.5, Image.Resampling.BILINEAR),
    "half, Lanczos": lambda image: resized(image, 0.5, Image.Resampling.LANCZOS),
    "0.7, bicubic": lambda image: resized(image, 0.7, Image.Resampling.BICUBIC),
    "double": lambda image: resized(image, 2, Image.Resampling.BICUBIC),
    "brighter": lambda image: np.clip(image.astype(int) + 5, 0, 255).astype(np.uint8),
    "darker": lambda image: np.clip(image.astype(int) - 5, 0, 255).astype(np.uint8),
    "turned and jpeg 40": lambda image: jpeg(np.ascontiguousarray(np.rot90(image)), 40),
}


@pytest.mark.parametrize("channels", [3, 1])
def test_planted_copies_are_found_and_nothing_else(channels):
    originals = textures(400, channels=channels)
    rng = np.random.default_rng(5)
    picked = rng.choice(len(originals), (len(COPIES), 8), replace=False)
    planted = [
        copy(originals[row, ..., 0] if channels == 1 else originals[row]).reshape(originals.shape[1:])
        for rows, copy in zip(picked, COPIES.values(), strict=True)
        for row in rows
    ]
    images = np.concatenate([originals, planted])
    result = audit(make_set(images, split=["train"] * len(originals) + ["test"] * len(planted)), shortcuts=False)
    expected = {(int(row), len(originals) + place) for place, row in enumerate(picked.ravel())}
    assert set(zip(result.pairs["a"], result.pairs["b"], strict=True)) == expected
    assert result.verdict == "leakage"
    assert kinds(result)["exact copies across the split"] == 8
    assert kinds(result)["near copies across the split"] == 8 * (len(COPIES) - 1)


def test_the_reported_symmetry_brings_one_copy_onto_the_other():
    originals = textures(60)
    turned = np.stack([hashing.apply_symmetry(originals[n], n) for n in range(8)])
    result = audit(make_set(np.concatenate([originals, turned])), shortcuts=False)
    assert len(result.pairs) == 8
    for pair in result.pairs.itertuples():
        again = hashing.apply_symmetry(turned[pair.b - 60], pair.symmetry)
        assert np.array_equal(again, originals[pair.a])


def test_unrelated_images_give_no_pair():
    result = audit(make_set(textures(700, seed=3), split=sides(700)), shortcuts=False)
    assert result.pairs.empty and result.passed


def test_power_is_low_where_copies_cannot_be_told():
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(240, 1.2, (200, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)  # empty glass and noise
    result = audit(make_set(images), shortcuts=False)
    assert result.pairs.empty
    assert result.flat == 200 and kinds(result)["images too flat to compare"] == 200


def test_flat_images_are_still_compared_by_exact_flips():
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(240, 1.2, (50, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    images = np.concatenate([images, images[7:8, :, ::-1]])
    result = audit(make_set(images), shortcuts=False)
    assert result.pairs[["a", "b", "symmetry"]].values.tolist() == [[7, 50, 1]]


def test_padding_is_not_content():
    small = textures(30, side=48)
    images = np.full((30, 64, 64, 3), 255, np.uint8)
    images[:, :48, :48] = small
    images[29, :48, :48] = np.rot90(small[3])
    result = audit(make_set(images, height=[48] * 30, width=[48] * 30), shortcuts=False)
    assert result.pairs[["a", "b"]].values.tolist() == [[3, 29]]


def test_constant_images_are_broken_not_copies():
    images = textures(20)
    images[3:6] = 255
    images[8, ..., 2] = 0
    images[9, ..., 2] = 255
    result = audit(make_set(images, split=sides(20)), shortcuts=False)
    assert result.pairs.empty
    assert kinds(result)["constant images"] == 3
    assert kinds(result)["dead channel images"] == 2


def test_a_clipped_channel_is_found_but_white_paper_is_not():
    images = textures(10)
    images[4] = np.clip(images[4].astype(int) + [0, 0, 160], 0, 255)
    images[5, :50] = 255
    result = audit(make_set(images), shortcuts=False)
    assert [finding.rows.tolist() for finding in result.findings if finding.kind == "clipped channel images"] == [[4]]


# --- findings ----------------------------------------------------------------------------------------------------


def test_patients_on_two_sides_are_leakage_by_name():
    ps = make_set(textures(6), patient=list("AABBCC"), split=["train", "test", "train", "train", "val", "test"])
    result = audit(ps, shortcuts=False)
    assert result.verdict == "leakage"
    torn = next(finding for finding in result.findings if finding.kind == "patient on two sides")
    assert torn.count == 2
    assert {example["patient"] for example in torn.examples} == {"A", "C"}


def test_copies_are_graded_by_what_they_harm():
    images = textures(30)
    images[10], images[11], images[12] = images[0], images[1], images[2]
    patient = [f"P{n}" for n in range(30)]
    patient[10] = patient[0]
    split = ["train"] * 15 + ["test"] * 15
    split[12] = "test"
    result = audit(make_set(images, patient=patient, split=split), shortcuts=False)
    severity = {finding.kind: finding.severity for finding in result.findings}
    assert severity["exact copies within one patient"] == "info"
    assert severity["exact copies between patients"] == "warning"
    assert severity["exact copies across the split"] == "leakage"


def test_copies_with_different_labels_are_a_warning():
    images = textures(10)
    images[5] = images[2][::-1]
    result = audit(make_set(images, label=[0, 0, 0, 0, 0, 1, 0, 0, 0, -1]), shortcuts=False)
    assert kinds(result)["copies with different labels"] == 1


def test_unknown_patients_are_said():
    assert kinds(audit(make_set(textures(8), known=False), shortcuts=False))["patients unknown"] == 8


def test_one_image_and_no_images_do_not_break_the_audit():
    assert audit(make_set(textures(1))).passed
    assert audit(make_set(textures(1)).select([])).images == 0


def test_results_are_plain_json_and_examples_name_files():
    import json

    images = textures(10)
    images[7] = images[1]
    result = audit(make_set(images, split=sides(10)))
    stored = json.loads(json.dumps(result.as_dict()))
    example = stored["examples"]["exact copies across the split"][0]
    assert (example["file_a"], example["file_b"]) == ("img/1.png", "img/7.png")
    assert stored["verdict"] == "leakage" and stored["passed"] is False
    assert list(result.table()["severity"])[0] == "leakage"
    assert "leakage" in str(result)


# --- names -------------------------------------------------------------------------------------------------------


def test_augmented_copies_by_name_find_their_original():
    source = ["A/001.png", "A/001_Aug5.png", "A/002.png", "B/001.png", "B/003_aug1.jpg", "C/003.png", "B/009_Aug1.png",
              "B/009_Aug2.png", "A/caught.png", "A/robot1.png"]  # fmt: skip
    pairs = named_pairs(make_set(textures(10), source=source))
    assert sorted(map(tuple, pairs[["a", "b"]].to_numpy().tolist())) == [(0, 1), (5, 4), (6, 7)]


def test_the_readers_knowledge_of_copies_is_used():
    ps = make_set(textures(4), source=list("abcd"), copy_of=["", "a", "", "x (not here)"])
    assert named_pairs(ps)[["a", "b"]].values.tolist() == [[0, 1]]


def test_an_augmented_copy_on_the_other_side_is_leakage():
    source = ["1.png", "1_Aug5.png", "2.png", "3.png"]
    result = audit(make_set(textures(4), source=source, split=["train", "test", "train", "test"]), shortcuts=False)
    assert kinds(result)["augmented copies across the split"] == 1 and result.verdict == "leakage"


# --- shortcuts ---------------------------------------------------------------------------------------------------


def test_a_class_told_by_its_colour_is_a_warning_and_names_the_cue():
    images = textures(120)
    label = np.arange(120) % 2
    images[label == 1, ..., 0] = np.clip(images[label == 1, ..., 0].astype(int) + 40, 0, 255)
    result = audit(make_set(images, label=label))
    found = next(finding for finding in result.findings if finding.kind == "class told by simple statistics")
    assert found.severity == "warning" and "red" in found.message


def test_no_shortcut_is_no_warning():
    result = audit(make_set(textures(150), label=np.random.default_rng(0).integers(0, 2, 150)))
    assert {finding.severity for finding in result.findings} <= {"info"}


def test_of_several_findings_each_has_its_own_shortcuts():
    patches = make_xray(patients=100, size=32)
    said = kinds(audit(patches, near=False))
    assert {"effusion told by column 'portable'", "pneumothorax told by column 'drain'"} <= set(said)
    assert not any("finding_" in kind or kind.startswith("class") for kind in said)
    assert not any(kind.startswith("nodule told by column") for kind in said)
    fair = kinds(audit(make_xray(patients=100, size=32, hospital="b"), near=False))
    assert not any("column" in kind for kind in fair)


def test_size_of_the_source_counts_as_a_cue():
    label = np.arange(60) % 2
    ps = make_set(textures(60), label=label, source_height=200 + 50 * label, source_width=np.full(60, 200))
    best = shortcuts.cue_table(ps, hashing.describe_images(ps).statistics).iloc[0]
    assert (best["cue"], best["auroc"]) == ("source height", 1.0)


def test_cue_auroc_equals_scikit_learn():
    ps = make_set(textures(80), label=np.random.default_rng(1).integers(0, 2, 80))
    statistics = hashing.describe_images(ps).statistics
    table = shortcuts.cue_table(ps, statistics).set_index("cue")["auroc"]
    area = roc_auc_score(ps.labels, statistics["mean red"])
    assert table["mean red"] == pytest.approx(max(area, 1 - area))


def test_pixel_statistics_by_hand():
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, :2] = [255, 100, 0]
    values = dict(zip(shortcuts.STATISTICS, shortcuts.image_statistics(image)[0], strict=True))
    assert values["mean red"] == 127.5 and values["mean blue"] == 0
    assert values["spread green"] == 50
    assert (values["widest range"], values["narrowest range"]) == (255, 0)
    assert values["clipped alone"] == 0.5  # red at 255 (and blue at 0) in half of the pixels, not all channels


# --- corrections ---------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 12), min_size=2, max_size=40),
    data=st.data(),
)
def test_linked_groups_are_connected_components(groups, data):
    rows = st.integers(0, len(groups) - 1)
    pairs = pd.DataFrame(data.draw(st.lists(st.tuples(rows, rows), max_size=15)), columns=["a", "b"])
    linked = linked_groups(np.array(groups).astype(str), pairs.astype(int))
    codes = np.unique(groups, return_inverse=True)[1]
    ends = codes[pairs["a"].to_numpy(dtype=int)], codes[pairs["b"].to_numpy(dtype=int)]
    count = codes.max() + 1
    _, components = connected_components(coo_array((np.ones(len(pairs)), ends), (count, count)), directed=False)
    same = components[codes][:, None] == components[codes][None]
    assert np.array_equal(linked[:, None] == linked[None], same)


def leaking() -> PatchSet:
    images = textures(40)
    images[30], images[31] = images[0], np.rot90(images[1])
    patient = [f"P{n // 2}" for n in range(40)]
    split = ["train"] * 20 + ["val"] * 8 + ["test"] * 12
    split[5] = "test"  # P2 stands on two sides
    return make_set(images, patient=patient, split=split)


def test_corrected_split_has_no_leak_and_drops_nothing():
    ps = leaking()
    fixed = fix_splits(ps, audit(ps))
    again = audit(fixed, shortcuts=False)
    assert again.passed
    assert len(fixed) == len(ps) and sorted(fixed.column("source")) == sorted(ps.column("source"))
    unlinked = np.array([n for n in range(40) if ps.patients[n] not in ("P0", "P2", "P15")])
    assert (fixed.splits[unlinked] == ps.splits[unlinked]).all()
    assert fixed.card.recipe["split_fixed"]["images_moved"] == int((fixed.splits != ps.splits).sum()) > 0
    assert any("corrected" in note for note in fixed.card.warnings)


def test_ties_leave_the_test_part_clean():
    images = textures(8)
    images[7] = images[0]
    ps = make_set(images, split=sides(8))
    assert fix_splits(ps, audit(ps)).splits[[0, 7]].tolist() == ["train", "train"]


def test_without_a_split_linked_patients_stay_together():
    images = textures(60)
    images[50], images[51] = images[0], images[1]
    ps = make_set(images)
    fixed = fix_splits(ps, audit(ps))
    assert set(fixed.splits) == {"train", "val", "test"}
    assert fixed.splits[50] == fixed.splits[0] and fixed.splits[51] == fixed.splits[1]


def test_an_audit_of_another_set_is_refused():
    with pytest.raises(MedcoreError, match="audit this set again"):
        fix_splits(make_set(textures(5)), audit(make_set(textures(6))))


def test_command_exits_1_on_leakage_and_0_after_correction(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path / "home"))
    path = leaking().save(tmp_path / "leaking.npz").path
    assert audit_main(path) == 1
    assert "leakage" in capsys.readouterr().out
    assert audit_main(path, fix=True, fixed=tmp_path / "fixed.npz") == 0
    assert audit_main(tmp_path / "fixed.npz") == 0
