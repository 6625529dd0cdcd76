"""Build an object from its config: a class by its name, with arguments that its constructor takes."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial, reduce
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from lit_diffusion.common.configs import plain
from lit_diffusion.common.errors import ConfigError, is_number

TARGET = "_target_"  # the key that names the class, or the function
REFUSALS = (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError)  # of values, by a library
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}


def build(config: DictConfig | Mapping[str, Any] | None, key: str) -> Any:
    """Return what a config describes, with the objects nested in it.

    Args:
        config: the class's full name under ``_target_``, and its arguments.
        key: where the config stands, for the errors.

    Raises:
        ConfigError: no such class, an argument that it doesn't take, lacks or refuses.
    """
    config = plain(config)
    if not isinstance(config, Mapping):
        raise ConfigError(f"{key} is {config}: choose {key}=NAME, or leave it as it was")
    if TARGET not in config:
        raise ConfigError(f"{key} is {config}, which names no class: add {TARGET}, its full name")
    for name, node in nodes(config, key):
        check_arguments(callable_of(node[TARGET], name), node, name)
    try:
        return instantiate(dict(config), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, REFUSALS) and not isinstance(cause, ConfigError):
            raise refused(key, cause) from error
        raise cause from None


def refused(key: str, error: BaseException) -> ConfigError:
    """Return the ConfigError for a config that a library refuses in words of its own."""
    reason = " ".join(str(error).split()).rstrip(".")
    if missing := re.search(r"missing \d+ required \S+ arguments?: '(\w+)'", reason):
        return ConfigError(f"{key}.{missing[1]} is missing: give +{key}.{missing[1]}=VALUE")
    return ConfigError(f"{key} can't work ({reason}): choose another value")


def nodes(config: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every part of a config that names a class, the inner ones first, with its key."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from nodes(value, f"{key}.{name}")
        if TARGET in config:
            yield key, cast(dict[str, Any], config)
    elif isinstance(config, (list, tuple)):
        for number, value in enumerate(config):
            yield from nodes(value, f"{key}[{number}]")


def callable_of(name: Any, key: str) -> Callable[..., Any]:
    """Return the class or the function of this full name.

    Raises:
        ConfigError: there is none.
    """
    try:
        found = located(str(name))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{key}.{TARGET} is {name}, which can't be imported, since there is no module {error.name}: put "
            "its folder on PYTHONPATH, or give another class's full name"
        ) from None
    except Exception as error:  # an import can raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            f"{key}.{TARGET} is {name}, which can't be imported ({reason}): mend it, or give another class's "
            "full name"
        ) from None
    if inspect.isclass(found) and inspect.isabstract(found):
        lacking = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ConfigError(f"{key}.{TARGET} is {name}, which lacks {lacking}: write what is lacking")
    if not callable(found):
        raise ConfigError(f"{key}.{TARGET} is {name}, which is no class: give the full name of one")
    return found


def located(name: str) -> Any:
    """Return what has this full name: the longest part of it that is a module, and what is in that.

    Raises:
        ModuleNotFoundError: no part of it is a module.
        AttributeError: the module has no such thing.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            return reduce(getattr, parts[length:], import_module(module))
        except ModuleNotFoundError as error:
            if length == 1 or not module.startswith(str(error.name)):
                raise
    raise ModuleNotFoundError(name=name)


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> None:
    """Raise ConfigError unless a class, or a function, takes these arguments.

    Values are compared with the annotations; those that are built from a config of their own aren't.

    Args:
        function: the class or function.
        arguments: by name; names that begin with an underscore are Hydra's.
        key: what the arguments are of.
    """
    parameters = inspect.signature(function).parameters
    hints = hints_of(function)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [] if anything else [name for name in arguments if name not in parameters and name[:1] != "_"]
    if len(unknown) > 1:
        names, out = (" and ".join(unknown), " ".join(f"~{key}.{name}" for name in unknown))
        raise ConfigError(f"{key} has {names}, which {function.__name__} doesn't take: leave them out, {out}")
    for name, value in arguments.items():
        if name.startswith("_"):
            continue
        if value == "???":
            raise ConfigError(f"{key}.{name} is missing: give {key}.{name}=VALUE")
        if name in unknown:
            near = get_close_matches(name, parameters, n=1, cutoff=0.7)
            advice = f"did you mean {near[0]}?" if near else f"leave it out, ~{key}.{name}"
            raise ConfigError(f"{key}.{name} is set, but {function.__name__} takes no {name}: {advice}")
        if name in hints and not fits(value, hints[name]):
            quoted = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value)
            text = f"the text {value!r}, in quotes" if quoted else value
            raise ConfigError(f"{key}.{name} is {text}: choose {in_words(hints[name])}")
    if not arguments.get("_partial_", False):
        for name, parameter in parameters.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and parameter.default is parameter.empty and name not in arguments:
                raise ConfigError(f"{key}.{name} is missing: give +{key}.{name}=VALUE")


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a class's or a function's arguments, none if they can't be resolved."""
    target = function.__init__ if inspect.isclass(function) else function
    try:
        return get_type_hints(target.func if isinstance(target, partial) else target)
    except (NameError, TypeError, AttributeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value, as yaml has it, is of an annotated type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or (isinstance(value, Mapping) and TARGET in value):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if hint is float:
        return is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and fits_elements(value, origin, args)
    return not isinstance(value, (int, float, str, list, tuple, NoneType)) or not inspect.isclass(hint)


def fits_elements(values: Sequence[Any], origin: type, args: tuple[Any, ...]) -> bool:
    """Return whether a list's elements are of the annotated types."""
    if origin is tuple and (len(args) < 2 or args[1] is not Ellipsis):
        return len(values) == len(args) and all(map(fits, values, args))
    return all(fits(value, args[0]) for value in values) if args else True


def in_words(hint: Any) -> str:
    """Return an annotated type in words, as what to choose."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        literals = [arg for arg in args if get_origin(arg) is Literal]
        names = list(dict.fromkeys(str(name) for arg in literals for name in get_args(arg)))
        others = [in_words(arg) for arg in args if get_origin(arg) is not Literal and named(arg) != "Tensor"]
        chosen = [in_words(Literal[*names])] if names else []
        return " or ".join(dict.fromkeys([*chosen, *others]))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple and Ellipsis not in args:
        return f"a list of {len(args)}: {', '.join(in_words(arg) for arg in args)}"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"a list, each {in_words(args[0])}" if args else "a list"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a group of keys"
    return WORDS.get(hint, f"a {named(hint)}")


def named(hint: Any) -> str:
    """Return the name of an annotated type."""
    return str(getattr(hint, "__name__", hint))
