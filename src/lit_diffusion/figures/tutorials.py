"""The figures of the tutorials. Each function returns a matplotlib figure, and its source in a sentence."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lit_diffusion.checkpoint import load_denoiser, read_checkpoint
from lit_diffusion.common.errors import ConfigError, is_number
from lit_diffusion.common.images import to_float
from lit_diffusion.common.loggers import METRICS
from lit_diffusion.common.panels import panels
from lit_diffusion.common.rng import ImageNoise
from lit_diffusion.common.stored import build_data
from lit_diffusion.data.datamodule import ImageDataModule, validation_images
from lit_diffusion.denoiser import Denoiser, NetworkDenoiser
from lit_diffusion.figures.curves import Runs, read_metrics
from lit_diffusion.schedules import Schedule, SingleStep


def noising(
    data: ImageDataModule, schedules: Mapping[str, Schedule], times: Sequence[float], seed: int
) -> tuple[Figure, str]:
    """Draw one image at several times, a row for each schedule, with the same noise everywhere."""
    if not schedules:
        raise ConfigError("schedules is {}: give at least one, such as schedules.cosine")
    check_all("figure.times", times, least=0, most=1)
    x = validation_images(data, 1)
    noise = standard_normal(x, seed)
    t = torch.tensor(times, dtype=torch.float64)
    rows = [schedule.noised(x, noise, t) for schedule in schedules.values()]
    figure = panels(rows, [f"t = {time:g}" for time in times], list(schedules))
    return figure, f"from validation image 0, the same noise (seed {seed}) in every cell"


def schedules(schedules: Mapping[str, Schedule]) -> tuple[Figure, str]:
    """Draw alpha, sigma and log-SNR over t."""
    figure = Figure((9, 3), layout="constrained")
    t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    curves = {"alpha": "alpha", "sigma": "sigma", "log_snr": "log(alpha² / sigma²)"}
    for axes, (name, label) in zip(figure.subplots(1, 3), curves.items(), strict=True):
        for schedule_name, schedule in schedules.items():
            axes.plot(t, getattr(schedule, name)(t), label=schedule_name)
        axes.set(xlabel="t", title=label)
    axes.legend()
    return figure, f"from the formulas of {', '.join(schedules)}"


def noise_levels(data: ImageDataModule, sigmas: Sequence[float], n: int, seed: int) -> tuple[Figure, str]:
    """Draw images with more and more noise, a row for each; sigma is for images in [0, 1]."""
    check_all("figure.sigmas", sigmas, least=0, most=1e6)
    x = validation_images(data, n)
    noise = standard_normal(x, seed)
    noisy = torch.stack([x + 2 * sigma * noise for sigma in sigmas], dim=1)  # our images span 2
    figure = panels(list(noisy), [f"sigma = {sigma:g}" for sigma in sigmas])
    return figure, f"from validation images 0 to {n - 1}, noise of seed {seed}"


def out_of_distribution(
    ckpt: str | None,
    trust: Sequence[str],
    root: str,
    sigmas: Sequence[float],
    n: int,
    n_mean: int,
    seed: int,
) -> tuple[Figure, str]:
    """Draw a single-step denoiser's estimates at noise levels that it was and wasn't trained on."""
    check_all("figure.sigmas", sigmas, least=0, most=1e6)
    denoiser, data = load_single_step(ckpt, trust, root, pure_noise=False)
    x = validation_images(data, max(n, n_mean))
    noise = standard_normal(x, seed)
    noisy = [x + 2 * sigma * noise for sigma in sigmas]  # sigma is for images in [0, 1], ours span 2
    clean = [denoise(denoiser, z) for z in noisy]
    rows = [row for k in range(n) for row in (rows_of(noisy, k), rows_of(clean, k))]
    errors = [float((c - x).square().mean()) / 4 for c in clean]
    columns = [f"sigma = {s:g}\nMSE {e:.3f}" for s, e in zip(sigmas, errors, strict=True)]
    figure = panels(rows, columns, ["noisy", "denoised"] * n)
    return figure, f"from {ckpt}; MSE, of images in [0, 1], is the mean over {len(x)} validation images"


def pure_noise(
    ckpt: str | None, trust: Sequence[str], root: str, n: int, n_mean: int, seed: int
) -> tuple[Figure, str]:
    """Draw a single-step denoiser's estimates of noise alone, and the mean of its training images."""
    denoiser, data = load_single_step(ckpt, trust, root, pure_noise=True)
    data.prepare_data()
    data.setup("fit")
    train = to_float(data.train_set.images)
    mean = train.mean(0, keepdim=True)
    sigma = denoiser.schedule.sigma(torch.ones(()))
    noise = sigma * ImageNoise(seed, range(max(n, n_mean)), mean.shape[1:])()
    outputs = denoise(denoiser, noise)
    distance = [float((to - mean).square().mean((1, 2, 3)).sqrt().mean() / 2) for to in (outputs, train)]
    rows = [[*noise[:n], None], [*outputs[:n], mean[0]]]
    columns = [*[f"noise {k}" for k in range(n)], "mean of the\ntraining images"]
    figure = panels(rows, columns, ["noise", "denoised"])
    return figure, (
        f"from {ckpt}; root mean square distance, of images in [0, 1], to the mean training image: "
        f"{distance[0]:.4f} on average over {len(outputs)} outputs, {distance[1]:.4f} over training images"
    )


def progress(run: Runs) -> tuple[Figure, str]:
    """Draw the grids of a run from the first to the last: side by side, wide ones one below the other."""
    if not isinstance(run, str):
        raise ConfigError(f"run is {run}: this figure shows one run, run=DIR, a folder under outputs/train/")
    paths = sorted(p for p in Path(run, "samples").glob("*.png") if not p.name.startswith("trajectory"))
    if not paths:
        raise ConfigError(f"{run}/samples has no pictures: give run=DIR, the folder of a run that drew some")
    metrics = read_metrics(run) if Path(run, METRICS).is_file() else []
    epochs = {int(row["step"]) + 1: int(row["epoch"]) + 1 for row in metrics if row.get("val/loss")}
    pictures = [Image.open(path) for path in paths]
    height = 4 * pictures[0].height / pictures[0].width + 0.4
    stacked = height < 2
    figure = Figure((4, height * len(paths)) if stacked else (4 * len(paths), height), layout="constrained")
    cells = figure.subplots(*(len(paths), 1) if stacked else (1, len(paths)), squeeze=False).flat
    for axes, path, picture in zip(cells, paths, pictures, strict=True):
        step = int(path.stem.rpartition("_")[2])
        axes.imshow(picture, cmap="gray")
        axes.set_title(f"epoch {epochs[step]}" if step in epochs else f"step {step}")
        axes.axis("off")
    return figure, f"from {', '.join(map(str, paths))}"


def check_all(name: str, values: Sequence[float], least: float, most: float) -> None:
    """Raise ConfigError unless there are values, each a finite number in its range."""
    if not values or not all(is_number(value) and least <= value <= most for value in values):
        raise ConfigError(f"{name} is {list(values)}: give numbers from {least:g} to {most:g}")


def load_single_step(
    ckpt: str | None, trust: Sequence[str], root: str, pure_noise: bool
) -> tuple[NetworkDenoiser, ImageDataModule]:
    """Load the single-step denoiser of a checkpoint, and the data that it was trained on, from ``root``."""
    experiment = "denoise_pure_noise" if pure_noise else "denoise_sigma05"
    if ckpt is None:
        raise ConfigError(f"this figure shows a trained denoiser: give ckpt=PATH, of experiment={experiment}")
    contents = read_checkpoint(ckpt)
    denoiser = load_denoiser(contents, trust)
    schedule = denoiser.schedule
    if not isinstance(schedule, SingleStep) or pure_noise != (schedule.alpha_end == 0):
        raise ConfigError(
            f"ckpt {ckpt} was trained with schedule {contents['hyper_parameters']['schedule']}, but this "
            f"figure shows a denoiser such as experiment={experiment} trains"
        )
    return denoiser, build_data(contents["hyper_parameters"], root, trust)


@torch.no_grad()
def denoise(denoiser: Denoiser, x_t: Tensor) -> Tensor:
    """Return the estimate of x at t = 1, whatever the level of the noise really is."""
    return torch.cat([denoiser(part, torch.ones(len(part))).x for part in x_t.split(100)])


def standard_normal(x: Tensor, seed: int) -> Tensor:
    """Return noise like images x; image k's is a function of (seed, k)."""
    return ImageNoise(seed, range(len(x)), x.shape[1:])()


def rows_of(images: Sequence[Tensor], k: int) -> Tensor:
    """Return image k of each batch."""
    return torch.stack([batch[k] for batch in images])
