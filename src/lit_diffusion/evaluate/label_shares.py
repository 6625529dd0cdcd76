"""Labels in the shares that the training split has: they weigh on the FID."""

import torch
from torch import Tensor

GOLDEN = (5**0.5 - 1) / 2


def labels_in_shares(train_labels: Tensor, n: int) -> Tensor:
    """Return labels (n,) in the shares of the training split's labels, whatever n is.

    Image k's label doesn't depend on n. FID sees the shares: 8,920 of MNIST's test images have 0.13 with
    equal ones, 0.055 with their own.
    """
    spread = (torch.arange(n) + 0.5).double() * GOLDEN % 1  # evenly in [0, 1), for every n
    ordered = train_labels.sort().values
    return ordered[(spread * len(ordered)).long()]


def images_in_shares(labels: Tensor, wanted: Tensor) -> Tensor:
    """Return the indices of images, as many of each class as ``wanted`` labels have.

    Fewer of all, in the same shares, where there are too few of a class.

    Args:
        labels: of the images, (N,), in the order in which they are taken.
        wanted: labels (n,).
    """
    num_classes = int(wanted.max()) + 1
    counts = torch.bincount(wanted, minlength=num_classes)
    there = torch.bincount(labels, minlength=num_classes)[:num_classes]
    enough = min(1.0, float((there / counts)[counts > 0].min()))
    indices = torch.arange(len(labels))
    return torch.cat([indices[labels == k][: int(enough * count)] for k, count in enumerate(counts)])
