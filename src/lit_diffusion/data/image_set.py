"""What a source loads: images, and what comes with each."""

import hashlib
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import to_float

MOST_HASHED = 2**26  # bytes


class ImageSet(Dataset):
    """Some of a data set's images, served by lists of places.

    Args:
        images: all images, (N, C, H, W) uint8, in memory or mapped into it.
        labels: what comes with each, (N, ...).
        indices: of the images that are served.
    """

    def __init__(self, images: Tensor, labels: Tensor, indices: Tensor):
        self.all_images = images
        self.all_labels = labels
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, places: Tensor | slice) -> tuple[Tensor, Tensor]:
        chosen = self.indices[places]
        return self.all_images[chosen], self.all_labels[chosen]

    @property
    def images(self) -> Tensor:
        """All images that are served, (N, C, H, W) uint8."""
        return self[:][0]

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of all images and labels, served or not, of a large set only every few."""
        digest = hashlib.sha256(str(self.all_images.shape).encode())
        for part in (self.all_images, self.all_labels):
            digest.update(part[:: part.nbytes // MOST_HASHED + 1].cpu().numpy().tobytes())
        return digest.hexdigest()


def source_name(source: object) -> str:
    """Return a data set's name, beside its scores: its own, or that of its class."""
    return getattr(source, "name", type(source).__name__)


def is_images(labels: Tensor) -> bool:
    """Return whether what comes with the images are images too, the conditions of a network."""
    return labels.dtype == torch.uint8 and labels.ndim == 4


def converted(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return images, and the images of pairs, in [-1, 1]; labels as they are."""
    return to_float(images), to_float(labels) if is_images(labels) else labels


def check_data(source: str, images: Tensor, labels: Tensor) -> None:
    """Raise ConfigError unless a source's images and labels are of the kinds that ``Source`` says."""
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ConfigError(
            f"{source} has images of {str(images.dtype).removeprefix('torch.')} and shape "
            f"{tuple(images.shape)}: load uint8 from 0 to 255, (N, C, H, W)"
        )
    if is_images(labels) and len(labels) == len(images):
        return
    integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != images.shape[:1] or not integers:
        raise ConfigError(
            f"{source} has labels of {str(labels.dtype).removeprefix('torch.')} and shape "
            f"{tuple(labels.shape)} for {len(images)} images: load whole numbers, (N,)"
        )
    if labels.min() < 0:
        raise ConfigError(f"{source} has a label {labels.min()}: load labels from 0 on")
