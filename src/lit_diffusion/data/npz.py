"""Images and labels in a .npz file, as NumPy writes it."""

import zlib
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_text
from lit_diffusion.data.cache import check_held_out, held_out

UNREADABLE_ZIP = (  # raised for a damaged file of arrays
    OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, BadZipFile, zlib.error,
)  # fmt: skip


class Npz:
    """Images from what ``np.savez(FILE, images=..., labels=...)`` wrote, held in memory.

    The file may also have ``test_images`` and ``test_labels``; if it hasn't, a share of each class is the
    test split, chosen by the seed. Images are (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1 or 3.

    Args:
        path: of the file.
        test_share: of the images, where the file has no test images.
        seed: of that choice.
    """

    stored: ClassVar = ("test_share", "seed")

    def __init__(self, path: str, test_share: float = 0.1, seed: int = 0):
        check_text("data.source.path", path)
        check_held_out(test_share, seed)
        self.path = Path(path)
        self.test_share = test_share
        self.seed = seed

    @property
    def name(self) -> str:
        """The data set's name, beside its scores."""
        return f"Npz {self.path.stem}"

    def count_classes(self) -> int:
        """Return how many labels there are, 0 for a file without."""
        labels = read_arrays(self.path, "data.source.path").get("labels")
        return 0 if labels is None or not len(labels) else int(labels.max()) + 1

    def prepare(self) -> None:
        """Raise ConfigError unless the file is there and holds images."""
        read_arrays(self.path, "data.source.path")

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8 and labels (N,) int64 of a split, labels 0 if there are none."""
        arrays = read_arrays(self.path, "data.source.path")
        if "test_images" in arrays:
            return images_and_labels(arrays, "" if train else "test_")
        images, labels = images_and_labels(arrays, "")
        chosen = held_out(labels, self.test_share, self.seed) != train
        return images[chosen], labels[chosen]


def images_and_labels(arrays: dict[str, Tensor], prefix: str) -> tuple[Tensor, Tensor]:
    """Return the images and the labels, 0 where there are none, whose names begin like this."""
    images = arrays[f"{prefix}images"]
    return images, arrays.get(f"{prefix}labels", torch.zeros(len(images))).long()


def read_arrays(path: Path, key: str) -> dict[str, Tensor]:
    """Return what a .npz file holds: images as uint8 (N, C, H, W), labels as int64 (N,), by name.

    Args:
        path: of the file.
        key: the config key that names it, for errors.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    if path.is_dir() or path.suffix != ".npz":
        kind = "a folder" if path.is_dir() else "no .npz file"
        raise ConfigError(f"{key} is {path}, {kind}: give a .npz with images uint8 (N, C, H, W)")
    if not path.is_file():
        raise ConfigError(f"{key} is {path}, which doesn't exist: give a .npz with images uint8 (N, C, H, W)")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in ("images", "labels", "test_images", "test_labels") if name in file]
            if "images" not in names:
                raise ValueError(f"it holds {', '.join(file)}, but no images")
            arrays = {name: file[name] for name in names}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something else than arrays")
    except UNREADABLE_ZIP as error:
        raise ConfigError(
            f"{key} is {path}, which can't be read ({error}): give what "
            "np.savez(FILE, images=..., labels=...) wrote"
        ) from None
    where = f"{key} is {path}"
    for prefix in ("", "test_"):
        images, labels = (arrays.get(f"{prefix}{name}") for name in ("images", "labels"))
        if images is not None:
            arrays[f"{prefix}images"] = channels_first(images, f"{prefix}images", where)
        if labels is not None:
            check_labels(labels, images, where)
    if "test_images" in arrays and arrays["test_images"].shape[1:] != arrays["images"].shape[1:]:
        shapes = [arrays[name].shape[1:] for name in ("images", "test_images")]
        raise ConfigError(
            f"{where}, with images {shapes[0]} and test_images {shapes[1]}: give both one shape"
        )
    if "test_images" in arrays and ("test_labels" in arrays) != ("labels" in arrays):
        raise ConfigError(f"{where}, with labels of one split alone: give both splits labels, or none")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def check_labels(labels: np.ndarray, images: np.ndarray | None, where: str) -> None:
    """Raise ConfigError unless there is a whole number for each image."""
    n = 0 if images is None else len(images)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ConfigError(
            f"{where}, with {n} images and labels {labels.dtype} {labels.shape}: give a whole number for "
            "each, or leave them out"
        )


def channels_first(array: np.ndarray, name: str, where: str) -> np.ndarray:
    """Return images as (N, C, H, W); ConfigError for what can't be any."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise ConfigError(f"{where}, with {name} {array.dtype} {array.shape}: give images uint8 (N, C, H, W)")
    if array.ndim == 3:
        return array[:, None]
    if array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    return array
