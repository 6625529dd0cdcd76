from itertools import pairwise

import pytest
import torch
from gaussian import Gaussian, Mixture, exact_denoiser

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.denoiser import Clipped, NetworkDenoiser
from lit_diffusion.guidance import Guidance, Guided
from lit_diffusion.models.small_unet import SmallUNet
from lit_diffusion.predictions import Eps, V, Velocity
from lit_diffusion.samplers.ancestral import Ancestral
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.generate import generate
from lit_diffusion.samplers.grids import spaced
from lit_diffusion.samplers.heun import Heun
from lit_diffusion.samplers.unipc import UniPC
from lit_diffusion.schedules import Cosine, Flow, Linear
from lit_diffusion.train.callbacks.samples import denoised_once


class Counter(torch.nn.Module):
    """A network that counts the images it is shown, and knows labels."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x_t, time_input, y=None):
        self.seen += len(x_t)
        return 0.1 * x_t * (1 + y.reshape(-1, 1, 1, 1))


def start(n=3):
    return torch.randn(n, 1, 2, 2, dtype=torch.float64, generator=torch.manual_seed(0))


def fixed_noise():
    generator = torch.Generator().manual_seed(5)
    return lambda: torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("steps", [10, 1000])
def test_ddim_with_eta_1_is_ancestral(steps):
    denoiser = exact_denoiser(Gaussian, Cosine(), Eps())
    ours = DDIM(steps, clip=False, eta=1.0)(denoiser, start(), noise=fixed_noise())
    torch.testing.assert_close(ours, Ancestral(steps, clip=False)(denoiser, start(), noise=fixed_noise()))


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_on_the_flow_schedule_is_euler(steps):
    """Written out: x <- x + (s - t) velocity, from noise down to t = 0."""
    denoiser = exact_denoiser(Gaussian, Flow(), Velocity())
    x = start()
    times = spaced("uniform", Flow(), steps)
    for t, s in pairwise(times):
        x = x + (s - t) * denoiser.output(x, t.expand(3))
    torch.testing.assert_close(DDIM(steps, clip=False)(denoiser, start()), x)


def test_heun_costs_two_evaluations_a_step_but_for_the_last_and_keeps_the_labels():
    plain = NetworkDenoiser(Counter(), Flow(), Velocity())
    y = torch.tensor([0, 1, 2])
    out = Heun(5, clip=False)(plain, start(), y)
    assert plain.network.seen == 3 * (2 * 5 - 1)
    alone = [Heun(5, clip=False)(plain, start()[k : k + 1], y[k : k + 1]) for k in range(3)]
    torch.testing.assert_close(out, torch.cat(alone))


@pytest.mark.parametrize(
    "sampler", [DPMpp2M(5, clip=False), DPMpp2M(5, clip=False, eta=1.0), UniPC(5, clip=False)]
)
def test_multistep_samplers_cost_one_evaluation_a_step(sampler):
    plain = NetworkDenoiser(Counter(), Flow(), Velocity())
    sampler(plain, start(), torch.tensor([0, 1, 2]))
    assert plain.network.seen == 3 * 5


def test_one_multistep_step_is_ddim():
    """With nothing to look back on: the first step, and a walk that goes up again and forgets."""
    denoiser = exact_denoiser(Gaussian, Linear(), Eps())
    down_up_down = torch.tensor([0.5, 0.3, 0.5, 0.3], dtype=torch.float64)
    for times in (down_up_down[:2], down_up_down):
        expected = DDIM(1, clip=False)(denoiser, start(), times=times, noise=fixed_noise())
        for sampler in (DPMpp2M(1, clip=False), UniPC(1, clip=False)):
            ours = sampler(denoiser, start(), times=times, noise=fixed_noise())
            torch.testing.assert_close(ours, expected)


def test_times_that_go_up_add_the_noise_of_the_path():
    """From s back up to t is where t was, in distribution: RePaint's resampling changes no width."""
    denoiser = exact_denoiser(Gaussian, Linear(), Eps())
    times = spaced("uniform", Linear(), 100)
    back = torch.stack([times[:-1], times[1:], times[:-1]], dim=1).flatten()  # each step, and up again
    x = torch.randn(4000, 1, 1, 1, dtype=torch.float64, generator=torch.manual_seed(0))
    out = DDIM(100, clip=False)(denoiser, x, times=torch.cat([back, times[-1:]]))
    assert abs(out.mean() - Gaussian.mu) < 0.03
    assert abs(out.std() - Gaussian.std) < 0.03


@pytest.mark.parametrize("scale, evaluations, label", [(1, 1, 2), (0, 1, 3), (2.5, 2, None)])
def test_guidance_costs_and_bit_exact_ends(scale, evaluations, label):
    """Scale 1 is the conditional denoiser and scale 0 the unconditional, bit for bit, at one evaluation."""
    plain = NetworkDenoiser(Counter(), Linear(), Eps())
    t, y = torch.full((3,), 0.5, dtype=torch.float64), torch.full((3,), 2)
    guided = Guided(plain, Guidance(scale))(start(), t, y)
    assert plain.network.seen == 3 * evaluations
    cond, uncond = plain(start(), t, y), plain(start(), t, torch.full((3,), 3))
    if label is not None:
        expected = cond if label == 2 else uncond
        assert torch.equal(guided.x, expected.x) and torch.equal(guided.eps, expected.eps)
    for end in ("x", "eps"):
        c, u, g = (getattr(estimate, end) for estimate in (cond, uncond, guided))
        torch.testing.assert_close(g, u + scale * (c - u))


def guided_at(time, **options):
    """(guided, conditional, unconditional) estimates at one time, and the images the guided one cost."""
    plain = NetworkDenoiser(Counter(), Linear(), Eps())
    t, y = torch.full((3,), time, dtype=torch.float64), torch.tensor([0, 1, 2])
    cond, uncond = plain(start(), t, y), plain(start(), t, torch.full((3,), 3))
    plain.network.seen = 0
    return Guided(plain, Guidance(3.0, **options))(start(), t, y), cond, uncond, plain.network.seen


@pytest.mark.parametrize("time, inside", [(0.1, False), (0.2, True), (0.5, True), (0.8, True), (0.9, False)])
def test_guidance_interval(time, inside):
    """Outside, the conditional estimate bit for bit, at its cost; inside, guidance as without interval."""
    guided, cond, uncond, cost = guided_at(time, interval=(0.2, 0.8))
    assert cost == (6 if inside else 3)
    assert torch.equal(guided.x, cond.x) is not inside
    if inside:
        torch.testing.assert_close(guided.eps, uncond.eps + 3 * (cond.eps - uncond.eps))


def test_guidance_interval_tells_images_of_one_batch_apart():
    plain = NetworkDenoiser(Counter(), Linear(), Eps())
    t, y = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.tensor([0, 1, 2])
    part = Guided(plain, Guidance(3.0, interval=(0.2, 0.8)))(start(), t, y).x
    whole, cond = Guided(plain, Guidance(3.0))(start(), t, y).x, plain(start(), t, y).x
    torch.testing.assert_close(part, torch.stack([cond[0], whole[1], cond[2]]))


def test_guidance_rescale_takes_the_contrast_back():
    def contrast(x):
        return x.std((1, 2, 3))

    guided, cond, *_ = guided_at(0.5)
    full, half = (guided_at(0.5, rescale=r)[0] for r in (1.0, 0.5))
    assert ((contrast(guided.x) / contrast(cond.x) - 1).abs() > 0.05).all()
    torch.testing.assert_close(contrast(full.x), contrast(cond.x))
    torch.testing.assert_close(full.x.mean((1, 2, 3)), guided.x.mean((1, 2, 3)))
    torch.testing.assert_close(half.x, (full.x + guided.x) / 2)
    alpha, sigma = Linear().alpha_sigma(torch.full((3,), 0.5), half.x)
    torch.testing.assert_close(alpha * half.x + sigma * half.eps, start())


@pytest.mark.parametrize(
    "options, says",
    [
        ({"interval": (0.8, 0.2)}, r"guidance\.interval is \(0.8, 0.2\)"),
        ({"interval": (0.0, 1.5)}, "guidance.interval"),
        ({"interval": (0.5,)}, "guidance.interval"),
        ({"interval": 0.5}, "guidance.interval is 0.5"),
        ({"interval": ("a", "b")}, "guidance.interval"),
        ({"rescale": "abc"}, "guidance.rescale is abc"),
        ({"rescale": 1.5}, "guidance.rescale is 1.5"),
    ],
)
def test_guidance_out_of_range_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        guided_at(0.5, **options)


def test_guidance_without_labels_is_refused():
    with pytest.raises(ConfigError, match="this model has no labels"):
        Guided(exact_denoiser(Gaussian, Linear(), Eps()), Guidance(2.0))


def test_clipping_keeps_x_inside_and_the_estimate_on_the_path():
    denoiser = exact_denoiser(Gaussian, Linear(), Eps())
    x_t, t = 8 * start(), torch.full((3,), 0.3, dtype=torch.float64)
    assert denoiser(x_t, t).x.abs().max() > 1
    x, eps, _ = Clipped(denoiser)(x_t, t)
    assert x.abs().max() <= 1
    alpha, sigma = Linear().alpha_sigma(t, x)
    torch.testing.assert_close(alpha * x + sigma * eps, x_t)


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(8, clip=False, eta=0.7),
        Ancestral(8, clip=True),
        Heun(8, clip=False),
        DPMpp2M(8, clip=False, eta=1.0),
        UniPC(8, clip=False),
    ],
)
def test_images_do_not_depend_on_the_batch(sampler):
    torch.manual_seed(0)
    network = SmallUNet(widths=(8, 8), blocks=(1, 1), heads=2, groups=4, num_classes=10)
    for p in network.parameters():  # the zero-initialised convolutions would hide differences
        torch.nn.init.normal_(p, std=0.2)
    denoiser = NetworkDenoiser(network.eval(), Cosine(), V())
    y = torch.arange(12) % 10

    def made(*batches):
        return torch.cat([generate(sampler, denoiser, b, (1, 28, 28), seed=3, y=y[list(b)]) for b in batches])

    whole = made(range(12))
    assert whole.std(0).min() > 0.01  # twelve different images
    torch.testing.assert_close(made(range(5), range(5, 12)), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made(range(7, 12)), whole[7:], atol=1e-4, rtol=1e-4)
    other = generate(sampler, denoiser, range(12), (1, 28, 28), seed=4, y=y)
    assert (other - whole).abs().mean() > 0.01


def test_hook_sees_every_step_and_has_the_last_word():
    seen = []

    def halve(x_s, s, visit):
        seen.append((float(visit.t), float(s)))
        return x_s / 2

    denoiser = exact_denoiser(Gaussian, Linear(), Eps())
    out = DDIM(4, clip=False)(denoiser, start(), after_step=halve)
    assert seen == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]
    assert out.abs().max() < DDIM(4, clip=False)(denoiser, start()).abs().max()


def test_a_step_from_the_middle():
    """Times of one's own start the walk anywhere: the seam for image-to-image."""
    denoiser = exact_denoiser(Mixture, Linear(), Eps())
    x_t = Mixture.points.reshape(3, 2, 1, 1).clone()
    times = torch.tensor([0.1, 0.05, 0.0], dtype=torch.float64)
    assert (DDIM(50, clip=False)(denoiser, x_t, times=times) - x_t).abs().max() < 0.2


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: DDIM(0, clip=False),
        lambda: DDIM(5, clip=False, eta=1.5),
        lambda: Ancestral(5, clip=False, variance="huge"),
        lambda: UniPC(5, clip=False, grid="cubic"),
        *[lambda clip=clip: DDIM(5, clip) for clip in (None, 0.9, (0.95,), (2, 0.5), (0.9, 0.5), "high")],
    ],
)
def test_mistakes_are_refused(mistake):
    with pytest.raises(ConfigError, match="sampler"):
        mistake()


def test_denoised_once_noises_and_denoises():
    denoiser = exact_denoiser(Gaussian, Flow(), Velocity())
    x = start()
    noisy, estimate, noisier, _ = denoised_once(denoiser, x, None, times=[0.5, 1.0], seed=3)
    torch.testing.assert_close((noisy - 0.5 * x) / 0.5, noisier)  # at t = 1 there is noise alone
    alpha, sigma = Flow().alpha_sigma(torch.full((3,), 0.5), x)
    torch.testing.assert_close(estimate, denoiser.network.posterior_mean(noisy, alpha, sigma, None))
    again = denoised_once(denoiser, x[:2], None, times=[0.5], seed=3)[0]
    assert torch.equal(again, noisy[:2])
    whole = denoised_once(exact_denoiser(Gaussian, Linear(), Eps()), x.float(), None, times=[1])[0]
    assert whole.std() > 0.5  # a time written without a point
