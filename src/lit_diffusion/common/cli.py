"""The command lines of the project. Imports nothing heavy, so that --help is quick."""

import io
import os
import runpy
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import FrameType

import hydra
from omegaconf import DictConfig, OmegaConf

from lit_diffusion.common.compose import CONFIG_DIR, UNCOMPOSED, check_keys, explain_composing
from lit_diffusion.common.errors import explain
from lit_diffusion.common.log import log
from lit_diffusion.common.multirun import in_multirun, run_once, summary
from lit_diffusion.common.overrides import SHORTCUTS, parted, unclear

# Each has a folder here and a file in conf/; its run.py has main(cfg), what the command line does.
VERBS = ("train", "sample", "evaluate", "edit", "study", "figures", "export", "features")


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
    options, overrides = parted(sys.argv[1:])
    if verb in SHORTCUTS and overrides and "=" not in overrides[0] and overrides[0][0] != "~":
        overrides[0] = f"{SHORTCUTS[verb]}={overrides[0]}"
    sys.argv[1:] = words = [*options, *overrides]  # else Hydra wouldn't read what follows an option
    if sentence := unclear(verb, words):
        sys.exit(f"error: {sentence}")
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 gets ? instead
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    failed = []

    def work(cfg: DictConfig) -> float | None:
        check_keys(cfg, verb)
        return import_module(f"lit_diffusion.{verb}.run").main(cfg)

    @hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name=verb)
    def job(cfg: DictConfig) -> float | None:
        if not full:
            os.environ.pop("HYDRA_FULL_ERROR", None)
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
    os.environ["HYDRA_FULL_ERROR"] = "1"  # what can't be composed is raised, not printed
    try:
        job()
    except UNCOMPOSED as error:
        if full:
            raise
        sys.exit(f"error: {explain_composing(error, verb, words)}")
    finally:
        failed += summary()
    sys.exit(1 if failed else 0)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does, with an exit status of its own."""


def terminate(number: int, frame: FrameType | None) -> None:
    """Raise Terminated; for SIGTERM."""
    raise Terminated
