"""The sampling loop, written once."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_diffusion.denoiser import Clipped, Labelled
from lit_diffusion.errors import check_whole_number
from lit_diffusion.predictions import Estimate


class Visit(NamedTuple):
    """One time the sampler has visited, and what the denoiser said there."""

    t: Tensor
    x_t: Tensor
    estimate: Estimate


class Sampler(ABC):
    """Walks x_t from noise to an image along a grid of times.

    A sampler is its ``step``. Whatever changes the estimate (guidance, clipping, anagrams) is a
    denoiser around a denoiser; whatever changes x between steps (inpainting, films, progress bars) is an
    ``after_step`` hook.

    Args:
        steps: number of steps from noise to image.
        clip: keep each estimate of x inside [-1, 1].
    """

    def __init__(self, steps: int, clip: bool = False):
        check_whole_number("sampler.steps", steps, least=1)
        self.steps = steps
        self.clip = clip

    @abstractmethod
    def step(
        self,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        history: deque[Visit],
        denoiser: nn.Module,
        noise: Callable[[], Tensor],
    ) -> Tensor:
        """Go from x_t at time t to x_s at the earlier time s.

        Args:
            x_t: images at time t, (B, C, H, W).
            t, s: float64 scalars on the CPU, t > s >= 0.
            history: the visit at (x_t, t) comes last, the one before it first.
            denoiser: for its schedule, and for more estimates, ``denoiser(x, t)`` with t (B,).
            noise: draws fresh standard normal noise shaped like x_t.
        """

    @torch.no_grad()
    def __call__(
        self,
        denoiser: nn.Module,
        x_t: Tensor,
        y: Tensor | None = None,
        noise: Callable[[], Tensor] | None = None,
        times: Tensor | None = None,
        after_step: Callable[[Tensor, Tensor, Visit], Tensor] | None = None,
    ) -> Tensor:
        """Sample.

        Args:
            denoiser: (x_t, t, y) -> Estimate, with a schedule.
            x_t: where to start, (B, C, H, W): noise, if times start at 1.
            y: labels (B,), or None.
            noise: draws the noise that stochastic samplers add; standard normal if None.
            times: decreasing times to visit instead of the schedule's own grid.
            after_step: called as ``(x_s, s, visit)`` after each step, ``visit`` being the one the
                step came from; what it returns takes the place of x_s.

        Returns:
            The images at the last time, (B, C, H, W).
        """
        denoiser = Labelled(Clipped(denoiser) if self.clip else denoiser, y)
        times = denoiser.schedule.times(self.steps) if times is None else times
        noise = noise or (lambda: torch.randn_like(x_t))
        history: deque[Visit] = deque(maxlen=2)
        for t, s in pairwise(times):
            history.append(Visit(t, x_t, denoiser(x_t, t.expand(len(x_t)))))
            x_t = self.step(x_t, t, s, history, denoiser, noise)
            if after_step is not None:
                x_t = after_step(x_t, s, history[-1])
        return x_t
