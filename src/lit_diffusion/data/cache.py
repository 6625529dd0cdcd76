"""Images of any source, made uint8 once and kept on the disk, from where they are mapped into memory."""

import hashlib
import json
import math
import mmap
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from rich.progress import track
from torch import Tensor

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError, check_number, check_whole_number
from lit_diffusion.common.files import make_folder, write_json

SPLITS = ("train", "test")
CONTENT = "content.json"  # of a cache: what it was made of


class Split(NamedTuple):
    """The images of a split, before they are kept.

    Attributes:
        name: of the split.
        n: how many there are, at most.
        images: uint8 (C, H, W), each with its label.
    """

    name: str
    n: int
    images: Iterable[tuple[Tensor, int]]


class ImageCache:
    """Keeps the splits of a data set in a folder, and remakes them when what they were made of changes.

    A folder holds for each split the pixels of all images, one after the other, and their labels. They
    are mapped into memory, not read, so that a set may be larger than memory. Several processes may start
    at once: one makes the cache, the others wait. What a process that is killed leaves isn't taken for a
    cache.

    Args:
        root: the folder of all caches.
        rules: what the images are made of, and how, as plain data; other rules are another cache.
        shape: of an image, (C, H, W).
        names: of the splits.
    """

    def __init__(
        self,
        root: str | Path,
        rules: Sequence[Any],
        shape: tuple[int, int, int],
        names: Sequence[str] = SPLITS,
    ):
        self.root = Path(root)
        digest = hashlib.sha256(json.dumps([rules, shape]).encode()).hexdigest()
        self.folder = self.root / digest[:16]
        self.shape = shape
        self.names = names

    def prepare(self, content: str, splits: Callable[[], Iterable[Split]]) -> None:
        """Make the cache unless it is there.

        Args:
            content: of the source, as a digest; a cache of another content is made anew.
            splits: returns all splits; called only if they are needed.

        Raises:
            ConfigError: the disk has too little room, or the folder can't be written to.
        """
        if self._is_made_of(content):
            return
        make_folder(self.root, "the folder of the data's cache")
        with FileLock(f"{self.folder}.lock"):
            if self._is_made_of(content):
                return
            unfinished = self.folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed; we hold the lock
            unfinished.mkdir()
            try:
                for split in splits():
                    self._write(unfinished / split.name, split)
                write_json(unfinished / CONTENT, content)
                old = self.folder.with_suffix(".old")
                shutil.rmtree(old, ignore_errors=True)
                if self.folder.exists():
                    self.folder.rename(old)
                unfinished.rename(self.folder)
                shutil.rmtree(old, ignore_errors=True)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise

    def load(self, name: str) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8, mapped into memory, and labels (N,) int64 of a split."""
        path = self.folder / name
        labels = torch.from_numpy(np.load(path.with_suffix(".npy")))
        return mapped(path.with_suffix(".u8")).view(len(labels), *self.shape), labels

    def _is_made_of(self, content: str) -> bool:
        """Return whether the cache is there, whole, and made of this content."""
        try:
            if json.loads((self.folder / CONTENT).read_text()) != content:
                return False
            return all(self._is_whole(self.folder / name) for name in self.names)
        except (OSError, ValueError, EOFError):
            return False

    def _is_whole(self, path: Path) -> bool:
        n = len(np.load(path.with_suffix(".npy"), allow_pickle=False))
        return path.with_suffix(".u8").stat().st_size == n * math.prod(self.shape) > 0

    def _write(self, path: Path, split: Split) -> None:
        """Write ``path``.u8, the pixels of a split's images, and ``path``.npy, their labels."""
        size, free = split.n * math.prod(self.shape), shutil.disk_usage(path.parent).free
        if size > free:
            raise ConfigError(
                f"the data's {split.n:,} images take {size:,} bytes as pixels, but {path.parent.parent} has "
                f"{free:,} free: choose a smaller data.image_size, or make room"
            )
        labels = []
        with path.with_suffix(".u8").open("wb") as file:
            for image, label in track(split.images, f"{path.name} images", split.n, transient=True):
                file.write(image.numpy().tobytes())
                labels.append(label)
        if not labels:
            raise ConfigError(
                f"the data have no {path.name} images that can be read: give more of them, or another split"
            )
        np.save(path.with_suffix(".npy"), np.array(labels, dtype=np.int64))


def mapped(path: Path) -> Tensor:
    """Return a file's bytes, uint8, mapped into memory to be read here and there.

    The system is told so: it would read megabytes around each image of a shuffled batch otherwise, and of a
    set larger than memory lose them before they are asked for.
    """
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):  # Windows hasn't
        pages.madvise(mmap.MADV_RANDOM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing may be written there; a private copy needs memory
        return torch.frombuffer(pages, dtype=torch.uint8)


def check_held_out(share: float, seed: int) -> None:
    """Raise ConfigError unless ``held_out`` takes this share and this seed."""
    check_number("data.source.test_share", share, least=0.001, most=0.999)
    check_whole_number("data.source.seed", seed, 0, 2**63 - 1)


def held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return which images are the test split, True, where a source has none: a share of each class.

    Args:
        labels: (N,).
        share: of the images, inside (0, 1).
        seed: of the choice.

    Raises:
        ConfigError: no image would be on one of the sides.
    """
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    order = torch.randperm(len(labels), generator=rng.generator(seed, "test"))
    for label in labels.unique():
        members = order[labels[order] == label]
        chosen[members[: round(share * len(members))]] = True
    if chosen.all() or not chosen.any():
        raise ConfigError(
            f"data.source.test_share is {share}, which leaves no image of {len(labels)} on one side: choose "
            "another share, or give more images"
        )
    return chosen
