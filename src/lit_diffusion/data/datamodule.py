"""Images, served a batch at a time."""

from collections.abc import Callable
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError, check_pair, check_whole_number
from lit_diffusion.common.images import to_float
from lit_diffusion.common.log import log
from lit_diffusion.common.shapes import Size, height_width
from lit_diffusion.data.image_set import ImageSet, check_data, converted, is_images, source_name
from lit_diffusion.data.order import BatchOrder

MOST_OF_GPU = 0.25  # of a GPU's free memory that the images may take


class Source(Protocol):
    """A data set that can be fetched and loaded.

    One that is named in more than its class has a ``name``; one that knows its classes has
    ``class_names()``, or if it can only tell how many there are ``count_classes()``; one that a checkpoint
    may describe further has ``stored``, the names of the arguments that are taken from there.
    """

    def prepare(self) -> None:
        """Fetch what is missing; Lightning calls it once per machine."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Load images (N, C, H, W) uint8, from 0 to 255, and labels (N,) int64, from 0 on.

        NumPy's arrays will do. Instead of labels there may be images (N, C', H, W) uint8, which are the
        conditions of the others.
        """


class ImageDataModule(L.LightningDataModule):
    """Serves (x, y): images float in [-1, 1], (B, C, H, W), and labels int64, (B,).

    The images stay uint8 where the source has them, in memory or mapped into it from the disk; if a GPU
    trains and has room, they are in its memory, so that no step waits for a copy. One indexing operation
    gathers a batch, and it becomes float only on the device.

    Args:
        source: where the images come from.
        channels, image_size: what the source must hold: 1 or 3, and one number or [height, width].
        num_classes: labels that the source must hold, from 0 on; 0 for images without labels.
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
        image_size: Size,
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
        self.image_shape = (channels, *height_width(image_size))
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.train_size = train_size
        self.shuffle = shuffle
        self.seed = seed
        self.train_set: ImageSet
        self.val_set: ImageSet

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str) -> None:
        if hasattr(self, "train_set"):
            return
        images, labels = self.load(train=True)
        device = self._device(images.nbytes + labels.nbytes)
        images, labels = images.to(device), labels.to(device)
        if not 0 < self.val_size < len(images):
            raise ConfigError(
                f"data.val_size is {self.val_size}, but it must leave some of the {len(images)} training "
                f"images on either side: choose {max(1, len(images) // 10)}, a tenth"
            )
        left = len(images) - self.val_size
        if self.train_size is not None and self.train_size > left:
            raise ConfigError(
                f"data.train_size is {self.train_size}, but {left} images are left beside data.val_size, "
                f"{self.val_size}: choose fewer, or null for all"
            )
        order = torch.randperm(len(images), generator=rng.generator(self.seed, "split"))
        val, train = order[: self.val_size], order[self.val_size :][: self.train_size]
        self.train_set = ImageSet(images, labels, train.to(device))
        self.val_set = ImageSet(images, labels, val.to(device))
        if self.trainer and self.trainer.is_global_zero:
            used = f"{len(train):,} images to train on, {len(val):,} for validation"
            log.info(f"{source_name(self.source)}: {used}")

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
        images, labels = self.load(train=False)
        test_set = ImageSet(images, labels, torch.arange(len(images)))
        order = self._order(test_set, self.eval_batch_size)
        return DataLoader(test_set, sampler=order, batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        return {"digest": self.train_set.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise ConfigError if a run that goes on would meet other images than those it began with."""
        if state_dict["digest"] != self.train_set.digest:
            raise ConfigError(
                f"the training images of {source_name(self.source)} aren't those that the run began with: "
                "put the old ones back, or start a new run"
            )

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        return converted(*batch)

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
        """Return all images (N, C, H, W) uint8 and labels (N,) int64, or conditions, of a split.

        Raises:
            ConfigError: they aren't what ``Source`` says, or of other sizes than this module's.
        """
        loaded = self.source.load(train)
        check_pair(f"{type(self.source).__name__}.load", loaded, "images and labels")
        images, labels = map(torch.as_tensor, loaded)
        self.check(images, labels)
        return images, labels if is_images(labels) else labels.long()

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Raise ConfigError unless images and labels are what ``Source`` says, and of this module's sizes."""
        check_data(type(self.source).__name__, images, labels)
        if images.shape[1:] != self.image_shape:
            raise ConfigError(
                f"the data has images of shape {tuple(images.shape[1:])}, but data.channels and "
                f"data.image_size say {self.image_shape}: set them to the images' own"
            )
        if is_images(labels):
            if self.num_classes:
                raise ConfigError(
                    f"the data has images in pairs, but data.num_classes is {self.num_classes}: choose 0"
                )
            return
        if self.num_classes == 0 and labels.any():
            raise ConfigError(
                f"the data has labels up to {labels.max()}, but data.num_classes is 0: choose "
                f"{labels.max() + 1}"
            )
        if labels.max() >= max(self.num_classes, 1):
            raise ConfigError(
                f"the data has labels up to {labels.max()}, but data.num_classes is {self.num_classes}, and "
                f"labels end at {self.num_classes - 1}: count labels from 0, or choose more classes"
            )

    def _order(
        self,
        dataset: ImageSet,
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
            dataset.indices.device,
            position,
        )

    def _device(self, size: int) -> torch.device:
        """Return the GPU that trains if it has room for so many bytes; else the CPU."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type != "cuda" or size > MOST_OF_GPU * torch.cuda.mem_get_info(device)[0]:
            return torch.device("cpu")
        return device

    def _position(self) -> tuple[int, int]:
        """Return (epoch, batches of it done), as Lightning counts them and checkpoints keep them."""
        if self.trainer is None:
            return 0, 0
        epochs = self.trainer.fit_loop.epoch_progress.current
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
        within = epochs.ready > epochs.processed  # else an epoch was finished, and its batches still count
        return epochs.processed, batches.completed if within else 0


def validation_images(data: ImageDataModule, n: int) -> Tensor:
    """Return the first n validation images, (n, C, H, W) in [-1, 1].

    Raises:
        ConfigError: there are fewer, or n isn't positive.
    """
    data.prepare_data()
    data.setup("fit")
    if not 1 <= n <= len(data.val_set):
        raise ConfigError(f"{n} validation images are asked for, but there are {len(data.val_set)}")
    return to_float(data.val_set[:n][0])
