"""A small, fast U-Net: the default on a CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_diffusion.common.errors import ConfigError, check_number, check_whole_number
from lit_diffusion.common.shapes import Size
from lit_diffusion.models.blocks import (
    AugmentEmbedding,
    LabelEmbedding,
    attention_levels,
    attention_or_none,
    check_image_size,
    group_norm,
    input_channels,
    sinusoidal,
    with_condition,
    zero_init,
)


class SmallUNet(nn.Module):
    """A residual U-Net (Dhariwal and Nichol 2021) on 2x2 patches, with attention at its lowest level.

    Pixels are folded into channels first, 28x28 to 14x14x4, which saves three quarters of the work;
    ``patch_size=1`` leaves them as they are.
    Time and label set a scale and a shift in every block. The last convolution also sees the first
    one's output, a straight way for the noise that the network must copy. The last convolution of
    each block and of the network starts at zero: training starts from identities and an output of zero.

    Args:
        channels: image channels.
        image_size: side of an image, or [height, width], divisible by the patches' side and by 2 for each
            level but the first.
        widths: channels of each level, the first one even.
        blocks: residual blocks of each level, as many going down as coming up.
        heads: attention heads at the lowest level.
        groups: groups of every group norm.
        num_classes: labels the network knows; 0 for none.
        patch_size: side of a patch, in pixels.
        attention_at: heights of the feature maps with attention; None: the lowest level's.
        dropout: share of the features dropped in each block.
        condition_channels: channels of an image that conditions the network, beside x_t; 0 for none.
        augment_width: numbers that tell how an image was augmented; 0 for none.

    Raises:
        ConfigError: widths, heads, groups or image size that don't fit each other.
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: Size = 28,
        widths: Sequence[int] = (64, 112),
        blocks: Sequence[int] = (1, 2),
        heads: int = 4,
        groups: int = 8,
        num_classes: int = 0,
        patch_size: int = 2,
        attention_at: Sequence[int] | None = None,
        dropout: float = 0.0,
        condition_channels: int = 0,
        augment_width: int = 0,
    ):
        super().__init__()
        if not widths or len(widths) != len(blocks) or min([*widths, *blocks]) < 1 or widths[0] % 2:
            raise ConfigError(
                f"model.widths is {list(widths)} and model.blocks {list(blocks)}: give each level one "
                "width and at least 1 block, and the first level an even width"
            )
        check_whole_number("model.heads", heads, least=1)
        check_whole_number("model.patch_size", patch_size, least=1)
        check_number("model.dropout", dropout, least=0, most=0.99)
        height, _ = check_image_size(image_size, patch_size * 2 ** (len(widths) - 1))
        heights = [height // (patch_size * 2**level) for level in range(len(widths))]
        lowest = len(widths) - 1
        attends = attention_levels(attention_at, heights, [level == lowest for level in range(len(widths))])
        self.num_classes = num_classes
        self.patch_size = patch_size
        self.condition_channels = condition_channels
        self.augment_width = augment_width
        self.time_width = widths[0]
        emb = 4 * widths[0]
        self.time_mlp = nn.Sequential(nn.Linear(self.time_width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_embedding = LabelEmbedding(num_classes, emb)
        self.augment_embedding = AugmentEmbedding(augment_width, emb)
        pixels = patch_size**2
        self.conv_in = nn.Conv2d(
            pixels * input_channels(channels, condition_channels), widths[0], 3, padding=1
        )

        def block(c_in: int, c_out: int, level: int) -> ResBlock:
            return ResBlock(c_in, c_out, emb, groups, heads if attends[level] else 0, dropout)

        self.downs = nn.ModuleList()
        c = widths[0]
        for level, (width, n) in enumerate(zip(widths, blocks, strict=True)):
            halve = Down(c) if level else nn.Identity()
            level_blocks = [block(c if i == 0 else width, width, level) for i in range(n)]
            self.downs.append(Level(halve, level_blocks))
            c = width
        self.mid = block(c, c, lowest)
        self.ups = nn.ModuleList()
        for level, (width, n) in reversed(list(enumerate(zip(widths, blocks, strict=True)))):
            double = Up(c, width) if level < lowest else nn.Identity()
            level_blocks = [block(2 * width, width, level) for i in range(n)]
            self.ups.append(Level(double, level_blocks))
            c = width
        self.norm_out = group_norm(groups, c)
        self.conv_out = zero_init(nn.Conv2d(2 * c, pixels * channels, 3, padding=1))

    def forward(
        self, x_t: Tensor, time_input: Tensor, y: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Return the output (B, C, H, W).

        Args:
            x_t: noisy images, (B, C, H, W).
            time_input: their times, (B,).
            y: labels (B,), or images (B, condition_channels, H, W); None for no condition.
            augment: how the images were augmented, (B, augment_width); None for not at all.
        """
        inputs, y = with_condition(x_t, y, self.condition_channels)
        emb = self.time_mlp(sinusoidal(time_input, self.time_width).to(x_t))
        emb = emb + self.label_embedding(y, like=emb) + self.augment_embedding(augment, like=emb)
        h = first = self.conv_in(F.pixel_unshuffle(inputs, self.patch_size))
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
        return F.pixel_shuffle(self.conv_out(h), self.patch_size)


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
        dropout: share of the features dropped before the second convolution.
    """

    def __init__(self, c_in: int, c_out: int, emb: int, groups: int, heads: int, dropout: float):
        super().__init__()
        self.first = nn.Sequential(group_norm(groups, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.norm = group_norm(groups, c_out)
        self.emb = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * c_out))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.second = zero_init(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = attention_or_none(c_out, heads, groups)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)
        out = self.norm(self.first(h)) * (1 + scale) + shift
        return self.attention(self.second(self.dropout(F.silu(out))) + self.skip(h))


class Down(nn.Sequential):
    """Space to depth, (B, C, H, W) -> (B, 4C, H/2, W/2), then a 1x1 convolution back to C."""

    def __init__(self, channels: int):
        super().__init__(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, channels, 1))


class Up(nn.Sequential):
    """The way back: a 1x1 convolution to 4 times the channels, then depth to space."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(nn.Conv2d(c_in, 4 * c_out, 1), nn.PixelShuffle(2))
