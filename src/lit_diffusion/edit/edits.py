"""The edits of tutorial 2's part A. Each function returns its figure and the edited images."""

import textwrap
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchvision.transforms.functional import gaussian_blur

from lit_diffusion.combinators import VIEWS, Anagram, Blend, Hybrid
from lit_diffusion.common.errors import ConfigError, check_whole_number, is_number
from lit_diffusion.common.log import log
from lit_diffusion.common.panels import panels
from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.common.tensors import per_image
from lit_diffusion.denoiser import Condition
from lit_diffusion.edit.context import EditContext
from lit_diffusion.edit.masks import find_mask
from lit_diffusion.samplers.grids import resampled
from lit_diffusion.samplers.hooks import Inpaint, Trajectory, chain

Column = tuple[str, Tensor]  # of a figure: a name, and images (B, C, H, W) or one for all rows


def one_step(
    context: EditContext, times: float | Sequence[float], kernel_size: int, sigma: float, y: Condition
) -> tuple[Figure, Tensor]:
    """Sections 1.1 to 1.4: noise an image; blur it, estimate it in one step, denoise it step by step.

    Args:
        context: with one input.
        times: of the noise, one row each.
        kernel_size, sigma: of the blur, in pixels.
        y: condition.
    """
    check_blur(kernel_size, sigma, context.shape)
    times = as_list(times)
    if not times or not all(is_number(time) and 0 < time <= 1 for time in times):
        raise ConfigError(f"edit.times is {times}: choose times above 0, up to 1")
    context.warn_of_own_noise("edit one_step adds noise to an image")
    x = context.one_input()
    denoiser = context.conditioned(y, "edit.y")
    eps = context.noise(1)().cpu()
    rows, captions = [], []
    for time in times:
        t = context.schedule.snap(torch.tensor([time, 0], dtype=torch.float64))[0]
        x_t = context.schedule.noised(x, eps, t)
        times_left = torch.cat([t[None], context.times[context.times < t]])
        noise = context.noise(1)
        noise()  # that was eps: the steps draw other noise
        results = [
            gaussian_blur(x_t, [kernel_size, kernel_size], [sigma, sigma]),
            denoiser(x_t.to(context.device), t.expand(1)).x.cpu(),
            context.sample_from(x_t, denoiser, noise, times=times_left),
        ]
        rows.append(torch.cat([x, x_t, *results]))
        captions.append(["", *[psnr(image, x) for image in rows[-1][1:].split(1)]])
    columns = ["image", "noisy", "Gaussian blur", "one step", "step by step"]
    names = [f"t = {time:g}" for time in times]
    return panels(rows, columns, names, captions), torch.cat(rows)


def sdedit(context: EditContext, starts: int | Sequence[int], y: Condition) -> tuple[Figure, Tensor]:
    """Section 1.7: noise images to times of the grid, and sample from there (Meng et al. 2022, SDEdit).

    Args:
        context: with the images.
        starts: indices into the grid; 0 is pure noise, a larger one keeps more of the image.
        y: condition of the sampling.
    """
    x, grid, starts = context.inputs(), context.times, as_list(starts)
    if not starts:
        raise ConfigError("edit.starts is an empty list: choose at least one index into the grid")
    steps = len(grid) - 1
    for start in starts:
        if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start < steps:
            raise ConfigError(
                f"edit.starts is {starts}, but the sampler has {steps} steps: choose whole numbers from 0 to "
                f"{steps - 1}, or more steps"
            )
    context.warn_of_own_noise("edit sdedit adds noise to images")
    denoiser = context.conditioned(y, "edit.y")
    columns = []
    for start in starts:
        noise = context.noise(len(x))
        x_t = context.schedule.noised(x, noise().cpu(), grid[start])
        columns += [x_t, context.sample_from(x_t, denoiser, noise, times=grid[start:])]
    edited = torch.stack(columns[1::2], dim=1)  # (B, starts, C, H, W)
    noised = torch.stack(columns[::2], dim=1)
    rows = [[x[k], *row] for k in range(len(x)) for row in (noised[k], edited[k])]
    names = ["image", *[f"i = {i}\nt = {grid[i]:.2f}" for i in starts]]
    return panels(rows, names, ["noised", "edited"] * len(x)), edited.flatten(0, 1)


def inpaint(
    context: EditContext, mask: str, times_over: int, n: int, steps: int, y: Condition
) -> tuple[Figure, Tensor]:
    """Section 1.7.2: paint a part of an image anew; the other pixels stay exactly as they are.

    Args:
        context: with one input.
        mask: one of ``masks.MASKS``, or the path of a PNG, white where the image is painted anew.
        times_over: how often each step is taken (RePaint); 1: once.
        n: paintings, each from noise of its own.
        steps: estimates shown between noise and image.
        y: condition.
    """
    check_whole_number("edit.times_over", times_over, least=1)
    check_whole_number("edit.n", n, least=1)
    context.warn_of_own_noise("edit inpaint adds noise to the known pixels")
    x = context.one_input()
    where = find_mask(mask, context.shape[1:], context.seed)
    noise, trajectory = context.noise(n), context.trajectory(steps)
    keep = Inpaint(context.schedule, x.to(context.device), where.to(context.device), noise)
    filled = context.sample_from(
        context.schedule.pure_noise(noise()),
        context.conditioned(y, "edit.y"),
        noise,
        times=resampled(context.times, times_over),
        after_step=chain(keep, trajectory),
    )
    known = torch.where(where, torch.zeros_like(x), x)
    return trajectory_panels(trajectory, [("image", x), ("known", known)], [("result", filled)]), filled


def anagram(
    context: EditContext, upright: Condition, turned: Condition, view: str, n: int, steps: int
) -> tuple[Figure, Tensor]:
    """Section 1.8: sample images that are one thing upright and another under a view.

    Args:
        context: inputs aren't used.
        upright, turned: the two conditions.
        view: one of ``VIEWS``.
        n: images.
        steps: estimates shown between noise and image.
    """
    _, height, width = context.shape
    if view == "rotate_90" and height != width:
        raise ConfigError(
            f"edit.view is rotate_90, but the images have {height} x {width} pixels, and others when "
            "they are turned: choose rotate_180 or a flip"
        )
    denoisers = context.conditioned(upright, "edit.upright"), context.conditioned(turned, "edit.turned")
    both = Anagram(*denoisers, view)
    x, trajectory = context.sample(both, n, steps)
    results = [
        (f"upright:\n{condition_text(upright)}", x),
        (f"{view}:\n{condition_text(turned)}", VIEWS[view].forward(x)),
    ]
    return trajectory_panels(trajectory, [], results), x


def hybrid(
    context: EditContext, low: Condition, high: Condition, kernel_size: int, sigma: float, n: int, steps: int
) -> tuple[Figure, Tensor]:
    """Section 1.9: sample images that are one thing from afar and another from near.

    Args:
        context: inputs aren't used.
        low, high: the conditions of low and high frequencies.
        kernel_size, sigma: of the Gaussian blur that parts them, in pixels.
        n: images.
        steps: estimates shown between noise and image.
    """
    check_blur(kernel_size, sigma, context.shape)
    denoisers = context.conditioned(low, "edit.low"), context.conditioned(high, "edit.high")
    both = Hybrid(*denoisers, kernel_size, sigma)
    x, trajectory = context.sample(both, n, steps)
    blurred = both.blur(x)
    results = [
        ("result", x),
        (f"low:\n{condition_text(low)}", blurred),
        (f"high:\n{condition_text(high)}", x - blurred),
    ]
    return trajectory_panels(trajectory, [], results), x


def interpolate(
    context: EditContext, first: Condition, second: Condition, n: int, rows: int
) -> tuple[Figure, Tensor]:
    """Sample between two noises, and between two conditions.

    Two rows for each pair of noises: along the sphere from one noise to the other, under ``first``; and
    from the first noise alone, under first at the left, second at the right, and blends between.

    Args:
        context: inputs aren't used.
        first, second: the conditions.
        n: images in a row.
        rows: pairs of noises.
    """
    check_whole_number("edit.n", n, least=2)
    check_whole_number("edit.rows", rows, least=1)
    if context.sampler.stochastic:
        log.warning("this sampler adds noise, which forgets where it began: sampler=dpmpp_2m doesn't")
    weight = torch.linspace(0, 1, n)
    ends = context.schedule.pure_noise(context.noise(2 * rows)().cpu()).split(1)
    of_first = context.conditioned(first, "edit.first")
    blend = Blend(of_first, context.conditioned(second, "edit.second"), weight)
    images = []
    for a, b in zip(ends[::2], ends[1::2], strict=True):
        starts = [
            (of_first, slerp(a, b, weight)),
            (blend, a.expand(n, *context.shape)),
        ]
        for denoiser, x_t in starts:
            noise = SharedNoise(context.noise(1), n)  # the steps too must not differ but by the weight
            noise()  # that was the start of the first row
            images.append(context.sample_from(x_t, denoiser, noise))
    names = [
        f"noise to noise:\n{condition_text(first)}",
        f"{condition_text(first)} to {condition_text(second)}",
    ] * rows
    return panels(images, [f"{w:.2f}" for w in weight], names), torch.cat(images)


class SharedNoise:
    """The same noise for all of n images.

    Args:
        noise: of one image.
        n: images.
    """

    def __init__(self, noise: ImageNoise, n: int):
        self.noise = noise
        self.n = n

    def __call__(self) -> Tensor:
        return self.noise().expand(self.n, *self.noise.shape)


def trajectory_panels(trajectory: Trajectory, before: Sequence[Column], after: Sequence[Column]) -> Figure:
    """Draw a row for each image: columns before, estimates of x along the trajectory, and columns after."""
    n = len(trajectory.frames[0])
    frames = zip(trajectory.times, trajectory.frames, strict=True)
    estimates = [(f"estimate of x\nt = {t:.2f}", frame[:, 1]) for t, frame in frames]
    names, columns = zip(*before, *estimates, *after, strict=True)
    cells = torch.stack([images.expand(n, *images.shape[1:]) for images in columns], dim=1)
    return panels(list(cells), names)


def check_blur(kernel_size: int, sigma: float, shape: tuple[int, int, int]) -> None:
    """Raise ConfigError unless images of this shape can be blurred with this kernel."""
    odd = isinstance(kernel_size, int) and kernel_size % 2 == 1
    if odd and 0 < kernel_size < 2 * min(shape[1:]) and is_number(sigma) and sigma > 0:
        return
    raise ConfigError(
        f"edit.kernel_size is {kernel_size} and edit.sigma {sigma}: choose an odd number of pixels, less "
        "than twice the image's side, and a positive standard deviation"
    )


def condition_text(condition: Condition) -> str:
    """Return the condition in lines short enough for a column."""
    return "no condition" if condition is None else textwrap.fill(str(condition), 16)


def as_list(value: object) -> list:
    """Return a sequence as a list, and anything else as a list of it."""
    return list(value) if isinstance(value, Sequence) else [value]


def psnr(image: Tensor, x: Tensor) -> str:
    """Return the peak signal-to-noise ratio of an image in [-1, 1], as text."""
    return f"PSNR {peak_signal_noise_ratio(image.clamp(-1, 1), x, data_range=2.0):.1f} dB"


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Interpolate from noise a to noise b along the sphere, which keeps the length (Shoemake 1985).

    Args:
        a, b: noises, (B, C, H, W) or (1, C, H, W).
        weight: of b, (B,) in [0, 1].

    Returns:
        (B, C, H, W).
    """
    weight = weight.to(a)
    cosine = torch.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = cosine.acos().clamp(min=1e-6)
    shares = torch.stack([(1 - weight) * angle, weight * angle]).sin() / angle.sin()
    share_a, share_b = (per_image(share, a) for share in shares)
    return share_a * a + share_b * b
