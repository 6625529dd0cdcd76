from itertools import permutations

import pytest
import torch

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.couplings import ClassOT, Independent, MinibatchOT


def batch(n, seed=0):
    x, eps = torch.randn(2, n, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    return x, eps


def cost(x, eps):
    return (x - eps).square().sum()


@pytest.mark.parametrize("seed", range(5))
def test_transport_is_the_cheapest_of_all_orders(seed):
    x, eps = batch(6, seed)
    best = min(cost(x, eps[list(order)]) for order in permutations(range(6)))
    torch.testing.assert_close(cost(x, MinibatchOT()(x, eps, None)), best)
    assert torch.equal(Independent()(x, eps, None), eps)


@pytest.mark.parametrize("seed", range(5))
def test_transport_among_the_images_of_a_label(seed):
    x, eps = batch(7, seed)
    y = torch.tensor([2, 0, 2, 0, 2, 0, 5])
    coupled = ClassOT()(x, eps, y)
    for label in (0, 2, 5):
        mine = y == label
        best = min(cost(x[mine], eps[mine][list(order)]) for order in permutations(range(int(mine.sum()))))
        torch.testing.assert_close(cost(x[mine], coupled[mine]), best)


@pytest.mark.parametrize("coupling", [Independent(), MinibatchOT(), ClassOT()])
def test_noise_is_reordered_and_no_more(coupling):
    """So that images and noise keep their distributions."""
    x, eps = batch(64)
    order = coupling.order(x, eps, torch.arange(64) % 3)
    assert sorted(order.tolist()) == list(range(64))
    assert torch.equal(coupling.order(x, eps, torch.arange(64) % 3), order)


def test_noise_of_a_label_stays_normal_by_label_alone():
    """Images of two labels at -1 and 1: transport over all gives each label the noise on its side."""
    y = torch.arange(4096) % 2
    x = (2.0 * y - 1).reshape(-1, 1, 1, 1)
    eps = torch.randn(4096, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    of_class, of_all = ClassOT()(x, eps, y), MinibatchOT()(x, eps, y)
    assert of_class[y == 1].mean().abs() < 0.05
    assert of_all[y == 1].mean() > 0.75  # the mean of the upper half of a normal distribution is 0.80


def test_a_label_is_needed():
    x, eps = batch(4)
    for y in (None, torch.zeros(4, 1, 3, 3)):
        with pytest.raises(ConfigError, match="told no labels"):
            ClassOT().order(x, eps, y)
