"""Images that share a part are found with what relates them; what the audit writes names and escapes files."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy import ndimage
from test_audit import kinds, make_set, sides, textures

from medcore.cli.audit import command
from medcore.data.audit.audit import audit
from medcore.data.audit.fix import audit_main
from medcore.data.audit.hashing import apply_symmetry
from medcore.data.audit.pictures import write_findings
from medcore.data.audit.planted import KINDS, MONTAGE, SHARES, UNSEEN
from medcore.data.audit.shared import find_shared
from medcore.data.audit.shortcuts import column_scores
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.derm import make_derm
from medcore.errors import MedcoreError

SIDE = 64


def stretched(image: np.ndarray, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def cropped(image: np.ndarray, share: float = 0.15) -> np.ndarray:
    cut = round(SIDE * share)
    return stretched(image[cut:, : SIDE - cut])


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    return ndimage.rotate(image, degrees, axes=(0, 1), reshape=False, order=1, cval=0)


def framed(image: np.ndarray) -> np.ndarray:
    result = np.zeros_like(image)
    result[7:-7, 7:-7] = stretched(image, SIDE - 14, SIDE - 14)
    return result


def equalised(image: np.ndarray) -> np.ndarray:
    ranks = np.stack([pd.Series(image[..., k].ravel()).rank(pct=True) for k in range(3)], axis=1)
    return (255 * ranks).astype(np.uint8).reshape(image.shape)


def scaled(image: np.ndarray, factor: float | np.ndarray, shift: float = 0) -> np.ndarray:
    return np.clip((image.astype(float) - 128) * factor + 128 + shift, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


CHANGED = {
    "crop": cropped,
    "contrast 0.7": lambda image: scaled(image, 0.7),
    "contrast 1.4": lambda image: scaled(image, 1.4),
    "gamma": lambda image: (255 * (image / 255) ** 1.6).astype(np.uint8),
    "turn by 7": lambda image: turned(image, 7),
    "turn by -3": lambda image: turned(image, -3),
    "frame": framed,
    "inverted": lambda image: 255 - image,
    "equalised": equalised,
    "recoloured": lambda image: scaled(image, np.array([0.7, 1.2, 0.9]), -20),
    "every other pixel": lambda image: stretched(image[::2, ::2]),
    "mirrored and cropped": lambda image: cropped(image)[:, ::-1],
    "quarter turn, inverted, JPEG": lambda image: jpeg(np.rot90(255 - image).copy(), 60),
}
EACH = 4


@pytest.fixture(scope="module")
def changed():
    """150 textures, four copies of each kind in CHANGED, and four montages; the audit and the expected pairs."""
    originals = textures(150, seed=11)
    images, expected, row = list(originals), {}, 0
    for kind, change in CHANGED.items():
        for _ in range(EACH):
            expected[row, len(images)] = kind
            images.append(change(originals[row]))
            row += 1
    for _ in range(EACH):
        expected[row, len(images)] = expected[row + 1, len(images)] = "montage"
        images.append(np.concatenate([stretched(originals[row], width=32), stretched(originals[row + 1], width=32)], 1))
        row += 2
    split = ["train"] * len(originals) + ["test"] * (len(images) - len(originals))
    return audit(make_set(images, split=split), shortcuts=False), expected


def test_changed_copies_and_montages_are_found_and_nothing_else(changed):
    result, expected = changed
    found = set(zip(result.pairs["a"], result.pairs["b"], strict=True))
    assert not found - set(expected)
    missed = pd.Series([kind for pair, kind in expected.items() if pair not in found], dtype=object).value_counts()
    assert missed.sum() <= 3 and (missed <= 1).all(), missed
    assert result.verdict == "leakage" and kinds(result)["altered copies across the split"] > 20


def test_what_relates_two_images_is_measured(changed):
    result, expected = changed
    pairs = result.pairs[result.pairs["kind"] == "altered"]
    kind = pd.Series([expected[pair] for pair in zip(pairs["a"], pairs["b"], strict=True)], index=pairs.index)
    assert pairs.loc[kind == "turn by 7", "degrees"].abs().sub(7).abs().max() < 1
    assert pairs.loc[kind == "crop", "scale"].sub(1 / 0.844).abs().max() < 0.03
    assert pairs.loc[kind.isin(["inverted", "quarter turn, inverted, JPEG"]), "inverted"].all()
    assert not pairs.loc[kind.isin(["crop", "equalised", "turn by 7"]), "inverted"].any()


def test_the_same_set_gives_the_same_findings():
    ps = make_set(np.concatenate([textures(40), 255 - textures(4)]), split=sides(44))
    first, second = audit(ps).as_dict(), audit(ps).as_dict()
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


@pytest.mark.parametrize("shift", [(0, 26), (19, 12)])
def test_windows_of_one_slide_that_overlap_are_found(shift):
    slide = textures(8, seed=4, side=128)
    windows = [image[20 : 20 + SIDE, 20 : 20 + SIDE] for image in slide]
    moved = [image[20 + shift[0] :, 20 + shift[1] :][:SIDE, :SIDE] for image in slide]
    ps = make_set(np.stack([*textures(80, seed=9), *windows, *moved]), split=["train"] * 88 + ["test"] * 8)
    pairs = audit(ps, shortcuts=False).pairs
    found = set(zip(pairs["a"], pairs["b"], strict=True))
    expected = {(80 + n, 88 + n) for n in range(8)}
    assert not found - expected and len(found) >= 7
    share = (1 - shift[0] / SIDE) * (1 - shift[1] / SIDE)
    assert pairs["overlap"].sub(share).abs().max() < 0.06 and set(pairs["kind"]) == {"overlap"}


def test_what_merely_looks_alike_makes_no_pair():
    """Plain round lesions under one instrument's marks, a seed that had no part in the choice of the limits."""
    ps = make_derm(patients=300, seed=5)
    pairs, _ = find_shared(ps, pd.DataFrame({"a": [], "b": []}, dtype=int))
    first, second = (ps.patients[pairs[end].to_numpy(dtype=int)] for end in "ab")
    assert (first != second).sum() < 0.03 * len(ps)  # 25 % without the comparison of fine detail


def test_neighbouring_slices_are_called_so():
    rng = np.random.default_rng(2)
    volumes = [ndimage.gaussian_filter(rng.normal(size=(12, SIDE, SIDE)), (1.5, 1.5, 1.5)) for _ in range(3)]
    slices = np.concatenate([volume / volume.std() * 30 + 128 for volume in volumes]).clip(0, 255).astype(np.uint8)
    images = np.concatenate([slices[..., None], textures(60, channels=1)])
    patient = [f"CT{n // 12}" for n in range(36)] + [f"P{n}" for n in range(60)]
    source = [f"CT{n // 12}/slice_{n % 12:03}.png" for n in range(36)] + [f"{n}.png" for n in range(60)]
    result = audit(make_set(images, patient=patient, source=source), shortcuts=False)
    pairs = result.pairs
    assert len(pairs) >= 20 and set(pairs["kind"]) == {"slice"} and pairs["same_group"].all()
    assert "neighbouring slices or frames within one patient" in kinds(result)


def test_power_covers_every_kind_that_is_vouched_for_and_names_what_is_not_seen():
    seen = audit(make_set(textures(60, seed=6)), shortcuts=False)
    assert set(seen.power) == {*KINDS, MONTAGE, *SHARES}
    found, planted = (sum(numbers) for numbers in zip(*seen.power.values(), strict=True))
    assert found / planted > 0.85 and set(UNSEEN) <= set(seen.unseen)
    tiny = audit(make_set(textures(60, seed=6, side=12)), shortcuts=False)
    assert len(tiny.unseen) > len(UNSEEN) and any(text.startswith("overlap of 40 %") for text in tiny.unseen)


def test_overlaps_do_not_count_as_copies_with_different_labels():
    slide = textures(1, seed=4, side=128)[0]
    images = np.stack([*textures(30), slide[:SIDE, :SIDE], slide[8 : 8 + SIDE, 16 : 16 + SIDE]])
    result = audit(make_set(images, label=np.arange(32) % 2), shortcuts=False)
    assert len(result.pairs) == 1 and "copies with different labels" not in kinds(result)


# --- shortcuts in the table and the files --------------------------------------------------------------------------


def cues(**columns) -> dict[str, float]:
    count = len(next(iter(columns.values())))
    ps = make_set(textures(count, side=16), **columns)
    return column_scores(ps).set_index("column")["balanced_accuracy"].to_dict()


@pytest.mark.parametrize("name", ["slide", "lab_name", "anything else"])
def test_any_column_that_tells_the_class_is_found(name):
    label = np.arange(90) % 2
    scores = cues(label=label, **{name: np.where(label == 1, "north", "south"), "eye": np.arange(90) // 2 % 2})
    assert scores[f"column '{name}'"] == 1.0 and scores["column 'eye'"] < 0.7


def test_numbers_endings_and_names_of_files_are_cues():
    label = np.arange(90) // 45
    source = [f"{'IM' if k else 'scan'}-{n:04}.{'jpg' if k else 'png'}" for n, k in enumerate(label)]
    scores = cues(label=label, source=source)
    assert {scores["ending of the file"], scores["name of the file"]} == {1.0} and scores["number of the file"] > 0.9
    mixed = cues(label=np.arange(90) % 2, source=[f"{'ab'[n % 2]}-{n:04}.png" for n in range(90)])
    assert "name of the file" not in mixed  # it is the class itself


def test_a_column_of_one_patient_each_tells_nothing():
    label = np.arange(90) % 2
    assert cues(label=label, slide=[f"S{n}" for n in range(90)])["column 'slide'"] < 0.7


def test_a_mark_burned_into_a_corner_is_found():
    images = textures(120)
    label = np.arange(120) % 2
    for image in images[1::2]:
        image[2:8, -9:-3] = 255 * (np.indices((6, 6)).sum(axis=0) % 2)[..., None]
    result = audit(make_set(images, label=label))
    finding = next(one for one in result.findings if one.kind == "class told by the corners")
    assert finding.severity == "warning" and finding.examples[0]["cue"] == "mark top right"


# --- what is written ---------------------------------------------------------------------------------------------


def hostile() -> tuple:
    images = textures(30)
    images[20] = 255 - images[3]
    images[21] = images[4]
    source = [f"img/{n}.png" for n in range(30)]
    source[3], source[4], source[20] = (
        "<script>alert(1)</script>.png",
        "=cmd|'/c calc'!A0",
        'a"><img src=x>\n\x1b[31m.png',
    )
    ps = make_set(images, source=source, split=sides(30))
    return ps, audit(ps, shortcuts=False)


def test_findings_name_every_file_and_escape_it(tmp_path):
    ps, result = hostile()
    page = write_findings(ps, result, tmp_path / "findings.csv").read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "findings.csv", keep_default_na=False)
    assert len(table) == len(result.pairs) == 2
    assert (
        not table["file_a"].str.startswith(("=", "+", "-", "@")).any() and not table["file_b"].str.contains("\n").any()
    )
    assert "<script" not in page and "<img src=x" not in page and "\x1b" not in page and "http://" not in page
    assert page.count("data:image/png;base64,") == 2 and "&lt;script&gt;" in page
    assert "<script>alert(1)</script>.png" in str(result) and "\x1b" not in str(result)


def test_a_file_that_is_no_earlier_audit_is_left_alone(tmp_path):
    ps, result = hostile()
    mine = tmp_path / "metadata.csv"
    mine.write_text("image,label\n")
    with pytest.raises(MedcoreError, match="metadata.csv"):
        write_findings(ps, result, mine)
    assert mine.read_text() == "image,label\n"
    write_findings(ps, result, tmp_path / "findings.csv")
    write_findings(ps, result, tmp_path / "findings.csv")  # an earlier audit may be replaced


def test_the_images_on_the_page_can_be_flipped_onto_each_other(tmp_path):
    images = textures(24)
    images[20] = apply_symmetry(images[5], 6)
    ps = make_set(images)
    result = audit(ps, shortcuts=False)
    table = result.pair_table(ps)
    assert table[["row_a", "row_b"]].to_numpy().tolist() == [[5, 20]]
    assert write_findings(ps, result, tmp_path / "f.csv").exists()


def test_the_command_exits_0_1_2(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCORE_DATA", str(tmp_path / "home"))
    clean = make_set(textures(20), split=sides(20)).save(tmp_path / "clean.npz").path
    ps, _ = hostile()
    leaking = ps.save(tmp_path / "leaking.npz").path
    table, fixed = tmp_path / "out" / "findings.csv", tmp_path / "fixed.npz"
    assert audit_main(clean) == 0 and audit_main(leaking, table=table) == 1
    assert table.exists() and table.with_suffix(".html").exists()
    assert audit_main(leaking, fix=True, fixed=fixed) == 0 and audit_main(fixed) == 0
    for wrong in (["--out", fixed], ["--out", tmp_path / "findings.txt"], ["--no-such-option"]):
        assert CliRunner().invoke(command, [str(clean), *map(str, wrong)]).exit_code == 2
    with pytest.raises(MedcoreError, match=r"--out .*leaking.npz"):
        audit_main(leaking, fix=True, fixed=leaking)


def test_a_shared_part_under_two_labels_is_a_warning_and_no_leakage():
    """An instrument's marks lie over images of any class; a copy keeps its label."""
    from medcore.data.audit.findings import copy_findings

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"label": [0, 1] * 10, "patient": [f"p{n}" for n in range(20)]})
    table["source"], table["split"] = [f"{n}.png" for n in range(20)], ["train"] * 10 + ["test"] * 10
    ps = PatchSet.from_arrays(rng.integers(0, 255, (20, 16, 16, 3), np.uint8), table, Card("toy", classes=["a", "b"]))

    def found(second: list[int]) -> set[str]:
        pairs = pd.DataFrame({"a": range(len(second)), "b": second, "kind": "altered", "across": True})
        pairs = pairs.assign(same_group=False, agreement=0.9, symmetry=0, scale=1.0, degrees=0.0, overlap=1.0)
        return {finding.severity for finding in copy_findings(ps, pairs.assign(inverted=False))}

    assert found([10, 11, 12, 13]) == {"leakage"}
    assert found([11, 11, 12, 12]) == {"warning"}
