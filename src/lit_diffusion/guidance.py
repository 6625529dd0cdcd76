"""Classifier-free guidance (Ho and Salimans 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number, is_number
from lit_diffusion.common.tensors import per_image
from lit_diffusion.denoiser import Combinator, Denoiser
from lit_diffusion.predictions import Estimate


@dataclass(frozen=True)
class Guidance:
    """How far to guide, and when; the default is not at all.

    Attributes:
        scale: how far to go from the unconditional estimate towards, and past, the conditional one; 0 is the
            unconditional one, 1 the conditional one.
        interval: (low, high): at times t outside, the scale is 1 (Kynkaanniemi et al. 2024).
        rescale: 0 to 1: how far to take the contrast of each estimate of x, its standard deviation about
            its mean, back to that of the conditional one, which a scale above 1 exceeds (Lin et al. 2024,
            section 3.4, who rescale the network's output about zero).

    Raises:
        ConfigError: a value outside its range.
    """

    scale: float = 1.0
    interval: Sequence[float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.scale):
            raise ConfigError(f"guidance.scale is {self.scale}: choose a number, 1 for no guidance")
        check_number("guidance.rescale", self.rescale, least=0, most=1)
        object.__setattr__(self, "interval", _interval(self.interval))

    @classmethod
    def from_config(cls, node: Any, own: Mapping[str, Any] | None = None) -> Self:
        """Return the guidance of a config's node.

        Args:
            node: scale, interval and rescale; null for what ``own`` has, or else the default.
            own: the guidance of the run that trained the model.

        Raises:
            ConfigError: the node isn't such a mapping, or a value is outside its range.
        """
        keys = [field.name for field in fields(cls)]
        if not isinstance(node, Mapping) or not {*node} <= {*keys}:
            raise ConfigError(
                f"guidance is {node}: give its keys, {', '.join(keys)}, such as guidance.scale=2"
            )
        return cls(**{**(own or {}), **{key: value for key, value in node.items() if value is not None}})

    @property
    def unconditional(self) -> bool:
        """Whether the condition has no effect at any time."""
        return self.scale == 0 and self.interval == (0, 1)

    def applied(self, denoiser: Denoiser) -> Denoiser:
        """Return the denoiser, guided; itself where this is the default."""
        return denoiser if self == Guidance() else Guided(denoiser, self)


def _interval(value: Any) -> tuple[float, float]:
    """Return (low, high); ConfigError unless value is two such times."""
    try:
        low, high = value
        if is_number(low) and is_number(high) and 0 <= low <= high <= 1:
            return low, high
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"guidance.interval is {value}: choose two times t, 0 <= low <= high <= 1")


class Guided(Combinator):
    """eps = eps_uncond + scale * (eps_cond - eps_uncond), and x likewise.

    scale 1 equals the conditional denoiser and scale 0 the unconditional one, each at one network
    evaluation; any other scale costs two. The paper's w is scale - 1: it writes
    (1 + w) eps_cond - w eps_uncond.

    Args:
        denoiser: one that takes a condition.
        guidance: scale, interval and rescale.

    Raises:
        ConfigError: the denoiser takes no condition.
    """

    def __init__(self, denoiser: Denoiser, guidance: Guidance):
        super().__init__(denoiser)
        if not denoiser.conditional:
            raise ConfigError(
                f"guidance.scale is {guidance.scale}, guidance.interval {list(guidance.interval)} and "
                f"guidance.rescale {guidance.rescale}, but this model has no labels: leave guidance out, or "
                "train one with model.num_classes=10"
            )
        self.guidance = guidance

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        if y is None:
            raise ValueError("guidance needs conditions y, but they are None")
        scale, (low, high) = self.guidance.scale, self.guidance.interval
        inside = (t >= low) & (t <= high)
        if scale == 1 or not inside.any():
            return self.denoiser(x_t, t, y)
        if scale == 0 and inside.all():
            return self.denoiser(x_t, t, self.null(y))
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, self.null(y)]))
        cond, uncond = both.halves()
        scales = per_image(1 + (scale - 1) * inside.to(x_t), x_t)
        guided = cond.combined(uncond, lambda c, u: u + scales * (c - u))
        return self._rescaled(guided, cond, x_t, t) if self.guidance.rescale and scale > 1 else guided

    def _rescaled(self, guided: Estimate, cond: Estimate, x_t: Tensor, t: Tensor) -> Estimate:
        """Return the guided estimate with the contrast of x nearer to the conditional one's."""
        dims = tuple(range(1, x_t.ndim))
        mean, std = guided.x.mean(dims, keepdim=True), guided.x.std(dims, keepdim=True)
        ratio = cond.x.std(dims, keepdim=True) / std.clamp(min=1e-6)
        rescale = self.guidance.rescale
        x = mean + (guided.x - mean) * (rescale * ratio + 1 - rescale)
        return self.from_x(x, x_t, t, guided.var_weight)
