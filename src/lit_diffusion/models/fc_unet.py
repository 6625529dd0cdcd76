"""The U-Net of the second tutorial's part B, with a bottleneck of one pixel."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.shapes import Size, height_width
from lit_diffusion.models.blocks import labels_or_null


class FCUNet(nn.Module):
    """Two levels down, an average over all 7x7 pixels, and two levels up; small MLPs set time and label.

    Time alone scales the unflattened features and those of the first up block, ``h * t``; with labels
    they are scaled by the label and shifted by the time, ``c * h + t``. The label is one-hot, and all
    zeros for no label.

    Several processes each normalise by their own batch, unless ``trainer.sync_batchnorm=true``.

    Args:
        channels: image channels.
        image_size: side of an image: 28.
        width: hidden channels, the tutorial's D.
        time: whether the network uses the time; a denoiser of one noise level need not.
        num_classes: labels the network knows; 0 for none.

    Raises:
        ConfigError: another image size, or labels without time.
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: Size = 28,
        width: int = 64,
        time: bool = True,
        num_classes: int = 0,
    ):
        super().__init__()
        if height_width(image_size) != (28, 28):
            raise ConfigError(
                f"data.image_size is {image_size}, but fc_unet takes 28x28 images alone, which its "
                "bottleneck of 7x7 pixels is made for: choose another network"
            )
        if width < 1 or num_classes < 0:
            raise ConfigError(
                f"model.width is {width} and model.num_classes {num_classes}: choose at least 1 and 0"
            )
        if num_classes and not time:
            raise ConfigError("model.time is false with labels: fc_unet's labels need the time beside them")
        d = width
        self.num_classes = num_classes
        self.conv_in = conv_block(channels, d)
        self.down1 = nn.Sequential(down_conv(d, d), conv_block(d, d))
        self.down2 = nn.Sequential(down_conv(d, 2 * d), conv_block(2 * d, 2 * d))
        self.flatten = nn.Sequential(nn.AvgPool2d(7), nn.GELU())
        self.unflatten = norm_gelu(nn.ConvTranspose2d(2 * d, 2 * d, 7))
        self.up1 = nn.Sequential(up_conv(4 * d, d), conv_block(d, d))
        self.up2 = nn.Sequential(up_conv(2 * d, d), conv_block(d, d))
        self.conv_out = nn.Sequential(conv_block(2 * d, d), nn.Conv2d(d, channels, 3, padding=1))
        self.modulate1 = Modulation(2 * d, time, num_classes)
        self.modulate2 = Modulation(d, time, num_classes)

    def forward(self, x_t: Tensor, time_input: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, C, 28, 28) noisy images, (B,) times, (B,) labels or None -> (B, C, 28, 28)."""
        t = (time_input[:, None] / 1000).to(x_t)  # (B, 1), in [0, 1] on a path of 1000 steps
        y = labels_or_null(y, self.num_classes, x_t)
        c = F.one_hot(y, self.num_classes + 1)[:, :-1].to(x_t)  # (B, num_classes), 0 for no label
        full = self.conv_in(x_t)  # (B, D, 28, 28)
        half = self.down1(full)  # (B, D, 14, 14)
        quarter = self.down2(half)  # (B, 2D, 7, 7)
        h = self.modulate1(self.unflatten(self.flatten(quarter)), t, c)
        h = self.modulate2(self.up1(torch.cat([h, quarter], dim=1)), t, c)
        h = self.up2(torch.cat([h, half], dim=1))
        return self.conv_out(torch.cat([h, full], dim=1))


class Modulation(nn.Module):
    """h * t, or c * h + t with labels, each factor a small MLP's; h itself without time."""

    def __init__(self, width: int, time: bool, num_classes: int):
        super().__init__()
        self.time = fc_block(1, width) if time else None
        self.label = fc_block(num_classes, width) if num_classes else None

    def forward(self, h: Tensor, t: Tensor, c: Tensor) -> Tensor:
        if self.time is None:
            return h
        t = self.time(t)[:, :, None, None]
        return h * t if self.label is None else self.label(c)[:, :, None, None] * h + t


def fc_block(features_in: int, features_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features_in, features_out), nn.GELU(), nn.Linear(features_out, features_out)
    )


def conv_block(c_in: int, c_out: int) -> nn.Sequential:
    """Return two convolutions at the same resolution."""
    return nn.Sequential(
        norm_gelu(nn.Conv2d(c_in, c_out, 3, padding=1)), norm_gelu(nn.Conv2d(c_out, c_out, 3, padding=1))
    )


def down_conv(c_in: int, c_out: int) -> nn.Sequential:
    """Return a convolution to half the resolution."""
    return norm_gelu(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1))


def up_conv(c_in: int, c_out: int) -> nn.Sequential:
    """Return a transposed convolution to twice the resolution."""
    return norm_gelu(nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1))


def norm_gelu(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.GELU())
