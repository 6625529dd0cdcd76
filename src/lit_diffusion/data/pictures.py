"""What sources of pictures have in common: how a picture becomes an image, and where images are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import Resize, check_colour, fitted
from lit_diffusion.common.shapes import Size, height_width
from lit_diffusion.data.cache import SPLITS, ImageCache


class Pictures:
    """Pictures of any size, made images of one size once, and kept in a cache.

    Args:
        rules: what tells these pictures from others, as plain data.
        cache: folder for the images once they are read.
        image_size: side of an image, or [height, width].
        channels: 3 for colours, 1 for grey.
        resize: what becomes of pictures of another shape: crop, pad or stretch, as in ``images.fitted``.
        background: colour behind transparent pixels.
        splits: names of the splits in the cache.

    Raises:
        ConfigError: a size, a number of channels or a colour that can't be.
    """

    def __init__(
        self,
        rules: Sequence[Any],
        cache: str | Path,
        image_size: Size,
        channels: int,
        resize: Resize,
        background: str,
        splits: Sequence[str] = SPLITS,
    ):
        if channels not in (1, 3):
            raise ConfigError(f"data.channels is {channels}: choose 3 for colours, or 1 for grey")
        self.shape = (channels, *height_width(image_size))
        self.resize: Resize = resize
        self.background = check_colour("data.source.background", background)
        self.cache = ImageCache(cache, [*rules, resize, background], self.shape, splits)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8, mapped into memory, and labels (N,) int64 of a split.

        Labels are 0 where there are no classes.
        """
        return self.cache.load("train" if train else "test")

    def _fitted(self, picture: Image.Image) -> Tensor:
        """Return a picture in RGBA as an image, uint8 (C, H, W)."""
        return fitted(picture, self.shape, self.background, self.resize)
