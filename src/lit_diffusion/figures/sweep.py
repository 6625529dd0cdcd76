"""The figure of a sweep: what its jobs returned, over the values that they were given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.multirun import COMMAND, Command, read_jobs
from lit_diffusion.figures.curves import Plain

Value = float | str
LOG_FROM = 30  # a ratio of the largest to the smallest value from which an axis is logarithmic


@dataclass(frozen=True)
class Point:
    """A job that ended well: the values of the keys that were swept, and what it returned."""

    values: dict[str, Value]
    score: float


def sweep(run: str | None) -> tuple[Figure, str]:
    """Draw what the jobs of a multirun returned, over the values that were swept.

    One key gives a curve, two a heat map, more parallel coordinates.

    Args:
        run: the folder of the multirun.

    Raises:
        ConfigError: it is none, or no job of it returned a number.
    """
    if not isinstance(run, str) or not Path(run, COMMAND).is_file():
        raise ConfigError(f"run is {run}: give run=DIR, the folder of a multirun, outputs/multirun/...")
    command = Command.read(Path(run))
    jobs = read_jobs(Path(run)).values()
    points = [
        Point(values_of(command.varied(job.overrides)), job.value) for job in jobs if job.value is not None
    ]
    if not points:
        raise ConfigError(f"run is {run}, where no job has returned a number: choose another multirun")
    keys = sorted({key for point in points for key in point.values})
    if not keys:
        raise ConfigError(f"run is {run}, whose jobs don't differ: choose another multirun")
    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    draw = (draw_curve, draw_map)[len(keys) - 1] if len(keys) < 3 else draw_coordinates
    draw(axes, keys, points, command.metric or "value")
    return figure, f"{len(points)} of {len(jobs)} jobs of {run}"


def values_of(overrides: Sequence[str]) -> dict[str, Value]:
    """Return the values of overrides by their keys, as numbers where they are."""
    values: dict[str, Value] = {}
    for override in overrides:
        key, _, text = override.lstrip("+").partition("=")
        try:
            values[key] = float(text)
        except ValueError:
            values[key] = text
    return values


def draw_curve(axes: Axes, keys: Sequence[str], points: Sequence[Point], metric: str) -> None:
    """Draw the scores over the values of one key; a curve if they are numbers."""
    (key,) = keys
    numbers = is_numeric(key, points)
    ordered = sorted(points, key=lambda point: point.values[key]) if numbers else points
    values, scores = [point.values[key] for point in ordered], [point.score for point in ordered]
    axes.plot(values, scores, ".-" if numbers else ".")
    axes.set(xlabel=key, ylabel=metric)
    if numbers and is_wide([float(point.values[key]) for point in points]):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(Plain())


def draw_map(axes: Axes, keys: Sequence[str], points: Sequence[Point], metric: str) -> None:
    """Draw the scores as colours over the values of two keys, each written where it stands."""
    columns, rows = (ordered_values(key, points) for key in keys)
    places = {(p.values.get(keys[0]), p.values.get(keys[1])): p.score for p in points}
    scores = [[places.get((column, row), float("nan")) for column in columns] for row in rows]
    image = axes.imshow(scores, cmap="viridis", aspect="auto")
    if len(columns) * len(rows) <= 100:
        for (column, row), score in places.items():
            place = columns.index(column), rows.index(row)
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
            axes.text(*place, f"{score:.4g}", ha="center", va="center", fontsize=8, bbox=box)
    axes.set(xlabel=keys[0], ylabel=keys[1])
    axes.set_xticks(range(len(columns)), map(in_short, columns))
    axes.set_yticks(range(len(rows)), map(in_short, rows))
    axes.figure.colorbar(image, ax=axes, label=metric)


def draw_coordinates(axes: Axes, keys: Sequence[str], points: Sequence[Point], metric: str) -> None:
    """Draw each job as a line across a vertical axis for each key, and one for the score, its colour."""
    scores = [point.score for point in points]
    norm = Normalize(min(scores), max(scores))
    colours = axes.scatter([], [], c=[], cmap="viridis", norm=norm)
    for point in sorted(points, key=lambda point: -point.score):  # the lowest on top
        heights = [height_of(point.values.get(key), ordered_values(key, points)) for key in keys]
        colour = colours.cmap(norm(point.score))
        axes.plot(range(len(keys) + 1), [*heights, norm(point.score)], color=colour, alpha=0.8)
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
    for place, key in enumerate(keys):
        axes.axvline(place, color="lightgray", zorder=0)
        values = ordered_values(key, points)
        for value in values:
            axes.text(place, height_of(value, values), in_short(value), ha="center", fontsize=8, bbox=box)
    axes.set_xticks(range(len(keys) + 1), [*keys, metric])
    axes.set_yticks([])
    axes.figure.colorbar(colours, ax=axes, label=metric)


def height_of(value: Value | None, values: Sequence[Value | None]) -> float:
    """Return where a value stands from 0 to 1 on an axis of these values."""
    return values.index(value) / (len(values) - 1) if len(values) > 1 else 0.5


def ordered_values(key: str, points: Sequence[Point]) -> list[Value | None]:
    """Return the values that a key has, numbers in their order, texts as they come."""
    values = list(dict.fromkeys(point.values.get(key) for point in points))
    return sorted(values, key=float) if is_numeric(key, points) else values  # type: ignore[arg-type]


def is_numeric(key: str, points: Sequence[Point]) -> bool:
    """Return whether all values of a key are numbers."""
    return all(isinstance(point.values.get(key), float) for point in points)


def is_wide(values: Sequence[float]) -> bool:
    """Return whether positive numbers span so much that a logarithmic axis shows them better."""
    return min(values) > 0 and max(values) / min(values) >= LOG_FROM


def in_short(value: Value | None) -> str:
    """Return a value as a label."""
    return f"{value:g}" if isinstance(value, float) else "" if value is None else value
