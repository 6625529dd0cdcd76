"""Figures: a name in, a PNG out."""

from pathlib import Path

from omegaconf import DictConfig

from lit_diffusion.common.build import build
from lit_diffusion.common.compose import check_chosen
from lit_diffusion.common.configs import check_out
from lit_diffusion.common.errors import check_installed, check_pair, check_whole_number
from lit_diffusion.common.files import atomic_write, make_folder
from lit_diffusion.common.log import log
from lit_diffusion.data.measured import measured


def main(cfg: DictConfig) -> None:
    """Draw the figure, and log the file and what it shows."""
    for line in draw(cfg):
        log.info(line)


def draw(cfg: DictConfig) -> tuple[Path, str]:
    """Draw the figure that the config names into ``cfg.out``.

    Returns:
        The file, and what it was drawn from.

    Raises:
        ConfigError: matplotlib is missing, or what the figure needs.
    """
    check_chosen(cfg, "figure")
    check_out(cfg)
    check_installed("figures need", ["matplotlib"], extra="figures")
    check_whole_number("dpi", cfg.dpi, 10, 1000)
    check_whole_number("seed", cfg.seed, 0, 2**63 - 1)
    drawn = build(measured(cfg).figure, "figure")
    check_pair(f"figure {cfg.figure._target_}", drawn, "a figure, and what it was drawn from, a text")
    figure, source = drawn
    folder = make_folder(cfg.out)
    path = folder / f"{cfg.figure._target_.rpartition('.')[2]}.png"
    with atomic_write(path) as file:
        figure.savefig(file, dpi=cfg.dpi)
    return path, source
