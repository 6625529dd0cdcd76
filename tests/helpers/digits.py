"""400 real MNIST digits as a data source: the first 32 of each class for training, 8 for testing."""

from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).parents[1] / "data" / "digits.npz"


class Digits:
    """Stands in for any source where nothing may be downloaded, of whatever size and colour it has."""

    def __init__(self, root: str = "", image_size: int = 28, channels: int = 1, **others):
        self.border = (image_size - 28) // 2
        self.channels = channels

    def prepare(self) -> None:
        pass

    def load(self, train: bool):
        part = "train" if train else "test"
        with np.load(FILE) as arrays:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        images = torch.nn.functional.pad(torch.from_numpy(images), [self.border] * 4)
        return images.unsqueeze(1).repeat(1, self.channels, 1, 1), torch.from_numpy(labels).long()

    def count_classes(self) -> int:
        return 10


class Mnist(Digits):
    """The same, under the name by which its feature networks know it."""


class Few(Digits):
    """With eight labels."""

    def load(self, train: bool):
        images, labels = super().load(train)
        return images, labels % 8


class FewSevens(Digits):
    """With a quarter of the training sevens."""

    def load(self, train: bool):
        images, labels = super().load(train)
        kept = (labels != 7).logical_or((labels == 7).cumsum(0) <= (labels == 7).sum() // 4)
        return images[kept], labels[kept]
