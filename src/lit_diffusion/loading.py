"""From a config to what sampling and editing work with: a denoiser, its sampler, its guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common.configs import plain
from lit_diffusion.common.device import choose_device
from lit_diffusion.common.errors import ConfigError, check_installed
from lit_diffusion.common.files import sha256_of
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.guidance import Guidance
from lit_diffusion.samplers.base import AfterStep, Sampler
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.hooks import chain

if TYPE_CHECKING:
    from lit_diffusion.interop.pretrained import Upscaler

SHIPPED = Path(__file__).parent / "trained" / "mnist.safetensors"  # what is sampled where no ckpt is given


@dataclass(frozen=True)
class Loaded:
    """A trained denoiser, and what comes with it.

    Attributes:
        unguided: the denoiser, in eval mode, on its device.
        guidance: the config's, or that of the run that trained it.
        sampler: the config's, or the one of the run that trained it, with the config's number of steps.
        shape: of an image, (C, H, W).
        device: where the denoiser is.
        identity: tells one set of weights from another.
        config: what it was trained with; None for a pretrained one.
        upscaler: makes its images larger; None for none.
    """

    unguided: Denoiser
    guidance: Guidance
    sampler: Sampler
    shape: tuple[int, int, int]
    device: torch.device
    identity: str
    config: DictConfig | None = None
    upscaler: Upscaler | None = None

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser, guided."""
        return self.guidance.applied(self.unguided)

    def sample(
        self,
        indices: Sequence[int],
        seed: int,
        y: Tensor | None,
        after_step: AfterStep | None = None,
        count: AfterStep | None = None,
    ) -> Tensor:
        """Sample the images of these numbers, (B, C, H, W).

        Args:
            indices: their numbers.
            seed: of the noise.
            y: conditions (K, ...), of which image k has the one at k mod K; None for none.
            after_step: hook after each step from noise.
            count: hook after each step, those of an upscaler too.
        """
        y = None if y is None else y[torch.tensor(indices) % len(y)].to(self.device)
        hook = chain(after_step, count)
        x = generate(self.sampler, self.denoiser, indices, self.shape, seed, y, self.device, hook)
        if self.upscaler is None or y is None:
            return x
        return self.upscaler(x, indices, seed, y, self.denoiser.null(y[:1]), after_step=count)


def load(cfg: DictConfig) -> Loaded:
    """Load what ``cfg.ckpt`` holds, or the pipeline in ``cfg.pretrained``, or the model that ships.

    Raises:
        ConfigError: a checkpoint, pipeline, sampler, device or guidance that can't work.
    """
    if cfg.get("pretrained") is not None:
        return load_pretrained(cfg)
    if cfg.negative_prompt:
        raise ConfigError(
            f"negative_prompt is {cfg.negative_prompt!r}, but the model of a checkpoint takes no prompts: "
            "leave it out"
        )
    path = cfg.ckpt or SHIPPED
    checkpoint = read_checkpoint(path)
    config = OmegaConf.create(checkpoint["hyper_parameters"])
    device = choose_device(cfg.device)
    shape = (config.data.channels, config.data.image_size, config.data.image_size)
    return checked(
        Loaded(
            load_denoiser(checkpoint).to(device),
            choose_guidance(cfg, config),
            build_sampler(cfg, config),
            shape,
            device,
            sha256_of(path),
            config,
        )
    )


def load_pretrained(cfg: DictConfig) -> Loaded:
    """Load the pipeline of diffusers that ``cfg.pretrained`` names."""
    if cfg.ckpt is not None:
        raise ConfigError(f"ckpt {cfg.ckpt} and a pretrained model are given: leave one out")
    if OmegaConf.is_missing(cfg.pretrained, "path"):
        raise ConfigError(
            "pretrained.path is missing: give pretrained.path=FOLDER, or OWNER/NAME of a model of the hub"
        )
    check_installed("a pretrained model needs", ["diffusers", "transformers"], extra="pretrained")
    from lit_diffusion.interop.pretrained import Pretrained, Upscaler, load_pipeline

    device = choose_device(cfg.device)
    options = plain(cfg.pretrained)
    second, own = options.pop("upscaler"), OmegaConf.create({"sampler": options.pop("sampler")})
    denoiser = Pretrained(load_pipeline(**options, device=device), cfg.negative_prompt).eval()
    upscaler = None
    if second is not None:
        sampler, scale, noise_level = (second.pop(key) for key in ("sampler", "guidance", "noise_level"))
        sampler = instantiate(sampler, _convert_="all")
        pipeline = load_pipeline(**second, device=device)
        upscaler = Upscaler(denoiser.pipeline, pipeline, sampler, scale, noise_level)
    return checked(
        Loaded(
            denoiser,
            choose_guidance(cfg, own),
            build_sampler(cfg, own),
            denoiser.shape,
            device,
            f"{options['path']}, {options['dtype']}, {cfg.pretrained.upscaler}",
            upscaler=upscaler,
        )
    )


def checked(loaded: Loaded) -> Loaded:
    """Return it; ConfigError if its denoiser can't be guided or sampled like this."""
    loaded.sampler.check(loaded.denoiser)
    return loaded


def choose_guidance(cfg: DictConfig, trained: DictConfig) -> Guidance:
    """Return the guidance of the run that trained the model, with what the config sets of it."""
    own = trained.get("guidance") or {}
    return Guidance(**{**own, **{key: value for key, value in cfg.guidance.items() if value is not None}})


def build_sampler(cfg: DictConfig, trained: DictConfig) -> Sampler:
    """Return the config's sampler, or that of the run that trained the model, with the config's steps."""
    if not (cfg.get("sampler") or trained.get("sampler")):
        raise ConfigError("sampler is missing: choose one, such as sampler=ddim")
    both = OmegaConf.create({**trained, "sampler": cfg.get("sampler") or trained.sampler})
    options = plain(both)["sampler"]
    if cfg.steps is not None:
        options["steps"] = cfg.steps
    return instantiate(options, _convert_="all")
