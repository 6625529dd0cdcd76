"""Noise schedules: alpha(t) and sigma(t) of the Gaussian path x_t = alpha(t) x + sigma(t) eps.

Time t runs from 0 (clean image) to 1 (pure noise). A schedule also says which times a sampler
visits, which times training draws, and what the network is told about t.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number, check_whole_number
from lit_diffusion.common.tensors import per_image


class Schedule(ABC):
    """The Gaussian path of one noise process: alpha(t), sigma(t), and how t is used.

    Attributes:
        t_min, t_max: the network is evaluated inside [t_min, t_max] only. Where alpha or sigma
            vanishes, dividing by it is avoided by these two limits and nowhere else.
        has_path: whether there are noise levels between the image and t_max.
    """

    t_min: float
    t_max: float
    has_path = True

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the weight of the image at times t in [0, 1], of the shape, dtype and device of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of the noise at times t in [0, 1]; sigma(0) = 0."""

    @abstractmethod
    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the times whose log signal-to-noise ratio is this, or nearest to it."""

    @abstractmethod
    def random_times(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n,) times for training, on the generator's device."""

    @abstractmethod
    def time_input(self, t: Tensor) -> Tensor:
        """Return what the network is told about times t."""

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2), the log signal-to-noise ratio, infinite where one of them is 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def inside(self, t: Tensor) -> Tensor:
        """Return the times nearest to t at which neither alpha nor sigma vanishes."""
        return t.clamp(self.t_min, self.t_max)

    def even_times(self, steps: int) -> Tensor:
        """Return (steps + 1,) evenly spaced times, float64, from t_max to 0."""
        return torch.linspace(self.t_max, 0, steps + 1, dtype=torch.float64)

    def snap(self, times: Tensor) -> Tensor:
        """Return the times nearest to these decreasing ones that a sampler can visit on this schedule.

        Raises:
            ConfigError: there are more steps than the schedule has.
        """
        return times

    def noised(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x_t = alpha x + sigma eps for images and noise (B, C, H, W) and times (B,) or a scalar."""
        alpha, sigma = self.alpha_sigma(t, x)
        return alpha * x + sigma * eps

    def pure_noise(self, eps: Tensor) -> Tensor:
        """Return where sampling starts, at t_max, from standard normal noise like images."""
        return self.sigma(torch.tensor(self.t_max, dtype=torch.float64)).to(eps) * eps

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (a, b) of the path from s up to t: x_t = a x_s + sqrt(b) z with fresh noise z."""
        a = self.alpha(t) / self.alpha(s)
        return a, self.sigma(t) ** 2 - a**2 * self.sigma(s) ** 2

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha(t) and sigma(t) of times t (B,), shaped and typed to multiply images (B, C, H, W)."""
        return per_image(self.alpha(t).to(like), like), per_image(self.sigma(t).to(like), like)


class DiscreteSchedule(Schedule):
    """A variance-preserving chain of T steps, given by its betas (Ho et al. 2020, section 2).

    alpha_bar is a table of T + 1 float64 values, the first of them 1 (clean); t = k / T is entry k
    and other times are rounded to the nearest entry. The network is told the published index
    i = k - 1 in 0 .. T-1, so that weights trained elsewhere fit.

    Args:
        betas: (T,) variances of the noise that each step adds, in (0, 1).
    """

    t_max = 1.0

    def __init__(self, betas: Tensor):
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
        entries = torch.arange(1, self.steps + 1, dtype=torch.float64) / self.steps
        nearest = (self.log_snr(entries) - log_snr.reshape(-1, 1)).abs().argmin(1)
        return entries[nearest].reshape(log_snr.shape)

    def random_times(self, n: int, generator: torch.Generator) -> Tensor:
        entries = torch.randint(1, self.steps + 1, (n,), generator=generator, device=generator.device)
        return entries.to(torch.float32) / self.steps  # whatever the default dtype

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


class Straight(Schedule):
    """Straight lines, in continuous time: alpha runs from 1 to alpha_end and sigma from 0 to sigma_end.

    The network is told 1000 t, about what a chain of 1000 steps tells it.

    Args:
        alpha_end: weight of the image at t = 1.
        sigma_end: standard deviation of the noise at t = 1.
    """

    t_min, t_max = 1e-3, 1 - 1e-3

    def __init__(self, alpha_end: float, sigma_end: float):
        if alpha_end < 0 or sigma_end <= 0:
            raise ConfigError(
                f"schedule.alpha_end is {alpha_end:g} and schedule.sigma_end {sigma_end:g}: choose 0 or more "
                "for the first and more than 0 for the second"
            )
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

    Args:
        logit_std: None draws training times uniformly; a number draws them logit-normal, the sigmoid
            of N(logit_mean, logit_std^2), which favours the middle (Esser et al. 2024, equation 19).
        logit_mean: above 0 favours noisy times, below 0 clean ones.
    """

    def __init__(self, logit_std: float | None = None, logit_mean: float = 0.0):
        super().__init__(alpha_end=0.0, sigma_end=1.0)
        if logit_std is not None and logit_std <= 0:
            raise ConfigError(
                f"schedule.logit_std is {logit_std:g}: choose more than 0, or null for uniform times"
            )
        self.logit_std = logit_std
        self.logit_mean = logit_mean

    def random_times(self, n: int, generator: torch.Generator) -> Tensor:
        draw = torch.rand if self.logit_std is None else torch.randn
        drawn = draw(n, generator=generator, device=generator.device, dtype=torch.float32)
        if self.logit_std is None:
            return self.inside(drawn)
        return self.inside(torch.sigmoid(self.logit_mean + self.logit_std * drawn))


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

    def random_times(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.ones(n, device=generator.device, dtype=torch.float32)


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
