"""What commands cost as whole processes: start-up and memory."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_pairs import in_turn

ROOT = Path(__file__).parents[2]
IMPORTS = "import torch, lightning.pytorch"
FIRST_STEP = """
import os, sys
from lit_diffusion.train.module import LitDiffusion
LitDiffusion.on_train_batch_end = lambda *_: os._exit(0)
from lit_diffusion.common.cli import command
command("train")
"""
STEPS = r"""
import re, sys, torch
sys.path[:0] = ["tests/oracles", "tests/tools"]
from bench_pairs import BATCH, Step
from tutorial1 import Tutorial1UNet, training_step
def peak():  # getrusage's would start at the bench's own
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
before = peak()
if sys.argv[1] == "ours":
    step = Step(torch.device("cpu"), "model=attn_unet", "schedule=linear", "prediction=eps", "optimizer=adam")
else:
    network, x = Tutorial1UNet(), torch.rand(BATCH, 1, 28, 28) * 2 - 1
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    step = lambda: training_step(network, optimizer, x, torch.linspace(0.99, 0.01, 1000))
for _ in range(3): step()
print((peak() - before) // 1024)
"""


def run(*command: str) -> str:
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


def helps(rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of --help, and of importing torch, in turn."""
    return in_turn(lambda: run("train.py", "--help"), lambda: run("-c", "import torch"), rounds)


def first_steps(rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds from start to the end of the first step, and of importing torch and Lightning."""
    training = ["-c", FIRST_STEP, f"hydra.run.dir={tempfile.mkdtemp()}", "data.batch_size=1"]
    return in_turn(lambda: run(*training), lambda: run("-c", IMPORTS), rounds)


def memory(side: str) -> int:
    """Return the MiB that three steps add to what a process has after its imports."""
    return int(run("-c", STEPS, side))
