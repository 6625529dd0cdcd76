"""Shapes of tensors."""

from torch import Tensor


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) as (B, 1, 1, 1), to be broadcast against images ``like`` (B, C, H, W)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
