"""Random numbers as pure functions of keys: there is no state to save or to restore."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_diffusion.common.errors import check_bytes

GENERATOR = 5100  # bytes that torch's generator takes


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose whole stream is a function of the keys.

    The first key is a seed, the second names the use, so that no two uses share a stream.
    """
    return torch.Generator(device).manual_seed(key_to_seed(*keys))


def key_to_seed(*keys: int | str) -> int:
    """Return one 64-bit seed for several keys; other keys, and other numbers of keys, give other seeds."""
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=8).digest(), "big")


class ImageNoise:
    """Standard normal noise with one generator per image.

    Image k draws the same noise whatever batch it is in, however many processes share the work,
    and whatever device it ends on: the stream is a function of (seed, k) alone.

    Args:
        seed: the seed of the whole set of images.
        indices: the numbers of this batch's images.
        shape: the shape of one image, (C, H, W).
        device: where the noise goes; it is always drawn on the CPU.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
    ):
        check_bytes(f"noise of {len(indices):,} images", len(indices) * (4 * math.prod(shape) + GENERATOR))
        self.generators = [generator(seed, "image", k) for k in indices]
        self.shape = tuple(shape)
        self.device = device

    def __call__(self) -> Tensor:
        """Draw the next noise of each image, (B, C, H, W)."""
        return torch.stack(
            [torch.randn(self.shape, generator=g, dtype=torch.float32) for g in self.generators]
        ).to(self.device)
