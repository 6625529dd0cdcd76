"""From images back to the noise that a deterministic sampler would make them of."""

from itertools import pairwise

import torch
from torch import Tensor

from lit_diffusion.denoiser import Denoiser
from lit_diffusion.samplers.heun import trapezoid


@torch.no_grad()
def inverted(denoiser: Denoiser, x: Tensor, times: Tensor) -> Tensor:
    """Return x_t at the first of the times, from which the flow's ODE leads to images x.

    DDIM's inversion (Song et al. 2021, section 5.4) by Heun's method, upwards.

    Args:
        denoiser: with its condition, ``Labelled``.
        x: images, (B, C, H, W).
        times: decreasing, 0 last, as a sampler's grid.
    """
    for s, t in pairwise(times.flip(0)):
        x = trapezoid(denoiser, denoiser(x, s.expand(len(x))), x, s, t)
    return x
