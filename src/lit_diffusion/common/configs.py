"""Configs as plain values."""

import re
import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def plain(cfg: Any) -> Any:
    """Return a config as dicts, lists, numbers and strings, with its interpolations resolved.

    What is no config of OmegaConf's is returned as it is.
    """
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def override(key: str, value: str | Path) -> str:
    """Return key=value as a command line takes it, whatever characters the value has."""
    text = str(value)
    if not re.fullmatch(r"[\w./:+-]+", text, re.ASCII):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'  # for Hydra
    return shlex.quote(f"{key}={text}")  # for the shell
