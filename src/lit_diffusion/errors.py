"""The one exception that stands for a mistake its reader can mend, and the commonest of its checks."""


class ConfigError(ValueError):
    """A value the user chose can't work.

    The message is one sentence or two: the value, the reason, the fix. The command line prints it
    alone, without a traceback.
    """


def check_whole_number(name: str, value: object, least: int, most: int | None = None) -> None:
    """ConfigError unless the value is a whole number in its range."""
    if isinstance(value, int) and least <= value and (most is None or value <= most):
        return
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError(f"{name} is {value}: choose a whole number {span}")
