"""The order of batches, a pure function of (seed, epoch)."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lit_diffusion.common import rng


class BatchOrder(Sampler[Tensor]):
    """Yields the indices of one batch at a time; each process gets its own slice of it.

    Nothing is drawn from global state, so a run that resumes in the middle of an epoch meets the
    very batches it would have met. Of a batch, process r of n takes every n-th image from the r-th on.

    Args:
        n: images in the data set.
        batch_size: images per process and batch.
        shuffle: a new order every epoch; False: the images' own order.
        drop_last: leave out an incomplete last batch, so that all processes take equal steps.
        seed: of the shuffling.
        rank, world_size: this process, and how many share each batch.
        device: where the indices go, once an epoch.
        position: called at the start of each pass; returns (epoch, batches of it that are done already).
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ):
        self.n = n
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.position = position
        self.global_batch = batch_size * world_size

    def __len__(self) -> int:
        return self.n // self.global_batch if self.drop_last else math.ceil(self.n / self.global_batch)

    def __iter__(self) -> Iterator[Tensor]:
        epoch, done = self.position()
        for batch in self._order(epoch).to(self.device).split(self.global_batch)[done : len(self)]:
            yield batch[self.rank :: self.world_size]

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.n)
        return torch.randperm(self.n, generator=rng.generator(self.seed, "order", epoch))
