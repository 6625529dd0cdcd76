"""Networks that are exactly right, because the data's distribution is known."""

import torch
from torch import nn

from lit_diffusion.denoiser import NetworkDenoiser
from lit_diffusion.schedules import DiscreteSchedule


class ExactNetwork(nn.Module):
    """Puts out what a perfect network would, for data whose posterior mean E[x | x_t] is known.

    It is told what any network is told, and works out t from it: (i + 1) / T from the published
    index i of a chain, or a thousandth of it in continuous time.
    """

    num_classes = 0

    def __init__(self, schedule, prediction):
        super().__init__()
        self.schedule = schedule
        self.prediction = prediction

    def forward(self, shown, time_input, y=None):
        discrete = isinstance(self.schedule, DiscreteSchedule)
        t = (time_input + 1) / self.schedule.steps if discrete else time_input / 1000
        alpha, sigma = self.schedule.alpha_sigma(t, shown)
        x_t = shown / self.prediction.shown(torch.ones_like(shown), alpha, sigma)
        x = self.posterior_mean(x_t, alpha, sigma, y)
        return self.prediction.target(x, (x_t - alpha * x) / sigma, alpha, sigma)


class Gaussian(ExactNetwork):
    """Data N(mu, std^2), each pixel by itself."""

    mu, std = 0.3, 0.5

    def posterior_mean(self, x_t, alpha, sigma, y):
        variance = (alpha * self.std) ** 2 + sigma**2
        return self.mu + alpha * self.std**2 / variance * (x_t - alpha * self.mu)


class Correlated(ExactNetwork):
    """Data N(0, covariance), pixels of an image in a row."""

    def __init__(self, schedule, prediction, covariance):
        super().__init__(schedule, prediction)
        self.covariance = covariance

    def posterior_mean(self, x_t, alpha, sigma, y):
        alpha, sigma = alpha.flatten()[0].double(), sigma.flatten()[0].double()  # one time for all
        noise = sigma**2 * torch.eye(len(self.covariance), dtype=torch.float64)
        gain = alpha * self.covariance @ torch.linalg.inv(alpha**2 * self.covariance + noise)
        return (x_t.flatten(1).double() @ gain.T).reshape(x_t.shape).to(x_t)


class Mixture(ExactNetwork):
    """Gaussians of one std around points of the plane, (B, 2, 1, 1); the label says which point."""

    points = torch.tensor([[-0.8, -0.5], [0.7, -0.6], [0.1, 0.8]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    std = 0.1
    num_classes = 3

    def posterior_mean(self, x_t, alpha, sigma, y):
        flat, alpha, sigma = x_t.flatten(1), alpha.flatten(1), sigma.flatten(1)
        variance = (alpha * self.std) ** 2 + sigma**2
        offsets = flat[:, None] - alpha[:, None] * self.points  # (B, 3, 2)
        means = self.points + (alpha * self.std**2 / variance)[:, None] * offsets
        logits = self.weights.log() - offsets.square().sum(2) / (2 * variance)
        if y is not None:
            other = torch.nn.functional.one_hot(y, self.num_classes + 1)[:, :-1] == 0
            logits = logits.masked_fill(other & (y < self.num_classes)[:, None], -torch.inf)
        return (logits.softmax(1)[:, :, None] * means).sum(1).reshape(x_t.shape)


def exact_denoiser(kind, schedule, prediction) -> NetworkDenoiser:
    return NetworkDenoiser(kind(schedule, prediction), schedule, prediction)


class Images(ExactNetwork):
    """The images of a data set and no others, (N, C, H, W): it samples them, class by class."""

    num_classes = 10

    def __init__(self, schedule, prediction, images, labels):
        super().__init__(schedule, prediction)
        self.images = images
        self.labels = labels

    def posterior_mean(self, x_t, alpha, sigma, y):
        points, flat = self.images.flatten(1), x_t.flatten(1)
        alpha, sigma = alpha.flatten(1), sigma.flatten(1)
        logits = (alpha * (flat @ points.T) - alpha**2 * points.square().sum(1) / 2) / sigma**2
        if y is not None:
            other = (y[:, None] != self.labels) & (y < self.num_classes)[:, None]
            logits = logits.masked_fill(other, -torch.inf)
        return (logits.softmax(1) @ points).reshape(x_t.shape)
