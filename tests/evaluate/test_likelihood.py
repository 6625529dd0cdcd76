"""Bits per dimension against the true bits of data whose distribution is known."""

import math
from functools import partial

import pytest
import torch
from digits import Digits
from gaussian import Correlated, Gaussian, Images, exact_denoiser

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import to_float, to_uint8
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.evaluate.likelihood import bits_per_dim, flow_times
from lit_diffusion.predictions import Eps, V, Velocity, X
from lit_diffusion.schedules import Cosine, Flow, Linear, SingleStep


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits_denoiser():
    """Exact for data that are the fixture's training digits and no others."""
    images, labels = Digits().load(train=True)
    network = Images(Flow(), Velocity(), to_float(images), labels)
    return NetworkDenoiser(network, Flow(), Velocity())


def true_bits(images, mean, std):
    """Bits per pixel of grey levels that are N(mean, std^2), rounded."""
    edges = (torch.arange(257, dtype=torch.float64) - 0.5) / 127.5 - 1
    below = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), std).cdf(edges)
    return -(below[1:] - below[:-1])[images.long()].log2().flatten(1).mean(1)


@pytest.mark.parametrize("std", [0.02, 0.1])
@pytest.mark.parametrize(
    "schedule, prediction", [(Flow(), Velocity()), (Flow(), X()), (Cosine(), V()), (Linear(), Eps())]
)
def test_bits_per_dim_of_gaussian_data(monkeypatch, schedule, prediction, std):
    monkeypatch.setattr(Gaussian, "std", std)
    denoiser = exact_denoiser(Gaussian, schedule, prediction)
    images = to_uint8(Gaussian.mu + std * torch.randn(120, 1, 6, 6, generator=generator()))
    expected = true_bits(images, Gaussian.mu, std).mean()
    found = {steps: bits_per_dim(denoiser, images, None, 0, steps) for steps in (49, 50, 51)}
    assert found[50].mean() == pytest.approx(float(expected), rel=0.02 if std > 0.05 else 0.06)
    assert found[50].mean() > expected
    for steps in (49, 51):
        assert found[steps].mean() == pytest.approx(float(found[50].mean()), rel=0.001)
    torch.testing.assert_close(bits_per_dim(denoiser, images[:3], None, 0), found[50][:3])


def test_bits_per_dim_of_pixels_that_belong_together():
    """Strongly correlated pixels: only the Jacobian's trace will do, not its sum."""
    mix = torch.full((9, 9), 0.5) + 0.5 * torch.eye(9)
    covariance = (0.1**2 * mix).double()
    denoiser = exact_denoiser(partial(Correlated, covariance=covariance), Flow(), Velocity())
    normal = torch.distributions.MultivariateNormal(torch.zeros(9, dtype=torch.float64), covariance)
    flat = torch.randn(150, 9, generator=generator(), dtype=torch.float64) @ normal.scale_tril.T
    images = to_uint8(flat.reshape(150, 1, 3, 3))
    density = normal.log_prob(images.double().flatten(1) / 127.5 - 1) + 9 * math.log(2 / 255)
    expected = -density.mean() / 9 / math.log(2)
    assert bits_per_dim(denoiser, images, None, 0).mean() == pytest.approx(float(expected), rel=0.02)


def test_bits_per_dim_ask_for_the_images_own_label(digits_denoiser):
    """A model of ten classes finds a digit far likelier as what it is than as the next."""
    images, labels = Digits().load(train=True)
    right = bits_per_dim(digits_denoiser, images[::40], labels[::40], 0, steps=20)
    wrong = bits_per_dim(digits_denoiser, images[::40], (labels[::40] + 1) % 10, 0, steps=20)
    assert (right < wrong - 0.5).all()


def test_one_noise_level_has_no_bits():
    denoiser = exact_denoiser(Gaussian, SingleStep(alpha_end=0.0, sigma_end=1.0), X())
    with pytest.raises(ConfigError, match="bits_n=0"):
        flow_times(denoiser, 1)
