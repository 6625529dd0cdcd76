"""The shapes of images, as configs give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lit_diffusion.common.errors import ConfigError

Size = int | Sequence[int]  # of an image: one number for a square, or [height, width]


def height_width(size: Size, key: str = "data.image_size") -> tuple[int, int]:
    """Return (H, W) of an image size.

    Raises:
        ConfigError: it isn't one whole number or two, of at least 1.
    """
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, Sequence) else []
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise ConfigError(f"{key} is {size}: choose one whole number of at least 1, or [height,width]")
    return sides[0], sides[1]


def image_shape(data: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (C, H, W) of the images that a ``data`` config describes."""
    return (data["channels"], *height_width(data["image_size"]))
