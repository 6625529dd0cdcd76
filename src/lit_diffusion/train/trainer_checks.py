"""What a training refuses of its trainer before it starts."""

import os

import torch
from omegaconf import DictConfig

from lit_diffusion.common.errors import ConfigError, check_number, check_text, check_whole_number, is_number
from lit_diffusion.common.multirun import in_multirun

OURS = {  # arguments of Lightning's Trainer that the run sets itself, and what to use instead
    "callbacks": "callbacks.NAME",
    "logger": "logger=NAME",
    "plugins": "a Trainer of your own, in Python",
    "enable_checkpointing": "callbacks.last=null",
    "overfit_batches": "debug=overfit",
    "fast_dev_run": "debug=limit",
}


def check_trainer(trainer: DictConfig) -> None:
    """Raise ConfigError for a value of the trainer that can't work, or that would be ignored."""
    for name, instead in OURS.items():
        if name in trainer and not (name == "fast_dev_run" and isinstance(trainer[name], bool)):
            raise ConfigError(
                f"trainer.{name} is {trainer[name]}, but the run sets it: leave it out, and use {instead}"
            )
    check_text("trainer.default_root_dir", trainer.default_root_dir)
    for name in ("log_every_n_steps", "accumulate_grad_batches"):
        check_whole_number(f"trainer.{name}", trainer[name], least=1)
    for name in ("max_epochs", "max_steps"):
        if trainer[name] != -1 or isinstance(trainer[name], bool):
            check_whole_number(f"trainer.{name}", trainer[name], least=1)
    for name in ("epochs", "steps"):
        least, most = trainer.get(f"min_{name}"), trainer[f"max_{name}"]
        if least is not None and 0 < most < least:
            raise ConfigError(
                f"trainer.min_{name} is {least}, more than trainer.max_{name}, {most}: choose less"
            )
    check_whole_number("trainer.num_sanity_val_steps", trainer.num_sanity_val_steps, least=-1)
    if trainer.check_val_every_n_epoch is not None:
        check_whole_number("trainer.check_val_every_n_epoch", trainer.check_val_every_n_epoch, least=1)
        if 0 < trainer.max_epochs < trainer.check_val_every_n_epoch:
            raise ConfigError(
                f"trainer.check_val_every_n_epoch is {trainer.check_val_every_n_epoch}, which "
                f"trainer.max_epochs, {trainer.max_epochs}, never reaches: choose one that it reaches"
            )
    if trainer.gradient_clip_val is not None:
        check_number("trainer.gradient_clip_val", trainer.gradient_clip_val, least=0, most=1e9)
    check_limit("trainer.limit_train_batches", trainer.limit_train_batches, or_none=False)
    check_limit("trainer.limit_val_batches", trainer.limit_val_batches, or_none=True)
    check_devices(trainer)


def check_limit(name: str, value: object, or_none: bool) -> None:
    """Raise ConfigError unless the value is a number of batches, or a share of them.

    Args:
        name: its key.
        value: a whole number of batches, or a float from 0 to 1.
        or_none: whether no batch at all will do.
    """
    share = isinstance(value, float) and is_number(value) and 0 <= value <= 1
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not (share or whole) or (value == 0 and not or_none):
        least = 0 if or_none else 1
        raise ConfigError(f"{name} is {value}: choose {least} or more batches, or a share of them up to 1.0")


def check_devices(trainer: DictConfig) -> None:
    """Raise ConfigError for more processes than the machine can run, or a multirun that would start anew."""
    devices, strategy = trainer.devices, trainer.strategy
    if isinstance(devices, int):
        gpu = trainer.accelerator in ("gpu", "cuda") or torch.cuda.is_available()
        most = max(torch.cuda.device_count(), 1) if gpu else 4 * (os.cpu_count() or 1)
        if devices != -1:
            check_whole_number("trainer.devices", devices, 1, most)
    alone = not {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "NODE_RANK", "GROUP_RANK"} & {*os.environ}
    if trainer.get("num_nodes", 1) != 1 and alone:
        raise ConfigError(
            f"trainer.num_nodes is {trainer.num_nodes}, but this process was started by itself: start one on "
            "each node, with torchrun or srun"
        )
    port = os.environ.get("MASTER_PORT")
    if port is not None and not port.isdecimal():
        raise ConfigError(f"MASTER_PORT is {port} in the environment: give a number, or leave it out")
    if in_multirun() and strategy in ("ddp", "auto") and devices != 1:
        raise ConfigError(
            f"trainer.strategy is {strategy} with trainer.devices {devices}, which starts this command anew "
            "for each process and would start the whole multirun anew: use trainer.strategy=ddp_spawn with -m"
        )
