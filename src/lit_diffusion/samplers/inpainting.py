"""Inpainting (Lugmayr et al. 2022, RePaint), as a hook:

    keep = Inpaint(denoiser.schedule, x, mask)
    filled = sampler(denoiser, torch.randn_like(x), y, after_step=keep)

with the paper's resampling if the sampler is also given ``times=resampled(sampler.times(schedule), 5)``.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from lit_diffusion.samplers.base import Visit
from lit_diffusion.schedules import Schedule


class Inpaint:
    """An after-step hook that puts the known pixels back, noised as the time asks.

    At t = 0 there is no noise: known pixels end exactly as they were.

    Args:
        schedule: of the denoiser.
        x: the image, (B, C, H, W), or (1, C, H, W) for all.
        mask: True where the image is painted anew, broadcast against x.
        noise: draws noise like the images; standard normal if None.
    """

    def __init__(
        self, schedule: Schedule, x: Tensor, mask: Tensor, noise: Callable[[], Tensor] | None = None
    ):
        self.schedule = schedule
        self.x = x
        self.mask = mask
        self.noise = noise

    def __call__(self, x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
        noise = torch.randn_like(x_s) if self.noise is None else self.noise()
        known = self.schedule.noised(self.x.to(x_s).expand_as(x_s), noise, s)
        return torch.where(self.mask.to(x_s.device), x_s, known)


def resampled(times: Tensor, times_over: int) -> Tensor:
    """The same times, each step but the last taken so often, going back up between (algorithm 1).

    New pixels then come to fit the known ones: each time over they see them again.
    """
    steps = list(pairwise(times))[:-1]
    repeated = [time for t, s in steps for time in [t, s] * (times_over - 1) + [t]]
    return torch.stack([*repeated, *times[-2:]])
