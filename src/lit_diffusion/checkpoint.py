"""Reading checkpoints: one file holds weights, their average, and the whole config that made them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.weights import read_weights
from lit_diffusion.denoiser import NetworkDenoiser

PATH_GROUPS = ("model", "schedule", "prediction")  # what a checkpoint's weights mean
NETWORK = "denoiser.network."  # how the names of the network's weights begin in a checkpoint


def read_checkpoint(path: str | Path | None) -> dict[str, Any]:
    """Return the contents of a checkpoint, or of a .safetensors file exported from one, on the CPU.

    Raises:
        ConfigError: no file is given, it is missing, truncated, or not a checkpoint of this project.
    """
    if path is None:
        raise ConfigError("ckpt is missing: give ckpt=PATH, the path of a .ckpt file of a training run")
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"ckpt {path} {problem}: give the path of a .ckpt file of a training run")
    try:
        if path.suffix == ".safetensors":
            checkpoint = read_safetensors(path)
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if "model" in checkpoint["hyper_parameters"]:
            return checkpoint
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError):
        pass
    raise ConfigError(
        f"ckpt {path} is truncated, or not a checkpoint of lit_diffusion: choose another, such as the "
        "run's best.ckpt"
    )


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return what an exported file holds, laid out as a checkpoint: weights, in float32, and config."""
    weights, metadata = read_weights(path)
    return {
        "hyper_parameters": metadata["hyper_parameters"],
        "state_dict": {f"{NETWORK}{name}": weight for name, weight in weights.items()},
        "callbacks": {},
    }


def build_denoiser(cfg: DictConfig) -> NetworkDenoiser:
    """Return the denoiser that a config's model, schedule and prediction describe, with fresh weights.

    Raises:
        ConfigError: the parts don't fit each other.
    """
    return NetworkDenoiser(*(instantiate(cfg[group], _convert_="all") for group in PATH_GROUPS))


def load_denoiser(checkpoint: dict[str, Any]) -> NetworkDenoiser:
    """Return the trained denoiser in eval mode, with the averaged weights where the run kept any."""
    denoiser = build_denoiser(OmegaConf.create(checkpoint["hyper_parameters"]))
    average = checkpoint["callbacks"].get("ema", {}).get("average", {})
    weights = {**checkpoint["state_dict"], **average}
    prefix = "denoiser."
    denoiser.load_state_dict(
        {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    )
    return denoiser.eval()
