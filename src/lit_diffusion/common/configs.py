"""Configs as plain values."""

import re
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from lit_diffusion.common.errors import ConfigError, check_text
from lit_diffusion.common.multirun import job_that_wrote_to


def plain(cfg: Any) -> Any:
    """Return a config as dicts, lists, numbers and strings, with its interpolations resolved.

    What is no config of OmegaConf's is returned as it is.
    """
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def check_out(cfg: DictConfig, shared: bool = False) -> None:
    """Raise ConfigError unless ``cfg.out`` is a path, and that of no other job of this multirun.

    Args:
        cfg: the config.
        shared: whether several jobs may write there.
    """
    try:
        out = cfg.out
    except InterpolationResolutionError:
        raise ConfigError(
            "out is the folder of a command line's run, and this is none: give out=DIR"
        ) from None
    check_text("out", out)
    if "://" in out:
        raise ConfigError(f"out is {out}: give a folder of this machine")
    if not shared and (job := job_that_wrote_to(out)):
        raise ConfigError(
            f"out is {out}, where another job of this multirun has written ({job}): leave it out, so that "
            "each has a folder of its own"
        )


def override(key: str, value: str | Path) -> str:
    """Return key=value as a command line takes it, whatever characters the value has."""
    text = str(value)
    if not re.fullmatch(r"[\w./:+-]+", text, re.ASCII):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'  # for Hydra
    return shlex.quote(f"{key}={text}")  # for the shell
