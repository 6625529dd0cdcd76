"""Scripts in processes forked from one that has imported the libraries: importing is most of a short run."""

import atexit
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from commands import clean
from wandb.sdk.data_types._private import MEDIA_TMP

from lit_diffusion.common.cli import VERBS

TIMEOUT = 120.0  # seconds, and
MEMORY = 24 << 30  # bytes of address space, that a command may take

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "torchmetrics",
        "wandb",
        "rich.progress",
        *(f"lit_diffusion.{verb}.run" for verb in VERBS),
        *(f"lit_diffusion.models.{network}_unet" for network in ("attn", "convnext", "fc", "small")),
        "lit_diffusion.figures.tutorials",
    ]
)


def run_script(
    script: str, *arguments: str, cwd: Path, timeout: float = TIMEOUT, **environment: str
) -> subprocess.CompletedProcess:
    """As run_python, for a file, or for "-m" and a module; killed after so many seconds."""
    for name in ("stdout", "stderr"):
        (cwd / name).write_bytes(b"")
    process = FORKS.Process(target=_run, args=(script, arguments, cwd, clean(cwd, **environment)))
    process.start()
    process.join(timeout)
    process.kill()
    process.join()
    printed = [(cwd / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess([script, *arguments], process.exitcode, *printed)


def _run(script: str, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str]) -> None:
    """Run a script in this process, which was forked for it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    MEDIA_TMP._finalizer.detach()
    MEDIA_TMP.name = tempfile.mkdtemp()  # W&B's folder, removed at the end: not the one of all forks
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the caller ignores it
    torch.set_num_threads(1)
    sys.argv = [script, *arguments]
    try:
        if script == "-m":
            sys.argv = [*arguments]  # the first becomes the file
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a fork leaves out
