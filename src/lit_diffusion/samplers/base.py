"""The sampling loop, written once."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.denoiser import Clipped, Denoiser, Labelled, Thresholded
from lit_diffusion.predictions import Estimate
from lit_diffusion.samplers import grids
from lit_diffusion.schedules import DiscreteSchedule, Schedule

Clip = bool | Sequence[float]
HISTORY = 3  # visits that a sampler can look back on
MOST_IMAGE = 0.07  # alpha / sigma at which sampling can begin as if it were noise alone


class Visit(NamedTuple):
    """One time the sampler has visited, and the denoiser's estimate there."""

    t: Tensor
    x_t: Tensor
    estimate: Estimate


History = Sequence[Visit]
Noise = Callable[[], Tensor]  # draws fresh standard normal noise shaped like x_t
AfterStep = Callable[[Tensor, Tensor, Visit], Tensor]  # (x_s, s, visit) -> what takes the place of x_s


class Sampler(ABC):
    """Takes x_t from noise to an image along a grid of times.

    A sampler is its ``step``. Whatever changes the estimate (guidance, clipping, anagrams) is a
    denoiser around a denoiser; whatever changes x between steps (inpainting, trajectories, progress bars)
    is an ``after_step`` hook, see ``samplers.hooks``.

    Args:
        steps: number of steps from noise to image.
        clip: keep each estimate of x inside [-1, 1]; (quantile, most): by ``Thresholded``.
        grid: how the times of the steps are spaced, one of ``grids.GRIDS``.

    Raises:
        ConfigError: a value outside its range.
    """

    def __init__(self, steps: int, clip: Clip, grid: str = "uniform"):
        check_whole_number("sampler.steps", steps, least=1, most=1_000_000)
        if grid not in grids.GRIDS:
            raise ConfigError(f"sampler.grid is {grid!r}: choose one of {', '.join(grids.GRIDS)}")
        check_clip(clip)
        self.steps = steps
        self.clip = clip
        self.grid = grid

    # Whether it takes x and eps to meet in x_t, and those of several times to be of one path.
    needs_meeting = True

    @property
    def stochastic(self) -> bool:
        """Whether its steps add noise."""
        return False

    def times(self, schedule: Schedule) -> Tensor:
        """Return the (steps + 1,) decreasing times, float64, that it visits: t_max first, 0 last.

        Raises:
            ConfigError: there are more steps than the schedule has.
        """
        return grids.spaced(self.grid, schedule, self.steps)

    def check(self, denoiser: Denoiser) -> None:
        """Raise ConfigError if this sampler can't work with the denoiser, or can't begin at pure noise."""
        if not denoiser.meets and (self.needs_meeting or self.clip is not False):
            raise ConfigError(
                f"sampler {type(self).__name__}, with sampler.clip {self.clip}, needs estimates of x and eps "
                "that meet in x_t, which this guidance doesn't give: choose sampler=ddim sampler.clip=false"
            )
        if denoiser.holds and (self.needs_meeting or self.stochastic or self.clip is not False):
            raise ConfigError(
                f"sampler {type(self).__name__}, with sampler.clip {self.clip}, moves what guidance.still "
                "is to hold, or goes on from it: choose sampler=ddim sampler.clip=false"
            )
        self.times(denoiser.schedule)
        schedule = denoiser.schedule
        t_max = torch.tensor(schedule.t_max, dtype=torch.float64)
        alpha, sigma = float(schedule.alpha(t_max)), float(schedule.sigma(t_max))
        if alpha > MOST_IMAGE * sigma:
            steps = ""
            if isinstance(schedule, DiscreteSchedule):
                steps = f"schedule.steps is {schedule.steps}, and "
            raise ConfigError(
                f"{steps}the schedule ends at alpha {alpha:.2g} and sigma {sigma:.2g}, where the image is "
                "still to be seen, but sampling begins at noise alone: choose more noise at its end"
            )

    @abstractmethod
    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, history: History, denoiser: Labelled, noise: Noise
    ) -> Tensor:
        """Go from x_t at time t to x_s at the earlier time s.

        Args:
            x_t: images at time t, (B, C, H, W).
            t, s: float64 scalars on the CPU, t > s >= 0.
            history: the latest visits, the one at (x_t, t) last.
            denoiser: for its schedule, and for more estimates, ``denoiser(x, t)`` with t (B,).
            noise: draws fresh standard normal noise shaped like x_t.
        """

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        y: Tensor | None = None,
        noise: Noise | None = None,
        times: Tensor | None = None,
        after_step: AfterStep | None = None,
    ) -> Tensor:
        """Sample.

        Args:
            denoiser: (x_t, t, y) -> Estimate.
            x_t: where to start, (B, C, H, W): ``schedule.pure_noise(eps)``, if times start at t_max.
            y: labels (B,), a text model's embeddings (B, L, D), or None.
            noise: draws the noise that stochastic samplers add; standard normal if None.
            times: times to visit instead of the sampler's own grid. Where they go up again, the noise
                of the path between is added (Lugmayr et al. 2022, RePaint, algorithm 1).
            after_step: called as ``(x_s, s, visit)`` after each step, ``visit`` being the one the
                step came from; what it returns takes the place of x_s.

        Returns:
            The images at the last time, (B, C, H, W).
        """
        denoiser = Labelled(self._clipped(denoiser), y)
        schedule = denoiser.schedule
        times = self.times(schedule) if times is None else times
        noise = noise or (lambda: torch.randn_like(x_t))
        history: deque[Visit] = deque(maxlen=HISTORY)
        for t, s in pairwise(times):
            if s > t:
                a, b = schedule.transition(t, s)
                x_t = a * x_t + b.sqrt() * noise()
                history.clear()
                continue
            history.append(Visit(t, x_t, denoiser(x_t, t.expand(len(x_t)))))
            x_t = self.step(x_t, t, s, history, denoiser, noise)
            if after_step is not None:
                x_t = after_step(x_t, s, history[-1])
        return x_t

    def _clipped(self, denoiser: Denoiser) -> Denoiser:
        if isinstance(self.clip, bool):
            return Clipped(denoiser) if self.clip else denoiser
        return Thresholded(denoiser, *self.clip)


def check_clip(clip: object) -> None:
    """Raise ConfigError unless clip is a switch, or a quantile and a limit."""
    if isinstance(clip, bool):
        return
    if isinstance(clip, Sequence) and len(clip) == 2:
        quantile, most = clip
        if isinstance(quantile, float) and isinstance(most, (int, float)) and 0 < quantile < 1 <= most:
            return
    raise ConfigError(
        f"sampler.clip is {clip}: choose true or false, or a quantile inside (0, 1) and a limit of 1 or "
        "more, such as [0.95, 1.5]"
    )
