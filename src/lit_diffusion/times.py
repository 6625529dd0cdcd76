"""Times: how often training meets each noise level."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError, check_number, check_whole_number
from lit_diffusion.schedules import DiscreteSchedule, Schedule


class Drawn(NamedTuple):
    """Times of a batch.

    Attributes:
        t: times in (0, 1], (B,).
        weight: of each one's loss, (B,).
    """

    t: Tensor
    weight: Tensor


class Times(nn.Module, ABC):
    """Draws the times of training.

    Attributes:
        learns: whether it learns from the losses, in buffers, which checkpoints keep.
    """

    learns = False

    def draw(self, schedule: Schedule, n: int, generator: torch.Generator) -> Drawn:
        """Draw n times, on the generator's device."""
        t = self.times(schedule, n, generator)
        return Drawn(t, torch.ones_like(t))

    @abstractmethod
    def times(self, schedule: Schedule, n: int, generator: torch.Generator) -> Tensor:
        """Draw n times, (n,), at which the network can be evaluated; of validation too."""

    def check(self, schedule: Schedule) -> None:
        """Raise ConfigError for a schedule whose times it can't draw."""

    def learn(self, schedule: Schedule, t: Tensor, loss: Tensor) -> None:
        """Learn from the losses (B,) of a batch, of all processes, at times t (B,)."""


class Uniform(Times):
    """All times of the schedule alike."""

    def times(self, schedule: Schedule, n: int, generator: torch.Generator) -> Tensor:
        return schedule.at_share(uniform(n, generator))


class Normal(Times, ABC):
    """Times made of N(mean, std^2)."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        check_number("times.mean", mean, least=-20, most=20)
        check_number("times.std", std, least=1e-3, most=100)
        self.mean = mean
        self.std = std

    def numbers(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n of these numbers, in float32 whatever the default dtype is."""
        drawn = torch.randn(n, generator=generator, device=generator.device, dtype=torch.float32)
        return self.mean + self.std * drawn


class LogitNormal(Normal):
    """The sigmoid of N(mean, std^2), which favours the middle (Esser et al. 2024, equation 19).

    Args:
        mean: above 0 favours noisy times, below 0 clean ones.
        std: the smaller, the nearer to the middle.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        super().__init__(mean, std)

    def times(self, schedule: Schedule, n: int, generator: torch.Generator) -> Tensor:
        return schedule.at_share(torch.sigmoid(self.numbers(n, generator)))


class LogNormal(Normal):
    """Noise levels sigma / alpha whose logarithm is N(mean, std^2) (Karras et al. 2022, table 1).

    Args:
        mean, std: of ln(sigma / alpha). Karras et al. 2024 have -0.4 and 1. On the flow schedule these are
            the times of ``LogitNormal`` of the same mean and std.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2):
        super().__init__(mean, std)

    def check(self, schedule: Schedule) -> None:
        if not schedule.has_path:
            raise ConfigError(
                f"times is LogNormal, but schedule {type(schedule).__name__} has one noise level: choose "
                "times=uniform"
            )

    def times(self, schedule: Schedule, n: int, generator: torch.Generator) -> Tensor:
        log_noise = self.numbers(n, generator)
        return schedule.inside(schedule.at_log_snr(-2 * log_noise).to(log_noise))


class Importance(Uniform):
    """Times in proportion to the root of the mean squared loss there (Nichol and Dhariwal 2021, equation 18).

    The loss of each is divided by how much more often it is drawn than uniformly, so that the mean loss stays
    that of uniform times, at less variance. The mean square is a moving average in bins, equal shares of t.

    Args:
        bins: their number.
        decay: of the moving average, per step in which a bin is met.
        uniform_share: of the times, drawn uniformly, so that no bin is forgotten.
    """

    learns = True
    squares: Tensor

    def __init__(self, bins: int = 50, decay: float = 0.99, uniform_share: float = 0.1):
        super().__init__()
        check_whole_number("times.bins", bins, least=2, most=1000)
        check_number("times.decay", decay, least=0, most=0.99999)
        check_number("times.uniform_share", uniform_share, least=1e-3, most=1)
        self.bins = bins
        self.decay = decay
        self.uniform_share = uniform_share
        self.register_buffer("squares", torch.zeros(bins))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.squares = self.squares.float()  # half precision would lose what a step adds to an average
        return self

    def check(self, schedule: Schedule) -> None:
        steps = schedule.steps if isinstance(schedule, DiscreteSchedule) else self.bins
        if not schedule.has_path or steps < self.bins:
            raise ConfigError(
                f"times.bins is {self.bins}, but the schedule has {steps if schedule.has_path else 1} noise "
                "levels: choose fewer bins, or times=uniform"
            )

    def probabilities(self) -> Tensor:
        """Return how likely each bin is, (bins,): uniform until all have been met."""
        if not (self.squares > 0).all():
            return torch.full_like(self.squares, 1 / self.bins)
        roots = self.squares.sqrt()
        return (1 - self.uniform_share) * roots / roots.sum() + self.uniform_share / self.bins

    def draw(self, schedule: Schedule, n: int, generator: torch.Generator) -> Drawn:
        p = self.probabilities().to(generator.device)
        chosen = torch.multinomial(p, n, replacement=True, generator=generator)
        share = (chosen + uniform(n, generator)) / self.bins
        return Drawn(schedule.at_share(share), 1 / (self.bins * p[chosen]))

    @torch.no_grad()
    def learn(self, schedule: Schedule, t: Tensor, loss: Tensor) -> None:
        finite = loss.isfinite()  # the others are for the module to complain of
        t, loss = t[finite], loss[finite]
        share = (t - schedule.t_min) / (schedule.t_max - schedule.t_min)
        place = (share * self.bins).long().clamp(0, self.bins - 1)
        member = nn.functional.one_hot(place, self.bins).to(torch.float64)  # a sum in a fixed order
        count = member.sum(0)
        mean = loss.double().square() @ member / count.clamp(min=1)
        kept = self.decay * (self.squares > 0).to(self.squares)
        averaged = kept * self.squares + (1 - kept) * mean.to(self.squares)
        self.squares.copy_(torch.where(count > 0, averaged, self.squares))


def uniform(n: int, generator: torch.Generator) -> Tensor:
    """Draw n numbers, uniform in [0, 1), in float32 whatever the default dtype is."""
    return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float32)
