"""Images to be scored, from a file."""

import zlib
from pathlib import Path
from types import NoneType
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError

UNREADABLE_ZIP = (  # raised for a damaged file of arrays
    OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, BadZipFile, zlib.error,
)  # fmt: skip


def read_samples(path: str) -> tuple[Tensor, Tensor | None]:
    """Return images uint8 (N, C, H, W), and labels (N,) if there are any, of a .npz file.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    if Path(path).is_dir() or Path(path).suffix != ".npz":
        kind = "a folder" if Path(path).is_dir() else "no .npz file"
        raise ConfigError(f"samples is {path}, {kind}: give a .npz with images uint8 (N, C, H, W)")
    if not Path(path).is_file():
        raise ConfigError(
            f"samples is {path}, which doesn't exist: give a .npz with images uint8 (N, C, H, W)"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise ValueError(f"it holds {', '.join(arrays)}, but no images")
            images, labels = arrays["images"], arrays.get("labels")
        if not all(isinstance(part, (np.ndarray, NoneType)) for part in (images, labels)):
            raise ValueError("it holds something else than arrays")
    except UNREADABLE_ZIP as error:
        raise ConfigError(
            f"samples is {path}, which can't be read ({error}): give what "
            "np.savez(FILE, images=..., labels=...) wrote"
        ) from None
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ConfigError(
            f"samples is {path}, with images {images.dtype} {images.shape}: give images uint8 (N, C, H, W)"
        )
    if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        raise ConfigError(
            f"samples is {path}, with images {images.shape}, which are (N, H, W, C): transpose them to "
            "(N, C, H, W)"
        )
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise ConfigError(
            f"samples is {path}, with labels {labels.dtype} {labels.shape} of {len(images)} images: give a "
            "whole number for each, or leave them out"
        )
    return torch.from_numpy(images), None if labels is None else torch.from_numpy(labels).long()
