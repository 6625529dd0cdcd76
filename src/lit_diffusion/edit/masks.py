"""Which pixels of an image are painted anew."""

from pathlib import Path

import torch
from torch import Tensor

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import load_picture

MASKS = {  # of each pixel's place, from 0 to 1 down and to the right
    "centre": lambda down, right: ((down - 0.5).abs() < 0.25) & ((right - 0.5).abs() < 0.25),
    "left_half": lambda down, right: right < 0.5,
    "top_half": lambda down, right: down < 0.5,
}


def find_mask(mask: str, size: tuple[int, int], seed: int) -> Tensor:
    """Return a mask (1, 1, H, W), True where the image is painted anew: by name, or from a PNG.

    Args:
        mask: one of ``MASKS``, "random", or a path.
        size: (H, W).
        seed: of a random mask.

    Raises:
        ConfigError: there is no such mask, or the picture is black all over.
    """
    height, width = size
    if mask == "random":
        uniform = torch.rand(1, 1, height, width, generator=rng.generator(seed, "mask"))
        return uniform < 0.5
    if mask in MASKS:
        down, right = ((torch.arange(n) + 0.5) / n for n in (height, width))
        return MASKS[mask](*torch.meshgrid(down, right, indexing="ij"))[None, None]
    if not isinstance(mask, str) or not Path(mask).is_file():
        raise ConfigError(
            f"edit.mask is {mask!r}: choose one of {', '.join([*MASKS, 'random'])}, or the path of a PNG"
        )
    where = load_picture(mask, (1, height, width), background="black") > 0
    if not where.any():
        raise ConfigError(f"edit.mask {mask} is black all over: make white what is to be painted anew")
    return where
