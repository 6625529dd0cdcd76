"""What a run is made of, in words and numbers."""

import subprocess
from pathlib import Path

import torch

from lit_diffusion.train.module import LitDiffusion


def describe(module: LitDiffusion) -> str:
    """Return the parts and the size of the model in a line."""
    denoiser = module.denoiser
    parts = (type(part).__name__ for part in (denoiser.network, denoiser.schedule, denoiser.prediction))
    return f"{' / '.join(parts)}, {count_parameters(module):,} parameters"


def count_parameters(module: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())


def git_commit() -> str | None:
    """Return the commit of this package's folder, None if it isn't under git."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
