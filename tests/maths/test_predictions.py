import pytest
import torch

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.predictions import Edm, Eps, V, Velocity, X
from lit_diffusion.schedules import Cosine, Flow, Linear, SingleStep, VarianceExploding

ANY = pytest.mark.parametrize("prediction", [Eps(), X(), V(), Velocity(), Edm(0.7)])
ALL = pytest.mark.parametrize("schedule", [Linear, Cosine, Flow, VarianceExploding])


def path(schedule=Linear, t=(0.001, 0.3, 0.9)):
    x, eps = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    times = schedule().inside(torch.tensor(t, dtype=torch.float64))
    alpha, sigma = schedule().alpha_sigma(times, x)
    return x, eps, alpha, sigma


@ANY
@ALL
def test_the_true_target_gives_back_the_image_and_the_noise(schedule, prediction):
    x, eps, alpha, sigma = path(schedule)
    estimate = prediction.estimate(
        prediction.target(x, eps, alpha, sigma), alpha * x + sigma * eps, alpha, sigma
    )
    torch.testing.assert_close(estimate.x, x)
    torch.testing.assert_close(estimate.eps, eps)


@ANY
@ALL
def test_any_output_keeps_the_estimate_on_the_path(schedule, prediction):
    x, eps, alpha, sigma = path(schedule)
    x_t = alpha * x + sigma * eps
    estimate = prediction.estimate(eps.flip(0), x_t, alpha, sigma)
    torch.testing.assert_close(alpha * estimate.x + sigma * estimate.eps, x_t)


@ANY
@ALL
def test_slope_is_the_derivative_of_the_output_by_x(schedule, prediction):
    x, eps, alpha, sigma = path(schedule)
    x_t = alpha * x + sigma * eps
    x = x.requires_grad_()
    output = prediction.target(x, (x_t - alpha * x) / sigma, alpha, sigma)
    (derivative,) = torch.autograd.grad(output.sum(), x)
    torch.testing.assert_close(derivative, prediction.dx_weight(alpha, sigma).expand_as(x))


def test_v_is_the_published_combination():
    x, eps, alpha, sigma = path()
    torch.testing.assert_close(V().target(x, eps, alpha, sigma), alpha * eps - sigma * x)


@pytest.mark.parametrize("schedule", [Linear, Cosine])
def test_edm_is_minus_v_where_the_variance_is_1(schedule):
    x, eps, alpha, sigma = path(schedule)
    edm = Edm(sigma_data=1.0)
    torch.testing.assert_close(edm.target(x, eps, alpha, sigma), -V().target(x, eps, alpha, sigma))
    torch.testing.assert_close(edm.shown(x, alpha, sigma), x)


@ALL
def test_edm_is_the_papers_preconditioning(schedule):
    """Table 1, in terms of the noise s beside an image of weight 1."""
    x, eps, alpha, sigma = path(schedule)
    s, s_d, x_t = sigma / alpha, 0.7, alpha * x + sigma * eps
    output = eps.flip(0)
    estimate = Edm(s_d).estimate(output, x_t, alpha, sigma)
    c_skip, c_out = s_d**2 / (s**2 + s_d**2), s * s_d / (s**2 + s_d**2).sqrt()
    torch.testing.assert_close(estimate.x, c_skip * x_t / alpha + c_out * output)
    torch.testing.assert_close(Edm(s_d).shown(x_t, alpha, sigma), x_t / alpha / (s**2 + s_d**2).sqrt())


def test_velocity_is_the_derivative_of_the_flow():
    """The tutorial's target x_1 - x_0, clean minus noise, is its negative: its time runs the other way."""
    clean, noise, *_ = path()
    later, earlier = (Flow().alpha_sigma(torch.tensor(t, dtype=torch.float64), clean) for t in (0.75, 0.25))
    difference = (later[0] - earlier[0]) * clean + (later[1] - earlier[1]) * noise
    torch.testing.assert_close(Velocity().target(clean, noise, *later), difference / 0.5)
    torch.testing.assert_close(-Velocity().target(clean, noise, *later), clean - noise)


class Nothing(torch.nn.Identity):
    num_classes = 0


def test_a_prediction_that_the_schedule_leaves_nothing_of_is_refused():
    pure_noise = SingleStep(alpha_end=0.0, sigma_end=1.0)
    with pytest.raises(ConfigError, match="Eps can't work with schedule SingleStep"):
        NetworkDenoiser(Nothing(), pure_noise, Eps())
    for prediction in (X(), V(), Velocity(), Edm()):
        NetworkDenoiser(Nothing(), pure_noise, prediction)
    for prediction in (Eps(), X(), V(), Velocity(), Edm()):
        NetworkDenoiser(Nothing(), Flow(), prediction)
