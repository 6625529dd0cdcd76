"""Ancestral sampling: one step of the reverse Markov chain, between any two times."""

from torch import Tensor

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.denoiser import Denoiser, Labelled
from lit_diffusion.samplers.base import Clip, History, Noise, Sampler

VARIANCES = ("small", "large", "learned")


class Ancestral(Sampler):
    """Draws x_s from the Gaussian q(x_s | x_t, x) at the estimated x (Ho et al. 2020, equations 6-7).

    With alpha_ts = alpha_t / alpha_s and beta_ts = sigma_t^2 - alpha_ts^2 sigma_s^2, the variance of
    the noise that the path adds from s to t:

        mean = (alpha_ts sigma_s^2 x_t + alpha_s beta_ts x) / sigma_t^2
        variance = beta_ts sigma_s^2 / sigma_t^2  ("small")  or  beta_ts  ("large")

    Neighbouring times give DDPM exactly, a strided grid the strided update of the same formula.
    "small" is the true posterior variance of a single image, "large" that of pure noise, and "learned"
    lies between them on a log scale, at the network's var_weight (Nichol and Dhariwal 2021, equation 15).
    None adds noise in the last step.

    Args:
        steps: number of steps; the whole chain is as many as the schedule has.
        clip, grid: as in ``Sampler``.
        variance: "small", "large" or "learned".
    """

    def __init__(self, steps: int, clip: Clip, grid: str = "uniform", variance: str = "small"):
        super().__init__(steps, clip, grid)
        if variance not in VARIANCES:
            raise ConfigError(f"sampler.variance is {variance!r}: choose one of {', '.join(VARIANCES)}")
        self.variance = variance

    @property
    def stochastic(self) -> bool:
        return True

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        if self.variance == "learned" and not denoiser.learns_variance:
            raise ConfigError(
                "sampler.variance is 'learned', but this model learnt none: choose sampler.variance=small"
            )

    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, history: History, denoiser: Labelled, noise: Noise
    ) -> Tensor:
        schedule = denoiser.schedule
        sigma_t, alpha_s, sigma_s = schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        alpha_ts, beta_ts = schedule.transition(s, t)

        x, _, var_weight = history[-1].estimate
        mean = (alpha_ts * sigma_s**2 * x_t + alpha_s * beta_ts * x) / sigma_t**2
        if s == 0:  # the "large" variance would still add noise to the finished image
            return mean
        small = beta_ts * sigma_s**2 / sigma_t**2
        if self.variance == "learned":
            if var_weight is None:
                raise ValueError("the denoiser learnt no variance: use variance='small'")
            share = (var_weight + 1) / 2
            return mean + (small ** (1 - share) * beta_ts**share).sqrt() * noise()
        variance = beta_ts if self.variance == "large" else small
        return mean + variance.sqrt() * noise()
