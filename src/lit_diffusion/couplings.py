"""Couplings: which noise belongs to which image of a batch.

Straight paths from noise to images cross less if each image is paired with noise that is near to it (Tong
et al. 2024, OT-CFM; Pooladian et al. 2023, multisample flow matching). Only the order of the noise changes,
so that images and noise keep their distributions.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lit_diffusion.common.errors import ConfigError


class Coupling(ABC):
    """Pairs the images of a batch with its noise."""

    @abstractmethod
    def order(self, x: Tensor, eps: Tensor, y: Tensor | None) -> Tensor:
        """Return the place of each image's noise in the batch, (B,).

        Args:
            x: images, (B, C, H, W).
            eps: noise like them.
            y: their labels (B,), or the images of pairs; None for none.
        """

    def __call__(self, x: Tensor, eps: Tensor, y: Tensor | None) -> Tensor:
        """Return the noise in the order of the images that it is paired with."""
        return eps[self.order(x, eps, y).to(eps.device)]


class Independent(Coupling):
    """Any noise with any image."""

    def order(self, x: Tensor, eps: Tensor, y: Tensor | None) -> Tensor:
        return torch.arange(len(x))


class MinibatchOT(Coupling):
    """Optimal transport within the batch: pairs of the least sum of squared distances.

    A network that is told labels meets, under each label, noise that is near to images of this label, but is
    sampled from any noise (Cheng and Schwing 2025): choose ``ClassOT`` for it.
    """

    def order(self, x: Tensor, eps: Tensor, y: Tensor | None) -> Tensor:
        return cheapest(x, eps)


class ClassOT(Coupling):
    """Optimal transport among the images of each label, with the noise that was theirs.

    As in Cheng and Schwing 2025, C2OT, at an infinite cost of another label. The noise of each label stays
    standard normal, as it is when the network is sampled.
    """

    def order(self, x: Tensor, eps: Tensor, y: Tensor | None) -> Tensor:
        if y is None or y.ndim > 1:
            raise ConfigError(
                "coupling is ClassOT, but the network is told no labels: choose coupling=minibatch_ot, or a "
                "model with labels, model.num_classes='${data.num_classes}'"
            )
        order = torch.arange(len(x))
        for label in y.unique():
            (mine,) = (y == label).nonzero(as_tuple=True)
            order[mine.cpu()] = mine.cpu()[cheapest(x[mine], eps[mine])]
        return order


def cheapest(x: Tensor, eps: Tensor) -> Tensor:
    """Return the order of eps in which the sum of squared distances to x is least, (B,) on the CPU."""
    from scipy.optimize import linear_sum_assignment  # half a second that other couplings needn't wait

    products = x.flatten(1).double() @ eps.flatten(1).double().T  # |x - e|^2 = |x|^2 - 2 x e + |e|^2
    _, order = linear_sum_assignment(products.cpu().numpy(), maximize=True)
    return torch.from_numpy(order)
