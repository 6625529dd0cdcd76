"""Adaptive projected guidance."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from lit_diffusion.common.errors import check_number
from lit_diffusion.common.tensors import dot, per_image
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.guidance.base import Guidance, Guided
from lit_diffusion.predictions import Estimate


class APGGuided(Guided):
    """Goes along the part of the difference that doesn't just strengthen the image."""

    guidance: "APG"

    def __init__(self, denoiser: Denoiser, guidance: "APG"):
        super().__init__(denoiser, guidance)
        self.remembers = guidance.momentum != 0
        self._before: Tensor | None = None  # the average difference of the time before this one
        self._now: tuple[Tensor, Tensor] | None = None  # this time, and the average with its own difference

    def _combined(self, better: Estimate, worse: Estimate, x_t: Tensor, t: Tensor) -> Estimate:
        difference = self._averaged(better.x - worse.x, t)
        if self.guidance.norm is not None:
            norm = per_image(difference.flatten(1).norm(dim=1), difference)
            difference = difference * (self.guidance.norm / norm.clamp(min=1e-12)).clamp(max=1)
        direction = F.normalize(better.x.flatten(1), dim=1).reshape(x_t.shape)
        parallel = dot(difference, direction) * direction
        kept = difference - (1 - self.guidance.parallel) * parallel
        return self.from_x(better.x + (self.guidance.scale - 1) * kept, x_t, t, better.var_weight)

    def _averaged(self, difference: Tensor, t: Tensor) -> Tensor:
        """Return the difference, with the earlier ones of this walk times the momentum."""
        if self._now is None or self._now[1].shape != difference.shape or t.max() > self._now[0].max():
            self._before = None  # another walk begins
        elif t.max() < self._now[0].max():
            self._before = self._now[1]
        average = difference if self._before is None else difference + self.guidance.momentum * self._before
        self._now = t, average.detach()
        return average


@dataclass(frozen=True)
class APG(Guidance):
    """Adaptive projected guidance: large scales without glaring colours (Sadat et al. 2025, algorithm 1).

    Attributes:
        parallel: how much remains of the difference along the conditional estimate of x, the paper's eta.
        norm: the largest length of a difference, over all pixels of an image; None: any.
        momentum: of a difference, for the following ones; below 0, each is less of what the last ones were.
    """

    parallel: float = 0.0
    norm: float | None = None
    momentum: float = -0.5

    method: ClassVar[str] = "apg"
    guided: ClassVar[type[Guided]] = APGGuided
    ends_at_0: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("guidance.parallel", self.parallel, least=0, most=1)
        check_number("guidance.momentum", self.momentum, least=-0.99, most=0.99)
        if self.norm is not None:
            check_number("guidance.norm", self.norm, least=1e-6, most=1e6)
