"""Heun's method."""

from torch import Tensor

from lit_diffusion.denoiser import Denoiser, Labelled
from lit_diffusion.predictions import Estimate
from lit_diffusion.samplers.base import History, Noise, Sampler


class Heun(Sampler):
    """A DDIM step, then the same step again with the mean of the estimates at its two ends.

        x_s = x_t + (alpha_s - alpha_t) x + (sigma_s - sigma_t) eps

    is the deterministic DDIM step, and the trapezoidal rule for dx_t = x dalpha + eps dsigma once x and
    eps are such means: on the flow schedule Heun's method for the flow's ODE, of second order. On a
    chain sigma starts like the root of t, and equal steps in t leave less than second order. The last
    step is a DDIM step alone (as in Karras et al. 2022, algorithm 1), since at s = 0 there is no noise
    left to estimate. NFE: 2 steps - 1.

    Args:
        steps: number of steps.
        clip, grid: as in ``Sampler``.
    """

    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, history: History, denoiser: Labelled, noise: Noise
    ) -> Tensor:
        return trapezoid(denoiser, history[-1].estimate, x_t, t, s)


def trapezoid(denoiser: Denoiser, estimate: Estimate, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return x_s on the flow's ODE through x_t, s being earlier or later than t, by Heun's method.

    Args:
        denoiser: with its condition.
        estimate: its estimate at (x_t, t).
        x_t: images at time t, (B, C, H, W).
        t, s: scalars.
    """
    schedule = denoiser.schedule
    d_alpha = schedule.alpha(s) - schedule.alpha(t)
    d_sigma = schedule.sigma(s) - schedule.sigma(t)

    x, eps, _ = estimate
    x_s = x_t + d_alpha * x + d_sigma * eps
    if s == 0:
        return x_s
    x_end, eps_end, _ = denoiser(x_s, s.expand(len(x_s)))
    return x_t + d_alpha * (x + x_end) / 2 + d_sigma * (eps + eps_end) / 2
