"""Autoguidance."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.guidance.base import Guidance, Guided
from lit_diffusion.predictions import Estimate


class AutoGuided(Guided):
    """Goes away from what a worse model estimates, under the same condition.

    Args:
        denoiser: the model.
        guidance: its scale and interval.
        worse: the worse model, on the same path.
    """

    def __init__(self, denoiser: Denoiser, guidance: Guidance, worse: Denoiser):
        super().__init__(denoiser, guidance)
        self.worse = worse

    def _both(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> tuple[Estimate, Estimate]:
        return self.denoiser(x_t, t, y), self.worse(x_t, t, y)

    def _worse(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> Estimate:
        return self.worse(x_t, t, y)


@dataclass(frozen=True)
class AutoGuidance(Guidance):
    """Autoguidance: x = x_worse + scale (x - x_worse) (Karras et al. 2024b, equation 3), also without labels.

    Attributes:
        bad: path of the worse model's checkpoint: of the same data, with less training or fewer parameters.
        bad_ema: length of its weights' average, as ``averages`` has it; None: its own average.
        bad_step: of an earlier average of this length; None: the last one.

    Raises:
        ConfigError: a step without a length.
    """

    bad: str | None = None
    bad_ema: float | None = None
    bad_step: int | None = None

    method: ClassVar[str] = "autoguidance"
    without_labels: ClassVar[bool] = True
    scale_means: ClassVar[str] = "autoguidance"
    places: ClassVar[tuple[str, ...]] = ("bad", "bad_ema", "bad_step")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bad_step is not None and self.bad_ema is None:
            raise ConfigError(
                f"guidance.bad_step is {self.bad_step}, the step of an average whose length guidance.bad_ema "
                "says: give guidance.bad_ema=0.1 too, or leave bad_step out"
            )

    def applied(self, denoiser: Denoiser, worse: Denoiser | None = None) -> Denoiser:
        if worse is None:
            raise ConfigError(
                "guidance.method is autoguidance, which needs a worse model, of less training or fewer "
                "parameters: give guidance.bad=PATH, its checkpoint, when sampling"
            )
        return AutoGuided(denoiser, self, worse)
