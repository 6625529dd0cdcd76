"""Random numbers as pure functions of integer keys: nothing to save, nothing to restore."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose whole stream is a function of the keys (non-negative integers)."""
    return torch.Generator(device).manual_seed(key_to_seed(*keys))


def key_to_seed(*keys: int) -> int:
    """One 64-bit seed from several integers, without the clashes of adding them."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])


class ImageNoise:
    """Standard normal noise with one generator per image.

    Image k draws the same noise whatever batch it is in, however many processes share the work,
    and whatever device it ends on: the stream is a function of (seed, k) alone.

    Args:
        seed: the seed of the whole set of images.
        images: the numbers of this batch's images.
        shape: the shape of one image, (C, H, W).
        device: where the noise goes; it is always drawn on the CPU.
    """

    def __init__(self, seed: int, images: Sequence[int], shape: Sequence[int], device="cpu"):
        self.generators = [generator(seed, k) for k in images]
        self.shape = tuple(shape)
        self.device = device

    def __call__(self) -> Tensor:
        """The next noise of each image, (B, C, H, W)."""
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators]).to(self.device)
