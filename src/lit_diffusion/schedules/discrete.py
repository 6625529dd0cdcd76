"""Chains of T steps: schedules that a table of T + 1 values gives."""

import math

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number, check_whole_number
from lit_diffusion.schedules.base import Schedule


class DiscreteSchedule(Schedule):
    """A variance-preserving chain of T steps, given by its betas (Ho et al. 2020, section 2).

    alpha_bar is a table of T + 1 float64 values, the first of them 1 (clean); t = k / T is entry k
    and other times are rounded to the nearest entry. The network is told the published index
    i = k - 1 in 0 .. T-1, so that weights trained elsewhere fit.

    Args:
        betas: (T,) variances of the noise that each step adds, in (0, 1).

    Raises:
        ConfigError: a beta outside (0, 1).
    """

    t_max = 1.0

    def __init__(self, betas: Tensor):
        betas = betas.double()  # float32 would be 1e-4 off where there is little noise
        if not 0 < betas.min() <= betas.max() < 1:
            raise ConfigError(
                f"betas run from {betas.min():g} to {betas.max():g}, but each must lie inside (0, 1): "
                "choose other ends for the schedule"
            )
        self.steps = len(betas)
        self.t_min = 1 / self.steps
        self.betas = betas
        self.alpha_bar = torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, dim=0)])
        self._tables = {"alpha": self.alpha_bar.sqrt(), "sigma": (1 - self.alpha_bar).sqrt()}
        self._copies: dict[tuple, Tensor] = {}

    def alpha(self, t: Tensor) -> Tensor:
        return self._look_up("alpha", t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._look_up("sigma", t)

    def snap(self, times: Tensor) -> Tensor:
        """Return the entries of the table nearest to the times, no two the same.

        Raises:
            ConfigError: there are more steps than the table has.
        """
        steps = len(times) - 1
        if steps > self.steps:
            raise ConfigError(
                f"the sampler wants {steps} steps, but this schedule has {self.steps}: "
                f"give the sampler {self.steps} at most"
            )
        entries = (times * self.steps).round()
        places = torch.arange(steps + 1, dtype=times.dtype)
        entries = (entries + places).cummin(0).values - places  # each below the one before it ...
        return entries.maximum(places.flip(0)) / self.steps  # ... with room for those that follow

    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        entries = torch.arange(1, self.steps + 1, dtype=torch.float64, device=log_snr.device) / self.steps
        nearest = (self.log_snr(entries) - log_snr.reshape(-1, 1)).abs().argmin(1)
        return entries[nearest].reshape(log_snr.shape)

    def at_share(self, share: Tensor) -> Tensor:
        return ((share * self.steps).floor() + 1).clamp(1, self.steps) / self.steps

    def time_input(self, t: Tensor) -> Tensor:
        return (t * self.steps).round() - 1

    def _look_up(self, name: str, t: Tensor) -> Tensor:
        key = name, t.device, t.dtype
        if key not in self._copies:  # a copy to a GPU at every step would make it wait
            self._copies[key] = self._tables[name].to(t)
        return self._copies[key][(t * self.steps).round().long()]


class Linear(DiscreteSchedule):
    """Betas evenly spaced from beta_start to beta_end (Ho et al. 2020, section 4)."""

    def __init__(self, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02):
        check_betas(beta_start, beta_end)
        super().__init__(torch.linspace(beta_start, beta_end, check_steps(steps), dtype=torch.float64))


class Cosine(DiscreteSchedule):
    """alpha_bar follows a squared cosine (Nichol and Dhariwal 2021, equation 17).

    alpha_bar(t) = f(t) / f(0) with f(t) = cos^2((t + s) / (1 + s) * pi / 2); beta is what takes
    alpha_bar from one step to the next, at most max_beta.
    """

    def __init__(self, steps: int = 1000, s: float = 0.008, max_beta: float = 0.999):
        check_number("schedule.s", s, least=0, most=1)
        check_number("schedule.max_beta", max_beta, least=1e-6, most=1 - 1e-6)
        t = torch.linspace(0, 1, check_steps(steps) + 1, dtype=torch.float64)
        alpha_bar = torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2
        super().__init__((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))


class Sigmoid(DiscreteSchedule):
    """Betas rise along a sigmoid from beta_start to beta_end (Xu et al. 2022, GeoDiff).

    beta_i = beta_start + (beta_end - beta_start) * sigmoid(u_i), u evenly spaced in [-span, span].
    """

    def __init__(
        self, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, span: float = 6.0
    ):
        check_betas(beta_start, beta_end)
        check_number("schedule.span", span, least=0, most=1000)
        u = torch.linspace(-span, span, check_steps(steps), dtype=torch.float64)
        super().__init__(beta_start + (beta_end - beta_start) * torch.sigmoid(u))


def check_betas(beta_start: float, beta_end: float) -> None:
    """Raise ConfigError unless both variances lie inside (0, 1), the second not below the first."""
    for name, value in (("beta_start", beta_start), ("beta_end", beta_end)):
        check_number(f"schedule.{name}", value, least=1e-12, most=1 - 1e-6)
    if beta_start > beta_end:
        raise ConfigError(
            f"schedule.beta_start is {beta_start}, above schedule.beta_end, {beta_end}: swap them, so that "
            "the noise grows along the path"
        )


def check_steps(steps: int) -> int:
    """Return steps; ConfigError unless it is a whole number of a sensible size."""
    check_whole_number("schedule.steps", steps, least=1, most=1_000_000)
    return steps
