"""DPM-Solver++ (2M) and its stochastic form."""

from torch import Tensor

from lit_diffusion.denoiser import Labelled
from lit_diffusion.samplers.base import History, Noise, Visit
from lit_diffusion.samplers.ddim import DDIM


class DPMpp2M(DDIM):
    """A DDIM step, with the estimate of x extrapolated through the last two (Lu et al. 2022, DPM-Solver++).

        D = x(t) + (x(t) - x(u)) / (2 r),   r = (log_snr(t) - log_snr(u)) / (log_snr(s) - log_snr(t))

    stands in for x(t) on the way from t to s, u being the time visited before t; the algorithm is
    number 2 of the paper, and the midpoint form of diffusers. Of second order at one evaluation a step. The
    first step, with no u, and the last one, where log_snr is infinite, are DDIM's own. eta 1 gives
    SDE-DPM-Solver++ (2M): an ancestral step with the same D.

    Args:
        steps: number of steps.
        clip, grid: as in ``Sampler``.
        eta: share of fresh noise, in [0, 1].
    """

    needs_meeting = True

    def step(
        self, x_t: Tensor, t: Tensor, s: Tensor, history: History, denoiser: Labelled, noise: Noise
    ) -> Tensor:
        if len(history) > 1 and s > 0:
            log_snr = denoiser.schedule.log_snr
            before, now = history[-2], history[-1]
            r = (log_snr(t) - log_snr(before.t)) / (log_snr(s) - log_snr(t))
            x = now.estimate.x + (now.estimate.x - before.estimate.x) / (2 * r)
            history = [Visit(t, x_t, denoiser.from_x(x, x_t, t))]
        return super().step(x_t, t, s, history, denoiser, noise)
