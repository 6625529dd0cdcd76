"""Training the small classifier whose features measure images."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lit_diffusion.common import rng
from lit_diffusion.common.build import build, check_arguments
from lit_diffusion.common.configs import plain
from lit_diffusion.common.device import choose_device
from lit_diffusion.common.errors import (
    ConfigError,
    check_bytes,
    check_number,
    check_switch,
    check_whole_number,
)
from lit_diffusion.common.files import make_folder, sha256_of
from lit_diffusion.common.log import log
from lit_diffusion.common.weights import DTYPES, in_dtype, write_weights
from lit_diffusion.data.image_set import source_name
from lit_diffusion.data.measured import measured
from lit_diffusion.features.classifier import Classifier, accuracy, fit


def main(cfg: DictConfig) -> None:
    """Train the classifier, and log its accuracy and its file."""
    path, share, sha256 = train_features(cfg)
    log.info(f"{share:.2%} of the test images, sha256 {sha256}")
    log.info(path)


def train_features(cfg: DictConfig) -> tuple[Path, float, str]:
    """Train a classifier on all training images, and write its weights, in float16, into ``cfg.out``.

    Returns:
        The file; the share of test images that the classifier, as it was written, reads right; the file's
        SHA-256.

    Raises:
        ConfigError: for a number, a device or a data set that can't work.
    """
    cfg = measured(cfg)
    check_recipe(cfg)
    check_arguments(Classifier, plain(cfg.network), "network")
    check_arguments(fit, {**plain(cfg.fit), "_partial_": True}, "fit")
    device = choose_device(cfg.device)
    path = make_folder(cfg.out) / "features.safetensors"
    network = plain(cfg.network)
    check_network(network, cfg.data)
    data = build(cfg.data, "data")
    data.prepare_data()
    with torch.random.fork_rng():
        torch.manual_seed(rng.key_to_seed(cfg.seed, "weights"))
        classifier = Classifier(**network)
    images, labels = data.load(train=True)
    fit(classifier.to(device), images, labels, seed=cfg.seed, **plain(cfg.fit))
    weights = {name: in_dtype(w.cpu(), DTYPES["float16"]) for name, w in classifier.state_dict().items()}
    classifier.load_state_dict(weights)
    share = accuracy(classifier, *data.load(train=False))
    recipe = {
        "data": source_name(data.source),
        "image_size": data.image_shape[1:],
        "seed": cfg.seed,
        "fit": plain(cfg.fit),
    }
    write_weights(path, weights, {"network": network, "recipe": recipe, "accuracy": share}, "float16")
    return path, share, sha256_of(path)


def check_network(network: dict[str, Any], data: DictConfig) -> None:
    """Raise ConfigError for a classifier of other images than the data's, or one too large for memory."""
    if data.num_classes == 0:
        raise ConfigError(
            "data.num_classes is 0, but the features are those of a classifier, which learns labels: give "
            "each class a folder, or evaluate with features=inception"
        )
    for key in ("channels", "num_classes"):
        if network[key] != data[key]:
            raise ConfigError(
                f"network.{key} is {network[key]}, but the data have {data[key]}: leave it as it was"
            )
    if len(network["widths"]) != 4 or min(network["widths"]) < 1:
        raise ConfigError(f"network.widths is {network['widths']}: give four whole numbers of at least 1")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Classifier(**network).parameters())
    check_bytes(f"training a classifier of {parameters:,} parameters", 16 * parameters)


def check_recipe(cfg: DictConfig) -> None:
    """Raise ConfigError for a number or a switch that can't work."""
    check_whole_number("seed", cfg.seed, least=0)
    for key in ("epochs", "batch_size"):
        check_whole_number(f"fit.{key}", cfg.fit[key], least=1)
    for key, (least, most) in {"lr": (1e-9, 1), "jitter": (0, 1), "dropout": (0, 0.9)}.items():
        check_number(f"fit.{key}", cfg.fit[key], least, most)
    for key in ("flip", "bf16"):
        check_switch(f"fit.{key}", cfg.fit[key])
    check_whole_number("network.num_features", cfg.network.num_features, least=1)
