"""Images in memory, served a batch at a time."""

from collections.abc import Callable
from typing import Protocol

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError, check_whole_number
from lit_diffusion.common.images import to_float
from lit_diffusion.data.order import BatchOrder


class Source(Protocol):
    """A data set that can be fetched and loaded."""

    def prepare(self) -> None:
        """Fetch what is missing; Lightning calls it once per machine."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Load images (N, C, H, W) uint8, from 0 to 255, and labels (N,) int64, from 0 on.

        NumPy's arrays will do.
        """


class ImageDataModule(L.LightningDataModule):
    """Serves (x, y): images float in [-1, 1], (B, C, H, W), and labels int64, (B,).

    The images stay uint8 in memory, a GPU's own if it is one that trains, so that no step waits for a
    copy; one indexing operation gathers a batch, and it becomes float only on the device.

    Args:
        source: where the images come from.
        channels, image_size, num_classes: what the source must hold.
        batch_size: training images per process and step.
        eval_batch_size: validation and test images per process and step.
        val_size: images of the training set kept for validation, chosen by the seed.
        train_size: use only so many of the others; null for all.
        shuffle: a new order of training batches every epoch, a function of (seed, epoch).
        seed: of the split and of the order.

    Raises:
        ConfigError: sizes that don't fit the data.
    """

    def __init__(
        self,
        source: Source,
        channels: int,
        image_size: int,
        num_classes: int,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        val_size: int = 5000,
        train_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "val_size": val_size}
        for name, value in sizes.items():
            check_whole_number(f"data.{name}", value, least=1)
        if train_size is not None:
            check_whole_number("data.train_size", train_size, least=1)
        for method in ("prepare", "load"):
            if not callable(getattr(source, method, None)):
                raise ConfigError(
                    f"data.source is a {type(source).__name__}, which has no {method}: write prepare() and "
                    "load(train)"
                )
        self.source = source
        self.image_shape = (channels, image_size, image_size)
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.train_size = train_size
        self.shuffle = shuffle
        self.seed = seed
        self.train_set: TensorDataset
        self.val_set: TensorDataset

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str) -> None:
        if hasattr(self, "train_set"):
            return
        images, labels = (part.to(self._device) for part in self.load(train=True))
        if not 0 < self.val_size < len(images):
            raise ConfigError(
                f"data.val_size is {self.val_size}, but it must leave some of the {len(images)} training "
                "images on either side"
            )
        left = len(images) - self.val_size
        if self.train_size is not None and self.train_size > left:
            raise ConfigError(
                f"data.train_size is {self.train_size}, but {left} images are left beside data.val_size, "
                f"{self.val_size}: choose fewer, or null for all"
            )
        order = torch.randperm(len(images), generator=rng.generator(self.seed, "split"))
        val, train = order[: self.val_size], order[self.val_size :][: self.train_size]
        self.train_set = TensorDataset(images[train], labels[train])
        self.val_set = TensorDataset(images[val], labels[val])

    def train_dataloader(self) -> DataLoader:
        order = self._order(
            self.train_set, self.batch_size, self.shuffle, drop_last=True, position=self._position
        )
        if len(order) == 0:
            raise ConfigError(
                f"data.batch_size {self.batch_size} on {order.world_size} processes is more than the "
                f"{order.n} training images: choose a smaller one"
            )
        self._check_limit("limit_train_batches", len(order))
        self._check_interval(len(order))
        return DataLoader(self.train_set, sampler=order, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        order = self._order(self.val_set, self.eval_batch_size)
        self._check_limit("limit_val_batches", len(order))
        return DataLoader(self.val_set, sampler=order, batch_size=None)

    def test_dataloader(self) -> DataLoader:
        test_set = TensorDataset(*self.load(train=False))
        order = self._order(test_set, self.eval_batch_size)
        return DataLoader(test_set, sampler=order, batch_size=None)

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return to_float(images), labels

    def _check_limit(self, name: str, batches: int) -> None:
        """Raise ConfigError if the trainer's limit is a share of the batches in which there is none."""
        limit = getattr(self.trainer, name, None)
        if isinstance(limit, float) and limit > 0 and int(batches * limit) == 0:
            raise ConfigError(
                f"trainer.{name} is {limit:g}, less than one of the {batches} batches: choose a "
                "number of batches"
            )

    def _check_interval(self, batches: int) -> None:
        """Raise ConfigError if an epoch has fewer batches than the trainer wants between validations."""
        interval, limit = (
            getattr(self.trainer, name, None) for name in ("val_check_interval", "limit_train_batches")
        )
        if isinstance(limit, int):
            batches = min(batches, limit)
        within = getattr(self.trainer, "check_val_every_n_epoch", None) is not None
        if within and isinstance(interval, int) and interval > batches:
            raise ConfigError(
                f"trainer.val_check_interval is {interval}, more than the {batches} batches of an epoch: "
                "choose fewer, or add trainer.check_val_every_n_epoch=null, which counts over epochs"
            )

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return all images (N, C, H, W) uint8 and labels (N,) int64 of a split, the source's own.

        Raises:
            ConfigError: they aren't what ``Source`` says, or of other sizes than this module's.
        """
        loaded = self.source.load(train)
        if not isinstance(loaded, (tuple, list)) or len(loaded) != 2:
            raise ConfigError(
                f"{type(self.source).__name__}.load returns a {type(loaded).__name__}: return images and "
                "labels"
            )
        images, labels = map(torch.as_tensor, loaded)
        self.check(images, labels)
        return images, labels.long()

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Raise ConfigError unless images and labels are what ``Source`` says, and of this module's sizes."""
        check_data(type(self.source).__name__, images, labels)
        if images.shape[1:] != self.image_shape:
            raise ConfigError(
                f"the data has images of shape {tuple(images.shape[1:])}, but data.channels and "
                f"data.image_size say {self.image_shape}: set them to the images' own; nothing is resized"
            )
        if labels.max() >= self.num_classes:
            raise ConfigError(
                f"the data has labels up to {labels.max()}, but data.num_classes is {self.num_classes}, and "
                f"labels end at {self.num_classes - 1}: count labels from 0, or choose more classes"
            )

    def _order(
        self,
        dataset: TensorDataset,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> BatchOrder:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return BatchOrder(
            len(dataset),
            batch_size,
            shuffle,
            drop_last,
            self.seed,
            rank,
            world_size,
            dataset.tensors[0].device,
            position,
        )

    @property
    def _device(self) -> torch.device:
        """The GPU that trains; else the CPU, from which Lightning copies a batch where it is wanted."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return device if device.type == "cuda" else torch.device("cpu")

    def _position(self) -> tuple[int, int]:
        """Return (epoch, batches of it done), as Lightning counts them and checkpoints keep them."""
        if self.trainer is None:
            return 0, 0
        epochs = self.trainer.fit_loop.epoch_progress.current
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
        within = epochs.ready > epochs.processed  # else an epoch was finished, and its batches still count
        return epochs.processed, batches.completed if within else 0


def check_data(source: str, images: Tensor, labels: Tensor) -> None:
    """Raise ConfigError unless a source's images and labels are of the kinds that ``Source`` says."""
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ConfigError(
            f"{source} has images of {str(images.dtype).removeprefix('torch.')} and shape "
            f"{tuple(images.shape)}: load uint8 from 0 to 255, (N, C, H, W)"
        )
    integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != images.shape[:1] or not integers:
        raise ConfigError(
            f"{source} has labels of {str(labels.dtype).removeprefix('torch.')} and shape "
            f"{tuple(labels.shape)} for {len(images)} images: load whole numbers, (N,)"
        )
    if labels.min() < 0:
        raise ConfigError(f"{source} has a label {labels.min()}: load labels from 0 on")


def validation_images(data: ImageDataModule, n: int) -> Tensor:
    """Return the first n validation images, (n, C, H, W) in [-1, 1].

    Raises:
        ConfigError: there are fewer, or n isn't positive.
    """
    data.prepare_data()
    data.setup("fit")
    images = data.val_set.tensors[0]
    if not 1 <= n <= len(images):
        raise ConfigError(f"{n} validation images are asked for, but there are {len(images)}")
    return to_float(images[:n])
