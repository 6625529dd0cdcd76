"""Denoisers: (x_t, t, y) -> Estimate(x, eps), the abstract one, the one around a network, and wrappers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from typing import cast

import torch
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.precision import FULL, autocast
from lit_diffusion.common.tensors import per_image
from lit_diffusion.predictions import Estimate, Prediction
from lit_diffusion.schedules import Schedule

Condition = int | str | None  # a label, a prompt, or none


class Denoiser(nn.Module, ABC):
    """The best guess of the image and the noise in x_t.

    Args:
        schedule: alpha and sigma of the path.
        num_classes: labels that it knows; 0 for none.
        conditional: whether it takes a condition: labels, prompts or images.
        learns_variance: whether its estimates have a ``var_weight``.

    Attributes:
        meets: whether x and eps of its estimates meet in x_t, as all samplers but some expect.
        holds: whether it holds x_t where it is at some times, which clipping and fresh noise would undo.
        remembers: whether an estimate depends on earlier ones of its walk.
    """

    meets = True
    holds = False
    remembers = False

    __call__: Callable[..., Estimate]

    def __init__(self, schedule: Schedule, num_classes: int, conditional: bool, learns_variance: bool):
        super().__init__()
        self.schedule = schedule
        self.num_classes = num_classes
        self.conditional = conditional
        self.learns_variance = learns_variance

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        """Estimate both ends of the path through x_t.

        Args:
            x_t: noisy images, (B, C, H, W).
            t: their times in [0, 1], (B,).
            y: labels (B,) int64, the null label being num_classes, a text model's embeddings (B, L, D), or
                images (B, C', H, W); None for no condition.
        """

    @abstractmethod
    def encode(self, condition: Condition) -> Tensor | None:
        """Return y of one condition, (1, ...); None for a model that takes no condition.

        Raises:
            ConfigError: the model doesn't know the condition.
        """

    @abstractmethod
    def null(self, y: Tensor) -> Tensor:
        """Return conditions shaped like y that mean no condition."""

    def check_ode(self, use: str) -> None:
        """Raise ConfigError unless the estimates define an ODE, as a use needs.

        They depend on x_t and t alone, x and eps meet in x_t, and x_t is never held.
        """
        if not self.meets or self.holds:
            raise ConfigError(
                f"{use} needs estimates of x and eps that meet in x_t at every time, which this guidance "
                "doesn't give: choose guidance=cfg"
            )
        if self.remembers:
            raise ConfigError(
                f"{use} needs estimates that depend on x_t and t alone, but this guidance remembers earlier "
                "ones: choose guidance=apg guidance.momentum=0"
            )


class NetworkDenoiser(Denoiser):
    """A network with a schedule, which gives it the time, and a prediction, which says what it outputs.

    Args:
        network: ``network(x_t, time_input, y) -> tensor like x_t``; its ``num_classes`` is 0 for a
            network without labels, and its ``condition_channels``, if it has such, those of the images
            that condition it.
        schedule: alpha and sigma of the path.
        prediction: what the network's output means.

    Attributes:
        precision: 32-true, or bf16-mixed or 16-mixed, in which the network samples; a training's trainer
            has a precision of its own.

    Raises:
        ConfigError: the schedule reaches a time at which this prediction divides by 0, or the network takes
            both labels and images as conditions.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: Prediction):
        num_classes = cast(int, network.num_classes)
        condition_channels = cast(int, getattr(network, "condition_channels", 0))
        conditional = num_classes > 0 or condition_channels > 0
        super().__init__(schedule, num_classes, conditional, learns_variance=False)
        if num_classes and condition_channels:
            raise ConfigError(
                f"model.num_classes is {num_classes} and model.condition_channels {condition_channels}: a "
                "network takes labels or images as its condition; make one of them 0"
            )
        self.condition_channels = condition_channels
        self.network = network
        self.prediction = prediction
        self.precision = FULL
        self._check()

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        t = self.schedule.inside(t)
        alpha, sigma = self.schedule.alpha_sigma(t, x_t)
        output, *var_weight = self.output(x_t, t, y).split(x_t.shape[1], dim=1)  # some learn the variance too
        x, eps, _ = self.prediction.estimate(output, x_t, alpha, sigma)
        return Estimate(x, eps, *var_weight)

    def output(
        self, x_t: Tensor, t: Tensor, y: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Return the network's own output, which training compares with the prediction's target.

        Whatever precision the network runs in, the path's arithmetic stays in that of x_t. Only a network
        that is told how its training images were augmented is given ``augment``.
        """
        dtype = next(self.network.parameters(), x_t).dtype
        told = {} if augment is None else {"augment": augment}
        shown = self.prediction.shown(x_t, *self.schedule.alpha_sigma(t, x_t))
        with autocast(self.precision, x_t.device):
            return self.network(shown.to(dtype), self.schedule.time_input(t).to(x_t), y, **told).to(x_t)

    def encode(self, condition: Condition) -> Tensor | None:
        """Return the label as (1,) int64, the null label for None; None from a network without labels.

        Raises:
            ConfigError: the model doesn't know the label; or images condition it, and no label can.
        """
        if self.condition_channels:
            raise ConfigError(
                f"the condition {condition!r} is asked for, but images condition this model: sample it with "
                "input=PATH, or score it"
            )
        number = isinstance(condition, int) and not isinstance(condition, bool)
        if condition is not None and not (number and condition in range(self.num_classes)):
            known = f"labels from 0 to {self.num_classes - 1}" if self.num_classes else "no labels"
            choice = "one of them, or null for none" if self.num_classes else "null for none"
            raise ConfigError(
                f"the condition {condition!r} is asked for, but the model knows {known}: choose {choice}"
            )
        if self.num_classes == 0:
            return None
        return torch.tensor([self.num_classes if condition is None else condition])

    def null(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y) if self.condition_channels else torch.full_like(y, self.num_classes)

    def _check(self) -> None:
        t = torch.tensor([self.schedule.t_min, self.schedule.t_max], dtype=torch.float64)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        one = torch.ones_like(t)
        if not torch.stack(self.prediction.estimate(one, one, alpha, sigma)[:2]).isfinite().all():
            raise ConfigError(
                f"prediction {type(self.prediction).__name__} can't work with schedule "
                f"{type(self.schedule).__name__}, which reaches alpha {alpha[1]:g}: to read the image out of "
                "it would divide by 0; choose prediction=v or prediction=x"
            )


class Combinator(Denoiser):
    """A denoiser made of another: the same schedule and conditions, another estimate.

    Args:
        denoiser: the one whose schedule and conditions it has.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__(
            denoiser.schedule, denoiser.num_classes, denoiser.conditional, denoiser.learns_variance
        )
        self.denoiser = denoiser
        self.meets = self.meets and denoiser.meets
        self.holds = denoiser.holds
        self.remembers = denoiser.remembers

    def encode(self, condition: Condition) -> Tensor | None:
        return self.denoiser.encode(condition)

    def null(self, y: Tensor) -> Tensor:
        return self.denoiser.null(y)

    def from_x(self, x: Tensor, x_t: Tensor, t: Tensor, var_weight: Tensor | None = None) -> Estimate:
        """Return the estimate with this x: its eps is the one that leads from x to x_t."""
        alpha, sigma = self.schedule.alpha_sigma(self.schedule.inside(t), x_t)
        return Estimate(x, (x_t - alpha * x) / sigma, var_weight)


class Labelled(Combinator):
    """A denoiser whose condition is fixed, (x_t, t) -> Estimate: what a sampler's step sees.

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        y: labels (B,) or text embeddings (B, L, D), or one of them, (1, ...), for a batch of any size; None
            for no condition.
    """

    def __init__(self, denoiser: Denoiser, y: Tensor | None):
        super().__init__(copy(denoiser))  # guidance may remember its walk, which is that of one condition
        self.y = y

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        """Estimate under the fixed condition; y is not used."""
        y = self.y if self.y is None else self.y.to(x_t.device).expand(len(x_t), *self.y.shape[1:])
        return self.denoiser(x_t, t, y)


class Clipped(Combinator):
    """Keeps the estimate of x inside [-1, 1], with eps derived again so that both still meet in x_t.

    Ho et al. 2020 sample with it. It matters most where alpha is tiny: there a small error in eps is a
    huge one in x.
    """

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        x, _, var_weight = self.denoiser(x_t, t, y)
        return self.from_x(x.clamp(-1, 1), x_t, t, var_weight)


class Thresholded(Combinator):
    """Clips adaptively, for guidance of large scale: dynamic thresholding (Saharia et al. 2022, section 2.3).

    Where more than a share of an image's pixels would be cut off, the image is cut off at a higher value
    and scaled back into [-1, 1].

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        quantile: share of the pixels that need not be cut off, in (0, 1).
        most: the highest value at which an image is cut off, 1 or more.
    """

    def __init__(self, denoiser: Denoiser, quantile: float, most: float):
        super().__init__(denoiser)
        self.quantile = quantile
        self.most = most

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        x, _, var_weight = self.denoiser(x_t, t, y)
        limit = x.abs().flatten(1).quantile(self.quantile, dim=1).clamp(1, self.most)
        limit = per_image(limit, x)
        return self.from_x(x.clamp(-limit, limit) / limit, x_t, t, var_weight)
