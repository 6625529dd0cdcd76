"""Images that have been sampled so far, on the disk, while the others are still being made."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import atomic_write, locked, write_json

SETTINGS = "settings.json"


class PartialSamples:
    """Batches of images in a folder, a file each, so that a sampling that was stopped can go on.

    A file is named after the number of its first image.

    Args:
        folder: where they are.
        settings: what the images depend on, as JSON can hold it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))

    def __len__(self) -> int:
        return sum(len(images) for images in self._batches())

    def add(self, first: int, images: Tensor) -> None:
        """Keep images uint8 (B, C, H, W), numbered from ``first`` on."""
        if first == 0:
            write_json(self.folder / SETTINGS, self.settings)
        with atomic_write(self.folder / f"{first:09d}.npy") as file:
            np.save(file, images.numpy())

    def images(self) -> Tensor:
        """Return all of them, uint8 (N, C, H, W)."""
        return torch.from_numpy(np.concatenate(self._batches()))

    def remove(self) -> None:
        """Remove the folder at once: half of it would look like a sampling that was stopped."""
        removed = self.folder.with_name(self.folder.name + ".removed")
        shutil.rmtree(removed, ignore_errors=True)
        self.folder.rename(removed)
        shutil.rmtree(removed)

    def check_settings(self) -> None:
        """Raise ConfigError if the folder holds images that were made with other settings."""
        file = self.folder / SETTINGS
        then = json.loads(file.read_text()) if file.is_file() else {}
        changes = [f"{k} was {then.get(k)}, is {v}" for k, v in self.settings.items() if then.get(k) != v]
        if changes and len(self) > 0:
            raise ConfigError(
                f"{self.folder} holds a part of other images ({'; '.join(changes)}): choose another out, or "
                "remove that folder"
            )

    def _batches(self) -> list[np.ndarray]:
        """Return the files' images up to the first missing file, read when they are looked at."""
        batches: list[np.ndarray] = []
        n = 0
        while (file := self.folder / f"{n:09d}.npy").is_file():
            batches.append(np.load(file, mmap_mode="r"))
            n += len(batches[-1])
        return batches


@contextmanager
def partial_samples(folder: Path, settings: dict[str, Any]) -> Iterator[PartialSamples]:
    """Give the images in the folder, made if it is missing, and keep other processes out while inside.

    Raises:
        ConfigError: the folder holds images made with other settings, or another process writes to it.
    """
    folder.mkdir(exist_ok=True)
    with locked(folder, "sampling"):
        samples = PartialSamples(folder, settings)
        samples.check_settings()
        yield samples
