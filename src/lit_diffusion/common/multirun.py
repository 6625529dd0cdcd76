"""The jobs of a multirun: each leaves a file, for the table at the end and for a multirun that goes on."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Self

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import write_json
from lit_diffusion.common.log import log

JOB = "job.json"  # in a job's folder
COMMAND = "multirun.json"  # in the multirun's folder: the overrides of its command


@dataclass(frozen=True)
class Job:
    """How a job of a multirun ended.

    Attributes:
        overrides: what it was given.
        out: the folder that it wrote to.
        seconds: how long it took.
        value: what it returned, for a sweeper; None for nothing.
        failure: the sentence of its failure; None if it did what it should.
    """

    overrides: list[str]
    out: str
    seconds: float
    value: float | None
    failure: str | None

    def write(self, folder: Path) -> None:
        write_json(folder / JOB, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the job that ended in this folder, None for none."""
        path = folder / JOB
        return cls(**json.loads(path.read_text())) if path.is_file() else None


@dataclass(frozen=True)
class Command:
    """What a multirun was told.

    Attributes:
        overrides: with the sweeps in them.
        metric: the name of what its jobs return; None for nothing.
    """

    overrides: list[str]
    metric: str | None

    def varied(self, overrides: list[str]) -> list[str]:
        """Return those of a job's overrides that not all jobs have."""
        ours, theirs = map(OverridesParser.create().parse_overrides, (self.overrides, overrides))
        common = {override.key_or_group for override in ours if not override.is_sweep_override()}
        return [str(override.input_line) for override in theirs if override.key_or_group not in common]

    def write(self, folder: Path) -> None:
        write_json(folder / COMMAND, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(**json.loads((folder / COMMAND).read_text()))


class Multirun(Callback):
    """Writes a multirun's command into its folder, and remembers the one that this process has started."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        Multirun.folder = Path(config.hydra.sweep.dir)
        command = Command(list(config.hydra.overrides.task), config.get("optimized_metric"))
        command.write(Multirun.folder)


def in_multirun() -> bool:
    """Return whether this is a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def run_once(
    cfg: DictConfig, work: Callable[[DictConfig], float | None], explain: Callable[[Exception], str | None]
) -> float | None:
    """Do the work of a job, unless an earlier multirun in its folder has done it; return what it returns.

    A failure is written into the job's folder, and logged; the other jobs still run.

    Args:
        cfg: of the job.
        work: what it does.
        explain: returns the sentence for an error that the user can fix, None for a fault of the program.

    Raises:
        ConfigError: another job left its file in the folder.
    """
    hydra = HydraConfig.get()
    folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
    before = Job.read(folder)
    if before and before.overrides != overrides:
        raise ConfigError(
            f"{folder} holds a job of other overrides ({' '.join(before.overrides)}): give the command that "
            "was stopped, or another hydra.sweep.dir"
        )
    if before and not before.failure:
        log.info(f"done before: {' '.join(overrides)} ({folder})")
        return before.value
    start, value, failure = monotonic(), None, None
    try:
        value = work(cfg)
    except Exception as error:
        failure = explain(error)
        if failure is None:
            failure = f"{type(error).__name__}: {error}"
            log.exception("a fault of the program, or of a part that was added to it")
        log.error(f"error: {failure}")
    Job(overrides, str(cfg.get("out")), monotonic() - start, value, failure).write(folder)
    return value


def read_jobs(folder: Path) -> dict[Path, Job]:
    """Return the jobs that ended in a multirun's folder, by their folders, in the order of their numbers."""
    paths = [path.parent for path in folder.rglob(JOB)]
    by_number = sorted(paths, key=lambda path: (not path.name.isdecimal(), path.name.zfill(9)))
    return {path: job for path in by_number if (job := Job.read(path))}


def job_that_wrote_to(out: str) -> Path | None:
    """Return the folder of another job of this multirun that wrote to ``out``, None for none."""
    if not in_multirun():
        return None
    hydra = HydraConfig.get()
    own = Path(hydra.runtime.output_dir).resolve()
    jobs = read_jobs(Path(hydra.sweep.dir)).items()
    return next(
        (path for path, j in jobs if path.resolve() != own and j.out == str(out) and not j.failure), None
    )


def varied_overrides() -> list[str]:
    """Return the overrides of this multirun's job that not all of its jobs have."""
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir)
    overrides = list(hydra.overrides.task)
    return Command.read(folder).varied(overrides) if (folder / COMMAND).is_file() else overrides


def summary() -> list[str]:
    """Print a table of the jobs of this process's multirun; return a line for each that failed."""
    if Multirun.folder is None or not (jobs := read_jobs(Multirun.folder)):
        return []
    from rich.console import Console  # here, so that --help doesn't wait for it
    from rich.table import Table

    command = Command.read(Multirun.folder)
    table = Table("job", command.metric or "", "minutes", "folder")
    for folder, job in jobs.items():
        value = "failed" if job.failure else "" if job.value is None else f"{job.value:.4g}"
        varied = " ".join(command.varied(job.overrides) or job.overrides)
        table.add_row(varied, value, f"{job.seconds / 60:.1f}", str(folder))
    Console().print(table)
    failed = {folder: job for folder, job in jobs.items() if job.failure}
    lines = [f"  {' '.join(job.overrides)}: {job.failure} ({folder})" for folder, job in failed.items()]
    if lines:
        print(f"{len(failed)} of {len(jobs)} jobs failed:", *lines, sep="\n", file=sys.stderr)
    return lines
