"""The edits of tutorial 2's part A. Each function returns its figure and the images that it made."""

import textwrap
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchvision.transforms.functional import gaussian_blur

from lit_diffusion.combinators import VIEWS, Anagram, Blend, Hybrid
from lit_diffusion.common.errors import ConfigError, check_whole_number, is_number
from lit_diffusion.common.rng import slerp
from lit_diffusion.edit.context import Asked, Studio
from lit_diffusion.edit.masks import find_mask
from lit_diffusion.figures.tutorials import labelled
from lit_diffusion.samplers.film import Film
from lit_diffusion.samplers.inpainting import Inpaint, resampled

Column = tuple[str, Tensor]  # of a figure: a name, and images (B, C, H, W) or one for all rows


def one_step(
    studio: Studio, times: float | Sequence[float], kernel_size: int, sigma: float, y: Asked
) -> tuple[Figure, Tensor]:
    """Sections 1.1 to 1.4: noise an image; blur it, estimate it in one step, denoise it step by step.

    Args:
        studio: with one input.
        times: of the noise, one row each.
        kernel_size, sigma: of the blur, in pixels.
        y: condition.
    """
    check_blur(kernel_size, sigma, studio.shape)
    times = as_list(times)
    if not times or not all(is_number(time) and 0 < time <= 1 for time in times):
        raise ConfigError(f"edit.times is {times}: choose times above 0, up to 1")
    x = studio.one_input()
    denoiser = studio.asked_for(y)
    eps = studio.noise(1)().cpu()
    rows, captions = [], []
    for time in times:
        t = studio.schedule.visited(torch.tensor([time, 0], dtype=torch.float64))[0]
        x_t = studio.schedule.noised(x, eps, t)
        way = torch.cat([t[None], studio.times[studio.times < t]])
        noise = studio.noise(1)
        noise()  # was eps: the steps' noise is another
        results = [
            gaussian_blur(x_t, [kernel_size, kernel_size], [sigma, sigma]),
            denoiser(x_t.to(studio.device), t.expand(1)).x.cpu(),
            studio.walk(denoiser, x_t, noise, times=way),
        ]
        rows.append(torch.cat([x, x_t, *results]))
        captions.append(["", *[psnr(image, x) for image in rows[-1][1:].split(1)]])
    columns = ["image", "noisy", "Gaussian blur", "one step", "step by step"]
    names = [f"t = {time:g}" for time in times]
    return labelled(rows, columns, names, captions), torch.cat(rows)


def sdedit(studio: Studio, starts: int | Sequence[int], y: Asked) -> tuple[Figure, Tensor]:
    """Section 1.7: noise images as far as times of the grid, and walk back from there (Meng et al. 2022).

    Args:
        studio: with the images.
        starts: indices into the grid; 0 is pure noise, a larger one keeps more of the image.
        y: condition of the walk back.
    """
    x, grid, starts = studio.inputs(), studio.times, as_list(starts)
    if not starts:
        raise ConfigError("edit.starts is an empty list: choose at least one index into the grid")
    for start in starts:
        check_whole_number("edit.starts", start, 0, len(grid) - 2)
    denoiser = studio.asked_for(y)
    columns = []
    for start in starts:
        noise = studio.noise(len(x))
        x_t = studio.schedule.noised(x, noise().cpu(), grid[start])
        columns += [x_t, studio.walk(denoiser, x_t, noise, times=grid[start:])]
    edited = torch.stack(columns[1::2], dim=1)  # (B, starts, C, H, W)
    noised = torch.stack(columns[::2], dim=1)
    rows = [[x[k], *row] for k in range(len(x)) for row in (noised[k], edited[k])]
    names = ["image", *[f"i = {i}\nt = {grid[i]:.2f}" for i in starts]]
    return labelled(rows, names, ["noised", "edited"] * len(x)), edited.flatten(0, 1)


def inpaint(
    studio: Studio, mask: str, times_over: int, n: int, steps: int, y: Asked
) -> tuple[Figure, Tensor]:
    """Section 1.7.2: paint a part of an image anew; the other pixels stay exactly as they are.

    Args:
        studio: with one input.
        mask: one of ``masks.MASKS``, or the path of a PNG, white where the image is painted anew.
        times_over: how often each step is taken (RePaint); 1: once.
        n: paintings, each from noise of its own.
        steps: estimates shown on the way.
        y: condition.
    """
    check_whole_number("edit.times_over", times_over, least=1)
    check_whole_number("edit.n", n, least=1)
    x = studio.one_input()
    where = find_mask(mask, studio.shape[1:], studio.seed)
    noise, film = studio.noise(n), studio.film(steps)
    keep = Inpaint(studio.schedule, x.to(studio.device), where.to(studio.device), noise)
    filled = studio.walk(
        studio.asked_for(y),
        studio.schedule.pure_noise(noise()),
        noise,
        times=resampled(studio.times, times_over),
        after_step=lambda x_s, s, visit: film(keep(x_s, s, visit), s, visit),
    )
    known = torch.where(where, torch.zeros_like(x), x)
    return on_the_way(film, [("image", x), ("known", known)], [("result", filled)]), filled


def anagram(
    studio: Studio, upright: Asked, turned: Asked, view: str, n: int, steps: int
) -> tuple[Figure, Tensor]:
    """Section 1.8: one thing upright, another as the view shows it.

    Args:
        studio: inputs aren't used.
        upright, turned: the two conditions.
        view: one of ``VIEWS``.
        n: images.
        steps: estimates shown on the way.
    """
    both = Anagram(studio.asked_for(upright), studio.asked_for(turned), view)
    x, film = studio.sample(both, n, steps)
    results = [(f"upright:\n{named(upright)}", x), (f"{view}:\n{named(turned)}", VIEWS[view].look(x))]
    return on_the_way(film, [], results), x


def hybrid(
    studio: Studio, low: Asked, high: Asked, kernel_size: int, sigma: float, n: int, steps: int
) -> tuple[Figure, Tensor]:
    """Section 1.9: one thing from afar, another from near.

    Args:
        studio: inputs aren't used.
        low, high: the conditions of low and high frequencies.
        kernel_size, sigma: of the Gaussian blur that parts them, in pixels.
        n: images.
        steps: estimates shown on the way.
    """
    check_blur(kernel_size, sigma, studio.shape)
    both = Hybrid(studio.asked_for(low), studio.asked_for(high), kernel_size, sigma)
    x, film = studio.sample(both, n, steps)
    blurred = both.blur(x)
    results = [("result", x), (f"low:\n{named(low)}", blurred), (f"high:\n{named(high)}", x - blurred)]
    return on_the_way(film, [], results), x


def interpolate(studio: Studio, first: Asked, second: Asked, n: int, rows: int) -> tuple[Figure, Tensor]:
    """Between two noises, and between two conditions.

    Two rows for each pair of noises: along the sphere from one noise to the other, asking for ``first``;
    and from the first noise, asking for first at the left, second at the right, and blends between.

    Args:
        studio: inputs aren't used.
        first, second: the conditions.
        n: images in a row.
        rows: pairs of noises.
    """
    check_whole_number("edit.n", n, least=2)
    check_whole_number("edit.rows", rows, least=1)
    weight = torch.linspace(0, 1, n)
    ends = studio.schedule.pure_noise(studio.noise(2 * rows)().cpu()).split(1)
    blend = Blend(studio.asked_for(first), studio.asked_for(second), weight)
    made = []
    for a, b in zip(ends[::2], ends[1::2], strict=True):
        starts = [(studio.asked_for(first), slerp(a, b, weight)), (blend, a.expand(n, *studio.shape))]
        for denoiser, x_t in starts:
            same = studio.noise(1)  # a stochastic sampler's steps too must not differ but by the weight
            same()  # the start of the first row
            made.append(studio.walk(denoiser, x_t, lambda same=same: same().expand(n, *studio.shape)))
    names = [f"noise to noise:\n{named(first)}", f"{named(first)} to {named(second)}"] * rows
    return labelled(made, [f"{w:.2f}" for w in weight], names), torch.cat(made)


def on_the_way(film: Film, before: Sequence[Column], after: Sequence[Column]) -> Figure:
    """A row for each image: what there was before, estimates of x on the way, and what came of it."""
    n = len(film.frames[0])
    way = [
        (f"estimate of x\nt = {t:.2f}", frame[:, 1]) for t, frame in zip(film.times, film.frames, strict=True)
    ]
    names, columns = zip(*before, *way, *after, strict=True)
    cells = torch.stack([images.expand(n, *images.shape[1:]) for images in columns], dim=1)
    return labelled(list(cells), names)


def check_blur(kernel_size: int, sigma: float, shape: tuple[int, int, int]) -> None:
    """ConfigError unless images of this shape can be blurred so."""
    odd = isinstance(kernel_size, int) and kernel_size % 2 == 1
    if odd and 0 < kernel_size < 2 * min(shape[1:]) and is_number(sigma) and sigma > 0:
        return
    raise ConfigError(
        f"edit.kernel_size is {kernel_size} and edit.sigma {sigma}: choose an odd number of pixels, less "
        "than twice the image's side, and a positive standard deviation"
    )


def named(asked: Asked) -> str:
    """A condition, in lines short enough for a column."""
    return "nothing asked" if asked is None else textwrap.fill(str(asked), 16)


def as_list(value: object) -> list:
    return list(value) if isinstance(value, Sequence) else [value]


def psnr(image: Tensor, x: Tensor) -> str:
    """Peak signal-to-noise ratio of an image in [-1, 1]."""
    return f"PSNR {peak_signal_noise_ratio(image.clamp(-1, 1), x, data_range=2.0):.1f} dB"
