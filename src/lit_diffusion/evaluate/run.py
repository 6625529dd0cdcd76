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

from lit_diffusion.common.errors import ConfigError, check_switch, check_whole_number
from lit_diffusion.common.files import whole
from lit_diffusion.common.images import make_folder
from lit_diffusion.common.log import log, log_table
from lit_diffusion.evaluate.cost import cost
from lit_diffusion.evaluate.evaluator import Judge, build_judge
from lit_diffusion.evaluate.likelihood import bits_per_dim, flow_times
from lit_diffusion.evaluate.report import table
from lit_diffusion.guidance import Guided, unconditional
from lit_diffusion.loading import Loaded, choose_device, load
from lit_diffusion.sample.partial import Finished
from lit_diffusion.sample.run import (
    check_values,
    conditions,
    labels_of,
    make,
    make_batch,
    what_decides,
    write,
)

RESULT = "evaluation.json"

Samples = tuple[Tensor, Tensor | None]


def main(cfg: DictConfig) -> None:
    """Evaluate, and log the scores as a table."""
    result, path = evaluate(cfg)
    log_table(table(result))
    log.info(path)


def evaluate(cfg: DictConfig) -> tuple[dict[str, Any], Path]:
    """Sample as the config says, or take the images in ``cfg.samples``, and score them.

    A sampling that was stopped goes on when the same ``out`` is given.

    Returns:
        The result, as evaluation.json in ``cfg.out`` holds it, and that file.

    Raises:
        ConfigError: a checkpoint, a data set, a feature network or a number that can't work.
    """
    check(cfg)
    out = make_folder(cfg.out)
    if cfg.samples is not None:
        if cfg.ckpt is not None or cfg.get("model") is not None:
            raise ConfigError(f"samples {cfg.samples} and a model to sample from are given: leave one out")
        images, labels = read_samples(cfg.samples)
        judge = judge_for(cfg, None)
        return keep(cfg, score(judge, images, labels, {"made_by": str(cfg.samples)}))
    loaded = load(cfg)
    judge = judge_for(cfg, loaded.config)
    judge.check_images(cfg.n, loaded.shape)
    y = asked(cfg, loaded, judge)
    if cfg.bits_n:
        check_bits(cfg, loaded, judge)
    with Finished(out / "finished", {**what_decides(cfg, loaded), "data": judge.name}) as finished:
        make(cfg, loaded, y, finished)
        images = finished.images()[: cfg.n]
        batch = range(min(cfg.batch_size, cfg.n))
        measured = cost(
            unguided(loaded), loaded.device, len(batch), lambda: make_batch(loaded, batch, cfg.seed, y)
        )
        scale, interval = loaded.guidance["guidance"], loaded.guidance["guidance_interval"]
        labels = None if unconditional(scale, interval) else labels_of(cfg, y)
        made_with = {"made_by": made_by(cfg), **finished.settings}
        if not loaded.denoiser.num_classes:
            made_with["y"] = None
        result = score(judge, images, labels, made_with)
        result["cost"] = measured
        if cfg.bits_n:
            result["scores"]["bits_per_dim"], result["bits"] = bits(cfg, loaded, judge)
        write(cfg, finished, y)
        kept = keep(cfg, result)
        finished.remove()
    return kept


def made_by(cfg: DictConfig) -> str:
    """The model, as it was asked for."""
    if cfg.get("model") is not None:
        return cfg.model.path
    return cfg.ckpt or "the model that ships"


def check(cfg: DictConfig) -> None:
    """ConfigError for a number or a switch that can't work, whatever the model and the data."""
    check_values(cfg)
    for key, least in {"k": 1, "cas_images": 0, "bits_n": 0, "bits_steps": 2, "judge_seed": 0}.items():
        check_whole_number(key, cfg[key], least)
    check_switch("memorisation", cfg.memorisation)
    if cfg.samples is None:
        check_whole_number("n", cfg.n, least=cfg.k + 1)


def score(judge: Judge, images: Tensor, labels: Tensor | None, made_with: dict[str, Any]) -> dict[str, Any]:
    """The scores, and all that must stand beside them."""
    return {
        "n": len(images),
        "scores": judge.scores(images, labels),
        "floor": judge.floor(len(images), labels is not None),
        "floor_n": min(len(images), len(judge.test[0])),
        "classes": judge.histogram(images),
        "made_with": made_with,
        "reference": {"data": judge.name, "split": "train", "n": len(judge.train[0])},
        "judge": {"k": judge.k, "cas_images": judge.cas_images, "seed": judge.seed},
        "features": judge.features.described(),
        "check": judge.check and judge.check.described(),
    }


def asked(cfg: DictConfig, loaded: Loaded, judge: Judge) -> Tensor | None:
    """As ``conditions``, which doesn't know y=data: labels in the shares of the real images'."""
    labelled = cfg.prompt is None and loaded.denoiser.num_classes > 0
    if labelled and cfg.y is not None:
        check_own(loaded, judge, "y=null")
    if labelled and cfg.y == "data":
        return judge.labels(cfg.n)
    return conditions(without_data(cfg), loaded.denoiser)


def without_data(cfg: DictConfig) -> DictConfig:
    """With y=all for y=data, which only the real images give a meaning."""
    return OmegaConf.merge(cfg, {"y": "all"}) if cfg.y == "data" else cfg


def check_own(loaded: Loaded, judge: Judge, else_choose: str) -> None:
    """ConfigError if the real images aren't of the data that the model's labels are of."""
    own = loaded.config.data.source._target_.rpartition(".")[2]
    if judge.name != own:
        raise ConfigError(
            f"the data are {judge.name}, but the model was trained on {own}, whose labels are others: choose "
            f"its own data, or {else_choose}"
        )


def check_bits(cfg: DictConfig, loaded: Loaded, judge: Judge) -> None:
    """ConfigError if the model has no likelihood that we can compute, or there are too few images."""
    check_whole_number("bits_n", cfg.bits_n, least=2, most=len(judge.test[0]))
    if loaded.denoiser.num_classes:
        check_own(loaded, judge, "bits_n=0")
    elif loaded.denoiser.conditional:
        raise ConfigError("bits per dimension are of images and labels, not of prompts: choose bits_n=0")
    flow_times(loaded.denoiser, cfg.bits_steps)


def bits(cfg: DictConfig, loaded: Loaded, judge: Judge) -> tuple[float, dict[str, Any]]:
    """Mean bits per dimension of some test images, and what must stand beside it."""
    images, labels = judge.some_test_images(cfg.bits_n)
    y = labels if loaded.denoiser.num_classes else None
    found = bits_per_dim(unguided(loaded), images, y, judge.seed, cfg.bits_steps, loaded.device)
    return float(found.mean()), {
        "n": len(images),
        "standard_error": float(found.std() / len(found) ** 0.5),
        "steps": cfg.bits_steps,
        "split": "test",
        "labelled": y is not None,
    }


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
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ConfigError(f"samples is {path}, which can't be read ({error}): give a samples.npz") from None
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ConfigError(
            f"samples is {path}, with images {images.dtype} {images.shape}: give images uint8 (N, C, H, W)"
        )
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise ConfigError(
            f"samples is {path}, with labels {labels.dtype} {labels.shape} of {len(images)} images: give a "
            "whole number for each, or leave them out"
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
