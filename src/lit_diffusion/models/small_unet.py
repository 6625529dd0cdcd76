"""A small, fast U-Net: the default on a CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.models.blocks import (
    LabelEmbedding,
    SelfAttention,
    check_image_size,
    group_norm,
    sinusoidal,
)


class SmallUNet(nn.Module):
    """A residual U-Net (Dhariwal and Nichol 2021) on 2x2 patches, with attention at its lowest level.

    Pixels are folded into channels first, 28x28 to 14x14x4, which saves three quarters of the work.
    Time and label set a scale and a shift in every block. The last convolution also sees the first
    one's output, a straight way for the noise that the network must copy. The last convolution of
    each block and of the network starts at zero: training starts from identities and an output of zero.

    Args:
        channels: image channels.
        image_size: height and width of an image, divisible by 2 for the patches and for each level
            but the first.
        widths: channels of each level, the first one even.
        blocks: residual blocks of each level, as many going down as coming up.
        heads: attention heads at the lowest level.
        groups: groups of every group norm.
        num_classes: labels the network knows; 0 for none.

    Raises:
        ConfigError: widths, heads, groups or image size that don't fit each other.
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: int = 28,
        widths: Sequence[int] = (64, 112),
        blocks: Sequence[int] = (1, 2),
        heads: int = 4,
        groups: int = 8,
        num_classes: int = 0,
    ):
        super().__init__()
        if not widths or len(widths) != len(blocks) or min([*widths, *blocks]) < 1 or widths[0] % 2:
            raise ConfigError(
                f"model.widths is {list(widths)} and model.blocks {list(blocks)}: give each level one "
                "width and at least 1 block, and the first level an even width"
            )
        check_image_size(image_size, 2 ** len(widths))
        self.num_classes = num_classes
        self.time_width = widths[0]
        emb = 4 * widths[0]
        self.time_mlp = nn.Sequential(nn.Linear(self.time_width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_embedding = LabelEmbedding(num_classes, emb)
        self.conv_in = nn.Conv2d(4 * channels, widths[0], 3, padding=1)

        def block(c_in: int, c_out: int, level: int) -> ResBlock:
            lowest = level == len(widths) - 1
            return ResBlock(c_in, c_out, emb, groups, heads if lowest else 0)

        self.downs = nn.ModuleList()
        c = widths[0]
        for level, (width, n) in enumerate(zip(widths, blocks, strict=True)):
            halve = Down(c) if level else nn.Identity()
            level_blocks = [block(c if i == 0 else width, width, level) for i in range(n)]
            self.downs.append(Level(halve, level_blocks))
            c = width
        self.mid = block(c, c, len(widths) - 1)
        self.ups = nn.ModuleList()
        for level, (width, n) in reversed(list(enumerate(zip(widths, blocks, strict=True)))):
            double = Up(c, width) if level < len(widths) - 1 else nn.Identity()
            level_blocks = [block(2 * width, width, level) for i in range(n)]
            self.ups.append(Level(double, level_blocks))
            c = width
        self.norm_out = group_norm(groups, c)
        self.conv_out = zero_init(nn.Conv2d(2 * c, 4 * channels, 3, padding=1))

    def forward(self, x_t: Tensor, time_input: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, C, H, W) noisy images, (B,) times, (B,) labels or None -> (B, C, H, W)."""
        emb = self.time_mlp(sinusoidal(time_input, self.time_width).to(x_t))
        emb = emb + self.label_embedding(y, like=emb)
        h = first = self.conv_in(F.pixel_unshuffle(x_t, 2))
        skips = []
        for level in self.downs:
            h = level.resample(h)
            for block in level.blocks:
                h = block(h, emb)
                skips.append(h)
        h = self.mid(h, emb)
        for level in self.ups:
            h = level.resample(h)
            for block in level.blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), emb)
        h = torch.cat([F.silu(self.norm_out(h)), first], dim=1)
        return F.pixel_shuffle(self.conv_out(h), 2)


class Level(nn.Module):
    """The change of resolution into a level, and the level's blocks."""

    def __init__(self, resample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.resample = resample
        self.blocks = nn.ModuleList(blocks)


class ResBlock(nn.Module):
    """Two convolutions, the second's norm scaled and shifted by the embedding, then attention.

    Args:
        heads: attention heads; 0 for no attention.
    """

    def __init__(self, c_in: int, c_out: int, emb: int, groups: int, heads: int):
        super().__init__()
        self.first = nn.Sequential(group_norm(groups, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.norm = group_norm(groups, c_out)
        self.emb = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * c_out))
        self.second = zero_init(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = SelfAttention(c_out, heads, groups) if heads else nn.Identity()

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)
        out = self.norm(self.first(h)) * (1 + scale) + shift
        return self.attention(self.second(F.silu(out)) + self.skip(h))


class Down(nn.Sequential):
    """Space to depth, (B, C, H, W) -> (B, 4C, H/2, W/2), then a 1x1 convolution back to C."""

    def __init__(self, channels: int):
        super().__init__(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, channels, 1))


class Up(nn.Sequential):
    """The way back: a 1x1 convolution to 4 times the channels, then depth to space."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(nn.Conv2d(c_in, 4 * c_out, 1), nn.PixelShuffle(2))


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution with zero weights, so that its output is zero at the start of training."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
