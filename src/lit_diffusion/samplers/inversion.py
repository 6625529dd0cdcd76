"""From images back to the noise that a deterministic sampler would make them of."""

from itertools import pairwise

import torch
from torch import Tensor

from lit_diffusion.denoiser import Denoiser
from lit_diffusion.samplers.heun import trapezoid


@torch.no_grad()
def inverted(denoiser: Denoiser, x: Tensor, times: Tensor) -> Tensor:
    """Return x_t at the first of the times, from which the flow's ODE leads to images x.

    DDIM's inversion (Song et al. 2021, section 5.4) by Heun's method, upwards from t_min: at 0 there is no
    noise to estimate. A clean image has none at t_min either, so that the noise found has less spread than 1.

    Args:
        denoiser: with its condition, ``Labelled``, not clipped: a clipped x moves eps, which is divided by
            sigma.
        x: images, (B, C, H, W).
        times: decreasing, 0 last, as a sampler's grid.

    Raises:
        ConfigError: the estimates define no ODE.
    """
    denoiser.check_ode("edit invert")
    schedule, low = denoiser.schedule, times[-1:].clamp(min=denoiser.schedule.t_min)
    above = times[times > low * (1 + 1e-9)]  # many grids have t_min, rounded, before 0
    up = torch.cat([low, above.flip(0)])
    x = (schedule.alpha(up[0]) / schedule.alpha(times[-1])).to(x) * x
    for s, t in pairwise(up):
        x = trapezoid(denoiser, denoiser(x, s.expand(len(x))), x, s, t)
    return x
