"""Networks: ``network(x_t, time_input, y) -> tensor like x_t``."""

from lit_diffusion.models.attn_unet import AttnUNet
from lit_diffusion.models.convnext_unet import ConvNeXtUNet
from lit_diffusion.models.dit import DiT
from lit_diffusion.models.fc_unet import FCUNet
from lit_diffusion.models.small_unet import SmallUNet

__all__ = ["AttnUNet", "ConvNeXtUNet", "DiT", "FCUNet", "SmallUNet"]
