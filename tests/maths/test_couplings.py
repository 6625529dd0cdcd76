from itertools import permutations

import pytest
import torch

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import to_float
from lit_diffusion.couplings import ClassOT, Independent, MinibatchOT, Semidiscrete, warn_of_fresh_noise
from lit_diffusion.data.image_set import ImageSet


def batch(n, seed=0):
    x, eps = torch.randn(2, n, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    return x, eps


def cost(x, eps):
    return (x - eps).square().sum()


@pytest.mark.parametrize("seed", range(5))
def test_transport_is_the_cheapest_of_all_orders(seed):
    x, eps = batch(6, seed)
    best = min(cost(x, eps[list(order)]) for order in permutations(range(6)))
    torch.testing.assert_close(cost(x, MinibatchOT()(x, x, eps)[2]), best)
    assert torch.equal(Independent()(x, x, eps)[2], eps)


@pytest.mark.parametrize("seed", range(5))
def test_transport_among_the_images_of_a_label(seed):
    x, eps = batch(7, seed)
    y = torch.tensor([2, 0, 2, 0, 2, 0, 5])
    _, _, coupled = ClassOT()(x, y, eps)
    for label in (0, 2, 5):
        mine = y == label
        best = min(cost(x[mine], eps[mine][list(order)]) for order in permutations(range(int(mine.sum()))))
        torch.testing.assert_close(cost(x[mine], coupled[mine]), best)


@pytest.mark.parametrize("coupling", [Independent(), MinibatchOT(), ClassOT()])
def test_noise_is_reordered_and_no_more(coupling):
    """So that images and noise keep their distributions."""
    x, eps = batch(64)
    y = torch.arange(64) % 3
    images, labels, noise = coupling(x, y, eps)
    assert torch.equal(images, x) and torch.equal(labels, y)
    assert sorted(map(tuple, noise.flatten(1).tolist())) == sorted(map(tuple, eps.flatten(1).tolist()))
    assert torch.equal(coupling(x, y, eps)[2], noise)


def test_noise_of_a_label_stays_normal_by_label_alone():
    """Images of two labels at -1 and 1: transport over all gives each label the noise on its side."""
    y = torch.arange(1024) % 2
    x = (2.0 * y - 1).reshape(-1, 1, 1, 1)
    eps = torch.randn(1024, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    of_class, of_all = ClassOT()(x, y, eps)[2], MinibatchOT()(x, y, eps)[2]
    assert of_class[y == 1].mean().abs() < 0.1
    assert of_all[y == 1].mean() > 0.7  # the mean of the upper half of a normal distribution is 0.80


def semidiscrete(images, labels, **options):
    coupling = Semidiscrete(**options)
    coupling.prepare(ImageSet(images, labels, torch.arange(len(images))))
    coupling.fit(seed=0)
    return coupling


def test_every_image_gets_the_same_share_of_all_noise():
    """One image on one side and four on the other, where without potentials it would get half of it."""
    images = torch.tensor([[0, 0], [255, 255], [230, 255], [255, 230], [240, 240]], dtype=torch.uint8)
    images, labels = images.reshape(5, 1, 1, 2), torch.arange(5) * 2
    coupling = semidiscrete(images, labels, iterations=1500, batch_size=256)
    eps = torch.randn(20_000, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    x, other, noise = coupling(eps, torch.zeros(20_000, dtype=torch.int64), eps)
    assert torch.equal(noise, eps)
    shares = other.bincount(minlength=9)[::2] / 20_000
    assert (shares - 0.2).abs().max() < 0.015
    assert torch.equal(x, to_float(images)[other // 2])
    coupling.potentials.zero_()
    plain = coupling(eps, other, eps)[1].bincount(minlength=9)[::2] / 20_000
    assert (plain - 0.2).abs().max() > 0.1


def test_the_search_is_in_full_precision_whatever_the_training_is_in():
    images = torch.randint(0, 256, (40, 1, 2, 2), dtype=torch.uint8, generator=torch.manual_seed(0))
    data = ImageSet(images, torch.arange(40), torch.arange(40))
    full, half = (Semidiscrete(iterations=300, batch_size=64) for _ in range(2))
    for coupling in (full, half):
        coupling.prepare(data)
    half.to(torch.bfloat16)  # as Lightning does, with trainer.precision=bf16-true
    full.fit(seed=0)
    half.fit(seed=0)
    assert torch.equal(half.potentials, full.potentials.bfloat16())
    eps = torch.randn(9, 1, 2, 2)
    x, _, noise = half(eps.bfloat16(), torch.zeros(9, dtype=torch.int64), eps.bfloat16())
    assert x.dtype == noise.dtype == torch.bfloat16


def test_transport_to_the_whole_set_costs_no_more_than_within_a_batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 2, 2), dtype=torch.uint8, generator=generator)
    coupling = semidiscrete(images, torch.arange(40), iterations=1500, batch_size=256)
    eps = torch.randn(40_000, 1, 2, 2, generator=generator)
    counts = coupling(eps, torch.zeros(40_000, dtype=torch.int64), eps)[1].bincount(minlength=40)
    assert (counts / 1000 - 1).std() < 0.05  # by chance 0.03
    eps = torch.randn(1000, 1, 2, 2, generator=generator)
    x = to_float(images)[torch.arange(1000) % 40]
    whole = cost(*coupling(eps, torch.zeros(1000, dtype=torch.int64), eps)[::2])
    best = cost(x, MinibatchOT()(x, x, eps)[2])  # each image 25 times
    assert best * 0.93 < whole < best * 1.03
    assert best < 0.8 * cost(x, eps)


def test_a_thousand_images_all_get_noise(caplog):
    """In more dimensions, where nearness alone leaves most of them without."""
    caplog.set_level("INFO")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1000, 1, 4, 4), dtype=torch.uint8, generator=generator)
    images = (images * torch.linspace(0.2, 1, 1000).reshape(-1, 1, 1, 1)).to(torch.uint8)
    coupling = semidiscrete(images, torch.arange(1000), iterations=300)
    eps = torch.randn(10_000, 1, 4, 4, generator=generator)
    labels = torch.zeros(10_000, dtype=torch.int64)
    counts = coupling(eps, labels, eps)[1].bincount(minlength=1000)
    assert (counts == 0).float().mean() < 0.01 and counts.max() < 40  # by chance: none and 24
    assert "of the images got none of" in caplog.text
    coupling.potentials.zero_()
    assert (coupling(eps, labels, eps)[1].bincount(minlength=1000) == 0).float().mean() > 0.3


@pytest.mark.parametrize("mistake", [{"iterations": 0}, {"batch_size": 0}, {"rate": 0.0}])
def test_mistakes_are_refused(mistake):
    with pytest.raises(ConfigError):
        Semidiscrete(**mistake)


def test_fresh_noise_is_warned_of(caplog):
    warn_of_fresh_noise("Independent")
    assert not caplog.messages
    warn_of_fresh_noise("ClassOT")
    assert "right only for coupling=independent" in caplog.text
