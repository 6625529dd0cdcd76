"""What of its hardware a training run uses."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from lit_diffusion.common.errors import ConfigError, check_switch
from lit_diffusion.common.precision import fastest_precision

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # of torch.compile


def check_hardware(cfg: DictConfig) -> None:
    """Raise ConfigError for a device that isn't there, or a switch of speed that can't work."""
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("trainer wants a GPU, but torch sees none here: use trainer=cpu")
    if cfg.trainer.precision == "16-true" and training_device(cfg).type == "cpu":
        raise ConfigError(
            "trainer.precision is 16-true, in which training on a CPU soon has numbers that aren't "
            "finite: choose 32-true"
        )
    check_switch("channels_last", cfg.channels_last)
    check_switch("tf32", cfg.tf32)
    if not isinstance(cfg.compile, bool) and cfg.compile not in MODES:
        raise ConfigError(f"compile is {cfg.compile}: choose true, false, or one of {', '.join(MODES)}")


def precision_of_run(cfg: DictConfig, start: dict[str, Any] | None) -> tuple[str, str]:
    """Return the precision of a run, and why it is that one.

    Args:
        cfg: of the run.
        start: checkpoint that the run goes on from, whose precision it keeps; None for none.
    """
    if cfg.trainer.precision != "auto":
        return cfg.trainer.precision, "the config says so"
    if start:
        return start["hyper_parameters"]["trainer"]["precision"], "the run began with it"
    return fastest_precision(training_device(cfg))


def training_device(cfg: DictConfig) -> torch.device:
    """Return the kind of device that the trainer trains on."""
    gpu = cfg.trainer.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def prepare_network(network: nn.Module, cfg: DictConfig) -> None:
    """Lay out and compile the network, and set the precision of float32 products, as the config says."""
    if training_device(cfg).type == "cuda":
        torch.set_float32_matmul_precision("high" if cfg.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = cfg.tf32
    if cfg.channels_last:
        network.to(memory_format=torch.channels_last)
    if cfg.compile:
        network.compile(mode=None if cfg.compile is True else cfg.compile)
