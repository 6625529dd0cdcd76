"""Curves of runs and of studies. Each function returns a matplotlib figure, and its source in a sentence."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.loggers import METRICS, earlier_metrics
from lit_diffusion.study.comparison import STUDY, Comparison

Runs = str | Sequence[str] | None


def loss(run: Runs) -> tuple[Figure, str]:
    """Draw training and validation loss over steps, of one run or several."""
    figure, axes = new_figure()
    folders = listed(run)
    for k, folder in enumerate(folders):
        metrics = read_metrics(folder)
        for name, style in {"train/loss": ".-", "val/loss": "o--"}.items():
            points = [(int(row["step"]), float(row[name])) for row in metrics if row.get(name)]
            if points:
                label = f"{Path(str(folder)).name} {name}"
                axes.plot(*zip(*points, strict=True), style, color=f"C{k}", label=label)
    above_0 = all(np.min(line.get_ydata()) > 0 for line in axes.lines)  # that of weighting=learned may be any
    axes.set(xlabel="step", ylabel="loss", yscale="log" if above_0 else "linear")
    axes.legend()
    return figure, f"from {', '.join(f'{folder}/{METRICS}' for folder in folders)}"


def images_seen(run: Runs) -> tuple[Figure, str]:
    """Draw FID over training images seen, and its floor, of runs with callbacks=evaluation, or of a study."""
    figure, axes = new_figure()
    if isinstance(run, str) and is_study(run):
        runs = runs_of(run)
    else:
        runs = [(Path(str(folder)).name, str(folder)) for folder in listed(run) if folder is not None]
    if not runs:
        raise ConfigError(
            f"run is {run}, where nothing was trained: give run=DIR, a run, or a study that trains"
        )
    floor: dict[str, float] = {}
    for label, folder in runs:
        points = [row for row in read_metrics(folder) if row.get("eval/fid")]
        if not points:
            raise ConfigError(f"{folder}/{METRICS} has no eval/fid: train with callbacks=evaluation")
        seen = [float(row["eval/images_seen"]) for row in points]
        axes.plot(seen, [float(row["eval/fid"]) for row in points], ".-", label=label)
        floor |= {name: float(text) for name, text in points[-1].items() if "floor_fid" in name and text}
    axes.set(xlabel="training images seen", ylabel="FID", xscale="log", yscale="log")
    draw_floor(axes, floor["eval/floor_fid"], floor.get("eval/floor_fid_in_shares"))
    return figure, f"from {', '.join(f'{folder}/{METRICS}' for _, folder in runs)}"


def nfe(run: Runs) -> tuple[Figure, str]:
    """Draw FID over network evaluations per image; choices "NAME_N" of one NAME are joined."""
    result = study_at(run, "nfe")
    if "fid" not in result.scores or not all(result.nfe.values()):
        raise ConfigError(
            f"{run} has no FID or no network evaluations of some choice: see conf/study/nfe.yaml"
        )
    figure, axes = new_figure()
    for name, points in joined(result).items():
        places = sorted((result.nfe[choice], result.choices[choice]["fid"].mean) for _, choice in points)
        axes.plot(*zip(*places, strict=True), ".-", label=name)
    axes.set(xlabel="network evaluations per image", ylabel="FID", xscale="log", yscale="log")
    return finished(figure, axes, result, run)


def ema_length(run: Runs) -> tuple[Figure, str]:
    """Draw FID over the length of the weights' average, with 95 % intervals if there are several seeds.

    Choices "NAME_LENGTH" of one NAME are joined.
    """
    result = study_at(run, "ema_length")
    curves = {name: points for name, points in joined(result).items() if 0 < points[0][0] < 1}
    if not curves or "fid" not in result.scores:
        raise ConfigError(f"{run} has no FID of choices such as ema_0.1: see conf/study/ema_length.yaml")
    figure, axes = new_figure()
    for name, points in curves.items():
        lengths = [length for length, _ in points]
        intervals = [result.choices[choice]["fid"].interval or 0.0 for _, choice in points]
        axes.errorbar(lengths, fids_of(result, points), intervals, fmt=".-", label=name)
    axes.set(xlabel="length of the average, in shares of the training", ylabel="FID")
    axes.set(xscale="log", yscale="log")
    return finished(figure, axes, result, run)


def guidance(run: Runs) -> tuple[Figure, str]:
    """Draw FID over the labels that are read wrong, along the scale.

    Choices "NAME_SCALE" of one NAME are joined. Where none is wrong, a point is drawn as if half a label
    were, and its scale to the left, in a column for each name.
    """
    result = study_at(run, "methods")
    if not {"fid", "class_accuracy"} <= {*result.scores}:
        raise ConfigError(f"{run} has no FID or no class accuracy: see conf/study/methods.yaml")
    figure, axes = new_figure()
    least = 0.5 / (result.n * len(result.seeds))
    column = 0.0  # of the scales, in points from where none is wrong
    for name, points in joined(result).items():
        wrong = [max(1 - result.choices[choice]["class_accuracy"].mean, least) for _, choice in points]
        (line,) = axes.plot(wrong, fids_of(result, points), ".-", label=name)
        if points[0][0]:  # a choice with a scale
            column -= 15
            write_scales(axes, line, [scale for scale, _ in points], least, column)
    axes.set(xlabel="labels read wrong", ylabel="FID", xscale="log", yscale="log", xlim=(least / 30, 1))
    drawn = finished(figure, axes, result, run)
    shares = [share for share in (0.001, 0.01, 0.1, 1) if share > least]
    axes.set_xticks([least, *shares], ["none", *[f"{share * 100:g} %" for share in shares]])
    axes.set_xticks([], minor=True)
    return drawn


def write_scales(axes: Axes, line: Line2D, scales: Sequence[float], least: float, column: float) -> None:
    """Write a curve's scales beside its points, or in a column where x is the least."""
    for scale, (x, y) in zip(scales, np.asarray(line.get_xydata()), strict=True):
        place = (column, -3.0) if x == least else (4.0, 2.0)
        axes.annotate(
            f"{scale:g}", (x, y), place, textcoords="offset points", fontsize=7, color=line.get_color()
        )


def joined(result: Comparison) -> dict[str, list[tuple[float, str]]]:
    """Return a study's choices "NAME_NUMBER" under each NAME, in the numbers' order; 0 for one without."""
    curves: dict[str, list[tuple[float, str]]] = {}
    for choice in result.choices:
        found = re.fullmatch(r"(.+)_(\d+(?:\.\d+)?)", choice)
        name, number = (found[1], float(found[2])) if found else (choice, 0.0)
        curves.setdefault(name, []).append((number, choice))
    return {name: sorted(points) for name, points in curves.items()}


def fids_of(result: Comparison, points: Sequence[tuple[float, str]]) -> list[float]:
    """Return the choices' FID, in the mean of the seeds."""
    return [result.choices[choice]["fid"].mean for _, choice in points]


def new_figure() -> tuple[Figure, Axes]:
    """Return a figure of curves, and its axes."""
    figure = Figure((7, 4), layout="constrained")
    return figure, figure.subplots()


def finished(figure: Figure, axes: Axes, result: Comparison, run: Runs) -> tuple[Figure, str]:
    """Draw a study's floor of FID; return the figure, and its source."""
    draw_floor(axes, result.floor["fid"], result.floor.get("fid_in_shares"))
    return figure, f"from {run}/{STUDY}, n = {result.n:,}"


def study_at(run: Runs, name: str) -> Comparison:
    """Return what a finished study found; ConfigError, which names one that would do, if there is none."""
    if not isinstance(run, str) or not is_study(run):
        raise ConfigError(
            f"run is {run}: give run=DIR, the folder of a finished study, study={name} for example"
        )
    return Comparison.read(run)


class Plain(LogFormatter):
    """Writes 20 on a logarithmic axis, not 2 x 10^1."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:,.10g}" if super().__call__(x, pos) else ""


def draw_floor(axes: Axes, fid: float, fid_in_shares: float | None) -> None:
    """Draw the floors of FID, and the legend; write plain numbers on the axes."""
    axes.axhline(fid, color="gray", linestyle=":", label="floor")
    if fid_in_shares is not None:
        axes.axhline(fid_in_shares, color="lightgray", linestyle=":", label="floor, classes in exact shares")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(Plain())
        axis.set_minor_formatter(Plain(minor_thresholds=(1, 0.4)))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # where no curve is


def listed(run: Runs) -> Sequence[str | None]:
    """Return the runs as a list; ConfigError for an empty one."""
    if not run:
        raise ConfigError(
            f"run is {run}: this figure shows a run; give run=DIR, a folder under outputs/train/"
        )
    return run if isinstance(run, Sequence) and not isinstance(run, str) else [run]


def is_study(run: str) -> bool:
    """Return whether it is the folder of a finished study."""
    return Path(run, STUDY).is_file()


def runs_of(study: str) -> list[tuple[str, str]]:
    """Return a study's runs, as (name of the choice, folder)."""
    result = Comparison.read(study)
    several = len(result.seeds) > 1
    return [
        (f"{choice}, seed {seed}" if several else choice, f"{study}/runs/{name}")
        for choice, names in result.runs.items()
        for seed, name in zip(result.seeds, names, strict=True)
    ]


def read_metrics(run: str | None) -> list[dict[str, str]]:
    """Return the rows of a run's metrics.csv, and of those before it was resumed in the same folder."""
    if not isinstance(run, str):
        raise ConfigError(
            f"run is {run}: this figure shows a run; give run=DIR, a folder under outputs/train/"
        )
    path = Path(run, METRICS)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: give the folder of a run that logged with logger=csv")
    rows: list[dict[str, str]] = []
    try:
        for part in (*earlier_metrics(path), path):
            with part.open(newline="") as file:
                later = [row for row in csv.DictReader(file) if is_whole(row)]
            rows = continued(rows, later)
    except (ValueError, KeyError, csv.Error) as error:
        raise ConfigError(f"{path} is no file of metrics ({error!r}): choose another run") from None
    return rows


def is_whole(row: dict[str, str]) -> bool:
    """Return whether a row has a step and numbers, as the last one of a run that was killed may not."""
    try:
        numbers = [float(text) for text in row.values() if text]
        return row["step"].isdecimal() and len(numbers) > 1
    except (AttributeError, TypeError, ValueError):
        return False


def continued(rows: list[dict[str, str]], later: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows of a run and of what went on from it, less those that were logged again."""
    start = int(later[0]["step"]) if later else math.inf
    return [row for row in rows if int(row["step"]) < start] + later
