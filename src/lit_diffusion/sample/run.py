"""Sampling: a checkpoint in, images out."""

import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.progress import Progress, TaskID
from torch import Tensor

from lit_diffusion.common.configs import check_out, plain
from lit_diffusion.common.errors import (
    ConfigError,
    check_bytes,
    check_switch,
    check_whole_number,
)
from lit_diffusion.common.files import atomic_write, make_folder
from lit_diffusion.common.images import grid, save_gif, save_png, stacked_grid, to_float, to_uint8
from lit_diffusion.common.log import log
from lit_diffusion.common.precision import choose_precision
from lit_diffusion.loading import Loaded, choose_guidance, load
from lit_diffusion.sample.conditions import Conditions, labels_of_images, sampled_by
from lit_diffusion.sample.partial import PartialSamples, partial_samples
from lit_diffusion.samplers.base import AfterStep, Visit
from lit_diffusion.samplers.hooks import Trajectory

GIF = "trajectory.gif"
MOST_COLUMNS = 20  # of a grid in which each has a condition of its own
PARTIAL = "partial"  # the folder, in out, of the images made so far


def main(cfg: DictConfig) -> None:
    """Sample, and log the files written."""
    for path in sample(cfg):
        log.info(path)


def sample(cfg: DictConfig) -> list[Path]:
    """Sample as the config says, and write the images to ``cfg.out``.

    Each batch is on the disk once it is finished: the same command with the same ``out`` goes on where
    one that was stopped left off.

    Returns:
        The files written: grid.png, and samples.npz and trajectory.gif where the config has them.

    Raises:
        ConfigError: a checkpoint, sampler, label or guidance that can't work, or a folder that holds part
            of another sampling.
    """
    check_sampling(cfg)
    check_out(cfg)
    loaded = load(cfg)
    given = sampled_by(cfg, loaded)
    out = make_folder(cfg.out)
    check_room(cfg, loaded)
    check_arrays(cfg)
    with partial_samples(out / PARTIAL, sampling_settings(cfg, loaded, given)) as samples:
        sample_missing(cfg, loaded, given.y, samples)
        paths = write_samples(cfg, samples, given)
        samples.remove()
    return paths


def check_sampling(cfg: DictConfig) -> None:
    """Raise ConfigError for a number or a switch that can't work, whatever the model."""
    for key, least in {"n": 1, "batch_size": 1, "grid_n": 1, "gif_frames": 1, "seed": 0}.items():
        check_whole_number(key, cfg[key], least)
    if cfg.rows is not None:
        check_whole_number("rows", cfg.rows, least=1)
    for key in ("npz", "gif"):
        check_switch(key, cfg[key])
    choose_guidance(cfg, OmegaConf.create())


def check_arrays(cfg: DictConfig) -> None:
    """Raise ConfigError if a sampling would leave, or remove, the samples.npz of another command."""
    path = Path(cfg.out) / "samples.npz"
    if path.is_file() and not cfg.npz:
        raise ConfigError(
            f"out is {cfg.out}, which holds samples.npz of another command: choose another out, or npz=true "
            "to replace it"
        )


def check_room(cfg: DictConfig, loaded: Loaded) -> None:
    """Raise ConfigError for more images than the disk, or batches than the memory, has room for."""
    pixels, free = math.prod(loaded.shape), shutil.disk_usage(cfg.out).free
    if cfg.n * pixels > free:
        raise ConfigError(
            f"n is {cfg.n}, whose images take {cfg.n * pixels:,} bytes, but {cfg.out} has {free:,} free: "
            "choose fewer"
        )
    check_bytes(f"batch_size={cfg.batch_size}", 16 * min(cfg.n, cfg.batch_size) * pixels)


def sample_missing(cfg: DictConfig, loaded: Loaded, y: Tensor | None, samples: PartialSamples) -> None:
    """Sample the images that are missing, batch by batch, and write the first batch's trajectory.

    Args:
        cfg: for n, batch_size, seed and the trajectory.
        loaded: what to sample with.
        y: what ``conditions`` returned.
        samples: where the images are kept.
    """
    steps = loaded.sampler.steps + (loaded.upscaler.sampler.steps if loaded.upscaler else 0)
    try:
        with Progress(transient=True) as progress:
            task = progress.add_task("sampling", total=cfg.n * steps, completed=len(samples) * steps)
            for first in range(len(samples), cfg.n, cfg.batch_size):
                indices = range(first, min(first + cfg.batch_size, cfg.n))
                trajectory = gif_trajectory(cfg, loaded) if cfg.gif and first == 0 else None
                x = loaded.sample(indices, cfg.seed, y, trajectory, advance(progress, task, len(indices)))
                if trajectory:
                    write_gif(cfg, y, trajectory, samples.folder / GIF)
                samples.add(first, to_uint8(x).cpu())
    except KeyboardInterrupt:
        log.warning(
            f"stopped with {len(samples)} of {cfg.n} images; the same command with out={cfg.out} goes on"
        )
        raise


def advance(progress: Progress, task: TaskID, n: int) -> AfterStep:
    """Return a hook that moves the progress bar by n after each step."""

    def hook(x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
        progress.advance(task, n)
        return x_s

    return hook


def gif_trajectory(cfg: DictConfig, loaded: Loaded) -> Trajectory:
    """Return a hook that keeps at most ``cfg.gif_frames`` evenly spread times, the last one always."""
    times = loaded.sampler.times(loaded.denoiser.schedule)
    every = math.ceil(loaded.sampler.steps / cfg.gif_frames)
    return Trajectory(times, times[1:].flip(0)[::every].tolist(), min(cfg.grid_n, cfg.n))


def write_gif(cfg: DictConfig, y: Tensor | None, trajectory: Trajectory, path: Path) -> None:
    """Write the kept x_t as an animation, each frame a grid."""
    columns = columns_of(cfg, y, min(cfg.grid_n, cfg.n))
    x_ts = [frame[:, 0] for frame in trajectory.frames]
    save_gif([grid(x_t, min(columns, len(x_t))) for x_t in x_ts], path)


def sampling_settings(cfg: DictConfig, loaded: Loaded, given: Conditions) -> dict[str, Any]:
    """Return all that an image depends on, but for its number."""
    keys = ["y", "prompt", "negative_prompt", "input", "seed"]
    settings = plain(OmegaConf.masked_copy(cfg, keys))
    settings["precision"] = choose_precision(cfg.precision, loaded.device)
    sampler = {"name": type(loaded.sampler).__name__, **vars(loaded.sampler)}
    if given.y is not None and given.y.ndim == 4:
        settings["conditions"] = hashlib.sha256(given.y.numpy().tobytes()).hexdigest()
    return {"weights": loaded.identity, **settings, "guidance": loaded.guidance.settings, "sampler": sampler}


def columns_of(cfg: DictConfig, y: Tensor | None, n: int) -> int:
    """Return the columns of a grid of n images: one for each condition in turn where they are few."""
    if cfg.rows is not None:
        return math.ceil(n / cfg.rows)
    in_turn = 0 if y is None or y.ndim == 4 else len(y)
    return in_turn if 1 < in_turn <= max(MOST_COLUMNS, math.isqrt(n)) else math.ceil(n**0.5)


def picture_of(cfg: DictConfig, images: Tensor, given: Conditions) -> Image.Image:
    """Return samples uint8 (N, C, H, W) as a grid; if images condition them, these above, truths below."""
    shown = to_float(images[: cfg.grid_n])
    columns = columns_of(cfg, given.y, len(shown))
    if given.y is None or given.y.ndim != 4:
        return grid(shown, columns)
    kinds = [given.y] if given.truth is None else [given.y, given.truth]
    above, *below = (kind[torch.arange(len(shown)) % len(kind)] for kind in kinds)
    return stacked_grid([above, shown, *below], columns)


def write_samples(cfg: DictConfig, samples: PartialSamples, given: Conditions) -> list[Path]:
    """Write grid.png and, where the config has them, samples.npz and trajectory.gif, to ``cfg.out``."""
    images = samples.images()[: cfg.n]
    grid_path, npz_path, gif_path = (Path(cfg.out) / name for name in ("grid.png", "samples.npz", GIF))
    paths = [save_png(picture_of(cfg, images, given), grid_path)]
    gif_path.unlink(missing_ok=True)  # of an earlier sampling in the same folder
    if cfg.npz:
        arrays: dict[str, Any] = {"images": images.numpy()}
        if (labels := labels_of_images(cfg, given.y)) is not None:
            arrays["labels"] = labels.numpy()
        with atomic_write(npz_path) as file:
            np.savez(file, **arrays)
        paths.append(npz_path)
    if (samples.folder / GIF).is_file():
        paths.append((samples.folder / GIF).rename(gif_path))
    return paths
