"""An exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError


class EMA(L.Callback):
    """Averages the weights after every optimizer step; validation, sampling and export use the average.

    average <- d * average + (1 - d) * weights, with d = min(decay, (1 + n) / (10 + n)) after n steps,
    so that the first, bad weights are forgotten soon: up to about n = 9 / (1 - decay) the average is that of
    ``averages`` with gamma 8, of length 0.09, whatever the decay is. Floating-point parameters and buffers
    (batch norm's running statistics), averaged in float32. The checkpoint keeps it under
    callbacks / ema / average.

    Args:
        decay: d in the long run, in [0, 1).
    """

    state_key = "ema"

    def __init__(self, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ConfigError(f"callbacks.ema.decay is {decay:g}: choose a value in [0, 1)")
        self.decay = decay
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self.raw: dict[str, Tensor] = {}  # the weights, while the module has the average

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights = float_tensors(pl_module)
        self.average = {
            name: self.average.get(name, weight).clone().to(weight.device, torch.float32)
            for name, weight in self.weights.items()
        }

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._update(trainer, pl_module)

    @contextmanager
    def applied(self, pl_module: torch.nn.Module) -> Iterator[None]:
        """Give the module its averaged weights while inside."""
        before = bool(self.raw)
        self._swap(pl_module, True)
        try:
            yield
        finally:
            self._swap(pl_module, before)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap(pl_module, True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap(pl_module, False)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Undo the swap, before a checkpoint is saved."""
        self._swap(pl_module, False)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.average = state["average"]

    def _update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == self.updates or not self.weights:
            return
        self.updates = trainer.global_step
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [weight.float() for weight in self.weights.values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    @torch.no_grad()
    def _swap(self, pl_module: torch.nn.Module, swapped: bool) -> None:
        if swapped == bool(self.raw) or not self.average:
            return
        weights = float_tensors(pl_module)
        raw = {name: weight.clone() for name, weight in weights.items()} if swapped else {}
        for name, weight in weights.items():
            weight.copy_(self.average[name] if swapped else self.raw[name])
        self.raw = raw


def float_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return the module's floating-point parameters and buffers: live, not copied."""
    return {name: weight for name, weight in module.state_dict().items() if weight.is_floating_point()}


@contextmanager
def averaged(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[None]:
    """Give the module its averaged weights, if the trainer keeps any, and eval mode while inside."""
    ema = next((c for c in trainer.callbacks if isinstance(c, EMA)), None)
    training = pl_module.training
    pl_module.eval()
    try:
        if ema is None:
            yield
        else:
            with ema.applied(pl_module):
                yield
    finally:
        pl_module.train(training)
