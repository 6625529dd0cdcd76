"""How likely a model finds images: bits per dimension along its flow."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_diffusion import rng
from lit_diffusion.errors import ConfigError
from lit_diffusion.rng import ImageNoise
from lit_diffusion.samplers import grids

HALF_LEVEL = 1 / 255  # images in [-1, 1] have 256 grey levels, this far to either side
DEQUANTISED = -2 * math.log(HALF_LEVEL / math.sqrt(3))  # log-SNR of noise as strong as that of dequantising


def bits_per_dim(
    denoiser: nn.Module,
    images: Tensor,
    y: Tensor | None,
    seed: int,
    steps: int = 50,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Upper bound of each image's negative log-likelihood, in bits per pixel and channel, (N,).

    Grey levels are dequantised uniformly (Theis et al. 2016). The model's density is that of x_t / alpha
    at the first time where its noise is as strong as the dequantisation's, since a model of grey levels
    has none at t = 0.

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        images: uint8 (N, C, H, W).
        y: their labels (N,), or None.
        seed: of the dequantisation and of the estimator's signs; image k's are the same in any batch.
        steps: of the flow, evenly spaced in log-SNR, two network evaluations and one gradient each.
        device: where the denoiser is.

    Raises:
        ConfigError: the schedule has fewer than two noise levels to go through.
    """
    times = flow_times(denoiser, steps)
    bits = []
    for numbers in torch.arange(len(images)).split(100):
        shape = images.shape[1:]
        uniform = torch.stack([
            torch.rand(shape, generator=rng.generator(seed, "dequantise", k)) for k in numbers.tolist()
        ])  # fmt: skip
        x = (images[numbers] + uniform - 0.5) * 2 * HALF_LEVEL - 1
        signs = ImageNoise(rng.key_to_seed(seed, "signs"), numbers.tolist(), shape, device)().sign()
        labels = None if y is None else y[numbers].to(device)
        log_p = log_likelihood(denoiser, x.to(device), labels, times, signs).cpu()
        bits.append(-log_p / x[0].numel() / math.log(2) - math.log2(2 * HALF_LEVEL))
    return torch.cat(bits)


def flow_times(denoiser: nn.Module, steps: int) -> Tensor:
    """Increasing times from the dequantisation's noise to t_max, evenly spaced in log-SNR."""
    schedule = denoiser.schedule
    times = grids.log_snr(schedule, steps + 1)[:-1].flip(0).unique_consecutive()
    times = times[schedule.log_snr(times) <= DEQUANTISED]
    if len(times) < 2:
        raise ConfigError(
            f"bits per dimension need a path, but schedule {type(schedule).__name__} has one noise level: "
            "choose bits_n=0"
        )
    return times


def log_likelihood(
    denoiser: nn.Module, x: Tensor, y: Tensor | None, times: Sequence[Tensor], signs: Tensor
) -> Tensor:
    """log density of x_t / alpha at the first of the times, in nats, (B,).

    With z = x_t / sigma and kappa = alpha / sigma, the probability flow (Song et al. 2021, equation 13) is
    dz = E[x | x_t] dkappa, and along it

        log p(x_s) = log p(x_t) + D log(sigma_t / sigma_s) + integral of tr(dE[x | x_t] / dz) dkappa

    over kappa from t down to s. Heun's method goes along; the trace is Hutchinson's estimate (Grathwohl et
    al. 2019), sign by sign, and its integral the trapezoidal rule in log kappa.

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        x: images in [-1, 1], (B, C, H, W).
        y: labels (B,), or None.
        times: increasing.
        signs: +1 or -1, like x.
    """
    schedule = denoiser.schedule
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    kappa = alpha / sigma
    z = kappa[0].to(x) * x
    trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    before = None
    for i, t in enumerate(times):
        x_hat, slope = estimate_and_trace(denoiser, z, t, sigma[i], y, signs)
        slope = kappa[i] * slope
        if i > 0:
            trace += (before + slope) / 2 * (kappa[i] / kappa[i - 1]).log()
        before = slope
        if i + 1 < len(times):
            step = (kappa[i + 1] - kappa[i]).to(x)
            s = times[i + 1]
            with torch.no_grad():
                there = denoiser(sigma[i + 1].to(x) * (z + step * x_hat), s.expand(len(x)), y).x
            z = z + step * (x_hat + there) / 2
    dimensions = x[0].numel()
    prior = -(z.double().square().flatten(1).sum(1) + dimensions * math.log(2 * math.pi)) / 2
    # of z at the last time, that is of x_t over its sigma; and from z at the first time back to x
    return prior + trace + dimensions * kappa[0].log()


def estimate_and_trace(
    denoiser: nn.Module, z: Tensor, t: Tensor, sigma: Tensor, y: Tensor | None, signs: Tensor
) -> tuple[Tensor, Tensor]:
    """E[x | x_t] for x_t = sigma z, and the estimated trace of its Jacobian by z, (B,) float64."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        x_hat = denoiser(sigma.to(z) * z, t.expand(len(z)), y).x
        (gradient,) = torch.autograd.grad(x_hat, z, signs)
    return x_hat.detach(), (gradient * signs).double().flatten(1).sum(1)
