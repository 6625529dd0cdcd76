"""The conditions of samples: labels, prompts, or images."""

from typing import NamedTuple

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from lit_diffusion.common.configs import plain
from lit_diffusion.common.errors import ConfigError, check_text
from lit_diffusion.common.stored import build_data
from lit_diffusion.data.image_set import converted
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.loading import Loaded


def conditions(cfg: DictConfig, denoiser: Denoiser) -> Tensor | None:
    """Return the conditions that images have in turn: labels (K,), or text embeddings (K, L, D) of prompts.

    Raises:
        ConfigError: labels or prompts that the model doesn't know.
    """
    if cfg.prompt is not None and cfg.y != "all":
        raise ConfigError(f"y is {cfg.y} and prompt {cfg.prompt}: leave one out")
    if cfg.prompt is None:
        if denoiser.conditional and denoiser.num_classes == 0:
            raise ConfigError('prompt is missing: give prompt="...", or a list of prompts')
        return labels_in_turn(cfg.y, denoiser.num_classes)
    if not denoiser.conditional or denoiser.num_classes:
        known = (
            "labels: leave prompt out, and give y=LABEL"
            if denoiser.num_classes
            else "no prompts: leave it out"
        )
        raise ConfigError(f"prompt is {cfg.prompt!r}, but this model takes {known}")
    prompts = list(cfg.prompt) if isinstance(cfg.prompt, ListConfig) else [cfg.prompt]
    if not prompts:
        raise ConfigError("prompt is an empty list: give at least one")
    for prompt in prompts:
        check_text("prompt", prompt)
    encoded = [denoiser.encode(prompt) for prompt in prompts]
    return torch.cat([y for y in encoded if y is not None])


class Conditions(NamedTuple):
    """What images are sampled by.

    Attributes:
        y: conditions, (K, ...), which images have in turn; None for none.
        truth: the images that conditions which are images were made of, (K, C, H, W), if they are known.
    """

    y: Tensor | None
    truth: Tensor | None = None


def sampled_by(cfg: DictConfig, loaded: Loaded) -> Conditions:
    """Return what ``conditions`` does, or for a model that images condition, these.

    They are the pictures in ``cfg.input``, or validation images.

    Raises:
        ConfigError: conditions that the model doesn't know.
    """
    if loaded.condition is None:
        if cfg.input is not None:
            raise ConfigError(f"input is {cfg.input}, but no image conditions this model: leave it out")
        return Conditions(conditions(cfg, loaded.denoiser))
    if cfg.y not in ("all", "data", None) or cfg.prompt is not None:
        raise ConfigError(
            f"{f'y is {cfg.y}' if cfg.prompt is None else f'prompt is {cfg.prompt}'}, but images condition "
            "this model: leave it out, and give input=PATH"
        )
    if cfg.input is not None:
        paths = list(cfg.input) if isinstance(cfg.input, ListConfig) else [cfg.input]
        if not paths:
            raise ConfigError("input is an empty list: give at least one picture")
        shape = loaded.condition.input_shape(loaded.shape)
        given = torch.cat([loaded.picture(path, shape) for path in paths])
        return Conditions(loaded.condition.from_input(given, loaded.shape))
    data = build_data(plain(loaded.config), cfg.data_root, cfg.trust)
    data.prepare_data()
    data.setup("fit")
    x, other = converted(*data.val_set[: cfg.n])
    return Conditions(loaded.condition(x, other), x)


def labels_in_turn(y: str | int | ListConfig | None, num_classes: int) -> Tensor | None:
    """Return the labels that images have in turn, (K,): all, one, or a list; None for no labels.

    Raises:
        ConfigError: a label that the model doesn't know.
    """
    if num_classes == 0:
        if y not in ("all", None):
            raise ConfigError(f"y is {y}, but this model was trained without labels: leave y out")
        return None
    if y is None:
        return torch.tensor([num_classes])
    labels = range(num_classes) if y == "all" else list(y) if isinstance(y, ListConfig) else [y]
    if not labels or not all(type(label) is int and 0 <= label < num_classes for label in labels):
        raise ConfigError(f"y is {y}: choose all, null, or labels from 0 to {num_classes - 1}")
    return torch.tensor(list(labels))


def labels_of_images(cfg: DictConfig, y: Tensor | None) -> Tensor | None:
    """Return the label of each image, (n,), from what ``conditions`` gave; None where there are no labels."""
    if cfg.y is None or y is None or y.ndim > 1:
        return None
    return y[torch.arange(cfg.n) % len(y)]
