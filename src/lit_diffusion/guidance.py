"""Classifier-free guidance (Ho and Salimans 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError, check_number, is_number
from lit_diffusion.denoiser import Combinator
from lit_diffusion.predictions import Estimate


class Guided(Combinator):
    """eps = eps_uncond + scale * (eps_cond - eps_uncond), and x likewise.

    scale 1 equals the conditional denoiser and scale 0 the unconditional one, each at one network
    evaluation; any other scale costs two. The paper's w is scale - 1: it writes
    (1 + w) eps_cond - w eps_uncond.

    Args:
        denoiser: one whose network knows labels.
        scale: how far to go from the unconditional estimate towards, and past, the conditional.
        interval: (low, high): at times t outside, the scale is 1, at one evaluation
            (Kynkaanniemi et al. 2024).
        rescale: 0 to 1: how far to take the contrast of each estimate of x, its standard deviation
            about its mean, back to that of the conditional one, which a scale above 1 exceeds (Lin et
            al. 2024, section 3.4, who rescale the network's output about zero).

    Raises:
        ConfigError: the network was trained without labels, or a value outside its range.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scale: float,
        interval: Sequence[float] = (0.0, 1.0),
        rescale: float = 0.0,
    ):
        super().__init__(denoiser)
        check_guidance(scale, interval, rescale)
        if not denoiser.conditional:
            raise ConfigError(
                f"guidance is {scale:g}, its interval {interval} and its rescale {rescale}, but this model "
                "was trained without labels: leave guidance out, or train one with model.num_classes=10"
            )
        self.scale = scale
        self.low, self.high = as_interval(interval)
        self.rescale = rescale

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Estimate:
        inside = (t >= self.low) & (t <= self.high)
        if self.scale == 1 or not inside.any():
            return self.denoiser(x_t, t, y)
        if self.scale == 0 and inside.all():
            return self.denoiser(x_t, t, self.null(y))
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, self.null(y)]))
        cond, uncond = both.halves()
        scale = (1 + (self.scale - 1) * inside.to(x_t)).reshape(-1, *[1] * (x_t.ndim - 1))
        guided = cond.combined(uncond, lambda c, u: u + scale * (c - u))
        return self._rescaled(guided, cond, x_t, t) if self.rescale and self.scale > 1 else guided

    def _rescaled(self, guided: Estimate, cond: Estimate, x_t: Tensor, t: Tensor) -> Estimate:
        """The guided x at a contrast nearer to the conditional one's, and the eps that goes with it."""
        dims = tuple(range(1, x_t.ndim))
        mean, std = guided.x.mean(dims, keepdim=True), guided.x.std(dims, keepdim=True)
        ratio = cond.x.std(dims, keepdim=True) / std.clamp(min=1e-6)
        x = mean + (guided.x - mean) * (self.rescale * ratio + 1 - self.rescale)
        return self.through(x, x_t, t, guided.spread)


def guide(denoiser: nn.Module, scale: float, interval: Sequence[float], rescale: float) -> nn.Module:
    """The denoiser, guided if any of this asks for it."""
    if scale == 1 and as_interval(interval) == (0, 1) and rescale == 0:
        return denoiser
    return Guided(denoiser, scale, interval, rescale)


def unconditional(scale: float, interval: Sequence[float]) -> bool:
    """Whether the condition says nothing anywhere."""
    return scale == 0 and as_interval(interval) == (0, 1)


def check_guidance(scale: object, interval: object, rescale: object) -> None:
    """ConfigError for a value that guides no model."""
    if not is_number(scale):
        raise ConfigError(f"guidance is {scale}: choose a number, 1 for none")
    check_number("guidance_rescale", rescale, least=0, most=1)
    as_interval(interval)


def as_interval(value: object) -> tuple[float, float]:
    """(low, high), or ConfigError unless value is two such times."""
    try:
        low, high = value
        if 0 <= low <= high <= 1:
            return low, high
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"guidance_interval is {value}: choose two times t, 0 <= low <= high <= 1")
