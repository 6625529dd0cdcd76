"""The one exception that stands for a mistake its reader can mend."""


class ConfigError(ValueError):
    """A value the user chose can't work.

    The message is one sentence or two: the value, the reason, the fix. The command line prints it
    alone, without a traceback.
    """
