"""Schedules in continuous time, given by their formulas."""

from typing import Literal

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number
from lit_diffusion.schedules.base import Schedule


class Straight(Schedule):
    """Straight lines, in continuous time: alpha runs from 1 to alpha_end and sigma from 0 to sigma_end.

    The network is told 1000 t, about what a chain of 1000 steps tells it.

    Args:
        alpha_end: weight of the image at t = 1.
        sigma_end: standard deviation of the noise at t = 1.
    """

    t_min, t_max = 1e-3, 1 - 1e-3

    def __init__(self, alpha_end: float, sigma_end: float):
        check_number("schedule.alpha_end", alpha_end, least=0, most=1e6)
        check_number("schedule.sigma_end", sigma_end, least=1e-6, most=1e6)
        self.alpha_end = alpha_end
        self.sigma_end = sigma_end

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.alpha_end) * t

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_end * t

    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        return 1 / (self.sigma_end * (log_snr / 2).exp() + 1 - self.alpha_end)

    def time_input(self, t: Tensor) -> Tensor:
        return 1000 * t


class Flow(Straight):
    """Flow matching: alpha = 1 - t, sigma = t (Lipman et al. 2023; Liu et al. 2023, rectified flow).

    Papers on flow matching let t run from noise to data: their t is 1 - t here.
    """

    def __init__(self) -> None:
        super().__init__(alpha_end=0.0, sigma_end=1.0)


class SingleStep(Straight):
    """One noise level, x_t = alpha_end x + sigma_end eps: t = 1, the only one that training meets."""

    t_max = 1.0
    has_path = False

    def snap(self, times: Tensor) -> Tensor:
        """Return 1 and 0: from pure noise in one step.

        Raises:
            ConfigError: there are more steps, or t = 1 isn't pure noise.
        """
        if self.alpha_end > 0:
            raise ConfigError(
                f"schedule single_step ends at alpha_end {self.alpha_end:g}, where the image is still to be "
                "seen: a model of it denoises, but can't sample from noise; train it with "
                "callbacks=denoiser, and look at it with lit_diffusion.figures out_of_distribution"
            )
        if len(times) > 2:
            raise ConfigError(
                f"the sampler wants {len(times) - 1} steps, but single_step has 1: choose sampler.steps=1"
            )
        return times

    def at_share(self, share: Tensor) -> Tensor:
        return torch.ones_like(share)


class VarianceExploding(Schedule):
    """The image stays as it is, under ever more noise: alpha = 1, sigma = sigma_max t^rho.

    The time of Karras et al. 2022 is sigma. Here it is its rho-th root, so that times evenly spaced between
    t_min, where sigma is sigma_min, and 1 are the paper's (equation 5): those of ``even_times``, and of the
    grid karras.

    Args:
        sigma_min, sigma_max: the least and the largest noise that a network meets.
        rho: how much of the path is at little noise.
        told: what the network is told: "t", 1000 t; or "log_sigma", ln(sigma) / 4, the paper's c_noise, for
            networks that were trained so elsewhere.
    """

    t_max = 1.0

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        told: Literal["t", "log_sigma"] = "t",
    ):
        check_number("schedule.sigma_min", sigma_min, least=1e-6, most=1e6)
        check_number("schedule.sigma_max", sigma_max, least=1e-6, most=1e6)
        check_number("schedule.rho", rho, least=0.1, most=100)
        if sigma_min >= sigma_max:
            raise ConfigError(
                f"schedule.sigma_min is {sigma_min:g} and schedule.sigma_max {sigma_max:g}: choose a larger "
                "sigma_max"
            )
        self.sigma_max = sigma_max
        self.rho = rho
        self.told = told
        self.t_min = (sigma_min / sigma_max) ** (1 / rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t**self.rho

    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        return ((-log_snr / 2).exp() / self.sigma_max) ** (1 / self.rho)

    def at_share(self, share: Tensor) -> Tensor:
        return self.t_min + (self.t_max - self.t_min) * share

    def even_times(self, steps: int) -> Tensor:
        times = torch.linspace(self.t_max, self.t_min, steps, dtype=torch.float64)
        return torch.cat([times, times.new_zeros(1)])

    def time_input(self, t: Tensor) -> Tensor:
        return self.sigma(t).log() / 4 if self.told == "log_sigma" else 1000 * t
