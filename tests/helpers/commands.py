"""Commands of the project as tests run them: small networks, real digits, a clean environment."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

DIGITS = ["data.source._target_=digits.Digits", "data.val_size=60"]
TRUST = ["trust=[digits.Digits,digits.Mnist,digits.Few,digits.FewSevens]"]  # of checkpoints trained on them
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
    "dit": ["model.width=16", "model.depth=1", "model.heads=2"],
    "uvit": ["model.width=16", "model.depth=3", "model.heads=2"],
    "unet2d": ["model.widths=[8,8,8]", "model.blocks=1", "model.groups=4"],
}


def run_python(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a python command in a process of its own, without the caller's W&B and Hydra settings."""
    environment = clean(cwd, **environment)
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )


def clean(cwd: Path, **environment: str) -> dict[str, str]:
    """Return an environment without the caller's W&B and Hydra settings, with the digits on its path."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    return {
        **own,
        "PYTHONPATH": str(ROOT / "tests" / "helpers"),
        "OMP_NUM_THREADS": "1",
        "WANDB_CONFIG_DIR": str(cwd),
        "NETRC": str(cwd / "netrc"),
        **environment,
    }
