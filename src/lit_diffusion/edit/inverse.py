"""From images back to noise, and from what is left of images back to images."""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from lit_diffusion.combinators import Restored
from lit_diffusion.common.errors import ConfigError, check_number, check_whole_number
from lit_diffusion.common.log import log
from lit_diffusion.common.panels import panels
from lit_diffusion.denoiser import Condition
from lit_diffusion.edit.context import EditContext
from lit_diffusion.edit.edits import check_blur, psnr
from lit_diffusion.edit.masks import find_mask
from lit_diffusion.samplers.inversion import inverted

Degradation = Callable[[Tensor], Tensor]
DEGRADATIONS = ("inpainting", "super_resolution", "blur")


def invert(context: EditContext, y: Condition, other: Condition) -> tuple[Figure, Tensor]:
    """Go from images to their noise, and back: with the same condition, and with another.

    The error of the way back is said, the root of the mean squared difference of pixels in [-1, 1].

    Args:
        context: with the images, and a sampler without fresh noise.
        y: condition of the images.
        other: what to ask for instead.
    """
    if context.sampler.stochastic:
        raise ConfigError(
            f"sampler is {type(context.sampler).__name__} with fresh noise, which leads to other images than "
            "the one that was inverted: choose sampler=heun, or another without"
        )
    x = context.inputs()
    own, another = context.conditioned(y, "edit.y"), context.conditioned(other, "edit.other")
    x_t = inverted(own, x.to(context.device), context.times)
    noise = context.noise(len(x))
    back, edited = (context.sample_from(x_t, denoiser, noise) for denoiser in (own, another))
    errors = (back - x).square().flatten(1).mean(1).sqrt()
    log.info(f"inverted and back: error {errors.mean():.4f}")
    shown = (x_t / context.schedule.sigma(context.times[0])).cpu()
    rows = [list(row) for row in zip(x, shown, back, edited, strict=True)]
    captions = [["", "", f"error {error:.3f}", ""] for error in errors]
    names = ["image", "its noise", f"back, y = {y}", f"y = {other}"]
    return panels(rows, names, [""] * len(x), captions), edited


def restore(
    context: EditContext,
    degradation: str,
    mask: str,
    factor: int,
    kernel_size: int,
    sigma: float,
    noise: float,
    iterations: int,
    n: int,
    y: Condition,
) -> tuple[Figure, Tensor]:
    """Restore an image of which a part is missing, that is small, or blurred.

    The model was trained for none of it: it only knows what images look like.

    Args:
        context: with one input.
        degradation: one of ``DEGRADATIONS``.
        mask: of inpainting: one of ``masks.MASKS``, or the path of a PNG, white where pixels are missing.
        factor: of super-resolution: times fewer rows and columns.
        kernel_size, sigma: of the blur, in pixels.
        noise: standard deviation of the noise on what is left, in [-1, 1].
        iterations: as in ``Restored``.
        n: restored images, each from noise of its own.
        y: condition.
    """
    check_whole_number("edit.n", n, least=1)
    check_whole_number("edit.iterations", iterations, least=1)
    check_number("edit.noise", noise, least=1e-3, most=10)
    context.warn_of_own_noise("edit restore works with the score")
    degrade = degradation_of(context, degradation, mask, factor, kernel_size, sigma)
    x, draw = context.one_input(), context.noise(n)
    left = degrade(x)
    left = left + noise * draw()[:1].cpu().flatten()[: left.numel()].reshape(left.shape)
    denoiser = Restored(context.conditioned(y, "edit.y"), degrade, left.to(context.device), noise, iterations)
    restored = context.sample_from(context.schedule.pure_noise(draw()), denoiser, draw)
    shown = picture_of(left, x, degrade)
    captions = [["", "", *[psnr(image, x) for image in restored.split(1)]]]
    names = ["image", "what is left", *["restored"] * n]
    return panels([torch.cat([x, shown, restored])], names, [""], captions), restored


def picture_of(left: Tensor, x: Tensor, degrade: Degradation) -> Tensor:
    """Return what is left of an image as an image like it, (1, C, H, W): -1 where nothing is."""
    if left.ndim == x.ndim:
        return F.interpolate(left, x.shape[2:])
    places = torch.arange(x[0].numel()).reshape(x.shape)
    shown = torch.full_like(x, -1.0).flatten()
    shown[degrade(places).flatten()] = left.flatten()
    return shown.reshape(x.shape)


def degradation_of(
    context: EditContext, name: str, mask: str, factor: int, kernel_size: int, sigma: float
) -> Degradation:
    """Return a degradation of images (B, C, H, W).

    Raises:
        ConfigError: there is none of this name, or it can't be of these images.
    """
    if name == "inpainting":
        known = ~find_mask(mask, context.shape[1:], context.seed).flatten()
        return lambda x: x.flatten(2)[:, :, known.to(x.device)]
    if name == "blur":
        check_blur(kernel_size, sigma, context.shape)
        return lambda x: gaussian_blur(x, [kernel_size, kernel_size], [sigma, sigma])
    if name == "super_resolution":
        check_whole_number("edit.factor", factor, least=2)
        if any(side % factor for side in context.shape[1:]):
            raise ConfigError(
                f"edit.factor is {factor}, which doesn't divide the images' {context.shape[1]} x "
                f"{context.shape[2]} pixels: choose another"
            )
        return lambda x: F.avg_pool2d(x, factor)
    raise ConfigError(f"edit.degradation is {name!r}: choose one of {', '.join(DEGRADATIONS)}")
