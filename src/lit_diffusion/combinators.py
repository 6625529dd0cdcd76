"""Denoisers made of others: anagrams, hybrid images, blends, another schedule, images restored.

Where two are made one, each has its condition, ``Labelled(denoiser, y)``, and the combination takes none. It
is linear in the two estimates of the same x_t, so its x and eps still meet in x_t where theirs do, and every
sampler, schedule and network works with it. Three lines make anagrams of 6 and 9:

    six, nine = (Labelled(guided, torch.tensor([label])) for label in (6, 9))
    both = Anagram(six, nine, "rotate_180")
    x = generate(sampler, both, range(16), (1, 28, 28))
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.tensors import dot, per_image
from lit_diffusion.denoiser import Combinator, Denoiser
from lit_diffusion.predictions import Estimate
from lit_diffusion.schedules import Schedule


class View(NamedTuple):
    """A transformation of images (..., H, W), and its inverse."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


VIEWS = {
    "rotate_180": View(lambda x: x.rot90(2, (-2, -1)), lambda x: x.rot90(2, (-2, -1))),
    "rotate_90": View(lambda x: x.rot90(1, (-2, -1)), lambda x: x.rot90(-1, (-2, -1))),
    "flip_vertical": View(lambda x: x.flip(-2), lambda x: x.flip(-2)),
    "flip_horizontal": View(lambda x: x.flip(-1), lambda x: x.flip(-1)),
}


class Anagram(Combinator):
    """One image that is one thing upright and another under a view (Geng et al. 2024, Visual Anagrams).

    The estimate is the mean of two: that of x_t, and that of the transformed x_t, transformed back.

    Args:
        upright, turned: denoisers with their conditions.
        view: one of ``VIEWS``; rotate_90 turns counterclockwise.

    Raises:
        ConfigError: for another view.
    """

    def __init__(self, upright: Denoiser, turned: Denoiser, view: str):
        super().__init__(upright)
        if view not in VIEWS:
            raise ConfigError(f"edit.view is {view!r}: choose one of {', '.join(VIEWS)}")
        self.turned = turned
        self.view = VIEWS[view]

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        upright, turned = self.denoiser(x_t, t), self.turned(self.view.forward(x_t), t)
        return upright.combined(turned, lambda u, v: (u + self.view.inverse(v)) / 2)


class Hybrid(Combinator):
    """The low frequencies of one thing and the high ones of another (Geng et al. 2024, Factorized Diffusion).

    eps = blur(eps_low) + eps_high - blur(eps_high), and x likewise, with a Gaussian blur.

    Args:
        low, high: denoisers with their conditions.
        kernel_size: pixels of the blur's side, odd.
        sigma: standard deviation of the blur, in pixels.
    """

    def __init__(self, low: Denoiser, high: Denoiser, kernel_size: int, sigma: float):
        super().__init__(low)
        self.high = high
        self.blur = lambda x: gaussian_blur(x, [kernel_size, kernel_size], [sigma, sigma])

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        low, high = self.denoiser(x_t, t), self.high(x_t, t)
        return low.combined(high, lambda a, b: b + self.blur(a - b))


class Blend(Combinator):
    """A weighted mean of two estimates: between two conditions.

    Args:
        first, second: denoisers with their conditions.
        weight: of the second, (B,) in [0, 1], one for each image.
    """

    def __init__(self, first: Denoiser, second: Denoiser, weight: Tensor):
        super().__init__(first)
        self.second = second
        self.weight = weight

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        weight = per_image(self.weight.to(x_t), x_t)
        return self.denoiser(x_t, t).combined(self.second(x_t, t), lambda a, b: a + weight * (b - a))


class Rescheduled(Combinator):
    """A denoiser on the path of another schedule than the one that it was trained on.

    An image under noise is the same whatever its scale: x_t of the new path, scaled, is that of the old one
    at the time with the same signal-to-noise ratio. A chain of steps has only its entries' ratios: between
    and beyond them the nearest one is taken, and x_t scaled to the size that it has there.

    Args:
        denoiser: (x_t, t, y) -> Estimate.
        schedule: the new path.
    """

    def __init__(self, denoiser: Denoiser, schedule: Schedule):
        super().__init__(denoiser)
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        old, t = self.denoiser.schedule, self.schedule.inside(t)
        t_old = old.inside(old.at_log_snr(self.schedule.log_snr(t.double()))).to(t)
        size_old = torch.hypot(*old.alpha_sigma(t_old, x_t))
        size = torch.hypot(*self.schedule.alpha_sigma(t, x_t))
        x, _, var_weight = self.denoiser(size_old / size * x_t, t_old, y)
        return self.from_x(x, x_t, t, var_weight)


class Restored(Combinator):
    """What an image was of which only y = A x + noise is known: moment matching.

    This is MMPS (Rozet et al. 2024, section 4.2). The covariance V of x given x_t is sigma^2 / alpha dx /
    dx_t, by Tweedie's formula. If x given x_t is Gaussian, as it is for Gaussian data and noise that is
    independent of them,

        E[x | x_t, y] = x + V A^T (noise^2 + A V A^T)^-1 (y - A x)

    where the system is solved by conjugate gradients. A step costs an evaluation of the network, and a
    gradient for each iteration and one more.

    Args:
        denoiser: (x_t, t, y) -> Estimate, without a condition on the image; its x and eps meet in x_t.
        observe: A, linear and differentiable, (B, C, H, W) -> (B, ...).
        observed: y, (B, ...), or one for all.
        noise: standard deviation of the observation's noise, above 0.
        iterations: of conjugate gradients.

    Raises:
        ConfigError: the denoiser's estimates define no ODE.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        observe: Callable[[Tensor], Tensor],
        observed: Tensor,
        noise: float,
        iterations: int = 3,
    ):
        super().__init__(denoiser)
        self.check_ode("edit restore")
        self.observe = observe
        self.observed = observed
        self.noise = noise
        self.iterations = iterations

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Estimate:
        alpha, sigma = self.schedule.alpha_sigma(self.schedule.inside(t), x_t)
        with torch.enable_grad():
            z = x_t.detach().requires_grad_()
            x, _, var_weight = self.denoiser(z, t, y)
            seen = self.observe(x)

        def spread(v: Tensor) -> Tensor:
            """Return V A^T v."""
            (gradient,) = torch.autograd.grad(seen, z, v, retain_graph=True)
            return sigma**2 / alpha * gradient

        def gram(v: Tensor) -> Tensor:
            return self.noise**2 * v + self.observe(spread(v))

        missing = self.observed.to(seen) - seen.detach()
        x = x.detach() + spread(conjugate_gradients(gram, missing, self.iterations))
        return self.from_x(x, x_t, t, None if var_weight is None else var_weight.detach())


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Return v with matrix(v) about b, (B, ...), each of the batch by itself (Hestenes and Stiefel 1952)."""
    v, rest = torch.zeros_like(b), b
    direction, size = b, dot(b, b)
    for _ in range(iterations):
        moved = matrix(direction)
        curvature = dot(direction, moved)  # not above 0 where the network's Jacobian is no covariance
        step = torch.where(curvature > 0, size / curvature, 0)
        v, rest = v + step * direction, rest - step * moved
        before, size = size, dot(rest, rest)
        direction = rest + size / before.clamp(min=1e-30) * direction
    return v
