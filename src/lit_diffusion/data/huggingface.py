"""Any data set of images on the Hugging Face hub, or in a folder that ``datasets`` reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError, check_installed, check_text
from lit_diffusion.common.images import UNREADABLE_PICTURE, Resize, in_rgba
from lit_diffusion.common.shapes import Size
from lit_diffusion.data.cache import SPLITS, Split, check_held_out, held_out
from lit_diffusion.data.folder import content_of, visible_files
from lit_diffusion.data.pictures import Pictures


class HuggingFace(Pictures):
    """A data set with a column of images, and perhaps one of class labels; needs the package datasets.

    ``datasets`` runs no code of a data set's author.

    Args:
        path: OWNER/NAME, or a folder.
        image_size, channels, resize, background, cache: as in ``Pictures``.
        subset: of the data set, where it has several.
        train_split, test_split: names of its splits; no test_split: a share of the training split.
        image, label: names of the columns; None: the first of their kind, and for label perhaps none.
        test_share, seed: as in ``Folder``.
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
        check_held_out(test_share, seed)
        check_installed("data=huggingface needs", ["datasets"], extra="huggingface")
        self.path = path
        self.subset = subset
        self.splits = {"train": train_split, "test": test_split}
        self.columns = {"image": image, "label": label}
        self.test_share = test_share
        self.seed = seed
        place = str(Path(path).absolute()) if Path(path).is_dir() else path
        rules = [place, subset, train_split, test_split, image, label, test_share, seed]
        super().__init__(rules, cache, image_size, channels, resize, background)

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

    def class_names(self) -> list[str]:
        """Return the classes' names, by label; none for a data set without labels."""
        train = self._dataset("train")
        column = self._column(train, "label")
        return list(train.features[column].names) if column else []

    def _splits(self) -> Iterator[Split]:
        train = self._dataset("train")
        if self.splits["test"]:
            parts = [train, self._dataset("test")]
        else:
            column = self._column(train, "label")
            labels = torch.tensor(train[column] if column else [0] * len(train))
            test = held_out(labels, self.test_share, self.seed)
            parts = [train.select(side.nonzero()[:, 0].tolist()) for side in (~test, test)]
        for name, part in zip(SPLITS, parts, strict=True):
            yield Split(name, len(part), self._images(part))

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
            yield self._fitted(picture), own

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

    def _dataset(self, name: str) -> Any:
        """Return the data set of a split, fetched if it is missing."""
        from datasets import load_dataset

        split = self.splits[name]
        try:
            return load_dataset(self.path, self.subset, split=split)
        except Exception as error:  # it raises what the network and each file format raise
            raise ConfigError(
                f"data.source.path is {self.path}, whose split {split} can't be had "
                f"({' '.join(str(error).split())[:300]}): give OWNER/NAME or a folder, and the names of its "
                "splits, data.source.train_split, and data.source.test_split or null for a share of it"
            ) from None
