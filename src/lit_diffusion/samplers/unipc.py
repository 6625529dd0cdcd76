"""UniPC: a predictor that every evaluation corrects."""

import torch
from torch import Tensor

from lit_diffusion.samplers.base import Clip
from lit_diffusion.samplers.dpmpp import DPMpp2M


class UniPC(DPMpp2M):
    """DPM-Solver++ (2M), each x_t corrected by the estimate made there (Zhao et al. 2023, UniPC-2, B_2(h)).

    The step that led from u to t took x for a constant or a line in log-SNR. With the estimate at t a
    line or a parabola goes through what is known, and x_t moves by the difference of the two. The
    estimate isn't made again: one evaluation a step, as without.

    Args:
        steps: number of steps.
        clip, grid: as in ``Sampler``.
    """

    def __init__(self, steps: int = 10, clip: Clip = False, grid: str = "uniform"):
        super().__init__(steps, clip, grid)

    def step(self, x_t, t, s, history, denoiser, noise):
        if len(history) > 1:
            x_t = x_t + self._correction(t, history, denoiser.schedule)
        return super().step(x_t, t, s, history, denoiser, noise)

    def _correction(self, t, history, schedule) -> Tensor:
        """(B, C, H, W): what a better interpolation adds to x_t."""
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
