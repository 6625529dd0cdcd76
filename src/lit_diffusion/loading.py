"""From a config to what sampling and editing work with."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lit_diffusion import checkpoint
from lit_diffusion.common.errors import ConfigError, check_installed
from lit_diffusion.guidance import guide
from lit_diffusion.samplers.base import Sampler

SHIPPED = Path(__file__).parent / "trained" / "mnist.safetensors"  # what is sampled where no ckpt is given

UNGUIDED = {"guidance": 1, "guidance_interval": [0.0, 1.0], "guidance_rescale": 0.0}


class Loaded(NamedTuple):
    """A trained denoiser, and what comes with it.

    Attributes:
        denoiser: in eval mode, on its device, guided if the config asks for it.
        sampler: the config's, or the one the model was trained with, at the steps asked for.
        shape: of an image, (C, H, W).
        device: where the denoiser is.
        guidance: as ``guidance_of`` gives it.
        identity: tells one set of weights from another.
        config: what it was trained with; None for a pretrained one.
        upscaler: makes its images larger; None for none.
    """

    denoiser: torch.nn.Module
    sampler: Sampler
    shape: tuple[int, int, int]
    device: torch.device
    guidance: dict[str, Any]
    identity: str
    config: DictConfig | None = None
    upscaler: Callable[..., Tensor] | None = None


def load(cfg: DictConfig) -> Loaded:
    """What ``cfg.ckpt`` holds, or the pretrained model in ``cfg.model``, or the model that ships.

    Raises:
        ConfigError: a checkpoint, model, sampler, device or guidance that can't work.
    """
    if cfg.get("model") is not None:
        return load_pretrained(cfg)
    if cfg.negative_prompt:
        raise ConfigError(
            f"negative_prompt is {cfg.negative_prompt!r}, but the model of a checkpoint takes no prompts: "
            "leave it out"
        )
    path = cfg.ckpt or SHIPPED
    trained = checkpoint.read(path)
    config = OmegaConf.create(trained["hyper_parameters"])
    device = choose_device(cfg.device)
    denoiser = checkpoint.load_denoiser(trained).to(device)
    sampler = build_sampler(cfg, config)
    sampler.check(denoiser)
    guidance = guidance_of(cfg, config, denoiser.conditional)
    guided = guide(denoiser, *guidance.values())
    shape = (config.data.channels, config.data.image_size, config.data.image_size)
    return Loaded(guided, sampler, shape, device, guidance, identity(path), config)


def guidance_of(cfg: DictConfig, trained: DictConfig, conditional: bool) -> dict[str, Any]:
    """The scale, interval and rescale asked for; with no scale, those with which the run drew its samples."""
    drawn: dict[str, Any] = {}
    if cfg.guidance is None and conditional:
        drawn = OmegaConf.to_container(trained, resolve=True).get("callbacks", {}).get("samples") or {}
    return {**UNGUIDED, **{key: drawn[key] for key in UNGUIDED if key in drawn}, **guidance_asked(cfg)}


def guidance_asked(cfg: DictConfig) -> dict[str, Any]:
    """What of it was asked for."""
    asked = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [*UNGUIDED]), resolve=True)
    return {key: value for key, value in asked.items() if value is not None}


def identity(path: str | Path) -> str:
    """Tells one file of weights from another: its SHA-256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_pretrained(cfg: DictConfig) -> Loaded:
    """The pipeline of diffusers that ``cfg.model`` names."""
    if cfg.ckpt is not None:
        raise ConfigError(f"ckpt {cfg.ckpt} and a model are given: leave one out")
    if OmegaConf.is_missing(cfg.model, "path"):
        raise ConfigError(
            "model.path is missing: give model.path=FOLDER, or OWNER/NAME of a model of the hub"
        )
    if "path" not in cfg.model:
        raise ConfigError(
            "this model has no weights of its own: give ckpt=PATH, a checkpoint, instead of model"
        )
    check_installed("a pretrained model needs", ["diffusers", "transformers"], extra="pretrained")
    from lit_diffusion.interop.pretrained import Pretrained, Upscaler, load_pipeline

    device = choose_device(cfg.device)
    chosen = OmegaConf.to_container(cfg.model, resolve=True)
    second = chosen.pop("upscaler")
    denoiser = Pretrained(load_pipeline(**chosen, device=device), cfg.negative_prompt).eval()
    sampler = build_sampler(cfg, OmegaConf.create())
    sampler.check(denoiser)
    guidance = guidance_of(cfg, OmegaConf.create(), denoiser.conditional)
    guided = guide(denoiser, *guidance.values())
    weights = f"{chosen['path']}, {chosen['dtype']}, {cfg.model.upscaler}"
    if second is None:
        return Loaded(guided, sampler, denoiser.shape, device, guidance, weights)
    walk = {key: second.pop(key) for key in ("sampler", "guidance", "noise_level")}
    walk["sampler"] = instantiate(walk["sampler"], _convert_="all")
    upscaler = Upscaler(denoiser.pipeline, load_pipeline(**second, device=device), **walk)
    return Loaded(guided, sampler, denoiser.shape, device, guidance, weights, upscaler=upscaler)


def build_sampler(cfg: DictConfig, trained: DictConfig) -> Sampler:
    """The sampler asked for, or the one the checkpoint was trained with, at the steps asked for."""
    if not (cfg.get("sampler") or "sampler" in trained):
        raise ConfigError("sampler is missing: choose one, such as sampler=ddim")
    both = OmegaConf.create({**trained, "sampler": cfg.get("sampler") or trained.sampler})
    chosen = OmegaConf.to_container(both, resolve=True)["sampler"]
    if cfg.steps is not None:
        chosen["steps"] = cfg.steps
    return instantiate(chosen, _convert_="all")


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name}, but torch sees no GPU here: use device=cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is {name}: choose auto, cpu or cuda") from None
