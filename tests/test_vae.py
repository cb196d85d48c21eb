"""The VAE: KL against Monte Carlo and torch.distributions, sampling, walks, and a stable start."""

import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models import build
from medcore.models.vae import VAE, active_units, interpolate, kl_divergence, reparameterise, traverse


def test_kl_against_torch_distributions():
    mean, log_variance = torch.randn(50, 7, dtype=torch.float64), torch.randn(50, 7, dtype=torch.float64)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    expected = torch.distributions.kl_divergence(posterior, prior)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_kl_against_monte_carlo():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.tensor([[0.7, -1.2]]).double(), torch.tensor([[-1.0, 0.5]]).double()
    noise = torch.randn(400_000, 2, generator=generator, dtype=torch.float64)
    z = reparameterise(mean, log_variance, noise)
    log_posterior = -0.5 * (log_variance + noise.square())
    log_prior = -0.5 * z.square()
    drawn = log_posterior - log_prior  # the constants cancel
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - kl_divergence(mean, log_variance)[0]).abs() < 4 * error).all()


def test_kl_is_zero_at_the_prior_and_positive_elsewhere():
    assert kl_divergence(torch.zeros(1, 3), torch.zeros(1, 3)).tolist() == [[0.0] * 3]
    assert (kl_divergence(torch.randn(100, 9), torch.randn(100, 9)) >= 0).all()


def test_reparameterised_draws_have_the_posteriors_moments():
    mean, log_variance = torch.tensor([[2.0]]), torch.tensor([[1.5]])
    draws = reparameterise(mean, log_variance, torch.randn(200_000, 1, generator=torch.Generator().manual_seed(1)))
    assert draws.mean().item() == pytest.approx(2.0, abs=0.03)
    assert draws.var().item() == pytest.approx(torch.tensor(1.5).exp().item(), rel=0.02)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (50, 3), (112, 3)])
def test_shapes_and_determinism(size, channels):
    model = VAE(size, in_channels=channels)
    images = torch.rand(3, channels, size, size)
    output = model(images)
    assert output.reconstruction.shape == images.shape
    assert output.mean.shape == output.log_variance.shape == (3, 120)
    assert not torch.equal(model(images).reconstruction, output.reconstruction)  # drawn in training
    model.eval()
    assert torch.equal(model(images).reconstruction, model(images).reconstruction)  # the mean in evaluation
    noise = torch.randn(3, 120)
    mean, log_variance = model.encode(images)
    expected = model.decode(reparameterise(mean, log_variance, noise))
    assert torch.equal(model(images, noise).reconstruction, expected)


def test_samples_follow_the_generator_and_the_prior():
    model = VAE(28, in_channels=1, latent=4).eval()
    first = model.sample(3, torch.Generator().manual_seed(5))
    again = model.sample(3, torch.Generator().manual_seed(5))
    other = model.sample(3, torch.Generator().manual_seed(6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (3, 1, 28, 28) and not first.requires_grad


def test_rebuilds_from_its_spec():
    model = VAE(28, latent=6).eval()
    copy = build(model.spec).eval()
    copy.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 28, 28)
    assert all(torch.equal(a, b) for a, b in zip(model(images), copy(images), strict=True))


def test_extreme_pictures_give_a_finite_kl():
    model = VAE(28, latent=6)
    torch.nn.init.constant_(model.to_log_variance.bias, 1e6)
    for value in (0.0, 1.0, 1e4):
        output = model(torch.full((2, 3, 28, 28), value))
        assert kl_divergence(output.mean, output.log_variance).isfinite().all()


def test_trains_without_collapse():
    """Bars at random heights need a code; after a short training the VAE uses some dimensions, not all or none."""
    torch.manual_seed(0)
    rows = torch.randint(2, 14, (128,))
    images = (torch.arange(16).sub(rows[:, None]).abs() < 2).float()[:, None, :, None].expand(-1, 1, -1, 16)
    images = images.contiguous()
    model = VAE(16, in_channels=1, latent=16)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(120):
        output = model(images)
        kl = kl_divergence(output.mean, output.log_variance).sum(1).mean()
        loss = 0.5 * 100 * (output.reconstruction - images).square().sum((1, 2, 3)).mean() + kl
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    error = (model(images).reconstruction - images).square().mean()
    assert loss.isfinite() and error < 0.3 * images.var(0, correction=0).mean()
    assert 1 <= int(active_units(model.encode(images)[0]).sum()) <= 16


def test_active_units_by_hand():
    means = torch.zeros(50, 3)
    means[:, 1] = torch.linspace(-1, 1, 50)
    means[:, 2] = 0.05 * means[:, 1]
    assert active_units(means).tolist() == [False, True, False]
    with pytest.raises(MedcoreError, match="at least two"):
        active_units(means[:1])


def test_interpolation_keeps_ends_length_and_even_angles():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 120, generator=generator, dtype=torch.float64)
    walk = interpolate(a, b, 9)
    torch.testing.assert_close(walk[0], a)
    torch.testing.assert_close(walk[-1], b)
    lengths = walk.norm(dim=1)
    torch.testing.assert_close(lengths, torch.linspace(float(a.norm()), float(b.norm()), 9, dtype=torch.float64))
    cosines = torch.nn.functional.cosine_similarity(walk[:-1], walk[1:])
    torch.testing.assert_close(cosines, cosines[:1].expand(8))
    torch.testing.assert_close(interpolate(a, 2 * a, 3)[1], 1.5 * a)
    with pytest.raises(MedcoreError, match="steps=1"):
        interpolate(a, b, 1)


def test_traversal_changes_one_dimension():
    codes = torch.arange(4.0)
    walk = traverse(codes, 2, [-3, 0, 3])
    assert walk[:, 2].tolist() == [-3, 0, 3] and (walk[:, [0, 1, 3]] == codes[[0, 1, 3]]).all()
    assert codes.tolist() == [0, 1, 2, 3]
    with pytest.raises(MedcoreError, match="dimension=4"):
        traverse(codes, 4, [0])
