"""Distances against formulas and packages that nobody here wrote."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc

from lit_diffusion.evaluate.distances import fid, kid, manifolds, nearest


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def two_sets(seed=0):
    """Features of two sets that differ, (300, 16) and (200, 16)."""
    source = generator(seed)
    real, fake = (torch.randn(n, 16, generator=source) for n in (300, 200))
    return real, 1.2 * fake.cumsum(1) / 2 + 0.3


def test_fid_is_the_published_formula(evaluator, network):
    real, fake = (
        network(images).numpy().astype(np.float64) for images, _ in (evaluator.train, evaluator.test)
    )
    for a, b in [(real, fake), [part.numpy().astype(np.float64) for part in two_sets()]]:
        cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * root
        assert fid(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-3)


def test_kid_is_the_published_formula(monkeypatch):
    real, fake = (part[:200].double() for part in two_sets())
    kernel = {
        (i, j): (a @ b.T / 16 + 1) ** 3
        for i, a in enumerate((real, fake))
        for j, b in enumerate((real, fake))
    }
    within = [(kernel[i, i].sum() - kernel[i, i].trace()) / (200 * 199) for i in (0, 1)]
    expected = sum(within) - 2 * kernel[0, 1].mean()
    # every subset is the whole set, in another order
    assert kid(real, fake, seed=0) == pytest.approx((float(expected), 0), rel=1e-9, abs=1e-12)
    monkeypatch.setattr("lit_diffusion.evaluate.distances.SUBSET_SIZE", 100)
    mean, std = kid(real, fake, seed=0)
    assert std > 0
    assert (mean, std) == kid(real, fake, seed=0) != kid(real, fake, seed=1)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("rows", [37, 1000])
def test_manifolds_are_those_of_prdc(monkeypatch, k, rows):
    monkeypatch.setattr("lit_diffusion.evaluate.distances.CHUNK", rows)
    real, fake = two_sets()
    expected = compute_prdc(real.numpy(), fake.numpy(), k)
    assert 0 < expected["precision"] < 1 and 0 < expected["coverage"] < 1
    assert manifolds(real, fake, k) == pytest.approx(expected, abs=1e-6)


def test_the_nearest_training_image():
    images = torch.randint(
        0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    others = torch.cat([images[3:], 255 - images[:3]])
    pixels, there = images.double().flatten(1) / 255, others.double().flatten(1) / 255
    expected = (pixels[:, None] - there).square().mean(2).sqrt().amin(1)
    torch.testing.assert_close(nearest(images, others).double(), expected, atol=1e-4, rtol=1e-4)
    assert (nearest(images, others)[3:] < 1e-3).all()
    between = (pixels[:, None] - pixels).square().mean(2).sqrt().fill_diagonal_(torch.inf).amin(1)
    torch.testing.assert_close(nearest(images, images, rank=2).double(), between, atol=1e-4, rtol=1e-4)
