"""Augmentation: what is done, what the network is told of it, and that nothing else leaks."""

import math

import pytest
import torch
from torch.nn import functional as F

from lit_diffusion.common import rng
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.data.augment import Edm, Flip, affine, rotation

COLUMNS = ("mirror_x", "mirror_y", "scale", "turn", "stretch", "direction", "right", "down")


def smooth(size=(32, 32)):
    """Images that are smooth, so that what lies between pixels is known: a blob off the centre."""
    height, width = size
    down, right = torch.meshgrid(torch.arange(height) - 10.0, torch.arange(width) - 12.0, indexing="ij")
    blob = torch.exp(-(down**2 / 30 + right**2 / 60))
    return (2 * blob - 1).expand(1, 3, -1, -1).clone()


def drawn(**changes):
    row = torch.zeros(1, len(COLUMNS))
    for name, value in changes.items():
        row[0, COLUMNS.index(name)] = value
    return row


def test_nothing_drawn_is_nothing_done_and_zeros_told():
    x = torch.randn(1, 3, 9, 12).clamp(-1, 1)
    image, told = Edm()(x, drawn(direction=1.0))
    assert torch.equal(image, x)
    assert torch.equal(told, torch.zeros(1, 9))


def test_mirrors_are_exact():
    x = torch.randn(1, 3, 9, 12).clamp(-1, 1)
    image, told = Edm()(x, drawn(mirror_x=1))
    assert torch.equal(image, x.flip(-1)) and told.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0, 0]]
    image, told = Edm()(x, drawn(mirror_y=1))
    assert torch.equal(image, x.flip(-2)) and told.tolist() == [[0, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert torch.equal(Flip()(x, torch.ones(1, 1))[0], x.flip(-1))
    assert torch.equal(Flip()(x, torch.zeros(1, 1))[0], x)


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_a_shift_by_whole_pixels(size):
    """An eighth of the width to the right, a quarter of the height down."""
    x = smooth(size)
    image, told = Edm()(x, drawn(right=1, down=2))
    height, width = size
    down, right = height // 4, width // 8
    torch.testing.assert_close(
        image[..., down:, right:], x[..., : height - down, : width - right], atol=1e-5, rtol=0
    )
    assert told.tolist() == [[0, 0, 0, 0, 0, 0, 0, 1, 2]]


def test_a_quarter_turn_is_rot90():
    x = smooth()
    image, told = Edm()(x, drawn(turn=math.pi / 2))
    turned = min((x.rot90(k, (-2, -1)) for k in (1, 3)), key=lambda y: float((y - image).abs().max()))
    torch.testing.assert_close(image, turned, atol=1e-5, rtol=0)
    torch.testing.assert_close(told, torch.tensor([[0, 0, 0, -1.0, 1, 0, 0, 0, 0]]), atol=1e-6, rtol=0)


def test_a_turn_keeps_the_angles_of_images_that_are_not_square():
    """A disc stays a disc."""
    down, right = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(64) - 31.5, indexing="ij")
    disc = torch.tanh((8 - torch.hypot(down, right)) / 3)[None, None]
    inside = torch.hypot(down, right) < 15  # beyond, the image's reflection is seen
    for changed, least, most in ((drawn(turn=0.7), 0, 0.03), (drawn(stretch=1.0), 0.1, 1)):
        image, _ = Edm()(disc, changed)
        assert least <= (image - disc)[..., inside].abs().max() <= most


def test_twice_the_scale():
    image, told = Edm()(smooth(), drawn(scale=5))  # 2 ** (0.2 * 5)
    down, right = torch.meshgrid(
        (torch.arange(32) - 15.5) / 2 + 5.5, (torch.arange(32) - 15.5) / 2 + 3.5, indexing="ij"
    )
    expected = 2 * torch.exp(-(down**2 / 30 + right**2 / 60)) - 1
    assert (image[0, 0] - expected).abs().max() < 0.02
    assert told.tolist() == [[0, 0, 5, 0, 0, 0, 0, 0, 0]]


def test_a_stretch_keeps_the_area_and_has_a_direction():
    down, right = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    disc = torch.exp(-(down**2 + right**2) / 12)[None, None] * 2 - 1
    for direction, axis in {0.0: right, math.pi / 2: down}.items():
        image, told = Edm()(
            disc, drawn(stretch=2.5, direction=direction)
        )  # 2 ** 0.5 along, as much less across
        mass = (image[0, 0] + 1) / 2
        assert float(mass.sum()) == pytest.approx(float((disc + 1).sum()) / 2, rel=0.03)
        other = down if axis is right else right
        ratio = float((mass * axis**2).sum() / (mass * other**2).sum())
        assert ratio == pytest.approx(4, rel=0.06)
        expected = [2.5 * math.cos(direction), 2.5 * math.sin(direction)]
        torch.testing.assert_close(told[0, 5:7], torch.tensor(expected), atol=1e-5, rtol=0)


def test_what_is_drawn_has_its_probabilities_and_is_a_function_of_the_key():
    draws = [Edm(0.12).draw(20_000, rng.generator(0, "augment", key)) for key in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    share = dict(zip(COLUMNS, (draws[0] != 0).double().mean(0).tolist(), strict=True))
    assert share["mirror_x"] == pytest.approx(0.5, abs=0.015)
    assert share["mirror_y"] == pytest.approx(0.06, abs=0.008)
    for name in ("scale", "turn", "stretch", "right", "down"):
        assert share[name] == pytest.approx(0.12, abs=0.01)
    assert (draws[0][:, 6] != 0).equal(draws[0][:, 7] != 0)  # a shift is in both directions at once
    assert draws[0][:, 2][draws[0][:, 2] != 0].std() == pytest.approx(1, abs=0.05)
    assert Flip(0.3).draw(20_000, rng.generator(0, "augment")).mean() == pytest.approx(0.3, abs=0.015)


def test_affine_of_the_identity_is_the_image():
    x = torch.rand(2, 3, 8, 12)
    identity, none = rotation(torch.zeros(2)), torch.zeros(2, 2)
    torch.testing.assert_close(affine(x, identity, none), x, atol=1e-5, rtol=0)
    assert F.mse_loss(affine(x, rotation(torch.full((2,), 0.3)), none), x) > 0.01


@pytest.mark.parametrize("make, says", [(lambda: Flip(1.5), "share"), (lambda: Edm(-0.1), "probability")])
def test_values_out_of_range_are_refused(make, says):
    with pytest.raises(ConfigError, match=f"augment.{says}"):
        make()
