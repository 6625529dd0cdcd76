"""Predictions: what the network's output means, as a quantity of the path x_t = alpha x + sigma eps.

alpha and sigma are broadcast against images (B, C, H, W) in every function here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from lit_diffusion.common.errors import check_number


class Estimate(NamedTuple):
    """An estimate of both ends of the path through x_t: x_t = alpha x + sigma eps, but where CFG++ guides.

    Attributes:
        x, eps: the image and the noise, (B, C, H, W).
        var_weight: of networks that learn the variance of an ancestral step, else None: the log variance lies
            between that of the small variance, at -1, and that of the large one, at 1 (Nichol and Dhariwal
            2021, equation 15).
    """

    x: Tensor
    eps: Tensor
    var_weight: Tensor | None = None

    def combined(self, other: "Estimate", combine: Callable[[Tensor, Tensor], Tensor]) -> "Estimate":
        """Combine two estimates by a function linear in them; the var_weight is this one's."""
        return Estimate(combine(self.x, other.x), combine(self.eps, other.eps), self.var_weight)

    def halves(self) -> tuple["Estimate", "Estimate"]:
        """Return the estimates of the first and of the second half of a batch."""
        first, second = zip(*(end.chunk(2) for end in self if end is not None), strict=True)
        return Estimate(*first), Estimate(*second)


class Prediction(ABC):
    """What the network's output means, a linear function of x and eps."""

    def shown(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network is shown of x_t."""
        return x_t

    @abstractmethod
    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network should put out, given the true image and noise."""

    @abstractmethod
    def estimate(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        """Return the image and the noise that an output stands for."""

    @abstractmethod
    def dx_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return d output / d x at fixed x_t: an error of 1 in x is an error of this size in the output."""


class Eps(Prediction):
    """The output is the noise (Ho et al. 2020, equation 14)."""

    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return eps

    def estimate(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        return Estimate((x_t - sigma * output) / alpha, output)

    def dx_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -alpha / sigma


class X(Prediction):
    """The output is the clean image."""

    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x

    def estimate(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        return Estimate(output, (x_t - alpha * output) / sigma)

    def dx_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha.new_ones(())


class V(Prediction):
    """The output is v = alpha eps - sigma x (Salimans and Ho 2022, appendix D).

    The inverse below divides by alpha^2 + sigma^2, which is 1 on variance-preserving schedules, so
    that v means the same on the others.
    """

    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * eps - sigma * x

    def estimate(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        norm = alpha**2 + sigma**2
        return Estimate((alpha * x_t - sigma * output) / norm, (sigma * x_t + alpha * output) / norm)

    def dx_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -(alpha**2 + sigma**2) / sigma


class Velocity(Prediction):
    """The output is eps - x, the direction of the straight path from image to noise.

    On the flow schedule it is dx_t/dt (Lipman et al. 2023, equation 23). Papers whose time runs from
    noise to data use its negative, clean image minus noise. On any other schedule alpha + sigma,
    which never vanishes, takes the place of 1 in the inverse.
    """

    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return eps - x

    def estimate(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        norm = alpha + sigma
        return Estimate((x_t - sigma * output) / norm, (x_t + alpha * output) / norm)

    def dx_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -(alpha + sigma) / sigma


class Edm(Prediction):
    """The output F of a preconditioned network, whose input and target have unit variance.

        x = c_skip x_t / alpha + c_out F(c_in x_t / alpha)

    (Karras et al. 2022, equation 7) with s = sigma / alpha, the noise beside an image of weight 1, and s_d
    the standard deviation of images,

        c_skip = s_d^2 / (s^2 + s_d^2)     c_out = s s_d / sqrt(s^2 + s_d^2)     c_in = 1 / sqrt(s^2 + s_d^2)

    (table 1), written below without dividing by alpha. Where alpha^2 + sigma^2 = 1 and s_d = 1, it is -v.

    Args:
        sigma_data: s_d.
    """

    def __init__(self, sigma_data: float = 0.5):
        check_number("prediction.sigma_data", sigma_data, least=1e-3, most=1e3)
        self.sigma_data = sigma_data

    def shown(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_t / self._std(alpha, sigma)

    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma * x / self.sigma_data - alpha * self.sigma_data * eps) / self._std(alpha, sigma)

    def estimate(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        std = self._std(alpha, sigma)
        x = alpha * self.sigma_data**2 / std**2 * x_t + sigma * self.sigma_data / std * output
        eps = sigma / std**2 * x_t - alpha * self.sigma_data / std * output
        return Estimate(x, eps)

    def dx_weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._std(alpha, sigma) / (sigma * self.sigma_data)

    def _std(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the standard deviation of x_t, if that of x is sigma_data."""
        return (sigma**2 + (alpha * self.sigma_data) ** 2).sqrt()
