"""Compose a verb's config from conf/, and say in a sentence what can't be composed."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException, SearchPathException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_diffusion.common.build import TARGET, callable_of
from lit_diffusion.common.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
# A wheel carries conf/ inside the package; in a checkout it stands at the top.
CONFIG_DIR = str(next(p for p in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if p.is_dir()))
UNCOMPOSED = (HydraException, OmegaConfBaseException, ValueError)  # raised for what can't be composed
SWEEP_PLUGINS = ("joblib", "submitit_local", "submitit_slurm", "optuna")  # that the extra [sweep] brings


def composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Return the config that a command line of these overrides means.

    Raises:
        ConfigError: they mean none.
    """
    try:
        return compose_anywhere(config_name, overrides)
    except UNCOMPOSED as error:
        sentence = explain_composing(error, config_name, overrides)
        raise ConfigError(f"{sentence} (overrides of {config_name}: {' '.join(overrides)})") from None


def compose_anywhere(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Return what Hydra composes, whether or not a command of Hydra's runs now."""
    if GlobalHydra.instance().is_initialized():
        return compose(config_name, [*overrides])
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return compose(config_name, [*overrides])


def config_files(group: str) -> list[Path]:
    """Return a group's files, in conf/ and in the folder of the user's --config-dir."""
    folders = [CONFIG_DIR]
    if GlobalHydra.instance().is_initialized():
        paths = GlobalHydra.instance().config_loader().get_search_path().get_path()
        folders += [p.path.removeprefix("file://") for p in paths if p.path.startswith("file://")]
    return sorted({path for folder in folders for path in Path(folder, group).glob("*.yaml")})


def name_of_choice(group: str, node: Mapping[str, Any]) -> str | None:
    """Return the name of the only file in a group that is about a node's class, None for none or several.

    Data are about their source's class, and about the data set that a source of many names.
    """
    found = []
    for path in config_files(group):
        config = cast(DictConfig, OmegaConf.load(path))
        config = config.get("source", config)
        if all(config.get(key) == node.get(key) for key in (TARGET, "name")):
            found.append(path.stem)
    return found[0] if len(found) == 1 else None


def check_chosen(cfg: Mapping[str, object], group: str) -> None:
    """Raise ConfigError unless one of the group's choices was made."""
    if cfg.get(group) is None:
        choices = sorted(path.stem for path in config_files(group))
        raise ConfigError(f"{group} is missing: choose {group}=NAME, NAME being one of {', '.join(choices)}")


def check_keys(cfg: DictConfig, verb: str) -> None:
    """Raise ConfigError if the config has a key that the verb doesn't know, and would ignore."""
    known = known_keys(verb)
    for key in map(str, cfg):
        if key not in known:
            own = OmegaConf.masked_copy(cfg, [name for name in cfg if name in known])
            raise ConfigError(unknown_key(key, own, verb))


def known_keys(config_name: str) -> set[str]:
    """Return the keys at the top of a verb's config, its groups among them."""
    config = cast(DictConfig, OmegaConf.load(Path(CONFIG_DIR, f"{config_name}.yaml")))
    keys = {str(key) for key in config} - {"defaults", "hydra"}
    for entry in config.get("defaults", []):
        if isinstance(entry, str):
            keys |= known_keys(entry) if entry != "_self_" else set()
        else:
            keys |= {package_of(str(group)) for group in entry}
    return keys


def package_of(group: str) -> str:
    """Return the key at the top of a config under which a defaults list puts a group's choice."""
    name, _, package = group.split()[-1].partition("@")
    return package.partition(".")[0] or name.strip("/")


def explain_composing(error: Exception, config_name: str, overrides: Sequence[str]) -> str:
    """Return the sentence for what Hydra raised while it composed a config.

    Args:
        error: what it raised.
        config_name: of the verb.
        overrides: the words of the command line.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException):
        return missing_config(str(error.missing_cfg_file), error.options)
    if isinstance(error, OverrideParseException) and ";" in str(error.override):
        return f"{error.override} has a ; in it: part what is in a list by commas, as in 'KEY=[a,b]'"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} can't be read ({text.partition(' See ')[0]}): close what is open, quote the "
            "whole for the shell, and in a list each text with = or a space, as in 'KEY=[\"a=1\",2]'"
        )
    if found := re.search(r"Could not (?:override|delete from config\.|delete) '([^'=]+)", text):
        place = re.match(r"In '[^']+'", text)
        sentence = unknown_key(found[1], composed_without(found[1], config_name, overrides), config_name)
        return f"{sentence} ({place[0]})" if place else sentence
    if found := re.search(r"Multiple values for ([\w/]+)\.|An item is already at '([^']+)'", text):
        key = found[1] or found[2]
        if any(word.startswith("+") and key_of(word) == key for word in overrides):
            return f"{key} is there already: leave the + out"
        return f"an experiment chooses {key}, which is chosen already: write  - override /{key}: NAME"
    if found := re.search(r"Ambiguous value for argument '(.+?)' 1\.|parameters '(.+)' requires", text):
        word = found[1] or found[2]
        key, _, value = word.partition("=")
        return f"{word} gives several values: add -m to run each, or write '{key}=[{value}]' for a list"
    if isinstance(error, SearchPathException):
        return f"--config-dir: {text}: give the folder of your configs"
    cause = f": {str(error.__cause__).splitlines()[0]}" if error.__cause__ else ""
    return f"{text}{cause}"


def missing_config(path: str, options: Sequence[str] | None) -> str:
    """Return the sentence for a config that isn't there.

    Args:
        path: its group and its name.
        options: the names that there are.
    """
    group, _, name = path.rpartition("/")
    if name.endswith((".yaml", ".yml")):
        first = path.partition("/")[0]
        return f"{first} is {path.partition('/')[2]}: give its name alone, {first}={Path(name).stem}"
    if not group:
        return f"there is no config {name}.yaml: leave --config-name out"
    if group.partition("/")[0] in ("experiment", "debug") and "/" in group:
        return (
            f"there is no {path}: in the defaults of an experiment write  - override "
            f"/{group.partition('/')[2]}: {name}"
        )
    if group in ("hydra/launcher", "hydra/sweeper") and name in SWEEP_PLUGINS:
        return f"{group} is {name}, which isn't installed: pip install 'lit_diffusion[sweep]'"
    options = options or [path.stem for path in config_files(group)]  # of one of a list, Hydra tells none
    if not options:
        return f"there is no group {group}: leave {path} out"
    return f"{group} is {name}: {did_you_mean(name, options)}choose one of {', '.join(options)}"


def composed_without(key: str, config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Return the config without the overrides of a key and of its siblings; of none, if that fails."""
    parent = key.rpartition(".")[0]
    siblings = re.compile(rf"{re.escape(parent)}\.[^.]*" if parent else re.escape(key))
    others = [word for word in overrides if is_assignment(word) and not siblings.fullmatch(key_of(word))]
    if folder := user_folder(overrides):
        others.append(f"hydra.searchpath=['file://{folder.resolve()}']")
    try:
        return compose_anywhere(config_name, others)
    except UNCOMPOSED:
        return compose_anywhere(config_name, [])


def user_folder(words: Sequence[str]) -> Path | None:
    """Return the folder that a command line gives as --config-dir, None for none."""
    found = re.search(r"(?:--config-dir|-cd)[ =](\S+)", " ".join(words))
    return Path(found[1]) if found else None


def is_assignment(word: str) -> bool:
    """Return whether a word of a command line is KEY=VALUE, and no option and no option's value."""
    return "=" in word and not word.startswith("-")


def key_of(override: str) -> str:
    """Return the key, or the group, of an override."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def unknown_key(key: str, cfg: DictConfig, verb: str) -> str:
    """Return the sentence for a key that a config doesn't have.

    Args:
        key: the key, with dots.
        cfg: the config without it.
        verb: whose config it is.
    """
    for part, choice in {"launcher": "joblib", "sweeper": "optuna"}.items():
        if key.startswith(f"hydra.{part}."):
            return f"{key} is set, but the {part} has no such key: choose one too, hydra/{part}={choice}"
    if key.startswith("hydra."):
        return f"Hydra has no {key}: see --cfg hydra"
    if verb == "study" and (its := part_of_study(key)):
        return f"{key} is set, but a study has none: put it into the list study.{its}, see conf/study/"
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if parent and not isinstance(node, DictConfig):
        return unknown_group(key, parent, cfg)
    if not parent and verb != "train" and name in known_keys("train"):
        return f"{name} is set, but {verb} has no {name}, which belongs to training: leave it out"
    siblings = [str(k) for k in node if not str(k).startswith("_")]
    if takes(node, name):
        return f"{key} isn't in the config, but {parent} takes {name}: put a + before it, +{key}=VALUE"
    near = get_close_matches(name, siblings, n=2, cutoff=0.7)
    near = [f"{parent}.{n}".lstrip(".") for n in near] or elsewhere(name, cfg)
    others = f"it has {', '.join(sorted(siblings))}" if siblings else "leave it out"
    advice = f"did you mean {' or '.join(near)}?" if near else others
    return f"{key} is set, but {parent or verb} has no {name}: {advice}"


def part_of_study(key: str) -> str | None:
    """Return which of a study's lists of overrides a key belongs to, None for neither."""
    first = key.partition(".")[0]
    for verb in ("evaluate", "train"):
        if first == verb or first in known_keys(verb):
            return verb
    return None


def unknown_group(key: str, parent: str, cfg: DictConfig) -> str:
    """Return the sentence for a key in a group that isn't there."""
    group = parent.partition(".")[0]
    if group in cfg and cfg[group] is None:
        return f"{key} is set, but no {group} is chosen: give {group}=NAME too"
    near = elsewhere(key.rpartition(".")[2], cfg)
    advice = f"did you mean {' or '.join(near)}?" if near else "leave it out"
    return f"{key} is set, but there is no {parent}: {advice}"


def takes(node: DictConfig, name: str) -> bool:
    """Return whether the class that a config names takes an argument of this name."""
    try:
        return TARGET in node and name in inspect.signature(callable_of(node[TARGET], "")).parameters
    except (ConfigError, ValueError):
        return False


def elsewhere(name: str, cfg: DictConfig) -> list[str]:
    """Return the keys of a config, with dots, that end with this name, the outer ones first, at most 3."""
    ending = re.compile(rf".*[._]{re.escape(name)}")
    keys = filter(ending.fullmatch, dotted_keys(OmegaConf.to_container(cfg)))
    return sorted(keys, key=lambda key: key.count("."))[:3]


def dotted_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a config and of those in it, with dots."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if not str(key).startswith("_"):
            yield f"{prefix}{key}"
            yield from dotted_keys(value, f"{prefix}{key}.")


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return a question for the name that is most like this one, or nothing."""
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}? " if near else ""
