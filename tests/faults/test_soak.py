"""Many short epochs with all that a run can do: nothing grows, and nothing is left."""

import json
import os
import subprocess
import sys
from statistics import median

import psutil
import pytest
from commands import DIGITS, ROOT, TINY, clean

pytestmark = pytest.mark.slow  # two hundred epochs

OPTIONS = [
    *DIGITS,
    "data.source._target_=digits.Mnist",
    *TINY["small_unet"],
    "model.num_classes=10",
    "callbacks=evaluation",
    "callbacks.evaluation.n=10",
    "callbacks.evaluation.k=2",
    "callbacks.samples.n=4",
    "callbacks.last.every_n_train_steps=3",
    "+callbacks.watch._target_=watch.Watch",
    "sampler.steps=2",
    "trainer=cpu",
    "trainer.max_epochs=200",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "data.batch_size=16",
    "logger=[wandb,csv]",
]

# Notes after each epoch what the process holds.
WATCH = """
import json
from pathlib import Path
import lightning as L
import psutil
class Watch(L.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        own = psutil.Process()
        holds = {
            "memory": own.memory_info().rss,
            "handles": own.num_fds(),
            "threads": own.num_threads(),
            "processes": len(own.children(recursive=True)),
        }
        with Path("watched.jsonl").open("a") as file:
            file.write(json.dumps(holds) + "\\n")
"""


def test_two_hundred_epochs(tmp_path):
    (tmp_path / "watch.py").write_text(WATCH)
    helpers = ROOT / "tests" / "helpers"
    environment = clean(tmp_path, PYTHONPATH=f"{helpers}:{tmp_path}", WANDB_MODE="offline")
    command = [sys.executable, str(ROOT / "train.py"), *OPTIONS, "hydra.run.dir=run"]
    run = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    _, printed = run.communicate()
    assert run.returncode == 0, printed
    epochs = [json.loads(line) for line in (tmp_path / "watched.jsonl").read_text().splitlines()]
    assert len(epochs) == 200
    early, late = epochs[20:60], epochs[-40:]
    for held in epochs[0]:
        before, after = (median(epoch[held] for epoch in part) for part in (early, late))
        assert after <= before * (1.05 if held == "memory" else 1), held
    assert not [pid for pid in psutil.pids() if session_of(pid) == run.pid]


def session_of(pid: int) -> int | None:
    """Return the session of a process, None if it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
