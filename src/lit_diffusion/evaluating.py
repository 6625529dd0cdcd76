"""What the evaluation command does."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import wandb
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lit_diffusion.errors import ConfigError, check_whole_number
from lit_diffusion.evaluation.cost import cost
from lit_diffusion.evaluation.judge import Judge, build_judge
from lit_diffusion.evaluation.likelihood import bits_per_dim, flow_times
from lit_diffusion.files import whole
from lit_diffusion.finished import Finished
from lit_diffusion.guidance import Guided
from lit_diffusion.images import make_folder
from lit_diffusion.loading import Loaded, choose_device, load
from lit_diffusion.sampling import check_numbers, conditions, labels_of, make, make_batch, what_decides, write

RESULT = "evaluation.json"

Samples = tuple[Tensor, Tensor | None]


def evaluate(cfg: DictConfig) -> tuple[dict[str, Any], Path]:
    """Sample as the config says, or take the images in ``cfg.samples``, and score them.

    A sampling that was stopped goes on when the same ``out`` is given.

    Returns:
        The result, as evaluation.json in ``cfg.out`` holds it, and that file.

    Raises:
        ConfigError: a checkpoint, a data set, a feature network or a number that can't work.
    """
    check_numbers(cfg)
    for key, least in {"k": 1, "cas_images": 0, "bits_n": 0, "bits_steps": 2, "judge_seed": 0}.items():
        check_whole_number(key, cfg[key], least)
    out = make_folder(cfg.out)
    if cfg.samples is not None:
        if cfg.ckpt is not None or cfg.get("model") is not None:
            raise ConfigError(f"samples {cfg.samples} and a model to sample from are given: leave one out")
        images, labels = read_samples(cfg.samples)
        judge = judge_for(cfg, None)
        return keep(cfg, score(judge, images, labels, {"samples": str(cfg.samples)}))
    loaded = load(cfg)
    judge = judge_for(cfg, loaded.config)
    judge.check_images(cfg.n, loaded.shape)
    y = asked(cfg, loaded.denoiser, judge)
    if cfg.bits_n:
        check_bits(cfg, loaded)
    with Finished(out / "finished", {**what_decides(cfg, loaded), "data": judge.name}) as finished:
        make(cfg, loaded, y, finished)
        images = finished.images()[: cfg.n]
        batch = range(min(cfg.batch_size, cfg.n))
        measured = cost(
            unguided(loaded), loaded.device, len(batch), lambda: make_batch(loaded, batch, cfg.seed, y)
        )
        result = score(
            judge, images, labels_of(cfg, y) if loaded.guidance["guidance"] != 0 else None, finished.settings
        )
        result["cost"] = measured
        if cfg.bits_n:
            result["scores"]["bits_per_dim"], result["bits"] = bits(cfg, loaded, judge)
        write(cfg, finished, y)
        kept = keep(cfg, result)
        finished.remove()
    return kept


def score(judge: Judge, images: Tensor, labels: Tensor | None, made_with: dict[str, Any]) -> dict[str, Any]:
    """The scores, and all that must stand beside them."""
    networks = {"features": judge.features, "check": judge.check}
    return {
        "n": len(images),
        "scores": judge.scores(images, labels),
        "floor": judge.floor(len(images), labels is not None),
        "floor_n": min(len(images), len(judge.test[0])),
        "classes": judge.histogram(images),
        "made_with": made_with,
        "reference": {"data": judge.name, "split": "train", "n": len(judge.train[0])},
        "judge": {"k": judge.k, "cas_images": judge.cas_images, "seed": judge.seed},
        **{key: network and network.described() for key, network in networks.items()},
    }


def asked(cfg: DictConfig, denoiser: torch.nn.Module, judge: Judge) -> Tensor | None:
    """As ``conditions``, which doesn't know y=data: labels in the shares of the real images'."""
    if cfg.y != "data":
        return conditions(cfg, denoiser)
    if cfg.prompt is not None or not denoiser.num_classes:
        return conditions(OmegaConf.merge(cfg, {"y": "all"}), denoiser)
    if judge.num_classes > denoiser.num_classes:
        raise ConfigError(
            f"{judge.name} has {judge.num_classes} labels, but the model knows {denoiser.num_classes}: "
            "choose its own data, or labels with y"
        )
    return judge.labels(cfg.n)


def check_bits(cfg: DictConfig, loaded: Loaded) -> None:
    """ConfigError if the model has no likelihood that we can compute."""
    if loaded.denoiser.conditional and loaded.denoiser.num_classes == 0:
        raise ConfigError("bits per dimension are of images and labels, not of prompts: choose bits_n=0")
    flow_times(loaded.denoiser, cfg.bits_steps)


def bits(cfg: DictConfig, loaded: Loaded, judge: Judge) -> tuple[float, dict[str, Any]]:
    """Mean bits per dimension of the first test images, and what must stand beside it."""
    images, labels = (part[: cfg.bits_n] for part in judge.test)
    y = labels if loaded.denoiser.num_classes else None
    found = bits_per_dim(unguided(loaded), images, y, judge.seed, cfg.bits_steps, loaded.device)
    return float(found.mean()), {"n": len(images), "steps": cfg.bits_steps, "split": "test"}


def unguided(loaded: Loaded) -> torch.nn.Module:
    return loaded.denoiser.denoiser if isinstance(loaded.denoiser, Guided) else loaded.denoiser


def judge_for(cfg: DictConfig, trained: DictConfig | None) -> Judge:
    """The Judge of the config's data, or of those that a model was trained on."""
    data = cfg.get("data") or (trained and trained.data)
    if not data:
        raise ConfigError("data is missing: choose the real images to compare with, data=mnist say")
    source = json.dumps(OmegaConf.to_container(data.source, resolve=True))
    options = {key: cfg[key] for key in ("features", "check", "k", "cas_images", "memorisation")}
    return kept_judge(source, seed=cfg.judge_seed, device=choose_device(cfg.device), **options)


@lru_cache(maxsize=1)
def kept_judge(source: str, **options) -> Judge:
    """Kept from one evaluation to the next, with the reference's features and the floor."""
    return build_judge(instantiate(json.loads(source)), **options)


def read_samples(path: str) -> Samples:
    """images uint8 (N, C, H, W), and labels (N,) if there are any, of a .npz file.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays.get("labels")
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ConfigError(f"samples is {path}, which can't be read ({error}): give a samples.npz") from None
    whole_numbers = labels is None or (labels.shape == images.shape[:1] and labels.dtype.kind in "iu")
    if images.dtype != np.uint8 or images.ndim != 4 or not whole_numbers:
        raise ConfigError(
            f"samples is {path}, with images {images.dtype} {images.shape}: give images uint8 (N, C, H, W), "
            "and for each a label, a whole number, or none"
        )
    return torch.from_numpy(images), None if labels is None else torch.from_numpy(labels).long()


def keep(cfg: DictConfig, result: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """Write the result, and give its scores to the loggers."""
    path = Path(cfg.out) / RESULT
    with whole(path) as file:
        file.write(json.dumps(result, indent=2).encode())
    numbers = {**result["scores"], **{f"floor_{k}": v for k, v in result["floor"].items()}}
    numbers |= {k: v for k, v in result.get("cost", {}).items() if not isinstance(v, str)}
    for logger in cfg.logger.values():
        logger = instantiate(logger, _convert_="all")
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
        logger.log_metrics({f"eval/{name}": value for name, value in numbers.items()})
        logger.finalize("success")
    wandb.finish()
    return result, path
