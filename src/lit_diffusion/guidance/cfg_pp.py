"""CFG++."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number
from lit_diffusion.guidance.base import Guidance, Guided
from lit_diffusion.predictions import Estimate


class CFGPlusPlusGuided(Guided):
    """Guides the estimate of x alone, and goes on with the unconditional noise (Chung et al. 2025, CFG++)."""

    meets = False

    def _combined(self, better: Estimate, worse: Estimate, x_t: Tensor, t: Tensor) -> Estimate:
        x = worse.x + self.guidance.scale * (better.x - worse.x)
        return Estimate(x, worse.eps, better.var_weight)


@dataclass(frozen=True)
class CFGPlusPlus(Guidance):
    """CFG++ (Chung et al. 2025, section 3): the scale is the paper's lambda, from 0 to 1.

    Its x and eps don't meet in x_t, so that it needs a sampler that takes each by itself: ddim, unclipped.
    """

    method: ClassVar[str] = "cfg_pp"
    guided: ClassVar[type[Guided]] = CFGPlusPlusGuided
    scale_means: ClassVar[str] = "cfg_pp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rescale:
            raise ConfigError(f"guidance.rescale is {self.rescale}, but method cfg_pp has none: choose 0")
        check_number("guidance.scale", self.scale, least=0, most=1)

    @property
    def acts_at_1(self) -> bool:  # the noise is the unconditional one's
        return True
