"""Noise schedules: alpha(t) and sigma(t) of the Gaussian path x_t = alpha(t) x + sigma(t) eps.

Time t runs from 0 (clean image) to 1 (pure noise). A schedule also says which times there are, and what
the network is told about t.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

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
    def time_input(self, t: Tensor) -> Tensor:
        """Return what the network is told about times t."""

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2), the log signal-to-noise ratio, infinite where one of them is 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def inside(self, t: Tensor) -> Tensor:
        """Return the times nearest to t at which neither alpha nor sigma vanishes."""
        return t.clamp(self.t_min, self.t_max)

    def at_share(self, share: Tensor) -> Tensor:
        """Return the times of training that lie at these shares, in [0, 1), of all times."""
        return self.inside(share)

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
