"""A network of this project as a diffusers model.

diffusers imports no class that it doesn't know, whatever a folder names; before loading an exported
folder, import this module.
"""

from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from lit_diffusion.common.shapes import Size
from lit_diffusion.common.stored import build_stored, check_plain


class LitUNet(ModelMixin, ConfigMixin):
    """Any network, rebuilt from its config.

    Attributes:
        trust: full names of networks that may be built besides those that conf/model/ names.

    Args:
        network_config: of the network, its class under ``_target_``.
        in_channels: image channels.
        sample_size: side of an image, or [height, width].
    """

    trust: ClassVar[tuple[str, ...]] = ()

    @register_to_config
    def __init__(self, network_config: dict[str, Any], in_channels: int, sample_size: Size):
        super().__init__()
        check_plain(network_config, "the folder")
        self.network = build_stored({"model": network_config}, "model", self.trust)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Return the network's output.

        Args:
            sample: noisy images, (B, C, H, W).
            timestep: what the schedule tells the network of the time, one number or (B,).
            class_labels: (B,) int64; None for no condition.
            return_dict: False for a plain tuple.
        """
        time_input = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device)
        output = self.network(sample, time_input.expand(sample.shape[0]), class_labels)
        return UNet2DOutput(sample=output) if return_dict else (output,)
