"""Reading checkpoints: one file holds weights, their average, and the whole config that made them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lit_diffusion.denoiser import Denoiser
from lit_diffusion.errors import ConfigError

PATH_GROUPS = ("model", "schedule", "prediction")  # what a checkpoint's weights mean
ORDER = {  # what its number of steps means: which images come next
    "data": ("batch_size", "train_size", "val_size", "shuffle", "seed"),
    "trainer": ("accumulate_grad_batches", "limit_train_batches", "devices"),
}


def read(path: str | Path) -> dict[str, Any]:
    """The checkpoint's contents, on the CPU.

    Raises:
        ConfigError: the file is missing, truncated, or not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"ckpt {path} {what}: give the path of a .ckpt file of a training run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if "model" in checkpoint["hyper_parameters"]:
            return checkpoint
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError):
        pass
    raise ConfigError(
        f"ckpt {path} is truncated, or not a checkpoint of lit_diffusion: choose another, such as the "
        "run's best.ckpt"
    )


def build_denoiser(cfg: DictConfig) -> Denoiser:
    """The Denoiser that a config's model, schedule and prediction describe, with fresh weights."""
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


def check_same_run(cfg: DictConfig, checkpoint: dict[str, Any], path: str) -> None:
    """ConfigError if a run can't go on from the checkpoint.

    It can't with another network, schedule or prediction; nor where its place in the order of batches
    would mean other images; nor if it has trained all its epochs.
    """
    now = OmegaConf.to_container(cfg, resolve=True)
    then = checkpoint["hyper_parameters"]
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if 0 <= now["trainer"]["max_epochs"] <= epochs:
        raise ConfigError(
            f"ckpt {path} has trained {epochs} epochs already, and trainer.max_epochs is "
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
