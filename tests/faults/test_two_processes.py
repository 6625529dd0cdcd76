"""Signals to a training of two processes, as batch systems and terminals send them."""

import pytest
import torch
from commands import DIGITS, TINY, run_python

pytestmark = pytest.mark.slow  # each starts two processes, and resumes with two

OPTIONS = [
    *DIGITS,
    *TINY["small_unet"],
    "trainer=ddp_cpu",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=6",
    "data.batch_size=16",
    "data.eval_batch_size=30",
    "callbacks.samples=null",
    "callbacks.last.every_n_train_steps=2",
    "logger=csv",
]

# FAULT is SIGNAL:RANK+RANK: these processes get the signal in the fourth step. Lightning starts the other
# process by the same command, so that the fault is told by the environment.
FAULTY = """
import os, signal
from lit_diffusion.common.cli import command
from lit_diffusion.train.module import LitDiffusion
name, _, ranks = os.environ.get("FAULT", "").partition(":")
forward = LitDiffusion.training_step
def step(self, batch, batch_idx):
    if self.global_step == 3 and str(self.global_rank) in ranks.split("+"):
        os.kill(os.getpid(), getattr(signal, name))
    return forward(self, batch, batch_idx)
LitDiffusion.training_step = step
command("train")
"""


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """training(name, *overrides, fault=...): a run of two processes, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "faulty.py").write_text(FAULTY)

    def trained(name: str, *overrides: str, fault: str = ""):
        command = ["faulty.py", *OPTIONS, *overrides, f"hydra.run.dir={name}"]
        return run_python(*command, cwd=folder, FAULT=fault), folder / name / "checkpoints" / "last.ckpt"

    return trained


@pytest.fixture(scope="module")
def straight(training):
    result, last = training("straight")
    assert result.returncode == 0, result.stderr
    return torch.load(last, weights_only=True)


@pytest.mark.parametrize(
    "fault, status, step",
    [
        ("SIGTERM:0+1", 143, 4),
        ("SIGTERM:0", 143, 4),
        ("SIGINT:0+1", 130, 4),
        ("SIGKILL:1", None, 2),
        ("SIGKILL:0", None, 2),
    ],
)
def test_both_end_and_go_on(training, straight, fault, status, step):
    """A batch system's signal to both or to the launcher alone; Ctrl-C; one that is killed ends the other."""
    result, last = training(fault.replace(":", "-"), fault=fault)
    assert result.returncode == status if status else result.returncode != 0, result.stderr
    assert torch.load(last, weights_only=True)["global_step"] == step
    resumed, end = training(f"{fault}-resumed".replace(":", "-"), f"ckpt={last}")
    assert resumed.returncode == 0, resumed.stderr
    ended = torch.load(end, weights_only=True)
    assert ended["global_step"] == straight["global_step"] == 12
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ended[key], straight[key], atol=0, rtol=0)
