"""Images: between uint8 and [-1, 1], from picture files, as grids and animations."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import atomic_write

Resize = Literal["crop", "pad", "stretch"]
UNREADABLE_PICTURE = (  # raised for a damaged file
    OSError, AttributeError, ValueError, SyntaxError, TypeError, LookupError, EOFError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip
MOST_PIXELS = 50_000_000  # of a picture that is read


def to_uint8(x: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8 in 0..255; values outside are clipped."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """Return images uint8 in 0..255 as floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def load_picture(
    path: str | Path, shape: tuple[int, int, int], background: str = "white", resize: str = "crop"
) -> Tensor:
    """Load a picture file as an image (1, C, H, W) in [-1, 1].

    Args:
        path: of the file.
        shape: of the image, (C, H, W).
        background, resize: as in ``fitted``.

    Raises:
        ConfigError: there is no such file, it is no picture, or there is no such colour or rule.
    """
    check_colour("background", background)
    return to_float(fitted(open_picture(path), shape, background, resize)[None])


def open_picture(path: str | Path) -> Image.Image:
    """Return a picture file's first frame, upright, in RGBA of 8 bits.

    Raises:
        ConfigError: there is no such file, or it is no picture.
    """
    try:
        picture: Image.Image = Image.open(path)
        if picture.width * picture.height > MOST_PIXELS:
            raise ConfigError(
                f"{path} has {picture.width} x {picture.height} pixels, more than {MOST_PIXELS:,}: give a "
                "smaller picture"
            )
        return in_rgba(picture)
    except ConfigError:
        raise
    except Image.DecompressionBombError as error:
        raise ConfigError(f"{path} is too large ({error}): give a smaller picture") from None
    except FileNotFoundError:
        raise ConfigError(f"{path} isn't there: give the path of a picture") from None
    except UNREADABLE_PICTURE:
        empty = isinstance(path, (str, Path)) and Path(path).is_file() and not Path(path).stat().st_size
        problem = "is empty" if empty else "is no picture, or damaged"
        raise ConfigError(f"{path} {problem}: give the path of a PNG, JPEG or other picture") from None


def in_rgba(picture: Image.Image) -> Image.Image:
    """Return a picture upright, as its EXIF data say, in RGBA of 8 bits."""
    picture = ImageOps.exif_transpose(picture)
    return (to_8_bits(picture) if picture.mode[0] in "IF" else picture).convert("RGBA")


def fitted(
    picture: Image.Image, shape: tuple[int, int, int], background: str = "white", resize: str = "crop"
) -> Tensor:
    """Return a picture as uint8 (C, H, W), scaled with Pillow's bicubic filter.

    Args:
        picture: in RGBA.
        shape: (C, H, W); one channel is grey, three are colours.
        background: colour behind transparent pixels, and of what ``pad`` adds.
        resize: what becomes of another shape: ``crop`` keeps the middle, ``pad`` adds a border, ``stretch``
            distorts.
    """
    channels, height, width = shape
    ground = Image.new("RGBA", picture.size, background)
    opaque = Image.alpha_composite(ground, picture).convert("L" if channels == 1 else "RGB")
    if resize == "pad":
        return pil_to_tensor(ImageOps.pad(opaque, (width, height), color=background))
    if resize == "stretch":
        return pil_to_tensor(opaque.resize((width, height), Image.Resampling.BICUBIC))
    return pil_to_tensor(ImageOps.fit(opaque, (width, height)))


def check_colour(name: str, colour: str) -> str:
    """Return a colour's name, or #rrggbb; ConfigError if Pillow knows none such."""
    try:
        ImageColor.getrgb(colour)
    except (ValueError, AttributeError):
        raise ConfigError(f"{name} is {colour!r}: give a colour, such as white or '#ffffff'") from None
    return colour


def to_8_bits(picture: Image.Image) -> Image.Image:
    """Return a picture of 16 or 32 bits, or of floats, in 8 bits; Pillow would cut it off at 255."""
    pixels = np.asarray(picture, dtype=np.float64)
    small, large = (1, 255) if picture.mode == "F" else (255, 65_535)
    white = large if picture.mode.startswith("I;16") or pixels.max() > small else small
    return Image.fromarray((pixels * 255 / white).clip(0, 255).round().astype(np.uint8))


def grid(x: Tensor, columns: int) -> Image.Image:
    """Return images (N, C, H, W) in [-1, 1] as one picture, in rows of so many columns."""
    return to_pil_image(make_grid(to_uint8(x).cpu(), nrow=columns, padding=2, pad_value=64))


def stacked_grid(kinds: Sequence[Tensor], columns: int) -> Image.Image:
    """Return images of several kinds, (N, C, H, W) each, as one picture.

    Below a row of the first kind are those of the second one that belong to them, and so on.
    """
    rows = []
    for part in zip(*(kind.cpu().split(columns) for kind in kinds), strict=True):
        missing = columns - len(part[0])
        empty = torch.full((missing, *part[0].shape[1:]), -1.0)
        rows += [torch.cat([images, empty]) for images in part]
    return grid(torch.cat(rows), columns)


def save_png(image: Image.Image, path: Path) -> Path:
    """Write the image, whole or not at all, making its folder if need be."""
    with atomic_write(path) as file:
        image.save(file, "PNG")
    return path


def save_gif(frames: Sequence[Image.Image], path: Path, milliseconds: int = 80) -> Path:
    """Write an endless GIF that rests on its last frame for a second and a half."""
    durations = [milliseconds] * (len(frames) - 1) + [1500]
    with atomic_write(path) as file:
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return path
