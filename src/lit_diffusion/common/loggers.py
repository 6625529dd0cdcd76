"""Weights & Biases, with or without a key, with or without a network; and a plain csv file."""

import csv
import io
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.files import atomic_write
from lit_diffusion.common.log import log

MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")  # of W&B
METRICS = "csv/metrics.csv"  # in a run's folder


def wandb_logger(project: str, save_dir: str, init_timeout: int = 60, **settings: Any) -> WandbLogger:
    """Return a W&B logger that never prompts and never stops a run.

    It goes offline, and says so, where there is no API key, no network, or WANDB_MODE says so.

    Args:
        project: W&B's project.
        save_dir: the run's folder; W&B writes below its wandb/.
        init_timeout: seconds to wait for W&B's server before going offline.
        **settings: passed on to wandb.init: name, group, tags, id, ...
    """
    settings = {"project": project, "save_dir": save_dir, "resume": "allow", **settings}
    if rank_zero_only.rank != 0:
        return LastingWandbLogger(mode="disabled", **settings)
    mode = os.environ.get("WANDB_MODE")
    if mode and mode not in MODES:
        raise ConfigError(f"WANDB_MODE is {mode}: choose one of {', '.join(MODES)}, or leave it out")
    try:
        mode = mode or ("online" if wandb.login(prompt=False) else "offline")
        logger = LastingWandbLogger(mode=mode, settings=wandb.Settings(init_timeout=init_timeout), **settings)
        define_metrics(logger)
    except wandb.errors.Error as error:  # no key, no network, no right to write
        log.info(f"W&B can't be used ({' '.join(str(error).split())})")
        mode = "offline"
        logger = LastingWandbLogger(mode=mode, **settings)
        try:
            define_metrics(logger)
        except wandb.errors.Error as again:
            raise ConfigError(f"logger.wandb can't work: {' '.join(str(again).split())}") from None
    if mode == "offline":
        log.info(
            f"W&B logs offline; upload the run later with: wandb sync {Path(logger.experiment.dir).parent}"
        )
    return logger


class LastingWandbLogger(WandbLogger):
    """Lets a run go on where W&B stops working; what was logged until then can be synced."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._wandb_init.pop("anonymous", None)  # which W&B warns about, whatever it is
        self.lost = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._attempt(lambda: super(LastingWandbLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._attempt(lambda: super(LastingWandbLogger, self).log_image(key, images, step, **kwargs))

    @rank_zero_only
    def log_video(self, key: str, videos: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._attempt(lambda: super(LastingWandbLogger, self).log_video(key, videos, step, **kwargs))

    def _attempt(self, log_it: Callable[[], None]) -> None:
        if self.lost:
            return
        try:
            log_it()
        except Exception as error:  # a broken pipe, a lost service, and whatever else W&B raises
            self.lost = True
            log.warning(f"W&B stopped working ({type(error).__name__}: {error}); the run goes on without it")


def finish_wandb(exit_code: int = 0) -> None:
    """End W&B's run; where its service is gone, what reached the disk can still be synced."""
    try:
        wandb.finish(exit_code)
    except Exception as error:
        log.warning(f"W&B's run has no end ({type(error).__name__}: {error})")
        with suppress(Exception):
            wandb.teardown()  # else it is tried again, in vain, when the process ends


def csv_logger(save_dir: str) -> CSVLogger:
    """Return a logger that writes ``save_dir``/csv/metrics.csv, and renames that of an earlier run."""
    path = Path(save_dir, METRICS)
    if rank_zero_only.rank == 0 and path.is_file():
        path.rename(path.with_name(f"metrics_{len(earlier_metrics(path))}.csv"))
    return MetricsLogger(save_dir, name="csv", version="")


class MetricsWriter(ExperimentWriter):
    """Writes metrics.csv; a new column, for which the file is written anew, can't empty it."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path, text = Path(self.metrics_file_path), io.StringIO(newline="")
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        writer = csv.DictWriter(text, fieldnames)
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())


class MetricsLogger(CSVLogger):
    """Lightning's CSVLogger with our writer."""

    _experiment: Any

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = MetricsWriter(self.log_dir)
        return self._experiment


def earlier_metrics(path: Path) -> list[Path]:
    """Return the files of earlier runs beside this metrics.csv, oldest first."""
    return sorted(path.parent.glob("metrics_*.csv"), key=lambda p: int(p.stem.rpartition("_")[2]))


def define_metrics(logger: WandbLogger) -> None:
    """Start the run; set the x-axis of every metric, and which of its values the run's summary shows."""
    summaries = {"train": "last", "train_t": "last", "val": "min", "val_t": "min", "perf": "mean"}
    for group, summary in summaries.items():
        logger.experiment.define_metric(f"{group}/*", step_metric="trainer/global_step", summary=summary)
    logger.experiment.define_metric("samples/*", step_metric="trainer/global_step")
