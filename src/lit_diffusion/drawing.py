"""What the figures command does."""

import importlib.util
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from lit_diffusion.errors import ConfigError


def draw(cfg: DictConfig) -> tuple[Path, str]:
    """Draw the figure that the config names into ``cfg.out``.

    Returns:
        The file, and what it was drawn from.

    Raises:
        ConfigError: matplotlib is missing, or what the figure needs.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("figures need matplotlib: pip install 'lit_diffusion[figures]'")
    figure, source = instantiate(cfg.figure, _convert_="all")
    path = Path(cfg.out) / f"{cfg.figure._target_.rpartition('.')[2]}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=cfg.dpi)
    return path, source
