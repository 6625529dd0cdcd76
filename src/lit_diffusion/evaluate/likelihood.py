"""The likelihood of images under a model: bits per dimension along its flow."""

import math

import torch
from torch import Tensor

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.samplers import grids

BATCH_SIZE = 100  # images at a time
LEVELS = torch.arange(256) / 127.5 - 1  # the grey levels of images in [-1, 1]
LEAST_NOISE = 1 / 255  # half a grey level: of less the bound of a model that knows no levels is looser


def bits_per_dim(
    denoiser: Denoiser,
    images: Tensor,
    y: Tensor | None,
    seed: int,
    steps: int = 50,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return an upper bound of each image's negative log-likelihood, in bits per pixel and channel, (N,).

    The variational bound of Kingma et al. 2021 (equation 11) with a single latent z = x_t at the first of
    ``flow_times``: z is drawn from the path, its density is that of the model's flow, and a grey level is
    decoded from it in proportion to how likely the level makes z. So

        log P(x) >= log p(z) - sum over pixels of log sum over levels v of N(z; alpha v, sigma^2)

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        images: uint8 (N, C, H, W).
        y: their labels (N,), or None.
        seed: of the noise and of the estimator's signs; image k's are the same in any batch.
        steps: of the flow, evenly spaced in log-SNR, two network evaluations and one gradient each.
        device: where the denoiser is.

    Raises:
        ConfigError: the schedule has a single noise level.
    """
    times = flow_times(denoiser, steps)
    alpha, sigma = denoiser.schedule.alpha(times[0]), denoiser.schedule.sigma(times[0])
    bits = []
    for indices in torch.arange(len(images)).split(BATCH_SIZE):
        noise = ImageNoise(rng.key_to_seed(seed, "bits"), indices.tolist(), images.shape[1:])
        z = alpha * LEVELS[images[indices].long()] + sigma * noise()
        labels = None if y is None else y[indices].to(device)
        signs = noise().sign().to(device)
        log_p = log_likelihood(denoiser, z.float().to(device), labels, times, signs).cpu()
        nats = log_sum_of_levels(z, alpha, sigma) - log_p
        bits.append(nats / z[0].numel() / math.log(2))
    return torch.cat(bits)


def flow_times(denoiser: Denoiser, steps: int) -> Tensor:
    """Return increasing times, even in log-SNR, from ``LEAST_NOISE``, or t_min if that is noisier, to t_max.

    Raises:
        ConfigError: the schedule has a single noise level.
    """
    schedule = denoiser.schedule
    if not schedule.has_path:
        raise ConfigError(
            f"bits per dimension need a path, but schedule {type(schedule).__name__} has a single noise "
            "level: choose bits_n=0"
        )
    cleanest, noisiest = schedule.log_snr(grids.ends(schedule))
    start = cleanest.clamp(max=-2 * math.log(LEAST_NOISE))
    log_snr = torch.linspace(float(start), float(noisiest), steps + 1, dtype=torch.float64)
    return schedule.at_log_snr(log_snr).unique_consecutive()


def log_sum_of_levels(z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return log sum over grey levels v of N(z; alpha v, sigma^2), summed over the pixels, (B,)."""
    total = torch.zeros(len(z), dtype=torch.float64)
    for k, image in enumerate(z.double()):  # an image at a time: 256 numbers for each of its pixels
        distance = (image[..., None] - alpha * LEVELS.double()) / sigma
        total[k] = (-distance.square() / 2).logsumexp(-1).sum()
    return total - z[0].numel() * math.log(float(sigma) * math.sqrt(2 * math.pi))


def log_likelihood(denoiser: Denoiser, x_t: Tensor, y: Tensor | None, times: Tensor, signs: Tensor) -> Tensor:
    """Return the log density of x_t at the first of the times, in nats, (B,) float64.

    With z = x_t / sigma and kappa = alpha / sigma, the probability flow (Song et al. 2021, equation 13) is
    dz = E[x | x_t] dkappa, and from a time s up to t, along which kappa falls,

        log p(z_s) = log p(z_t) + integral from kappa_s to kappa_t of tr(dE[x | x_t] / dz) dkappa

    Heun's method integrates; the trace is Hutchinson's estimate (Grathwohl et al. 2019), and its integral
    the trapezoidal rule in log kappa. At the last time z is standard normal.

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        x_t: (B, C, H, W).
        y: labels (B,), or None.
        times: increasing.
        signs: +1 or -1, like x_t.
    """
    schedule = denoiser.schedule
    sigma = schedule.sigma(times)
    kappa = schedule.alpha(times) / sigma
    z = x_t / sigma[0].to(x_t)
    traces = []
    for i, t in enumerate(times):
        x_hat, trace = estimate_and_trace(denoiser, z, t, sigma[i], y, signs)
        traces.append(kappa[i] * trace)
        if i + 1 < len(times):
            step = (kappa[i + 1] - kappa[i]).to(z)
            with torch.no_grad():
                x_end = denoiser(sigma[i + 1].to(z) * (z + step * x_hat), times[i + 1].expand(len(z)), y).x
            z = z + step * (x_hat + x_end) / 2
    dimensions = z[0].numel()
    prior = -(z.double().square().flatten(1).sum(1) + dimensions * math.log(2 * math.pi)) / 2
    change = torch.trapezoid(torch.stack(traces), kappa.log().to(z.device), dim=0)
    return prior + change - dimensions * sigma[0].log()


def estimate_and_trace(
    denoiser: Denoiser, z: Tensor, t: Tensor, sigma: Tensor, y: Tensor | None, signs: Tensor
) -> tuple[Tensor, Tensor]:
    """Return E[x | x_t] for x_t = sigma z, and the estimated trace of its Jacobian by z, (B,) float64."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        x_hat = denoiser(sigma.to(z) * z, t.expand(len(z)), y).x
        (gradient,) = torch.autograd.grad(x_hat, z, signs)
    return x_hat.detach(), (gradient * signs).double().flatten(1).sum(1)
