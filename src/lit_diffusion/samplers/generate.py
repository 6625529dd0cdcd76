"""From seeds to images, with any sampler."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.samplers.base import AfterStep, Sampler


def generate(
    sampler: Sampler,
    denoiser: Denoiser,
    indices: Sequence[int],
    shape: Sequence[int],
    seed: int = 0,
    y: Tensor | None = None,
    device: torch.device | str = "cpu",
    after_step: AfterStep | None = None,
) -> Tensor:
    """Sample images by number: image k of a seed is the same in whatever batch it is made.

    Args:
        sampler: how to go from noise to image.
        denoiser: (x_t, t, y) -> Estimate.
        indices: the numbers of the images to make.
        shape: of one image, (C, H, W).
        seed: of the noise, at the start and in the steps.
        y: conditions of the images: labels (B,), text embeddings (B, L, D), or None.
        device: where the denoiser is.
        after_step: as in ``Sampler``.

    Returns:
        (B, C, H, W), about in [-1, 1].
    """
    noise = ImageNoise(seed, indices, shape, device)
    y = y if y is None else y.to(device)
    return sampler(denoiser, denoiser.schedule.pure_noise(noise()), y, noise, after_step=after_step)
