"""Classifier-free guidance (Ho and Salimans 2022)."""

import torch
from torch import Tensor, nn

from lit_diffusion.denoiser import Combinator
from lit_diffusion.errors import ConfigError
from lit_diffusion.predictions import Estimate


class Guided(Combinator):
    """eps = eps_uncond + scale * (eps_cond - eps_uncond), and x likewise.

    scale 1 equals the conditional denoiser and scale 0 the unconditional one, each at one network
    evaluation; any other scale costs two. The paper's w is scale - 1.

    Args:
        denoiser: one whose network knows labels.
        scale: how far to go from the unconditional estimate towards, and past, the conditional.

    Raises:
        ConfigError: the network was trained without labels.
    """

    def __init__(self, denoiser: nn.Module, scale: float):
        super().__init__(denoiser)
        if denoiser.num_classes == 0:
            raise ConfigError(
                f"guidance is {scale:g}, but this model was trained without labels: "
                "leave guidance out, or train one with model.num_classes=10"
            )
        self.scale = scale

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Estimate:
        if self.scale == 1:
            return self.denoiser(x_t, t, y)
        if self.scale == 0:
            return self.denoiser(x_t, t, self.null(y))
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, self.null(y)]))
        cond, uncond = zip(*(end.chunk(2) for end in both), strict=True)
        return Estimate(*(u + self.scale * (c - u) for c, u in zip(cond, uncond, strict=True)))
