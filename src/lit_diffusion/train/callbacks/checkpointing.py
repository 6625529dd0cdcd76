"""Checkpoints that are whole or not there."""

import shutil
from pathlib import Path

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from lit_diffusion.common.files import whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """A run killed at any moment leaves the old checkpoint or the new one, never half of one."""

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        with whole(Path(path)) as file:
            torch.save(checkpoint, file)


class LastCheckpoint(ModelCheckpoint):
    """last.ckpt: every so many steps, at the end of every epoch, and where an exception or SIGTERM stops.

    A run stopped among the batches of one optimizer step keeps the file it has: the gradients summed
    so far are in no checkpoint, so only one from between two steps resumes exactly.

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

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer, pl_module, exception) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch or progress.current.completed % trainer.accumulate_grad_batches == 0:
            super().on_exception(trainer, pl_module, exception)


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt: the lowest validation loss of the run, over all its resumptions.

    A resumed run has a folder of its own; the best checkpoint so far is copied into it.

    Args:
        dirpath: folder of the file.
        monitor: the metric to keep the lowest of.
    """

    def __init__(self, dirpath: str, monitor: str = "val/loss"):
        super().__init__(dirpath, filename="best", monitor=monitor, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict) -> None:
        before, score = Path(state_dict["best_model_path"]), state_dict["best_model_score"]
        if score is None or not before.is_file():
            return
        kept = Path(self.dirpath) / "best.ckpt"
        if kept != before:
            copy_whole(before, kept)
        self.best_model_path = self.kth_best_model_path = str(kept)
        self.best_model_score = self.kth_value = score
        self.best_k_models = {str(kept): score}


@rank_zero_only
def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that the target is whole or not there."""
    with source.open("rb") as original, whole(target) as copy:
        shutil.copyfileobj(original, copy)
