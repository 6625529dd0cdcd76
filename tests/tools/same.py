"""Compare this working tree with another commit, bit by bit: ``make same REV=HEAD``.

Both train a few steps of three recipes on the CPU, score 50 samples of each, and sample the model that
ships. Weights, their average, the optimizer's state, the pictures and the scores must be equal: the proof
that a refactoring changed no number.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
DIGITS = next(path.parent for path in (ROOT / "tests").rglob("digits.py"))
RECIPES = ("quickstart", "tutorial1", "tutorial3")
FEW_STEPS = [
    "data.source._target_=digits.Mnist",
    "data.val_size=60",
    "data.batch_size=8",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "logger=csv",
    "callbacks.samples.n=10",
    "sampler.steps=4",
]
FEW_SAMPLES = ["n=50", "cas_images=0", "bits_n=2", "bits_steps=3", "logger=none", "gif=false"]


def make(checkout: Path, out: Path) -> None:
    """Run the commands of a checkout, each writing into a folder of ``out``."""
    for recipe in RECIPES:
        run(checkout, "train.py", f"experiment={recipe}", *FEW_STEPS, f"hydra.run.dir={out}/{recipe}")
        ckpt = f"ckpt={out}/{recipe}/checkpoints/last.ckpt"
        run(checkout, "-m", "lit_diffusion.evaluate", ckpt, *FEW_SAMPLES, f"out={out}/{recipe}/scored")
    run(checkout, "-m", "lit_diffusion.sample", "n=20", "steps=4", "gif=false", f"out={out}/shipped")


def run(checkout: Path, *command: str) -> None:
    """Run python in a checkout, on one thread, with the digits of this one; its output if it fails."""
    own = {"PYTHONPATH": f"{checkout}/src:{DIGITS}", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command], cwd=checkout, env={**os.environ, **own}, capture_output=True, text=True
    )
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed in {checkout}:\n{result.stdout}{result.stderr}")


def numbers(out: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of everything that must be equal."""
    for ckpt in sorted(out.glob("*/checkpoints/last.ckpt")):
        saved = torch.load(ckpt, weights_only=True)
        kept = {
            "weights": saved["state_dict"],
            "average": saved["callbacks"].get("ema", {}),
            "optimizer": saved["optimizer_states"],
        }
        yield from leaves(ckpt.parts[-3], kept)
    for picture in sorted(out.glob("**/*.png")):
        yield str(picture.relative_to(out)), torch.from_numpy(np.asarray(Image.open(picture)).copy())
    for scored in sorted(out.glob("*/scored/evaluation.json")):
        result = json.loads(scored.read_text())
        yield from leaves(f"{scored.parts[-3]}/scored", {key: result[key] for key in ("scores", "floor")})


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors and numbers of nested dicts and lists, each with its path as a name."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(f"{name}/{key}", part)
    else:
        yield name, value


def differences(one: Path, other: Path) -> list[str]:
    """Name what differs between the two folders, or stands in one alone."""
    ours, theirs = dict(numbers(one)), dict(numbers(other))
    if not ours:
        raise LookupError(f"nothing was made in {one}")
    print(f"{len(ours)} tensors, pictures and scores compared")
    return sorted(ours.keys() ^ theirs.keys()) + [
        name for name in ours if name in theirs and not equal(ours[name], theirs[name])
    ]


def equal(one: Any, other: Any) -> bool:
    """Return whether two values are the same, bit by bit for tensors."""
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def main(revision: str) -> None:
    """Compare the working tree with a revision; exit with 1 and the names of what differs."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder, "checkout")
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(checkout), revision], cwd=ROOT, check=True
        )
        try:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(make, [ROOT, checkout], [Path(folder, "here"), Path(folder, "there")]))
            found = differences(Path(folder, "here"), Path(folder, "there"))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(checkout)], cwd=ROOT, check=True)
    if found:
        sys.exit(f"{len(found)} differ from {revision}: {', '.join(found[:20])}")
    print(f"equal to {revision}, bit for bit")


if __name__ == "__main__":
    main(sys.argv[1])
