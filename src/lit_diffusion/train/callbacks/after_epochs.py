"""When a callback looks at the model while it learns."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.denoiser import Denoiser
from lit_diffusion.train.callbacks.ema import averaged


class AfterEpochs(L.Callback, ABC):
    """Works after some epochs and at the end, with the averaged weights, on one process.

    Args:
        epochs: after every so many, or after those of a list, the first being 1; 0: at the end alone.
    """

    def __init__(self, epochs: int | Sequence[int] = 1):
        wanted = [epochs] if isinstance(epochs, int) else epochs
        if not all(isinstance(epoch, int) and epoch >= 0 for epoch in wanted):
            raise ConfigError(
                f"{type(self).__name__}'s epochs is {epochs}: choose a whole number, or a list such as [1, 5]"
            )
        self.epochs = epochs
        self._done_at = -1

    def check(self, denoiser: Denoiser) -> None:
        """ConfigError if it can't work with this denoiser."""

    @abstractmethod
    def work(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What there is to do."""

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self._due(trainer.current_epoch + 1):
            self._work_once(trainer, pl_module)

    def on_train_end(self, trainer, pl_module) -> None:
        self._work_once(trainer, pl_module)

    def _due(self, epoch: int) -> bool:
        if isinstance(self.epochs, int):
            return self.epochs > 0 and epoch % self.epochs == 0
        return epoch in self.epochs

    @rank_zero_only
    def _work_once(self, trainer, pl_module) -> None:
        if trainer.global_step == self._done_at:
            return
        self._done_at = trainer.global_step
        with averaged(trainer, pl_module), torch.no_grad():
            self.work(trainer, pl_module)
