"""The command lines of the project. Imports nothing heavy, so that --help is quick."""

import io
import os
import re
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import cast

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lit_diffusion.common.configs import override as quoted
from lit_diffusion.common.errors import ConfigError
from lit_diffusion.common.log import log
from lit_diffusion.common.multirun import in_multirun, run_once, summary

PACKAGE = Path(__file__).parents[1]
# A wheel carries conf/ inside the package; in a checkout it stands at the top.
CONFIG_DIR = str(next(p for p in (PACKAGE / "conf", PACKAGE.parents[1] / "conf") if p.is_dir()))

# Each has a folder here and a file in conf/; its run.py has main(cfg), what the command line does.
VERBS = ("train", "sample", "evaluate", "edit", "study", "figures", "export", "features")
OPTIONS = ("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun", "--shell-completion")
OPTIONS_WITH_VALUES = (
    "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p",
    "--info", "-i", "--experimental-rerun",
)  # fmt: skip
SHORTCUTS = {"figures": "figure", "edit": "edit", "study": "study"}  # VERB NAME is short for VERB GROUP=NAME


def main() -> None:
    """Run ``lit-diffusion VERB ...``, which is the same as ``python -m lit_diffusion.VERB ...``."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in VERBS:
        del sys.argv[1]
        runpy.run_module(f"lit_diffusion.{verb}", run_name="__main__", alter_sys=True)
    elif verb in ("-h", "--help"):
        print(usage())
    else:
        sys.exit(f"error: there is no command {verb}: choose one of {', '.join(VERBS)}")


def usage() -> str:
    """Return the list of verbs, each with the first line of its help."""
    headers = {verb: OmegaConf.load(Path(CONFIG_DIR, f"{verb}.yaml")).hydra.help.header for verb in VERBS}
    verbs = "\n".join(f"  {verb:10s}{header.splitlines()[0]}" for verb, header in headers.items())
    return f"usage: lit-diffusion VERB [GROUP=CHOICE] [KEY=VALUE] ...\n\n{verbs}\n\nlit-diffusion VERB --help"


def command(verb: str) -> None:
    """Run the command line of a verb: compose its config from ``sys.argv``, and do what it says.

    A user's mistake is printed as one sentence, and the exit status is 1; in a multirun the other jobs
    still run, and those that failed are listed at its end. HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    if verb in SHORTCUTS and len(sys.argv) > 1 and not sys.argv[1].startswith("-") and "=" not in sys.argv[1]:
        sys.argv[1] = f"{SHORTCUTS[verb]}={sys.argv[1]}"
    for find in (partial(unclear_word, verb), partial(unclear_override, verb), unclear_folder):
        if unclear := find(sys.argv[1:]):
            sys.exit(f"error: {unclear}")
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 gets ? instead
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    failed = []

    def work(cfg: DictConfig) -> float | None:
        check_keys(cfg, verb)
        return import_module(f"lit_diffusion.{verb}.run").main(cfg)

    @hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name=verb)
    def job(cfg: DictConfig) -> float | None:
        full = os.environ.get("HYDRA_FULL_ERROR") == "1"
        try:
            return run_once(cfg, work, explain) if in_multirun() and not full else work(cfg)
        except KeyboardInterrupt as stop:
            sys.exit(143 if isinstance(stop, Terminated) else 130)
        except Exception as error:
            if full or (sentence := explain(error)) is None:
                raise
            log.error(f"error: {sentence}")
            failed.append(sentence)
            return None

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    try:
        job()
    finally:
        failed += summary()
    sys.exit(1 if failed else 0)


def unclear_word(verb: str, words: Sequence[str]) -> str | None:
    """Return the sentence for a word of a command line that is neither an override nor an option."""
    if "=" in words:
        return "= stands alone: write KEY=VALUE without spaces"
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        if word.startswith("--") and name not in (*OPTIONS, *OPTIONS_WITH_VALUES):
            return f"{word} is no option: give {name[2:].replace('-', '_')}={value or 'VALUE'}"
        if not equals and word[:1] not in "-~" and before not in OPTIONS_WITH_VALUES:
            key = "ckpt" if word.endswith((".ckpt", ".safetensors")) else SHORTCUTS.get(verb, "KEY")
            return f"{word} is no override: give {quoted(key, word)}"
    if {"steps", "sampler.steps"} <= {word.partition("=")[0] for word in words}:
        return "steps and sampler.steps mean the same, and both are given: leave one out"
    return None


def unclear_override(verb: str, overrides: Sequence[str]) -> str | None:
    """Return the sentence for an override that Hydra refuses in words that lead nowhere, None for none."""
    for override in overrides:
        key, _, value = override.partition("=")
        if value.lstrip("\"'").startswith("~/"):
            return f"{key} is {value}, and only a shell knows what ~ is: write the whole path, $HOME/..."
        if key == "hydra.job.chdir" and value.lower() == "true":
            return "hydra.job.chdir is true, and data/ would be looked for in each run's folder: leave it out"
        if key in ("hydra.run.dir", "hydra.sweep.dir") and (not value or Path(value).is_file()):
            return f"{key} is {value!r}: give the path of a folder"
        if is_assignment(override) and value[:1] not in "[{" and not is_grammatical(override):
            return f"{override} has a character that Hydra has a use for: give {quoted(key, value)}"
    places = [n for n, override in enumerate(overrides) if is_assignment(override)]
    for n, option in enumerate(overrides):
        if option.startswith("-") and places and places[0] < n < places[-1]:
            return f"{option} stands between overrides: put it before all of them"
    for override in overrides:
        key, _, value = override.partition("=")
        if value in ("", "null") and "=" in override and Path(CONFIG_DIR, key).is_dir():
            choices = ", ".join(path.stem for path in config_files(key))
            return f"{key} is null: choose one of {choices}, or leave it out"
    if verb in ("sample", "evaluate") and not any(override.startswith("sampler=") for override in overrides):
        for override in overrides:
            key, _, value = override.lstrip("+").partition("=")
            if key.startswith("sampler."):
                own = f"steps={value}" if key == "sampler.steps" else "sampler=NAME too"
                return f"{key} is {value}, but no sampler is chosen: give {own}"
    return None


def unclear_folder(options: Sequence[str]) -> str | None:
    """Return the sentence for a file in the user's --config-dir that can't be read, or would be ignored."""
    text = " ".join(options)
    folder = re.search(r"(?:--config-dir|-cd)[ =](\S+)", text)
    for path in sorted(Path(folder[1]).rglob("*.yaml")) if folder else []:
        try:
            content = OmegaConf.load(path)
        except (YAMLError, UnicodeDecodeError, OSError) as error:
            return f"{path} can't be read ({' '.join(str(error).split())}): mend it"
        if not isinstance(content, DictConfig):
            return f"{path} holds a list: give keys with values"
        whole = path.read_text(encoding="utf-8").startswith("# @package _global_")
        if path.parent.name in ("experiment", "debug") and not whole:
            return f"{path} would be ignored: let it begin with the line # @package _global_"
    return None


def check_keys(cfg: DictConfig, verb: str) -> None:
    """Raise ConfigError if the config has a key that the verb doesn't know, and would ignore."""
    known = known_keys(verb)
    for key in map(str, cfg):
        if key not in known:
            near = get_close_matches(key, known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}"
            raise ConfigError(f"{key} is set, but {verb} has no {key}: {advice}")


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


def is_grammatical(override: str) -> bool:
    """Return whether an override is one in Hydra's grammar."""
    try:
        return bool(OverridesParser.create().parse_override(override))
    except HydraException:
        return False


def is_assignment(override: str) -> bool:
    """Return whether a word of a command line is KEY=VALUE, and no option and no option's value."""
    return "=" in override and not override.startswith("-")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does, with an exit status of its own."""


def terminate(number: int, frame: FrameType | None) -> None:
    """Raise Terminated; for SIGTERM."""
    raise Terminated


def config_files(group: str) -> list[Path]:
    """Return a group's files, in conf/ and in the folder of the user's --config-dir."""
    folders = [CONFIG_DIR]
    if GlobalHydra.instance().is_initialized():
        paths = GlobalHydra.instance().config_loader().get_search_path().get_path()
        folders += [p.path.removeprefix("file://") for p in paths if p.path.startswith("file://")]
    return sorted({path for folder in folders for path in Path(folder, group).glob("*.yaml")})


def check_chosen(cfg: Mapping[str, object], group: str) -> None:
    """Raise ConfigError unless one of the group's choices was made."""
    if cfg.get(group) is None:
        choices = sorted(path.stem for path in config_files(group))
        raise ConfigError(f"{group} is missing: choose {group}=NAME, NAME being one of {', '.join(choices)}")


def composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Return the config that a command line of these overrides means."""
    try:
        if GlobalHydra.instance().is_initialized():  # by the command that runs now
            return compose(config_name, [*overrides])
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            return compose(config_name, [*overrides])
    except (HydraException, ValueError) as error:
        sentence = " ".join(str(error).split())
        raise ConfigError(f"{sentence} (overrides of {config_name}: {' '.join(overrides)})") from None


def explain(error: Exception) -> str | None:
    """Return the sentence for an error that the user can fix, None for a fault of the program."""
    if isinstance(error, ConfigError):
        return str(error)
    # Hydra's and OmegaConf's own words for a wrong value, less their stack of causes.
    if isinstance(error, (InstantiationException, OmegaConfBaseException)):
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
