"""Pictures of what the model makes, while it is trained."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import grid, save_gif, save_png, stacked_grid, to_float
from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.data.datamodule import ImageDataModule
from lit_diffusion.data.image_set import converted
from lit_diffusion.denoiser import Denoiser, NetworkDenoiser
from lit_diffusion.guidance import Guidance
from lit_diffusion.samplers.base import Sampler
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.hooks import Trajectory
from lit_diffusion.train.callbacks.after_epochs import AfterEpochs
from lit_diffusion.train.checks import check_sampler
from lit_diffusion.train.module import LitDiffusion


class Samples(AfterEpochs):
    """Draws a grid of samples.

    The noise is the same each time, so that progress shows. The grid goes to every logger that
    takes pictures, and as ``samples/grid_step_000123.png`` into the run's folder. Beside it goes a
    trajectory: for the first few samples, x_t above and the estimate of x below it, at the times
    nearest to ``trajectory_times``.

    If images condition the model, they are of validation images: the grid has a row of them above each
    row of samples, and below it the images that they were made of.

    Args:
        sampler: how to sample.
        guidance: as ``Guidance.from_config`` takes it.
        n: number of samples of each seed; labels, if the model knows any, come in turn.
        columns: samples in a row.
        epochs: as in ``AfterEpochs``.
        trajectory_times: times t in [0, 1] to show, 0 being the finished image; none: no trajectory.
        trajectory_n: samples shown in the trajectory.
        seeds: of the noise; the grid shows them one below the other.

    Raises:
        ConfigError: a value outside its range.
    """

    def __init__(
        self,
        sampler: Sampler,
        guidance: Mapping[str, Any],
        n: int = 100,
        columns: int = 10,
        epochs: int | Sequence[int] = 1,
        trajectory_times: Sequence[float] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0),
        trajectory_n: int = 5,
        seeds: Sequence[int] = (0,),
    ):
        super().__init__(epochs)
        if not isinstance(sampler, Sampler):
            raise ConfigError(f"sampler is a {type(sampler).__name__}, which is no Sampler: choose another")
        if min(n, columns) < 1 or trajectory_n < 0:
            raise ConfigError(
                f"callbacks.samples has n {n}, columns {columns} and trajectory_n {trajectory_n}: the first "
                "two are at least 1, the third at least 0"
            )
        if not isinstance(seeds, Sequence) or not seeds or min(seeds) < 0:
            raise ConfigError(f"callbacks.samples.seeds is {seeds}: choose a list such as [0] or [100, 101]")
        if len(seeds) > 1 and n % columns:
            raise ConfigError(
                f"callbacks.samples.n is {n}, not a multiple of columns {columns}: with several seeds choose "
                "one, so that each seed has rows of its own"
            )
        if not all(0 <= time <= 1 for time in trajectory_times):
            raise ConfigError(
                f"callbacks.samples.trajectory_times is {list(trajectory_times)}: choose times t in [0, 1]"
            )
        self.sampler = sampler
        self.guidance = Guidance.from_config(guidance)
        self.n = n
        self.columns = columns
        self.trajectory_times = trajectory_times
        self.trajectory_n = min(trajectory_n, n)
        self.seeds = seeds
        self.last_grid: Path | None = None

    def check(self, denoiser: NetworkDenoiser, data: ImageDataModule) -> None:
        self.sampler.check(self.guidance.applied(denoiser))
        check_sampler(self.sampler, denoiser, data.image_shape)
        if denoiser.condition_channels and self.n > data.val_size:
            raise ConfigError(
                f"callbacks.samples.n is {self.n}, but data.val_size is {data.val_size}, whose images are "
                "the conditions: choose fewer"
            )

    def work(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        times = self.sampler.times(pl_module.denoiser.schedule)
        trajectory = Trajectory(times, self.trajectory_times, self.trajectory_n)
        y, truth = self._conditions(pl_module, trainer.datamodule)
        x = self._sample(pl_module, trainer.datamodule.image_shape, y, trajectory)
        if truth is None or y is None:
            picture, caption = grid(x, self.columns), self._caption(pl_module.denoiser.num_classes)
        else:
            kinds = [y.repeat(len(self.seeds), 1, 1, 1), x, truth.repeat(len(self.seeds), 1, 1, 1)]
            picture, caption = stacked_grid(kinds, self.columns), "conditions, samples, and the images wanted"
        self.last_grid = log_picture(trainer, "samples/grid", picture, caption)
        if trajectory.frames and self.trajectory_n:
            frames = torch.stack(trajectory.frames, dim=1)  # (n, times, 2, C, H, W)
            rows = frames.transpose(1, 2).flatten(0, 2)  # per sample, x_t at each time, then x
            shown = ", ".join(f"{time:.2g}" for time in trajectory.times)
            picture = grid(rows, len(trajectory.frames))
            log_picture(trainer, "samples/trajectory", picture, f"t = {shown}")
            log_video(trainer, "samples/denoising", trajectory.frames)

    def _caption(self, num_classes: int) -> str:
        """Return what the samples were asked to be."""
        if num_classes == 0:
            return "without labels"
        labels = (str(k % num_classes) for k in range(min(self.columns, self.n)))
        return f"labels of the first row: {', '.join(labels)}"

    def _conditions(
        self, pl_module: LitDiffusion, data: ImageDataModule
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return y (n, ...), None for none, and the images that y was made of, if it is images."""
        if pl_module.condition is not None:
            x, other = converted(*data.val_set[: self.n])
            return pl_module.condition(x, other), x
        num_classes = pl_module.denoiser.num_classes
        return (torch.arange(self.n) % num_classes if num_classes else None), None

    def _sample(
        self, pl_module: LitDiffusion, shape: tuple[int, ...], y: Tensor | None, trajectory: Trajectory
    ) -> Tensor:
        denoiser = self.guidance.applied(pl_module.denoiser)
        draw = partial(generate, self.sampler, denoiser, range(self.n), shape, y=y, device=pl_module.device)
        first, *others = self.seeds
        return torch.cat([draw(first, after_step=trajectory), *(draw(seed) for seed in others)])


class Denoised(AfterEpochs):
    """Draws validation images, the same with noise, and the network's estimates of them in one step.

    Each column is an image; below it, for each time, x_t and the estimate of x.

    Args:
        n: images.
        times: times t in [0, 1].
        epochs: as in ``AfterEpochs``.
        seed: of the noise.

    Raises:
        ConfigError: a value outside its range.
    """

    def __init__(
        self,
        n: int = 10,
        times: Sequence[float] = (1.0,),
        epochs: int | Sequence[int] = 1,
        seed: int = 0,
    ):
        super().__init__(epochs)
        if n < 1 or not times or not 0 <= min(times) <= max(times) <= 1:
            raise ConfigError(
                f"callbacks.samples has n {n} and times {list(times)}: choose at least 1 image and one "
                "time, and times in [0, 1]"
            )
        self.n = n
        self.times = times
        self.seed = seed

    def check(self, denoiser: NetworkDenoiser, data: ImageDataModule) -> None:
        if self.n > data.val_size:
            raise ConfigError(
                f"callbacks.samples.n is {self.n}, but data.val_size is {data.val_size}: choose fewer images"
            )

    def work(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        x, y = trainer.datamodule.val_set[: self.n]
        x = to_float(x)
        rows = [x.cpu(), *denoised_once(pl_module.denoiser, x, y, self.times, self.seed, pl_module.device)]
        times = ", ".join(f"{time:g}" for time in self.times)
        caption = f"images, and x_t and its estimate at t = {times}"
        log_picture(trainer, "samples/denoised", grid(torch.cat(rows), len(x)), caption)


@torch.no_grad()
def denoised_once(
    denoiser: Denoiser,
    x: Tensor,
    y: Tensor | None,
    times: Sequence[float],
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Noise images to each of the times, and denoise them in one step.

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        x: clean images, (B, C, H, W).
        y: their labels, (B,); not used by a model without labels.
        times: t in [0, 1].
        seed: of the noise; image k has the same at every time.

    Returns:
        x_t and the estimate of x, (B, C, H, W) each, on the CPU, of the first time, then of the next.
    """
    noise = ImageNoise(seed, range(len(x)), x.shape[1:], device)()
    x = x.to(device)
    y = y.to(device) if y is not None and denoiser.num_classes else None
    shown = []
    for time in times:
        t = torch.full((len(x),), time, dtype=torch.float32, device=device)
        x_t = denoiser.schedule.noised(x, noise, t)
        shown += [x_t.cpu(), denoiser(x_t, t, y).x.cpu()]
    return shown


def log_picture(trainer: L.Trainer, key: str, image: Image.Image, caption: str) -> Path:
    """Give a picture to every logger that takes pictures, and to the run's folder; return its file."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [image], step=step, caption=[caption])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, pil_to_tensor(image), step)
    name = key.removeprefix("samples/")
    return save_png(image, Path(trainer.default_root_dir) / "samples" / f"{name}_step_{step:06d}.png")


def log_video(trainer: L.Trainer, key: str, frames: Sequence[Tensor]) -> None:
    """Give W&B an animation of frames (n, 2, C, H, W): above the x_t of a time, below the estimates."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not loggers:
        return
    with TemporaryDirectory() as folder:
        pictures = [grid(frame.transpose(0, 1).flatten(0, 1), len(frame)) for frame in frames]
        path = save_gif(pictures, Path(folder, "frames.gif"), milliseconds=400)
        for logger in loggers:
            logger.log_video(key, [str(path)], step=trainer.global_step, format=["gif"])
