"""Grids: how the times that a sampler visits are spaced, from noise to image.

Each function takes a schedule and a number of steps and returns (steps + 1,) decreasing times,
float64, t_max first and 0 last. All but the uniform one spend their steps between t_max and t_min,
where the log signal-to-noise ratio is finite, and go from there to 0 at once. ``spaced`` is what samplers
call: the grid by name, with each time moved to the nearest that the schedule has.
"""

from itertools import pairwise

import torch
from torch import Tensor

from lit_diffusion.schedules import Schedule


def spaced(grid: str, schedule: Schedule, steps: int) -> Tensor:
    """Return the (steps + 1,) times of a grid, one of ``GRIDS``, that the schedule can visit.

    Raises:
        ConfigError: there are more steps than the schedule has.
    """
    return schedule.snap(GRIDS[grid](schedule, steps))


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """Space evenly in t, or as the scheduler of a pretrained pipeline does."""
    return schedule.even_times(steps)


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """Space evenly in the root of t: more steps near the image (Song et al. 2021, appendix D.2)."""
    low, high = ends(schedule).sqrt()
    return with_zero(torch.linspace(high, low, steps, dtype=torch.float64) ** 2)


def log_snr(schedule: Schedule, steps: int) -> Tensor:
    """Space evenly in log-SNR (Lu et al. 2022, DPM-Solver, section 3.4)."""
    high, low = schedule.log_snr(ends(schedule))
    return with_zero(schedule.at_log_snr(torch.linspace(low, high, steps, dtype=torch.float64)))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """Space evenly in the rho-th root of sigma / alpha (Karras et al. 2022, equation 5)."""
    low, high = (-schedule.log_snr(ends(schedule)) / (2 * rho)).exp()
    roots = torch.linspace(high, low, steps, dtype=torch.float64)
    return with_zero(schedule.at_log_snr(-2 * rho * roots.log()))


def ends(schedule: Schedule) -> Tensor:
    """Return t_min and t_max."""
    return torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)


def with_zero(times: Tensor) -> Tensor:
    """Return the times with 0 after them."""
    return torch.cat([times, times.new_zeros(1)])


GRIDS = {grid.__name__: grid for grid in (uniform, log_snr, karras, quadratic)}


def resampled(times: Tensor, times_over: int) -> Tensor:
    """Return the times of RePaint's resampling (Lugmayr et al. 2022, algorithm 1).

    Each step but the last is taken ``times_over`` times, going back up between. Painted pixels then come to
    fit the known ones: each time over they see them again.
    """
    steps = list(pairwise(times))[:-1]
    repeated = [time for t, s in steps for time in [t, s] * (times_over - 1) + [t]]
    return torch.stack([*repeated, *times[-2:]])
