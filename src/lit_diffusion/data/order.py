"""The order of batches, a pure function of (seed, epoch)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lit_diffusion import rng


class BatchOrder(Sampler[Tensor]):
    """Yields the indices of one batch at a time; each process gets its own slice of it.

    Nothing is drawn from global state, so a run that resumes in the middle of an epoch meets the
    very batches it would have met. Incomplete batches are dropped when shuffling, so that all
    processes take equally many steps of equal size; in order, the last one is kept and split.

    Args:
        n: images in the data set.
        batch_size: images per process and batch.
        shuffle: a new order every epoch; False: the images' own order.
        seed: of the shuffling.
        rank, world_size: this process, and how many share each batch.
        epoch, skip: where to begin: the epoch, and how many of its batches are done already.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        skip: int = 0,
    ):
        self.n = n
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = epoch
        self.resumed_at = (epoch, skip)
        self.global_batch = batch_size * world_size

    def __len__(self) -> int:
        return self.n // self.global_batch if self.shuffle else -(-self.n // self.global_batch)

    def __iter__(self) -> Iterator[Tensor]:
        first_epoch, skip = self.resumed_at
        batches = self._order().split(self.global_batch)[: len(self)]
        for batch in batches[skip if self.epoch == first_epoch else 0 :]:
            yield batch.tensor_split(self.world_size)[self.rank]

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.n)
        return torch.randperm(self.n, generator=rng.generator(self.seed, self.epoch))
