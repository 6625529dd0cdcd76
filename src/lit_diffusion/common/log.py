"""The project's one logger. What it says goes to the terminal and into the run's own log file.

conf/hydra/job_logging/ sets up the handlers of the command lines; from Python, ``logging`` does.
"""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger("lit_diffusion")


class TerminalHandler(logging.Handler):
    """Prints warnings and errors to stderr, other records to stdout; a progress bar stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        print(
            self.format(record),
            file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout,
            flush=True,
        )


def ensure_terminal() -> None:
    """Print records in a process that has no handlers, such as one that was spawned for training."""
    if not log.hasHandlers():
        log.addHandler(TerminalHandler())
        log.setLevel(logging.INFO)


def log_table(table: "Table") -> None:
    """Log a table, as wide as the terminal."""
    from rich.console import Console  # here, so that --help doesn't wait for it

    text = io.StringIO()
    Console(file=text, width=Console().width).print(table)
    log.info(text.getvalue().rstrip())


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Log into a file too while inside, after what it holds already."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def silence_warnings() -> None:
    """Silence Lightning's advertisements, and its warnings about what is intended here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches are gathered from memory
        ".*sync_dist=True.*",  # our metrics are synchronised already
        ".*Checkpoint directory .* exists.*",
        ".*smaller than the logging interval.*",
        ".*logs directory .* exists.*",
        ".*dataloader is not resumable.*",  # the order of our batches is
        ".*treespec, LeafSpec.*",  # Lightning's own use of torch
    ):
        warnings.filterwarnings("ignore", message)
