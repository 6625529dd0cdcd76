"""Conditions that are images: what a network is given beside x_t, in further channels."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional as F

from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.images import to_float, to_uint8


class ImageCondition(ABC):
    """Makes the condition y of an image (Saharia et al. 2021, SR3; 2022, Palette)."""

    @abstractmethod
    def input_of(self, x: Tensor, other: Tensor) -> Tensor:
        """Return what is given, when x is what is wanted.

        Args:
            x: images, (B, C, H, W) in [-1, 1].
            other: what the data have beside them: labels (B,), or the images of a pair (B, C', H, W).

        Returns:
            (B, C', h, w) in [-1, 1].
        """

    @abstractmethod
    def input_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C', h, w) of what is given for images (C, H, W).

        Raises:
            ConfigError: there can be no such condition of these images.
        """

    @abstractmethod
    def from_input(self, given: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return y (B, C', H, W) of what is given (B, C', h, w), for images (C, H, W)."""

    def __call__(self, x: Tensor, other: Tensor) -> Tensor:
        """Return y (B, C', H, W) of images x (B, C, H, W) and what the data have beside them."""
        _, channels, height, width = x.shape
        return self.from_input(self.input_of(x, other), (channels, height, width))


class LowResolution(ImageCondition):
    """The image itself with fewer pixels, for super-resolution: means of blocks, in 256 levels.

    y is the small image, scaled up by cubic interpolation.

    Args:
        factor: how many times fewer rows and columns there are.
    """

    def __init__(self, factor: int = 2):
        check_whole_number("condition.factor", factor, least=2)
        self.factor = factor

    def input_of(self, x: Tensor, other: Tensor) -> Tensor:
        return to_float(to_uint8(F.avg_pool2d(x, self.factor)))

    def input_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        channels, height, width = shape
        if height % self.factor or width % self.factor:
            raise ConfigError(
                f"condition.factor is {self.factor}, which doesn't divide the images' {height} x {width} "
                "pixels: choose another"
            )
        return channels, height // self.factor, width // self.factor

    def from_input(self, given: Tensor, shape: tuple[int, int, int]) -> Tensor:
        return F.interpolate(given, shape[1:], mode="bicubic").clamp(-1, 1)


class Paired(ImageCondition):
    """The other image of a pair, for data that have such: image-to-image."""

    def input_of(self, x: Tensor, other: Tensor) -> Tensor:
        if other.shape[1:] != x.shape[1:]:
            found = f"images {tuple(other.shape[1:])}" if other.ndim == 4 else "labels"
            raise ConfigError(
                f"condition=paired, but beside images {tuple(x.shape[1:])} the data have {found}, and no "
                "images like them: choose data of pairs, such as data=emoji_pairs"
            )
        return other

    def input_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return shape

    def from_input(self, given: Tensor, shape: tuple[int, int, int]) -> Tensor:
        return given


def check_condition(condition: ImageCondition | None, channels: int, shape: tuple[int, int, int]) -> None:
    """Raise ConfigError unless a network takes the images that condition it.

    Args:
        condition: what makes them; None for no images.
        channels: that the network has for them.
        shape: of an image, (C, H, W).
    """
    wanted = 0 if condition is None else condition.input_shape(shape)[0]
    if wanted == channels:
        return
    kind = "there is no condition" if condition is None else f"condition is {type(condition).__name__}"
    raise ConfigError(
        f"model.condition_channels is {channels}, but {kind}, of {wanted} channels: choose "
        f"model.condition_channels={wanted}, or another model or condition"
    )
