"""Denoiser: network, schedule and prediction together, (x_t, t, y) -> Estimate(x, eps)."""

import torch
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.predictions import Estimate, Prediction
from lit_diffusion.schedules import Schedule


class Denoiser(nn.Module):
    """The best guess of image and noise, whatever the network was trained to put out.

    Args:
        network: ``network(x_t, time_input, y) -> tensor like x_t``; its ``num_classes`` is 0 for a
            network without labels.
        schedule: alpha and sigma of the path.
        prediction: what the network's output means.

    Raises:
        ConfigError: the schedule reaches a time at which this prediction says nothing.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: Prediction):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self._check()

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    @property
    def conditional(self) -> bool:
        """Whether there is anything to ask for."""
        return self.num_classes > 0

    @property
    def learns_variance(self) -> bool:
        """Whether its estimates have a spread."""
        return False

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        """Estimate the two ends of the path through x_t.

        Args:
            x_t: noisy images, (B, C, H, W).
            t: their times in [0, 1], (B,).
            y: labels (B,) int64, the null label being num_classes, or a text model's embeddings (B, L, D);
                None for no condition.
        """
        t = self.schedule.inside(t)
        alpha, sigma = self.schedule.alpha_sigma(t, x_t)
        output, *spread = self.output(x_t, t, y).split(x_t.shape[1], dim=1)  # some learn the variance too
        x, eps, _ = self.prediction.estimate(output, x_t, alpha, sigma)
        return Estimate(x, eps, *spread)

    def output(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The network's own output, the quantity that training compares with its target.

        Whatever precision the network runs in, the path's arithmetic stays in that of x_t.
        """
        precision = next(self.network.parameters(), x_t).dtype
        return self.network(x_t.to(precision), self.schedule.time_input(t).to(x_t), y).to(x_t)

    def null(self, y: Tensor) -> Tensor:
        """Labels shaped like y that say nothing."""
        return torch.full_like(y, self.num_classes)

    def encode(self, asked: int | None) -> Tensor | None:
        """The condition for what is asked, (1,): a label, or None for none; None from a model without labels.

        Raises:
            ConfigError: the model doesn't know the label.
        """
        label = isinstance(asked, int) and not isinstance(asked, bool) and 0 <= asked < self.num_classes
        if asked is not None and not label:
            known = f"labels from 0 to {self.num_classes - 1}" if self.num_classes else "no labels"
            raise ConfigError(f"{asked!r} is asked for, but this model knows {known}: choose null for none")
        if self.num_classes == 0:
            return None
        return torch.tensor([self.num_classes if asked is None else asked])

    def _check(self) -> None:
        t = torch.tensor([self.schedule.t_min, self.schedule.t_max], dtype=torch.float64)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        one = torch.ones_like(t)
        if not torch.stack(self.prediction.estimate(one, one, alpha, sigma)[:2]).isfinite().all():
            raise ConfigError(
                f"prediction {type(self.prediction).__name__} can't work with schedule "
                f"{type(self.schedule).__name__}, which reaches alpha {alpha[1]:g}: to read the image out of "
                "it would divide by 0; choose prediction=x"
            )


class Combinator(nn.Module):
    """A Denoiser made of another: same schedule, same labels, another estimate."""

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def num_classes(self) -> int:
        return self.denoiser.num_classes

    @property
    def conditional(self) -> bool:
        return self.denoiser.conditional

    @property
    def learns_variance(self) -> bool:
        return self.denoiser.learns_variance

    def null(self, y: Tensor) -> Tensor:
        return self.denoiser.null(y)

    def encode(self, asked: int | str | None) -> Tensor | None:
        return self.denoiser.encode(asked)

    def through(self, x: Tensor, x_t: Tensor, t: Tensor, spread: Tensor | None = None) -> Estimate:
        """The estimate with this x: its eps is the one that leads from x to x_t."""
        alpha, sigma = self.schedule.alpha_sigma(self.schedule.inside(t), x_t)
        return Estimate(x, (x_t - alpha * x) / sigma, spread)


class Labelled(Combinator):
    """A denoiser with its labels given once, (x_t, t) -> Estimate: what a sampler's step sees.

    Whoever calls it has no say in the labels any more.

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        y: labels (B,) or text embeddings (B, L, D), or one of them, (1, ...), for a batch of any size; None
            for no condition.
    """

    def __init__(self, denoiser: nn.Module, y: Tensor | None):
        super().__init__(denoiser)
        self.y = y

    def forward(self, x_t: Tensor, t: Tensor, y: None = None) -> Estimate:
        y = self.y if self.y is None else self.y.to(x_t.device).expand(len(x_t), *self.y.shape[1:])
        return self.denoiser(x_t, t, y)


class Clipped(Combinator):
    """Keeps the estimate of x inside [-1, 1], with eps derived again so that both still meet in x_t.

    Ho et al. 2020 sample so. It matters most where alpha is tiny: there a small error in eps is a
    huge one in x.
    """

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        x, _, spread = self.denoiser(x_t, t, y)
        return self.through(x.clamp(-1, 1), x_t, t, spread)


class Thresholded(Combinator):
    """Clipping for guidance of large scale (Saharia et al. 2022, Imagen, section 2.3, dynamic thresholding).

    Where a share of an image's pixels would be cut off, the image is cut off higher and scaled back
    into [-1, 1].

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        quantile: share of the pixels that need not be cut off, in (0, 1).
        most: the highest that an image is cut off, 1 or more.
    """

    def __init__(self, denoiser: nn.Module, quantile: float, most: float):
        super().__init__(denoiser)
        self.quantile = quantile
        self.most = most

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        x, _, spread = self.denoiser(x_t, t, y)
        limit = x.abs().flatten(1).quantile(self.quantile, dim=1).clamp(1, self.most)
        limit = limit.reshape(-1, *[1] * (x.ndim - 1))
        return self.through(x.clamp(-limit, limit) / limit, x_t, t, spread)
