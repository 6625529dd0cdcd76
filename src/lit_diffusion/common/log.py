"""The project's one logger. What it says goes to the terminal and into the run's own log file.

conf/hydra/job_logging/ sets up its handlers for the command lines; from Python, ``logging`` does.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

log = logging.getLogger("lit_diffusion")


class BelowWarning(logging.Filter):
    """Lets records below WARNING pass. On a terminal these go to stdout, the others to stderr."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.WARNING


def log_table(table: Table) -> None:
    """Log a table, as wide as the terminal."""
    text = io.StringIO()
    Console(file=text, width=Console().width).print(table)
    log.info(text.getvalue().rstrip())


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Log into a file too while inside, after what it holds already."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
