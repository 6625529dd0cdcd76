"""Any classification data set of torchvision, by its name."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.functional import to_pil_image

from lit_diffusion.common.errors import ConfigError, check_text
from lit_diffusion.common.images import Resize, in_rgba
from lit_diffusion.common.shapes import Size
from lit_diffusion.data.cache import SPLITS, Split
from lit_diffusion.data.pictures import Pictures

TRANSPOSED = {"EMNIST"}  # whose images torchvision hands on with rows and columns exchanged


class TorchvisionImages(Pictures):
    """The training and the test split of a data set of torchvision, which fetches and checks the files.

    Its images are kept under ``root``/cache.

    Args:
        name: of its class in torchvision.datasets: CIFAR10, SVHN, ...
        root: folder of the files.
        image_size, channels, resize, background: as in ``Pictures``.
        options: more of the class's arguments, {split: balanced} of EMNIST for example.
        splits: names of the training and the test split, where the class has such.
    """

    stored: ClassVar = ("name", "image_size", "channels", "options", "splits", "resize", "background")

    def __init__(
        self,
        name: str,
        root: str,
        image_size: Size,
        channels: int = 3,
        options: Mapping[str, Any] | None = None,
        splits: tuple[str, str] = SPLITS,
        resize: Resize = "crop",
        background: str = "white",
    ):
        check_text("data.source.name", name)
        check_text("data.source.root", root)
        dataset = getattr(datasets, name, None)
        if not inspect.isclass(dataset) or not issubclass(dataset, datasets.VisionDataset):
            raise ConfigError(
                f"data.source.name is {name}, which torchvision.datasets doesn't have: choose one, such as "
                "CIFAR10 or SVHN"
            )
        self._class = name
        self.dataset: Any = dataset
        self.root = root
        self.options = dict(options or {})
        self.splits = tuple(splits)
        rules = [name, self.options, self.splits]
        super().__init__(rules, Path(root, "cache"), image_size, channels, resize, background)

    @property
    def name(self) -> str:
        """The data set's name, beside its scores; labels may depend on the options."""
        return " ".join([self._class, *map(str, self.options.values())])

    def prepare(self) -> None:
        """Fetch the files and read the images, unless that was done.

        Raises:
            ConfigError: the files can't be had, or aren't images with whole numbers as labels.
        """
        self.cache.prepare(self._class, self._splits)

    def count_classes(self) -> int:
        """Return how many classes there are; this fetches the data."""
        self.prepare()
        return int(self.load(train=True)[1].max()) + 1

    def _splits(self) -> Iterator[Split]:
        for name in SPLITS:
            dataset = self._dataset(name == "train")
            yield Split(name, len(dataset), self._images(dataset))

    def _dataset(self, train: bool) -> Any:
        """Return torchvision's data set of a split, fetched if it is missing."""
        known = arguments_of(self.dataset)
        options: dict[str, Any] = {**self.options}
        if "train" in known:
            options["train"] = train
        elif "split" in known:
            options["split"] = self.splits[0 if train else 1]
        else:
            raise ConfigError(
                f"data.source.name is {self._class}, which has no training and test split: choose another, "
                "or unpack it and use data=folder"
            )
        if "download" in known:
            options["download"] = True
        try:
            return self.dataset(self.root, **options)
        except (RuntimeError, OSError, ValueError, TypeError, ImportError) as error:
            raise ConfigError(
                f"data.source.name is {self._class}, which can't be had ({' '.join(str(error).split())}): "
                f"put its files into {Path(self.root).absolute()}, where torchvision looks for them"
            ) from None

    def _images(self, dataset: datasets.VisionDataset) -> Iterator[tuple[Tensor, int]]:
        for index in range(len(dataset)):
            image, label = dataset[index]
            if not isinstance(label, (int, np.integer)):
                raise ConfigError(
                    f"data.source.name is {self._class}, whose labels are no whole numbers ({label!r}): "
                    "choose a data set of one label for each image"
                )
            yield self._image(image), int(label)

    def _image(self, image: Image.Image | Tensor | np.ndarray) -> Tensor:
        picture = image if isinstance(image, Image.Image) else to_pil_image(image)
        if self._class in TRANSPOSED:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        return self._fitted(in_rgba(picture))


def arguments_of(kind: type) -> set[str]:
    """Return the names of a class's arguments, with those of the parents that it hands them on to."""
    names: set[str] = set()
    for parent in kind.__mro__:
        parameters = inspect.signature(parent).parameters
        names |= {*parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names
