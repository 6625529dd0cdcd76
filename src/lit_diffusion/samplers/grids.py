"""Grids: the times that a sampler visits, from noise to image.

Each function takes a schedule and a number of steps and returns (steps + 1,) decreasing times,
float64, t_max first and 0 last. All but the uniform one spend their steps between t_max and t_min,
where the log signal-to-noise ratio is finite, and go from there to 0 at once.
"""

import torch
from torch import Tensor

from lit_diffusion.schedules import Schedule


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in t."""
    return schedule.times(steps)


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in the root of t: more steps near the image (Song et al. 2021, appendix D.2)."""
    low, high = ends(schedule).sqrt()
    return with_zero(torch.linspace(high, low, steps, dtype=torch.float64) ** 2)


def log_snr(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced in log-SNR (Lu et al. 2022, DPM-Solver, section 3.4)."""
    high, low = schedule.log_snr(ends(schedule))
    return with_zero(schedule.at_log_snr(torch.linspace(low, high, steps, dtype=torch.float64)))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """Evenly spaced in the rho-th root of sigma / alpha (Karras et al. 2022, equation 5)."""
    low, high = (-schedule.log_snr(ends(schedule)) / (2 * rho)).exp()
    roots = torch.linspace(high, low, steps, dtype=torch.float64)
    return with_zero(schedule.at_log_snr(-2 * rho * roots.log()))


def ends(schedule: Schedule) -> Tensor:
    """t_min and t_max."""
    return torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)


def with_zero(times: Tensor) -> Tensor:
    return torch.cat([times, times.new_zeros(1)])


GRIDS = {grid.__name__: grid for grid in (uniform, log_snr, karras, quadratic)}
