import pytest
import torch

from lit_diffusion.predictions import Eps, V, X
from lit_diffusion.schedules import Cosine, Linear

ANY = pytest.mark.parametrize("prediction", [Eps(), X(), V()])


def path(schedule=Linear, t=(0.001, 0.3, 0.9)):
    x, eps = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    alpha, sigma = schedule().alpha_sigma(torch.tensor(t, dtype=torch.float64), x)
    return x, eps, alpha, sigma


@ANY
def test_the_true_target_gives_back_the_image_and_the_noise(prediction):
    x, eps, alpha, sigma = path()
    estimate = prediction.estimate(
        prediction.target(x, eps, alpha, sigma), alpha * x + sigma * eps, alpha, sigma
    )
    torch.testing.assert_close(estimate.x, x)
    torch.testing.assert_close(estimate.eps, eps)


@ANY
def test_any_output_keeps_the_estimate_on_the_path(prediction):
    x, eps, alpha, sigma = path(Cosine)
    x_t = alpha * x + sigma * eps
    estimate = prediction.estimate(eps.flip(0), x_t, alpha, sigma)
    torch.testing.assert_close(alpha * estimate.x + sigma * estimate.eps, x_t)


@ANY
def test_slope_is_the_derivative_of_the_output_by_x(prediction):
    x, eps, alpha, sigma = path()
    x_t = alpha * x + sigma * eps
    x = x.requires_grad_()
    output = prediction.target(x, (x_t - alpha * x) / sigma, alpha, sigma)
    (derivative,) = torch.autograd.grad(output.sum(), x)
    torch.testing.assert_close(derivative, prediction.slope(alpha, sigma).expand_as(x))


def test_v_is_the_published_combination():
    x, eps, alpha, sigma = path()
    torch.testing.assert_close(V().target(x, eps, alpha, sigma), alpha * eps - sigma * x)
