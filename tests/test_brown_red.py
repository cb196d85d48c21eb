"""Brown without training: the trivial rule, the brown peak, and the shape of specks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.stain import HAEMATOXYLIN_DAB, recombine_stains
from medcore.errors import MedcoreError
from medcore.metrics.stain_scores import CHUNK, brown_excess, brown_peak, red_share, redness, score_windows
from medcore.studies.diagnosis import specks

DAB, BLUE = 1, 0


def windows(side: int = 64, *spots: tuple[int, int, int, float], stain: int = DAB) -> np.ndarray:
    """One window with square spots ``(y, x, side, concentration)`` of a stain on empty glass."""
    concentration = np.zeros((1, side, side, 3))
    for y, x, size, dense in spots:
        concentration[0, y : y + size, x : x + size, stain] = dense
    return recombine_stains(concentration, HAEMATOXYLIN_DAB)


def rule_as_published(image: np.ndarray) -> float:
    """The rule of the baselines' script, word for word."""
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(int)
    h, s = hsv[..., 0], hsv[..., 1]
    return float((((h < 28) | (h > 242)) & (s > 40)).mean())


def test_red_share_is_the_published_rule():
    images = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    assert red_share(images).tolist() == [rule_as_published(image) for image in images]


def test_soft_and_hard_redness_have_the_same_bounds():
    """Half way up where the published rule changes its mind; PIL rounds hue and saturation to a 255th."""
    images = np.random.default_rng(1).integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    soft = redness(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy() >= 0.5
    assert np.abs(soft.mean((1, 2)) - red_share(images)).max() < 0.01


def test_red_share_reduces_larger_windows_to_128():
    large = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    small = np.asarray(Image.fromarray(large[0]).resize((128, 128)))
    assert red_share(large)[0] == rule_as_published(small)


def test_haematoxylin_soot_and_glass_are_not_brown():
    glass, nuclei = windows(64), windows(64, (20, 20, 12, 1.0), stain=BLUE)
    soot = windows(64)
    soot[0, 10:30, 10:30] = 20
    for clean in (glass, nuclei, soot):
        assert abs(brown_peak(clean)[0]) < 0.03
    assert brown_peak(windows(64, (20, 20, 6, 1.0)))[0] > 0.3


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.floats(0.75, 1.0)] * 3), st.floats(0.4, 1.2))
def test_the_colour_of_the_glass_does_not_matter(gains, dense):
    image = windows(64, (30, 30, 6, dense))
    tinted = np.round(image * np.array(gains)).astype(np.uint8)
    assert brown_peak(tinted)[0] == pytest.approx(brown_peak(image)[0], abs=0.03)


def test_a_pixel_is_noise_and_a_spot_is_not():
    lone, spot = windows(256, (100, 100, 1, 1.0)), windows(256, (100, 100, 6, 1.0))
    assert brown_peak(lone)[0] < 0.2 * brown_peak(spot)[0]


def test_peak_is_alike_at_half_the_resolution():
    full = windows(256, (100, 100, 8, 1.0))
    half = np.asarray(Image.fromarray(full[0]).resize((128, 128), Image.Resampling.BOX))[None]
    assert brown_peak(half)[0] == pytest.approx(brown_peak(full)[0], rel=0.05)


def test_excess_is_the_difference_of_optical_densities():
    image = np.full((1, 8, 8, 3), 255, np.uint8)
    image[0, 3, 3] = (200, 120, 60)
    assert brown_excess(image)[0, 3, 3] == pytest.approx(np.log(200 / 60), abs=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 1), np.uint8),
        np.zeros((1, 8, 8, 3)),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
@pytest.mark.parametrize("score", [red_share, brown_peak, specks.describe_specks])
def test_what_is_no_colour_window_is_refused(score, bad):
    with pytest.raises(MedcoreError, match="uint8 colour windows"):
        score(bad)


def test_scoring_a_set_does_not_depend_on_the_chunks():
    count = CHUNK + 3
    images = np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    ps = PatchSet.from_arrays(images, {"label": [-1] * count}, Card("toy", "toy", ["negative", "positive"]))
    assert score_windows(ps, brown_peak).tolist() == brown_peak(images).tolist()
    assert specks.speck_features(ps).tolist() == specks.describe_specks(images).tolist()
    with pytest.raises(MedcoreError, match="no windows"):
        score_windows(ps.select(np.zeros(count, dtype=bool)), brown_peak)


def described(image: np.ndarray) -> dict[str, float]:
    return dict(zip(specks.FEATURES, specks.describe_specks(image)[0], strict=True))


def test_features_have_names():
    assert specks.describe_specks(windows(64)).shape == (1, len(specks.FEATURES))


def test_specks_are_counted_and_measured():
    found = described(windows(256, (50, 50, 6, 1.0), (120, 60, 6, 1.0), (200, 200, 40, 1.0)))
    assert found["specks"] == 3
    assert found["largest area"] == pytest.approx(40 * 40 / 256**2, rel=0.2)
    assert found["longest"] < 1.3


def test_a_rod_is_long_and_a_blob_is_not():
    rod = windows(256, *[(100, 100 + 3 * step, 4, 1.0) for step in range(8)])
    assert described(rod)["longest"] > 2.5
    assert sum(value for name, value in described(rod).items() if name.endswith("length 0")) == 0


def test_the_axes_of_a_rectangle_are_exact():
    marks = np.zeros((40, 40), int)
    marks[5:9, 3:33] = 1  # 4 by 30
    area, ratio = specks.speck_sizes(marks, 1)
    assert area.tolist() == [120]
    assert ratio[0] == pytest.approx(30 / 4)


def test_brown_at_the_rim_of_soot_is_marked():
    image = windows(256, (100, 100, 10, 1.0))
    image[0, 100:140, 110:140] = 10
    assert described(image)["brown beside black"] > 0
    assert described(windows(256, (100, 100, 10, 1.0)))["brown beside black"] == 0


def test_the_forest_learns_shape_and_repeats():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 4))
    label = (features[:, 2] > 0).astype(int)
    first, second = (specks.fit_forest(features[:80], label[:80]).predict_proba(features[80:])[:, 1] for _ in range(2))
    assert first.tolist() == second.tolist()
    assert ((first > 0.5) == label[80:]).mean() > 0.9
    with pytest.raises(MedcoreError, match="annotated alike"):
        specks.fit_forest(features, np.zeros(120, int))


def test_the_opening_keeps_rods_and_takes_clumps():
    rod = windows(256, *[(100, 100 + 3 * step, 4, 1.0) for step in range(8)])
    clump = windows(256, (100, 100, 30, 1.0))
    assert described(rod)["thin peak"] > 0.2
    assert described(clump)["thin peak"] < 0.3 * described(rod)["thin peak"]
    brown = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    assert specks.thinner_than_a_rod(brown).min() >= 0
