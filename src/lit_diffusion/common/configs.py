"""Configs as plain values."""

import re
import shlex
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as dicts, lists, numbers and strings, with its interpolations resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def override(key: str, value: str | Path) -> str:
    """Return key=value as a command line takes it, whatever characters the value has."""
    text = str(value)
    if not re.fullmatch(r"[\w./:+-]+", text, re.ASCII):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'  # for Hydra
    return shlex.quote(f"{key}={text}")  # for the shell
