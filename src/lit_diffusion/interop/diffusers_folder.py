"""From a checkpoint to a folder that diffusers loads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from torch import nn

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.stored import build_stored
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.interop.diffusers_unet import LitUNet
from lit_diffusion.interop.unet2d import UNet2D
from lit_diffusion.predictions import Eps, V, Velocity, X
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.base import Sampler
from lit_diffusion.schedules import DiscreteSchedule, Flow

PREDICTION_TYPES = {Eps: "epsilon", X: "sample", V: "v_prediction"}


def save_folder(
    denoiser: NetworkDenoiser, hyper_parameters: dict[str, Any], out: Path, trust: Sequence[str] = ()
) -> list[Path]:
    """Write the denoiser as diffusers' parts.

    A chain becomes a DDPMPipeline if the checkpoint's sampler is ancestral, and a DDIMPipeline
    otherwise; DDIMPipeline loads the first too. Given ``use_clipped_model_output=True``, for clipping as it
    is here, and as many steps as divide the chain's, DDIM's samples are ours.

    A flow becomes a FlowMatchEulerDiscreteScheduler, whose sigma is our t and whose timestep is 1000 t,
    and a network; diffusers has no pipeline for the two. Its scheduler can't clip.

    Args:
        denoiser: with trained weights.
        hyper_parameters: of its checkpoint.
        out: the folder.
        trust: as in ``build_stored``.

    Returns:
        The files written: model_index.json of a pipeline, and what is in scheduler/ and unet/.

    Raises:
        ConfigError: diffusers has no scheduler for this schedule and prediction.
    """
    check_exportable(denoiser)
    unet = exported(denoiser.network, hyper_parameters, trust)
    (out / "model_index.json").unlink(missing_ok=True)  # of a chain, where a flow is written now
    if isinstance(denoiser.schedule, Flow):
        FlowMatchEulerDiscreteScheduler().save_pretrained(out / "scheduler")
        unet.save_pretrained(out / "unet")
    else:
        sampler = build_stored(hyper_parameters, "sampler", trust)
        pipeline(unet, denoiser, cast(DiscreteSchedule, denoiser.schedule), sampler).save_pretrained(out)
    return [path for part in ("model_index.json", "scheduler/*", "unet/*") for path in sorted(out.glob(part))]


def exported(
    network: nn.Module, hyper_parameters: dict[str, Any], trust: Sequence[str]
) -> LitUNet | UNet2DModel:
    """Return a network as a model of diffusers: one of its own where the network is such, without labels."""
    if isinstance(network, UNet2D) and network.num_classes == 0:
        return network.unet
    data = hyper_parameters["data"]
    LitUNet.trust = tuple(trust)
    unet = LitUNet(hyper_parameters["model"], data["channels"], data["image_size"])
    unet.network = network
    return unet


def pipeline(
    unet: LitUNet | UNet2DModel, denoiser: NetworkDenoiser, schedule: DiscreteSchedule, sampler: Sampler
) -> DDIMPipeline | DDPMPipeline:
    """Return the pipeline of a chain, with the sampler it was trained with where diffusers has it."""
    options = {
        "num_train_timesteps": schedule.steps,
        "trained_betas": schedule.betas.tolist(),
        "prediction_type": PREDICTION_TYPES[type(denoiser.prediction)],
        "timestep_spacing": "trailing",  # begins at pure noise, as here
        "clip_sample": sampler.clip is True,
    }
    if not isinstance(sampler.clip, bool):
        ratio, most = sampler.clip
        options |= {"thresholding": True, "dynamic_thresholding_ratio": ratio, "sample_max_value": most}
    if isinstance(sampler, Ancestral):
        return DDPMPipeline(unet, DDPMScheduler(variance_type=f"fixed_{sampler.variance}", **options))
    return DDIMPipeline(unet, DDIMScheduler(set_alpha_to_one=True, **options))


def check_exportable(denoiser: NetworkDenoiser) -> None:
    """Raise ConfigError if diffusers has no scheduler for this schedule and prediction."""
    if denoiser.condition_channels:
        raise ConfigError(
            "diffusers has no pipeline of a network that an image conditions: choose format=safetensors or "
            "format=onnx"
        )
    schedule, prediction = denoiser.schedule, denoiser.prediction
    names = f"schedule {type(schedule).__name__} with prediction {type(prediction).__name__}"
    if isinstance(schedule, Flow):
        known = type(prediction) is Velocity
    else:
        known = isinstance(schedule, DiscreteSchedule) and type(prediction) in PREDICTION_TYPES
    if not known:
        raise ConfigError(
            f"diffusers has no scheduler for {names}, only for chains with eps, x or v and for flow with "
            "velocity: choose format=safetensors or format=onnx"
        )
