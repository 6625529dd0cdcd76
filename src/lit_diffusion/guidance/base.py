"""Classifier-free guidance, and what all methods have in common: settings, and a denoiser made of two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_number, is_number
from lit_diffusion.common.tensors import per_image
from lit_diffusion.denoiser import Combinator, Denoiser
from lit_diffusion.predictions import Estimate


class Guided(Combinator):
    """Classifier-free guidance (Ho and Salimans 2022): eps = eps_uncond + scale (eps_cond - eps_uncond).

    x likewise. Scale 1 equals the conditional denoiser and scale 0 the unconditional one, each at one network
    evaluation; any other scale costs two. The paper's w is scale - 1: it writes
    (1 + w) eps_cond - w eps_uncond.

    Args:
        denoiser: one that takes a condition.
        guidance: scale, interval, rescale, and what a method has besides.

    Raises:
        ConfigError: the denoiser takes no condition.
    """

    def __init__(self, denoiser: Denoiser, guidance: "Guidance"):
        super().__init__(denoiser)
        self.guidance = guidance
        if not denoiser.conditional and not guidance.without_labels:
            settings = ", ".join(f"guidance.{key} is {value}" for key, value in vars(guidance).items())
            raise ConfigError(
                f"{settings}, but this model has no labels: leave guidance out, or train one with "
                "model.num_classes=10"
            )

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        scale, (low, high) = self.guidance.scale, self.guidance.interval
        inside = (t >= low) & (t <= high)
        if not inside.any() or (scale == 1 and not self.guidance.acts_at_1):
            return self.denoiser(x_t, t, y)
        if scale == 0 and inside.all() and self.guidance.ends_at_0:
            return self._worse(x_t, t, y)
        better, worse = self._both(x_t, t, y)
        guided = self._combined(better, worse, x_t, t)
        if self.guidance.rescale and scale > 1:
            guided = self._rescaled(guided, better, x_t, t)
        inside = per_image(inside, x_t)
        return guided.combined(better, lambda g, b: torch.where(inside, g, b))

    def _both(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> tuple[Estimate, Estimate]:
        """Return the conditional and the unconditional estimate."""
        y, null = self._conditions(y)
        return self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, null])).halves()

    def _worse(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> Estimate:
        return self.denoiser(x_t, t, self._conditions(y)[1])

    def _conditions(self, y: Tensor | None) -> tuple[Tensor, Tensor]:
        if y is None:
            raise ValueError("guidance needs conditions y, but they are None")
        return y, self.null(y)

    def _combined(self, better: Estimate, worse: Estimate, x_t: Tensor, t: Tensor) -> Estimate:
        """Return the guided estimate, as if the scale were the same for all images."""
        return better.combined(worse, lambda b, w: w + self.guidance.scale * (b - w))

    def _rescaled(self, guided: Estimate, better: Estimate, x_t: Tensor, t: Tensor) -> Estimate:
        """Return the guided estimate with the contrast of x nearer to the better one's."""
        dims = tuple(range(1, x_t.ndim))
        mean, std = guided.x.mean(dims, keepdim=True), guided.x.std(dims, keepdim=True)
        ratio = better.x.std(dims, keepdim=True) / std.clamp(min=1e-6)
        rescale = self.guidance.rescale
        x = mean + (guided.x - mean) * (rescale * ratio + 1 - rescale)
        return self.from_x(x, x_t, t, guided.var_weight)


@dataclass(frozen=True)
class Guidance:
    """How far to guide, and when; the default is not at all.

    Attributes:
        scale: how far to go from the unconditional estimate towards, and past, the conditional one; 0 is the
            unconditional one, 1 the conditional one.
        interval: (low, high): at times t outside, the estimate is the conditional one (Kynkaanniemi et al.
            2024, equation 6).
        rescale: 0 to 1: how far to take the contrast of each estimate of x, its standard deviation about
            its mean, back to that of the conditional one, which a scale above 1 exceeds (Lin et al. 2024,
            section 3.4, who rescale the network's output about zero).

    Raises:
        ConfigError: a value outside its range.
    """

    scale: float = 1.0
    interval: Sequence[float] = (0.0, 1.0)
    rescale: float = 0.0

    method: ClassVar[str] = "cfg"
    guided: ClassVar[type[Guided]] = Guided
    ends_at_0: ClassVar[bool] = True  # whether scale 0 is the worse one
    scale_means: ClassVar[str] = "cfg"  # methods with the same one have the same scale and interval
    places: ClassVar[tuple[str, ...]] = ()  # settings that are of a machine, and not of a model
    without_labels: ClassVar[bool] = False  # whether a model without labels can be guided
    methods: ClassVar[dict[str, type["Guidance"]]] = {}

    def __init_subclass__(cls) -> None:
        Guidance.methods[cls.method] = cls

    def __post_init__(self) -> None:
        if not is_number(self.scale):
            raise ConfigError(f"guidance.scale is {self.scale}: choose a number, 1 for no guidance")
        check_number("guidance.rescale", self.rescale, least=0, most=1)
        object.__setattr__(self, "interval", _interval(self.interval))

    @staticmethod
    def from_config(node: Any, own: Mapping[str, Any] | None = None) -> "Guidance":
        """Return the guidance of a config's node.

        Args:
            node: its method, one of ``Guidance.methods``, and the method's settings; null for what ``own``
                has, or else the default.
            own: the guidance of the run that trained the model; not taken if its scale means something else.

        Raises:
            ConfigError: the node isn't such a mapping, or a value is outside its range.
        """
        own = {key: value for key, value in (own or {}).items() if value is not None}
        given = node if isinstance(node, Mapping) else {}
        method = given.get("method") or own.get("method") or Guidance.method
        if not isinstance(method, str) or method not in Guidance.methods:
            raise ConfigError(f"guidance.method is {method}: choose one of {', '.join(Guidance.methods)}")
        kind = Guidance.methods[method]
        keys = [field.name for field in fields(kind)]
        if not isinstance(node, Mapping) or not {*node} <= {*keys, "method"}:
            raise ConfigError(
                f"guidance is {node}: give its keys, {', '.join(keys)}, such as guidance.scale=2"
            )
        before = Guidance.methods.get(str(own.get("method", Guidance.method)), Guidance)
        inherits = before.scale_means == kind.scale_means
        inherited = {key: value for key, value in own.items() if inherits and key not in kind.places}
        settings = {**inherited, **{key: value for key, value in given.items() if value is not None}}
        return kind(**{key: settings[key] for key in keys if key in settings})

    @property
    def acts_at_1(self) -> bool:
        """Whether scale 1 isn't the better estimate itself."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """All that the guided estimates depend on, by name."""
        return {"method": self.method, **vars(self)}

    @property
    def unconditional(self) -> bool:
        """Whether the condition has no effect at any time."""
        return self.scale == 0 and self.interval == (0, 1) and self.ends_at_0 and not self.without_labels

    def check_dropout(self, label_dropout: float | None) -> None:
        """Raise ConfigError if this uses the null label, and training dropped none; None: not known."""
        uses_null = (self.scale != 1 or self.acts_at_1) and not self.without_labels
        if uses_null and label_dropout == 0:
            raise ConfigError(
                f"module.label_dropout is 0, but guidance.scale is {self.scale:g}, which needs a model that "
                "has learnt the null label: train with module.label_dropout=0.1, or choose guidance=cfg "
                "guidance.scale=1"
            )

    def applied(self, denoiser: Denoiser, worse: Denoiser | None = None) -> Denoiser:
        """Return the denoiser, guided; itself where this is the default.

        Args:
            denoiser: the one to guide.
            worse: the one that ``AutoGuidance`` goes away from; None for none.
        """
        return denoiser if self == Guidance() else self.guided(denoiser, self)


Guidance.methods[Guidance.method] = Guidance


def _interval(value: Any) -> tuple[float, float]:
    """Return (low, high); ConfigError unless value is two such times."""
    try:
        low, high = value
        if is_number(low) and is_number(high) and 0 <= low <= high <= 1:
            return low, high
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"guidance.interval is {value}: choose two times t, 0 <= low <= high <= 1")
