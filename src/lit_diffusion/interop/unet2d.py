"""The U-Net of diffusers as a network to train."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError, check_installed
from lit_diffusion.common.shapes import Size
from lit_diffusion.models.blocks import (
    attention_levels,
    check_divides,
    check_image_size,
    input_channels,
    labels_or_null,
    with_condition,
)


class UNet2D(nn.Module):
    """diffusers' ``UNet2DModel``; needs diffusers.

    With the defaults it is the network that Ho et al. 2020 trained on CIFAR-10, of 35.7 million parameters,
    as google/ddpm-cifar10-32 has it.

    Args:
        channels: image channels.
        image_size: side of an image, or [height, width], divisible by 2 for each level but the first.
        widths: channels of each level.
        blocks: residual blocks of each level going down; there is one more coming up.
        attention_at: heights of the feature maps with attention, beside the middle; None: 16 pixels.
        groups: groups of every group norm.
        dropout: share of the features dropped in each block.
        num_classes: labels the network knows; 0 for none.
        condition_channels: as in ``SmallUNet``.
        options: more of ``UNet2DModel``'s arguments, {resnet_time_scale_shift: scale_shift} for example.

    Raises:
        ConfigError: diffusers isn't installed, or widths, groups or image size don't fit each other.
    """

    def __init__(
        self,
        channels: int = 3,
        image_size: Size = 32,
        widths: Sequence[int] = (128, 256, 256, 256),
        blocks: int = 2,
        attention_at: Sequence[int] | None = None,
        groups: int = 32,
        dropout: float = 0.0,
        num_classes: int = 0,
        condition_channels: int = 0,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_installed("model=unet2d needs", ["diffusers"], extra="export")
        from diffusers import UNet2DModel

        if not widths or blocks < 1 or num_classes < 0:
            raise ConfigError(
                f"model.widths is {list(widths)}, model.blocks {blocks} and model.num_classes {num_classes}: "
                "give at least one width and block, and 0 classes (no labels) or more"
            )
        for width in widths:
            check_divides("groups", groups, width)
        sides = check_image_size(image_size, 2 ** (len(widths) - 1))
        heights = [sides[0] // 2**level for level in range(len(widths))]
        attends = attention_levels(attention_at, heights, [height == 16 for height in heights])
        self.num_classes = num_classes
        self.condition_channels = condition_channels
        arguments = {
            "sample_size": sides,
            "in_channels": input_channels(channels, condition_channels),
            "out_channels": channels,
            "block_out_channels": tuple(widths),
            "layers_per_block": blocks,
            "down_block_types": tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            "up_block_types": tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            "attention_head_dim": None,
            "norm_num_groups": groups,
            "norm_eps": 1e-6,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "dropout": dropout,
            "num_class_embeds": num_classes + 1 if num_classes else None,
        }
        if twice := sorted({*arguments} & {*(options or {})}):
            raise ConfigError(
                f"model.options has {twice[0]}, which is set already: use the model's own keys for it"
            )
        self.unet = UNet2DModel(**arguments, **(options or {}))

    def forward(self, x_t: Tensor, time_input: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the output (B, C, H, W); the arguments are those of ``SmallUNet``."""
        inputs, y = with_condition(x_t, y, self.condition_channels)
        labels = labels_or_null(y, self.num_classes, x_t) if self.num_classes else None
        return self.unet(inputs, time_input, labels, return_dict=False)[0]
