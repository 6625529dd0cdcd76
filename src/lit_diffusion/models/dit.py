"""A diffusion transformer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_diffusion.common.errors import ConfigError, check_number, check_whole_number
from lit_diffusion.common.shapes import Size
from lit_diffusion.models.blocks import (
    AugmentEmbedding,
    LabelEmbedding,
    attention,
    check_divides,
    check_image_size,
    input_channels,
    sinusoidal,
    with_condition,
    zero_init,
)

BASE = 100.0  # of the geometric series of wavelengths, over 2 pi, in patches


class DiT(nn.Module):
    """A transformer whose tokens are patches of the image (Peebles and Xie 2023, DiT).

    Time and label set scale, shift and gate of every block. The gates start at zero: training starts from
    blocks that are identities and an output of zero. Sines and cosines of its row and column are added to
    each token, as in the paper, here with base 100; attention is told the rows and columns between two
    tokens by rotating queries and keys (Su et al. 2021, RoPE). Li and He 2025 (JiT) have both too. Queries
    and keys are normalised (Henry et al. 2020), so that attention doesn't saturate.

    Args:
        channels: image channels.
        image_size: side of an image, or [height, width], divisible by the patches' side.
        patch_size: side of a patch, in pixels.
        width: features of a token, a multiple of 4 for each head.
        depth: blocks.
        heads: attention heads.
        expansion: hidden features of each block's perceptron, in widths.
        num_classes: labels the network knows; 0 for none.
        dropout: share of the features dropped in each block.
        long_skips: whether the last block is also given what the first one made, the one before it what the
            second one made, and so on to the middle (Bao et al. 2023, U-ViT).
        condition_channels: channels of an image that conditions the network, beside x_t; 0 for none.
        augment_width: numbers that tell how an image was augmented; 0 for none.

    Raises:
        ConfigError: a width, heads, patches or image size that don't fit each other.
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: Size = 28,
        patch_size: int = 4,
        width: int = 192,
        depth: int = 4,
        heads: int = 6,
        expansion: int = 4,
        num_classes: int = 0,
        dropout: float = 0.0,
        long_skips: bool = False,
        condition_channels: int = 0,
        augment_width: int = 0,
    ):
        super().__init__()
        for name, value in (("patch_size", patch_size), ("depth", depth), ("expansion", expansion)):
            check_whole_number(f"model.{name}", value, least=1)
        check_number("model.dropout", dropout, least=0, most=0.99)
        check_divides("heads", heads, width)
        if width // heads % 4:
            raise ConfigError(
                f"model.width is {width} and model.heads {heads}, which gives each head {width // heads} "
                "features: choose a width of which each head has a multiple of 4"
            )
        height, length = (side // patch_size for side in check_image_size(image_size, patch_size))
        self.grid = (height, length)
        self.num_classes = num_classes
        self.condition_channels = condition_channels
        self.augment_width = augment_width
        self.width = width
        self.time_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label_embedding = LabelEmbedding(num_classes, width)
        self.augment_embedding = AugmentEmbedding(augment_width, width)
        patch = (patch_size, patch_size)
        self.patches = nn.Conv2d(input_channels(channels, condition_channels), width, patch, stride=patch)
        # kept with the weights, so that weights trained without them are refused
        self.register_buffer("positions", torch.cat(waves(height, length, width).unbind(), dim=1))
        self.register_buffer("rotation", waves(height, length, width // heads), persistent=False)
        self.blocks = nn.ModuleList([Block(width, heads, expansion * width, dropout) for _ in range(depth)])
        skips = (depth - 1) // 2 if long_skips else 0
        self.merges = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(skips)])
        self.norm_out = Modulated(width, parts=2)
        self.out = zero_init(nn.ConvTranspose2d(width, channels, patch, stride=patch))

    def forward(
        self, x_t: Tensor, time_input: Tensor, y: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Return the output (B, C, H, W).

        Args:
            x_t: noisy images, (B, C, H, W).
            time_input: their times, (B,).
            y: labels (B,), or images (B, condition_channels, H, W); None for no condition.
            augment: how the images were augmented, (B, augment_width); None for not at all.

        Raises:
            ConfigError: images of another size than ``image_size``.
        """
        inputs, y = with_condition(x_t, y, self.condition_channels)
        emb = self.time_mlp(sinusoidal(time_input, self.width).to(x_t))
        emb = emb + self.label_embedding(y, like=emb) + self.augment_embedding(augment, like=emb)
        h = self.patches(inputs)
        rows, columns = h.shape[2:]
        if (rows, columns) != self.grid:
            raise ConfigError(
                f"images of {x_t.shape[2]} x {x_t.shape[3]} pixels are {rows} x {columns} patches, but this "
                f"network has places for {self.grid[0]} x {self.grid[1]}: give it images of its own size"
            )
        h = h.flatten(2).transpose(1, 2) + self.positions.to(h)  # (B, tokens, width)
        made, up = [], len(self.blocks) - len(self.merges)
        for block in self.blocks[:up]:
            h = block(h, emb, self.rotation)
            made.append(h)
        skips = reversed(made[: len(self.merges)])
        for merge, block, skip in zip(self.merges, self.blocks[up:], skips, strict=True):
            h = block(merge(torch.cat([h, skip], dim=2)), emb, self.rotation)
        h, _ = self.norm_out(h, emb)
        return self.out(h.transpose(1, 2).unflatten(2, (rows, columns)))


class Modulated(nn.Module):
    """A layer norm whose scale and shift, and perhaps a gate, depend on the embedding; all start at zero.

    Args:
        width: features of a token, and of the embedding.
        parts: 2 for scale and shift, 3 for a gate too.
    """

    def __init__(self, width: int, parts: int):
        super().__init__()
        self.parts = parts
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = zero_init(nn.Linear(width, parts * width))

    def forward(self, h: Tensor, emb: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return tokens (B, N, width), scaled and shifted, and their gate (B, 1, width)."""
        scale, shift, *gate = self.linear(F.silu(emb))[:, None].chunk(self.parts, dim=2)
        return self.norm(h) * (1 + scale) + shift, gate[0] if gate else None


class Block(nn.Module):
    """Attention of each token to all, then a perceptron, each added through a gate."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.before_attention = Modulated(width, parts=3)
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)
        self.mix = nn.Linear(width, width)
        self.before_mlp = Modulated(width, parts=3)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(hidden, width)
        )

    def forward(self, h: Tensor, emb: Tensor, rotation: Tensor) -> Tensor:
        """Return tokens like h (B, N, width)."""
        tokens, gate = self.before_attention(h, emb)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotated(self.q_norm(q), rotation).to(v), rotated(self.k_norm(k), rotation).to(v)
        h = h + gate * self.mix(attention(q, k, v).transpose(1, 2).flatten(2))
        tokens, gate = self.before_mlp(h, emb)
        return h + gate * self.mlp(tokens)


def waves(rows: int, columns: int, features: int) -> Tensor:
    """Return cosines and sines of each token's row and column, (2, rows columns, features / 2)."""
    quarter = features // 4
    frequencies = BASE ** -(torch.arange(quarter) / quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([place.reshape(-1, 1) * frequencies for place in (row, column)], dim=1)
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Return x (B, heads, N, D), each pair of features turned by its token's angle."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotation
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
