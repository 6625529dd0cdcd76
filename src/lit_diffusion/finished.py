"""Images that are finished, on the disk, while the others are still being made."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_diffusion.errors import ConfigError
from lit_diffusion.files import whole

SETTINGS = "settings.json"


class Finished:
    """Batches of images in a folder, a file each, so that a sampling that was stopped can go on.

    Args:
        folder: where they are, or will be.
        settings: what the images depend on, as JSON can hold it.

    Raises:
        ConfigError: the folder holds images made with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        if len(self) == 0:
            return
        then = json.loads((folder / SETTINGS).read_text())
        changes = [f"{k} was {then.get(k)}, is {v}" for k, v in self.settings.items() if then.get(k) != v]
        if changes:
            raise ConfigError(
                f"{folder} holds a part of other images ({'; '.join(changes)}): choose another out, or "
                "remove that folder"
            )

    def __len__(self) -> int:
        return sum(len(np.load(file, mmap_mode="r")) for file in self._files())

    def add(self, images: Tensor) -> None:
        """Keep the next images, uint8 (B, C, H, W)."""
        if len(self) == 0:
            with whole(self.folder / SETTINGS) as file:
                file.write(json.dumps(self.settings, indent=2).encode())
        with whole(self.folder / f"{len(self):09d}.npy") as file:
            np.save(file, images.numpy())

    def images(self) -> Tensor:
        """All of them, uint8 (N, C, H, W)."""
        return torch.from_numpy(np.concatenate([np.load(file) for file in self._files()]))

    def remove(self) -> None:
        """All at once: a folder half removed would look like a sampling that was stopped."""
        removed = self.folder.with_name(self.folder.name + ".removed")
        shutil.rmtree(removed, ignore_errors=True)
        self.folder.rename(removed)
        shutil.rmtree(removed)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npy"))
