"""The conditions of samples: labels, or prompts."""

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_text
from lit_diffusion.denoiser import Denoiser


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
