"""Any data set of images on the Hugging Face hub, or in a folder that ``datasets`` reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_diffusion.common.errors import (
    ConfigError,
    check_installed,
    check_number,
    check_text,
    check_whole_number,
)
from lit_diffusion.common.images import UNREADABLE_PICTURE, Resize, check_colour, fitted, in_rgba
from lit_diffusion.common.shapes import Size, height_width
from lit_diffusion.data.cache import ImageCache, Split, held_out
from lit_diffusion.data.folder import check_channels, content_of, visible_files


class HuggingFace:
    """A data set with a column of images, and perhaps one of class labels; needs the package datasets.

    Images are scaled and cropped as ``Folder`` does it, and kept under ``cache``. ``datasets`` runs no code
    of a data set's author.

    Args:
        path: OWNER/NAME, or a folder.
        image_size: side of an image, or [height, width].
        channels: 3 for colours, 1 for grey.
        subset: of the data set, where it has several.
        train_split, test_split: names of its splits; no test_split: a share of the training split.
        image, label: names of the columns; None: the first of their kind, and for label perhaps none.
        test_share, seed: as in ``Folder``.
        resize, background: as in ``Folder``.
        cache: folder for the images once they are read.
    """

    stored: ClassVar = (
        "image_size", "channels", "subset", "train_split", "test_split", "image", "label",
        "test_share", "seed", "resize", "background",
    )  # fmt: skip

    def __init__(
        self,
        path: str,
        image_size: Size,
        channels: int = 3,
        subset: str | None = None,
        train_split: str = "train",
        test_split: str | None = "test",
        image: str | None = None,
        label: str | None = None,
        test_share: float = 0.1,
        seed: int = 0,
        resize: Resize = "crop",
        background: str = "white",
        cache: str = "data/cache",
    ):
        check_text("data.source.path", path)
        check_number("data.source.test_share", test_share, least=0.001, most=0.999)
        check_whole_number("data.source.seed", seed, 0, 2**63 - 1)
        check_installed("data=huggingface needs", ["datasets"], extra="huggingface")
        self.path = path
        self.subset = subset
        self.splits = {True: train_split, False: test_split}
        self.columns = {"image": image, "label": label}
        self.shape = (check_channels(channels), *height_width(image_size))
        self.test_share = test_share
        self.seed = seed
        self.resize: Resize = resize
        self.background = check_colour("data.source.background", background)
        rules = [
            str(Path(path).absolute()) if Path(path).is_dir() else path,
            subset,
            train_split,
            test_split,
            image,
            label,
            test_share,
            seed,
            resize,
            background,
        ]
        self.cache = ImageCache(cache, rules, self.shape)

    @property
    def name(self) -> str:
        """The data set's name, beside its scores."""
        return f"HuggingFace {Path(self.path).name}"

    def prepare(self) -> None:
        """Fetch the data set and read its images, unless that was done.

        Raises:
            ConfigError: it can't be had, or has no images.
        """
        folder = Path(self.path)
        content = content_of(folder, visible_files(folder)) if folder.is_dir() else self.path
        self.cache.prepare(content, self._splits)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8, mapped into memory, and labels (N,) int64, 0 without any."""
        return self.cache.load(train)

    def count_classes(self) -> int:
        """Return how many classes there are, 0 for a data set without labels."""
        train = self._dataset(train=True)
        column = self._column(train, "label")
        return train.features[column].num_classes if column else 0

    def _splits(self) -> Iterator[Split]:
        train = self._dataset(train=True)
        if self.splits[False]:
            parts = {True: train, False: self._dataset(train=False)}
        else:
            column = self._column(train, "label")
            labels = torch.tensor(train[column] if column else [0] * len(train))
            test = held_out(labels, self.test_share, self.seed)
            parts = {side: train.select((test != side).nonzero()[:, 0].tolist()) for side in (True, False)}
        for side, part in parts.items():
            yield Split(side, len(part), self._images(part))

    def _images(self, dataset: Any) -> Iterator[tuple[Tensor, int]]:
        image, label = self._column(dataset, "image"), self._column(dataset, "label")
        for number in range(len(dataset)):
            try:
                row = dataset[number]
                picture, own = in_rgba(row[image]), int(row[label]) if label else 0
            except UNREADABLE_PICTURE as error:
                raise ConfigError(
                    f"data.source.path is {self.path}, whose row {number} has no image, or no label, that "
                    f"can be read ({' '.join(str(error).split())}): leave it out of the data set"
                ) from None
            yield fitted(picture, self.shape, self.background, self.resize), own

    def _column(self, dataset: Any, kind: str) -> str | None:
        """Return the name of the column of images, or of labels, of which there may be none.

        Raises:
            ConfigError: there is no column of this name or kind.
        """
        from datasets import ClassLabel, Image

        wanted, name = {"image": Image, "label": ClassLabel}[kind], self.columns[kind]
        found = [column for column, feature in dataset.features.items() if isinstance(feature, wanted)]
        if name in found or (name is None and (found or kind == "label")):
            return name or (found[0] if found else None)
        raise ConfigError(
            f"data.source.{kind} is {name}, but {self.path} has the columns {dict(dataset.features)}: choose "
            f"one of {wanted.__name__}"
        )

    def _dataset(self, train: bool) -> Any:
        """Return the data set of a split, fetched if it is missing."""
        from datasets import load_dataset

        split = self.splits[train]
        try:
            return load_dataset(self.path, self.subset, split=split)
        except Exception as error:  # it raises what the network and each file format raise
            raise ConfigError(
                f"data.source.path is {self.path}, whose split {split} can't be had "
                f"({' '.join(str(error).split())[:300]}): give OWNER/NAME or a folder, and the names of its "
                "splits"
            ) from None
