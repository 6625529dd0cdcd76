"""Random numbers as pure functions of keys: nothing to save, nothing to restore. And noise between noises."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose whole stream is a function of the keys.

    The first key is a seed, the second says what for, so that no two uses share a stream.
    """
    return torch.Generator(device).manual_seed(key_to_seed(*keys))


def key_to_seed(*keys: int | str) -> int:
    """One 64-bit seed from several keys; other keys, and other numbers of keys, give other seeds."""
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=8).digest(), "big")


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
        self.generators = [generator(seed, "image", k) for k in images]
        self.shape = tuple(shape)
        self.device = device

    def __call__(self) -> Tensor:
        """The next noise of each image, (B, C, H, W)."""
        return torch.stack(
            [torch.randn(self.shape, generator=g, dtype=torch.float32) for g in self.generators]
        ).to(self.device)


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """From noise a to noise b along the sphere, so that all between are as long (Shoemake 1985).

    Args:
        a, b: noises, (B, C, H, W) or (1, C, H, W).
        weight: of b, (B,) in [0, 1].

    Returns:
        (B, C, H, W).
    """
    weight = weight.to(a)
    cosine = torch.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = cosine.acos().clamp(min=1e-6)
    shares = torch.stack([(1 - weight) * angle, weight * angle]).sin() / angle.sin()
    of_a, of_b = shares.reshape(2, -1, *[1] * (a.ndim - 1))
    return of_a * a + of_b * b
