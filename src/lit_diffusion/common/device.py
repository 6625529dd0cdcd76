"""Where to compute."""

import torch

from lit_diffusion.common.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device of this name; auto is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name}, but torch sees no GPU here: use device=cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is {name}: choose auto, cpu or cuda") from None
