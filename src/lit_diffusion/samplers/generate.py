"""From seeds to images, with any sampler."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.samplers.base import Sampler


def generate(
    sampler: Sampler,
    denoiser: torch.nn.Module,
    images: Sequence[int],
    shape: Sequence[int],
    seed: int = 0,
    y: Tensor | None = None,
    device: torch.device | str = "cpu",
    after_step: Callable | None = None,
) -> Tensor:
    """Images by number: image k of a seed is the same in whatever batch it is made.

    Args:
        sampler: how to walk from noise to image.
        denoiser: (x_t, t, y) -> Estimate.
        images: the numbers of the images to make.
        shape: of one image, (C, H, W).
        seed: of the noise, start and steps alike.
        y: a label for each image, (B,), or None.
        device: where the denoiser lives.
        after_step: as in ``Sampler``.

    Returns:
        (B, C, H, W), about in [-1, 1].
    """
    noise = ImageNoise(seed, images, shape, device)
    y = y if y is None else y.to(device)
    return sampler(denoiser, denoiser.schedule.pure_noise(noise()), y, noise, after_step=after_step)


@torch.no_grad()
def one_step(
    denoiser: Denoiser,
    x: Tensor,
    y: Tensor,
    times: Sequence[float],
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Noise images and denoise them at once, at each of the times.

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        x: clean images, (B, C, H, W).
        y: their labels, (B,); a model without labels isn't given them.
        times: t in [0, 1].
        seed: of the noise; image k has the same at every time.

    Returns:
        x_t and the estimate of x, (B, C, H, W) each, on the CPU, of the first time, then of the next.
    """
    noise = ImageNoise(seed, range(len(x)), x.shape[1:], device)()
    x = x.to(device)
    y = y.to(device) if denoiser.num_classes else None
    shown = []
    for time in times:
        t = torch.full((len(x),), time, dtype=torch.float32, device=device)
        x_t = denoiser.schedule.noised(x, noise, t)
        shown += [x_t.cpu(), denoiser(x_t, t, y).x.cpu()]
    return shown
