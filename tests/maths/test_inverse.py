"""Noise chosen after training, images taken back to noise, images restored, on data that are known."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from gaussian import Correlated, Gaussian, Mixture, exact_denoiser
from test_oracle import covariance_of

from lit_diffusion.combinators import Restored, conjugate_gradients
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.denoiser import Labelled
from lit_diffusion.evaluate.likelihood import log_likelihood
from lit_diffusion.predictions import V
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.heun import Heun
from lit_diffusion.samplers.inversion import inverted
from lit_diffusion.samplers.sde import SDE, SHAPES
from lit_diffusion.schedules import Cosine, Flow, Linear, VarianceExploding

SCHEDULES = [Linear, Cosine, Flow, VarianceExploding]


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def walk(sampler, schedule):
    denoiser, generator = exact_denoiser(Mixture, schedule, V()), torch.Generator().manual_seed(1)
    start = schedule.pure_noise(noise(5, 2, 1, 1))
    draw = partial(torch.randn, 5, 2, 1, 1, dtype=torch.float64, generator=generator)
    return sampler(denoiser, start, noise=draw)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sde_without_noise_is_ddim_and_at_rate_1_ancestral(schedule):
    torch.testing.assert_close(
        walk(SDE(20, clip=False, rate=0.0), schedule()), walk(DDIM(20, clip=False), schedule())
    )
    torch.testing.assert_close(
        walk(SDE(20, clip=False, rate=1.0), schedule()), walk(Ancestral(20, clip=False), schedule())
    )


def test_rates_of_an_sde():
    """Half of the variance is noise at t = 0.5 of the flow."""
    t = torch.tensor([0.001, 0.5, 0.999], dtype=torch.float64)
    rates = {shape: SDE(9, False, rate=2.0, shape=shape).rates(Flow(), t).tolist() for shape in SHAPES}
    assert rates["even"] == [2, 2, 2]
    assert rates["noisy"] == pytest.approx([0, 1, 2], abs=1e-5)
    assert rates["clean"] == pytest.approx([2, 1, 0], abs=1e-5)
    assert rates["middle"] == pytest.approx([0, 2, 0], abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_the_datas_whatever_the_noise(shape):
    denoiser = exact_denoiser(Mixture, Cosine(), V())
    x = SDE(200, clip=False, rate=3.0, shape=shape)(denoiser, noise(3000, 2, 1, 1)).flatten(1)
    nearest = torch.cdist(x, Mixture.points).argmin(1)
    shares = nearest.bincount(minlength=3) / len(x)
    assert (shares - Mixture.weights).abs().max() < 0.035
    assert (torch.cdist(x, Mixture.points).amin(1).square().mean() / 2).sqrt() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_images_go_back_to_the_noise_that_made_them(schedule):
    """In closed form for Gaussian data: an image's place among images is its noise's among noise."""
    denoiser = Labelled(exact_denoiser(Gaussian, schedule(), V()), None)
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
    times = Heun(200, clip=False, grid="log_snr").times(denoiser.schedule)
    alpha, sigma = denoiser.schedule.alpha(times[0]), denoiser.schedule.sigma(times[0])
    spread = ((alpha * Gaussian.std) ** 2 + sigma**2).sqrt()
    expected = alpha * Gaussian.mu + spread * (x - Gaussian.mu) / Gaussian.std
    found = inverted(denoiser, x, times)
    torch.testing.assert_close(found / spread, expected / spread, atol=0.02, rtol=0)
    back = Heun(200, clip=False, grid="log_snr")(denoiser, found)
    torch.testing.assert_close(back, x, atol=0.01, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", ["uniform", "log_snr", "karras", "quadratic"])
def test_inversion_evaluates_no_time_twice(schedule, grid):
    times = Heun(10, clip=False, grid=grid).times(schedule())
    seen = []
    denoiser = exact_denoiser(Gaussian, schedule(), V())
    denoiser.register_forward_pre_hook(lambda _, args: seen.append(float(args[1][0])))
    inverted(Labelled(denoiser, None), noise(1, 1, 2, 2), times)
    starts, ends = seen[::2], seen[1::2]
    assert all(s < t * (1 - 1e-9) for s, t in zip(starts, ends, strict=True))
    assert starts[1:] == ends[:-1]


def test_the_likelihood_is_that_of_the_inverted_noise():
    """The change of variables: log p(x) = log N(noise) + log |d noise / d x|, along one and the same flow."""
    denoiser = Labelled(exact_denoiser(Gaussian, Flow(), V()), None)
    t = torch.linspace(0.01, 0.999, 400, dtype=torch.float64)
    x_t = noise(1, 1, 2, 2) * 0.5 + 0.3
    log_p = log_likelihood(denoiser, x_t, None, t, noise(1, 1, 2, 2).sign())

    def ends(x):
        up = torch.cat([t.flip(0), t.new_zeros(0)])
        return inverted(denoiser, x, up)

    rows = torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2) * 1e-4
    slopes = torch.cat([(ends(x_t + row) - ends(x_t - row)).reshape(1, -1) / 2e-4 for row in rows])
    end = ends(x_t) / 0.999  # log_likelihood takes the last z = x_t / sigma to be standard normal
    prior = -(end.square().sum() + 4 * math.log(2 * math.pi)) / 2
    change = slopes.det().abs().log() - 4 * math.log(0.999)
    assert float(log_p) == pytest.approx(float(prior + change), abs=0.01)


SHAPE = (1, 3, 4)
OBSERVED = {
    "half of the pixels": lambda x: x * (torch.arange(4) < 2),
    "means of rows": lambda x: x.mean(3),
    "neighbours' means": lambda x: (x + x.roll(1, 3)) / 2,
}


@pytest.mark.parametrize(
    "name, schedule", [*product(OBSERVED, [Flow]), *product(["means of rows"], [Linear, VarianceExploding])]
)
def test_restored_images_have_the_exact_posterior_of_a_gaussian(name, schedule):
    """Mean and covariance, read off a deterministic walk, which is affine in its start."""
    pixels, observe, std, schedule = math.prod(SHAPE), OBSERVED[name], 0.3, schedule()
    covariance = covariance_of(pixels)
    identity = torch.eye(pixels, dtype=torch.float64)
    matrix = observe(identity.reshape(pixels, *SHAPE)).flatten(1).T  # A
    y = observe(noise(1, *SHAPE) * 0.5)
    inner = matrix @ covariance @ matrix.T + std**2 * torch.eye(len(matrix), dtype=torch.float64)
    gain = covariance @ matrix.T @ torch.linalg.inv(inner)
    mean, posterior = gain @ y.flatten(), covariance - gain @ matrix @ covariance

    plain = exact_denoiser(partial(Correlated, covariance=covariance), schedule, V())
    denoiser = Restored(plain, observe, y, std, iterations=2 * pixels)
    t = torch.tensor(schedule.t_max, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    columns = torch.linalg.cholesky(alpha**2 * posterior + sigma**2 * identity).T.reshape(pixels, *SHAPE)
    start = torch.cat([torch.zeros(1, *SHAPE, dtype=torch.float64), columns]) + alpha * mean.reshape(SHAPE)
    out = Heun(100, clip=False, grid="log_snr")(denoiser, start).flatten(1)
    assert (out[0] - mean).abs().max() < 0.004
    moved = out[1:] - out[0]
    assert (moved.T @ moved - posterior).abs().max() < 0.008


def test_restored_points_of_a_mixture_mostly_agree_with_what_is_known():
    """The first coordinate is seen, and with such a one there is a single point; without it 30 % are there.

    Between points the mixture given x_t is no Gaussian, and some walks go astray; fresh noise helps.
    """
    seen = torch.full((1, 1, 1, 1), 0.7)
    denoiser = Restored(exact_denoiser(Mixture, Flow(), V()), lambda x: x[:, :1], seen, 0.1)
    for sampler, least in ((DDIM(100, clip=False), 0.78), (SDE(200, clip=False, rate=10.0), 0.9)):
        x = sampler(denoiser, noise(500, 2, 1, 1)).flatten(1)
        assert (torch.cdist(x, Mixture.points).argmin(1) == 1).double().mean() > least
        assert x[:, 0].mean() == pytest.approx(0.68, abs=0.05)


def test_conjugate_gradients_solve_each_of_a_batch_by_itself():
    factor = noise(3, 5, 5)
    matrices = factor @ factor.mT + 0.1 * torch.eye(5, dtype=torch.float64)
    b = noise(3, 5, seed=1)
    found = conjugate_gradients(lambda v: (matrices @ v[:, :, None])[:, :, 0], b, 8)
    torch.testing.assert_close(found, torch.linalg.solve(matrices, b), atol=1e-6, rtol=1e-6)
    assert torch.equal(conjugate_gradients(lambda v: v, torch.zeros(2, 5), 3), torch.zeros(2, 5))


def test_conjugate_gradients_stop_where_the_matrix_is_none_of_a_covariance():
    b = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = conjugate_gradients(lambda v: v * torch.tensor([2.0, -1.0, -3.0]), b, 5)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], torch.tensor([0.5, 0.0, 0.0]))


@pytest.mark.parametrize("mistake", [{"rate": -1.0}, {"rate": float("nan")}, {"shape": "late"}])
def test_mistakes_are_refused(mistake):
    with pytest.raises(ConfigError):
        SDE(10, clip=False, **mistake)
