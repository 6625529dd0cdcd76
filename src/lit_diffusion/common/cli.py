"""What every command line of the project shares. Imports nothing heavy, so that --help is quick."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lit_diffusion.common.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
# A wheel carries conf/ inside the package; in a checkout it stands at the top.
CONFIG_DIR = str(next(p for p in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if p.is_dir()))


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Makes a function of a config a command line.

    A user's mistake is printed as one sentence, and the exit status is 1; in a multirun the other jobs
    still run. HYDRA_FULL_ERROR=1 shows the traceback instead.
    """

    def decorate(work: Callable[[DictConfig], None]) -> Callable[[], None]:
        mistakes = []

        @hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name=config_name)
        @wraps(work)
        def job(cfg: DictConfig) -> None:
            try:
                work(cfg)
            except KeyboardInterrupt:
                sys.exit(130)
            except Exception as error:
                sentence = explain(error)
                if sentence is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                    raise
                mistakes.append(sentence)
                print(f"error: {sentence}", file=sys.stderr)

        def main() -> None:
            job()
            sys.exit(1 if mistakes else 0)

        return main

    return decorate


def composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The config that a command line of these overrides means."""
    try:
        if GlobalHydra.instance().is_initialized():  # by the command that runs now
            return compose(config_name, [*overrides])
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            return compose(config_name, [*overrides])
    except HydraException as error:
        sentence = " ".join(str(error).split())
        raise ConfigError(f"{sentence} (overrides of {config_name}: {' '.join(overrides)})") from None


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
