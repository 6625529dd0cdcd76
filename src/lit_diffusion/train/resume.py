"""Whether a run can go on from a checkpoint."""

from typing import Any

from omegaconf import DictConfig

from lit_diffusion.checkpoint import PATH_GROUPS
from lit_diffusion.common.configs import plain
from lit_diffusion.common.errors import ConfigError

ORDER = {  # what decides which images come next, after the checkpoint's number of steps
    "data": ("batch_size", "train_size", "val_size", "shuffle", "seed"),
    "trainer": ("accumulate_grad_batches", "limit_train_batches", "devices"),
}


def epochs_trained(checkpoint: dict[str, Any]) -> int:
    """Return the number of epochs that the checkpoint's run has finished."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def has_ended(cfg: DictConfig, checkpoint: dict[str, Any]) -> bool:
    """Return whether the checkpoint's run has trained all the epochs of the config."""
    return 0 <= cfg.trainer.max_epochs <= epochs_trained(checkpoint)


def check_same_run(cfg: DictConfig, checkpoint: dict[str, Any], path: str) -> None:
    """Check that a run with this config can go on from the checkpoint.

    Raises:
        ConfigError: another network, schedule or prediction; another order of the images; no epochs left to
            train; or a file of weights alone.
    """
    if "loops" not in checkpoint:
        raise ConfigError(
            f"ckpt {path} holds weights alone, without the optimizer's state: to go on with a run, give its "
            "last.ckpt"
        )
    now = plain(cfg)
    then = checkpoint["hyper_parameters"]
    if has_ended(cfg, checkpoint):
        raise ConfigError(
            f"ckpt {path} has trained {epochs_trained(checkpoint)} epochs already, and trainer.max_epochs is "
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
