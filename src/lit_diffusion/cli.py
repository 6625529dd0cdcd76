"""What every command line of the project shares. Imports nothing heavy, so that --help is quick."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from hydra.errors import InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lit_diffusion.errors import ConfigError

PACKAGE = Path(__file__).parent
# A wheel carries conf/ inside the package; in a checkout it stands at the top.
CONFIG_DIR = str(next(p for p in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if p.is_dir()))


def one_sentence_errors(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Prints a user's mistake as a sentence and exits with 1; HYDRA_FULL_ERROR=1 shows the traceback."""

    @wraps(main)
    def wrapped(cfg: DictConfig) -> None:
        try:
            main(cfg)
        except Exception as error:
            sentence = explain(error)
            if sentence is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {sentence}", file=sys.stderr)
            sys.exit(1)

    return wrapped


def explain(error: Exception) -> str | None:
    """What the user can mend, or None if the fault is not the user's."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, ConfigError):
        return str(error.__cause__)
    if isinstance(error, ConfigError):
        return str(error)
    # Hydra's and OmegaConf's own words for a wrong value, less their stack of causes.
    if isinstance(error, (InstantiationException, OmegaConfBaseException)):
        return f"{' '.join(str(error).split())} (HYDRA_FULL_ERROR=1 shows where)"
    return None
