"""From seeds to images, with any sampler."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_diffusion.rng import ImageNoise
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
    schedule = denoiser.schedule
    noise = ImageNoise(seed, images, shape, device)
    x_t = schedule.sigma(torch.tensor(schedule.t_max, dtype=torch.float64)) * noise()
    y = y if y is None else y.to(device)
    return sampler(denoiser, x_t, y, noise, after_step=after_step)
