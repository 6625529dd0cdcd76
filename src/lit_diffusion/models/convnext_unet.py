"""The ConvNeXt U-Net of the third tutorial, as its text means it.

docs/tutorials.md lists the faults of the published listing that this one mends.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.shapes import Size, height_width
from lit_diffusion.models.blocks import (
    AugmentEmbedding,
    LabelEmbedding,
    group_norm,
    input_channels,
    sinusoidal,
    with_condition,
)


class ConvNeXtUNet(nn.Module):
    """Two ConvNeXt blocks per level, each with its own skip, and two in the middle.

    Any image size works: an odd one is padded before it is halved, and cut to its skip's size on
    the way back.

    Args:
        channels: image channels.
        image_size: side of an image, or [height, width], at least one pixel at the lowest level.
        width: channels of the first level, even.
        multipliers: channels of each level, in widths.
        num_classes: labels the network knows; 0 for none.
        condition_channels, augment_width: as in ``SmallUNet``.

    Raises:
        ConfigError: widths or image size that can't work.
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: Size = 28,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        num_classes: int = 0,
        condition_channels: int = 0,
        augment_width: int = 0,
    ):
        super().__init__()
        if width < 4 or width % 2 or not multipliers or min(multipliers) < 1:
            raise ConfigError(
                f"model.width is {width} and model.multipliers {list(multipliers)}: the width must be even "
                "and at least 4, and each level's multiplier at least 1"
            )
        if min(height_width(image_size)) < 2 ** (len(multipliers) - 1):
            raise ConfigError(
                f"data.image_size is {image_size}, too small to be halved {len(multipliers) - 1} times: "
                "choose fewer model.multipliers"
            )
        self.num_classes = num_classes
        self.condition_channels = condition_channels
        self.augment_width = augment_width
        self.width = width
        emb = 4 * width
        self.time_mlp = nn.Sequential(nn.Linear(width, emb), nn.GELU(), nn.Linear(emb, emb))
        self.label_embedding = LabelEmbedding(num_classes, emb)
        self.augment_embedding = AugmentEmbedding(augment_width, emb)
        self.conv_in = nn.Conv2d(input_channels(channels, condition_channels), width, 7, padding=3)

        levels = list(pairwise([width, *(width * m for m in multipliers)]))
        lowest = len(levels) - 1
        self.downs = nn.ModuleList(
            Level(
                ConvNeXtBlock(c, c, emb),
                ConvNeXtBlock(c, c, emb),
                Down(c, c_deeper) if level < lowest else nn.Conv2d(c, c_deeper, 3, padding=1),
            )
            for level, (c, c_deeper) in enumerate(levels)
        )
        middle = levels[-1][1]
        self.mid1 = ConvNeXtBlock(middle, middle, emb)
        self.mid2 = ConvNeXtBlock(middle, middle, emb)
        self.ups = nn.ModuleList(
            Level(
                ConvNeXtBlock(c_deeper + c, c_deeper, emb),
                ConvNeXtBlock(c_deeper + c, c_deeper, emb),
                Up(c_deeper, c) if level > 0 else nn.Conv2d(c_deeper, c, 3, padding=1),
            )
            for level, (c, c_deeper) in reversed(list(enumerate(levels)))
        )
        self.block_out = ConvNeXtBlock(2 * width, width, emb)
        self.conv_out = nn.Conv2d(width, channels, 1)

    def forward(
        self, x_t: Tensor, time_input: Tensor, y: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Return the output (B, C, H, W); the arguments are those of ``SmallUNet``."""
        inputs, y = with_condition(x_t, y, self.condition_channels)
        emb = self.time_mlp(sinusoidal(time_input, self.width, lowest=True).to(x_t))
        emb = emb + self.label_embedding(y, like=emb) + self.augment_embedding(augment, like=emb)
        h = self.conv_in(inputs)
        skips = [h]
        for level in self.downs:
            h = level.block1(h, emb)
            skips.append(h)
            h = level.block2(h, emb)
            skips.append(h)
            h = level.resample(h)
        h = self.mid2(self.mid1(h, emb), emb)
        for level in self.ups:
            h = level.block1(with_skip(h, skips.pop()), emb)
            h = level.block2(with_skip(h, skips.pop()), emb)
            h = level.resample(h)
        return self.conv_out(self.block_out(with_skip(h, skips.pop()), emb))


class Level(nn.Module):
    """The parts of one resolution, by name."""

    def __init__(self, block1: nn.Module, block2: nn.Module, resample: nn.Module):
        super().__init__()
        self.block1 = block1
        self.block2 = block2
        self.resample = resample


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, the embedding added, then 3x3 out to twice the width and back."""

    def __init__(self, c_in: int, c_out: int, emb: int):
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, 7, padding=3, groups=c_in)
        self.emb = nn.Sequential(nn.GELU(), nn.Linear(emb, c_in))
        self.convs = nn.Sequential(
            group_norm(1, c_in),
            nn.Conv2d(c_in, 2 * c_out, 3, padding=1),
            nn.GELU(),
            group_norm(1, 2 * c_out),
            nn.Conv2d(2 * c_out, c_out, 3, padding=1),
        )
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        out = self.depthwise(h) + self.emb(emb)[:, :, None, None]
        return self.convs(out) + self.skip(h)


class Down(nn.Module):
    """Space to depth, (B, C, H, W) -> (B, 4C, H/2, W/2), then a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = nn.Conv2d(4 * c_in, c_out, 1)

    def forward(self, h: Tensor) -> Tensor:
        height, width = h.shape[2:]
        h = F.pad(h, (0, width % 2, 0, height % 2))
        return self.conv(F.pixel_unshuffle(h, 2))


class Up(nn.Sequential):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(c_in, c_out, 3, padding=1))


def with_skip(h: Tensor, skip: Tensor) -> Tensor:
    """Concatenate h, cut to the skip's size where padding made it larger, and the skip."""
    height, width = skip.shape[2:]
    return torch.cat([h[:, :, :height, :width], skip], dim=1)
