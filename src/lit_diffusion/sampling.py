"""What the sampling command does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.progress import Progress
from torch import Tensor

from lit_diffusion import checkpoint
from lit_diffusion.errors import ConfigError, check_whole_number
from lit_diffusion.guidance import guide
from lit_diffusion.images import grid, make_folder, save_gif, save_png, to_uint8
from lit_diffusion.samplers.base import Sampler, Visit
from lit_diffusion.samplers.generate import generate


def sample(cfg: DictConfig) -> list[Path]:
    """Sample as the config says, and write the images to ``cfg.out``.

    Returns:
        The files written: grid.png, and samples.npz and trajectory.gif if asked for.

    Raises:
        ConfigError: a checkpoint, sampler, label or guidance that can't work.
    """
    for key, least in {"n": 1, "batch_size": 1, "rows": 1, "gif_frames": 1, "seed": 0}.items():
        check_whole_number(key, cfg[key], least)
    make_folder(cfg.out)
    trained = checkpoint.read(cfg.ckpt)
    config = OmegaConf.create(trained["hyper_parameters"])
    device = choose_device(cfg.device)
    denoiser = checkpoint.load_denoiser(trained).to(device)
    sampler = build_sampler(cfg, config)
    denoiser.schedule.times(sampler.steps)
    y = labels(cfg.y, cfg.n, denoiser.num_classes)
    guided = guide(denoiser, cfg.guidance, cfg.guidance_interval, cfg.guidance_rescale)

    shape = (config.data.channels, config.data.image_size, config.data.image_size)
    batches = torch.arange(cfg.n).split(cfg.batch_size)
    film = Frames(sampler.steps, cfg.gif_frames if cfg.gif else 0)
    done: list[Tensor] = []
    with Progress(transient=True) as progress:
        task = progress.add_task("sampling", total=len(batches) * sampler.steps)

        def after_step(x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
            progress.advance(task)
            return x_s if done else film(x_s)

        for images in batches:
            y_batch = None if y is None else y[images]
            x = generate(sampler, guided, images.tolist(), shape, cfg.seed, y_batch, device, after_step)
            done.append(x.cpu())
    return write(cfg, torch.cat(done), y, film.frames)


class Frames:
    """Keeps so many frames, evenly spread, of the first batch's way; the last step is always one."""

    def __init__(self, steps: int, frames: int):
        self.every = -(-steps // frames) if frames else 0
        self.left = steps
        self.frames: list[Tensor] = []

    def __call__(self, x_s: Tensor) -> Tensor:
        self.left -= 1
        if self.every and self.left % self.every == 0:
            self.frames.append(x_s.cpu())
        return x_s


def write(cfg: DictConfig, x: Tensor, y: Tensor | None, film: Sequence[Tensor]) -> list[Path]:
    """grid.png and what else was asked for, in ``cfg.out``."""
    out = Path(cfg.out)
    columns = -(-cfg.n // cfg.rows)
    paths = [save_png(grid(x, columns), out / "grid.png")]
    if cfg.npz:
        arrays = {"images": to_uint8(x).numpy()}
        if y is not None:
            arrays["labels"] = y.numpy()
        np.savez(out / "samples.npz", **arrays)
        paths.append(out / "samples.npz")
    if film:
        frames = [grid(x_t, min(columns, len(x_t))) for x_t in film]
        paths.append(save_gif(frames, out / "trajectory.gif"))
    return paths


def build_sampler(cfg: DictConfig, trained: DictConfig) -> Sampler:
    """The sampler asked for, or the one the checkpoint was trained with, at the steps asked for."""
    both = OmegaConf.create({**trained, "sampler": cfg.get("sampler") or trained.sampler})
    chosen = OmegaConf.to_container(both, resolve=True)["sampler"]
    if cfg.steps is not None:
        chosen["steps"] = cfg.steps
    return instantiate(chosen)


def labels(y: str | int | ListConfig | None, n: int, num_classes: int) -> Tensor | None:
    """The label of each image, (n,): all in turn, one, or a list in turn; None for no condition."""
    if num_classes == 0:
        if y not in ("all", None):
            raise ConfigError(f"y is {y}, but this model was trained without labels: leave y out")
        return None
    if y is None:
        return torch.full((n,), num_classes)
    wanted = range(num_classes) if y == "all" else list(y) if isinstance(y, ListConfig) else [y]
    if not wanted or not all(isinstance(label, int) and 0 <= label < num_classes for label in wanted):
        raise ConfigError(f"y is {y}: choose all, null, or labels from 0 to {num_classes - 1}")
    return torch.tensor(list(wanted)).repeat(-(-n // len(wanted)))[:n]


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name}, but torch sees no GPU here: use device=cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is {name}: choose auto, cpu or cuda") from None
