"""Anagrams, hybrids, inpainting and the rest, on real digits: what comes out, not just that it does."""

import classifier
import pytest
import torch
from commands import TINY
from digits import Digits
from gaussian import Gaussian, Images, exact_denoiser
from PIL import Image
from torchvision.transforms.functional import gaussian_blur

from lit_diffusion.combinators import VIEWS, Anagram, Blend, Hybrid
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.images import load_picture, to_float, to_uint8
from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.denoiser import Labelled, NetworkDenoiser
from lit_diffusion.edit import edits
from lit_diffusion.edit.context import EditContext
from lit_diffusion.edit.edits import slerp
from lit_diffusion.edit.inverse import restore
from lit_diffusion.edit.masks import find_mask
from lit_diffusion.edit.run import edit
from lit_diffusion.features.classifier import accuracy
from lit_diffusion.predictions import Eps, V, Velocity
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.grids import resampled
from lit_diffusion.samplers.heun import Heun
from lit_diffusion.samplers.hooks import Inpaint
from lit_diffusion.samplers.unipc import UniPC
from lit_diffusion.schedules import Cosine, Flow, Linear
from lit_diffusion.train.run import train

SHAPE = (1, 28, 28)
TRAIN, TRAIN_LABELS = Digits().load(train=True)
TEST, TEST_LABELS = Digits().load(train=False)


def digits_denoiser(schedule, prediction) -> NetworkDenoiser:
    """Knows the 320 training digits and their labels, and nothing else."""
    network = Images(schedule, prediction, to_float(TRAIN), TRAIN_LABELS)
    return NetworkDenoiser(network, schedule, prediction)


@pytest.fixture(scope="module")
def denoiser():
    return digits_denoiser(Flow(), Velocity())


@pytest.fixture(scope="module")
def reader():
    torch.set_num_threads(1)
    network = classifier.train(TRAIN, TRAIN_LABELS, epochs=12, batch_size=20)
    assert accuracy(network, TEST, TEST_LABELS) > 0.9
    return network


def asked(denoiser, label):
    return Labelled(denoiser, torch.tensor([label]))


@pytest.mark.parametrize("view", VIEWS)
def test_a_views_inverse_is_its_inverse(view):
    x = torch.randn(2, 3, 6, 6)
    forward, inverse = VIEWS[view]
    assert not torch.equal(forward(x), x)
    assert torch.equal(inverse(forward(x)), x)


def test_rotate_90_turns_counterclockwise():
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert VIEWS["rotate_90"].forward(x).tolist() == [[1, 3], [0, 2]]


@pytest.mark.parametrize(
    "upright, turned, view",
    [(6, 9, "rotate_180"), (4, 7, "rotate_90"), (7, 2, "flip_vertical"), (5, 2, "flip_horizontal")],
)
def test_anagrams_are_read_both_ways(denoiser, reader, upright, turned, view):
    first = asked(denoiser, upright)
    both = generate(DDIM(20, clip=False), Anagram(first, asked(denoiser, turned), view), range(40), SHAPE, 1)
    plain = generate(DDIM(20, clip=False), first, range(40), SHAPE, 1)

    def read(x, label):
        return accuracy(reader, to_uint8(x), torch.full((len(x),), label))

    look = VIEWS[view].forward
    assert read(both, upright) >= 0.75
    assert read(look(both), turned) >= 0.8
    assert read(look(plain), turned) < read(look(both), turned) - 0.2


@pytest.mark.parametrize("low, high", [(0, 1), (8, 3), (4, 7)])
def test_a_hybrids_bands_are_each_ones(denoiser, low, high):
    """The nearest training image by low frequencies is of one class, by high ones of the other."""
    hybrid = Hybrid(asked(denoiser, low), asked(denoiser, high), 11, 1.6)
    x = generate(DDIM(20, clip=False), hybrid, range(40), SHAPE, 1)
    for band, label in ((hybrid.blur, low), (lambda z: z - hybrid.blur(z), high)):
        distances = torch.cdist(band(x).flatten(1), band(to_float(TRAIN)).flatten(1))
        assert (TRAIN_LABELS[distances.argmin(1)] == label).double().mean() > 0.95


def test_a_hybrid_of_gaussians_has_each_ones_band():
    """In closed form: for data N(a, s^2) and N(b, s^2) it is N(blur(a) + b - blur(b), s^2)."""
    a, b = to_float(TEST[:2]).double().split(1)
    parts = []
    for mu in (a, b):
        part = exact_denoiser(Gaussian, Linear(), Eps())
        part.network.mu = mu
        parts.append(Labelled(part, None))
    hybrid = Hybrid(*parts, 9, 2.0)
    expected = hybrid.blur(a) + b - hybrid.blur(b)
    start = Linear().alpha(torch.ones((), dtype=torch.float64)) * expected
    torch.testing.assert_close(DDIM(50, clip=False)(hybrid, start), expected, atol=1e-6, rtol=0)
    assert (expected - a).abs().max() > 0.1


@pytest.mark.parametrize("schedule, prediction", [(Cosine, V), (Flow, Velocity)])
def test_combinations_stay_on_the_path(schedule, prediction):
    denoiser = digits_denoiser(schedule(), prediction())
    six, nine = asked(denoiser, 6), asked(denoiser, 9)
    x_t, t = torch.randn(3, *SHAPE), torch.tensor([0.2, 0.5, 0.9])
    alpha, sigma = schedule().alpha_sigma(t, x_t)
    weight = torch.tensor([0.0, 0.3, 1.0])
    for combined in (Anagram(six, nine, "rotate_90"), Hybrid(six, nine, 7, 1.5), Blend(six, nine, weight)):
        x, eps, _ = combined(x_t, t)
        torch.testing.assert_close(alpha * x + sigma * eps, x_t, atol=1e-4, rtol=1e-4)
    first, last = Blend(six, nine, weight)(x_t, t).x[[0, 2]]
    torch.testing.assert_close(first, six(x_t, t).x[0])
    torch.testing.assert_close(last, nine(x_t, t).x[2])


def test_slerp_keeps_the_length():
    a, b = torch.randn(2, 1, *SHAPE, generator=torch.manual_seed(0))
    b = b * a.norm() / b.norm()
    way = slerp(a, b, torch.linspace(0, 1, 5))
    torch.testing.assert_close(way[[0, 4]], torch.cat([a, b]))
    torch.testing.assert_close(way.flatten(1).norm(dim=1), a.norm().expand(5))
    torch.testing.assert_close(way[2], (a + b)[0] / (a + b).norm() * a.norm())
    torch.testing.assert_close(slerp(a, a, torch.tensor([0.3])), a)


LEFT = (torch.arange(28) < 14).expand(1, 1, 28, 28)


@pytest.mark.parametrize("times_over", [1, 3])
@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(10, clip=False),
        Ancestral(10, clip=False),
        Heun(10, clip=False),
        DPMpp2M(10, clip=False),
        DPMpp2M(10, clip=False, eta=1.0),
        UniPC(10, clip=False),
        DDIM(10, True),
    ],
)
def test_inpainting_keeps_known_pixels_exactly(denoiser, sampler, times_over):
    x = to_float(TEST[:4])
    noise = ImageNoise(0, range(4), SHAPE)
    keep = Inpaint(denoiser.schedule, x, LEFT, noise)
    times = resampled(sampler.times(denoiser.schedule), times_over)
    out = sampler(denoiser, noise(), torch.full((4,), 10), noise, times, keep)
    known = ~LEFT.expand_as(x)
    assert torch.equal(out[known], x[known])
    assert (out - x)[~known].abs().max() > 0.5


def test_inpainting_fits_the_known_pixels_and_resampling_fits_them_better(denoiser, reader):
    x = to_float(TEST)

    def painted(times_over):
        noise = ImageNoise(0, range(80), SHAPE)
        keep = Inpaint(denoiser.schedule, x, LEFT, noise)
        times = resampled(DDIM(20, clip=False).times(denoiser.schedule), times_over)
        return DDIM(20, clip=False)(denoiser, noise(), None, noise, times, keep)

    once, often = painted(1), painted(5)
    error = [float((out - x)[LEFT.expand_as(x)].square().mean()) for out in (once, often)]
    assert error[1] < 0.97 * error[0]
    assert accuracy(reader, to_uint8(often), TEST_LABELS) > 0.6  # of ten, by its right half alone


def test_resampled_times():
    times = torch.tensor([1.0, 0.6, 0.3, 0.0])
    assert resampled(times, 1).tolist() == times.tolist()
    expected = torch.tensor([1.0, 0.6, 1.0, 0.6, 0.3, 0.6, 0.3, 0.0])
    assert resampled(times, 2).tolist() == expected.tolist()


@pytest.fixture
def context(denoiser):
    return EditContext(
        denoiser, DDIM(34, clip=False), SHAPE, 0, torch.device("cpu"), lambda: to_float(TEST[:1])
    )


def test_image_to_image_keeps_more_from_later_starts(context):
    _, edited = edits.sdedit(context, starts=[0, 10, 20, 30], y=None)
    distance = (edited - to_float(TEST[:1])).square().mean((1, 2, 3))
    assert distance[0] > 2 * distance[2]  # the nearest of 320 other digits is as near as it gets
    fresh = generate(context.sampler, context.denoiser, [0], SHAPE, 0, torch.tensor([10]))
    torch.testing.assert_close(edited[:1], fresh, atol=1e-2, rtol=0)  # nearly all noise, not quite
    _, asked_for = edits.sdedit(context, starts=[0], y=3)
    nearest = torch.cdist(asked_for.flatten(1), to_float(TRAIN).flatten(1)).argmin(1)
    assert TRAIN_LABELS[nearest] == 3


def test_one_step_compares(context):
    figure, images = edits.one_step(context, times=[0.25, 0.75], kernel_size=5, sigma=2.0, y=None)
    x, noisy, blurred, once, _ = images[:5]
    torch.testing.assert_close(x[None], to_float(TEST[:1]))
    torch.testing.assert_close(blurred, gaussian_blur(noisy, [5, 5], [2.0, 2.0]))
    noise = (noisy - 0.75 * x) / 0.25
    torch.testing.assert_close(noise[None], ImageNoise(0, [0], SHAPE)())
    noisier = images[5:]
    away = torch.cdist(noisier.flatten(1), to_float(TRAIN).flatten(1)).min(1).values
    assert away[4] < 1e-2 < 1 < away[3]  # step by step a digit, in one step the mean of many
    error = float((once.clamp(-1, 1) - x).square().mean())
    expected = 10 * torch.log10(torch.tensor(4 / error))
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions[3] == f"PSNR {float(expected):.1f} dB"
    assert captions[0] == ""


def test_interpolation_ends_where_its_ends_are(context):
    _, made = edits.interpolate(context, first=3, second=8, n=5, rows=1)
    between, blended = made[:5], made[5:]
    for k, label, image in ((0, 3, 0), (4, 3, 1)):
        alone = generate(context.sampler, context.denoiser, [image], SHAPE, 0, torch.tensor([label]))
        torch.testing.assert_close(between[k : k + 1], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(blended[0], between[0], atol=1e-4, rtol=0)
    eight = generate(context.sampler, context.denoiser, [0], SHAPE, 0, torch.tensor([8]))
    torch.testing.assert_close(blended[4:], eight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("coupling", ["Independent", "MinibatchOT"])
def test_restoring_by_a_network_that_knows_no_score_warns(context, coupling, caplog):
    context.coupling, context.sampler = coupling, DDIM(2, clip=False)
    restore(context, "super_resolution", "", 2, 0, 0.0, noise=0.1, iterations=1, n=1, y=None)
    assert ("trained with MinibatchOT" in caplog.text) == (coupling == "MinibatchOT")


def test_a_walk_between_noises_does_not_jump_with_a_stochastic_sampler(denoiser):
    shaky = EditContext(denoiser, Ancestral(10, clip=False), SHAPE, 0, torch.device("cpu"), lambda: None)
    again = EditContext(denoiser, Ancestral(10, clip=False), SHAPE, 0, torch.device("cpu"), lambda: None)
    _, made = edits.interpolate(shaky, first=3, second=3, n=3, rows=1)
    assert torch.equal(made, edits.interpolate(again, first=3, second=3, n=3, rows=1)[1])
    torch.testing.assert_close(made[3], made[5])  # from one noise, one digit


class Echo(DDIM):
    """Makes an image of the noise that its step draws."""

    def step(self, x_t, t, s, history, denoiser, noise):
        return noise()


def test_a_walk_between_noises_draws_noise_of_its_own(denoiser):
    echo = EditContext(denoiser, Echo(1, clip=False), SHAPE, 0, torch.device("cpu"), lambda: None)
    _, made = edits.interpolate(echo, first=3, second=8, n=2, rows=1)
    noise = ImageNoise(0, [0], SHAPE)
    start, second = noise(), noise()
    assert not torch.equal(start, second)
    torch.testing.assert_close(made, second.expand(4, *SHAPE))


@pytest.mark.parametrize("mask, share", {"centre": 0.25, "left_half": 0.5, "top_half": 0.5}.items())
def test_named_masks(mask, share):
    where = find_mask(mask, SHAPE[1:], seed=0)
    assert where.shape == (1, 1, 28, 28)
    assert where.double().mean() == share
    row, column = where[0, 0].double().argmax().item() // 28, where[0, 0].any(0).double().argmax().item()
    assert (row, column) == {"centre": (7, 7), "left_half": (0, 0), "top_half": (0, 0)}[mask]
    assert where[0, 0, 0, 27] == (mask == "top_half")


def test_masks_at_random_and_from_a_picture(tmp_path):
    where = find_mask("random", SHAPE[1:], seed=0)
    assert 0.4 < where.double().mean() < 0.6
    assert torch.equal(where, find_mask("random", SHAPE[1:], seed=0))
    picture = Image.new("L", (56, 56))
    picture.paste(255, (0, 0, 56, 14))
    picture.save(tmp_path / "mask.png")
    where = find_mask(str(tmp_path / "mask.png"), SHAPE[1:], seed=0)
    Image.new("RGBA", (28, 28)).save(tmp_path / "nothing.png")
    with pytest.raises(ConfigError, match="black all over"):
        find_mask(str(tmp_path / "nothing.png"), SHAPE[1:], seed=0)
    assert where[0, 0, :7].all()
    assert not where[0, 0, 7:].any()


def test_pictures_are_read_as_the_model_wants_them(tmp_path):
    picture = Image.new("RGBA", (60, 40), (0, 0, 0, 0))  # transparent: white, as on paper
    picture.paste((0, 0, 0, 255), (10, 0, 30, 40))  # black from the left edge to the middle of a square
    picture.save(tmp_path / "mine.png")
    x = load_picture(tmp_path / "mine.png", (1, 28, 28))
    assert x.shape == (1, 1, 28, 28)
    assert x[..., :12].max() < -0.9
    assert x[..., 16:].min() > 0.9
    assert load_picture(tmp_path / "mine.png", (1, 28, 28), background="black").max() < -0.9
    Image.linear_gradient("L").convert("I;16").point(lambda v: v * 257).save(tmp_path / "deep.png")
    assert Image.open(tmp_path / "deep.png").mode.startswith("I")
    deep = load_picture(tmp_path / "deep.png", (1, 28, 28))[0, 0, :, 0]
    torch.testing.assert_close(deep, torch.linspace(-1, 1, 28), atol=0.06, rtol=0)
    assert load_picture(tmp_path / "mine.png", (3, 8, 8)).shape == (1, 3, 8, 8)
    (tmp_path / "no.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    for wrong in ("no.png is no picture, or damaged", "missing.png isn't there", "empty.png is empty"):
        with pytest.raises(ConfigError, match=wrong):
            load_picture(tmp_path / wrong.split()[0], (1, 8, 8))


@pytest.fixture
def edited(config, tmp_path):
    """edited(*overrides): what the command writes, of a small model of labels that has learnt little."""
    options = ["debug=limit", "model.num_classes=10", "optimizer.lr=1e-2", "callbacks.samples=null"]
    train(config(*options, *TINY["small_unet"]))
    given = [f"ckpt={tmp_path}/checkpoints/last.ckpt", "dpi=40", "sampler.steps=21", "guidance.scale=2"]
    return lambda *overrides: edit(config(*given, *overrides, config_name="edit"))


def test_every_edit_is_drawn(edited, tmp_path):
    few = {
        "one_step": [],
        "sdedit": ["image=[0,5]", "edit.y=3"],
        "inpaint": ["edit.n=2", "edit.times_over=2"],
        "anagram": ["edit.n=2", "edit.view=rotate_90"],
        "hybrid": ["edit.n=2", "sampler=dpmpp_2m"],
        "interpolate": ["edit.n=3", "edit.rows=1"],
        "invert": ["image=[0,5]", "sampler=heun", "edit.other=3"],
        "restore": ["edit.n=2"],
    }
    images = {"one_step": 15, "sdedit": 12, "inpaint": 2, "anagram": 2, "hybrid": 2, "interpolate": 6}
    images |= {"invert": 2, "restore": 2}
    for name, options in few.items():
        figure, result = edited(f"edit={name}", *options, f"out={tmp_path}/{name}")
        assert figure == tmp_path / name / f"{name}.png"
        assert len(Image.open(figure).convert("L").getcolors()) > 10
        columns = min(images[name], 10)
        assert Image.open(result).width == 2 + 30 * columns
        assert result.name == "result.png"


def test_a_drawing_of_ones_own_inverted(edited, tmp_path):
    Image.new("L", (50, 50), 255).save(tmp_path / "paper.png")
    result = edited("edit=one_step", f"input={tmp_path}/paper.png", "invert=true")[1]
    assert Image.open(result).convert("L").getpixel((10, 10)) == 0


@pytest.mark.parametrize(
    "overrides, says",
    [
        (["edit=sdedit", "edit.starts=[21]"], r"edit.starts is \[21\], but the sampler has 21 steps"),
        (["edit=sdedit", "edit.starts=[]"], "edit.starts is"),
        (["edit=sdedit", "edit.y=11"], "11 is asked for"),
        (["edit=sdedit", "edit.y=cat"], "'cat' is asked for"),
        (["edit=sdedit", "image=1000"], "image is 1000"),
        (["edit=sdedit", "image=one"], "image is one"),
        (["edit=sdedit", "input=nowhere.png"], "nowhere.png isn't there"),
        (["edit=sdedit", "edit.y=true"], "edit.y is True"),
        (["edit=sdedit", "image=[]"], "image is an empty list"),
        (["edit=one_step", "image=[0,1]"], "takes one"),
        (["edit=one_step", "invert=true"], "invert is true"),
        (["edit=one_step", "input=[a.png,b.png]"], "is no picture"),
        (["edit=one_step", "edit.times=high"], "edit.times is"),
        (["edit=hybrid", "edit.sigma=wide"], "edit.sigma is wide"),
        (["edit=inpaint", "edit.mask=3"], "edit.mask is 3"),
        (["edit=inpaint", "edit.mask=null"], "edit.mask is None"),
        ([], "edit is missing"),
        (["edit=inpaint", "edit.mask=diagonal"], "edit.mask is 'diagonal'"),
        (["edit=inpaint", "edit.times_over=0"], "edit.times_over is 0"),
        (["edit=inpaint", "edit.steps=0"], "edit.steps is 0"),
        (["edit=anagram", "edit.view=upside_down"], "edit.view is 'upside_down'"),
        (["edit=anagram", "edit.n=0"], "edit.n is 0"),
        (["edit=hybrid", "edit.kernel_size=4"], "edit.kernel_size is 4"),
        (["edit=hybrid", "edit.sigma=0"], "edit.sigma 0"),
        (["edit=hybrid", "edit.kernel_size=99"], "edit.kernel_size is 99"),
        (["edit=one_step", "edit.times=[0.5,2]"], "edit.times is"),
        (["edit=interpolate", "edit.n=1"], "edit.n is 1"),
        (["edit=invert"], "sampler is Ancestral with fresh noise"),
        (["edit=invert", "sampler=heun", "edit.other=11"], "edit.other is 11"),
        (["edit=restore", "edit.degradation=rust"], "edit.degradation is 'rust'"),
        (["edit=restore", "edit.degradation=super_resolution", "edit.factor=5"], "doesn't divide"),
        (["edit=restore", "edit.noise=0"], "edit.noise is 0"),
        (["edit=restore", "edit.iterations=0"], "edit.iterations is 0"),
        (["edit=one_step", "seed=-1"], "seed is -1"),
        (["edit=one_step", "dpi=0"], "dpi is 0"),
    ],
)
def test_mistakes_are_refused(edited, overrides, says):
    with pytest.raises(ConfigError, match=says):
        edited(*overrides)
