"""Averages of the weights from which one of any length can be made after the training."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_diffusion.averages import exponent, kept_in, kept_share
from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.weights import write_weights
from lit_diffusion.train.callbacks.ema import float_tensors
from lit_diffusion.train.module import LitDiffusion


class PowerEMA(L.Callback):
    """Keeps averages of the network of two lengths, and writes them every so many steps (EDM2, section 3.2).

    ``lit_diffusion.sample ckpt=PATH ema=0.1`` makes that of another length of them.

    A run that goes on from a checkpoint without them begins as if all its steps had had these weights.

    Args:
        dirpath: folder of the files, ``averages`` beside ``checkpoints``.
        lengths: of the averages, in shares of the training.
        every_n_train_steps: optimizer steps between two files; the end has one too.
    """

    state_key = "power_ema"

    def __init__(self, dirpath: str, lengths: Sequence[float] = (0.05, 0.1), every_n_train_steps: int = 500):
        check_whole_number("callbacks.power_ema.every_n_train_steps", every_n_train_steps, least=1)
        if len(set(lengths)) < 2:
            raise ConfigError(f"callbacks.power_ema.lengths is {list(lengths)}: give two different ones")
        self.dirpath = dirpath
        self.lengths = tuple(lengths)
        self.exponents = [exponent(length, "callbacks.power_ema.lengths") for length in lengths]
        self.every_n_train_steps = every_n_train_steps
        self.updates = 0
        self.averages: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        if trainer.is_global_zero:
            self._bring_files(trainer.ckpt_path)
        weights = float_tensors(pl_module.denoiser.network)
        kept = self.averages or [weights] * len(self.lengths)
        self.averages = [
            {name: average[name].clone().to(w.device, torch.float32) for name, w in weights.items()}
            for average in kept
        ]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: LitDiffusion, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.updates:
            return
        self.updates = trainer.global_step
        weights = [weight.float() for weight in float_tensors(pl_module.denoiser.network).values()]
        for gamma, average in zip(self.exponents, self.averages, strict=True):
            torch._foreach_lerp_(list(average.values()), weights, 1 - kept_share(self.updates, gamma))
        if self.updates % self.every_n_train_steps == 0:
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: LitDiffusion) -> None:
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": self.averages, "lengths": list(self.lengths)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if tuple(state["lengths"]) != self.lengths:
            raise ConfigError(
                f"callbacks.power_ema.lengths is {list(self.lengths)}, but the run began with "
                f"{state['lengths']}: choose these"
            )
        self.updates = state["updates"]
        self.averages = state["averages"]

    def _bring_files(self, ckpt: str | Path | None) -> None:
        """Copy what a run that goes on kept so far from beside its checkpoint, and delete what came after."""
        folder = Path(self.dirpath)
        folder.mkdir(parents=True, exist_ok=True)
        before = Path(ckpt).resolve().parent.parent / folder.name if ckpt else folder
        for path in sorted(before.glob("*.safetensors")):
            if not (folder / path.name).exists() and kept_in(path).step <= self.updates:
                shutil.copy(path, folder)
        for path in folder.glob("*.safetensors"):
            if kept_in(path).step > self.updates:
                path.unlink()

    def _write(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero or not self.updates:
            return
        named = {
            f"{k}/{name}": w.cpu() for k, average in enumerate(self.averages) for name, w in average.items()
        }
        fits = all(w.abs().max() < torch.finfo(torch.float16).max for w in named.values())
        path = Path(self.dirpath, f"{self.updates:08d}.safetensors")
        write_weights(path, named, {"lengths": list(self.lengths)}, "float16" if fits else "float32")
