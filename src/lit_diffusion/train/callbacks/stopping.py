"""Ctrl-C and SIGTERM, acted on between two steps."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from lit_diffusion.common.log import log


class Stopped(BaseException):
    """A signal stopped the run.

    Attributes:
        status: a shell's exit status for the signal.
        between_steps: whether it came where a checkpoint can be written.
    """

    def __init__(self, number: int, between_steps: bool):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number
        self.between_steps = between_steps


class StopOnSignal(L.Callback):
    """Ends the run on Ctrl-C and on SIGTERM, as soon as the step at work is finished.

    A signal comes between any two instructions, and would leave an optimizer's step half done. Outside of
    steps, in validation or while pictures are drawn, and at the second signal, the run ends at once.
    Several processes end before the same step.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self.in_step = False
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # others can't have handlers
            self.before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.in_step = True
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed % trainer.accumulate_grad_batches:
            return  # gradients are being summed, which no checkpoint holds
        received = self.received is not None
        if trainer.world_size > 1:
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if received:
            raise Stopped(self.received or signal.SIGTERM, between_steps=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._leave_steps()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._leave_steps()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _leave_steps(self) -> None:
        self.in_step = False
        if self.received is not None:
            raise Stopped(self.received, between_steps=False)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or not self.in_step:
            self.received = number
            raise Stopped(number, between_steps=False)
        self.received = number
        log.info("stopping after this step; again to stop at once")
