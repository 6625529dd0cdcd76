"""Checkpoints, each written whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lit_diffusion.checkpoint import read_checkpoint
from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.files import atomic_write
from lit_diffusion.common.weights import not_finite
from lit_diffusion.train.callbacks.stopping import Stopped
from lit_diffusion.train.checks import check_metric


class AtomicCheckpointIO(TorchCheckpointIO):
    """Leaves the old checkpoint or the new one, never half of one, whenever the run is killed."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write the checkpoint.

        Raises:
            ConfigError: a weight isn't finite; the file that is there stays.
        """
        check_finite(checkpoint)
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


def check_finite(checkpoint: dict[str, Any]) -> None:
    """Raise ConfigError unless all weights, and their averages, are finite."""
    average = checkpoint.get("callbacks", {}).get("ema", {}).get("average", {})
    if name := not_finite(checkpoint["state_dict"]) or not_finite(average):
        raise ConfigError(
            f"after step {checkpoint['global_step']} {name} isn't finite, and so no checkpoint was written: "
            "go on from the last one with a lower optimizer.lr"
        )


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt every so many steps, after every epoch, and when a signal stops the run.

    It writes between two steps, when what the step logged is on the disk and nothing is half done: before
    the next step's first computation, or after an epoch's validation and pictures. Each checkpoint then
    stands for all that came before it, and nothing else.

    Args:
        dirpath: folder of the file.
        every_n_train_steps: optimizer steps between two saves.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int):
        check_whole_number("callbacks.last.every_n_train_steps", every_n_train_steps, least=1)
        self.dirpath = dirpath
        self.every_n_train_steps = every_n_train_steps
        self._saved_at = 0

    @property
    def path(self) -> Path:
        return Path(self.dirpath, "last.ckpt")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_train_steps == 0 and trainer.global_step > self._saved_at:
            self._save_before_batch(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, batches = trainer.fit_loop.epoch_progress, trainer.fit_loop.epoch_loop.batch_progress
        cut_off = 0 if batches.is_last_batch else 1  # by max_steps: a longer run will go on with this epoch
        with counted_less(epoch, "processed", cut_off):
            self._save(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, Stopped) and exception.between_steps:
            self._save_before_batch(trainer)

    def _save_before_batch(self, trainer: L.Trainer) -> None:
        """Save as if the batch that is ready weren't yet."""
        with counted_less(trainer.fit_loop.epoch_loop.batch_progress, "ready", 1):
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        self._saved_at = trainer.global_step
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)


@contextmanager
def counted_less(progress: Any, name: str, less: int) -> Iterator[None]:
    """Lower one of the counts of Lightning's progress, and its total, while inside."""
    counters = (progress.current, progress.total)
    for counter in counters:
        setattr(counter, name, getattr(counter, name) - less)
    yield
    for counter in counters:
        setattr(counter, name, getattr(counter, name) + less)


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt, that of the run's lowest validation loss, also over all its resumptions.

    A resumed run has a folder of its own; the best checkpoint so far, which lies beside the one that the
    run goes on from, is copied into it.

    Args:
        dirpath: folder of the file.
        monitor: the metric to keep the lowest of.
    """

    def __init__(self, dirpath: str, monitor: str = "val/loss"):
        check_metric("callbacks.best.monitor", monitor)
        super().__init__(dirpath, filename="best", monitor=monitor, enable_version_counter=False)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        before, kept = Path(trainer.ckpt_path).with_name("best.ckpt"), Path(self.dirpath, "best.ckpt")
        score = self._score_in(checkpoint)
        if score is None or not before.is_file() or self._score_in(read_checkpoint(before)) != score:
            return
        if kept.resolve() != before.resolve():
            atomic_copy(before, kept)
        self.best_model_path = self.kth_best_model_path = str(kept)
        self.best_model_score = self.kth_value = score
        self.best_k_models = {str(kept): score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore nothing: the paths in a file are of another machine, or a stranger's choice."""

    def _score_in(self, checkpoint: dict[str, Any]) -> Tensor | None:
        """Return the lowest validation loss that a checkpoint knows of."""
        state = checkpoint["callbacks"].get(self.state_key)
        score = state.get("best_model_score") if isinstance(state, dict) else None
        return score if isinstance(score, Tensor) and score.numel() == 1 else None


@rank_zero_only
def atomic_copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with source.open("rb") as original, atomic_write(target) as copy:
        shutil.copyfileobj(original, copy)
