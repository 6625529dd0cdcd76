"""Whether a run can go on from a checkpoint."""

import inspect
from typing import Any

from omegaconf import DictConfig

from lit_diffusion.checkpoint import PATH_GROUPS
from lit_diffusion.common.build import TARGET, callable_of
from lit_diffusion.common.configs import plain
from lit_diffusion.common.errors import ConfigError

# What must be as it was: the meaning of the weights, the order of the images, the noise, and what made the
# optimizer's state.
SAME: dict[str, tuple[str, ...] | None] = {  # keys of a group; None: all
    **dict.fromkeys(PATH_GROUPS),
    "data": ("source._target_", "batch_size", "train_size", "val_size", "shuffle", "seed"),
    "condition": None,
    "augment": None,
    "weighting": None,
    "times": None,
    "coupling": None,
    "module": ("seed", "fixed_noise"),
    "optimizer": None,
    "lr_scheduler": None,
    "trainer": ("accumulate_grad_batches", "limit_train_batches", "devices"),
}
RUN = ("loops", "optimizer_states", "lr_schedulers", "global_step")  # in a checkpoint of a training


def epochs_trained(checkpoint: dict[str, Any]) -> int:
    """Return the number of epochs that the checkpoint's run has finished."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def has_ended(cfg: DictConfig, checkpoint: dict[str, Any]) -> bool:
    """Return whether the checkpoint's run has trained all the epochs, or steps, of the config."""
    epochs, steps = cfg.trainer.max_epochs, cfg.trainer.max_steps
    return 0 <= epochs <= epochs_trained(checkpoint) or 0 <= steps <= checkpoint["global_step"]


def check_same_run(cfg: DictConfig, checkpoint: dict[str, Any], path: str) -> None:
    """Check that a run with this config can go on from the checkpoint.

    Raises:
        ConfigError: a value in ``SAME`` that isn't what it was; nothing left to train; or a file of weights
            alone.
    """
    if not {*RUN} <= {*checkpoint}:
        raise ConfigError(
            f"ckpt {path} holds weights alone, without the optimizer's state: to go on with a run, give its "
            "last.ckpt"
        )
    now = plain(cfg)
    then = checkpoint["hyper_parameters"]
    if has_ended(cfg, checkpoint):
        raise ConfigError(
            f"ckpt {path} has trained {epochs_trained(checkpoint)} epochs already, "
            f"{checkpoint['global_step']} steps, and trainer.max_epochs is {cfg.trainer.max_epochs} and "
            f"trainer.max_steps {cfg.trainer.max_steps}: choose more"
        )
    then = {**then, **{group: with_defaults(then.get(group) or {}, now[group]) for group in PATH_GROUPS}}
    changes = [
        f"{group}.{key} was {values[0]} and is {values[1]}"
        for group, keys in SAME.items()
        for key in keys or sorted({*(then.get(group) or {}), *(now.get(group) or {})})
        if (values := [value_at(config, f"{group}.{key}") for config in (then, now)])[0] != values[1]
    ]
    if changes:
        raise ConfigError(
            f"ckpt {path} can't go on with this config ({'; '.join(changes)}): give the overrides of the "
            "run that made it, which its folder keeps in .hydra/overrides.yaml"
        )


def with_defaults(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return a stored part with the arguments that its class has got since, which it had by default."""
    if then.get(TARGET) != now.get(TARGET):
        return then
    parameters = inspect.signature(callable_of(now[TARGET], TARGET)).parameters
    new = {name: parameters[name].default for name in now if name in parameters and name not in then}
    return {**then, **{k: list(v) if isinstance(v, tuple) else v for k, v in new.items()}}


def value_at(config: Any, key: str) -> Any:
    """Return the value of a nested key, such as data.source._target_; None if there is none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config
