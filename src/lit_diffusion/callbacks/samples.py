"""Pictures of what the model makes, while it learns."""

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lit_diffusion.callbacks.ema import averaged
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.errors import ConfigError
from lit_diffusion.guidance import Guided
from lit_diffusion.images import grid, save_png
from lit_diffusion.samplers.base import Sampler, Visit
from lit_diffusion.samplers.generate import generate


class Samples(L.Callback):
    """A grid of samples every few epochs and at the end, from the averaged weights.

    The noise is the same each time, so that progress shows. The grid goes to every logger that
    takes pictures, and as ``samples/step_000123.png`` into the run's folder. Beside it goes a
    trajectory: for the first few samples, x_t above and the estimate of x below it, at the times
    nearest to those asked for.

    Args:
        sampler: how to sample.
        n: number of samples; labels, if the model knows any, come in turn.
        columns: samples in a row.
        every_n_epochs: how often; 0: at the end alone.
        guidance: scale of the guidance; 1: the conditional model as it is.
        trajectory_times: times t in [0, 1] to show, 0 being the finished image; none: no trajectory.
        trajectory_n: samples shown in the trajectory.
        seed: of the noise.
    """

    def __init__(
        self,
        sampler: Sampler,
        n: int = 100,
        columns: int = 10,
        every_n_epochs: int = 1,
        guidance: float = 1.0,
        trajectory_times: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0),
        trajectory_n: int = 5,
        seed: int = 0,
    ):
        if min(n, columns) < 1 or min(every_n_epochs, trajectory_n) < 0:
            raise ConfigError(
                f"callbacks.samples has n {n}, columns {columns}, every_n_epochs {every_n_epochs} and "
                f"trajectory_n {trajectory_n}: the first two are at least 1, the others at least 0"
            )
        self.sampler = sampler
        self.n = n
        self.columns = columns
        self.every_n_epochs = every_n_epochs
        self.guidance = guidance
        self.trajectory_times = trajectory_times
        self.trajectory_n = min(trajectory_n, n)
        self.seed = seed
        self.last_grid: Path | None = None
        self._drawn_at = -1

    def check(self, denoiser: Denoiser) -> None:
        """ConfigError if this denoiser can't be sampled so: too many steps, or guidance without labels."""
        denoiser.schedule.times(self.sampler.steps)
        if self.guidance != 1:
            Guided(denoiser, self.guidance)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        self._draw(trainer, pl_module)

    @rank_zero_only
    def _draw(self, trainer, pl_module) -> None:
        if trainer.global_step == self._drawn_at:
            return
        self._drawn_at = trainer.global_step
        film = Film(pl_module.denoiser.schedule.times(self.sampler.steps), self.trajectory_times)
        with averaged(trainer, pl_module):
            x = self._sample(pl_module, trainer.datamodule.image_shape, film)
        self.last_grid = show(trainer, "samples/grid", grid(x, self.columns))
        if film.frames and self.trajectory_n:
            frames = torch.stack(film.frames, dim=1)[: self.trajectory_n]  # (n, times, 2, C, H, W)
            rows = frames.transpose(1, 2).flatten(0, 2)  # per sample, x_t at each time, then x
            show(trainer, "samples/trajectory", grid(rows, len(film.frames)))

    def _sample(self, pl_module, shape: tuple[int, ...], film: "Film") -> Tensor:
        denoiser, y = pl_module.denoiser, None
        if denoiser.num_classes:
            y = torch.arange(self.n) % denoiser.num_classes
            denoiser = Guided(denoiser, self.guidance)
        device = pl_module.device
        return generate(self.sampler, denoiser, range(self.n), shape, self.seed, y, device, film)


class Film:
    """An after-step hook that keeps (x_t, estimate of x) at the visits nearest to given times.

    Args:
        grid: the times the sampler visits.
        times: the times to keep; 0 is the end of the walk.
    """

    def __init__(self, grid: Tensor, times):
        self.wanted = {min(grid.tolist(), key=lambda visited: abs(visited - t)) for t in times}
        self.frames: list[Tensor] = []

    def __call__(self, x_s: Tensor, s: Tensor, visit: Visit) -> Tensor:
        if float(visit.t) in self.wanted:
            self.frames.append(torch.stack([visit.x_t, visit.estimate.x], dim=1).cpu())
        if float(s) == 0 and 0.0 in self.wanted:
            self.frames.append(torch.stack([x_s, x_s], dim=1).cpu())
        return x_s


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
