"""After-step hooks: what keeps or changes x between two steps of a sampler."""

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

from lit_diffusion.samplers.base import AfterStep, Noise, Visit
from lit_diffusion.schedules import Schedule


def chain(*hooks: AfterStep | None) -> AfterStep:
    """Return one hook that calls these in order, each with what the one before it returned."""

    def chained(x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
        return reduce(lambda x, hook: hook(x, s, visit), filter(None, hooks), x_s)

    return chained


class Trajectory:
    """Keeps (x_t, estimate of x) at the visits nearest to given times.

    A time visited more than once is kept once, the first time.

    Args:
        grid: the times the sampler visits.
        times: the times to keep; 0 is the finished image.
        n: images of the batch to keep; None for all.

    Attributes:
        frames: (B, 2, C, H, W), x_t and the estimate of x, of each kept time.
        times: the kept times.
    """

    def __init__(self, grid: Tensor, times: Iterable[float], n: int | None = None):
        self.wanted = {min(grid.tolist(), key=lambda visited: abs(visited - t)) for t in times}
        self.n = n
        self.frames: list[Tensor] = []
        self.times: list[float] = []

    def __call__(self, x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
        self._keep(float(visit.t), visit.x_t, visit.estimate.x)
        if s == 0:
            self._keep(0.0, x_s, x_s)
        return x_s

    def _keep(self, t: float, x_t: Tensor, x: Tensor) -> None:
        if t in self.wanted and t not in self.times:
            self.times.append(t)
            self.frames.append(torch.stack([x_t[: self.n], x[: self.n]], dim=1).cpu())


class Inpaint:
    """Puts the known pixels back after each step, noised to the step's time (Lugmayr et al. 2022, RePaint).

    At t = 0 there is no noise: known pixels end exactly as they were. Three lines paint:

        schedule = denoiser.schedule
        keep = Inpaint(schedule, x, mask)
        filled = sampler(denoiser, schedule.pure_noise(torch.randn_like(x)), y, after_step=keep)

    with the paper's resampling if the sampler is also given
    ``times=resampled(sampler.times(schedule), 5)``.

    Args:
        schedule: of the denoiser.
        x: the image, (B, C, H, W), or (1, C, H, W) for all.
        mask: True where the image is painted anew, broadcast against x.
        noise: draws noise like the images; standard normal if None.
    """

    def __init__(self, schedule: Schedule, x: Tensor, mask: Tensor, noise: Noise | None = None):
        self.schedule = schedule
        self.x = x
        self.mask = mask
        self.noise = noise

    def __call__(self, x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
        noise = torch.randn_like(x_s) if self.noise is None else self.noise()
        known = self.schedule.noised(self.x.to(x_s).expand_as(x_s), noise, s)
        return torch.where(self.mask.to(x_s.device), x_s, known)
