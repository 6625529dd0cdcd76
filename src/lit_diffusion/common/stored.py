"""Configs that were stored in a file. The file may be a stranger's, so they are data and never code.

What a stored config may build are the classes that conf/ names, and those that the user trusts.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from lit_diffusion.common.build import TARGET, build, callable_of, nodes
from lit_diffusion.common.compose import composed, config_files, name_of_choice
from lit_diffusion.common.configs import plain
from lit_diffusion.common.errors import ConfigError

PLACES = {"root": "data", "path": "???", "cache": "data/cache"}  # where a source's files are on this machine


def check_plain(config: Any, name: str) -> None:
    """Raise ConfigError for a stored config with an interpolation, which looks up things of this machine."""
    for key, text in texts(config, "config"):
        if "${" in text:
            raise ConfigError(
                f"{name} has {key} {text!r}, which would be looked up on this machine: choose another file"
            )


def texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text in nested dicts and lists, the names in dicts too, with its place."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield key, str(name)
            yield from texts(inner, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from texts(inner, f"{key}[{number}]")


def build_stored(config: Mapping[str, Any], part: str, trust: Sequence[str] = ()) -> Any:
    """Return a part of a stored config, built.

    Args:
        config: the stored config.
        part: model, schedule, prediction, sampler or data.
        trust: full names of classes that may be built besides those that conf/ names.

    Raises:
        ConfigError: the part names another class, or a value that its class doesn't take.
    """
    if config.get(part) is None:
        raise ConfigError(f"the checkpoint has no {part}: choose another checkpoint")
    node = plain(config[part])
    check_names(node, part, trust)
    return build(node, part)


def build_data(config: Mapping[str, Any], root: str | None = None, trust: Sequence[str] = ()) -> Any:
    """Return the DataModule of a stored config; its files lie where ``stored_source`` says.

    Raises:
        ConfigError: as in ``build_stored``.
    """
    data = {**plain(config["data"]), "source": stored_source(config, root, trust)}
    return build_stored({"data": data}, "data", trust)


def stored_source(
    config: Mapping[str, Any], root: str | None = None, trust: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the config of the images that a checkpoint was trained on, and where they are here.

    What the file says of them is taken only as far as their class lists it under ``stored``; the rest is that
    of the one file in conf/data/ that is about the class, and of no file, if several are.

    Args:
        config: the stored config.
        root: the folder of their files; None: the one in conf/data.
        trust: as in ``build_stored``; also names of data sets that may be fetched.

    Raises:
        ConfigError: a class that isn't trusted, or images that are somewhere else on each machine.
    """
    source = plain(config["data"].get("source"))
    check_names(source, "data.source", trust)
    choice, name = name_of_choice("data", source), source.get("name")
    if choice is None and name is not None and name not in trust:
        raise ConfigError(
            f"the checkpoint's data.source.name is {name}, which conf/data/ doesn't name and which would be "
            f"fetched: if you trust whoever made the file, give trust=[{name}]"
        )
    if source[TARGET] in trust:
        kept = {**source, **{place: default for place, default in PLACES.items() if place in source}}
    else:
        known = getattr(callable_of(source[TARGET], "data.source"), "stored", ())
        here = plain(composed("evaluate", [f"data={choice}"]).data.source) if choice else {}
        kept = {TARGET: source[TARGET], **here, **{key: source[key] for key in known if key in source}}
    for place in ("root", "path"):
        if place in source:
            kept[place] = root or kept.get(place, "???")
            if kept[place] == "???":
                raise ConfigError(
                    f"the model was trained on {source[TARGET].rpartition('.')[2]}, whose images may be "
                    "anywhere: give data_root, their place on this machine"
                )
    return kept


def check_names(node: Any, key: str, trust: Sequence[str] = ()) -> None:
    """Raise ConfigError unless a stored part names the classes that conf/ names, or that the user trusts."""
    part = key.partition(".")[0]
    if not isinstance(node, Mapping) or TARGET not in node:
        raise ConfigError(f"the checkpoint's {key} is {node}, which no run writes: choose another file")
    known = known_names(part)
    for inner, config in nodes(node, key):
        name = config[TARGET]
        if inner not in (part, "data.source") or [k for k in config if k[:1] == "_" and k != TARGET]:
            raise ConfigError(
                f"the checkpoint's {inner} is {config}, which no run writes: choose another file"
            )
        if not isinstance(name, str):
            raise ConfigError(f"the checkpoint's {inner} is {name}, which no run writes: choose another file")
        if name not in known and name not in trust:
            raise ConfigError(
                f"the checkpoint's {inner} is {name}, which conf/{part}/ doesn't name and which may do "
                f"anything: if you trust whoever made the file, give trust=[{name}]"
            )


def known_names(part: str) -> set[str]:
    """Return the full names of the classes that a group's files in conf/ name, the user's own among them."""
    return {node[TARGET] for path in config_files(part) for _, node in nodes(read_yaml(path), part)}


def read_yaml(path: Path) -> Any:
    """Return what a yaml file holds, without looking up its interpolations."""
    return OmegaConf.to_container(OmegaConf.load(path))


def check_trust(trust: Any) -> None:
    """Raise ConfigError unless trust is a list of full names."""
    if not isinstance(trust, (list, ListConfig)) or not all(isinstance(name, str) for name in trust):
        raise ConfigError(f"trust is {trust}: give a list of full names, such as [package.module.Class]")
