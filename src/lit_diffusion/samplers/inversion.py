"""From images back to the noise that a deterministic sampler would make them of."""

from itertools import pairwise

import torch
from torch import Tensor

from lit_diffusion.denoiser import Denoiser


@torch.no_grad()
def inverted(denoiser: Denoiser, x: Tensor, times: Tensor) -> Tensor:
    """Return x_t at the first of the times, from which the flow's ODE leads to images x.

    DDIM's inversion (Song et al. 2021, section 5.4) by Heun's method, for dx_t = x dalpha + eps dsigma.

    Args:
        denoiser: with its condition, ``Labelled``.
        x: images, (B, C, H, W).
        times: decreasing, 0 last, as a sampler's grid.
    """
    schedule, x_t = denoiser.schedule, x
    for s, t in pairwise(times.flip(0)):
        d_alpha, d_sigma = schedule.alpha(t) - schedule.alpha(s), schedule.sigma(t) - schedule.sigma(s)
        x_s, eps_s, _ = denoiser(x_t, s.expand(len(x)))
        ahead = x_t + d_alpha * x_s + d_sigma * eps_s
        x_end, eps_end, _ = denoiser(ahead, t.expand(len(x)))
        x_t = x_t + d_alpha * (x_s + x_end) / 2 + d_sigma * (eps_s + eps_end) / 2
    return x_t
