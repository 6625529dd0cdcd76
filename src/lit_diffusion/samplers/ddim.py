"""Denoising diffusion implicit models."""

from torch import Tensor

from lit_diffusion.common.errors import check_number
from lit_diffusion.denoiser import Labelled
from lit_diffusion.samplers.base import Clip, History, Noise, Sampler


class DDIM(Sampler):
    """Removes the estimated noise, and adds a share of it as fresh noise (Song et al. 2021, equation 12).

        x_s = alpha_s x + sqrt(sigma_s^2 - tau^2) eps + tau z
        tau = eta * sigma_s / sigma_t * sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)

    eta 0 is deterministic; eta 1 equals ``Ancestral`` with the small variance.

    Args:
        steps: number of steps.
        clip, grid: as in ``Sampler``.
        eta: share of fresh noise, in [0, 1].
    """

    def __init__(self, steps: int, clip: Clip, grid: str = "uniform", eta: float = 0.0):
        super().__init__(steps, clip, grid)
        check_number("sampler.eta", eta, least=0, most=1)
        self.eta = eta

    needs_meeting = False

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, history: History, denoiser: Labelled, noise: Noise
    ) -> Tensor:
        schedule = denoiser.schedule
        sigma_t, alpha_s, sigma_s = schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        _, beta_ts = schedule.transition(s, t)
        tau = self.eta * sigma_s / sigma_t * beta_ts.sqrt()

        x, eps, _ = history[-1].estimate
        x_s = alpha_s * x + (sigma_s**2 - tau**2).clamp(min=0).sqrt() * eps
        return x_s + tau * noise() if tau > 0 else x_s
