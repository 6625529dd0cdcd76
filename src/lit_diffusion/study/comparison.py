"""Choices compared over seeds: means, their 95 % intervals, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from rich.table import Table
from scipy.special import stdtrit

from lit_diffusion.common.files import write_json
from lit_diffusion.evaluate.report import SCORES, floor_in_shares
from lit_diffusion.evaluate.result import MEASURED, EvaluatorSettings, Reference, Scores, read_record
from lit_diffusion.features.network import NetworkInfo

STUDY = "study.json"  # in a finished study's folder

Values = Sequence[float | None]  # of a score: one for each seed, None where the run failed


@dataclass(frozen=True)
class Summary:
    """A score of one choice over the seeds.

    Attributes:
        values: one for each seed, None where the run failed.
        mean: of the values.
        interval: half the width of the mean's 95 % interval, Student's; None for a single seed.
        difference: the mean difference to the baseline, seed by seed; None for the baseline itself.
        difference_interval: half the width of its 95 % interval.
    """

    values: list[float | None]
    mean: float
    interval: float | None
    difference: float | None = None
    difference_interval: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The result of a study.

    Attributes:
        name: of the study.
        seeds: of training and sampling.
        scores: names of the scores.
        baseline: name of the choice that the others are compared with.
        choices: choice -> score -> summary; not those whose runs all failed.
        nfe: choice -> network evaluations per image; None where they are unknown.
        runs: choice -> the folder names of its trainings, one for each seed; empty if nothing is trained.
        overrides: the study's config.
        failures: the reason, for each run that failed, under its choice and seed.
        floor, floor_n, n, reference, features, second, evaluator: as in ``Result``.
    """

    name: str
    seeds: list[int]
    scores: list[str]
    baseline: str
    choices: dict[str, dict[str, Summary]]
    nfe: dict[str, float | None]
    runs: dict[str, list[str]]
    overrides: dict[str, Any]
    floor: Scores
    floor_n: int
    n: int
    reference: Reference
    features: NetworkInfo
    second: NetworkInfo | None
    evaluator: EvaluatorSettings
    failures: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it as JSON into the study's folder."""
        write_json(folder / STUDY, asdict(self))

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read what ``write`` wrote."""
        return read_record(cls, Path(folder, STUDY), MEASURED | {"choices": read_choices})


def read_choices(**choices: dict[str, dict[str, Any]]) -> dict[str, dict[str, Summary]]:
    """Return the choices' summaries from what JSON holds of them."""
    return {
        choice: {score: Summary(**summary) for score, summary in scores.items()}
        for choice, scores in choices.items()
    }


def summaries(values: Mapping[str, Mapping[str, Values]], baseline: str) -> dict[str, dict[str, Summary]]:
    """Return the summary of each choice and score; of choices that have any value.

    The difference to the baseline is paired: seed by seed, so that what a seed adds to both cancels.
    """
    return {
        choice: {
            score: summary(of_seeds, None if choice == baseline else values[baseline][score])
            for score, of_seeds in scores.items()
        }
        for choice, scores in values.items()
        if all(any(value is not None for value in of_seeds) for of_seeds in scores.values())
    }


def summary(values: Values, baseline: Values | None) -> Summary:
    """Return the summary of a score's values over the seeds, and of their differences to the baseline's."""
    mean, interval = mean_and_interval([value for value in values if value is not None])
    pairs = zip(values, baseline, strict=True) if baseline else ()
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if not differences:
        return Summary(list(values), mean, interval)
    return Summary(list(values), mean, interval, *mean_and_interval(differences))


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and half the width of its 95 % interval by Student's t; None for a single value."""
    sample = torch.tensor(values, dtype=torch.float64)
    if len(sample) == 1:
        return float(sample), None
    return float(sample.mean()), float(sample.std() / len(sample) ** 0.5 * t_quantile(len(sample) - 1))


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution."""
    return float(stdtrit(degrees, 0.975))


def comparison_table(result: Comparison) -> Table:
    """Return a table for the terminal: a row for each choice, each score with its difference below."""
    seeds = ", ".join(map(str, result.seeds))
    caption = comparison_caption(result)
    table = Table(title=f"{result.name}, seeds {seeds}", caption=caption, caption_justify="left")
    for heading in headings(result):
        table.add_column(heading, no_wrap=heading == "choice", overflow="fold")
    for row in rows(result):
        table.add_row(*[text.replace(" (", "\n(") for text in row])
    return table


def markdown(result: Comparison) -> str:
    """Return the same table as Markdown."""
    lines = [headings(result), ["---"] * len(headings(result)), *rows(result)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    failed = "".join(f"- {run} failed: {reason}\n" for run, reason in result.failures.items())
    return f"{table}\n\n{comparison_caption(result)}\n" + (f"\n{failed}" if failed else "")


def headings(result: Comparison) -> list[str]:
    """Return the columns' names, with arrows that say which way is better."""
    arrows = {"low": " ↓", "high": " ↑"}
    columns = (SCORES[score] for score in result.scores)
    return ["choice", "NFE", *[f"{name}{arrows.get(better, '')}" for name, better in columns]]


def rows(result: Comparison) -> list[list[str]]:
    """Return a row of texts for each choice, and one for the floor."""
    choices = [
        [choice, "" if nfe is None else f"{nfe:g}", *map(summary_text, result.choices[choice].values())]
        for choice, nfe in result.nfe.items()
    ]
    floor = [f"{result.floor[score]:.4g}" if score in result.floor else "" for score in result.scores]
    return [*choices, ["floor", "", *floor]]


def summary_text(score: Summary) -> str:
    """Return mean ± interval (difference ± its interval)."""
    text = with_interval(f"{score.mean:.4g}", score.interval)
    if score.difference is None:
        return text
    difference = with_interval(two_digits(score.difference, "+"), score.difference_interval)
    return f"{text} ({difference})"


def with_interval(mean: str, interval: float | None) -> str:
    """Return mean ± interval, or the mean alone."""
    return mean if interval is None else f"{mean} ± {two_digits(interval)}"


def two_digits(x: float, sign: str = "-") -> str:
    """Return x with two significant digits, but 212 and not 2.1e+02."""
    return f"{x:{sign}.0f}" if abs(x) >= 99.5 else f"{x:{sign}.2g}"


def comparison_caption(result: Comparison) -> str:
    """Return what stands below the table: what the numbers are, and what they were measured with."""
    reference, evaluator = result.reference, result.evaluator
    networks = [network for network in (result.features, result.second) if network]
    measured_by = " and ".join(f"{network.name}, sha256 {network.sha256[:12]}" for network in networks)
    seeds = ", ".join(map(str, result.seeds))
    mean = "mean ± half its 95 % interval" if len(result.seeds) > 1 else "one seed, no interval"
    shares = f" ({floor_in_shares(result.floor)})" if "fid_in_shares" in result.floor else ""
    return (
        f"NFE: network evaluations per image. Seeds {seeds}: {mean}, and in brackets the paired difference "
        f"to {result.baseline}; ↓ less is better, ↑ more; n = {result.n:,} samples; reference: "
        f"{reference.data}, {reference.split} split, {reference.n:,} images; features: "
        f"{measured_by}; k = {evaluator.k}, evaluator's seed {evaluator.seed}; floor: {result.floor_n:,} "
        f"real test images{shares}."
    )
