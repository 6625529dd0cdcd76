"""Pretrained models: any pixel-space pipeline of diffusers as a Denoiser, DeepFloyd IF first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.rng import ImageNoise, key_to_seed
from lit_diffusion.denoiser import Condition, NetworkDenoiser
from lit_diffusion.guidance import Guidance
from lit_diffusion.interop.diffusers_unet import LitUNet
from lit_diffusion.predictions import Edm, Eps, Prediction, V, X
from lit_diffusion.samplers.base import AfterStep, Sampler
from lit_diffusion.schedules import DiscreteSchedule, Schedule, VarianceExploding

PREDICTIONS: dict[str, type[Prediction]] = {"epsilon": Eps, "sample": X, "v_prediction": V}
EDM_SCHEDULERS = (EDMEulerScheduler, EDMDPMSolverMultistepScheduler)


class PipelineSchedule(DiscreteSchedule):
    """The chain of a diffusers scheduler; its uniform grid is the scheduler's own."""

    def __init__(self, scheduler: Any):
        alpha_bar = F.pad(scheduler.alphas_cumprod.double().cpu(), (1, 0), value=1.0)
        super().__init__(1 - alpha_bar[1:] / alpha_bar[:-1])  # betas in float32 would drift from its table
        self.scheduler = scheduler

    def even_times(self, steps: int) -> Tensor:
        if steps > self.steps:  # snap refuses it with the schedule's own sentence
            return super().even_times(steps)
        self.scheduler.set_timesteps(steps)
        indices = self.scheduler.timesteps.double().cpu()
        return torch.cat([(indices + 1) / self.steps, torch.zeros(1, dtype=torch.float64)])


def path_of(scheduler: Any) -> tuple[Schedule, Prediction] | None:
    """Return the schedule and the prediction of a diffusers scheduler; None for one of another kind.

    EDM's schedulers tell the network ln(sigma) / 4, and precondition it by their sigma_data.
    """
    config: Any = getattr(scheduler, "config", None)
    prediction = getattr(config, "prediction_type", "epsilon")
    edm = isinstance(scheduler, EDM_SCHEDULERS) and prediction == "epsilon"
    if edm and config.sigma_schedule == "karras":
        schedule = VarianceExploding(config.sigma_min, config.sigma_max, config.rho, told="log_sigma")
        return schedule, Edm(config.sigma_data)
    if not hasattr(scheduler, "alphas_cumprod") or prediction not in PREDICTIONS:
        return None
    return PipelineSchedule(scheduler), PREDICTIONS[prediction]()


class PipelineNetwork(nn.Module):
    """A UNet2DModel or UNet2DConditionModel as a network of ours, (x_t, time_input, y) -> its output.

    y are text embeddings (B, L, D), or None.

    Args:
        unet: the model.
        low: noised images (B, C, H, W) that an upscaling model is given too; None for any other model.
        noise_level: how far they are noised, as a published index.
    """

    num_classes = 0

    def __init__(self, unet: nn.Module, low: Tensor | None = None, noise_level: int = 0):
        super().__init__()
        self.unet = unet
        self.low = low
        self.noise_level = noise_level

    def forward(self, x_t: Tensor, time_input: Tensor, y: Tensor | None = None) -> Tensor:
        inputs: dict[str, Any] = {}
        if y is not None:
            inputs["encoder_hidden_states"] = y.to(x_t)
        if self.low is not None:
            low = self.low.to(x_t).repeat(len(x_t) // len(self.low), 1, 1, 1)  # guidance doubles the batch
            x_t = torch.cat([x_t, low], dim=1)
            inputs["class_labels"] = torch.full((len(x_t),), self.noise_level, device=x_t.device)
        return self.unet(x_t, time_input, **inputs, return_dict=False)[0]


class Pretrained(NetworkDenoiser):
    """A pixel-space pipeline of diffusers as a Denoiser.

    Its betas, or EDM's noise levels, are the schedule, its text encoder makes y of prompts, and where it
    learnt the variance, its estimates have a var_weight.

    Args:
        pipeline: with a unet, a scheduler with betas, and a text encoder if it takes prompts.
        negative_prompt: what guidance leads away from.
        unconditional: text embeddings (1, L, D) of what guidance leads away from, where the pipeline has no
            text encoder to make them.
        low, noise_level: as in ``PipelineNetwork``.

    Raises:
        ConfigError: a pipeline that isn't of that kind.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        negative_prompt: str = "",
        unconditional: Tensor | None = None,
        low: Tensor | None = None,
        noise_level: int = 0,
    ):
        path = path_of(getattr(pipeline, "scheduler", None))
        latent = any(hasattr(pipeline, name) for name in ("vae", "vqvae", "movq"))
        if latent or path is None or getattr(pipeline, "unet", None) is None:
            raise ConfigError(
                f"{type(pipeline).__name__} is no pipeline of a U-Net in pixel space and a scheduler with "
                "betas, or of EDM: choose another pretrained.path"
            )
        super().__init__(PipelineNetwork(pipeline.unet, low, noise_level), *path)
        self.pipeline = pipeline
        config = pipeline.unet.config
        channels = config.in_channels if low is None else config.in_channels // 2
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.shape = (channels, height, width)  # of an image
        self.learns_variance = config.get("out_channels") == 2 * channels
        # Made at once: made later, it would bring an offloaded text encoder back beside the U-Net.
        self.unconditional = self._embed(negative_prompt) if unconditional is None else unconditional
        self.conditional = self.unconditional is not None

    def encode(self, condition: Condition) -> Tensor | None:
        """Return the text embeddings (1, L, D) of a prompt, of an empty one for None.

        Raises:
            ConfigError: a prompt for a model without a text encoder, or something other than a prompt.
        """
        if not self.conditional:
            if condition is not None:
                raise ConfigError(f"{condition!r} is asked for, but this model takes no prompts: choose null")
            return None
        if condition is not None and not isinstance(condition, str):
            raise ConfigError(f"{condition!r} is asked for, but this model takes prompts: choose a text")
        return self._embed(condition or "")

    def null(self, y: Tensor) -> Tensor:
        """Return the text embeddings of the negative prompt, shaped like y."""
        if self.unconditional is None:
            raise ValueError("this model takes no prompts")
        return self.unconditional.to(y).expand_as(y)

    def _embed(self, prompt: str) -> Tensor | None:
        if getattr(self.pipeline, "text_encoder", None) is None:
            return None
        return self.pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)[0]


class Upscaler:
    """A cascade's second model: images four times as wide (Ho et al. 2022, Cascaded Diffusion Models).

    Its network is given the small image, scaled up and noised so that its faults don't show, and the
    noise level.

    Args:
        first: pipeline of the model whose images it scales up.
        pipeline: of its own model.
        sampler: how to go from noise to image.
        guidance: of its denoiser.
        noise_level: published index of the noise, from 0.
    """

    def __init__(
        self,
        first: DiffusionPipeline,
        pipeline: DiffusionPipeline,
        sampler: Sampler,
        guidance: Guidance,
        noise_level: int,
    ):
        self.noising = PipelineSchedule(pipeline.image_noising_scheduler)
        check_whole_number("pretrained.upscaler.noise_level", noise_level, 0, self.noising.steps - 1)
        sampler.times(PipelineSchedule(pipeline.scheduler))
        self.first = first
        self.pipeline = pipeline
        self.sampler = sampler
        self.guidance = guidance
        self.noise_level = noise_level

    def __call__(
        self,
        x: Tensor,
        indices: Sequence[int],
        seed: int,
        y: Tensor,
        unconditional: Tensor,
        after_step: AfterStep | None = None,
    ) -> Tensor:
        """Scale images (B, C, H, W) up to (B, C, 4 H, 4 W).

        Args:
            x: small images.
            indices: their numbers.
            seed: of the noise.
            y: text embeddings of their prompts, (B, L, D).
            unconditional: those of what guidance leads away from, (1, L, D).
            after_step: as in ``Sampler``.
        """
        self.first.maybe_free_model_hooks()  # an offloaded U-Net makes room
        size = self.pipeline.unet.config.sample_size
        big = F.interpolate(x, (size, size), mode="bilinear", align_corners=True)
        noise = ImageNoise(key_to_seed(seed, "upscale"), indices, big.shape[1:], x.device)
        start = noise()
        t = torch.tensor((self.noise_level + 1) / self.noising.steps, dtype=torch.float64)
        low = self.noising.noised(big, noise(), t)
        denoiser = Pretrained(self.pipeline, "", unconditional, low, self.noise_level)
        guided = self.guidance.applied(denoiser)
        return self.sampler(guided, start, y, noise, after_step=after_step)


def load_pipeline(
    path: str,
    dtype: str,
    variant: str | None,
    offload: bool,
    options: Mapping[str, Any],
    device: torch.device,
    trust: Sequence[str] = (),
) -> DiffusionPipeline:
    """Load a pipeline from a folder, or by its name from the Hugging Face hub.

    Args:
        path: of the folder, or "owner/name".
        dtype: float32, float16 or bfloat16.
        variant: which files of the repository, such as fp16; None for the plain ones.
        offload: keep only the part at work on the GPU, the others in main memory.
        options: for ``DiffusionPipeline.from_pretrained``.
        device: where it works.
        trust: full names of networks that a folder exported from here may name besides those in conf/model/.

    Raises:
        ConfigError: there is no such pipeline, or it can't be had.
    """
    if offload and device.type == "cpu":
        raise ConfigError(
            "pretrained.offload is true, but there is no GPU to offload from: use pretrained.offload=false"
        )
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ConfigError(f"pretrained.dtype is {dtype}: choose float32, float16 or bfloat16")
    LitUNet.trust = tuple(trust)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            path, dtype=getattr(torch, dtype), variant=variant, **options
        )
    except (OSError, ValueError, ImportError) as error:
        why = " ".join(str(error).split())[:300]
        what = "folder" if Path(path).exists() else "folder or model of the Hugging Face hub"
        raise ConfigError(
            f"pretrained.path is {path}, a {what} that can't be loaded ({why}): give the folder of a "
            "pipeline; or be online and logged in to the hub, with its licence accepted"
        ) from None
    if not offload:
        return pipeline.to(device)
    pipeline.enable_model_cpu_offload(device=device)
    return pipeline
