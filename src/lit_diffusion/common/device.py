"""Where to compute."""

import re

import torch

from lit_diffusion.common.errors import ConfigError, check_text


def choose_device(name: str) -> torch.device:
    """Return the device of this name; auto is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    check_text("device", name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name}, but torch sees no GPU here: use device=cpu")
    number = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if number is None or int(number[1] or 0) >= max(torch.cuda.device_count(), 1):
        raise ConfigError(f"device is {name}: choose auto, cpu, cuda, or one of several GPUs, cuda:0")
    return torch.device(name)
