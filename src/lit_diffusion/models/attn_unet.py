"""The attention U-Net of the first tutorial: MacFarquhar 2024, "The Art of Spread"."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError, check_whole_number
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
)


class AttnUNet(nn.Module):
    """Down, middle and up blocks, each a residual block and self-attention at every resolution.

    With the defaults and one image channel it has 6,067,857 parameters, and equals the tutorial's
    network given the same weights.

    Args:
        channels: image channels.
        image_size: side of an image, or [height, width], a multiple of 2 for each down-sampling.
        down_channels: width of the first convolution, then of each down block.
        mid_channels: width into the first middle block, then out of each.
        up_channels: width into the first up block, then out of each; all but the last mirror
            ``down_channels``.
        down_sample: which down blocks halve the resolution; the up blocks mirror it.
        time_width: features of the time embedding, even.
        heads: attention heads of every block.
        groups: groups of every group norm.
        num_classes: labels the network knows; 0 for none.
        attention_at: heights of the feature maps with attention; None: all.
        condition_channels, augment_width: as in ``SmallUNet``.

    Raises:
        ConfigError: widths, heads, groups or image size that don't fit each other.
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: Size = 28,
        down_channels: Sequence[int] = (32, 64, 128, 256),
        mid_channels: Sequence[int] = (256, 256, 128),
        up_channels: Sequence[int] = (128, 64, 32, 16),
        down_sample: Sequence[bool] = (True, True, False),
        time_width: int = 128,
        heads: int = 4,
        groups: int = 8,
        num_classes: int = 0,
        attention_at: Sequence[int] | None = None,
        condition_channels: int = 0,
        augment_width: int = 0,
    ):
        super().__init__()
        check_whole_number("model.heads", heads, least=1)
        check_widths(down_channels, mid_channels, up_channels, down_sample, time_width)
        height, _ = check_image_size(image_size, 2 ** sum(down_sample))
        heights = [height // 2**halvings for halvings in accumulate(down_sample, initial=0)]
        attends = attention_levels(attention_at, heights, [True] * len(heights))
        self.num_classes = num_classes
        self.condition_channels = condition_channels
        self.augment_width = augment_width
        self.time_width = time_width
        self.time_mlp = nn.Sequential(
            nn.Linear(time_width, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.label_embedding = LabelEmbedding(num_classes, time_width)
        self.augment_embedding = AugmentEmbedding(augment_width, time_width)
        self.conv_in = nn.Conv2d(input_channels(channels, condition_channels), down_channels[0], 3, padding=1)

        block = {"time_width": time_width, "groups": groups}
        level_heads = [heads if attend else 0 for attend in attends]
        levels = list(zip(down_sample, level_heads[:-1], strict=True))
        self.downs = nn.ModuleList(
            DownBlock(c_in, c_out, halve, heads=n, **block)
            for (c_in, c_out), (halve, n) in zip(pairwise(down_channels), levels, strict=True)
        )
        self.mids = nn.ModuleList(
            MidBlock(c_in, c_out, heads=level_heads[-1], **block) for c_in, c_out in pairwise(mid_channels)
        )
        self.ups = nn.ModuleList(
            UpBlock(c_in, c_out, double, heads=n, **block)
            for (c_in, c_out), (double, n) in zip(pairwise(up_channels), reversed(levels), strict=True)
        )
        self.norm_out = group_norm(groups, up_channels[-1])
        self.conv_out = nn.Conv2d(up_channels[-1], channels, 3, padding=1)

    def forward(
        self, x_t: Tensor, time_input: Tensor, y: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Return the output (B, C, H, W); the arguments are those of ``SmallUNet``."""
        inputs, y = with_condition(x_t, y, self.condition_channels)
        emb = self.time_mlp(sinusoidal(time_input, self.time_width).to(x_t))
        emb = emb + self.label_embedding(y, like=emb) + self.augment_embedding(augment, like=emb)
        h = self.conv_in(inputs)
        skips = []
        for down in self.downs:
            skips.append(h)
            h = down(h, emb)
        for mid in self.mids:
            h = mid(h, emb)
        for up in self.ups:
            h = up(h, skips.pop(), emb)
        return self.conv_out(nn.functional.silu(self.norm_out(h)))


class ResBlock(nn.Module):
    """Two convolutions with the embedding added between them, and a 1x1 convolution around them."""

    def __init__(self, c_in: int, c_out: int, time_width: int, groups: int):
        super().__init__()
        self.first = nn.Sequential(group_norm(groups, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb = nn.Sequential(nn.SiLU(), nn.Linear(time_width, c_out))
        self.second = nn.Sequential(
            group_norm(groups, c_out), nn.SiLU(), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip = nn.Conv2d(c_in, c_out, 1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        out = self.first(h) + self.emb(emb)[:, :, None, None]
        return self.second(out) + self.skip(h)


class DownBlock(nn.Module):
    """Residual block, attention, and a strided convolution if the block halves."""

    def __init__(self, c_in: int, c_out: int, halve: bool, time_width: int, groups: int, heads: int):
        super().__init__()
        self.res = ResBlock(c_in, c_out, time_width, groups)
        self.attention = attention_or_none(c_out, heads, groups)
        self.resample = nn.Conv2d(c_out, c_out, 4, stride=2, padding=1) if halve else nn.Identity()

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.resample(self.attention(self.res(h, emb)))


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, c_in: int, c_out: int, time_width: int, groups: int, heads: int):
        super().__init__()
        self.res1 = ResBlock(c_in, c_out, time_width, groups)
        self.attention = attention_or_none(c_out, heads, groups)
        self.res2 = ResBlock(c_out, c_out, time_width, groups)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.res2(self.attention(self.res1(h, emb)), emb)


class UpBlock(nn.Module):
    """Transposed convolution if the block doubles, then the skip, residual block and attention."""

    def __init__(self, c_in: int, c_out: int, double: bool, time_width: int, groups: int, heads: int):
        super().__init__()
        self.resample = nn.ConvTranspose2d(c_in, c_in, 4, stride=2, padding=1) if double else nn.Identity()
        self.res = ResBlock(2 * c_in, c_out, time_width, groups)
        self.attention = attention_or_none(c_out, heads, groups)

    def forward(self, h: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        h = torch.cat([self.resample(h), skip], dim=1)
        return self.attention(self.res(h, emb))


def check_widths(
    down: Sequence[int], mid: Sequence[int], up: Sequence[int], down_sample: Sequence[bool], time_width: int
) -> None:
    """Raise ConfigError unless the widths of the three parts meet."""
    if not len(down) == len(up) == len(down_sample) + 1 or len(mid) < 2:
        raise ConfigError(
            f"model.down_channels has {len(down)} widths, up_channels {len(up)}, down_sample "
            f"{len(down_sample)} and mid_channels {len(mid)}: the first two must be equal, the third one "
            "less, the last at least 2"
        )
    if mid[0] != down[-1] or mid[-1] != up[0] or list(up[:-1]) != list(down[-2::-1]):
        raise ConfigError(
            f"the model's widths don't meet: down_channels {list(down)}, mid_channels {list(mid)}, "
            f"up_channels {list(up)}; mid must begin as down ends and end as up begins, and up, but for "
            "its last, must run through down backwards from its last but one"
        )
    if time_width < 2 or time_width % 2:
        raise ConfigError(f"model.time_width is {time_width}, but it must be an even number")
