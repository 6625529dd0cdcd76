"""Choices compared over seeds: means, their 95 % intervals, and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table
from torch.distributions import StudentT

from lit_diffusion.evaluate.report import ROWS, in_shares

STUDY = "study.json"  # in a finished study's folder

Values = Mapping[str, Mapping[str, Sequence[float]]]  # choice -> score -> a value for each seed


def compare(values: Values, baseline: str) -> dict[str, dict[str, dict[str, Any]]]:
    """For each choice and score: values, mean and interval, and those of its difference to the baseline.

    The difference is paired: seed by seed, so that what a seed does to both cancels. Intervals are half
    widths, Student's at 95 %; None for a single seed.
    """
    found = {}
    for choice, scores in values.items():
        found[choice] = {}
        for score, of_seeds in scores.items():
            mean, interval = mean_and_interval(of_seeds)
            found[choice][score] = {"values": list(of_seeds), "mean": mean, "interval": interval}
            if choice != baseline:
                pairs = zip(of_seeds, values[baseline][score], strict=True)
                mean, interval = mean_and_interval([a - b for a, b in pairs])
                found[choice][score] |= {"difference": mean, "difference_interval": interval}
    return found


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of some values, and half the width of its 95 % interval."""
    sample = torch.tensor(values, dtype=torch.float64)
    if len(sample) == 1:
        return float(sample), None
    return float(sample.mean()), float(sample.std() / len(sample) ** 0.5 * t_quantile(len(sample) - 1))


def t_quantile(degrees: int) -> float:
    """Where 97.5 % of Student's t distribution lie below."""
    t = torch.linspace(0, 20, 200_001, dtype=torch.float64)
    density = StudentT(torch.tensor(float(degrees), dtype=torch.float64)).log_prob(t).exp()
    below = 0.5 + torch.cumulative_trapezoid(density, t)
    return float(t[1:][below >= 0.975][0])


def table(result: Mapping[str, Any]) -> Table:
    """A row for each choice: each score's mean, and its difference to the baseline."""
    seeds = ", ".join(map(str, result["seeds"]))
    found = Table(title=f"{result['name']}, seeds {seeds}", caption=caption(result), caption_justify="left")
    for heading in headings(result):
        found.add_column(heading, no_wrap=heading == "choice", overflow="fold")
    for row in rows(result):
        found.add_row(*[text.replace(" (", "\n(") for text in row])
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The same for a document."""
    lines = [headings(result), ["---"] * len(headings(result)), *rows(result)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{caption(result)}\n"


def headings(result: Mapping[str, Any]) -> list[str]:
    arrows = {"low": " ↓", "high": " ↑"}
    named = (ROWS[score] for score in result["scores"])
    return ["choice", "NFE", *[f"{name}{arrows.get(better, '')}" for name, better in named]]


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    nfe, floor = result["nfe"], result["floor"]
    made = [
        [choice, "" if nfe[choice] is None else f"{nfe[choice]:g}", *map(cell, scores.values())]
        for choice, scores in result["choices"].items()
    ]
    real = [f"{floor[score]:.4g}" if score in floor else "" for score in result["scores"]]
    return [*made, ["floor", "", *real]]


def cell(score: Mapping[str, Any]) -> str:
    """mean ± interval (difference ± its interval)."""
    text = spread(f"{score['mean']:.4g}", score["interval"])
    if "difference" not in score:
        return text
    difference = spread(short(score["difference"], "+"), score["difference_interval"])
    return f"{text} ({difference})"


def spread(mean: str, interval: float | None) -> str:
    return mean if interval is None else f"{mean} ± {short(interval)}"


def short(x: float, sign: str = "-") -> str:
    """Two digits, but 212 and not 2.1e+02."""
    return f"{x:{sign}.0f}" if abs(x) >= 99.5 else f"{x:{sign}.2g}"


def caption(result: Mapping[str, Any]) -> str:
    """What the numbers are."""
    reference, judge = result["reference"], result["judge"]
    networks = [n for n in (result["features"], result["check"]) if n]
    measured_by = " and ".join(f"{network['name']}, sha256 {network['sha256'][:12]}" for network in networks)
    seeds = ", ".join(map(str, result["seeds"]))
    mean = "mean ± half its 95 % interval" if len(result["seeds"]) > 1 else "one seed, no interval"
    shares = f" ({in_shares(result['floor'])})" if "fid_in_shares" in result["floor"] else ""
    return (
        f"NFE: network evaluations per image. Seeds {seeds}: {mean}, and in brackets the paired difference "
        f"to {result['baseline']}; ↓ less is better, ↑ more; n = {result['n']:,} samples; reference: "
        f"{reference['data']}, {reference['split']} split, {reference['n']:,} images; features: "
        f"{measured_by}; k = {judge['k']}, judge's seed {judge['seed']}; floor: {result['floor_n']:,} real "
        f"test images{shares}."
    )
