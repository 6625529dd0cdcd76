"""Distances between two sets of features, and between images and their nearest neighbours."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lit_diffusion.common import rng

CHUNK = 1000  # rows of a matrix of distances in memory at a time
SUBSETS, SUBSET_SIZE = 100, 1000  # of KID, the size at most


def fid(real: Tensor, fake: Tensor) -> float:
    """Return the Fréchet distance of Gaussians fitted to features (N, F) and (M, F) (Heusel et al. 2017).

    It falls with N and M, so that numbers of other n can't be compared.
    """
    metric = FrechetInceptionDistance(Given(real.shape[1])).set_dtype(torch.float64)
    return computed(metric, real, fake).item()


def kid(real: Tensor, fake: Tensor, seed: int) -> tuple[float, float]:
    """Return the kernel distance of features and its standard deviation (Binkowski et al. 2018).

    The squared maximum mean discrepancy with a cubic kernel, 0 for the same distribution: the mean over 100
    pairs of subsets of 1,000, or of as many as there are, and their standard deviation.
    """
    size = min(len(real), len(fake), SUBSET_SIZE)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # about memory, of which it needs little here
        torch.manual_seed(rng.key_to_seed(seed, "kid"))
        metric = KernelInceptionDistance(Given(real.shape[1]), subsets=SUBSETS, subset_size=size)
        mean, std = computed(metric, real, fake)
        return mean.item(), std.item()


class Given(nn.Module):
    """A feature network for torchmetrics whose inputs are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def computed(metric: Metric, real: Tensor, fake: Tensor) -> Any:
    """Return what a torchmetrics metric computes of features."""
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute()


def manifolds(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """Return precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Around each image a ball reaches to its k-th nearest neighbour of the same set. Precision: the share
    of fakes inside any real ball. Recall: the share of reals inside any fake ball. Density: how many real
    balls a fake is in, over k. Coverage: the share of real balls with a fake inside.

    Args:
        real, fake: features (N, F) and (M, F), more than k of each.
        k: neighbours.
    """
    real, fake = real.double(), fake.double()
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    inside = torch.zeros(len(fake))  # real balls that each fake is in
    recalled, covered = [], []
    for part, radius in zip(real.split(CHUNK), real_radii.split(CHUNK), strict=True):
        distance = torch.cdist(part, fake)
        inside += (distance < radius[:, None]).sum(0)
        recalled.append((distance < fake_radii).any(1))
        covered.append(distance.amin(1) < radius)
    return {
        "precision": share(inside > 0),
        "recall": share(torch.cat(recalled)),
        "density": float(inside.double().mean() / k),
        "coverage": share(torch.cat(covered)),
    }


def radii(features: Tensor, k: int) -> Tensor:
    """Return each feature's distance to its k-th nearest neighbour, (N,)."""
    # the nearest of all is the image itself
    return torch.cat([torch.cdist(p, features).kthvalue(k + 1, dim=1).values for p in features.split(CHUNK)])


def nearest(images: Tensor, others: Tensor, device: torch.device | str = "cpu", rank: int = 1) -> Tensor:
    """Return each image's root mean square distance to the nearest other, (N,), of pixels in [0, 1].

    Args:
        images, others: uint8 (N, C, H, W) and (M, C, H, W).
        device: where to compute.
        rank: 2 for the second nearest, where the images are among the others.
    """
    found = []
    for part in images.split(CHUNK):
        part = part.to(device).flatten(1).float() / 255
        best = torch.full((len(part), rank), torch.inf, device=part.device)
        for some in others.split(10 * CHUNK):  # which may not fit into memory as floats, all at once
            distances = torch.cdist(part, some.to(device).flatten(1).float() / 255)
            both = torch.cat([best, distances], dim=1)
            best = both.topk(rank, dim=1, largest=False).values
        found.append(best.amax(1).cpu())
    return torch.cat(found) / images[0].numel() ** 0.5


def share(where: Tensor) -> float:
    """Return the share of True."""
    return float(where.double().mean())
