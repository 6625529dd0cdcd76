"""Weightings: how much an error counts at each noise level.

All but ``Unweighted``, and a ``Learned`` one of it, are of the squared error of x, whatever the network's
output means: of an output that an error of 1 in x moves by ``dx_weight``, the squared error counts weight /
dx_weight^2. A paper's weight of the squared error of eps is multiplied by the signal-to-noise ratio to be
one of x.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError, check_number, check_whole_number
from lit_diffusion.models.blocks import sinusoidal


class Weighting(nn.Module, ABC):
    """How much an error counts at each noise level."""

    @abstractmethod
    def on_output(self, log_snr: Tensor, dx_weight: Tensor) -> Tensor:
        """Return the weights (B,) of squared errors of the output, as ``forward`` has its arguments."""

    def forward(self, loss: Tensor, log_snr: Tensor, dx_weight: Tensor) -> Tensor:
        """Return the weighted losses, (B,).

        Args:
            loss: mean squared error of each output, (B,).
            log_snr: of each, (B,).
            dx_weight: of each, d output / d x, (B,) or a scalar.
        """
        return loss * self.on_output(log_snr, dx_weight)

    def offset(self, log_snr: Tensor) -> Tensor:
        """Return what of the weighted losses (B,) says nothing of the errors."""
        return torch.zeros_like(log_snr)


class WeightingOfX(Weighting):
    """How much an error of x counts at each noise level, whatever the network's output means."""

    @abstractmethod
    def on_x(self, log_snr: Tensor) -> Tensor:
        """Return the weights (B,) of squared errors of x at these log signal-to-noise ratios (B,)."""

    def on_output(self, log_snr: Tensor, dx_weight: Tensor) -> Tensor:
        return self.on_x(log_snr) / dx_weight**2


class Unweighted(Weighting):
    """Every error of the output counts 1, as the papers of each prediction have it."""

    def on_output(self, log_snr: Tensor, dx_weight: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


class MinSNR(WeightingOfX):
    """min(SNR, gamma) (Hang et al. 2023, section 3.4).

    Args:
        gamma: above it, a better signal counts no more.
    """

    def __init__(self, gamma: float = 5.0):
        super().__init__()
        check_number("weighting.gamma", gamma, least=1e-6, most=1e6)
        self.gamma = gamma

    def on_x(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(max=self.gamma)


class SoftMinSNR(MinSNR):
    """SNR gamma / (SNR + gamma), min-SNR without its kink (Crowson et al. 2024, HDiT, equation 5).

    Args:
        gamma: as in ``MinSNR``.
    """

    def __init__(self, gamma: float = 4.0):
        super().__init__(gamma)

    def on_x(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr * self.gamma / (snr + self.gamma)


class P2(WeightingOfX):
    """1 / (k + SNR)^gamma as a weight of eps (Choi et al. 2022, P2).

    With gamma 1 it is ``SoftMinSNR`` with gamma k, divided by k.

    Args:
        gamma: how much less what is nearly clean counts; 0: not at all.
        k: keeps the weight finite where there is no signal.
    """

    def __init__(self, gamma: float = 1.0, k: float = 1.0):
        super().__init__()
        check_number("weighting.gamma", gamma, least=0, most=10)
        check_number("weighting.k", k, least=1e-6, most=1e6)
        self.gamma = gamma
        self.k = k

    def on_x(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr / (self.k + snr) ** self.gamma


class SigmoidWeighting(WeightingOfX):
    """The sigmoid of bias - log SNR as a weight of eps (Kingma and Gao 2023, section 5.1).

    Hoogeboom et al. 2024 (SiD2) have it too. The papers weigh an integral over log SNR; here the integral is
    over the times that are drawn. It is ``SoftMinSNR`` with gamma e^bias: 7.4 for 2.

    Args:
        bias: 2 is best in the first paper; the lower, the less the nearly clean counts.
    """

    def __init__(self, bias: float = 2.0):
        super().__init__()
        check_number("weighting.bias", bias, least=-50, most=50)
        self.bias = bias

    def on_x(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() * torch.sigmoid(self.bias - log_snr)


class VelocityWeighting(WeightingOfX):
    """(alpha / sigma + 1)^2: the squared error of eps - x, the velocity, whatever the network puts out.

    Args:
        most: the largest weight of an output's squared error; None: any, at the ends of the flow a million
            for prediction x or eps. Li and He 2025 (JiT, section 4.3) have 400: they divide by 0.05 at least.
    """

    def __init__(self, most: float | None = None):
        super().__init__()
        if most is not None:
            check_number("weighting.most", most, least=1, most=1e12)
        self.most = most

    def on_x(self, log_snr: Tensor) -> Tensor:
        return ((log_snr / 2).exp() + 1) ** 2

    def on_output(self, log_snr: Tensor, dx_weight: Tensor) -> Tensor:
        weight = super().on_output(log_snr, dx_weight)
        return weight if self.most is None else weight.clamp(max=self.most)


class EdmWeighting(WeightingOfX):
    """(s^2 + s_d^2) / (s s_d)^2 with s = sigma / alpha (Karras et al. 2022, table 1).

    Every error of the output of prediction edm counts 1 by it.

    Args:
        sigma_data: s_d, the standard deviation of the images.
    """

    def __init__(self, sigma_data: float = 0.5):
        super().__init__()
        check_number("weighting.sigma_data", sigma_data, least=1e-3, most=1e3)
        self.sigma_data = sigma_data

    def on_x(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + 1 / self.sigma_data**2


class Learned(Weighting):
    """Another weighting, divided by the loss that is to be expected (Karras et al. 2024, equation 21).

    Trains u(log SNR) with the network, so that each noise level counts alike, whatever its loss:

        loss = base loss / exp(u) + u

    of which the minimum over u is at the logarithm of the expected base loss. The norm that
    ``trainer.gradient_clip_val`` limits is of the network's gradient and u's together.

    Args:
        base: the weighting that is divided; the paper's is that of ``EdmWeighting``.
        width: sines and cosines of log SNR, of which u is a sum; even.

    Raises:
        ConfigError: base is no weighting, or width isn't an even number.
    """

    def __init__(self, base: Weighting, width: int = 64):
        super().__init__()
        if not isinstance(base, Weighting):
            raise ConfigError(f"weighting.base is a {type(base).__name__}, which is no Weighting")
        check_whole_number("weighting.width", width, least=2)
        if width % 2:
            raise ConfigError(f"weighting.width is {width}, but has to be even: choose {width + 1}")
        self.base = base
        self.width = width
        self.u = nn.Linear(width, 1)
        nn.init.zeros_(self.u.weight)
        nn.init.zeros_(self.u.bias)

    def uncertainty(self, log_snr: Tensor) -> Tensor:
        """Return u, the logarithm of the loss that is expected, (B,)."""
        with torch.autocast(log_snr.device.type, enabled=False):  # half precision is 1 % off in exp(u)
            return self.u(sinusoidal(log_snr, self.width).to(self.u.weight)).flatten()

    def on_output(self, log_snr: Tensor, dx_weight: Tensor) -> Tensor:
        return self.base.on_output(log_snr, dx_weight) / self.uncertainty(log_snr).exp()

    def forward(self, loss: Tensor, log_snr: Tensor, dx_weight: Tensor) -> Tensor:
        u = self.uncertainty(log_snr)
        return self.base(loss, log_snr, dx_weight) / u.exp() + u

    def offset(self, log_snr: Tensor) -> Tensor:
        return self.uncertainty(log_snr)
