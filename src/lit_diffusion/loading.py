"""From a config to what sampling and editing work with."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lit_diffusion import checkpoint
from lit_diffusion.errors import ConfigError
from lit_diffusion.guidance import guide
from lit_diffusion.samplers.base import Sampler


class Loaded(NamedTuple):
    """A trained denoiser, and what comes with it.

    Attributes:
        denoiser: in eval mode, on its device, guided if the config asks for it.
        sampler: the config's, or the one the model was trained with, at the steps asked for.
        shape: of an image, (C, H, W).
        device: where the denoiser is.
        config: what it was trained with; None for a pretrained one.
        identity: tells one set of weights from another.
    """

    denoiser: torch.nn.Module
    sampler: Sampler
    shape: tuple[int, int, int]
    device: torch.device
    config: DictConfig | None
    identity: str


def load(cfg: DictConfig) -> Loaded:
    """What ``cfg.ckpt`` holds.

    Raises:
        ConfigError: a checkpoint, sampler, device or guidance that can't work.
    """
    trained = checkpoint.read(cfg.ckpt)
    config = OmegaConf.create(trained["hyper_parameters"])
    device = choose_device(cfg.device)
    denoiser = checkpoint.load_denoiser(trained).to(device)
    sampler = build_sampler(cfg, config)
    sampler.times(denoiser.schedule)
    guided = guide(denoiser, cfg.guidance, cfg.guidance_interval, cfg.guidance_rescale)
    shape = (config.data.channels, config.data.image_size, config.data.image_size)
    with Path(cfg.ckpt).open("rb") as file:
        identity = hashlib.file_digest(file, "sha256").hexdigest()
    return Loaded(guided, sampler, shape, device, config, identity)


def build_sampler(cfg: DictConfig, trained: DictConfig) -> Sampler:
    """The sampler asked for, or the one the checkpoint was trained with, at the steps asked for."""
    both = OmegaConf.create({**trained, "sampler": cfg.get("sampler") or trained.sampler})
    chosen = OmegaConf.to_container(both, resolve=True)["sampler"]
    if cfg.steps is not None:
        chosen["steps"] = cfg.steps
    return instantiate(chosen)


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name}, but torch sees no GPU here: use device=cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is {name}: choose auto, cpu or cuda") from None
