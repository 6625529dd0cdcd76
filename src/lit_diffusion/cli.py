"""What every command line of the project shares. Imports nothing heavy, so that --help is quick."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from hydra.errors import InstantiationException
from omegaconf import DictConfig

from lit_diffusion.errors import ConfigError

PACKAGE = Path(__file__).parent
# A wheel carries conf/ inside the package; in a checkout it stands at the top.
CONFIG_DIR = str(next(p for p in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if p.is_dir()))


def one_sentence_errors(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Prints a ConfigError as its sentence alone and exits with 1; HYDRA_FULL_ERROR=1 shows it whole."""

    @wraps(main)
    def wrapped(cfg: DictConfig) -> None:
        try:
            main(cfg)
        except (ConfigError, InstantiationException) as error:
            mistake = error if isinstance(error, ConfigError) else error.__cause__
            if not isinstance(mistake, ConfigError) or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {mistake}", file=sys.stderr)
            sys.exit(1)

    return wrapped
