"""Multiruns: what each job leaves, how one that was stopped goes on, the table at the end."""

import json
import signal
from pathlib import Path

import torch
from commands import DIGITS, ROOT, TINY
from forked import run_script

TRAIN = str(ROOT / "train.py")
SMALL = [
    *DIGITS,
    *TINY["small_unet"],
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "data.batch_size=16",
    "callbacks.samples=null",
    "callbacks.last.every_n_train_steps=2",
    "logger=csv",
    "hydra.sweep.dir=sweep",
]
SIX = ["-m", *SMALL, "schedule=linear,cosine,flow", "seed=0,1"]

# The command line, killed in the fourth step of its third training.
DYING = """
import os, signal
from lit_diffusion.common.cli import command
from lit_diffusion.train.module import LitDiffusion
forward, starts = LitDiffusion.training_step, []
def step(self, batch, batch_idx):
    starts.append(self.global_step == 0)
    if sum(starts) == 3 and self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, batch, batch_idx)
LitDiffusion.training_step = step
command("train")
"""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_multirun_that_was_killed_goes_on(tmp_path):
    """In its third of six jobs: two aren't done again, the third goes on, and all end as they would have."""
    (tmp_path / "dying.py").write_text(DYING)
    killed = run_script("dying.py", *SIX, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "sweep").rglob("job.json"))) == 2
    result = run_script(TRAIN, *SIX, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("done before") == 2
    assert result.stdout.count("13,796 parameters") == 4
    jobs = [json.loads((tmp_path / "sweep" / str(n) / "job.json").read_text()) for n in range(6)]
    assert [job["failure"] for job in jobs] == [None] * 6
    assert len({job["value"] for job in jobs}) == 6
    straight = [*SMALL, "schedule=cosine", "seed=0", "hydra.run.dir=alone"]
    assert run_script(TRAIN, *straight, cwd=tmp_path).returncode == 0
    torch.testing.assert_close(weights(tmp_path / "sweep" / "2"), weights(tmp_path / "alone"), atol=0, rtol=0)


def test_a_multirun_ends_in_a_table(tmp_path):
    """What was varied, what each job returned, and where it is; failures with their reasons below."""
    result = run_script(
        TRAIN, "-m", *SMALL, "trainer.gradient_clip_val=1.0,-1", "seed=3", cwd=tmp_path, COLUMNS="120"
    )
    assert result.returncode == 1
    table = [line for line in result.stdout.splitlines() if "gradient_clip" in line and "│" in line]
    assert "val/loss" in result.stdout
    assert len(table) == 2
    assert "seed=3" not in "".join(table)
    assert "failed" in table[1]
    assert "1 of 2 jobs failed:" in result.stderr
    assert "gradient_clip_val=-1" in result.stderr.splitlines()[-1]


def test_another_command_does_not_go_on_in_a_multiruns_folder(tmp_path):
    first = run_script(TRAIN, "-m", *SMALL, "seed=0,1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    other = run_script(TRAIN, "-m", *SMALL, "seed=2,3", cwd=tmp_path)
    assert other.returncode == 1
    assert "sweep/0 holds a job of other overrides" in other.stderr
    assert (
        torch.load(tmp_path / "sweep" / "0" / "checkpoints" / "last.ckpt", weights_only=True)[
            "hyper_parameters"
        ]["seed"]
        == 0
    )


def test_other_commands_too(tmp_path):
    sampling = ["-m", "lit_diffusion.sample", "-m", "n=1", "steps=1", "gif=false", "seed=0,1"]
    for _ in range(2):
        result = run_script(*sampling, "hydra.sweep.dir=sweep", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert result.stdout.count("done before") == 2
