"""Checkpoints that are whole or not there."""

import os
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames over it.

    A run killed at any moment leaves the old checkpoint or the new one, never half of one. What a
    killed run left half-written goes with the next save to the same place.
    """

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


class WandbId(L.Callback):
    """Keeps the W&B run's id in the checkpoint, so that a resumed run goes on in the same W&B run."""

    state_key = "wandb"

    def __init__(self, run_id: str | None):
        self.run_id = run_id

    def state_dict(self) -> dict:
        return {"id": self.run_id}
