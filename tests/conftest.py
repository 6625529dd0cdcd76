import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from lit_diffusion.common.cli import CONFIG_DIR
from lit_diffusion.train.run import train

ROOT = Path(__file__).parents[1]

DIGITS = ["data.source._target_=digits.Digits", "data.val_size=60"]
TINY = {
    "small_unet": ["model.widths=[8,8]", "model.blocks=[1,1]", "model.heads=2", "model.groups=4"],
    "attn_unet": [
        "model.down_channels=[8,8,8,8]",
        "model.mid_channels=[8,8,8]",
        "model.up_channels=[8,8,8,8]",
        "model.time_width=8",
        "model.heads=2",
        "model.groups=4",
    ],
    "fc_unet": ["model.width=4"],
    "convnext_unet": ["model.width=4", "model.multipliers=[1,1,2]"],
}


@pytest.fixture(autouse=True)
def one_thread():
    """Two test processes may share two cores, and sums then don't depend on how threads split them."""
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path):
    """config(*overrides): the training config as the command line would compose it, on real digits."""

    def composed(*overrides: str, config_name: str = "train"):
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            data = DIGITS if config_name == "train" else []
            return compose(config_name, [*data, f"out={tmp_path}", *overrides])

    return composed


@pytest.fixture
def trained(config, tmp_path):
    """trained(*overrides): the path of a small checkpoint, by default one that knows labels."""

    def made(*overrides: str):
        options = ["trainer=debug", "model.num_classes=10", "optimizer.lr=1e-2", "callbacks.samples=null"]
        train(config(*options, *TINY["small_unet"], *overrides))
        return tmp_path / "checkpoints" / "last.ckpt"

    return made


def run_python(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """A python command in a process of its own, without the caller's W&B and Hydra settings."""
    environment = clean(cwd, **environment)
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )


def clean(cwd: Path, **environment: str) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    return {
        **own,
        "PYTHONPATH": str(ROOT / "tests"),
        "OMP_NUM_THREADS": "1",
        "WANDB_CONFIG_DIR": str(cwd),
        "NETRC": str(cwd / "netrc"),
        **environment,
    }


@pytest.fixture
def run(tmp_path):
    """run(*command): a python command in an empty folder of its own."""
    return partial(run_python, cwd=tmp_path)
