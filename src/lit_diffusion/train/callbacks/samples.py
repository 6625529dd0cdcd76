"""Pictures of what the model makes, while it learns."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import grid, save_png, to_float
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.guidance import guide
from lit_diffusion.samplers.base import Sampler
from lit_diffusion.samplers.film import Film
from lit_diffusion.samplers.generate import generate, one_step
from lit_diffusion.train.callbacks.after_epochs import AfterEpochs


class Samples(AfterEpochs):
    """A grid of samples.

    The noise is the same each time, so that progress shows. The grid goes to every logger that
    takes pictures, and as ``samples/grid_step_000123.png`` into the run's folder. Beside it goes a
    trajectory: for the first few samples, x_t above and the estimate of x below it, at the times
    nearest to those asked for.

    Args:
        sampler: how to sample.
        n: number of samples of each seed; labels, if the model knows any, come in turn.
        columns: samples in a row.
        epochs: as in ``AfterEpochs``.
        guidance, guidance_interval, guidance_rescale: as in ``Guided``; 1: the conditional model as it is.
        trajectory_times: times t in [0, 1] to show, 0 being the finished image; none: no trajectory.
        trajectory_n: samples shown in the trajectory.
        seeds: of the noise; the grid shows them one below the other.
    """

    def __init__(
        self,
        sampler: Sampler,
        n: int = 100,
        columns: int = 10,
        epochs: int | Sequence[int] = 1,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        trajectory_times: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0),
        trajectory_n: int = 5,
        seeds: Sequence[int] = (0,),
    ):
        super().__init__(epochs)
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
        self.sampler = sampler
        self.n = n
        self.columns = columns
        self.guided = partial(guide, scale=guidance, interval=guidance_interval, rescale=guidance_rescale)
        self.trajectory_times = trajectory_times
        self.trajectory_n = min(trajectory_n, n)
        self.seeds = seeds
        self.last_grid: Path | None = None

    def check(self, denoiser: Denoiser) -> None:
        """ConfigError if this denoiser can't be sampled so: too many steps, or guidance without labels."""
        self.sampler.check(denoiser)
        self.guided(denoiser)

    def work(self, trainer, pl_module) -> None:
        film = Film(self.sampler.times(pl_module.denoiser.schedule), self.trajectory_times)
        x = self._sample(pl_module, trainer.datamodule.image_shape, film)
        self.last_grid = show(trainer, "samples/grid", grid(x, self.columns))
        if film.frames and self.trajectory_n:
            frames = torch.stack(film.frames, dim=1)[: self.trajectory_n]  # (n, times, 2, C, H, W)
            rows = frames.transpose(1, 2).flatten(0, 2)  # per sample, x_t at each time, then x
            show(trainer, "samples/trajectory", grid(rows, len(film.frames)))

    def _sample(self, pl_module, shape: tuple[int, ...], film: Film) -> Tensor:
        denoiser = self.guided(pl_module.denoiser)
        y = torch.arange(self.n) % denoiser.num_classes if denoiser.num_classes else None
        draw = partial(generate, self.sampler, denoiser, range(self.n), shape, y=y, device=pl_module.device)
        first, *others = self.seeds
        return torch.cat([draw(first, after_step=film), *(draw(seed) for seed in others)])


class Denoised(AfterEpochs):
    """Validation images, the same with noise, and what the network makes of these in one step.

    Each column is an image; below it, for each time, x_t and the estimate of x.

    Args:
        n: images.
        times: times t in [0, 1].
        epochs: as in ``AfterEpochs``.
        seed: of the noise.
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

    def work(self, trainer, pl_module) -> None:
        x, y = trainer.datamodule.val_set[: self.n]
        x = to_float(x)
        rows = [x, *one_step(pl_module.denoiser, x, y, self.times, self.seed, pl_module.device)]
        show(trainer, "samples/denoised", grid(torch.cat(rows), len(x)))


def show(trainer: L.Trainer, key: str, image: Image.Image) -> Path:
    """Give a picture to every logger that takes pictures, and to the run's folder; the file's path."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [image], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, pil_to_tensor(image), step)
    name = key.removeprefix("samples/")
    return save_png(image, Path(trainer.default_root_dir) / "samples" / f"{name}_step_{step:06d}.png")
