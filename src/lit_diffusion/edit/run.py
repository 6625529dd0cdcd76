"""Editing: a checkpoint and the name of an edit in, a labelled figure out."""

from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from lit_diffusion.common.build import build
from lit_diffusion.common.compose import check_chosen
from lit_diffusion.common.configs import check_out, plain
from lit_diffusion.common.errors import ConfigError, check_installed, check_pair, check_whole_number
from lit_diffusion.common.files import atomic_write, make_folder
from lit_diffusion.common.images import grid, save_png
from lit_diffusion.common.log import log
from lit_diffusion.common.stored import build_data
from lit_diffusion.data.datamodule import validation_images
from lit_diffusion.edit.context import EditContext
from lit_diffusion.loading import Loaded, load


def main(cfg: DictConfig) -> None:
    """Edit, and log the files written."""
    for path in edit(cfg):
        log.info(path)


def edit(cfg: DictConfig) -> list[Path]:
    """Edit as the config says.

    Returns:
        The files written in ``cfg.out``: the edit's figure, and result.png, the images that it made.

    Raises:
        ConfigError: matplotlib is missing, or anything that the edit can't work with.
    """
    check_chosen(cfg, "edit")
    check_out(cfg)
    check_installed("edits need", ["matplotlib"], extra="figures")
    check_whole_number("seed", cfg.seed, 0, 2**63 - 1)
    check_whole_number("dpi", cfg.dpi, 10, 1000)
    if cfg.get("pretrained") is not None and cfg.pretrained.get("upscaler") is not None:
        raise ConfigError(
            "edits work on a cascade's first model: choose pretrained=deepfloyd, without the upscaler"
        )
    loaded = load(cfg)
    if loaded.condition is not None:
        raise ConfigError(
            "edits are of models with labels, or without a condition, but images condition this one: sample "
            "it with lit-diffusion sample input=PATH"
        )
    context = EditContext(
        loaded.denoiser,
        loaded.sampler,
        loaded.shape,
        cfg.seed,
        loaded.device,
        partial(inputs, cfg, loaded),
        loaded.coupling,
    )
    apply = build({**plain(cfg.edit), "_partial_": True}, "edit")
    with torch.no_grad():
        drawn = apply(context)
    wanted = "a figure, and the images that it made, (B, C, H, W)"
    check_pair(f"edit {cfg.edit._target_}", drawn, wanted)
    figure, images = drawn
    folder = make_folder(cfg.out)
    path = folder / f"{cfg.edit._target_.rpartition('.')[2]}.png"
    with atomic_write(path) as file:
        figure.savefig(file, dpi=cfg.dpi)
    return [path, save_png(grid(images, min(len(images), 10)), folder / "result.png")]


def inputs(cfg: DictConfig, loaded: Loaded) -> Tensor:
    """Return the images to edit, (B, C, H, W): the picture in ``cfg.input``, or validation images."""
    if cfg.input is not None:
        x = loaded.picture(cfg.input, loaded.shape)
        return -x if cfg.invert else x
    if cfg.invert:
        raise ConfigError("invert is true, but only a picture of your own is inverted: give input=PATH")
    if loaded.config is None:
        raise ConfigError("input is missing: give input=PATH, a picture to edit")
    indices = list(cfg.image) if isinstance(cfg.image, ListConfig) else [cfg.image]
    data = build_data(loaded.config, cfg.data_root, cfg.trust)
    if not indices:
        raise ConfigError("image is an empty list: choose at least one number")
    for index in indices:
        check_whole_number("image", index, 0, data.val_size - 1)
    return validation_images(data, max(indices) + 1)[indices]
