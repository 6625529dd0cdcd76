"""Every schedule x prediction x sampler against data whose best denoiser is known in closed form.

For Gaussian data the best denoiser is linear in x_t, so a sampler's output is an affine function of
its starting noise and of the noise that it adds. The coefficients, read off one batch, give the
output's mean and standard deviation exactly: no Monte Carlo.
"""

import itertools
import math
from functools import partial

import pytest
import torch
from gaussian import Correlated, Gaussian, Images, Mixture, exact_denoiser

from lit_diffusion.combinators import Rescheduled
from lit_diffusion.guidance import Guidance, Guided
from lit_diffusion.predictions import Edm, Eps, V, Velocity, X
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.grids import GRIDS, spaced
from lit_diffusion.samplers.heun import Heun
from lit_diffusion.samplers.sde import SDE
from lit_diffusion.samplers.unipc import UniPC
from lit_diffusion.schedules import Cosine, Flow, Linear, Schedule, Sigmoid, VarianceExploding

SCHEDULES = [Linear, Cosine, Sigmoid, Flow, VarianceExploding]


def edm():
    """For data of another deviation than these have: for theirs the network's output would be constant."""
    return Edm(sigma_data=0.8)


PREDICTIONS = [Eps, X, V, Velocity, edm]
SAMPLERS = {
    "ddim": partial(DDIM, clip=False),
    "ddim-half": lambda steps: DDIM(steps, clip=False, eta=0.5),
    "heun": partial(Heun, clip=False),
    "ancestral": partial(Ancestral, clip=False),
    "ancestral-large": lambda steps: Ancestral(steps, clip=False, variance="large"),
    "sde-half": lambda steps: SDE(steps, clip=False, rate=0.5),
    "sde-twice-in-the-middle": lambda steps: SDE(steps, clip=False, rate=2.0, shape="middle"),
}
# Of higher order where log-SNR is smooth in the steps.
FAST = {
    "heun": partial(Heun, clip=False),
    "dpmpp_2m": partial(DPMpp2M, clip=False),
    "dpmpp_2m_sde": lambda steps, **grid: DPMpp2M(steps, clip=False, eta=1.0, **grid),
    "unipc": partial(UniPC, clip=False),
}
# The largest error of the std at 200 steps, over the schedules; 5 to 10 % above what is due.
BOUND = {
    "ddim": 0.008,
    "ddim-half": 0.0105,
    "heun": 0.0008,
    "ancestral": 0.019,
    "ancestral-large": 0.004,
    "sde-half": 0.0135,
    "sde-twice-in-the-middle": 0.0135,
    "dpmpp_2m": 0.00064,
    "dpmpp_2m_sde": 0.0029,
    "unipc": 0.0007,
}

# Paths whose log-SNR is smooth in t, and bounds of their own.
SMOOTH: dict[type[Schedule], dict[str, float]] = {
    Flow: {"heun": 2.1e-5},
    VarianceExploding: {"heun": 1.9e-4, "ancestral-large": 0.0145, "sde-twice-in-the-middle": 0.0146},
}


class UnitNoise:
    """Noise of which image 2 + k gets a 1 at draw k, and all else is 0."""

    def __init__(self, images: int):
        self.images = images
        self.draws = 0

    def __call__(self):
        noise = torch.zeros(self.images, 1, 1, 1, dtype=torch.float64)
        noise[2 + self.draws] = 1
        self.draws += 1
        return noise


def output_error(schedule, prediction, sampler) -> tuple[float, float]:
    """Errors of the output's mean and std when the start has exactly the path's distribution."""
    denoiser = exact_denoiser(Gaussian, schedule, prediction)
    start_time = torch.tensor(schedule.t_max, dtype=torch.float64)
    alpha, sigma = schedule.alpha(start_time), schedule.sigma(start_time)
    images = sampler.steps + 2  # the mean; one std above it; and one for each draw of noise
    start = torch.full((images, 1, 1, 1), alpha * Gaussian.mu, dtype=torch.float64)
    start[1] += ((alpha * Gaussian.std) ** 2 + sigma**2).sqrt()
    out = sampler(denoiser, start, noise=UnitNoise(images)).flatten()
    std = (out[1:] - out[0]).square().sum().sqrt()
    return float(out[0] - Gaussian.mu), float(std - Gaussian.std)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [Linear, Cosine, Sigmoid])
def test_gaussian_data_come_out_right_and_better_with_more_steps(schedule, prediction, sampler):
    errors = [output_error(schedule(), prediction(), SAMPLERS[sampler](n)) for n in (50, 100, 200)]
    mean, std = torch.tensor(errors, dtype=torch.float64).T
    assert mean.abs().max() < 1e-6
    assert std[-1].abs() < BOUND[sampler]
    order = torch.log2(std[:-1].abs() / std[1:].abs()).mean()
    # On a chain sigma starts like the root of t: equal steps in t leave Heun between orders 1 and 2.
    assert 0.8 < order < (1.6 if sampler == "heun" else 1.2), f"errors {std.tolist()}, order {order:.2f}"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SMOOTH)
def test_each_samplers_order_where_the_path_is_smooth(schedule, prediction, sampler):
    """The slope of log error over log steps: 2 for Heun, 1 for Euler (DDIM) and the stochastic ones."""
    steps = torch.tensor([50.0, 100.0, 200.0], dtype=torch.float64)
    errors = [output_error(schedule(), prediction(), SAMPLERS[sampler](int(n))) for n in steps]
    mean, std = torch.tensor(errors, dtype=torch.float64).T
    assert mean.abs().max() < 1e-6
    assert std[-1].abs() < SMOOTH[schedule].get(sampler, BOUND[sampler])
    assert abs(fitted_order(steps, std) - (2 if sampler == "heun" else 1)) < 0.1, f"errors {std.tolist()}"


def fitted_order(steps, errors) -> float:
    """The slope of -log error over log steps."""
    points = torch.stack([steps.log(), torch.ones_like(steps)], dim=1)
    return -float(torch.linalg.lstsq(points, errors.abs().log()[:, None]).solution[0])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_multistep_samplers_come_out_right(schedule, prediction, sampler):
    mean, std = output_error(schedule(), prediction(), FAST[sampler](200))
    assert abs(mean) < 1e-6
    assert abs(std) < BOUND[sampler]


@pytest.mark.parametrize("sampler, order", {"dpmpp_2m": 2, "dpmpp_2m_sde": 2, "unipc": 3, "heun": 2}.items())
@pytest.mark.parametrize("grid", ["log_snr", "karras"])
@pytest.mark.parametrize("schedule", SMOOTH)
def test_orders_where_log_snr_is_smooth_in_the_steps(schedule, grid, sampler, order):
    steps = torch.tensor([50.0, 100.0, 200.0], dtype=torch.float64)
    errors = [output_error(schedule(), V(), FAST[sampler](int(n), grid=grid))[1] for n in steps]
    fitted = fitted_order(steps, torch.tensor(errors, dtype=torch.float64))
    # The third-order errors of unipc nearly cancel on the exploding path.
    above = 0.8 if (schedule, sampler) == (VarianceExploding, "unipc") else 0.2
    assert -0.2 < fitted - order < above, f"errors {errors}, order {fitted:.2f}"


@pytest.mark.parametrize("sampler", FAST)
@pytest.mark.parametrize("schedule", [Linear, Cosine, Sigmoid])
def test_orders_on_a_chain(schedule, sampler):
    """Of second order, 4 times less error for twice the steps, down to that of the chain's first entry."""
    coarse, fine = (output_error(schedule(), Eps(), FAST[sampler](n, grid="log_snr"))[1] for n in (25, 50))
    assert abs(coarse) > 3 * abs(fine), f"errors {coarse}, {fine}"


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_takes_every_sampler_to_the_data(grid, schedule):
    for sampler in (DDIM, DPMpp2M, UniPC):
        mean, std = output_error(schedule(), V(), sampler(100, clip=False, grid=grid))
        assert abs(mean) < 1e-6
        assert abs(std) < (0.045 if sampler is DDIM else 0.006)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_mixture_keeps_its_weights_and_widths(schedule, sampler):
    """What a Gaussian can't show: that samples fall to the right modes in the right numbers."""
    denoiser = exact_denoiser(Mixture, schedule(), Eps())
    noise = torch.randn(4000, 2, 1, 1, dtype=torch.float64, generator=torch.manual_seed(0))
    start = denoiser.schedule.pure_noise(noise)
    x = {**SAMPLERS, **FAST}[sampler](200)(denoiser, start).flatten(1)
    nearest = torch.cdist(x, Mixture.points).argmin(1)
    for k in range(len(Mixture.points)):
        mine = x[nearest == k]
        assert abs(len(mine) / len(x) - Mixture.weights[k]) < 0.03  # about 4 standard errors
        assert (mine.mean(0) - Mixture.points[k]).abs().max() < 0.02
        assert (mine.std(0) - Mixture.std).abs().max() < 0.015


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_on_a_mixture(scale):
    """Scale 0 ignores the label, scale 1 obeys it, a larger one overshoots away from the others."""
    denoiser = Guided(exact_denoiser(Mixture, Cosine(), V()), Guidance(scale))
    start = torch.randn(3000, 2, 1, 1, dtype=torch.float64, generator=torch.manual_seed(0))
    x = DDIM(100, clip=False)(denoiser, start, torch.full((3000,), 2)).flatten(1)
    asked = torch.cdist(x, Mixture.points).argmin(1) == 2
    if scale == 0:
        assert abs(asked.double().mean() - Mixture.weights[2]) < 0.03
        return
    assert asked.all()
    overshoot = (x.mean(0) - Mixture.points[2]) @ (Mixture.points[2] - Mixture.points[:2].mean(0))
    assert overshoot.abs() < 0.01 if scale == 1 else overshoot > 0.01


def test_predictions_agree_with_each_other():
    """The same denoiser, told through another output, walks the same path."""
    start = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
    outs = [DDIM(20, clip=False)(exact_denoiser(Gaussian, Linear(), p()), start) for p in PREDICTIONS]
    for one, other in itertools.pairwise(outs):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.mark.parametrize("old", [Linear, Cosine, Flow])
def test_a_denoiser_on_another_path_estimates_the_same(old):
    """At times of the same signal-to-noise ratio, of the same image and noise."""
    denoiser = exact_denoiser(Mixture, old(), V())
    moved = Rescheduled(denoiser, VarianceExploding())
    x, eps = torch.randn(2, 9, 2, 1, 1, dtype=torch.float64, generator=torch.manual_seed(0))
    t_old = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    t_new = moved.schedule.at_log_snr(denoiser.schedule.log_snr(t_old))
    expected = denoiser(denoiser.schedule.noised(x, eps, t_old), t_old)
    found = moved(moved.schedule.noised(x, eps, t_new), t_new)
    torch.testing.assert_close(found.x, expected.x, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.eps, expected.eps, atol=1e-9, rtol=0)


@pytest.mark.parametrize("grid", ["uniform", "log_snr", "karras"])
def test_a_chain_on_another_path_makes_the_same_images(grid):
    """Also beyond the noise levels that the chain has."""
    chain = exact_denoiser(Gaussian, Linear(), V())
    moved = Rescheduled(chain, Flow())
    x_t, t = torch.full((1, 1, 1, 1), -1.0, dtype=torch.float64), torch.tensor([0.001])
    assert float(moved(x_t, t).x) == pytest.approx(-1, abs=0.01)
    start = torch.randn(3000, 1, 1, 1, dtype=torch.float64, generator=torch.manual_seed(0))
    x = DPMpp2M(20, clip=False, grid=grid)(moved, start)
    assert float(x.mean()) == pytest.approx(Gaussian.mu, abs=0.03)
    assert float(x.std()) == pytest.approx(Gaussian.std, abs=0.08)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "unipc"])  # heun's steps depend on the path's scale
@pytest.mark.parametrize("schedule", [Linear, Cosine, Flow])
def test_a_walk_of_exploding_noise_is_the_walk_of_another_path(schedule, sampler):
    """The same denoiser on the same grid of signal-to-noise ratios ends in the same images."""
    denoiser = exact_denoiser(Mixture, schedule(), V())
    times = spaced("log_snr", denoiser.schedule, 20)
    explodes = Rescheduled(denoiser, VarianceExploding(sigma_min=0.001, sigma_max=1e5))
    others = explodes.schedule.at_log_snr(denoiser.schedule.log_snr(times))
    x_t = torch.randn(5, 2, 1, 1, dtype=torch.float64, generator=torch.manual_seed(0))
    walks = [
        {**SAMPLERS, **FAST}[sampler](20)(d, start, times=grid)
        for d, start, grid in (
            (denoiser, x_t, times),
            (explodes, x_t / denoiser.schedule.alpha(times[0]), others),
        )
    ]
    torch.testing.assert_close(*walks, atol=1e-6, rtol=0)


COLOUR = (3, 2, 4)  # of another height than width


def covariance_of(pixels: int):
    """A covariance in which every pixel and channel is related to every other."""
    factor = torch.randn(pixels, pixels, dtype=torch.float64, generator=torch.manual_seed(0))
    return factor @ factor.T / pixels / 4 + 0.01 * torch.eye(pixels, dtype=torch.float64)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_colours_and_sides_keep_their_covariance(schedule, prediction, sampler):
    """A deterministic sampler is linear in its start: its columns give the covariance of what it makes."""
    schedule, pixels = schedule(), math.prod(COLOUR)
    covariance = covariance_of(pixels)
    denoiser = exact_denoiser(partial(Correlated, covariance=covariance), schedule, prediction())
    t = torch.tensor(schedule.t_max, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    of_start = alpha**2 * covariance + sigma**2 * torch.eye(pixels, dtype=torch.float64)
    columns = torch.linalg.cholesky(of_start).T.reshape(pixels, *COLOUR)
    out = {**SAMPLERS, **FAST}[sampler](200)(denoiser, columns).reshape(pixels, pixels)
    assert (out.T @ out - covariance).abs().max() < 2 * BOUND[sampler]


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_colour_images_of_a_known_set_are_sampled_class_by_class(sampler):
    """Where the data are twenty images, each sample is one of them, of the class that was asked for."""
    generator = torch.manual_seed(0)
    images = torch.rand(20, *COLOUR, dtype=torch.float64, generator=generator) * 2 - 1
    labels = torch.arange(20) % 10
    denoiser = exact_denoiser(partial(Images, images=images, labels=labels), Flow(), Velocity())
    start = torch.randn(40, *COLOUR, dtype=torch.float64, generator=generator)
    y = torch.arange(40) % 10
    x = {**SAMPLERS, **FAST}[sampler](100)(denoiser, start, y)
    distance = torch.cdist(x.flatten(1), images.flatten(1))
    assert (labels[distance.argmin(1)] == y).all()
    assert distance.amin(1).max() < 0.02
