"""What happened on the way."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lit_diffusion.samplers.base import Visit


class Film:
    """An after-step hook that keeps (x_t, estimate of x) at the visits nearest to given times.

    A time visited more than once is kept once, the first time.

    Args:
        grid: the times the sampler visits.
        times: the times to keep; 0 is the end of the walk.

    Attributes:
        frames: (B, 2, C, H, W), x_t and x at each kept time.
        times: the kept times.
    """

    def __init__(self, grid: Tensor, times: Iterable[float]):
        self.wanted = {min(grid.tolist(), key=lambda visited: abs(visited - t)) for t in times}
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
            self.frames.append(torch.stack([x_t, x], dim=1).cpu())
