"""UniPC: a predictor that every evaluation corrects."""

import torch
from torch import Tensor

from lit_diffusion.denoiser import Labelled
from lit_diffusion.samplers.base import Clip, History, Noise
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.schedules import Schedule


class UniPC(DPMpp2M):
    """DPM-Solver++ (2M), each x_t corrected by the estimate made there (Zhao et al. 2023, UniPC-2, B_2(h)).

    The step from u to t took x to be constant or linear in log-SNR. With the estimate at t, a line or a
    parabola interpolates what is known, and x_t moves by the difference of the two. The estimate isn't
    made again: one evaluation a step, as without the correction.

    Args:
        steps: number of steps.
        clip, grid: as in ``Sampler``.
    """

    def __init__(self, steps: int, clip: Clip, grid: str = "uniform"):
        super().__init__(steps, clip, grid)

    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, history: History, denoiser: Labelled, noise: Noise
    ) -> Tensor:
        if len(history) > 1:
            x_t = x_t + self._correction(t, history, denoiser.schedule)
        return super().step(x_t, t, s, history, denoiser, noise)

    def _correction(self, t: Tensor, history: History, schedule: Schedule) -> Tensor:
        """Return what a better interpolation adds to x_t, (B, C, H, W)."""
        *before, last, now = history
        h = (schedule.log_snr(t) - schedule.log_snr(last.t)) / 2
        weight = schedule.alpha(t) * -torch.expm1(-h)  # of x in a step from u to t
        change = now.estimate.x - last.estimate.x
        if not before:
            return weight * change / 2
        r = (schedule.log_snr(last.t) - schedule.log_snr(before[0].t)) / (2 * h)
        slope = (last.estimate.x - before[0].estimate.x) / r
        b1 = -1 / h - 1 / torch.expm1(-h)
        b2 = 2 * (b1 / -h - 1 / (2 * torch.expm1(-h)))
        a = (b1 - b2) / (1 + r)  # a and b1 - a: the paper's weights, for which a parabola in log-SNR is exact
        return weight * ((a - 0.5) * slope + (b1 - a) * change)
