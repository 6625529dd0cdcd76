"""ConfigError, raised for mistakes that the user can fix, and common checks that raise it."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import TypeGuard

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException


class ConfigError(ValueError):
    """A value that the user chose can't work.

    The message is one or two sentences with the value, the reason and the fix. The command line prints
    it alone, without a traceback.
    """


def check_whole_number(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise ConfigError unless the value is a whole number in its range."""
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and least <= value
        and (most is None or value <= most)
    ):
        return
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError(f"{name} is {value}: choose a whole number {span}")


def check_number(name: str, value: object, least: float, most: float) -> None:
    """Raise ConfigError unless the value is a finite number in its range."""
    if not is_number(value) or not least <= value <= most:
        raise ConfigError(f"{name} is {value}: choose a number from {least:g} to {most:g}")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether the value is a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_switch(name: str, value: object) -> None:
    """Raise ConfigError unless the value is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value}: choose true or false")


def check_pair(function: str, returned: object, wanted: str) -> None:
    """Raise ConfigError unless a function, perhaps a user's own, returned the two things that are wanted."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ConfigError(f"{function} returns a {type(returned).__name__}: let it return {wanted}")


def check_installed(what: str, packages: Sequence[str], extra: str) -> None:
    """Raise ConfigError unless the packages are installed, which the extra brings; ``what`` needs them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{what} {package}: pip install 'lit_diffusion[{extra}]'")


def check_text(name: str, value: object, or_null: bool = False) -> None:
    """Raise ConfigError unless the value is a text that isn't empty, or null where that is allowed."""
    if not (isinstance(value, str) and value) and not (or_null and value is None):
        raise ConfigError(f"{name} is {value!r}: give a text that isn't empty{', or null' * or_null}")


def check_bytes(what: str, needed: float) -> None:
    """Raise ConfigError for something that needs more bytes than the machine has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ConfigError(
            f"{what} needs {needed:,.0f} bytes, but this machine has {memory:,}: choose less of it"
        )


def explain(error: Exception) -> str | None:
    """Return the sentence for an error that the user can fix, None for a fault of the program."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, OmegaConfBaseException):
        return explain_unresolved(error)
    if isinstance(error, InstantiationException):  # Hydra's own words, less their stack of causes
        return f"{' '.join(str(error).split())} (HYDRA_FULL_ERROR=1 shows where)"
    full = "out of memory|can't allocate memory|bad_alloc"
    if isinstance(error, MemoryError) or re.search(full, str(error)):
        size = re.search(r"[\d.,]+ ?(bytes|[KMGT]i?B)", str(error))
        more = f" for {size[0]} more" if size else ""
        return f"there isn't enough memory{more}: choose a smaller batch_size, n, network or picture"
    if isinstance(error, OSError) and not error.strerror:
        return f"{' '.join(str(error).split())}: choose another file"
    if isinstance(error, OSError):
        where = f", {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}: make room, or choose another folder; what was whole before still is"
    return None


def explain_unresolved(error: OmegaConfBaseException) -> str:
    """Return the sentence for a value of a config that OmegaConf can't give."""
    reason = str(error.msg or error).splitlines()[0]
    key = error.full_key or "a value of the config"
    return f"{key} can't be read ({reason}): give it a value"
