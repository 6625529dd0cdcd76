"""The identity of a run at Weights & Biases."""

import re
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger


class WandbId(L.Callback):
    """Keeps the W&B run's id in the checkpoint, so that a resumed run goes on in the same W&B run."""

    state_key = "wandb"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        ids = [logger.version for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        self.run_id = ids[0] if ids else None

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.run_id}


def wandb_id(checkpoint: dict[str, Any]) -> str | None:
    """Return the id of the W&B run that a checkpoint came from; None for none that W&B made."""
    state = checkpoint["callbacks"].get(WandbId.state_key)
    found = state.get("id") if isinstance(state, dict) else None
    return found if isinstance(found, str) and re.fullmatch("[a-z0-9]{8}", found) else None
