"""What data cost: beside the tutorial's DataLoader, and mapped from the disk beside in memory."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from bench_commands import run
from bench_pairs import BATCH, bare_step, config, in_turn, row
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from lit_diffusion.data.cache import ImageCache, Split
from lit_diffusion.data.datamodule import ImageDataModule
from lit_diffusion.train.run import build_module

LARGE, SHAPE = 200_000, (3, 64, 64)  # 2.4 GB


class Mapped:
    """A source whose images are kept on the disk and mapped from there, as a folder's are."""

    def __init__(self, root: str, images: Iterable[Tensor], n: int, shape: tuple[int, int, int]):
        self.cache = ImageCache(root, ["bench"], shape, ["train"])
        self.cache.prepare("", lambda: [Split("train", n, ((image, 0) for image in images))])

    def prepare(self) -> None:
        """Do nothing: all was done."""

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        return self.cache.load("train")


def data_rows(rounds: int = 6) -> None:
    """A batch of MNIST: from memory against the tutorial's DataLoader, and from the disk's map."""
    cfg = config().data
    datamodule = instantiate(cfg, _convert_="all")
    datamodule.prepare_data()
    datamodule.setup("fit")
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    mnist = datasets.MNIST(str(datamodule.source.root), transform=to_tensor)
    their_loader = DataLoader(mnist, BATCH, shuffle=True)
    images, _ = datamodule.source.load(train=True)
    with tempfile.TemporaryDirectory() as root:
        mapped = instantiate(cfg, source=Mapped(root, images, len(images), images.shape[1:]), _convert_="all")
        mapped.setup("fit")
        ours = lambda: take(batches(datamodule))  # noqa: E731
        row("100 batches of data, tutorial 1's", *in_turn(ours, lambda: take(their_loader), rounds))
        row(
            "100 batches of data, mapped from the disk",
            *in_turn(ours, lambda: take(batches(mapped)), 5 * rounds),
        )


def batches(datamodule: ImageDataModule) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in datamodule.train_dataloader():
        yield datamodule.on_after_batch_transfer(batch, 0)


def take(loader: Iterable, n: int = 100) -> None:
    for _, _ in zip(range(n), loader, strict=False):
        pass


def memory_of_a_large_set() -> int:
    """Return the MiB that training on it adds to a process that has trained on one batch.

    They are the process's own; the pages that are mapped belong to the disk's cache, and go when memory is
    short.
    """
    return int(run(__file__))


def own_memory() -> int:
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def train_on_a_large_set(steps: int = 300) -> None:
    """Print what ``memory_of_a_large_set`` returns."""
    small = ["model.widths=[8,8]", "model.blocks=[1,1]", "model.attention_at=[]"]
    module = build_module(config("data=cifar10", "data.image_size=64", *small))
    optimizer = module.optimizer(module.parameters())
    for number in range(3):
        bare_step(module, optimizer, torch.rand(BATCH, *SHAPE), number)
    before = own_memory()
    images = (torch.randint(256, SHAPE, dtype=torch.uint8) for _ in range(LARGE))
    with tempfile.TemporaryDirectory() as root:
        source = Mapped(root, images, LARGE, SHAPE)
        datamodule = ImageDataModule(source, *SHAPE[:2], num_classes=1, batch_size=BATCH)
        datamodule.setup("fit")
        for number, (x, _) in zip(range(steps), batches(datamodule), strict=False):
            bare_step(module, optimizer, x, number)
    print(own_memory() - before)


if __name__ == "__main__":
    train_on_a_large_set()
