"""What the sampling command does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.progress import Progress
from torch import Tensor, nn

from lit_diffusion.common.errors import ConfigError, check_switch, check_whole_number
from lit_diffusion.common.files import whole
from lit_diffusion.common.images import grid, make_folder, save_gif, save_png, to_float, to_uint8
from lit_diffusion.common.log import log
from lit_diffusion.guidance import check_guidance
from lit_diffusion.loading import UNGUIDED, Loaded, guidance_asked, load
from lit_diffusion.sample.partial import Finished
from lit_diffusion.samplers.base import Visit
from lit_diffusion.samplers.generate import generate

FILM = "trajectory.gif"


def main(cfg: DictConfig) -> None:
    """Sample, and log the files written."""
    for path in sample(cfg):
        log.info(path)


def sample(cfg: DictConfig) -> list[Path]:
    """Sample as the config says, and write the images to ``cfg.out``.

    Each batch is on the disk once it is finished: the same command with the same ``out`` goes on where
    one that was stopped has been.

    Returns:
        The files written: grid.png, and samples.npz and trajectory.gif if asked for.

    Raises:
        ConfigError: a checkpoint, sampler, label or guidance that can't work, or a folder that holds part
            of another sampling.
    """
    check_values(cfg)
    out = make_folder(cfg.out)
    loaded = load(cfg)
    y = conditions(cfg, loaded.denoiser)
    with Finished(out / "finished", what_decides(cfg, loaded)) as finished:
        make(cfg, loaded, y, finished)
        paths = write(cfg, finished, y)
        finished.remove()
    return paths


def check_values(cfg: DictConfig) -> None:
    """ConfigError for a number or a switch that can't work, whatever the model."""
    for key, least in {"n": 1, "batch_size": 1, "rows": 1, "grid_n": 1, "gif_frames": 1, "seed": 0}.items():
        check_whole_number(key, cfg[key], least)
    for key in ("npz", "gif"):
        check_switch(key, cfg[key])
    check_guidance(*{**UNGUIDED, **guidance_asked(cfg)}.values())


def make(cfg: DictConfig, loaded: Loaded, y: Tensor | None, finished: Finished) -> None:
    """The images that aren't finished yet; says how to go on if it is stopped."""
    try:
        make_batches(cfg, loaded, y, finished)
    except KeyboardInterrupt:
        done = f"stopped with {len(finished)} of {cfg.n} images"
        log.warning(f"{done}; the same command with out={cfg.out} goes on")
        raise


def make_batches(cfg: DictConfig, loaded: Loaded, y: Tensor | None, finished: Finished) -> None:
    """Batch by batch, and the film of the first batch."""
    steps = loaded.sampler.steps + (loaded.upscaler.sampler.steps if loaded.upscaler else 0)
    with Progress(transient=True) as progress:
        task = progress.add_task("sampling", total=cfg.n * steps, completed=len(finished) * steps)
        for first in range(len(finished), cfg.n, cfg.batch_size):
            images = range(first, min(first + cfg.batch_size, cfg.n))
            film = Frames(loaded.sampler.steps, cfg.gif_frames if cfg.gif and first == 0 else 0)

            def count(x_s: Tensor, s: Tensor, visit: Visit, n: int = len(images)) -> Tensor:
                progress.advance(task, n)
                return x_s

            x = make_batch(loaded, images, cfg.seed, y, film, count)
            if film.frames:
                save_film(cfg, film.frames, finished.folder / FILM)
            finished.add(first, to_uint8(x).cpu())


def untouched(x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
    return x_s


def make_batch(
    loaded: Loaded,
    images: range,
    seed: int,
    y: Tensor | None,
    film: Callable[[Tensor, Tensor, Visit], Tensor] = untouched,
    count: Callable[[Tensor, Tensor, Visit], Tensor] = untouched,
) -> Tensor:
    """The images of these numbers, (B, C, H, W).

    Args:
        loaded: what to sample with.
        images: their numbers.
        seed: of the noise.
        y: what ``conditions`` gave.
        film: hook after each step of the walk from noise.
        count: hook after each step, an upscaler's too.
    """
    y = None if y is None else y[torch.tensor(images) % len(y)].to(loaded.device)
    x = generate(
        loaded.sampler,
        loaded.denoiser,
        images,
        loaded.shape,
        seed,
        y,
        loaded.device,
        after_step=lambda x_s, s, visit: count(film(x_s, s, visit), s, visit),
    )
    if loaded.upscaler is None:
        return x
    return loaded.upscaler(x, images, seed, y, loaded.denoiser.null(y[:1]), after_step=count)


def what_decides(cfg: DictConfig, loaded: Loaded) -> dict:
    """All that an image depends on, but for its number."""
    keys = ("y", "prompt", "negative_prompt", "seed")
    chosen = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    sampler = {"name": type(loaded.sampler).__name__, **vars(loaded.sampler)}
    return {"weights": loaded.identity, **chosen, **loaded.guidance, "sampler": sampler}


class Frames:
    """Keeps so many frames, evenly spread, of a batch's way; the last step is always one."""

    def __init__(self, steps: int, frames: int):
        self.every = -(-steps // frames) if frames else 0
        self.left = steps
        self.frames: list[Tensor] = []

    def __call__(self, x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
        self.left -= 1
        if self.every and self.left % self.every == 0:
            self.frames.append(x_s.cpu())
        return x_s


def save_film(cfg: DictConfig, frames: list[Tensor], path: Path) -> None:
    shown = min(cfg.grid_n, cfg.n)
    columns = -(-shown // cfg.rows)
    save_gif([grid(x_t[:shown], min(columns, len(x_t))) for x_t in frames], path)


def write(cfg: DictConfig, finished: Finished, y: Tensor | None) -> list[Path]:
    """grid.png and, where they were asked for, samples.npz and trajectory.gif, in ``cfg.out``."""
    images = finished.images()[: cfg.n]
    shown = images[: cfg.grid_n]
    grid_path, npz_path, film = (Path(cfg.out) / name for name in ("grid.png", "samples.npz", FILM))
    paths = [save_png(grid(to_float(shown), -(-len(shown) // cfg.rows)), grid_path)]
    for path in (npz_path, film):  # of an earlier sampling in the same folder
        path.unlink(missing_ok=True)
    if cfg.npz:
        arrays = {"images": images.numpy()}
        if (asked := labels_of(cfg, y)) is not None:
            arrays["labels"] = asked.numpy()
        with whole(npz_path) as file:
            np.savez(file, **arrays)
        paths.append(npz_path)
    if (finished.folder / FILM).is_file():
        paths.append((finished.folder / FILM).rename(film))
    return paths


def labels_of(cfg: DictConfig, y: Tensor | None) -> Tensor | None:
    """The label that each image was asked to be, (n,); None where nothing was asked for, or no label."""
    if cfg.y is None or y is None or y.ndim > 1:
        return None
    return y[torch.arange(cfg.n) % len(y)]


def conditions(cfg: DictConfig, denoiser: nn.Module) -> Tensor | None:
    """What the images are asked to be, in turn: labels (K,), or the text embeddings (K, L, D) of prompts."""
    if cfg.prompt is not None and cfg.y != "all":
        raise ConfigError(f"y is {cfg.y} and prompt {cfg.prompt}: leave one out")
    if cfg.prompt is None:
        if denoiser.conditional and denoiser.num_classes == 0:
            raise ConfigError('prompt is missing: give prompt="...", or a list of prompts')
        return labels(cfg.y, denoiser.num_classes)
    prompts = list(cfg.prompt) if isinstance(cfg.prompt, ListConfig) else [cfg.prompt]
    if not prompts:
        raise ConfigError("prompt is an empty list: give at least one")
    return torch.cat([denoiser.encode(prompt) for prompt in prompts])


def labels(y: str | int | ListConfig | None, num_classes: int) -> Tensor | None:
    """The labels of images, in turn, (K,): all, one, or a list; None for no condition."""
    if num_classes == 0:
        if y not in ("all", None):
            raise ConfigError(f"y is {y}, but this model was trained without labels: leave y out")
        return None
    if y is None:
        return torch.tensor([num_classes])
    wanted = range(num_classes) if y == "all" else list(y) if isinstance(y, ListConfig) else [y]
    if not wanted or not all(isinstance(label, int) and 0 <= label < num_classes for label in wanted):
        raise ConfigError(f"y is {y}: choose all, null, or labels from 0 to {num_classes - 1}")
    return torch.tensor(list(wanted))
