"""Editing by sampling: what starts the walk elsewhere, or changes it on the way.

Image-to-image needs nothing of its own (Meng et al. 2022, SDEdit): the walk starts from a noised image.

    times = sampler.times(denoiser.schedule)[10:]
    x_t = denoiser.schedule.noised(x, torch.randn_like(x), times[0])
    edited = sampler(denoiser, x_t, y, times=times)

Inpainting is a hook:

    keep = Inpaint(denoiser.schedule, x, mask)
    filled = sampler(denoiser, torch.randn_like(x), y, after_step=keep)

and noises to walk from can lie between two others:

    x_t = slerp(noise[:1], noise[1:2], torch.linspace(0, 1, 8))
    between = sampler(denoiser, x_t, y)
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from lit_diffusion.samplers.base import Visit
from lit_diffusion.schedules import Schedule


class Inpaint:
    """An after-step hook that puts known pixels back, noised as the time asks (Lugmayr et al. 2022, RePaint).

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
        return torch.where(self.mask, x_s, self.schedule.noised(self.x.expand_as(x_s), noise, s))


def resampled(times: Tensor, times_over: int) -> Tensor:
    """The same times, each step but the last taken so often, going back up between (RePaint, algorithm 1).

    New pixels then come to fit the known ones: each time over they see them again.
    """
    steps = list(pairwise(times))[:-1]
    repeated = [time for t, s in steps for time in [t, s] * (times_over - 1) + [t]]
    return torch.stack([*repeated, *times[-2:]])


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """From noise a to noise b along the sphere, so that all between are as long (Shoemake 1985).

    Args:
        a, b: noises, (B, C, H, W) or (1, C, H, W).
        weight: of b, (B,) in [0, 1].

    Returns:
        (B, C, H, W).
    """
    cosine = torch.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = cosine.acos().clamp(min=1e-6)
    shares = torch.stack([(1 - weight) * angle, weight * angle]).sin() / angle.sin()
    wa, wb = shares.reshape(2, -1, *[1] * (a.ndim - 1))
    return wa * a + wb * b
