"""Samplers of the reverse SDE, whose noise is chosen after training."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number
from lit_diffusion.denoiser import Labelled
from lit_diffusion.samplers.base import Clip, History, Noise, Sampler
from lit_diffusion.schedules import Schedule

Shape = Literal["even", "noisy", "clean", "middle"]
SHAPES = get_args(Shape)


class SDE(Sampler):
    """Replaces estimated noise by fresh noise, at any rate w(t), chosen after training.

        x_s = alpha_s x + sigma_s (rho eps + sqrt(1 - rho^2) z)
        rho = exp(-w(t) h),   h = (log_snr(s) - log_snr(t)) / 2

    It solves the reverse SDE of Ma et al. 2024 (SiT, equation 4). Whatever w is, the images have the data's
    distribution, as steps get many: the same network serves all, if its noise in training was independent of
    the images. It is exact for an estimate and a rate that are constant along a step. With w = 0 it is
    ``DDIM``, with w = 1 ``Ancestral`` of the small variance.

    Args:
        steps: number of steps.
        clip, grid: as in ``Sampler``.
        rate: w, at its most; SiT's coefficient is ``2 w sigma^2 d log(sigma / alpha) / dt``.
        shape: where it is that: "even" everywhere; "noisy", in proportion to the noise's share of the
            variance of x_t; "clean", to the image's; "middle", to four times their product.
    """

    needs_meeting = False

    def __init__(
        self,
        steps: int,
        clip: Clip,
        grid: str = "uniform",
        rate: float = 1.0,
        shape: Shape = "even",
    ):
        super().__init__(steps, clip, grid)
        check_number("sampler.rate", rate, least=0, most=1000)
        if shape not in SHAPES:
            raise ConfigError(f"sampler.shape is {shape!r}: choose one of {', '.join(SHAPES)}")
        self.rate = rate
        self.shape = shape

    @property
    def stochastic(self) -> bool:
        return self.rate > 0

    def rates(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return w at times t."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        noisy = sigma**2 / (alpha**2 + sigma**2)
        shapes = {
            "even": torch.ones_like(t), "noisy": noisy, "clean": 1 - noisy, "middle": 4 * noisy * (1 - noisy),
        }  # fmt: skip
        return self.rate * shapes[self.shape]

    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, history: History, denoiser: Labelled, noise: Noise
    ) -> Tensor:
        schedule = denoiser.schedule
        x, eps, _ = history[-1].estimate
        if s == 0 or not self.stochastic:
            return schedule.alpha(s) * x + schedule.sigma(s) * eps
        h = (schedule.log_snr(s) - schedule.log_snr(t)) / 2
        rho = torch.exp(-h * self.rates(schedule, t))
        fresh = rho * eps + (1 - rho**2).sqrt() * noise()
        return schedule.alpha(s) * x + schedule.sigma(s) * fresh
