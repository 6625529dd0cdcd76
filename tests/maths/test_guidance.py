"""Each method of guidance against its formula, and on data whose best denoiser is known."""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from gaussian import Mixture, exact_denoiser
from torch import nn

from lit_diffusion.combinators import Blend, Restored
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.denoiser import Labelled, NetworkDenoiser
from lit_diffusion.guidance import APG, AutoGuidance, CFGPlusPlus, CFGZero, Guidance
from lit_diffusion.predictions import V
from lit_diffusion.samplers.ddim import DDIM
from lit_diffusion.samplers.dpmpp import DPMpp2M
from lit_diffusion.samplers.heun import Heun
from lit_diffusion.samplers.inversion import inverted
from lit_diffusion.samplers.sde import SDE
from lit_diffusion.samplers.unipc import UniPC
from lit_diffusion.schedules import Cosine, Flow

LABEL = 2
POINT = Mixture.points[LABEL]


class Blurred(Mixture):
    """A worse model of the mixture, to which its points are wider."""

    std = 0.3


def noise(n=9):
    return torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=torch.manual_seed(0))


def pair(t=0.6, schedule=Flow, n=9):
    """(denoiser, x_t, t, y, conditional estimate, unconditional one)."""
    denoiser = exact_denoiser(Mixture, schedule(), V())
    x_t, t, y = noise(n), torch.full((n,), t, dtype=torch.float64), torch.full((n,), LABEL)
    return denoiser, x_t, t, y, denoiser(x_t, t, y), denoiser(x_t, t, denoiser.null(y))


def sampled(guidance, n=400, steps=50, schedule=Flow, denoiser=None, worse=None):
    denoiser = denoiser or exact_denoiser(Mixture, schedule(), V())
    guided = guidance.applied(denoiser, worse)
    start = denoiser.schedule.pure_noise(noise(n))
    return DDIM(steps, clip=False)(guided, start, torch.full((n,), LABEL)).flatten(1)


def dot(a, b):
    return (a * b).flatten(1).sum(1)


def test_apg_moves_across_the_conditional_image_alone():
    denoiser, x_t, t, y, cond, uncond = pair()
    guidance = APG(4.0, momentum=0.0)
    x, eps, _ = guidance.applied(denoiser)(x_t, t, y)
    torch.testing.assert_close(dot(x - cond.x, cond.x), torch.zeros(9, dtype=torch.float64))
    plain = cond.x + 3 * (cond.x - uncond.x)
    across = (
        plain - cond.x - cond.x * (dot(plain - cond.x, cond.x) / dot(cond.x, cond.x))[:, None, None, None]
    )
    torch.testing.assert_close(x - cond.x, across)
    alpha, sigma = denoiser.schedule.alpha_sigma(t, x_t)
    torch.testing.assert_close(alpha * x + sigma * eps, x_t)


def test_apg_with_all_of_the_difference_is_guidance():
    denoiser, x_t, t, y, *_ = pair()
    whole = APG(4.0, parallel=1.0, momentum=0.0).applied(denoiser)(x_t, t, y)
    torch.testing.assert_close(whole.x, Guidance(4.0).applied(denoiser)(x_t, t, y).x)


def test_apg_caps_the_length_of_a_difference():
    denoiser, x_t, t, y, cond, uncond = pair()
    difference = (cond.x - uncond.x).flatten(1)
    cap = float(difference.norm(dim=1).median())
    x = APG(2.0, parallel=1.0, momentum=0.0, norm=cap).applied(denoiser)(x_t, t, y).x
    lengths = (x - cond.x).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, difference.norm(dim=1).clamp(max=cap))


def test_apg_remembers_the_differences_of_its_walk():
    denoiser, x_t, _, y, *_ = pair()
    guided = APG(3.0, parallel=1.0, momentum=-0.5).applied(denoiser)
    times = (0.9, 0.6, 0.6, 0.3)  # a time that is visited twice counts once
    expected, before = [], 0
    for k, time in enumerate(times):
        at = torch.full((9,), time, dtype=torch.float64)
        cond, uncond = denoiser(x_t, at, y), denoiser(x_t, at, denoiser.null(y))
        average = cond.x - uncond.x - 0.5 * before
        expected.append(cond.x + 2 * average)
        before = before if k + 1 < len(times) and times[k + 1] == time else average
    for _ in range(2):  # a second walk begins anew
        for time, x in zip(times, expected, strict=True):
            torch.testing.assert_close(guided(x_t, torch.full((9,), time, dtype=torch.float64), y).x, x)


def test_apg_remembers_no_gradients():
    """Those of an earlier step would be held where edit restore takes gradients, with momentum 0."""
    denoiser, x_t, t, y, _, _ = pair()
    guided = APG(3.0, momentum=0.0).applied(denoiser)
    assert guided(x_t.requires_grad_(), t, y).x.requires_grad
    assert not guided._now[1].requires_grad


def test_apg_remembers_the_walk_of_each_condition_by_itself():
    guided = APG(3.0).applied(exact_denoiser(Mixture, Flow(), V()))
    weight = torch.full((9,), 0.5)
    shared = Blend(Labelled(guided, torch.tensor([0])), Labelled(guided, torch.tensor([1])), weight)
    apart = Blend(*(Labelled(deepcopy(guided), torch.tensor([y])) for y in (0, 1)), weight)
    found = [DDIM(20, clip=False)(denoiser, noise()) for denoiser in (shared, apart)]
    assert torch.equal(*found)


def test_apg_overshoots_less_than_guidance():
    """Along the point that is asked for, which is what grows glaring in an image."""
    plain, projected = (
        sampled(kind(8.0)).mean(0) @ POINT / POINT.norm() - POINT.norm() for kind in (Guidance, APG)
    )
    assert plain > 0.05
    assert abs(projected) < plain / 10


def test_cfg_zero_is_its_formula():
    denoiser, x_t, t, y, cond, uncond = pair()
    v_c, v_u = cond.eps - cond.x, uncond.eps - uncond.x
    s = (dot(v_c, v_u) / dot(v_u, v_u))[:, None, None, None]
    x, eps, _ = CFGZero(3.0).applied(denoiser)(x_t, t, y)
    torch.testing.assert_close(eps - x, (1 - 3) * s * v_u + 3 * v_c)
    alpha, sigma = denoiser.schedule.alpha_sigma(t, x_t)
    torch.testing.assert_close(alpha * x + sigma * eps, x_t)


@pytest.mark.parametrize("sampler", [DDIM(20, clip=False), SDE(20, clip=False, rate=0.0)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_cfg_zero_stands_still_at_first(scale, sampler):
    denoiser = exact_denoiser(Mixture, Flow(), V())
    guided = CFGZero(scale, still=0.1).applied(denoiser)
    start, y = noise(), torch.full((9,), LABEL)
    times = sampler.times(denoiser.schedule)
    torch.testing.assert_close(sampler(guided, start, y, times=times[:3]), start)
    assert not torch.allclose(sampler(guided, start, y, times=times[:4]), start)


def test_standing_still_is_for_a_flow_and_samplers_that_can():
    still = CFGZero(3.0, still=0.04)
    with pytest.raises(ConfigError, match="no flow"):
        still.applied(exact_denoiser(Mixture, Cosine(), V()))
    held = still.applied(exact_denoiser(Mixture, Flow(), V()))
    for sampler in (
        DDIM(5, clip=True),
        DDIM(5, clip=False, eta=1.0),
        Heun(5, clip=False),
        DPMpp2M(5, clip=False),
        UniPC(5, clip=False),
    ):
        with pytest.raises(ConfigError, match="is to hold"):
            sampler.check(held)
        sampler.check(CFGZero(3.0).applied(exact_denoiser(Mixture, Cosine(), V())))
    DDIM(5, clip=False).check(held)
    with pytest.raises(ConfigError, match="to stand still"):
        CFGZero(3.0, rescale=0.7, still=0.04)
    with pytest.raises(ConfigError, match=r"add guidance\.interval=\[0,1\]"):
        CFGZero(3.0, (0.2, 0.8), still=0.04)


def test_cfg_zero_overshoots_less_than_guidance():
    offsets = [(sampled(kind(5.0)).mean(0) - POINT).norm() for kind in (Guidance, CFGZero)]
    assert offsets[1] < offsets[0] / 2


def test_cfg_zero_ends_at_what_is_asked_for():
    nearest = torch.cdist(sampled(CFGZero(3.0)), Mixture.points).argmin(1)
    assert (nearest == LABEL).all()


@pytest.mark.parametrize("schedule", [Flow, Cosine])
def test_cfg_pp_goes_on_with_the_unconditional_noise(schedule):
    denoiser, x_t, _, y, cond, uncond = pair(0.6, schedule)
    guided = CFGPlusPlus(0.3).applied(denoiser)
    times = torch.tensor([0.6, 0.5], dtype=torch.float64)
    alpha, sigma = denoiser.schedule.alpha(times[1]), denoiser.schedule.sigma(times[1])
    expected = alpha * (uncond.x + 0.3 * (cond.x - uncond.x)) + sigma * uncond.eps
    torch.testing.assert_close(DDIM(10, clip=False)(guided, x_t, y, times=times), expected)


def test_cfg_pp_overshoots_too_at_a_large_scale():
    """Its promise, to stay on the data's manifold, doesn't hold on this mixture for all of its scales."""
    offsets = [
        (sampled(guidance).mean(0) - POINT).norm()
        for guidance in (CFGPlusPlus(0.4), Guidance(5.0), CFGPlusPlus(0.8))
    ]
    assert offsets == sorted(offsets)


def test_cfg_pp_is_guidance_whose_scale_depends_on_the_step():
    """Worked out from both formulas: more steps are a larger scale, at the same lambda."""
    denoiser, x_t, _, y, *_ = pair()
    times = DDIM(10, clip=False).times(denoiser.schedule)
    for t, s in pairwise(times[:-1]):
        schedule = denoiser.schedule
        per_x = schedule.alpha(s) - schedule.sigma(s) * schedule.alpha(t) / schedule.sigma(t)
        scale = float(0.4 * schedule.alpha(s) / per_x)
        steps = [
            DDIM(10, clip=False)(guidance.applied(denoiser), x_t, y, times=torch.stack([t, s]))
            for guidance in (CFGPlusPlus(0.4), Guidance(scale))
        ]
        torch.testing.assert_close(*steps)


@pytest.mark.parametrize("guidance", [CFGPlusPlus(0.5), CFGZero(2.0, still=0.04)])
def test_inversion_and_restoration_refuse_what_they_would_do_otherwise(guidance):
    guided = Labelled(guidance.applied(exact_denoiser(Mixture, Flow(), V())), torch.tensor([LABEL]))
    with pytest.raises(ConfigError, match="edit invert needs estimates of x and eps that meet"):
        inverted(guided, noise(), DDIM(5, clip=False).times(guided.schedule))
    with pytest.raises(ConfigError, match="edit restore needs estimates of x and eps that meet"):
        Restored(guided, lambda x: x, noise(), noise=0.1)


def test_inversion_and_restoration_refuse_guidance_that_remembers():
    """Up and down the path it would remember something else, and not come back."""
    guided = Labelled(APG(2.0).applied(exact_denoiser(Mixture, Flow(), V())), torch.tensor([LABEL]))
    with pytest.raises(ConfigError, match=r"edit invert needs .* choose guidance=apg guidance\.momentum=0"):
        inverted(guided, noise(), DDIM(5, clip=False).times(guided.schedule))
    with pytest.raises(ConfigError, match=r"edit restore needs .* choose guidance=apg guidance\.momentum=0"):
        Restored(guided, lambda x: x, noise(), noise=0.1)


def test_without_momentum_a_guided_image_comes_back():
    guidance = APG(2.0, momentum=0.0)
    guided = Labelled(guidance.applied(exact_denoiser(Mixture, Flow(), V())), torch.tensor([LABEL]))
    heun = Heun(100, clip=False)
    x = heun(guided, noise())
    found = inverted(guided, x, heun.times(guided.schedule))
    torch.testing.assert_close(heun(guided, found), x, atol=2e-3, rtol=0)


class OnOneDevice(nn.Module):
    """A network that asks for all that it is given on one device."""

    num_classes = 3

    def forward(self, x_t, time_input, y=None):
        assert x_t.device == time_input.device == y.device
        return x_t / 2


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(2.0),
        Guidance(2.0, (0.2, 0.8), rescale=0.5),
        APG(2.0),
        CFGZero(2.0, still=0.3),
        CFGPlusPlus(0.5),
        AutoGuidance(2.0),
    ],
)
def test_images_may_be_on_another_device_than_times(guidance):
    """As on a GPU; the device meta computes nothing but shapes, and mixes with no other."""
    denoiser, worse = (NetworkDenoiser(OnOneDevice(), Flow(), V()) for _ in range(2))
    start, y = torch.empty(4, 1, 8, 8, device="meta"), torch.empty(4, dtype=torch.long, device="meta")
    assert DDIM(10, clip=False)(guidance.applied(denoiser, worse), start, y).device.type == "meta"


def test_a_model_that_knows_no_null_label_is_not_guided_by_it():
    for guidance in (Guidance(0.0), Guidance(2.0), CFGPlusPlus(1.0), CFGZero(1.0, still=0.04)):
        with pytest.raises(
            ConfigError, match=r"label_dropout is 0, .* choose guidance=cfg guidance\.scale=1"
        ):
            guidance.check_dropout(0.0)
        guidance.check_dropout(0.1)
    Guidance(1.0).check_dropout(0.0)
    CFGZero(1.0).check_dropout(0.0)
    AutoGuidance(2.0).check_dropout(0.0)


@pytest.mark.parametrize("sampler", [DDIM(5, clip=True), DPMpp2M(5, clip=False)])
def test_cfg_pp_is_refused_by_samplers_that_take_x_and_eps_to_meet(sampler):
    guided = CFGPlusPlus(0.5).applied(exact_denoiser(Mixture, Flow(), V()))
    with pytest.raises(ConfigError, match=r"doesn't give: choose sampler=ddim sampler\.clip=false"):
        sampler.check(guided)
    DDIM(5, clip=False).check(guided)


def test_autoguidance_needs_no_label_and_narrows_what_the_worse_model_blurs():
    denoiser, x_t, t, *_ = pair()
    worse = exact_denoiser(Blurred, Flow(), V())
    good, bad = denoiser(x_t, t), worse(x_t, t)
    guided = AutoGuidance(2.5).applied(denoiser, worse)
    torch.testing.assert_close(guided(x_t, t).x, bad.x + 2.5 * (good.x - bad.x))
    assert torch.equal(AutoGuidance(1.0).applied(denoiser, worse)(x_t, t).x, good.x)
    assert torch.equal(AutoGuidance(0.0).applied(denoiser, worse)(x_t, t).x, bad.x)
    start = noise(2000)
    plain, narrow = (DDIM(50, clip=False)(d, start).flatten(1) for d in (denoiser, guided))
    distances = [torch.cdist(x, Mixture.points) for x in (plain, narrow)]
    spreads = [distance.amin(1).square().mean().sqrt() for distance in distances]
    assert spreads[1] < 0.8 * spreads[0]
    shares = [distance.argmin(1).bincount(minlength=3) / 2000 for distance in distances]
    assert (shares[1] - shares[0]).abs().max() < 0.02


def test_the_worse_models_path_is_that_of_the_better_one():
    with pytest.raises(ConfigError, match="needs a worse model"):
        AutoGuidance(2.0).applied(exact_denoiser(Mixture, Flow(), V()))


@pytest.mark.parametrize("kind", [APG, CFGZero, AutoGuidance])
@pytest.mark.parametrize("time", [0.1, 0.9])
def test_outside_the_interval_nothing_is_guided(kind, time):
    denoiser, x_t, t, y, cond, _ = pair(time)
    guided = kind(3.0, (0.2, 0.8)).applied(denoiser, exact_denoiser(Blurred, Flow(), V()))
    assert torch.equal(guided(x_t, t, y).x, cond.x)


def test_settings_of_a_run_hold_where_none_are_given():
    own = {"method": "apg", "scale": 3.0, "interval": [0.1, 0.9], "rescale": None, "momentum": -0.2}
    pp = {"method": "cfg_pp", "scale": 0.6, "interval": [0.2, 0.8]}
    none = {"method": None, "scale": None, "interval": None, "rescale": None}
    assert Guidance.from_config(none, own) == APG(3.0, (0.1, 0.9), momentum=-0.2)
    assert Guidance.from_config({**none, "method": "cfg"}, own) == Guidance(3.0, (0.1, 0.9))
    assert Guidance.from_config(none, {"scale": 2.0}) == Guidance(2.0)
    assert Guidance.from_config({**none, "method": "cfg"}, pp) == Guidance()  # another scale
    assert Guidance.from_config({**none, "method": "autoguidance", "scale": 2.0}, own) == AutoGuidance(2.0)
    assert Guidance.from_config(none, {"method": "autoguidance", "bad": "of another machine"}).bad is None
    with pytest.raises(ConfigError, match=r"guidance\.method is"):
        Guidance.from_config(none, {"method": ["apg"]})
    with pytest.raises(ConfigError, match="give its keys, scale, interval, rescale"):
        Guidance.from_config({**none, "momentum": 0.5})


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: APG(parallel=2.0),
        lambda: APG(norm=0.0),
        lambda: APG(momentum=1.0),
        lambda: CFGZero(still=0.9),
        lambda: CFGPlusPlus(1.5),
        lambda: CFGPlusPlus(0.5, rescale=0.5),
    ],
)
def test_mistakes_are_refused(mistake):
    with pytest.raises(ConfigError):
        mistake()
