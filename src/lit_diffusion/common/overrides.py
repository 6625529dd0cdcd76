"""Words of a command line that Hydra would refuse in words that lead nowhere, or wouldn't refuse."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from lit_diffusion.common.compose import (
    CONFIG_DIR,
    compose_anywhere,
    config_files,
    dotted_keys,
    is_assignment,
    key_of,
    unknown_key,
    user_folder,
)
from lit_diffusion.common.configs import override as quoted

OPTIONS = ("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun", "--shell-completion")
OPTIONS_WITH_VALUES = (
    "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p",
    "--info", "-i", "--experimental-rerun",
)  # fmt: skip
SHORTCUTS = {"figures": "figure", "edit": "edit", "study": "study"}  # VERB NAME is short for VERB GROUP=NAME
MOVED = {  # keys of earlier versions
    "schedule.logit_std": "times have a group of their own: give times=logit_normal times.std=1.0",
    "schedule.logit_mean": "times have a group of their own: give times=logit_normal times.mean=0.5",
    "module.min_snr_gamma": "weightings have a group of their own: give weighting=min_snr weighting.gamma=5",
}
OF_A_MODEL = ("steps", "sampler", "n", "y", "prompt", "bits_n", "bits_steps", "precision")  # to be evaluated


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of a command line, with their values, and its overrides."""
    options: list[str] = []
    overrides: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        (options if word.startswith("-") or before in OPTIONS_WITH_VALUES else overrides).append(word)
    return options, overrides


def unclear(verb: str, words: Sequence[str]) -> str | None:
    """Return the sentence for a command line that can't mean what its user wants, None for none.

    Args:
        verb: of the command line.
        words: what follows it.
    """
    return (
        unclear_place()
        or unclear_words(verb, words)
        or next(filter(None, map(partial(unclear_override, verb), words)), None)
        or unclear_combination(verb, words)
        or unclear_folder(words)
    )


def unclear_place() -> str | None:
    """Return the sentence for a working folder in which no command can work."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        return "the folder in which this command was started is gone: start it in another one"
    if "${" in here:
        return f"this folder is {here}, and Hydra reads what follows ${{: start the command in another one"
    return None


def unclear_words(verb: str, words: Sequence[str]) -> str | None:
    """Return the sentence for a word that is neither an override nor an option."""
    if "=" in words:
        return "= stands alone: write KEY=VALUE without spaces"
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if re.search(r"^[\w.]+ +=|^[\w.]+= | ", word) and re.match(r"[\w./]+ *=? +\S+$", word):
            key, value = re.split(r"[ =]+", word, maxsplit=1)
            return f"{word!r} has a space: write {quoted(key, value)}"
        if word.startswith("--") and name not in (*OPTIONS, *OPTIONS_WITH_VALUES):
            key = name[2:].replace("-", "_")
            cfg = compose_anywhere(verb, [])
            known = key in dotted_keys(OmegaConf.to_container(cfg))
            advice = f"give {key}={value or 'VALUE'}" if known else unknown_key(key, cfg, verb)
            return f"{word} is no option, and a key has no dashes: {advice}"
        if not equals and word[:1] not in "-~" and before not in OPTIONS_WITH_VALUES:
            if after and "=" not in after and not after.startswith("-"):
                return f"{word} and {after} stand apart: write {quoted(word, after)}"
            key = "ckpt" if word.endswith((".ckpt", ".safetensors")) else SHORTCUTS.get(verb, "KEY")
            return f"{word} is no override: give {quoted(key, word)}"
    return None


def unclear_override(verb: str, override: str) -> str | None:
    """Return the sentence for one override."""
    key, equals, value = override.partition("=")
    if moved := MOVED.get(key.lstrip("+~")):
        return f"{key} is {value or 'left out'}, but {moved}"
    if value.lstrip("\"'").startswith("~/"):
        return f"{key} is {value}, and only a shell knows what ~ is: write the whole path, $HOME/..."
    if value in ("none", "None", "NONE") and "/" not in key and not Path(CONFIG_DIR, key).is_dir():
        return f"{key} is {value}, a text: for nothing write {key}=null"
    if key == "hydra.job.chdir" and value.lower() == "true":
        return "hydra.job.chdir is true, and data/ would be looked for in each run's folder: leave it out"
    if key == "hydra.sweep.subdir" and "${" not in value:
        return f"{key} is {value}, one folder for all jobs: leave it out"
    if key in ("hydra.run.dir", "hydra.sweep.dir") and (not value or Path(value).is_file()):
        return f"{key} is {value!r}: give the path of a folder"
    if Path(CONFIG_DIR, group := key.lstrip("~")).is_dir():
        optional = group in optional_groups(verb)
        if optional and value == "null":
            return f"{key} is null: for none write ~{group}"
        left_out = value in ("", "null") if equals else key.startswith("~") and not optional
        if left_out or re.fullmatch(r"[-+]?[\d.]+|true|false", value, re.IGNORECASE):
            choices = ", ".join(path.stem for path in config_files(group))
            return f"{group} is {value or 'null'}: choose one of {choices}, or leave it as it was"
    if not is_assignment(override):
        return None
    parsed = parsed_override(override)
    if parsed is None and value[:1] not in "[{":
        if ",," in value or value.endswith(","):
            return f"{override} has nothing between two commas: write VALUE,VALUE"
        if function := re.match(r"(\w+)\(", value):
            return f"{override} calls {function[1]}: choose one of range(0,3), choice(a,b), interval(0,1)"
        return f"{override} has a character that Hydra has a use for: give {quoted(key, value)}"
    if (
        parsed
        and parsed.is_sweep_override()
        and not parsed.is_interval_sweep()
        and not any(True for _ in parsed.sweep_iterator())
    ):
        return f"{override} has no values: write range(FROM,TO), FROM less than TO"
    return None


def optional_groups(verb: str) -> set[str]:
    """Return the groups of which a verb needs no choice."""
    path = Path(CONFIG_DIR, f"{verb}.yaml")
    defaults = cast(Any, OmegaConf.load(path)).get("defaults", []) if path.is_file() else []
    groups = [entry for entry in defaults if isinstance(entry, DictConfig)]
    return {str(group) for entry in groups for group in entry if entry[group] is None}


def unclear_combination(verb: str, words: Sequence[str]) -> str | None:
    """Return the sentence for overrides that don't go together."""
    keys = {key_of(word): word.partition("=")[2] for word in words if is_assignment(word)}
    if {"steps", "sampler.steps"} <= {*keys}:
        return "steps and sampler.steps mean the same, and both are given: leave one out"
    if verb in ("sample", "evaluate") and "sampler" not in keys:
        for key, value in keys.items():
            if key.startswith("sampler."):
                own = f"steps={value}" if key == "sampler.steps" else "sampler=NAME too"
                return f"{key} is {value}, but no sampler is chosen: give {own}"
    if {"input", "image"} <= {*keys}:
        return "input and image are both given, and each is what to edit: leave one out"
    if verb == "edit" and keys.get("edit") in ("anagram", "hybrid", "interpolate"):
        for key in ("input", "image"):
            if key in keys:
                return f"{key} is {keys[key]}, but {keys['edit']} edits no image: leave it out"
    if verb == "features":
        for key in ("batch_size", "val_size", "train_size", "eval_batch_size", "shuffle", "seed"):
            if f"data.{key}" in keys:
                return f"data.{key} is set, but features takes all training images: leave it out, or see fit"
    for word in words:
        parsed = parsed_override(word) if is_assignment(word) and "interval(" in word else None
        if parsed and parsed.is_interval_sweep() and "hydra/sweeper" not in keys:
            return f"{word} is for a search: add -m hydra/sweeper=optuna"
    if verb == "evaluate" and keys.get("samples") not in (None, "null"):
        for key, value in keys.items():
            if value in ("0", "false", "null"):
                continue
            if key in OF_A_MODEL or key.startswith(("sampler.", "guidance.")):
                return f"{key} is set, but samples are scored as they are: leave one of the two out"
    return None


def unclear_folder(options: Sequence[str]) -> str | None:
    """Return the sentence for a file in the user's --config-dir that can't be read, or would be ignored."""
    folder = user_folder(options)
    if folder and Path(CONFIG_DIR, folder.name).is_dir() and any(folder.glob("*.yaml")):
        return f"--config-dir is {folder}, a group's folder: give the one above it, {folder.parent}"
    for path in sorted(folder.rglob("*.yml")) if folder else []:
        return f"{path} would be ignored: name it {path.with_suffix('.yaml').name}"
    for path in sorted(folder.rglob("*.yaml")) if folder else []:
        try:
            content = OmegaConf.load(path)
        except (YAMLError, UnicodeDecodeError, OSError) as error:
            fix = "indent with spaces, not tabs" if "\\t" in str(error) else "mend it"
            if "block" in str(error):
                fix = "give the keys of one level the same number of spaces"
            return f"{path} can't be read ({' '.join(str(error).split())}): {fix}"
        if not isinstance(content, DictConfig):
            return f"{path} holds a list: give keys with values"
        whole = path.read_text(encoding="utf-8").startswith("# @package _global_")
        if path.parent.name in ("experiment", "debug") and not whole:
            return f"{path} would be ignored: let it begin with the line # @package _global_"
        if path.parent.name in ("model", "schedule", "sampler", "study", "figure", "edit", "data") and whole:
            return f"{path} begins with # @package _global_, which only experiments have: leave the line out"
    return None


def parsed_override(override: str) -> Override | None:
    """Return an override as Hydra reads it, None if it is none in Hydra's grammar."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None
