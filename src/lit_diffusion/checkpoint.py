"""Reading checkpoints: one file holds weights, their average, and the whole config that made them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.weights import read_weights
from lit_diffusion.denoiser import Denoiser

PATH_GROUPS = ("model", "schedule", "prediction")  # what a checkpoint's weights mean
NETWORK = "denoiser.network."  # how the names of the network's weights begin in a checkpoint
ORDER = {  # what its number of steps means: which images come next
    "data": ("batch_size", "train_size", "val_size", "shuffle", "seed"),
    "trainer": ("accumulate_grad_batches", "limit_train_batches", "devices"),
}


def read(path: str | Path | None) -> dict[str, Any]:
    """The contents of a checkpoint, or of a .safetensors file exported from one, on the CPU.

    Raises:
        ConfigError: the file isn't given, is missing, truncated, or not a checkpoint of this project.
    """
    if path is None:
        raise ConfigError("ckpt is missing: give ckpt=PATH, the path of a .ckpt file of a training run")
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"ckpt {path} {what}: give the path of a .ckpt file of a training run")
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
    """What a checkpoint holds, as far as an exported file does: weights, in float32, and config."""
    weights, about = read_weights(path)
    return {
        "hyper_parameters": about["hyper_parameters"],
        "state_dict": {f"{NETWORK}{name}": weight for name, weight in weights.items()},
        "callbacks": {},
    }


def build_denoiser(cfg: DictConfig) -> Denoiser:
    """The Denoiser that a config's model, schedule and prediction describe, with fresh weights.

    Raises:
        ConfigError: the parts don't fit, or the model is a pretrained one.
    """
    if "path" in cfg["model"]:
        raise ConfigError(
            f"model {cfg['model']['path']} is pretrained, for sampling and editing: choose a network to "
            "train, such as model=small_unet"
        )
    return Denoiser(*(instantiate(cfg[group], _convert_="all") for group in PATH_GROUPS))


def load_denoiser(checkpoint: dict[str, Any]) -> Denoiser:
    """The trained Denoiser in eval mode, with the averaged weights where the run kept any."""
    denoiser = build_denoiser(OmegaConf.create(checkpoint["hyper_parameters"]))
    average = checkpoint["callbacks"].get("ema", {}).get("average", {})
    weights = {**checkpoint["state_dict"], **average}
    prefix = "denoiser."
    denoiser.load_state_dict(
        {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    )
    return denoiser.eval()


def epochs(checkpoint: dict[str, Any]) -> int:
    """Epochs that its run has finished."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def has_ended(cfg: DictConfig, checkpoint: dict[str, Any]) -> bool:
    """Whether the checkpoint's run has all the epochs that the config asks for."""
    return 0 <= cfg.trainer.max_epochs <= epochs(checkpoint)


def check_same_run(cfg: DictConfig, checkpoint: dict[str, Any], path: str) -> None:
    """ConfigError if a run can't go on from the checkpoint.

    It can't with another network, schedule or prediction; nor where its place in the order of batches
    would mean other images; nor if it has trained all its epochs; nor from weights alone.
    """
    if "loops" not in checkpoint:
        raise ConfigError(
            f"ckpt {path} holds weights alone, without the optimizer's state: to go on with a run, give its "
            "last.ckpt"
        )
    now = OmegaConf.to_container(cfg, resolve=True)
    then = checkpoint["hyper_parameters"]
    if has_ended(cfg, checkpoint):
        raise ConfigError(
            f"ckpt {path} has trained {epochs(checkpoint)} epochs already, and trainer.max_epochs is "
            f"{now['trainer']['max_epochs']}: choose more"
        )
    changes = [
        f"{group}.{key} was {then[group].get(key)} and is {now[group].get(key)}"
        for group, keys in {**dict.fromkeys(PATH_GROUPS), **ORDER}.items()
        for key in keys or sorted({*then[group], *now[group]})
        if then[group].get(key) != now[group].get(key)
    ]
    if changes:
        raise ConfigError(
            f"ckpt {path} can't go on with this config ({'; '.join(changes)}): give the overrides of the "
            "run that made it, which its folder keeps in .hydra/overrides.yaml"
        )
