"""Blocks that the networks share: embeddings of time and label, and self-attention over pixels."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.shapes import Size, height_width


def sinusoidal(time_input: Tensor, width: int, lowest: bool = False) -> Tensor:
    """Return sines, then cosines, of the time at geometrically spaced frequencies (Vaswani et al. 2017).

    Args:
        time_input: (B,).
        width: even number of features.
        lowest: let the frequencies reach 1/10000 itself, instead of stopping one short of it.

    Returns:
        (B, width).
    """
    half = width // 2
    exponent = torch.arange(half, device=time_input.device, dtype=time_input.dtype) / (half - lowest)
    angle = time_input[:, None] * torch.exp(-math.log(10000) * exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class LabelEmbedding(nn.Module):
    """A vector for each label, and one, the last, for no label.

    Args:
        num_classes: 0 for a network without labels, whose embedding is then zero.
        width: features of the vector.
    """

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        if num_classes < 0:
            raise ConfigError(f"model.num_classes is {num_classes}: choose 0 (no labels) or more")
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width) if num_classes else None

    def forward(self, y: Tensor | None, like: Tensor) -> Tensor:
        """Return embeddings (B, width) of labels y (B,), shaped and typed like the time's embedding."""
        y = labels_or_null(y, self.num_classes, like)
        return torch.zeros_like(like) if self.table is None else self.table(y)


def labels_or_null(y: Tensor | None, num_classes: int, like: Tensor) -> Tensor:
    """Return the labels y (B,), for None the null label of each of like (B, ...).

    Raises:
        ConfigError: labels for a network that knows none.
    """
    if y is None:
        return torch.full((like.shape[0],), num_classes, device=like.device)  # len would fix it in an export
    if num_classes == 0:
        raise ConfigError("labels were given to a network without any: set model.num_classes")
    return y


def input_channels(channels: int, condition_channels: int) -> int:
    """Return the channels of a network's input; ConfigError for a negative number of them."""
    check_whole_number("model.condition_channels", condition_channels, least=0)
    return channels + condition_channels


def with_condition(x_t: Tensor, y: Tensor | None, channels: int) -> tuple[Tensor, Tensor | None]:
    """Return what a network's first convolution is given, and the labels.

    A condition that is an image becomes further channels of x_t (Saharia et al. 2021, SR3); no condition
    is an image of zeros.

    Args:
        x_t: noisy images, (B, C, H, W).
        y: images (B, channels, H, W) if there are such channels, else labels (B,); None for no condition.
        channels: of the images that condition the network; 0 for a network that isn't.
    """
    if channels == 0:
        return x_t, y
    batch, _, *sides = x_t.shape
    image = x_t.new_zeros(batch, channels, *sides) if y is None else y.to(x_t)
    return torch.cat([x_t, image], dim=1), None


class AugmentEmbedding(nn.Module):
    """A linear map of how each image was augmented (Karras et al. 2022, appendix F.2), zero for not at all.

    Args:
        augment_width: numbers that say how; 0 for a network that isn't told.
        width: features of the embedding.
    """

    def __init__(self, augment_width: int, width: int):
        super().__init__()
        check_whole_number("model.augment_width", augment_width, least=0)
        self.linear = nn.Linear(augment_width, width, bias=False) if augment_width else None

    def forward(self, augment: Tensor | None, like: Tensor) -> Tensor:
        """Return embeddings (B, width) of numbers (B, augment_width), like the time's embedding."""
        if self.linear is None or augment is None:
            return torch.zeros_like(like)
        return self.linear(augment.to(like))


MOST_PLAIN_PIXELS = 256
Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class SelfAttention(nn.Module):
    """x plus multi-head attention of each pixel to all, after a group norm. Shapes (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, groups: int):
        super().__init__()
        check_divides("heads", heads, channels)
        self.heads = heads
        self.norm = group_norm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = self.qkv(pixels).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v)  # (B, heads, HW, C / heads)
        out = self.out(mixed.transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).unflatten(2, x.shape[2:])


def attention_or_none(channels: int, heads: int, groups: int) -> nn.Module:
    """Return self-attention, or the identity for no heads."""
    return SelfAttention(channels, heads, groups) if heads else nn.Identity()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v of queries, keys and values (B, heads, HW, D)."""
    if q.is_cpu and q.dtype == torch.bfloat16 and q.requires_grad:
        return _bfloat16_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _bfloat16_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention in the way that trains fastest in bfloat16 on a CPU.

    There the fused kernel's backward takes up to nine times as long in bfloat16 as in float32, and
    sdpa_kernel(MATH) multiplies in float32. Plain products are fastest while a head's matrix of all
    pairs of pixels stays in the cache, the fused kernel in float32 beyond.
    """
    with torch.autocast("cpu", enabled=False):
        if q.shape[2] > MOST_PLAIN_PIXELS:
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v


def group_norm(groups: int, channels: int) -> nn.GroupNorm:
    """Return a group norm; raise ConfigError if the groups don't divide the channels."""
    check_divides("groups", groups, channels)
    return nn.GroupNorm(groups, channels)


def check_divides(name: str, divisor: int, channels: int) -> None:
    """Raise ConfigError unless the divisor (heads, groups) splits the channels evenly."""
    if channels < 1:
        raise ConfigError(f"the model has a layer of {channels} channels: every width must be at least 1")
    if divisor < 1 or channels % divisor:
        raise ConfigError(
            f"model.{name} is {divisor}, which does not divide the {channels} channels of one of its "
            f"layers: choose a {name} that divides every width"
        )


def check_image_size(image_size: Size, divisor: int) -> tuple[int, int]:
    """Return (H, W) of the images; ConfigError unless they can be halved as often as the network does."""
    sides = height_width(image_size)
    if any(side % divisor for side in sides):
        smaller = [max(side // divisor, 1) * divisor for side in sides]
        larger = [math.ceil(side / divisor) * divisor for side in sides]
        sizes = [size[0] if size[0] == size[1] else size for size in (smaller, larger)]
        raise ConfigError(
            f"data.image_size is {image_size}, but this network needs multiples of {divisor}: choose "
            f"{' or '.join(dict.fromkeys(map(str, sizes)))}, or another network"
        )
    return sides


def attention_levels(
    attention_at: Sequence[int] | None, heights: Sequence[int], default: Sequence[bool]
) -> Sequence[bool]:
    """Return which levels of a network attend.

    Args:
        attention_at: heights of the feature maps that attend; None: as the default has it.
        heights: of each level's feature maps.
        default: which levels attend if none is named.

    Raises:
        ConfigError: there is no level of such a height.
    """
    if attention_at is None:
        return default
    if unknown := [height for height in attention_at if height not in heights]:
        raise ConfigError(
            f"model.attention_at is {list(attention_at)}, but no level is {unknown[0]} pixels high: choose "
            f"from {', '.join(map(str, dict.fromkeys(heights)))}, or null"
        )
    return [height in attention_at for height in heights]


def zero_init(layer: Layer) -> Layer:
    """Return the layer with zero weights, so that its output is zero at the start of training."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
