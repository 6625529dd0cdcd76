"""What a config leaves to the data: how many classes there are, how far pixels are from their mean."""

from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from lit_diffusion.common.build import build
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.data.datamodule import ImageDataModule

MOST_MEASURED = 10_000  # images


def measured(cfg: DictConfig) -> DictConfig:
    """Return a config in which the data's own numbers stand where it has null.

    They are ``data.num_classes``, which the source counts, with the classes' names under ``class_names`` if
    it knows them; and each ``sigma_data`` of the prediction and the weighting, the standard deviation of
    training pixels in [-1, 1].

    Raises:
        ConfigError: the source can't count its classes, or has no images.
    """
    cfg = cfg.copy()
    if cfg.data.get("num_classes", 0) is None:
        source = build(cfg.data.source, "data.source")
        names = class_names(source)
        cfg.data.num_classes = count_classes(source) if names is None else len(names)
        with open_dict(cfg):
            cfg.class_names = names
    unknown = [node for part in ("prediction", "weighting") for node in without_sigma(cfg.get(part))]
    if unknown:
        sigma_data = standard_deviation(build(cfg.data, "data"))
        for node in unknown:
            node.sigma_data = sigma_data
    return cfg


def class_names(source: object) -> list[str] | None:
    """Return the names of a source's classes, by label; None if it doesn't know them."""
    return list(source.class_names()) if hasattr(source, "class_names") else None


def count_classes(source: object) -> int:
    """Return how many classes a source has."""
    if not hasattr(source, "count_classes"):
        raise ConfigError(
            f"data.num_classes is null, but {type(source).__name__} can't count its classes: give "
            "their number"
        )
    return source.count_classes()


def without_sigma(node: Any) -> Iterator[DictConfig]:
    """Yield every part of a config whose sigma_data is null."""
    if not isinstance(node, DictConfig):
        return
    if "sigma_data" in node and node.sigma_data is None:
        yield node
    for key in node:
        yield from without_sigma(node[key])


def standard_deviation(data: ImageDataModule) -> float:
    """Return the standard deviation of training images' pixels in [-1, 1], to four digits."""
    data.prepare_data()
    images, _ = data.load(train=True)
    counts = torch.zeros(256, dtype=torch.float64)
    for some in images[:: len(images) // MOST_MEASURED + 1].split(256):
        counts += torch.bincount(some.flatten(), minlength=256)
    shares, levels = counts / counts.sum(), torch.arange(256, dtype=torch.float64) / 127.5 - 1
    mean = (shares * levels).sum()
    return round(float((shares * (levels - mean) ** 2).sum().sqrt()), 4)
