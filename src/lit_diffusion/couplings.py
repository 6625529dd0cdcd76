"""Couplings: which noise belongs to which image.

Straight paths from noise to images cross less if each image is paired with noise that is near to it (Tong
et al. 2024, OT-CFM, equation 17; Pooladian et al. 2023, multisample flow matching, section 4). Images and
noise each keep their distribution, and the ODE of the learnt velocity still leads from one to the other. But
samplers that add fresh noise are no longer right. They take -eps / sigma for the score, which it isn't where
pairs are made within a batch; with the whole training set it is, but of a density with gaps, and noise
crosses them.
"""

import math
from abc import ABC, abstractmethod

import torch
from rich.progress import track
from torch import Tensor, nn

from lit_diffusion.common import rng
from lit_diffusion.common.errors import check_number, check_whole_number
from lit_diffusion.common.log import log
from lit_diffusion.data.image_set import ImageSet, converted

Pairs = tuple[Tensor, Tensor, Tensor]  # images (B, C, H, W), their labels or images of pairs, noise
CHUNK = 4096  # images that are compared with noise at a time
ENOUGH = 5  # noises for each image, to see whether all get some


class Coupling(nn.Module, ABC):
    """Pairs the images of a batch with its noise."""

    by_label = False  # whether it needs labels

    def prepare(self, data: ImageSet) -> None:
        """Take the training images, and make room for what a checkpoint may bring."""

    def fit(self, seed: int) -> None:
        """Find what the pairing needs, unless the run goes on from a checkpoint that brought it."""

    @abstractmethod
    def forward(self, x: Tensor, other: Tensor, eps: Tensor) -> Pairs:
        """Return images, what comes with them, and noise, paired anew.

        Args:
            x: images, (B, C, H, W).
            other: their labels (B,), or the images of pairs.
            eps: noise like x.
        """


class Independent(Coupling):
    """Any noise with any image."""

    def forward(self, x: Tensor, other: Tensor, eps: Tensor) -> Pairs:
        return x, other, eps


class MinibatchOT(Coupling):
    """Optimal transport within the batch: pairs of the least sum of squared distances.

    A network that is told labels meets, under each label, noise that is near to images of this label, but is
    sampled from any noise (Cheng and Schwing 2025): choose ``ClassOT`` for it.
    """

    def forward(self, x: Tensor, other: Tensor, eps: Tensor) -> Pairs:
        return x, other, eps[cheapest(x, eps)]


class ClassOT(Coupling):
    """Optimal transport among the images of each label, with the noise that was theirs.

    As in Cheng and Schwing 2025, C2OT (equation 10), at an infinite cost of another label. The noise of each
    label stays standard normal, as it is when the network is sampled. The authors pair five of the
    network's batches at once for CIFAR-10, and fifty for ImageNet, and so find nearer noise.
    """

    by_label = True

    def forward(self, x: Tensor, other: Tensor, eps: Tensor) -> Pairs:
        order = torch.arange(len(x), device=x.device)
        for label in other.unique():
            (mine,) = (other == label).nonzero(as_tuple=True)
            order[mine] = mine[cheapest(x[mine], eps[mine])]
        return x, other, eps[order]


class Semidiscrete(Coupling):
    """Optimal transport between all noise and the whole training set.

    As in Mousavi-Hosseini et al. 2025, section 4, noise gets the image with the largest
    ``<x, eps> - |x|^2 / 2 + g``, where the paper has all but the product in one number. The numbers g, one
    for each image, are found before the training by stochastic gradient ascent of the dual problem, so that
    each image gets the same share of all noise; they are the mean of all iterates. A step's images are those
    of its noise, whichever the data's order had. As with ``MinibatchOT``, the noise of a label is no longer
    standard normal.

    Args:
        iterations: of the search for g.
        batch_size: noises of each.
        rate: what an image that gets no noise gains in the first iteration, in standard deviations of
            ``<x, eps>``; it falls with the root.
    """

    potentials: Tensor

    def __init__(self, iterations: int = 2000, batch_size: int = 1024, rate: float = 0.3):
        super().__init__()
        check_whole_number("coupling.iterations", iterations, least=1)
        check_whole_number("coupling.batch_size", batch_size, least=1)
        check_number("coupling.rate", rate, least=1e-6, most=1e3)
        self.iterations = iterations
        self.batch_size = batch_size
        self.rate = rate
        self.register_buffer("potentials", torch.zeros(0))

    def prepare(self, data: ImageSet) -> None:
        self._data = data
        self.potentials = torch.zeros(len(data), device=self.potentials.device)

    def fit(self, seed: int) -> None:
        if not self.potentials.any():
            self._search(rng.generator(seed, "semidiscrete", device=self.potentials.device))

    def forward(self, x: Tensor, other: Tensor, eps: Tensor) -> Pairs:
        places = self._nearest(eps, self.potentials.float())
        images, others = converted(*self._data[places.to(self._data.indices.device)])
        return images.to(x), others.to(other), eps

    def _search(self, generator: torch.Generator) -> None:
        """Find the potentials: ascend by how much less than its share of the noise each image gets."""
        n = len(self._data)
        scale = float(converted(*self._data[:1000])[0].flatten(1).var(dim=0).sum().sqrt())
        potentials = torch.zeros(n, device=generator.device)  # the buffer may be in half precision
        total = torch.zeros_like(potentials)
        for k in track(range(self.iterations), "coupling", transient=True):
            counts = self._counts(potentials, generator)
            potentials += self.rate * scale / (k + 1) ** 0.5 * (1 - n * counts / self.batch_size)
            total += potentials
        potentials = total / self.iterations
        self.potentials.copy_(potentials)
        rounds = math.ceil(ENOUGH * n / self.batch_size)
        drawn = torch.stack([self._counts(potentials, generator) for _ in range(rounds)]).sum(0)
        never, expected = float((drawn == 0).float().mean()), math.exp(-rounds * self.batch_size / n)
        log.info(f"coupling: {never:.1%} of the images got none of {rounds * self.batch_size:,} noises")
        if never > expected + 0.05:
            log.warning(f"coupling: by chance it would be {expected:.1%}: give more coupling.iterations")

    def _counts(self, potentials: Tensor, generator: torch.Generator) -> Tensor:
        """Return how many of a batch of noise each image gets, (N,)."""
        shape = self._data.all_images.shape[1:]
        eps = torch.randn(self.batch_size, *shape, generator=generator, device=generator.device)
        return torch.bincount(self._nearest(eps, potentials), minlength=len(self._data))

    def _nearest(self, eps: Tensor, potentials: Tensor) -> Tensor:
        """Return the places (B,) of the images that noise (B, C, H, W) belongs to, by potentials (N,)."""
        flat = eps.flatten(1).to(potentials)
        best = torch.full((len(flat),), -torch.inf, device=flat.device)
        place = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
        for first in range(0, len(self._data), CHUNK):
            x = converted(*self._data[first : first + CHUNK])[0].flatten(1).to(flat.device)
            offsets = potentials[first : first + CHUNK] - x.square().sum(1) / 2
            score, index = torch.addmm(offsets, flat, x.T).max(1)
            place = torch.where(score > best, index + first, place)
            best = best.maximum(score)
        return place


def cheapest(x: Tensor, eps: Tensor) -> Tensor:
    """Return the order (B,) of eps in which the sum of squared distances to x is least."""
    from scipy.optimize import linear_sum_assignment  # half a second that other couplings needn't wait

    products = x.flatten(1).double() @ eps.flatten(1).double().T  # |x - e|^2 = |x|^2 - 2 x e + |e|^2
    _, order = linear_sum_assignment(products.cpu().numpy(), maximize=True)
    return torch.from_numpy(order).to(x.device)


def warn_of_coupling(coupling: str, use: str, advice: str) -> None:
    """Warn of a use that needs the score, or noise of its own, unless training had independent noise.

    Args:
        coupling: name of the coupling's class that the network was trained with.
        use: what needs it, as the beginning of a sentence.
        advice: what to do, or to expect.
    """
    if coupling != Independent.__name__:
        log.warning(
            f"{use}, which is right only for coupling=independent, but this network is trained with "
            f"{coupling}: {advice}"
        )


def warn_of_fresh_noise(coupling: str) -> None:
    """Warn that the sampler adds fresh noise, unless training had independent noise."""
    warn_of_coupling(coupling, "the sampler adds fresh noise", "choose sampler=heun, or sampler=dpmpp_2m")
