"""Checkpoints, each written whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from lit_diffusion.common.files import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Leaves the old checkpoint or the new one, never half of one, whenever the run is killed."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


class LastCheckpoint(ModelCheckpoint):
    """Writes last.ckpt every so many steps, after every epoch, and when something stops the run.

    A run stopped among the batches of one optimizer step keeps the file it has: the gradients summed
    so far are in no checkpoint, so that only one from between two steps resumes exactly.

    Args:
        dirpath: folder of the file.
        every_n_train_steps: optimizer steps between two saves.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int):
        super().__init__(
            dirpath,
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_exception=True,
            enable_version_counter=False,
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch or progress.current.completed % trainer.accumulate_grad_batches == 0:
            super().on_exception(trainer, pl_module, exception)


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt, that of the run's lowest validation loss, also over all its resumptions.

    A resumed run has a folder of its own; the best checkpoint so far is copied into it.

    Args:
        dirpath: folder of the file.
        monitor: the metric to keep the lowest of.
    """

    def __init__(self, dirpath: str, monitor: str = "val/loss"):
        super().__init__(dirpath, filename="best", monitor=monitor, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, score = Path(state_dict["best_model_path"]), state_dict["best_model_score"]
        if score is None or not before.is_file():
            return
        kept = Path(self.dirpath) / "best.ckpt"
        if kept != before:
            atomic_copy(before, kept)
        self.best_model_path = self.kth_best_model_path = str(kept)
        self.best_model_score = self.kth_value = score
        self.best_k_models = {str(kept): score}


@rank_zero_only
def atomic_copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with source.open("rb") as original, atomic_write(target) as copy:
        shutil.copyfileobj(original, copy)
