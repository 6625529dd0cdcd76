"""The loss by time."""

import torch
from torch import Tensor
from torchmetrics import Metric


class BinnedMean(Metric):
    """The mean of a value in each of ``bins`` equal bins of t in [0, 1], and over all.

    The state is two sums, so that processes and unequal batches add up exactly.
    """

    full_state_update = False

    def __init__(self, bins: int = 10):
        super().__init__()
        self.bins = bins
        self.add_state("total", torch.zeros(bins), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(bins), dist_reduce_fx="sum")

    def update(self, values: Tensor, t: Tensor) -> None:
        """Add values (B,) at times t (B,)."""
        index = (t * self.bins).ceil().long().clamp(1, self.bins) - 1  # t = 0.1 ends the first bin
        self.total.index_add_(0, index, values.to(self.total))
        self.count.index_add_(0, index, torch.ones_like(values).to(self.count))

    @property
    def names(self) -> list[str]:
        """The bins' names, "0.0-0.1" and so on."""
        return [f"{k / self.bins:.1f}-{(k + 1) / self.bins:.1f}" for k in range(self.bins)]

    def not_finite(self) -> list[str]:
        """Return the names of the bins with a value that isn't finite, of this process."""
        return [name for name, total in zip(self.names, self.total, strict=True) if not total.isfinite()]

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of all as "mean", and of every bin as "0.0-0.1" and so on; NaN for no values."""
        means = (self.total / self.count).unbind()
        return {"mean": self.total.sum() / self.count.sum(), **dict(zip(self.names, means, strict=True))}
