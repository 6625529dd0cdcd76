"""Kill trainings at random moments, and see that each, resumed, ends as the one that nothing disturbed.

    make kill-test [N=100]

The last checkpoint must be equal bit for bit, and so must every logged row but for the times; some are
killed twice.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from commands import DIGITS, ROOT, TINY
from forked import TIMEOUT, run_script

from lit_diffusion.checkpoint import read_checkpoint
from lit_diffusion.figures.curves import continued, read_metrics
from lit_diffusion.train.resume import epochs_trained

EPOCHS = 3
COMMON = [
    *DIGITS,
    "trainer=cpu",
    f"trainer.max_epochs={EPOCHS}",
    "trainer.log_every_n_steps=2",
    "data.batch_size=32",  # 8 batches an epoch
    "data.eval_batch_size=30",
    "optimizer.lr=1e-2",
    "callbacks.samples.n=4",
    "callbacks.last.every_n_train_steps=4",
    "sampler.steps=2",
    "logger=csv",
]
SMALL = [*COMMON, *TINY["small_unet"]]
RUNS = {
    "plain": [*SMALL, "lr_scheduler=warmup_cosine"],
    "labels": [*SMALL, "model.num_classes=10", "lr_scheduler=exponential"],
    "accumulated": [*SMALL, "trainer.accumulate_grad_batches=2", "lr_scheduler=warmup_cosine"],
    "bfloat16": [*SMALL, "trainer.precision=bf16-mixed"],
    "batch_norm": [*COMMON, "model=fc_unet", *TINY["fc_unet"]],
    "muon": [*SMALL, "optimizer=muon", "model.widths=[16,16]"],
    "wandb": [*SMALL, "logger=[wandb,csv]"],
}
TIMES = ("perf/images_per_second",)  # columns that no two runs share


def train(folder: Path, name: str, *overrides: str, kill_after: float | None = None) -> float:
    """Train in ``folder``/``name``, kill the process after so many seconds; return the seconds it took."""
    start = time.perf_counter()
    command = [str(ROOT / "train.py"), *overrides, f"hydra.run.dir={name}"]
    result = run_script(*command, cwd=folder, timeout=TIMEOUT if kill_after is None else kill_after)
    if kill_after is None and result.returncode != 0:
        sys.exit(f"{name} failed: {result.stderr}")
    return time.perf_counter() - start


def end(folder: Path, *names: str) -> tuple[dict, list[dict[str, str]]]:
    """Return what a run leaves, of which parts lie in several folders: its last state, its logged rows."""
    saved = torch.load(folder / names[-1] / "checkpoints" / "last.ckpt", weights_only=True)
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "train_loss")
    state = {key: saved[key] for key in kept} | {"ema": saved["callbacks"]["ema"]}
    rows: list[dict[str, str]] = []
    for name in names:
        if not (folder / name / "csv" / "metrics.csv").is_file():
            continue
        rows = continued(rows, read_metrics(str(folder / name)))
    return state, [{k: v for k, v in row.items() if v and k not in TIMES} for row in rows]


def different(one: object, other: object, where: str = "") -> str | None:
    """Return where two states differ first, None if they don't."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and torch.equal(one, other)
        return None if same else where
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return where
        return next((d for key in one if (d := different(one[key], other[key], f"{where}/{key}"))), None)
    if isinstance(one, (list, tuple)):
        if not isinstance(other, (list, tuple)) or len(one) != len(other):
            return f"{where}, {len(one)} and {len(other)} long"
        pairs = enumerate(zip(one, other, strict=True))
        return next((d for k, (a, b) in pairs if (d := different(a, b, f"{where}/{k}"))), None)
    return None if one == other else f"{where}: {one} and {other}"


def undisturbed(folder: Path, name: str) -> tuple[float, tuple[dict, list[dict[str, str]]]]:
    """Return how long a run takes that nothing disturbs, and what it leaves."""
    train(folder, f"{name}-warm", *RUNS[name])
    seconds = train(folder, f"{name}-straight", *RUNS[name])
    return seconds, end(folder, f"{name}-straight")


def killed(
    folder: Path, name: str, number: int, seconds: float, draw: random.Random
) -> tuple[float, list[str]]:
    """Kill a run that takes so many seconds, and go on to its end; kill some twice.

    Returns:
        After how many seconds it was killed, and the folders of its parts.
    """
    parts = [f"{number}-{name}"]
    first = draw.uniform(0, seconds)
    train(folder, parts[0], *RUNS[name], kill_after=first)
    for again in (draw.random() < 0.3, False):
        last = folder / parts[-1] / "checkpoints" / "last.ckpt"
        if last.is_file() and epochs_trained(read_checkpoint(last)) == EPOCHS:
            break  # killed after its last checkpoint
        ckpt = [f"ckpt={last}"] if last.is_file() else []
        if not ckpt:
            parts = parts[:-1]
        parts.append(f"{number}-{name}-{len(parts)}-{again}")
        kill_after = draw.uniform(0, seconds) if again else None
        train(folder, parts[-1], *RUNS[name], *ckpt, kill_after=kill_after)
        if not again:
            break
    return first, parts


def main(n: int, seed: int = 0) -> None:
    folder, draw, failed = Path(tempfile.mkdtemp()), random.Random(seed), 0
    straight = {name: undisturbed(folder, name) for name in RUNS}
    for number in range(n):
        name = draw.choice([*RUNS])
        seconds, expected = straight[name]
        first, parts = killed(folder, name, number, seconds, draw)
        wrong = different(expected, end(folder, *parts))
        failed += wrong is not None
        print(f"{number + 1}: {name}, killed after {first:.2f} s: {wrong or 'equal'}", flush=True)
    print(f"{n - failed} of {n} equal")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
