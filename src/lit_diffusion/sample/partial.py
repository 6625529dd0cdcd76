"""Images that are finished, on the disk, while the others are still being made."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import whole

SETTINGS = "settings.json"


class Finished:
    """Batches of images in a folder, a file each, so that a sampling that was stopped can go on.

    A file is named after the number of its first image. ``with Finished(...) as finished`` keeps other
    processes out.

    Args:
        folder: where they are, or will be.
        settings: what the images depend on, as JSON can hold it.

    Raises:
        ConfigError: on entering, if the folder holds images made with other settings, or another process
            writes to it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self.lock = FileLock(folder / "lock")

    def __enter__(self) -> "Finished":
        self.folder.mkdir(exist_ok=True)
        try:
            self.lock.acquire(blocking=False)
        except Timeout:
            raise ConfigError(f"another sampling is writing to {self.folder}: choose another out") from None
        try:
            if len(self) > 0:
                self._check_settings()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *error) -> None:
        self.lock.release()

    def __len__(self) -> int:
        return sum(len(images) for images in self._batches())

    def add(self, first: int, images: Tensor) -> None:
        """Keep images uint8 (B, C, H, W), numbered from ``first`` on."""
        if first == 0:
            with whole(self.folder / SETTINGS) as file:
                file.write(json.dumps(self.settings, indent=2).encode())
        with whole(self.folder / f"{first:09d}.npy") as file:
            np.save(file, images.numpy())

    def images(self) -> Tensor:
        """All of them, uint8 (N, C, H, W)."""
        return torch.from_numpy(np.concatenate(self._batches()))

    def remove(self) -> None:
        """All at once: a folder half removed would look like a sampling that was stopped."""
        removed = self.folder.with_name(self.folder.name + ".removed")
        shutil.rmtree(removed, ignore_errors=True)
        self.folder.rename(removed)
        shutil.rmtree(removed)

    def _batches(self) -> list[np.ndarray]:
        """The files' images as far as no file is missing, read when they are looked at."""
        batches: list[np.ndarray] = []
        n = 0
        while (file := self.folder / f"{n:09d}.npy").is_file():
            batches.append(np.load(file, mmap_mode="r"))
            n += len(batches[-1])
        return batches

    def _check_settings(self) -> None:
        file = self.folder / SETTINGS
        then = json.loads(file.read_text()) if file.is_file() else {}
        changes = [f"{k} was {then.get(k)}, is {v}" for k, v in self.settings.items() if then.get(k) != v]
        if changes:
            raise ConfigError(
                f"{self.folder} holds a part of other images ({'; '.join(changes)}): choose another out, or "
                "remove that folder"
            )
