"""Callbacks that work after some epochs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.data.datamodule import ImageDataModule
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.train.callbacks.ema import averaged
from lit_diffusion.train.module import LitDiffusion


def is_last_epoch(trainer: L.Trainer) -> bool:
    """Return whether the run ends with the epoch that is ending."""
    steps = 0 < trainer.max_steps <= trainer.global_step
    epochs = trainer.max_epochs is not None and 0 < trainer.max_epochs <= trainer.current_epoch + 1
    return steps or epochs or trainer.should_stop


class AfterEpochs(L.Callback, ABC):
    """Works after some epochs and at the end, with the averaged weights, on one process.

    Args:
        epochs: after every so many, or after those of a list, the first being 1; 0: only at the end.
    """

    def __init__(self, epochs: int | Sequence[int] = 1):
        listed = [epochs] if isinstance(epochs, int) else epochs
        if not all(isinstance(epoch, int) and epoch >= 0 for epoch in listed):
            raise ConfigError(
                f"{type(self).__name__}'s epochs is {epochs}: choose a whole number, or a list such as [1, 5]"
            )
        self.epochs = epochs
        self._done_at = -1

    def check(self, denoiser: NetworkDenoiser, data: ImageDataModule) -> None:
        """Raise ConfigError if the callback can't work with this denoiser, or with these data."""

    @abstractmethod
    def work(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        """Do the callback's work, once; the averaged weights are in place."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        if self._due(trainer.current_epoch + 1) or is_last_epoch(trainer):
            self._work_once(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        """Work where the end couldn't be foreseen; elsewhere it is done, before the last checkpoint."""
        self._work_once(trainer, pl_module)

    def _due(self, epoch: int) -> bool:
        if isinstance(self.epochs, int):
            return self.epochs > 0 and epoch % self.epochs == 0
        return epoch in self.epochs

    @rank_zero_only
    def _work_once(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        if trainer.global_step == self._done_at:
            return
        self._done_at = trainer.global_step
        with averaged(trainer, pl_module), torch.no_grad():
            self.work(trainer, pl_module)
