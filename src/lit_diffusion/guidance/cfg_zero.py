"""CFG-Zero*."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number
from lit_diffusion.common.tensors import dot, per_image
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.guidance.base import Guidance, Guided
from lit_diffusion.predictions import Estimate, Velocity
from lit_diffusion.schedules import Flow


class CFGZeroGuided(Guided):
    """Scales the unconditional direction before guidance, and stands still at first (Fan et al. 2025)."""

    guidance: "CFGZero"

    def __init__(self, denoiser: Denoiser, guidance: "CFGZero"):
        super().__init__(denoiser, guidance)
        if guidance.still:
            self.holds = True
            if not isinstance(denoiser.schedule, Flow):
                raise ConfigError(
                    f"guidance.still is {guidance.still}, but the model's schedule is no flow, on which "
                    "standing still is defined: choose 0"
                )

    def _combined(self, better: Estimate, worse: Estimate, x_t: Tensor, t: Tensor) -> Estimate:
        cond, uncond = (estimate.eps - estimate.x for estimate in (better, worse))
        nearest = dot(cond, uncond) / dot(uncond, uncond).clamp(min=1e-12) * uncond
        velocity = nearest + self.guidance.scale * (cond - nearest)
        velocity = torch.where(per_image(t > 1 - self.guidance.still, x_t), 0, velocity)
        alpha, sigma = self.schedule.alpha_sigma(self.schedule.inside(t), x_t)
        x, eps, _ = Velocity().estimate(velocity, x_t, alpha, sigma)
        return Estimate(x, eps, better.var_weight)


@dataclass(frozen=True)
class CFGZero(Guidance):
    """CFG-Zero*: guidance from s v_uncond, s being the best multiple of it to reach v_cond.

    The scaling is section 4.1 of Fan et al. 2025; standing still at first is section 4.2, without which this
    is half of the method. The direction v is eps - x, which on the flow schedule is the velocity that the
    paper is about.

    Attributes:
        still: share of the path, from noise on, on which v is 0: all of each step that begins there. The
            authors' code advises about 4 % of the steps. On the flow schedule x_t then stays where it is by
            ddim, unclipped. Other samplers would go on from what was held.
    """

    still: float = 0.0

    method: ClassVar[str] = "cfg_zero"
    guided: ClassVar[type[Guided]] = CFGZeroGuided
    ends_at_0: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("guidance.still", self.still, least=0, most=0.5)
        if self.still and self.interval[1] < 1:
            raise ConfigError(
                f"guidance.still is {self.still}, but guidance.interval is {list(self.interval)}, which "
                "leaves out the first part of the path: add guidance.interval=[0,1]"
            )
        if self.still and self.rescale:
            raise ConfigError(
                f"guidance.still is {self.still} and guidance.rescale {self.rescale}, which would move "
                "what is to stand still: choose 0 for one of them"
            )

    @property
    def acts_at_1(self) -> bool:
        return self.still > 0
