"""CFG-Zero*."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_diffusion.common.errors import check_number
from lit_diffusion.common.tensors import per_image
from lit_diffusion.guidance.base import Guidance, Guided
from lit_diffusion.predictions import Estimate, Velocity


class ZeroGuided(Guided):
    """Scales the unconditional direction before guidance, and stands still at first (Fan et al. 2025)."""

    guidance: "ZeroGuidance"

    def _combined(self, better: Estimate, worse: Estimate, x_t: Tensor, t: Tensor) -> Estimate:
        cond, uncond = (estimate.eps - estimate.x for estimate in (better, worse))
        dot, square = ((a * uncond).flatten(1).sum(1) for a in (cond, uncond))
        nearest = per_image(dot / square.clamp(min=1e-12), x_t) * uncond
        velocity = nearest + self.guidance.scale * (cond - nearest)
        velocity = torch.where(per_image(t > 1 - self.guidance.still, x_t), 0, velocity)
        alpha, sigma = self.schedule.alpha_sigma(self.schedule.inside(t), x_t)
        x, eps, _ = Velocity().estimate(velocity, x_t, alpha, sigma)
        return Estimate(x, eps, better.var_weight)


@dataclass(frozen=True)
class ZeroGuidance(Guidance):
    """CFG-Zero* (Fan et al. 2025): guidance from s v_uncond, s being the best multiple of it to reach v_cond.

    The direction v is eps - x, which on the flow schedule is the velocity that the paper is about.

    Attributes:
        still: share of the path, from noise on, on which v is 0.
    """

    still: float = 0.04

    method: ClassVar[str] = "cfg_zero"
    guided: ClassVar[type[Guided]] = ZeroGuided
    acts_at_1: ClassVar[bool] = True
    ends_at_0: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("guidance.still", self.still, least=0, most=0.5)
