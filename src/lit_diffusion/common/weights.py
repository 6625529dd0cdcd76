"""Read and write .safetensors files: weights, with JSON metadata, and no pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import atomic_write

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

KEY = "lit_diffusion"  # of the file's metadata
CHECKSUM = "weights_sha256"  # in it
UNREADABLE = (SafetensorError, KeyError, TypeError, ValueError, AttributeError)


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, Any], dtype: str) -> None:
    """Write the weights, in one of ``DTYPES``, with ``metadata`` as JSON in the file's header.

    The header also gets a checksum of the weights, since the format has none.

    Raises:
        ConfigError: a weight is too large for the dtype.
    """
    weights = {name: in_dtype(weight, DTYPES[dtype]).contiguous() for name, weight in weights.items()}
    if dtype == "float16" and not_finite(weights):
        raise ConfigError(
            "dtype is float16, in which a weight of this network isn't finite: use dtype=bfloat16"
        )
    header = {**metadata, CHECKSUM: checksum(weights)}
    with atomic_write(path) as file:
        file.write(save(weights, {KEY: json.dumps(header)}))  # one key: the order of two would vary


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights, in float32, and the metadata.

    Raises:
        RuntimeError: the file is damaged, or wasn't written by ``write_weights``.
    """
    metadata = read_metadata(path)
    try:
        weights, expected = load_file(path), metadata.pop(CHECKSUM)
    except UNREADABLE as error:
        raise RuntimeError(f"{path}: {error}") from error
    if checksum(weights) != expected:
        raise RuntimeError(f"{path}: its weights aren't those that were written")
    return {name: in_dtype(weight) for name, weight in weights.items()}, metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata, and the checksum with them, without reading the weights.

    Raises:
        RuntimeError: as ``read_weights``.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads(file.metadata()[KEY]))
    except UNREADABLE as error:
        raise RuntimeError(f"{path}: {error}") from error


def checksum(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights on the CPU, in hexadecimal: of their names, shapes and values."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first weight that isn't finite, None if all are."""
    return next((name for name, weight in weights.items() if not weight.isfinite().all()), None)


def in_dtype(weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weight in another precision; integers, such as a batch norm's count, as they are."""
    return weight.to(dtype) if weight.is_floating_point() else weight
