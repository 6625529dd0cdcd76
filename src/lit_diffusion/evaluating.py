"""What the evaluation command does."""

import json
import resource
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wandb
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lit_diffusion.errors import ConfigError, check_whole_number
from lit_diffusion.evaluation.judge import Judge, build_judge
from lit_diffusion.evaluation.likelihood import bits_per_dim, flow_times
from lit_diffusion.files import whole
from lit_diffusion.finished import Finished
from lit_diffusion.guidance import Guided
from lit_diffusion.images import make_folder
from lit_diffusion.loading import Loaded, choose_device, load
from lit_diffusion.sampling import check_numbers, conditions, labels_of, make, make_batch, what_decides, write

RESULT = "evaluation.json"


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
    loaded = None if cfg.samples else load(cfg)
    judge = judge_for(cfg, loaded)
    judge.check_n(cfg.n)
    if loaded is None:
        images, labels = read_samples(cfg.samples)
        return keep(cfg, score(judge, images, labels, {"samples": str(cfg.samples)}))
    y = conditions(cfg, loaded.denoiser)
    if cfg.bits_n:
        flow_times(loaded.denoiser, cfg.bits_steps)
    with Finished(out / "finished", what_decides(cfg, loaded)) as finished:
        make(cfg, loaded, y, finished)
        images = finished.images()[: cfg.n]
        measured = cost(cfg, loaded, y)
        labels = None if cfg.y is None else labels_of(y, cfg.n)
        result = score(judge, images, labels, finished.settings) | {"cost": measured}
        if cfg.bits_n:
            result["scores"]["bits_per_dim"] = bits(cfg, loaded, judge)
            result["bits_n"] = cfg.bits_n
        write(cfg, images, y)
        kept = keep(cfg, result)
        finished.remove()
    return kept


def score(judge: Judge, images: Tensor, labels: Tensor | None, made_with: dict[str, Any]) -> dict[str, Any]:
    """The scores, and all that must stand beside them."""
    networks = {"features": judge.features, "check": judge.check}
    return {
        "n": len(images),
        "scores": judge.scores(images, labels),
        "floor": judge.floor(len(images)),
        "floor_n": min(len(images), len(judge.test[0])),
        "classes": judge.histogram(images),
        "made_with": made_with,
        "reference": {"data": judge.name, "split": "train", "n": len(judge.train[0])},
        "judge": {"k": judge.k, "cas_images": judge.cas_images, "seed": judge.seed},
        **{key: network and network.described() for key, network in networks.items()},
    }


def cost(cfg: DictConfig, loaded: Loaded, y: Tensor | None) -> dict[str, Any]:
    """What one more batch costs: network evaluations per image, seconds, memory."""
    batch = range(min(cfg.batch_size, cfg.n))
    rows = 0

    def count(module, args, output) -> None:
        nonlocal rows
        rows += len(args[0])

    cuda = loaded.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(loaded.device)
        torch.cuda.synchronize(loaded.device)
    hook = unguided(loaded).register_forward_hook(count)
    begin = time.perf_counter()
    make_batch(loaded, batch, cfg.seed, y)
    if cuda:
        torch.cuda.synchronize(loaded.device)
    seconds = time.perf_counter() - begin
    hook.remove()
    return {
        "nfe": rows / len(batch),
        "images_per_second": len(batch) / seconds,
        "seconds": seconds * cfg.n / len(batch),
        "batch_size": len(batch),
        "peak_memory_mib": peak_memory_mib(loaded.device),
        "device": torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads",
    }


def peak_memory_mib(device: torch.device) -> float:
    """The most memory that the GPU has held, or on a CPU this process, at any time."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def bits(cfg: DictConfig, loaded: Loaded, judge: Judge) -> float:
    """Mean bits per dimension of the first test images."""
    images, labels = (part[: cfg.bits_n] for part in judge.test)
    y = labels if loaded.denoiser.num_classes else None
    found = bits_per_dim(unguided(loaded), images, y, judge.seed, cfg.bits_steps, loaded.device)
    return float(found.mean())


def unguided(loaded: Loaded) -> torch.nn.Module:
    return loaded.denoiser.denoiser if isinstance(loaded.denoiser, Guided) else loaded.denoiser


def judge_for(cfg: DictConfig, loaded: Loaded | None) -> Judge:
    """The Judge of the config's data, or of those that the checkpoint was trained on."""
    data = cfg.get("data") or (loaded and loaded.config and loaded.config.data)
    if not data:
        raise ConfigError("data is missing: choose the real images to compare with, data=mnist say")
    source = json.dumps(OmegaConf.to_container(data.source, resolve=True))
    options = {key: cfg[key] for key in ("features", "check", "k", "cas_images", "memorisation")}
    return kept_judge(source, seed=cfg.judge_seed, device=choose_device(cfg.device), **options)


@lru_cache(maxsize=1)
def kept_judge(source: str, **options) -> Judge:
    """Kept from one evaluation to the next, with the reference's features and the floor."""
    return build_judge(instantiate(json.loads(source)), **options)


def read_samples(path: str) -> tuple[Tensor, Tensor | None]:
    """images uint8 (N, C, H, W), and labels (N,) if there are any, of a .npz file.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = torch.from_numpy(arrays["images"])
            labels = torch.from_numpy(arrays["labels"]).long() if "labels" in arrays else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"samples is {path}, which can't be read ({error}): give a samples.npz") from None
    if images.dtype != torch.uint8 or images.ndim != 4 or (labels is not None and len(labels) != len(images)):
        raise ConfigError(
            f"samples is {path}, with images {images.dtype} {tuple(images.shape)}: give images uint8 "
            "(N, C, H, W), and one label for each or none"
        )
    return images, labels


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
