"""How fast training runs, and how far it has come."""

import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from torch.optim import Optimizer

from lit_diffusion.common.errors import check_number, check_whole_number
from lit_diffusion.common.log import log


class Perf(L.Callback):
    """Logs images per second, learning rate and gradient norm, every ``log_every_n_steps``.

    The norm is that of the whole gradient before clipping. Validation and sampling don't count in
    the images per second.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(trainer)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps:
            return
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.log_dict({"train/grad_norm": norm, "train/lr": optimizer.param_groups[0]["lr"]})

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = trainer.global_step - self.step
        if trainer.global_step % trainer.log_every_n_steps or steps == 0:
            return
        images = steps * len(batch[0]) * trainer.accumulate_grad_batches * trainer.world_size
        rate = images / (time.perf_counter() - self.start)
        pl_module.log("perf/images_per_second", rate)
        self._restart(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(trainer)

    def _restart(self, trainer: L.Trainer) -> None:
        self.start = time.perf_counter()
        self.step = trainer.global_step


class PlainProgress(ProgressBar):
    """Logs a line now and then, where there is no terminal: epoch, step, time left, losses.

    Args:
        seconds: the least time between two lines.
    """

    def __init__(self, seconds: float = 10.0):
        super().__init__()
        self.seconds = seconds
        self.enabled = True

    def disable(self) -> None:
        """Say nothing from now on; Lightning calls it in every process but the first."""
        self.enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = self.printed = time.perf_counter()
        self.first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if now - self.printed >= self.seconds:
            self.printed = now
            self._line(trainer, now)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._line(trainer, time.perf_counter())

    def _line(self, trainer: L.Trainer, now: float) -> None:
        if not self.enabled:
            return
        step, steps = trainer.global_step, trainer.estimated_stepping_batches
        left = (now - self.start) / max(step - self.first_step, 1) * (steps - step)
        losses = {k: float(v) for k, v in trainer.callback_metrics.items() if k in ("train/loss", "val/loss")}
        loss_text = "".join(f"  {name} {value:.4f}" for name, value in losses.items())
        of_steps = f"/{steps}  {left / 60:.1f} min left" if steps != float("inf") else ""
        epoch = trainer.fit_loop.epoch_progress.current.ready
        log.info(f"epoch {epoch}  step {step}{of_steps}{loss_text}")


def progress_bar(refresh_rate: int = 20, seconds: float = 10.0) -> ProgressBar:
    """Return a rich bar for a terminal, plain lines for anything else.

    Args:
        refresh_rate: steps between two updates of the bar.
        seconds: time between two plain lines.

    Raises:
        ConfigError: a negative value.
    """
    check_whole_number("callbacks.progress.refresh_rate", refresh_rate, least=0)
    check_number("callbacks.progress.seconds", seconds, least=0, most=1e9)
    if sys.stdout.isatty():
        return RichProgressBar(refresh_rate=refresh_rate)
    return PlainProgress(seconds)
