"""Small functions of a batch of images."""

from torch import Tensor


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) as (B, 1, 1, 1), on the device of images ``like`` (B, C, H, W), for broadcasting."""
    return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each image of a with that of b, (B, 1, 1, 1) for images (B, C, H, W)."""
    return per_image((a * b).flatten(1).sum(1), a)
