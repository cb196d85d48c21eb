"""Anomaly scores against slow references, their maps, refusals, and the rank ensemble."""

import colorsys

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import rankdata
from sklearn.decomposition import PCA

from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.data.stain import HAEMATOXYLIN_DAB, separate_stains
from medcore.errors import MedcoreError, TestDataRefused
from medcore.evaluation.scores import Scores
from medcore.metrics.similarity import (
    OPPONENT_NOISE,
    central_weights,
    gaussian_blur,
    multiscale_ssim_map,
    opponent,
    psnr,
    ssim_map,
    structure_map,
)
from medcore.metrics.stain_scores import dab, hsv, redness
from medcore.models.autoencoder import ConvAutoencoder
from medcore.models.vae import VAE
from medcore.studies.anomaly.candidates import Blur, fit_linear
from medcore.studies.anomaly.scores import KINDS, LATENT_SCORES, PIXEL_MAPS, RankEnsemble, error_map, score, score_set


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return VAE(24, latent=5).eval()


def slow_ssim(a, b, sigma=1.5):
    """Wang et al. 2004, with scipy in float64."""

    def blur(x):
        return ndimage.gaussian_filter(x, (0, sigma, sigma), truncate=3.5, mode="mirror")

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean(0)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_against_scipy(sigma, channels):
    generator = np.random.default_rng(1)
    a = ndimage.gaussian_filter(generator.random((channels, 40, 33)), (0, 1, 1)).astype(np.float32)
    b = np.clip(a + 0.1 * generator.normal(size=a.shape), 0, 1).astype(np.float32)
    found = ssim_map(torch.from_numpy(a)[None], torch.from_numpy(b)[None], sigma)[0].numpy()
    np.testing.assert_allclose(found, slow_ssim(a, b, sigma), atol=2e-3)


def test_ssim_of_equal_and_constant_pictures():
    a = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ssim_map(a, a), torch.ones(2, 16, 16))
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert ssim_map(flat, flat).allclose(torch.ones(1, 16, 16))
    # constant pictures of different brightness: only Wang's luminance term is left
    expected = (2 * 0.5 * 0.3 + 1e-4) / (0.25 + 0.09 + 1e-4)
    torch.testing.assert_close(ssim_map(flat, flat * 0.6), torch.full((1, 16, 16), expected), atol=1e-3, rtol=1e-3)


def test_multiscale_is_the_mean_of_its_scales_and_tiny_pictures_work():
    a, b = torch.rand(1, 3, 12, 9), torch.rand(1, 3, 12, 9)
    expected = (ssim_map(a, b, 0.8) + ssim_map(a, b, 1.5) + ssim_map(a, b, 3.0)) / 3
    torch.testing.assert_close(multiscale_ssim_map(a, b), expected)
    assert ssim_map(a[..., :4, :4], b[..., :4, :4], sigma=6).shape == (1, 4, 4)


def slow_structure(a, b, sigma):
    """The structure term per opponent channel, with scipy in float64."""

    def blur(x):
        return ndimage.gaussian_filter(x, sigma, truncate=3.5, mode="mirror")

    def channels(x):
        red, green, blue = x.astype(np.float64)
        return [x.astype(np.float64).mean(0), red - green, (red + green) / 2 - blue]

    maps = []
    for x, y, noise in zip(channels(a), channels(b), OPPONENT_NOISE, strict=True):
        covariance = blur(x * y) - blur(x) * blur(y)
        variances = blur(x * x) - blur(x) ** 2 + blur(y * y) - blur(y) ** 2
        maps.append((2 * covariance + noise) / (variances + noise))
    return np.mean(maps, axis=0)


@pytest.mark.parametrize("sigma", [1.0, 1.5])
def test_structure_against_scipy(sigma):
    generator = np.random.default_rng(4)
    a = ndimage.gaussian_filter(generator.random((3, 30, 41)), (0, 1, 1)).astype(np.float32)
    b = np.clip(a + 0.05 * generator.normal(size=a.shape), 0, 1).astype(np.float32)
    found = structure_map(torch.from_numpy(a)[None], torch.from_numpy(b)[None], sigma)[0].numpy()
    np.testing.assert_allclose(found, slow_structure(a, b, sigma), atol=2e-3)


def test_structure_sees_lost_colour_that_ssim_hardly_sees():
    """A faint red-green pattern of constant lightness: the structure score is full, SSIM's small."""
    wave = 0.04 * torch.sin(torch.arange(32.0)).view(1, 1, 1, 32).expand(1, 1, 32, 32)
    pattern = torch.cat([0.5 + wave, 0.5 - wave, torch.full_like(wave, 0.5)], 1)
    flat = torch.full_like(pattern, 0.5)
    assert opponent(pattern)[:, 0].std() < 1e-6
    lost = 1 - structure_map(pattern, flat).mean()
    assert lost > 0.28  # all of one of three channels would be a third
    assert (1 - structure_map(pattern, pattern)).abs().max() < 1e-4


def test_structure_of_grey_pictures_is_that_of_lightness():
    a, b = torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20)
    grey = structure_map(a, b)
    same = structure_map(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
    torch.testing.assert_close(same, (grey + 2) / 3, atol=1e-3, rtol=1e-3)  # both colours agree fully


def test_autocast_changes_nothing():
    a, b = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20)
    plain = ssim_map(a, b), structure_map(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close((ssim_map(a, b), structure_map(a, b)), plain)


def test_central_weights():
    weights = central_weights(9, 15)
    assert weights.mean().item() == pytest.approx(1) and weights.argmax() == 4 * 15 + 7
    assert weights.allclose(weights.flip(0)) and weights.allclose(weights.flip(1))
    ratio = weights[4, 7] / weights[0, 7]
    assert ratio.item() == pytest.approx(np.exp(0.5 * (4 / 9 / 0.25) ** 2), rel=1e-5)


@pytest.mark.parametrize("kind", ["ssim", "structure"])
def test_scores_of_the_centre_count_the_same_error_more_in_the_middle(kind):
    images = torch.full((2, 3, 33, 33), 0.5)
    images[0, :, 14:19, 14:19] += 0.3 * torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    images[1, :, 2:7, 2:7] = images[0, :, 14:19, 14:19]
    whole, centre = score(Blur(), images, kind), score(Blur(), images, f"{kind}_centre")
    assert (centre[0] / centre[1]) > 1.5 * (whole[0] / whole[1])
    by_hand = (error_map(Blur(), images, kind) * central_weights(33, 33)).mean((1, 2))
    torch.testing.assert_close(centre, by_hand)


def test_blur_is_a_model_without_learning():
    images = torch.rand(2, 3, 32, 32)
    expected = ndimage.gaussian_filter(images.numpy(), (0, 0, 2, 2), truncate=3.5, mode="mirror")
    np.testing.assert_allclose(Blur()(images).numpy(), expected, atol=1e-5)
    assert score(Blur(), images, "structure").shape == (2,)


def test_linear_autoencoder_against_scikit_learn():
    rng = np.random.default_rng(0)
    flat = 128 + rng.normal(0, 20, (30, 4)) @ rng.normal(0, 1, (4, 192)) + rng.normal(0, 5, (30, 192))
    images = flat.clip(0, 255).astype(np.uint8).reshape(30, 8, 8, 3)
    ps = PatchSet.from_arrays(images, {"label": np.zeros(30, int)}, Card("x", classes=["a"]))
    pictures = torch.from_numpy(ps.take()).permute(0, 3, 1, 2).float() / 255
    flat = pictures.flatten(1).numpy()
    found = PCA(4).fit(flat)
    expected = ((np.clip(found.inverse_transform(found.transform(flat)), 0, 1) - flat) ** 2).mean(1)
    model = fit_linear(ps, 4)
    np.testing.assert_allclose(score_set(model, ps, "mse"), expected, rtol=0.02)
    assert model(torch.rand(2, 3, 16, 12)).shape == (2, 3, 16, 12)
    with pytest.raises(MedcoreError, match="components=31 must be 1 to the 30"):
        fit_linear(ps, 31)


def test_blur_keeps_the_mean_of_a_constant_and_psnr_by_hand():
    assert gaussian_blur(torch.full((1, 1, 9, 9), 0.3), 2.0).allclose(torch.tensor(0.3))
    a = torch.zeros(1, 3, 4, 4)
    assert psnr(a, a + 0.1).item() == pytest.approx(20.0, abs=1e-3) and psnr(a, a).item() == 100.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, None])
def test_every_score_is_one_finite_number_a_picture(vae, kind, value):
    images = torch.rand(3, 3, 24, 24) if value is None else torch.full((3, 3, 24, 24), value)
    values = score(vae, images, kind)
    assert values.shape == (3,) and values.dtype == torch.float32 and values.isfinite().all()
    assert (values >= -1e-4).all()


@pytest.mark.parametrize("kind", sorted(PIXEL_MAPS))
def test_the_map_is_where_the_score_comes_from(vae, kind):
    images = torch.rand(4, 3, 24, 24)
    where = error_map(vae, images, kind)
    assert where.shape == (4, 24, 24)
    torch.testing.assert_close(where.mean((1, 2)), score(vae, images, kind))


def test_pixel_scores_by_hand():
    model = ConvAutoencoder(24).eval()
    images = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        difference = (images - model(images)).numpy().astype(np.float64)
    np.testing.assert_allclose(score(model, images, "mse"), (difference**2).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(score(model, images, "l1"), np.abs(difference).mean((1, 2, 3)), rtol=1e-5)


def test_elbo_and_kl_by_hand(vae):
    images = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        painted, mean, log_variance = vae(images)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(score(vae, images, "kl"), kl, rtol=1e-4, atol=1e-4)
    error = 0.5 * (images - painted).square().sum((1, 2, 3))
    torch.testing.assert_close(score(vae, images, "elbo"), kl + error, rtol=1e-4, atol=1e-3)


def test_hsv_against_colorsys():
    pixels = np.random.default_rng(2).random((50, 3)).astype(np.float32)
    pixels[:4] = [[0, 0, 0], [1, 1, 1], [0.3, 0.3, 0.3], [1, 0, 0]]
    images = torch.from_numpy(pixels.T.copy()).view(1, 3, 5, 10)
    hue, saturation, value = (plane.flatten().numpy() for plane in hsv(images))
    expected = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels.astype(np.float64)])
    np.testing.assert_allclose(hue, expected[:, 0] * 360, atol=1e-2)
    np.testing.assert_allclose(np.stack([saturation, value], 1), expected[:, 1:], atol=1e-5)


def test_dab_against_the_stain_module():
    images = np.random.default_rng(3).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    expected = np.maximum(separate_stains(images, HAEMATOXYLIN_DAB)[..., 1], 0)
    found = dab(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_colour_scores_see_brown_that_was_not_painted():
    class Pale(torch.nn.Module):
        """Paints everything pale lilac."""

        def forward(self, images):
            return torch.tensor([0.85, 0.80, 0.90]).view(1, 3, 1, 1).expand_as(images)

    lilac = Pale()(torch.empty(1, 3, 16, 16)).clone()
    brown, blue = lilac.clone(), lilac.clone()
    brown[..., 4:8, 4:8] = torch.tensor([0.45, 0.25, 0.15]).view(1, 3, 1, 1)
    blue[..., 4:8, 4:8] = torch.tensor([0.30, 0.35, 0.60]).view(1, 3, 1, 1)
    for kind in ("red", "dab"):
        none, much, other = (score(Pale(), images, kind).item() for images in (lilac, brown, blue))
        assert none == pytest.approx(0, abs=1e-6) and much > 0.01 and other < 0.1 * much
        where = error_map(Pale(), brown, kind)[0] > 0
        assert where[4:8, 4:8].all() and where.sum() == 16
    assert redness(brown)[0, 5, 5] == 1 and redness(blue).max() == 0


def test_training_mode_is_left_as_it_was_and_never_adds_noise(vae):
    images = torch.rand(2, 3, 24, 24)
    expected = score(vae, images)
    vae.train()
    assert torch.equal(score(vae, images), expected) and vae.training
    vae.eval()


def test_a_set_is_scored_in_order(vae):
    images = np.random.default_rng(0).integers(0, 256, (9, 24, 24, 3), dtype=np.uint8)
    ps = PatchSet.from_arrays(images, {"label": np.zeros(9, int)}, Card(name="n", title="n", classes=["a"]))
    expected = score(vae, torch.from_numpy(images).permute(0, 3, 1, 2) / 255, "mse")
    np.testing.assert_allclose(score_set(vae, ps, "mse", batch_size=4), expected, rtol=1e-5)
    own = score_set(vae, ps, lambda model, batch: batch.mean((1, 2, 3)))
    np.testing.assert_allclose(own, images.mean((1, 2, 3)) / 255, atol=1e-6)


def test_bad_input_is_named(vae):
    images = torch.rand(3, 3, 24, 24)
    with pytest.raises(MedcoreError, match="kind='ssmi'.*ssim"):
        score(vae, images, "ssmi")
    with pytest.raises(MedcoreError, match="24x24"):
        score(vae, torch.rand(1, 3, 32, 32))
    with pytest.raises(MedcoreError, match=r"\(1, 1, 24, 24\)"):
        score(vae, torch.rand(1, 1, 24, 24))
    images[1, 0, 3, 3] = float("nan")
    with pytest.raises(MedcoreError, match="NaN.*row 1"):
        score(vae, images)
    with pytest.raises(MedcoreError, match="needs a VAE"):
        score(ConvAutoencoder(24), torch.rand(1, 3, 24, 24), "kl")
    with pytest.raises(MedcoreError, match="no map"):
        error_map(vae, torch.rand(1, 3, 24, 24), LATENT_SCORES[0])
    assert score(VAE(24, in_channels=1), torch.rand(1, 1, 24, 24), "structure").isfinite().all()
    with pytest.raises(MedcoreError, match="use 'ssim' or 'mse' for grey"):
        score(VAE(24, in_channels=1), torch.rand(1, 1, 24, 24), "red")


def known(values: np.ndarray, side: str = "val") -> Scores:
    """Cases of one side with these scores."""
    count = len(values)
    return Scores(np.arange(count) % 2, values, np.arange(count), np.full(count, side), ("normal", "abnormal"))


def test_ensemble_of_one_score_keeps_its_order():
    generator = np.random.default_rng(0)
    reference, values = generator.normal(size=50), generator.normal(scale=3, size=40)
    combined = RankEnsemble({"a": known(reference)})({"a": values})
    np.testing.assert_array_equal(rankdata(combined), rankdata(values))
    assert combined.min() >= 0 and combined.max() <= 1
    share = (reference[None] < values[:, None]).mean(1)
    np.testing.assert_allclose(combined, share, atol=1.01 / 50)


def test_ensemble_is_free_of_units_and_weighted():
    generator = np.random.default_rng(1)
    reference = {"a": generator.normal(size=99), "b": generator.normal(size=99)}
    values = {"a": generator.normal(size=7), "b": generator.normal(size=7)}
    cases = {name: known(scores) for name, scores in reference.items()}
    plain = RankEnsemble(cases)(values)
    scaled = RankEnsemble({**cases, "b": known(reference["b"] * 1e6 + 5)})({**values, "b": values["b"] * 1e6 + 5})
    np.testing.assert_allclose(plain, scaled, atol=1e-9)
    only_a = RankEnsemble(cases, {"a": 2.0, "b": 0.0})(values)
    np.testing.assert_allclose(only_a, RankEnsemble({"a": cases["a"]})({"a": values["a"]}))


@pytest.mark.parametrize(
    ("reference", "weights"),
    [
        ({}, None),
        ({"a": np.array([])}, None),
        ({"a": np.ones(5)}, None),
        ({"a": np.arange(5.0)}, {"a": 0.0}),
        ({"a": np.arange(5.0)}, {"b": 1.0}),
    ],
)
def test_ensemble_refuses_what_cannot_rank(reference, weights):
    with pytest.raises(MedcoreError, match="RankEnsemble"):
        RankEnsemble({name: known(values) for name, values in reference.items()}, weights)


def test_ranks_are_never_measured_on_test_cases():
    with pytest.raises(TestDataRefused, match="reference of ranks"):
        RankEnsemble({"a": known(np.arange(5.0), "test")})


def test_ensemble_names_scores_that_do_not_match():
    with pytest.raises(MedcoreError, match=r"\['b'\].*\['a'\]"):
        RankEnsemble({"a": known(np.arange(5.0))})({"b": np.arange(5.0)})
