import math

import pytest
import torch

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.predictions import Edm, Eps, V, Velocity, X
from lit_diffusion.schedules import Cosine, Flow, Linear, VarianceExploding
from lit_diffusion.weightings import (
    P2,
    EdmWeighting,
    Learned,
    MinSNR,
    SigmoidWeighting,
    SoftMinSNR,
    Unweighted,
    VelocityWeighting,
)

SNR = torch.tensor([1e-3, 0.2, 1.0, 4.9, 5.1, 1e4], dtype=torch.float64)
WEIGHTINGS = {  # each as its paper writes it, of errors of x or, times SNR, of eps
    "min_snr": (MinSNR(5), lambda snr: snr.clamp(max=5)),
    "soft_min_snr": (SoftMinSNR(4), lambda snr: 4 * snr / (4 + snr)),
    "p2": (P2(0.5, 2), lambda snr: snr / (2 + snr) ** 0.5),
    "sigmoid": (SigmoidWeighting(2), lambda snr: snr / (1 + snr * math.exp(-2))),
    "velocity": (VelocityWeighting(), lambda snr: (snr.sqrt() + 1) ** 2),
    "edm": (EdmWeighting(0.5), lambda snr: (1 / snr + 0.25) / (1 / snr * 0.25)),
}


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_papers_formula(name):
    weighting, formula = WEIGHTINGS[name]
    torch.testing.assert_close(weighting.on_x(SNR.log()), formula(SNR))


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("schedule", [Linear, Cosine, Flow, VarianceExploding])
def test_a_weighted_error_is_the_same_whatever_the_network_puts_out(schedule, name):
    weighting, _ = WEIGHTINGS[name]
    generator = torch.manual_seed(0)
    x, eps, wrong = torch.randn(3, 5, 1, 2, 2, dtype=torch.float64, generator=generator)
    t = torch.tensor([0.3, 0.45, 0.6, 0.8, 0.9], dtype=torch.float64)
    schedule = schedule()
    alpha, sigma = schedule.alpha_sigma(t, x)
    x_t = alpha * x + sigma * eps
    losses = []
    for prediction in (X(), Eps(), V(), Velocity(), Edm(0.7)):
        told = prediction.target(x + wrong, (x_t - alpha * (x + wrong)) / sigma, alpha, sigma)
        error = (told - prediction.target(x, eps, alpha, sigma)).square().flatten(1).mean(1)
        losses.append(weighting(error, schedule.log_snr(t), prediction.dx_weight(alpha, sigma).flatten()))
    expected = wrong.square().flatten(1).mean(1) * weighting.on_x(schedule.log_snr(t))
    for loss in losses:
        torch.testing.assert_close(loss, expected)


def test_sigmoid_and_p2_are_soft_min_snr():
    sigmoid, p2 = SigmoidWeighting(2), P2(gamma=1, k=3)
    torch.testing.assert_close(sigmoid.on_x(SNR.log()), SoftMinSNR(math.exp(2)).on_x(SNR.log()))
    torch.testing.assert_close(p2.on_x(SNR.log()), SoftMinSNR(3).on_x(SNR.log()) / 3)


def test_edm_counts_every_error_of_edms_output_alike():
    t = torch.linspace(0.3, 1, 8, dtype=torch.float64)
    for schedule in (VarianceExploding(), Flow(), Linear()):
        alpha, sigma = schedule.alpha_sigma(schedule.inside(t), t)
        weights = EdmWeighting(0.5).on_x(2 * (alpha / sigma).log()) / Edm(0.5).dx_weight(alpha, sigma) ** 2
        torch.testing.assert_close(weights, torch.ones_like(weights))


def test_velocity_counts_every_error_of_the_velocity_alike():
    t = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    for schedule in (Flow(), Linear()):
        alpha, sigma = schedule.alpha_sigma(t, t)
        weights = VelocityWeighting().on_x(schedule.log_snr(t)) / Velocity().dx_weight(alpha, sigma) ** 2
        torch.testing.assert_close(weights, torch.ones_like(weights))


def test_unweighted_is_the_error_itself():
    assert torch.equal(Unweighted()(SNR, SNR.log(), torch.tensor(3.0)), SNR)


def test_what_is_learned_is_computed_in_full_precision():
    learned, log_snr = Learned(EdmWeighting()), torch.linspace(-9, 9, 50)
    torch.nn.init.normal_(learned.u.weight)
    expected = learned.uncertainty(log_snr)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(learned.uncertainty(log_snr), expected)


def test_what_is_learned_is_the_logarithm_of_the_loss():
    """By hand: the least of L / e^u + u over u is at u = log L, where every noise level counts 1."""
    learned = Learned(MinSNR(5))
    log_snr = torch.tensor([-4.0, 0.0, 3.0])
    loss = torch.tensor([2.0, 0.5, 0.05])
    assert torch.equal(learned(loss, log_snr, torch.ones(())), learned.base(loss, log_snr, torch.ones(())))
    optimizer = torch.optim.LBFGS(learned.parameters(), max_iter=200, tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        total = learned(loss, log_snr, torch.ones(())).sum()
        total.backward()
        return total

    for _ in range(5):
        optimizer.step(closure)
    expected = learned.base(loss, log_snr, torch.ones(())).log()
    torch.testing.assert_close(learned.uncertainty(log_snr), expected, atol=1e-3, rtol=1e-3)
    gradient = learned.base(loss, log_snr, torch.ones(())) / learned.uncertainty(log_snr).exp()
    torch.testing.assert_close(gradient, torch.ones(3), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: MinSNR(0.0),
        lambda: SoftMinSNR(-1.0),
        lambda: P2(gamma=-1.0),
        lambda: P2(k=0.0),
        lambda: SigmoidWeighting(float("inf")),
        lambda: EdmWeighting(0.0),
        lambda: Learned("edm"),
        lambda: Learned(EdmWeighting(), width=65),
        lambda: Learned(EdmWeighting(), width=-2),
    ],
)
def test_mistakes_are_refused(mistake):
    with pytest.raises(ConfigError):
        mistake()


def test_the_weight_of_the_velocity_can_be_capped():
    """At both ends of the flow: by sigma for outputs x, by alpha for eps; that of the velocity stays 1."""
    t = torch.tensor([0.001, 0.2, 0.999])
    alpha, sigma = Flow().alpha(t), Flow().sigma(t)
    for prediction, expected in (
        (X(), [400, 25, 1.002]),
        (Eps(), [1.002, 1.5625, 400]),
        (Velocity(), [1, 1, 1]),
    ):
        dx_weight = prediction.dx_weight(alpha, sigma)
        weights = VelocityWeighting(most=400)(torch.ones(3), Flow().log_snr(t), dx_weight)
        torch.testing.assert_close(weights, torch.tensor(expected, dtype=weights.dtype), atol=1e-3, rtol=1e-3)
    with pytest.raises(ConfigError, match="most is 0"):
        VelocityWeighting(most=0)
