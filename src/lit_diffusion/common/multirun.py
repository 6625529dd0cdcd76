"""The jobs of a multirun, each of which leaves a file for the summary at the end."""

import json
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lit_diffusion.common.files import write_json

JOB = "job.json"  # in a job's folder: its overrides, where it wrote, and the sentence of its failure, or null


class SweepFolder(Callback):
    """Remembers where the jobs of the multirun that this process has started lie, None for none."""

    path: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        SweepFolder.path = Path(config.hydra.sweep.dir)


def in_multirun() -> bool:
    """Return whether this is a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def write_job(out: str, failure: str | None) -> None:
    """Write how the job that runs has ended.

    Args:
        out: the folder that it wrote to.
        failure: the sentence of its failure, None if it did what it should.
    """
    hydra = HydraConfig.get()
    job = {"overrides": list(hydra.overrides.task), "out": out, "failure": failure}
    write_json(Path(hydra.runtime.output_dir, JOB), job)


def read_jobs(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the jobs of a multirun's folder that have ended, by their folders."""
    return {path.parent: json.loads(path.read_text()) for path in sorted(folder.rglob(JOB))}


def job_that_wrote_to(out: str) -> Path | None:
    """Return the folder of an earlier job of this multirun that wrote to ``out``, None for none."""
    if not in_multirun():
        return None
    hydra = HydraConfig.get()
    jobs = read_jobs(Path(hydra.sweep.dir)).items()
    return next((folder for folder, job in jobs if job["out"] == str(out) and not job["failure"]), None)


def failures(folder: Path) -> list[str]:
    """Return a line for each job that failed: its overrides, its folder and the reason."""
    jobs = read_jobs(folder)
    failed = {path: job for path, job in jobs.items() if job["failure"]}
    if not failed:
        return []
    lines = [f"  {' '.join(job['overrides'])}: {job['failure']} ({path})" for path, job in failed.items()]
    return [f"{len(failed)} of {len(jobs)} jobs failed:", *lines]
